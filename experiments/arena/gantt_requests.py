"""Requests over time, a bar each, coloured by class: for pictures of scenarios with classes of requests."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.common.plots import PALETTE
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine

# How a bar that is over ends: marker, and what it means.
_ENDS = {
    at.LATE: ("x", "late"),
    at.DROPPED: ("|", "dropped"),
    at.LEFT: ("3", "given up"),
    at.REFUSED: (".", "refused"),
}
_BEFORE = "waiting, pale"
_WAITING, _SERVED = 0.35, 0.8  # widths of lines, as shares of a request's room
_SHOWN = 2.5  # points of room of a line in the legend, however little there is for a request
_ROOM = 150.0  # points that all of them have
# Colours that differ from each other at a glance, also of neighbours.
_COLOURS = (PALETTE[1], PALETTE[3], PALETTE[5], PALETTE[2])


class Bars(NamedTuple):
    """Requests that were there in a window, by class and then by arrival; arrays [requests].

    Attributes:
        classes: names of the classes.
        number: of each request's class; status: as in `state.STATUS_NAMES`.
        arrival_s, admitted_s, end_s: moments; NaN where they never come, the end of what is not over infinite.
    """

    classes: tuple[str, ...]
    number: npt.NDArray[np.int32]
    status: npt.NDArray[np.int32]
    arrival_s: FloatArray
    admitted_s: FloatArray
    end_s: FloatArray


def bars_between(engine: ServingEngine, env: int, start_s: float, end_s: float) -> Bars:
    """The requests of an environment that arrived before `end_s` and were not over at `start_s`.

    Args:
        engine: with classes, and records of all requests.
        env: which environment.
        start_s, end_s: of the window.
    """
    serving = engine.scenario.serving
    assert serving is not None
    assert serving.service is not None
    found = engine.records(env)
    over = np.where(np.isnan(found["finish_s"]), np.inf, found["finish_s"])
    over = np.where(found["status"] == at.REFUSED, found["arrival_s"], over)
    there = (found["arrival_s"] < end_s) & (over > start_s) & (found["status"] != at.FUTURE)
    order = np.flatnonzero(there)
    order = order[np.lexsort((found["arrival_s"][order], found["class"][order]))]
    return Bars(
        tuple(serving.service.classes),
        found["class"][order],
        found["status"][order],
        found["arrival_s"][order],
        found["admitted_s"][order],
        over[order],
    )


def draw_requests(axes: Any, bars: Bars, start_s: float, end_s: float) -> None:
    """A line for each request: pale while it waits, thick once it was admitted, with a mark if it came to nothing."""
    # Pictures alone need it.
    from matplotlib.lines import Line2D

    handles: dict[str, Any] = {}
    room = min(_ROOM / max(len(bars.number), 1), 3.0)
    for k, (number, status, arrival, admitted, over) in enumerate(zip(*bars[1:], strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        first, last = max(arrival, start_s), min(over, end_s)
        middle = last if np.isnan(admitted) else min(max(admitted, first), last)
        axes.plot(
            [first, middle], [k, k], color=colour, alpha=0.5, linewidth=_WAITING * room, solid_capstyle="butt"
        )
        if first < middle:
            waiting = Line2D([], [], color="0.1", alpha=0.5, linewidth=_WAITING * _SHOWN)
            handles.setdefault(_BEFORE, waiting)
        if middle < last:
            axes.plot([middle, last], [k, k], color=colour, linewidth=_SERVED * room, solid_capstyle="butt")
            served = Line2D([], [], color=colour, linewidth=_SERVED * _SHOWN)
            handles.setdefault(bars.classes[number], served)
        if status in _ENDS and start_s <= over <= end_s:
            marker, words = _ENDS[status]
            (mark,) = axes.plot(
                [over], [k], marker, color="0.1", markersize=3.5, markeredgewidth=0.8, zorder=3
            )
            handles.setdefault(words, mark)
    axes.set_ylim(len(bars.number) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_ylabel("requests")
    known = [
        name for name in (*bars.classes, _BEFORE, *(words for _, words in _ENDS.values())) if name in handles
    ]
    axes.legend(
        [handles[name] for name in known], known, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8
    )
