"""Rewards of training over the spread of returns, setting by setting, on a scale that stays after a while."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents.environments import problems_of
from papi_env.sb3_time import discounts, elapsed_s


class NormalizeBySetting(VecNormalize):
    """SB3's `VecNormalize` of rewards with a scale for each setting; observations pass unchanged.

    Settings pay very different returns. Over one spread for all, those that pay most are all that gradients see.

    Args:
        envs: of `papi_env.sb3`, one scenario or a mixture, wrapped or not.
        gamma: discount of running returns by step.
        time_constant: by second, in gamma's place; None: by step.
        frozen_after: steps over all environments after which the scale stays as it is; 0: never. A critic that has
            learned values need not learn them again.

    Attributes:
        running: float64 [3, settings], mean, variance and count of running returns.
    """

    def __init__(self, envs: VecEnv, gamma: float, time_constant: float | None, frozen_after: int) -> None:
        super().__init__(envs, norm_obs=False, gamma=gamma)
        sizes = [problem.engine.num_envs for problem in problems_of(envs)]
        self._setting = np.repeat(np.arange(len(sizes)), sizes)
        self._time_constant, self._frozen_after = time_constant, frozen_after
        self.running = np.zeros((3, len(sizes)))
        self.running[1] = 1.0

    def _update_reward(self, reward: npt.NDArray[Any]) -> None:
        tau = self._time_constant
        decay = self.gamma if tau is None else discounts(elapsed_s(self.venv), tau)
        self.returns = self.returns * decay + reward
        if self._frozen_after and self.running[2].sum() >= self._frozen_after:
            return
        settings = self.running.shape[1]
        count = np.bincount(self._setting, minlength=settings)
        mean = np.bincount(self._setting, self.returns, settings) / count
        squares = np.bincount(self._setting, (self.returns - mean[self._setting]) ** 2, settings)
        before_mean, before_var, before = self.running
        total = before + count
        apart = mean - before_mean
        # Sums of squares of both parts about their joint mean (Chan, Golub and LeVeque 1983).
        spread = before_var * before + squares + apart**2 * before * count / total
        self.running[:] = before_mean + apart * count / total, spread / total, total

    def normalize_reward(self, reward: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rewards [num_envs] over the standard deviation of their setting's running returns."""
        scale = np.sqrt(self.running[1] + self.epsilon)[self._setting]
        return np.clip(reward / scale, -self.clip_reward, self.clip_reward)

    def kept(self) -> dict[str, npt.NDArray[Any]]:
        """The scales, by name; arrays that a training's state holds, and writes again."""
        return {"scale.running": self.running}
