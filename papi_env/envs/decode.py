"""PAPI's own problem: FC kernels of each decode iteration on the PUs or on FC-PIM."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from papi_env.envs.batch import BatchProblem
from papi_env.envs.env import ProblemEnv
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.kernel import FloatArray
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.engine import DISABLED


class DecodeProblem(BatchProblem):
    """One unit for all FC kernels; attention runs where the KV caches are."""

    choices = 1
    features = at.FEATURES
    free_switching = True

    @staticmethod
    def single_space() -> gym.spaces.Discrete:
        """0: PUs; 1: FC-PIM."""
        return gym.spaces.Discrete(2)

    def clairvoyant_costs(self) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
        """Privileged: what every remaining iteration of the current episodes will cost.

        The path of requests and contexts depends on the instance alone, so it is played once on the
        default units, from a copy of the state.

        Returns:
            (costs [T, num_envs, 2] of each unit without switching, infinite where invalid or after the end;
            switch_costs [T, num_envs], what changing the unit before the iteration adds;
            last_units [num_envs], the FC unit of the previous iteration, -1 if none). Reward units.
        """
        twin = self.engine.clone()
        twin.autoreset = DISABLED
        twin.max_steps = 0
        options = self.joint_actions()
        default = int(self.engine.tables.defaults[at.QKV])
        costs, switches = [], []
        active = twin.counters[:, at.DONE] == 0
        while active.any():
            twin.counters[:, at.LAST_FC] = -1  # asks for costs without switching
            row = np.full((self.engine.num_envs, 2), np.inf)
            row[:, options[:, 0]] = twin.reward_cost(*twin.joint_costs(options))
            row[~active] = np.inf
            costs.append(row)
            switches.append(twin.crossing_cost(twin.counters[:, at.RLP] * twin.counters[:, at.TLP]))
            twin.actions[:] = default
            twin.advance()
            active = twin.counters[:, at.DONE] == 0
        num_envs = self.engine.num_envs
        return (
            np.array(costs).reshape(-1, num_envs, 2),
            np.array(switches).reshape(-1, num_envs),
            self.engine.counters[:, at.LAST_FC].copy(),
        )


class DecodeEnv(DecodeProblem, ProblemEnv[DecodeEngine]):
    """Decode a static batch; before each iteration choose where its FC kernels run.

    ## Description
    A batch of requests is decoded together until the last reaches end-of-sequence. In each iteration every
    decoder layer runs QKV generation, attention, projection and feed-forward. Attention runs where the KV
    caches are; the other three, the FC kernels, share their weights over all requests, so their intensity
    follows n = RLP x TLP, which falls as requests finish. PAPI (ASPLOS 2025) sends them to the GPUs'
    processing units (PUs) when n exceeds a threshold α, else to FC-PIM. Switching is free by default, so
    the one-step oracle is optimal and PAPI's calibrated threshold nearly so: the anchor that checks
    everything else. Experts of a mixture are FC kernels like the others here, with fewer rows each; in
    `papi_env/Kernels-v0` they choose for themselves. With `switch_s > 0` each change between PUs and FC-PIM costs
    that long, plus the activations that cross.

    ## Action space
    `Discrete(2)`: 0 runs the FC kernels on the PUs, 1 on FC-PIM. A choice that the system lacks
    (`action_masks()` names it) falls back to the system's default unit and is counted in
    `info["invalid_actions"]`; `strict=True` raises instead. An action outside the space always raises.

    ## Observation space
    `Box(0, 1, float32)`, by index; `observation_names` gives the names:

    {features}

    Times are relative to the reference (see below), which is also what a mode switch is compared with.
    Output lengths, acceptance rates and costs of actions are not observed.

    ## Rewards
    -(seconds + energy_weight x joules) / reference of the iteration; joules include static power. The
    reference, `env.unwrapped.reference`, is what the first iteration of a full batch at the mean input
    length costs on the system's default units. The two terms are `info["reward_time"]` and
    `info["reward_energy"]`. Prefill depends on no action: it is in `info` and in the metrics only.

    ## Starting state
    `batch_size` requests drawn from the scenario's population, prefilled. Lengths and acceptance are keyed by
    (seed, episode, request, token), so every policy meets the same instance. `reset()` without a seed goes
    to the next episode.

    ## Episode end
    Terminated when every request has all its output tokens; `info["metrics"]` then holds the totals, as it does where
    `max_episode_steps` cuts the episode off. All else in `info` is there at every step.

    ## Arguments
    * `scenario`: a preset's name, a `.toml` file, a table or a `Scenario`.
    * `system`, `model`, `batch_size` (1-128), `speculation` (1-8), `acceptance_rate`, `energy_weight`
      (seconds per joule), `switch_s`: replace the scenario's. `batch_requests` is another name of `batch_size`, for
      libraries that have a `batch_size` of their own, such as TorchRL.
    * `strict`: raise on choices that the system cannot carry out.
    * `flatten`: number joint actions, so that the space is `Discrete` (here it is anyway); `action_masks()` then has
      an entry for each number (see `papi_env.envs.flatten`).
    * `totals`: whether `info["metrics"]` comes with the end of an episode (true, the default), never (false) or at
      every step, of the episode so far ("always"). In both latter cases `info` has the same keys at every step to the
      last, as Minari wants; `env.unwrapped.metrics()` has the totals at any time.
    * `render_mode`: `ansi` or `rgb_array`, a timeline of kernels by unit, drawn in some 10 ms. `gymnasium.make` makes
      `human` (a window) of it and `gymnasium.wrappers.RecordVideo` a file; both come with the extra `video`.

    `action_space.sample(mask=env.unwrapped.sample_mask())` draws what the masks allow, and
    `papi_env.envs.masks.MaskedObservations` puts them into observations. `papi_env:papi_env/Decode-v0` is the id for
    what does not import this package itself, such as CleanRL's scripts and RLlib's workers. Tensors and arrays of one
    number are actions, too.

    ## Vectorised use
    `gymnasium.make_vec("papi_env/Decode-v0", num_envs=4096)` advances all environments in one compiled call;
    further arguments are `max_episode_steps`, `autoreset_mode` (next-step, same-step, disabled), `copy`, `causes`: keep
    joules by cause for the metrics, which are NaN without; steps take a few per cent longer; and `threads`: share the
    environments of a step among so many threads, which changes no bit of what they do. It pays from some hundred
    environments on, and takes no more threads than the process had cores when numba was imported. A child that was
    forked after threads had run goes on with one thread; to have several there, start it with `spawn` or `forkserver`.
    `rgb_array` gives a picture of each environment. Infos are those that gymnasium's `SyncVectorEnv` collects (see
    `papi_env.envs.vector`).

    ## Version history
    * v0: first version.
    """


class DecodeVectorEnv(DecodeProblem, ProblemVectorEnv[DecodeEngine]):
    """The vector version of `DecodeEnv`; environment i is the single one with seed + i."""
