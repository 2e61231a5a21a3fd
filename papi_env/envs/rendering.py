"""A timeline of which kernel ran on which unit, and how long; as text here, as a picture in `picture`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.hardware.units import UNIT_NAMES
from papi_env.kernel import FloatArray
from papi_env.simulation.batch import state as at

# What every picture says of itself: a segment gathers what a unit does in all layers of an iteration.
EXACT, SCHEMATIC = "band: an iteration, exact", "bar: its length exact, its place in the band schematic"
# What is drawn: the most recent iterations; more would be thinner than a pixel.
MAX_ITERATIONS = 48


class Segment(NamedTuple):
    """A stretch of time on one lane: a unit, or `link` for communication and mode switches."""

    lane: str
    label: str
    start_s: float
    duration_s: float


class Iteration(NamedTuple):
    """One decode iteration, or one stage of an image encode.

    Its number (a stage's is that of its encode), its parallelism when it began (n, or images), its segments
    in order, the stage, or -1, and its span where it is not that of its segments.
    """

    number: int
    rows: int
    segments: tuple[Segment, ...]
    stage: int = -1
    span_s: tuple[float, float] | None = None

    @property
    def span(self) -> tuple[float, float]:
        """When it began and ended, in seconds."""
        if self.span_s is not None:
            return self.span_s
        first, last = self.segments[0], self.segments[-1]
        return first.start_s, last.start_s + last.duration_s

    @property
    def label(self) -> str:
        """What ran."""
        if self.stage >= 0:
            return f"encode {self.number:4d}  stage {self.stage}  images {self.rows:3d}"
        return f"iteration {self.number:4d}  n {self.rows:4d}"


@dataclass
class Timeline(ABC):
    """The iterations recorded since the last reset; subclasses name their lanes and the colours of labels."""

    lanes: ClassVar[tuple[str, ...]] = (*UNIT_NAMES, "link")
    colours: ClassVar[Mapping[str, str]]
    iterations: list[Iteration] = field(default_factory=list)

    def forget(self) -> None:
        """Forget what no picture shows any more, so that a long episode takes no more memory."""
        if len(self.iterations) > 2 * MAX_ITERATIONS:
            del self.iterations[:-MAX_ITERATIONS]

    def clear(self) -> None:
        """Forget everything."""
        self.iterations.clear()

    @abstractmethod
    def record(self, counters: npt.NDArray[np.int64], clocks: FloatArray) -> None:
        """Append the iteration that the state's `LAST_` entries describe."""


_COLOURS: Mapping[str, str] = {
    "qkv": "#4477aa",
    "attention": "#cc6677",
    "projection": "#88ccee",
    "feed_forward": "#117733",
    "repmlp_fc1_fc2": "#332288",
    "repmlp_fc3": "#aa4499",
    "repmlp_ffn": "#44aa99",
    "convolution": "#ddcc77",
}
_OTHER_COLOUR = "#999933"


def _coloured(kinds: Iterable[str]) -> dict[str, str]:
    """The colours of timed classes."""
    return {kind: _COLOURS.get(kind, _OTHER_COLOUR) for kind in kinds}


@dataclass
class BatchTimeline(Timeline):
    """Iterations of a static batch."""

    colours: ClassVar[Mapping[str, str]] = {
        **_coloured(at.TIMED_CLASSES[: at.NUM_CLASSES]),
        "experts": "#661100",
        "communication": "#aaaaaa",
        "switching": "#222222",
    }

    def record(self, counters: npt.NDArray[np.int64], clocks: FloatArray) -> None:
        """Append the iteration that the state's `LAST_` entries describe.

        All layers together: the classes in their order, communication and mode switches after them.
        """
        segments = self.segments(counters, clocks, range(at.NUM_CLASSES))
        self.iterations.append(
            Iteration(int(counters[at.ITERATION]), int(counters[at.LAST_N]), tuple(segments))
        )

    @staticmethod
    def segments(counters: npt.NDArray[np.int64], clocks: FloatArray, classes: range) -> list[Segment]:
        """The segments of the last step, which ran such timed classes."""
        start = float(clocks[at.TIME_S] - clocks[at.LAST_TIME_S])
        segments = []
        for k in classes:
            seconds = float(clocks[at.LAST_CLASS_TIMES[k]])
            unit = UNIT_NAMES[int(counters[at.LAST_UNITS[k]])]
            segments.append(Segment(unit, at.TIMED_CLASSES[k], start, seconds))
            start += seconds
        if clocks.shape[0] > at.EXPERTS_S and classes.start == 0:
            # A split has both at once.
            for unit, column in zip(UNIT_NAMES, (at.LAST_EXPERTS_PU_S, at.LAST_EXPERTS_PIM_S), strict=False):
                segments.append(Segment(unit, "experts", start, float(clocks[column])))
            start += float(clocks[at.LAST_EXPERTS_S])
        for label, column in (("communication", at.LAST_COMMUNICATION_S), ("switching", at.LAST_SWITCHING_S)):
            seconds = float(clocks[column])
            segments.append(Segment("link", label, start, seconds))
            start += seconds
        return segments


@dataclass
class KernelsTimeline(BatchTimeline):
    """Iterations and stages of image encodes."""

    colours: ClassVar[Mapping[str, str]] = {
        **BatchTimeline.colours,
        **_coloured(at.TIMED_CLASSES[at.NUM_CLASSES :]),
    }

    def record(self, counters: npt.NDArray[np.int64], clocks: FloatArray) -> None:
        """Append the iteration or stage that the state's `LAST_` entries describe."""
        stage = int(counters[at.LAST_STAGE])
        if stage < 0:
            super().record(counters, clocks)
            return
        segments = self.segments(counters, clocks, range(at.NUM_CLASSES, at.NUM_TIMED))
        # After its last stage an encode counts as finished.
        encode = int(counters[at.ENCODE]) - int(counters[at.STAGE] != stage + 1)
        self.iterations.append(Iteration(encode, int(counters[at.LAST_IMAGES]), tuple(segments), stage))


def render_ansi(timeline: Timeline, title: str) -> str:
    """The last steps as lines of text: what ran, then each kernel's unit and milliseconds."""
    lines = [title]
    for iteration in timeline.iterations[-MAX_ITERATIONS:]:
        parts = [
            f"{s.label}@{s.lane} {1e3 * s.duration_s:.3f} ms" for s in iteration.segments if s.duration_s > 0
        ]
        lines.append(f"{iteration.label}  " + "  ".join(parts))
    return "\n".join(lines)
