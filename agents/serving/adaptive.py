"""A threshold that follows the machine, from what was observed of its units."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.policy import Actions
from agents.serving.rules import ServingThreshold
from agents.serving.view import IntArray, ServingView
from papi_env.simulation.serving import state as at


class ServingAdaptive(ServingThreshold):
    """PAPI's rule with an α that follows the machine: profiled FC times, times the slow-down last observed.

    The threshold is where the two corrected times cross, so it moves as units drift from their profile. What
    a unit's slow-down was when last used grows stale: one unused for `patience` iterations is used again if
    it is within `margin` of the best, as in `agents.batch.adaptive`.

    Args:
        speculation: as in `ServingThreshold`.
        patience: iterations. chosen: 64, some seconds of a drift over tens of seconds; range 16-512.
        margin: chosen: 0.25, less than what a unit drifts by; range 0.05-0.6.
    """

    def __init__(self, speculation: int = 1, patience: int = 64, margin: float = 0.25) -> None:
        super().__init__(speculation)
        self.patience, self.margin = patience, margin

    def choose(self, view: ServingView, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Compare corrected times. State: iterations since FC-PIM and PUs were last used, [num_envs, 2]."""
        age = np.zeros((len(view.rlp), 2)) if state is None else state + 1.0
        age[episode_start] = 0.0
        for unit, name in enumerate(("pu", "fc-pim")):
            used = (view.feature(f"last_fc_{name}") > 0) | (view.feature("last_fc_split") > 0)
            if unit == at.PU:
                used |= view.feature("last_chunk") > 0
            age[used, unit] = 0.0
        return super().choose(view, age, episode_start)

    def _unit(self, view: ServingView, n: IntArray, state: Any) -> tuple[IntArray, Any]:
        seconds = np.stack([self.fc_s(unit, n) for unit in (at.PU, at.FC_PIM)], axis=1) * view.drift[:, :2]
        rows = np.arange(len(n))
        best = np.where(seconds[:, at.PU] < seconds[:, at.FC_PIM], at.PU, at.FC_PIM)
        other = 1 - best
        near = seconds[rows, other] <= (1 + self.margin) * seconds[rows, best]
        return np.where(near & (state[rows, other] > self.patience), other, best), state
