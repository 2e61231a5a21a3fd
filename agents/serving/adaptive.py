"""A threshold that follows the machine, from what was observed of its units."""

from __future__ import annotations

import numpy as np

from agents.serving.inside.play import ADAPTIVE
from agents.serving.rules import ServingThreshold
from papi_env.kernel import FloatArray


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

    code = ADAPTIVE
    remembers = True

    def __init__(self, speculation: int = 1, patience: int = 64, margin: float = 0.25) -> None:
        super().__init__(speculation)
        self.patience, self.margin = patience, margin

    def rows(self, num_envs: int) -> FloatArray:
        """The index of its speculation length, patience and margin."""
        row = (float(self.speculation), float(self.patience), float(self.margin))
        return np.repeat(np.array([row]), num_envs, axis=0)
