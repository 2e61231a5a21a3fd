"""The advice of a rule as further features of environments for Stable-Baselines3; see `agents.learned.advice`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from agents.environments import problems_of
from agents.learned.advice import ADVICE_NAMES, Inputs
from papi_env.errors import ConfigurationError


class AdvisedVecEnv(VecEnvWrapper):
    """Environments whose observations end with what a rule would choose.

    Args:
        envs: of `papi_env.sb3`, of Serving-v1, whose actions are choices.
        advice: the rule, see `agents.learned.advice.make_adviser`.

    Attributes:
        observation_names: of all features; advice: as given.

    Raises:
        ConfigurationError: another problem, numbered joint actions, or an unknown rule.
    """

    def __init__(self, envs: VecEnv, advice: str) -> None:
        problems = problems_of(envs)
        if not isinstance(envs.action_space, gym.spaces.MultiDiscrete):
            raise ConfigurationError(
                f"advice of {advice!r} is on choices, but joint actions are numbered; expected flatten=false"
            )
        self.advice = advice
        self.observation_names = (*problems[0].observation_names, *ADVICE_NAMES)
        self._inputs = Inputs(self.observation_names, advice, problems)
        space = gym.spaces.Box(0.0, 1.0, (len(self.observation_names),), np.float32)
        super().__init__(envs, observation_space=space)
        self._state: Any = None

    def reset(self) -> npt.NDArray[Any]:
        """Start episodes; the rule knows nothing of them."""
        observations: Any = self.venv.reset()
        starts = np.ones(self.num_envs, dtype=np.bool_)
        extended, self._state = self._inputs(observations, None, starts)
        return extended

    @property
    def choices(self) -> npt.NDArray[np.int64]:
        """What the rule would choose now, int64 [num_envs, 11]."""
        return self._inputs.chosen

    def step_wait(self) -> VecEnvStepReturn:
        """A step; the last observations of episodes that it ends are extended, too."""
        observations: Any
        observations, rewards, dones, infos = self.venv.step_wait()
        infos = list(infos)
        for i in np.flatnonzero(dones):
            last = self._inputs.last(int(i), infos[i]["terminal_observation"], self._state)
            infos[i] = {**infos[i], "terminal_observation": last}
        extended, self._state = self._inputs(observations, self._state, dones)
        return extended, rewards, dones, infos

    def kept(self) -> dict[str, npt.NDArray[Any]]:
        """What the rule makes of the past, by name; arrays that a training's state holds, and writes again."""
        known = {f"advice.{k}": own.memory for k, own in enumerate(self._state or ()) if own is not None}
        return known | {"advice.choices": self._inputs.chosen}


def advised(envs: Any) -> AdvisedVecEnv | None:
    """The wrapper that gives advice around environments, if there is one."""
    while isinstance(envs, VecEnvWrapper):
        if isinstance(envs, AdvisedVecEnv):
            return envs
        envs = envs.venv
    return None
