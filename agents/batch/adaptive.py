"""A threshold that is learned online, from observed times alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from agents.policy import (
    STAGE_CHOICES,
    Actions,
    BatchRule,
    Observations,
    coming_stage,
    feature,
    image_count,
    parallelism,
    unsquash,
)
from papi_env.hardware.units import FC_PIM, PU
from papi_env.simulation.batch import state as at

_UNITS = (PU, FC_PIM)
_NAMES = ("pu", "fc-pim")


class AdaptiveAlpha(BatchRule):
    """PAPI's rule without its offline sweep: α is where two lines, fitted to observed FC times, cross.

    For each unit the seconds of all FC kernels are fitted by a line in n with exponentially forgotten
    least squares. A weak prior says what roofline says before there is data: the PUs are memory bound
    (no slope), FC-PIM works through its rows (no intercept). A unit never tried is tried first; one that
    was not tried for `patience` iterations is tried again if its fit is within `margin` of the best, so
    that a drifting machine is followed. What was learned is kept across episodes, and not shared between
    environments. Where only one unit runs FC kernels, it is used.

    In an image encode every kernel class of every stage has its own two lines, over the number of images.

    Args:
        forgetting: weight of the past after one observation, in (0, 1].
        patience: iterations after which a near-best unit is tried again.
        margin: how much slower than the best it may be for that.
    """

    def __init__(self, forgetting: float = 0.99, patience: int = 64, margin: float = 0.1) -> None:
        self.forgetting, self.patience, self.margin = forgetting, patience, margin

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Update the fits with the last iteration's time, then take the unit that they find faster."""
        units = [u for u in _UNITS if self._valid[0][u]]
        if len(units) == 1:
            return self.with_fc_on(np.full(len(observations), units[0])), state
        if state is None:
            state = {
                # Discounted sums of 1, n, n^2, y, n y for each environment and unit.
                "sums": np.zeros((len(observations), 2, 5)),
                "age": np.full((len(observations), 2), np.inf),
            }
        self._learn(observations, state, episode_start)
        actions = self.with_fc_on(self._choose(state["sums"], state["age"], parallelism(observations)))
        if self.env.scenario.images is not None:
            actions[:, STAGE_CHOICES] = self._act_on_stages(observations, state, episode_start)
        return actions, state

    def _choose(
        self, sums: npt.NDArray[np.float64], age: npt.NDArray[np.float64], n: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """The unit to use: int64 [...] for sums [..., 2, 5], ages [..., 2] and n [...]."""

        def of(values: npt.NDArray[Any], unit: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
            return np.take_along_axis(values, unit[..., None], axis=-1)[..., 0]

        predicted = self._predict(sums, n)
        best = np.argmin(predicted, axis=-1)
        other = 1 - best
        untried = np.isinf(of(age, other))
        near = of(predicted, other) <= (1 + self.margin) * of(predicted, best)
        stale = near & (of(age, other) > self.patience)
        return np.where(np.isinf(of(age, best)), best, np.where(untried | stale, other, best))

    def _act_on_stages(
        self, observations: Observations, state: Any, episode_start: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int64]:
        """Learn from the last step if it was a stage, then choose for the coming one: int64 [num_envs, 3]."""
        stage, images = coming_stage(observations), image_count(observations)
        shape = (len(observations), at.MAX_STAGES, at.NUM_STAGE_CLASSES)
        if "met" not in state:
            state |= {"stage_sums": np.zeros((*shape, 2, 5)), "stage_age": np.full((*shape, 2), np.inf)}
        else:
            self._learn_stages(observations, state, ~episode_start)
        state["met"] = (stage, images)
        here = np.arange(len(observations)), np.maximum(stage, 0)
        state["stage_age"][here] += (stage >= 0)[:, None, None]
        n = np.repeat(images[:, None], at.NUM_STAGE_CLASSES, axis=1)
        return self._choose(state["stage_sums"][here], state["stage_age"][here], n)

    def _learn_stages(self, observations: Observations, state: Any, goes_on: npt.NDArray[np.bool_]) -> None:
        stage, images = state["met"]
        for k, kind in enumerate(at.STAGE_CLASSES):
            y = unsquash(feature(observations, f"last_time_{kind}"))
            for unit, name in zip(_UNITS, _NAMES, strict=True):
                ran = (feature(observations, f"last_unit_{kind}_{name}") > 0) & goes_on & (stage >= 0)
                n = images[ran].astype(np.float64)
                where = np.flatnonzero(ran), stage[ran], k, unit
                sample = np.stack([np.ones_like(n), n, n * n, y[ran], n * y[ran]], axis=1)
                state["stage_sums"][where] = self.forgetting * state["stage_sums"][where] + sample
                state["stage_age"][where] = 0

    def _learn(self, observations: Observations, state: Any, episode_start: npt.NDArray[np.bool_]) -> None:
        state["age"] += 1
        for unit, name in zip(_UNITS, _NAMES, strict=True):
            # At an episode's start the one-hot is empty, so nothing is learned from it.
            ran = (feature(observations, f"last_unit_qkv_{name}") > 0) & ~episode_start
            if not ran.any():
                continue
            n = np.rint(feature(observations, f"seen_n_{name}")[ran].astype(np.float64) * 1024)
            y = unsquash(feature(observations, f"seen_fc_time_{name}")[ran])
            sample = np.stack([np.ones_like(n), n, n * n, y, n * y], axis=1)
            state["sums"][ran, unit] = self.forgetting * state["sums"][ran, unit] + sample
            state["age"][ran, unit] = 0

    @staticmethod
    def _predict(sums: npt.NDArray[np.float64], n: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Fitted time (in references) at n [...], as [..., 2] for sums [..., 2, 5]; 0 for a unit without data."""
        count, s_n, s_nn, s_y, s_ny = (sums[..., i] for i in range(5))
        # A hundredth of an observation at the scale of the data for the parameter the roofline calls zero.
        weak = 0.01
        p_intercept = np.array([0.0, weak]) * np.maximum(count, 1e-9)
        p_slope = np.array([weak, 0.0]) * np.maximum(s_nn, 1e-9)
        a11, a12, a22 = count + p_intercept, s_n, s_nn + p_slope
        determinant = np.maximum(a11 * a22 - a12 * a12, 1e-300)
        intercept = (a22 * s_y - a12 * s_ny) / determinant
        slope = (a11 * s_ny - a12 * s_y) / determinant
        return np.where(count > 0, intercept + slope * n[..., None], 0.0)

    def alpha_of(self, state: Any) -> npt.NDArray[np.float64]:
        """The learned α of each environment, where its two fits cross, [num_envs]; NaN before both are known."""
        at_zero = self._predict(state["sums"], np.zeros(len(state["sums"]), dtype=np.int64))
        at_one = self._predict(state["sums"], np.ones(len(state["sums"]), dtype=np.int64))
        slope = (at_one - at_zero)[:, FC_PIM] - (at_one - at_zero)[:, PU]
        gap = at_zero[:, PU] - at_zero[:, FC_PIM]
        tried = (state["sums"][..., 0] > 0).all(axis=1)
        return np.where(tried & (slope > 0), gap / np.where(slope > 0, slope, 1.0), np.nan)
