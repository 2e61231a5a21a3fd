"""What every unit did in a window of a serving episode: as a picture, and as trace events for a viewer.

A `Recorder` watches the first environment of an evaluation. `gantt_figure` draws what recorders saw, one above
the other; `trace_events` gives the same in the Trace Event Format of Chromium (the "JSON Object Format" of its
design document), which Perfetto (ui.perfetto.dev) and chrome://tracing open.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.arena.gantt_requests import Bars, bars_between, draw_requests
from papi_env.envs.rendering import EXACT, SCHEMATIC
from papi_env.envs.serving_timeline import ServingTimeline
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.measures import reuses
from papi_env.simulation.serving.tables import UNBOUNDED_PAGES

LANES = ServingTimeline.lanes
_LANE_NAMES = {"pu": "PUs", "fc-pim": "FC-PIM", "attn-pim": "Attn-PIM", "link": "link"}
# Level lines by name: colours of Okabe and Ito's palette, apart from those of the bars.
_LEVELS = {"queued": "#D55E00", "decoding": "#000000", "in prefill": "#0072B2"}
_BANDS = ("#f7f7f7", "#ebebeb")  # of iterations, in turn
_US = 1e6  # the format counts microseconds
_POINTS_PER_INCH = 72.0
_CAPTION_WIDTH = 150  # characters of a line below the picture
_REQUESTS_HEIGHT = 2.2  # of the panel of requests; that of levels has 1


class Level(NamedTuple):
    """Requests and KV pages from the moment `time_s` on: whoever was admitted at that moment waits no more.

    Who comes during an iteration is counted from its end, when the next decision is made.
    """

    time_s: float
    queued: int
    decoding: int
    prefilling: int
    pages: int


@dataclass
class Recorder:
    """Keeps the iterations of environment 0 that touch the window from `start_s` to `end_s`, and its levels.

    Call it with the environment after the reset and after every step (`agents.evaluate.evaluate(watch=...)`).

    Attributes:
        title: whose doing it is, such as papi/threshold.
        timeline: the iterations; spans: when each began and ended, in seconds; choices: what was decided for it.
        levels: from the beginning of each iteration, from its end where time then passes with nothing to do, and one
            from before the window.
        requests: with classes, those that were there in the window; see `conclude`.
    """

    title: str
    start_s: float = 0.0
    end_s: float = math.inf
    timeline: ServingTimeline = field(default_factory=ServingTimeline)
    spans: list[tuple[float, float]] = field(default_factory=list)
    choices: list[dict[str, Any]] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    total_pages: int | None = None
    requests: Bars | None = None
    _seen: int = field(default=-1, repr=False)
    _before: Any = field(default=None, repr=False)  # the counters and clocks after the step before
    _engine: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.start_s < self.end_s:
            raise ConfigurationError(
                f"window from {self.start_s:g} s to {self.end_s:g} s, expected a start from 0 and a later end"
            )

    def __call__(self, env: ProblemVectorEnv) -> None:
        """Take down what the last step did."""
        self._engine = env.engine
        counters, clocks = env.engine.counters[0], env.engine.clocks[0]
        iteration = int(counters[at.ITERATION])
        if iteration == self._seen:
            return  # the episode is over, and others go on
        self._seen = iteration
        if iteration == 0:
            pages = env.engine.tables.scalars[at.TOTAL_PAGES]
            self.total_pages = int(pages) if pages < UNBOUNDED_PAGES else None
        start = float(clocks[at.LAST_START_S])
        end = start + float(clocks[at.LAST_TIME_S])
        earlier, self._before = self._before, (counters.copy(), clocks.copy())
        if start >= self.end_s:
            return
        levels = levels_of(earlier, self._before) if iteration else [level_after(self._before)]
        self.levels += levels
        while len(self.levels) > 1 and self.levels[1].time_s <= self.start_s:
            del self.levels[0]
        if end <= self.start_s or iteration == 0:
            return
        before = len(self.timeline.iterations)
        self.timeline.record(counters, clocks)
        if len(self.timeline.iterations) > before:
            self.spans.append((start, end))
            action = counters[at.LAST_ACTION : at.LAST_ACTION + len(at.NVEC)]
            names = ("fc", "speculation", "admission", "overlap")
            chosen = {name: at.CHOICES[k][action[k]] for k, name in enumerate(names)}
            self.choices.append(
                {
                    **chosen,
                    "decode_rows": int(counters[at.LAST_N]),
                    "prompt_rows": int(counters[at.LAST_CHUNK]),
                }
            )

    def conclude(self) -> None:
        """Take down what became of the requests, once the episode is over; nothing without classes."""
        engine = self._engine
        if (
            isinstance(engine, ServingEngine)
            and engine.tables.scalars[at.SERVICE]
            and not reuses(engine.state)
        ):
            self.requests = bars_between(engine, 0, self.start_s, self.end_s)


State = tuple[npt.NDArray[np.int64], FloatArray]


def level_after(state: State) -> Level:
    """What there is when a step is over: those who have come by now wait, whatever comes next."""
    counters, clocks = state
    return Level(
        float(clocks[at.TIME_S]),
        int(counters[at.QUEUED]),
        int(counters[at.RLP]),
        int(counters[at.PREFILLING]),
        int(counters[at.PAGE_SUM] + counters[at.PREFILL_PAGES]),
    )


def levels_of(before: State, after: State) -> list[Level]:
    """The levels of a step: from its beginning, when requests were admitted, and from its end if nobody was left then.

    The engine counts who is there after a step, when the next arrivals have come, by then perhaps seconds later. Who
    was there during it follows: nobody comes at its beginning, and who finishes does so at its end.

    Args:
        before, after: counters and clocks of an environment, [columns] each.
    """
    counters, clocks = after
    since = counters - before[0]
    start = float(clocks[at.LAST_START_S])
    end = start + float(clocks[at.LAST_TIME_S])
    there = int(before[0][[at.QUEUED, at.RLP, at.PREFILLING]].sum() - since[at.SHED])
    running = int(counters[[at.RLP, at.PREFILLING]].sum() + since[at.FINISHED])
    # Victims of preemption are taken for decoding ones, as they mostly are.
    admitted = running - int(before[0][[at.RLP, at.PREFILLING]].sum() - since[at.PREEMPTIONS])
    prefilling = min(max(int(before[0][at.PREFILLING]) + admitted, 0), running)
    used = float(clocks[at.PAGES_USED_TIME] - before[1][at.PAGES_USED_TIME])
    pages = round(used / (end - start)) if end > start else 0
    found = [Level(start, max(there - running, 0), running - prefilling, prefilling, pages)]
    last = level_after(after)
    if counters[at.DONE]:
        found.append(last._replace(time_s=end))
    elif last.time_s > end:  # with nobody there, time passed to the next arrival
        found.append(Level(end, 0, 0, 0, last.pages))
    return found


def check_window(recorder: Recorder) -> None:
    """Raise ConfigurationError where nothing ran in the window, so that there is nothing to show."""
    if not recorder.timeline.iterations:
        last = f"; the last level is from {recorder.levels[-1].time_s:.3f} s" if recorder.levels else ""
        raise ConfigurationError(
            f"{recorder.title}: no iteration from {recorder.start_s:g} s to {recorder.end_s:g} s{last}"
        )


def trace_events(recorders: Sequence[Recorder]) -> dict[str, Any]:
    """The recordings as a JSON object in the Trace Event Format: a process for each, a thread for each unit.

    Complete events ("X") are what units did; counters ("C") are requests and KV pages; metadata events ("M")
    name processes and threads. Times are microseconds of simulated time.
    """
    events: list[dict[str, Any]] = []
    for pid, recorder in enumerate(recorders, start=1):
        events.append(_metadata("process_name", pid, 0, name=recorder.title))
        events.append(_metadata("process_sort_index", pid, 0, sort_index=pid))
        for tid, lane in enumerate(LANES, start=1):
            events.append(_metadata("thread_name", pid, tid, name=_LANE_NAMES[lane]))
            events.append(_metadata("thread_sort_index", pid, tid, sort_index=tid))
        for iteration, choice in zip(recorder.timeline.iterations, recorder.choices, strict=True):
            for segment in iteration.segments:
                events.append(
                    {
                        "name": segment.label,
                        "cat": "unit",
                        "ph": "X",
                        "ts": segment.start_s * _US,
                        "dur": segment.duration_s * _US,
                        "pid": pid,
                        "tid": LANES.index(segment.lane) + 1,
                        "args": {"iteration": iteration.number, **choice},
                    }
                )
        for level in recorder.levels:
            counts = {"queued": level.queued, "decoding": level.decoding, "in prefill": level.prefilling}
            ts = max(level.time_s, recorder.start_s) * _US
            events.append({"name": "requests", "ph": "C", "ts": ts, "pid": pid, "args": counts})
            if recorder.total_pages is not None:
                pages = {"used": level.pages, "free": recorder.total_pages - level.pages}
                events.append({"name": "KV pages", "ph": "C", "ts": ts, "pid": pid, "args": pages})
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"time": "simulated", "iterations": EXACT, "units": SCHEMATIC},
    }


def _metadata(kind: str, pid: int, tid: int, **args: Any) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "ts": 0, "pid": pid, "tid": tid, "args": args}


def gantt_figure(recorders: Sequence[Recorder], caption: str = "") -> bytes:
    """Bars of work by unit, and requests over time, for each recording; with classes each request too; PNG.

    All share the time axis. Each iteration is a grey band; where a unit has no bar in it, it waits for another
    unit, a transfer, or the GPUs' exchange of partial sums. Lengths of bars are exact, but that none is thinner than a
    pixel; places in a band are not (see `ServingTimeline`), as the legend says.
    """
    # Pictures alone need it.
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from experiments.common.plots import STYLE, png

    with mpl.rc_context(STYLE):
        ratios = [
            (1.7, 1) if recorder.requests is None else (1.7, 1, _REQUESTS_HEIGHT) for recorder in recorders
        ]
        height = 0.8 + 3.1 / 2.7 * sum(map(sum, ratios))
        figure = Figure(figsize=(11, height), dpi=200, layout="constrained")
        count = sum(map(len, ratios))
        panels = figure.subplots(
            count, 1, sharex=True, squeeze=False, height_ratios=[ratio for each in ratios for ratio in each]
        )[:, 0]
        start = min(recorder.start_s for recorder in recorders)
        last = max((r.levels[-1].time_s for r in recorders if r.levels), default=start)
        end = min(max(recorder.end_s for recorder in recorders), last)
        drawn: set[str] = set()
        levels = []
        free = iter(panels)
        for recorder in recorders:
            drawn |= _draw_lanes(next(free), recorder)
            levels.append(next(free))
            _draw_levels(levels[-1], recorder)
            if recorder.requests is not None:
                draw_requests(next(free), recorder.requests, start, end)
        # The same scale for the same thing.
        top = max(panel.get_ylim()[1] for panel in levels)
        for panel in levels:
            panel.set_ylim(0, top)
        panels[-1].set_xlim(start, end)
        panels[-1].set_xlabel(textwrap.fill(f"simulated time (s)   {caption}".rstrip(), _CAPTION_WIDTH))
        handles = [
            Patch(facecolor=colour, label=label)
            for label, colour in ServingTimeline.colours.items()
            if label in drawn
        ]
        handles += [
            Patch(facecolor=_BANDS[1], label=EXACT),
            Patch(facecolor="none", edgecolor="0.5", hatch="//", label=SCHEMATIC),
        ]
        figure.legend(handles=handles, ncols=len(handles), loc="outside upper right", fontsize=8)
        return png(figure)


def _draw_lanes(axes: Any, recorder: Recorder) -> set[str]:
    """Bars by lane on a band for each iteration; the labels that occur."""
    for k, (start, end) in enumerate(recorder.spans):
        axes.axvspan(start, end, color=_BANDS[k % 2], linewidth=0, zorder=0)
    bars: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for iteration in recorder.timeline.iterations:
        for segment in iteration.segments:
            bars.setdefault((segment.lane, segment.label), []).append((segment.start_s, segment.duration_s))
    for (lane, label), spans in bars.items():
        colour = ServingTimeline.colours[label]
        # Edges of a pixel, so that what lasts microseconds can be seen beside milliseconds.
        pixel = _POINTS_PER_INCH / axes.figure.dpi
        axes.broken_barh(
            spans, (LANES.index(lane) - 0.4, 0.8), facecolors=colour, edgecolors=colour, linewidth=pixel
        )
    axes.set_yticks(range(len(LANES)), [_LANE_NAMES[lane] for lane in LANES])
    axes.set_ylim(len(LANES) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_title(recorder.title)
    return {label for _, label in bars}


def _draw_levels(axes: Any, recorder: Recorder) -> None:
    """Requests waiting, decoding and in prefill, as steps."""
    times = [max(level.time_s, recorder.start_s) for level in recorder.levels]
    for (name, colour), values in zip(
        _LEVELS.items(),
        zip(*((level.queued, level.decoding, level.prefilling) for level in recorder.levels), strict=True),
        strict=True,
    ):
        axes.step(times, values, where="post", color=colour, linewidth=1.1, label=name)
    axes.set_ylabel("requests")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
