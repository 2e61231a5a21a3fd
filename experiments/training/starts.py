"""Environments whose episodes are at different times when training begins.

An episode of Serving-v1 has thousands of steps. Environments that start together see its beginning, an empty machine,
in the first rollouts, and in a short training little else; each rollout is of one time of the episode, and what was
learned of others is forgotten.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from agents.environments import problems_of
from agents.serving.inside.memory import NUM_MEMORY
from agents.serving.inside.play import play_range
from agents.serving.slack import SlackAware
from papi_env.envs.problem import Problem
from papi_env.envs.serving_v1 import ServingV1Problem
from papi_env.errors import ConfigurationError
from papi_env.simulation.engine import DISABLED, DONE
from papi_env.simulation.serving.rollout import roll

# So many groups of environments, each a share of the horizon further than the next. chosen: 16; range 4-64.
GROUPS = 16
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0


class Staggered(VecEnvWrapper):
    """Environments that a reset leaves at times spread evenly over their horizon, played there by a tuned rule.

    Args:
        envs: of `papi_env.sb3`, of Serving-v1.

    Raises:
        ConfigurationError: another problem, or a scenario without a horizon.
    """

    def __init__(self, envs: VecEnv) -> None:
        super().__init__(envs)
        self._problems: list[Problem] = problems_of(envs)
        for problem in self._problems:
            if not isinstance(problem, ServingV1Problem):
                raise ConfigurationError(
                    "out_of_phase is for papi_env/Serving-v1, whose episodes have a horizon; expected false here"
                )
            if problem.scenario.serving is None or problem.scenario.serving.horizon_s is None:
                raise ConfigurationError(
                    f"out_of_phase: scenario {problem.scenario.name!r} has no horizon_s, expected one"
                )

    def reset(self) -> npt.NDArray[Any]:
        """Start episodes, and play them to where they are to be."""
        self.venv.reset()
        # Steps of the golden ratio are spread evenly, however many there are of a setting or in all.
        shares = np.arange(1, self.num_envs + 1) * _GOLDEN % 1.0
        begin = 0
        for problem in self._problems:
            stop = begin + problem.engine.num_envs
            stagger(problem, (shares[begin:stop] * GROUPS).astype(np.int64))
            begin = stop
        return np.concatenate([problem.engine.observations for problem in self._problems])

    def step_wait(self) -> VecEnvStepReturn:
        """A step as it is."""
        return self.venv.step_wait()


def stagger(problem: Any, groups: npt.NDArray[np.int64]) -> None:
    """Advance a problem that was just reset by `groups` shares of its horizon, of GROUPS; int64 [num_envs]."""
    engine = problem.engine
    rule = SlackAware()
    rule.bind(problem)
    memory = np.zeros((engine.num_envs, NUM_MEMORY))
    policy = rule.compiled(memory)[:]
    share_s = problem.scenario.serving.horizon_s / GROUPS
    autoreset = engine.autoreset
    engine.autoreset = DISABLED
    for k in range(1, GROUPS):
        roll(engine, play_range, policy, seconds=share_s)
        # Those that have come as far as they are to be start anew until the last round.
        late = (groups < GROUPS - k) | (engine.counters[:, DONE] != 0)
        if late.any():
            problem.reset(options={"reset_mask": late})
            memory[late] = 0.0
    engine.autoreset = autoreset
