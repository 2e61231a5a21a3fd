"""What a scheduler of Serving-v0 makes of the past: the state of rules that are compiled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agents.serving.inside.memory import ADMITTED, BACKLOG, NUM_MEMORY, know_all
from agents.serving.view import ServingView, as_compiled
from papi_env.kernel import FloatArray


class Estimates:
    """What a scheduler makes of the past, for each environment of a batch: acceptance of drafts, length of prompts.

    `memory` is float64 [num_envs, NUM_MEMORY], see `agents.serving.inside.memory`.
    """

    def __init__(self, num_envs: int) -> None:
        self.memory = np.zeros((num_envs, NUM_MEMORY))

    def update(
        self, view: ServingView, episode_start: npt.NDArray[np.bool_]
    ) -> tuple[FloatArray, FloatArray]:
        """Take the last iteration into account.

        Returns:
            The chance that a drafted token is accepted, and the prompt tokens of a request on average; [num_envs].
        """
        self.memory[episode_start] = 0.0
        acceptance, prompt = np.zeros(len(self.memory)), np.zeros(len(self.memory))
        know_all(as_compiled(view.observations, np.float32), view.scalars, self.memory, acceptance, prompt)
        return acceptance, prompt

    def decided(self, view: ServingView, admitting: npt.NDArray[np.bool_]) -> None:
        """Note whether those who wait are to be admitted now."""
        self.memory[:, ADMITTED] = np.where(admitting, view.queued, 0)
        self.memory[:, BACKLOG] = view.backlog

    def repeated(self, env: int, copies: int) -> Estimates:
        """What is known of environment `env`, for so many copies of it."""
        twin = Estimates(copies)
        twin.memory[:] = self.memory[env]
        return twin
