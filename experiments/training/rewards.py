"""What training pays instead of an environment's own reward, where that says too little step by step.

A step of Serving-v0 takes as long as its iteration. Discounted step by step, rewards per step are maximised, not
rewards per second: long iterations that verify many tokens look good, and PPO settles on them. Three terms mend that;
each is a hyper-parameter, none changes what validation and tables report.

* Time has a price: what the setting earned per second of late, times the seconds of the step. An episode lasts its
  horizon whatever is done, so over an episode this adds the same for every policy; under a discount it turns reward per
  step into reward per second (the differential reward of average-reward reinforcement learning for semi-Markov
  processes: Das, Gosavi, Mahadevan and Marchalleck 1999; reward centering: Naik et al. 2024).
* Progress: the growth of a potential, the tokens that decoding requests hold and can still finish in time. Potentials
  change no optimal policy (Ng, Harada and Russell, ICML 1999), and pay when a token is made, not when its request ends.
* Holding: requests that an episode's end finds unfinished earn nothing. Policies do not see when an episode ends, so
  its expected price is the mean number of requests on the machine, each for the share of the episode that a step takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from agents.environments import problems_of
from agents.serving.search import CATCH_UP
from papi_env.envs.serving import ServingProblem
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.sb3_time import discounts
from papi_env.simulation.compiled import njit
from papi_env.simulation.serving import state as at

# Share of what a setting earned, and of its seconds, that is forgotten with every step of its environments.
# chosen: 1/2000, as many steps as an episode has (range 1/200-1/20000).
FORGETTING = 1.0 / 2000.0


class TrainingReward(VecEnvWrapper):
    """Rewards for training on Serving-v0; observations, ends and infos pass unchanged.

    Args:
        envs: of `papi_env.sb3`, one scenario or a mixture.
        gamma: discount of the algorithm, for the potential.
        time_constant: of a discount per second, which then takes gamma's place; None where it counts steps.
        price_time, progress: whether to apply the terms described above.
        holding: weight of the third, 1 for its expected price.

    Attributes:
        memory: float64 [2, settings], what each setting earned and the seconds it took, older ones forgotten. The
            state of a training holds it, with `before` and `potential`, float64 [num_envs].

    Raises:
        ConfigurationError: environments of another problem.
    """

    def __init__(
        self,
        envs: VecEnv,
        gamma: float,
        price_time: bool,
        progress: bool,
        holding: float,
        time_constant: float | None = None,
    ) -> None:
        super().__init__(envs)
        self._problems = []
        for problem in problems_of(envs):
            if not isinstance(problem, ServingProblem):
                raise ConfigurationError(
                    "price_time, progress and holding are terms of papi_env/Serving-v0; expected none of them here"
                )
            self._problems.append(problem)
        self._gamma, self._price_time, self._progress, self._holding = gamma, price_time, progress, holding
        self._time_constant = time_constant
        sizes = [problem.engine.num_envs for problem in self._problems]
        self._setting = np.repeat(np.arange(len(sizes)), sizes)
        self._per_request = holding / np.concatenate(
            [np.full(n, _horizon_s(problem)) for n, problem in zip(sizes, self._problems, strict=True)]
        )
        self._starts = np.cumsum([0, *sizes])
        self.memory = np.zeros((2, len(sizes)))
        self.before = np.zeros(envs.num_envs)
        self.potential = np.zeros(envs.num_envs)

    def reset(self) -> npt.NDArray[Any]:
        """Start episodes; what settings earned before is remembered."""
        observations = self.venv.reset()
        self.before[:], self.potential[:] = self._times(), self._potentials()
        return observations  # type: ignore[return-value]

    def step_wait(self) -> VecEnvStepReturn:
        """A step with the rewards of training."""
        running = self._running() if self._holding else 0.0
        observations, rewards, dones, infos = self.venv.step_wait()
        now = self._times()
        seconds = now - self.before
        for e in np.flatnonzero(dones):
            seconds[e] = infos[e]["time_s"] - self.before[e]
        self.before[:] = now
        paid = rewards.astype(np.float64)
        if self._price_time:
            count = len(self._problems)
            self.memory *= 1 - FORGETTING
            self.memory[0] += np.bincount(self._setting, rewards, count)
            self.memory[1] += np.bincount(self._setting, seconds, count)
            price = self.memory[0] / np.maximum(self.memory[1], 1e-12)
            paid -= price[self._setting] * seconds
        if self._holding:
            paid -= self._per_request * running * seconds
        if self._progress:
            after = self._potentials()
            # An episode cut off by its horizon is worth what its last state is, which is no longer there: no change.
            # One that ends with its requests is worth nothing more.
            gamma = self._gamma if self._time_constant is None else discounts(seconds, self._time_constant)
            kept = np.where(dones, self.potential, gamma * after)
            for e in np.flatnonzero(dones):
                if not infos[e]["TimeLimit.truncated"]:
                    kept[e] = 0.0
            paid += kept - self.potential
            self.potential[:] = after
        return observations, paid.astype(np.float32), dones, infos

    def kept(self) -> dict[str, npt.NDArray[Any]]:
        """What it remembers, by name; arrays that a training's state holds, and writes again."""
        return {f"reward.{name}": getattr(self, name) for name in ("memory", "before", "potential")}

    def _times(self) -> FloatArray:
        return np.concatenate([problem.engine.clocks[:, at.TIME_S] for problem in self._problems])

    def _running(self) -> FloatArray:
        """Requests on the machine or waiting for it, [num_envs]."""
        parts = []
        for problem in self._problems:
            counters = problem.engine.counters
            parts.append(counters[:, at.RLP] + counters[:, at.PREFILLING] + counters[:, at.QUEUED])
        return np.concatenate(parts).astype(np.float64)

    def _potentials(self) -> FloatArray:
        """Tokens held by decoding requests that can still finish in time, in mean outputs, [num_envs]."""
        found = np.zeros(self.num_envs)
        if self._progress:
            for k, problem in enumerate(self._problems):
                state, part = problem.engine.state, found[self._starts[k] : self._starts[k + 1]]
                reserve_s = CATCH_UP * problem.engine.tables.scalars[at.TPOT_S]
                arrays = (state.requests, state.left, state.deadlines, state.facts)
                tokens_in_time(state.counters, state.clocks, *arrays, reserve_s, part)
                part /= problem.reference
        return found


@njit
def tokens_in_time(counters, clocks, requests, left, deadlines, facts, reserve_s, found):  # type: ignore[no-untyped-def]
    """Write the tokens of each environment's decoding requests, each times how far it can still finish in time.

    1 on pace, less by what it is behind over what it can catch up in its remaining tokens (`reserve_s` each), 0 beyond
    that and after a missed first token. Arrays as in `ServingState`; `found` is float64 [num_envs].
    """
    for e in range(len(found)):
        now = clocks[e, at.TIME_S]
        total = 0.0
        for i in range(counters[e, at.RLP]):
            share = 1.0 + (deadlines[e, i] - now) / (reserve_s * max(left[e, i], 1))
            if share > 0.0:
                total += (facts[e, requests[e, i], at.OUTPUT] - left[e, i]) * min(share, 1.0)
        found[e] = total


def _horizon_s(problem: ServingProblem) -> float:
    """Seconds of an episode; infinite where it ends with its requests, which none can outlast."""
    return float(problem.engine.tables.scalars[at.HORIZON_S])
