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
    Terminated when every request has all its output tokens; `info["metrics"]` then holds the totals.

    ## Arguments
    * `scenario`: a preset's name, a `.toml` file, a table or a `Scenario`.
    * `system`, `model`, `batch_size` (1-128), `speculation` (1-8), `acceptance_rate`, `energy_weight`
      (seconds per joule), `switch_s`: replace the scenario's.
    * `strict`: raise on choices that the system cannot carry out.
    * `render_mode`: `ansi` or `rgb_array`, a timeline of kernels by unit.

    ## Vectorised use
    `gymnasium.make_vec("papi_env/Decode-v0", num_envs=4096)` advances all environments in one compiled call;
    further arguments are `max_episode_steps`, `autoreset_mode` (next-step or same-step), `copy`, and `causes`: keep
    joules by cause for the metrics, which are NaN without; steps take a few per cent longer.

    ## Version history
    * v0: first version.
    """


class DecodeVectorEnv(DecodeProblem, ProblemVectorEnv[DecodeEngine]):
    """The vector version of `DecodeEnv`; environment i is the single one with seed + i."""
