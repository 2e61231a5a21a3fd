"""A timeline of which kernel ran on which unit, and how long: as text and as a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium.error import DependencyNotInstalled

from papi_env.hardware.units import UNIT_NAMES
from papi_env.kernel import FloatArray
from papi_env.simulation import layout as at

# What is drawn: the most recent iterations; more would be thinner than a pixel.
MAX_ITERATIONS = 48


class Segment(NamedTuple):
    """A stretch of time on one lane: a unit, or `link` for communication and mode switches."""

    lane: str
    label: str
    start_s: float
    duration_s: float


class Iteration(NamedTuple):
    """One decode iteration: its number, its parallelism when it began, and its segments in order."""

    number: int
    rows: int
    segments: tuple[Segment, ...]


@dataclass
class Timeline:
    """The iterations recorded since the last reset."""

    iterations: list[Iteration] = field(default_factory=list)

    def clear(self) -> None:
        """Forget everything."""
        self.iterations.clear()

    def record(self, counters: npt.NDArray[np.int64], clocks: FloatArray) -> None:
        """Append the iteration that the state's `LAST_` entries describe.

        All layers together: the classes in their order, communication and mode switches after them.
        """
        start = float(clocks[at.TIME_S] - clocks[at.LAST_TIME_S])
        segments = []
        for k, kind in enumerate(at.KERNEL_CLASSES):
            seconds = float(clocks[at.LAST_CLASS_S + k])
            segments.append(Segment(UNIT_NAMES[int(counters[at.LAST_UNIT + k])], str(kind), start, seconds))
            start += seconds
        for label, column in (("communication", at.LAST_COMMUNICATION_S), ("switching", at.LAST_SWITCHING_S)):
            seconds = float(clocks[column])
            segments.append(Segment("link", label, start, seconds))
            start += seconds
        self.iterations.append(
            Iteration(int(counters[at.ITERATION]), int(counters[at.LAST_N]), tuple(segments))
        )


def render_ansi(timeline: Timeline, title: str) -> str:
    """The last iterations as lines of text: n, then each kernel's unit and milliseconds."""
    lines = [title]
    for iteration in timeline.iterations[-MAX_ITERATIONS:]:
        parts = [
            f"{s.label}@{s.lane} {1e3 * s.duration_s:.3f} ms" for s in iteration.segments if s.duration_s > 0
        ]
        lines.append(f"iteration {iteration.number:4d}  n {iteration.rows:4d}  " + "  ".join(parts))
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
    lanes = [*UNIT_NAMES, "link"]
    colours = {
        "qkv": "#4477aa",
        "attention": "#cc6677",
        "projection": "#88ccee",
        "feed_forward": "#117733",
        "communication": "#aaaaaa",
        "switching": "#222222",
    }
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
    axes.set_xlabel("decoding time / ms")
    span = (
        f", iterations {shown[0].number}-{shown[-1].number}, n {shown[0].rows} to {shown[-1].rows}"
        if shown
        else ""
    )
    axes.set_title(title + span, fontsize=10)
    handles = [Patch(facecolor=colour, label=label) for label, colour in colours.items()]
    axes.legend(handles=handles, ncols=6, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
