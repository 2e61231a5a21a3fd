"""Decisions of training that are held for several iterations.

An iteration takes some 20 ms: what one decision changes is lost in what happens anyway, and a deviation that is drawn
for one iteration at a time shows nobody what a lasting one is worth. Held for a part of a second, a decision has an
effect that can be told. What is learned decides before every iteration all the same, when it is validated or played.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from agents.learned.advised import advised
from papi_env.sb3_time import discounts, elapsed_s


class Held(VecEnvWrapper):
    """Environments of which a step is several, with one action.

    Under the advice of a rule those choices that are the rule's go on as the rule does; others are held. The reward is
    the sum, discounted to the decision. An episode that ends ends the step; what is left of it belongs to no step.

    Args:
        envs: of `papi_env.sb3`, of a problem whose time is continuous, wrapped or not.
        hold: iterations of a step.
        time_constant: of the discount within a step, in seconds; None: rewards of a step count alike.

    Attributes:
        elapsed_s: float64 [num_envs], seconds of the last step.
    """

    def __init__(self, envs: VecEnv, hold: int, time_constant: float | None) -> None:
        super().__init__(envs)
        self.hold, self.time_constant = hold, time_constant
        self.elapsed_s = np.zeros(envs.num_envs)
        self._adviser = advised(envs)
        self._actions: npt.NDArray[Any]

    def reset(self) -> npt.NDArray[Any]:
        """Start episodes."""
        self.elapsed_s[:] = 0.0
        observations: Any = self.venv.reset()
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take the actions of the coming step."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """As many steps as are held."""
        count = self.num_envs
        follows = None if self._adviser is None else self._actions == self._adviser.choices
        paid, ended = np.zeros(count), np.zeros(count, dtype=np.bool_)
        self.elapsed_s[:] = 0.0
        last: list[dict[str, Any]] = []
        observations: Any = None
        for k in range(self.hold):
            actions = self._actions
            if follows is not None and self._adviser is not None:
                actions = np.where(follows, self._adviser.choices, actions)
            observations, rewards, dones, infos = self.venv.step(actions)
            tau = self.time_constant
            share = 1.0 if tau is None else discounts(self.elapsed_s, tau)
            paid += np.where(ended, 0.0, rewards * share)
            self.elapsed_s += np.where(ended, 0.0, elapsed_s(self.venv))
            last = list(infos) if k == 0 else last
            for i in np.flatnonzero(dones & ~ended):
                last[i] = infos[i]
            ended |= dones
        return observations, paid.astype(np.float32), ended, last
