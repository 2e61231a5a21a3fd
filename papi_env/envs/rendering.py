"""A timeline of which kernel ran on which unit, and how long: as text and as a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium.error import DependencyNotInstalled

from papi_env.hardware.units import UNIT_NAMES
from papi_env.kernel import FloatArray
from papi_env.simulation.batch import state as at

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
    in order, and the stage, or -1.
    """

    number: int
    rows: int
    segments: tuple[Segment, ...]
    stage: int = -1

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
            seconds = float(clocks[at.LAST_CLASS_S + k])
            unit = UNIT_NAMES[int(counters[at.LAST_UNIT + k])]
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


def render_rgb(timeline: Timeline, title: str) -> npt.NDArray[np.uint8]:
    """The last iterations as lanes of coloured bars, uint8 [360, 960, 3]. Needs matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise DependencyNotInstalled(
            'rgb_array needs matplotlib: pip install "papi-env[experiments]"'
        ) from error
    lanes, colours = timeline.lanes, timeline.colours
    figure = Figure(figsize=(9.6, 3.6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = timeline.iterations[-MAX_ITERATIONS:]
    for iteration in shown:
        for segment in iteration.segments:
            if segment.duration_s == 0:
                continue
            axes.broken_barh(
                [(1e3 * segment.start_s, 1e3 * segment.duration_s)],
                (lanes.index(segment.lane) - 0.4, 0.8),
                facecolors=colours[segment.label],
                # A hairline keeps microseconds visible beside milliseconds.
                edgecolors=colours[segment.label],
                linewidth=0.6,
            )
    axes.set_yticks(range(len(lanes)), lanes)
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.set_xlabel("time / ms")
    span = f", {' '.join(shown[0].label.split())} to {' '.join(shown[-1].label.split())}" if shown else ""
    axes.set_title(title + span, fontsize=10)
    drawn = {segment.label for iteration in shown for segment in iteration.segments if segment.duration_s > 0}
    handles = [Patch(facecolor=colour, label=label) for label, colour in colours.items() if label in drawn]
    axes.legend(handles=handles, ncols=6, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
