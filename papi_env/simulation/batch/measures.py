"""What an episode of static batches and image encodes amounts to, from counters and clocks: one table of measures."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from papi_env.hardware.energy import CAUSE_WORDS, CAUSES
from papi_env.hardware.units import UNIT_NAMES
from papi_env.kernel import FloatArray
from papi_env.simulation.batch import state as at
from papi_env.simulation.measures import Measure, names
from papi_env.simulation.prefill import Counts, Prefill


class Episodes:
    """The episodes in counters and clocks, and what several measures need of them: arrays [num_envs], computed once.

    Args:
        counters, clocks: [num_envs, columns].
        scalars: of the scenario.
        prefill: of its model; None where nothing is decoded.
    """

    def __init__(
        self,
        counters: npt.NDArray[np.int64],
        clocks: FloatArray,
        scalars: FloatArray,
        prefill: Prefill | None,
    ) -> None:
        self.counters, self.clocks, self.scalars = counters, clocks, scalars
        self._prefill = prefill

    def counter(self, column: int) -> npt.NDArray[np.int64]:
        """A counter, as of now."""
        return self.counters[:, column].copy()

    def clock(self, column: int) -> FloatArray:
        """A clock, as of now; 0 where rows end before it."""
        if column >= self.clocks.shape[1]:
            return np.zeros(len(self.clocks))
        return self.clocks[:, column].copy()

    @cached_property
    def time_s(self) -> FloatArray:
        """Seconds of decoding and encoding."""
        return self.clock(at.TIME_S)

    @cached_property
    def static_j(self) -> FloatArray:
        """Static power over that time."""
        return np.asarray(float(self.scalars[at.STATIC_W]) * self.time_s)

    @cached_property
    def prefill(self) -> tuple[FloatArray, FloatArray]:
        """Seconds and joules of the prefill, static ones included; 0 where nothing is decoded."""
        if self._prefill is None:
            seconds, joules = np.zeros(len(self.clocks)), np.zeros(len(self.clocks))
        else:
            seconds, joules = self._prefill.cost(*self._prompts)
        return seconds, joules + float(self.scalars[at.STATIC_W]) * seconds

    def cause(self, k: int) -> FloatArray:
        """Dynamic joules of everything of a cause; NaN where they are not kept."""
        if self.clocks.shape[1] < at.NUM_CLOCKS:
            return np.full(len(self.clocks), np.nan)
        return np.asarray(self.causes[:, k])

    @cached_property
    def causes(self) -> FloatArray:
        """Dynamic joules of everything by cause, [num_envs, causes], where they are kept."""
        joules = self.clocks[:, at.CAUSE_J : at.CAUSE_J + at.NUM_CAUSES].copy()
        if self._prefill is not None:
            joules += self._prefill.causes(*self._prompts)
        return joules

    @property
    def _prompts(self) -> tuple[Counts, Counts, int]:
        """Tokens, pairs and requests of the prefill."""
        tokens, pairs = self.counters[:, at.PREFILL_TOKENS], self.counters[:, at.PREFILL_PAIRS]
        return tokens, pairs, int(self.scalars[at.BATCH])

    @cached_property
    def communication_share(self) -> FloatArray:
        """Communication over all time; 0 before there is any."""
        out = np.zeros_like(self.time_s)
        return np.divide(self.clocks[:, at.COMMUNICATION_S], self.time_s, out=out, where=self.time_s > 0)


Value = Callable[[Episodes], npt.NDArray[Any]]


def _count(name: str, column: int, words: str = "") -> Measure[Episodes]:
    """A counter."""
    return Measure(name, lambda episodes: episodes.counter(column), words, whole=True)


def _clock(column: int) -> Value:
    return lambda episodes: episodes.clock(column)


def _cause(k: int) -> Value:
    return lambda episodes: episodes.cause(k)


def _class_times(first: int, last: int) -> tuple[Measure[Episodes], ...]:
    return tuple(
        Measure(f"{at.TIMED_CLASSES[k]}_s", _clock(at.CLASS_TIMES[k]), f"seconds of {at.TIMED_CLASSES[k]}")
        for k in range(first, last)
    )


MEASURES: tuple[Measure[Episodes], ...] = (
    Measure("time_s", lambda e: e.time_s, "seconds of decoding and encoding, without prefill"),
    Measure("prefill_s", lambda e: e.prefill[0], "seconds of the prefill"),
    Measure("total_s", lambda e: e.time_s + e.prefill[0], "seconds of everything"),
    Measure("dynamic_j", _clock(at.DYNAMIC_J), "dynamic joules of decoding and encoding"),
    Measure("static_j", lambda e: e.static_j, "static power over that time"),
    Measure("prefill_j", lambda e: e.prefill[1], "dynamic and static joules of the prefill"),
    Measure(
        "total_j", lambda e: e.clocks[:, at.DYNAMIC_J] + e.static_j + e.prefill[1], "joules of everything"
    ),
    *(Measure(f"{cause}_j", _cause(k), CAUSE_WORDS[cause]) for k, cause in enumerate(CAUSES)),
    Measure(
        "idle_j",
        lambda e: float(e.scalars[at.STATIC_W]) * (e.time_s + e.prefill[0]),
        "static power over the time of everything; with the six before it, joules of everything",
    ),
    _count("tokens", at.DECODED, "output tokens"),
    _count("iterations", at.ITERATION, "decode iterations"),
    *(
        Measure(f"busy_{unit}_s", _clock(at.BUSY_S + u), f"seconds in which kernels ran on {unit}")
        for u, unit in enumerate(UNIT_NAMES)
    ),
    *_class_times(0, at.NUM_CLASSES),
    Measure("communication_s", _clock(at.COMMUNICATION_S), "seconds of moving data that nothing hides"),
    Measure("communication_share", lambda e: e.communication_share, "of the time; 0 before there is any"),
    Measure("switching_s", _clock(at.SWITCHING_S), "seconds of mode switches"),
    Measure(
        "other_s",
        lambda e: e.counters[:, at.ITERATION] * e.scalars[at.OVERHEAD_S],
        "the layers' overhead: iterations x layers x `System.layer_overhead_s`",
    ),
    _count("switches", at.SWITCHES, "changes between PUs and FC-PIM"),
    _count("invalid_actions", at.INVALID, "choices that ran on a default unit instead"),
    Measure("return", _clock(at.RETURN), "undiscounted sum of rewards"),
    *_class_times(at.NUM_CLASSES, at.NUM_TIMED),
    _count("stages", at.STAGES_RUN, "stages of image encodes"),
    _count("images", at.ENCODED, "images encoded"),
)
METRIC_NAMES = names(MEASURES)
# What there is besides where the model has experts.
EXPERT_MEASURES: tuple[Measure[Episodes], ...] = (
    Measure("experts_s", _clock(at.EXPERTS_S), "seconds of experts"),
    Measure(
        "hot_experts",
        lambda e: (
            e.clocks[:, at.HOT_EXPERTS]
            / np.maximum(e.counters[:, at.ITERATION] * e.scalars[at.EXPERT_LAYERS], 1)
        ),
        "experts on the PUs, of an iteration and layer",
    ),
)
