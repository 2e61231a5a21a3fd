"""Figures as Plotly takes them, plain data without Plotly: one look for all, with colours that the page's theme fits.

Names come from run folders, and Plotly reads a few HTML tags in text: `escaped` makes every string of a figure plain,
but for the templates of what is shown under the pointer, which are written here and hold no names.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common.plots import PALETTE
from experiments.common.statistics import Estimate
from experiments.reporting.content import ends

# Black is left out, which is not seen on a dark page. As many colours as markers have no common divisor: a colour and
# a marker come together again after 84 entries.
COLOURS = (*PALETTE[:-1], "#8a8a8a")
# The shapes of the pictures that commands draw, in their order.
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "triangle-down",
    "cross",
    "x",
    "star",
    "triangle-left",
    "triangle-right",
    "diamond-tall",
    "hexagon",
)
# Templates, which `escaped` leaves as they are.
_TEMPLATES = ("hovertemplate", "texttemplate")
_BESIDE = "<extra>%{fullData.name}</extra>"

Figure = dict[str, Any]
Trace = dict[str, Any]


def look(number: int, hollow: bool = False) -> dict[str, Any]:
    """Colour and marker of the entry with this number; hollow for those that read what no scheduler can see."""
    symbol = SYMBOLS[number % len(SYMBOLS)] + "-open" * hollow
    return {"color": COLOURS[number % len(COLOURS)], "symbol": symbol, "size": 9}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its title, which says the unit."""
    # Between powers of ten "0.2", where Plotly would say "2"; its first versions do not know this, and leave it.
    whole = {"minorloglabels": "complete"} if more.get("type") == "log" else {}
    return {"title": {"text": title}, "automargin": True, **whole, **more}


def figure(data: Sequence[Trace], x: Mapping[str, Any], y: Mapping[str, Any], **layout: Any) -> Figure:
    """A figure of traces between two axes."""
    return {"data": list(data), "layout": {"xaxis": dict(x), "yaxis": dict(y), **layout}}


def intervals(
    series: Mapping[str, Sequence[Estimate | None]],
    groups: Sequence[str],
    value: Mapping[str, Any],
    hollow: Sequence[str] = (),
    line: float | None = None,
) -> tuple[Figure, int]:
    """A point with its interval for each name and group, names of a group below each other; and a fitting height.

    Args:
        series: by name, an estimate for each group.
        groups: in the order of the figure, from the top.
        value: the axis of the values.
        hollow: names that are marked.
        line: where a dashed line stands.
    """
    data = []
    for number, (name, found) in enumerate(series.items()):
        points = [(group, ends(one)) for group, one in zip(groups, found, strict=True) if one is not None]
        values = [end[0] for _, end in points]
        trace: Trace = {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "offsetgroup": str(number),
            "orientation": "h",
            "y": [group for group, _ in points],
            "x": values,
            "marker": look(number, name in hollow),
            "cliponaxis": False,
            "hovertemplate": "%{y}: %{x:.4g}" + _BESIDE,
        }
        if any(low is not None for _, (_, low, _) in points):
            trace["error_x"] = {
                "type": "data",
                "symmetric": False,
                "array": [0 if h is None or v is None else h - v for _, (v, _, h) in points],
                "arrayminus": [0 if low is None or v is None else v - low for _, (v, low, _) in points],
                "thickness": 1.3,
                "width": 3,
            }
        data.append(trace)
    shapes = [] if line is None else [dashed("x", line)]
    layout = {"scattermode": "group", "scattergap": 0.25, "shapes": shapes}
    y = axis("", categoryorder="array", categoryarray=list(groups), autorange="reversed", type="category")
    if value.get("type") != "log":
        # Plotly would begin at 0 wherever the values are.
        shown = [x for found in series.values() for one in found for x in ends(one) if x is not None]
        low, high = min(shown, default=0.0), max(shown, default=1.0)
        low = min(low, 0.0) if value.get("rangemode") == "tozero" else low
        room = 0.05 * (high - low or abs(high) or 1.0)
        value = {**value, "range": [low - room, high + room]}
    height = 170 + max(26, 13 * len(series)) * len(groups) + 22 * math.ceil(len(series) / 3)
    return figure(data, value, y, **layout), height


def dashed(at: str, where: float) -> dict[str, Any]:
    """A dashed line across the figure at a value of the x or y axis."""
    along = "y" if at == "x" else "x"
    ends_of = {f"{at}0": where, f"{at}1": where, f"{along}0": 0, f"{along}1": 1, f"{along}ref": "paper"}
    return {
        "type": "line",
        "layer": "below",
        "line": {"dash": "dash", "width": 1, "color": "#8a8a8a"},
        **ends_of,
    }


def points(
    series: Mapping[str, tuple[Sequence[Any], Sequence[Any], Sequence[str]]],
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    hollow: Sequence[str] = (),
    lines: bool = False,
) -> Figure:
    """x, y and words under the pointer, by name; joined by lines where `lines`."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers" if lines else "markers",
            "name": name,
            "x": list(xs),
            "y": list(ys),
            "text": list(words),
            "marker": look(number, name in hollow) | ({"size": 6} if lines else {}),
            "line": {"color": COLOURS[number % len(COLOURS)]},
            "hovertemplate": "%{text}<br>x: %{x:.4g}<br>y: %{y:.4g}" + _BESIDE,
        }
        for number, (name, (xs, ys, words)) in enumerate(series.items())
    ]
    return figure(data, x, y)


def front(xs: Sequence[float], ys: Sequence[float], goals: tuple[str, str]) -> Trace | None:
    """A line along the points that no other one dominates; None where there are none.

    Args:
        xs, ys: of the points, finite.
        goals: "min" or "max", of x and of y.
    """
    signs = [1 if goal == "max" else -1 for goal in goals]
    order = sorted(zip(xs, ys, strict=True), key=lambda one: (-signs[0] * one[0], -signs[1] * one[1]))
    kept: list[tuple[float, float]] = []
    for point in order:
        if not kept or signs[1] * point[1] > signs[1] * kept[-1][1]:
            kept.append(point)
    if not kept:
        return None
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto front",
        "x": [x for x, _ in kept],
        "y": [y for _, y in kept],
        "line": {"color": "#8a8a8a", "dash": "dot", "shape": "linear"},
        "hoverinfo": "skip",
    }


def stacked(
    parts: Mapping[str, Sequence[float | None]], groups: Sequence[str], value: Mapping[str, Any]
) -> Figure:
    """Bars of parts on end, a bar for each group."""
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "y": list(groups),
            "x": list(values),
            "marker": {"color": COLOURS[k % len(COLOURS)]},
            "hovertemplate": "%{y}: %{x:.3g}" + _BESIDE,
        }
        for k, (part, values) in enumerate(parts.items())
    ]
    y = axis("", categoryorder="array", categoryarray=list(groups), autorange="reversed", type="category")
    return figure(data, value, y, barmode="stack")


def boxes(
    series: Mapping[str, Sequence[float]], value: Mapping[str, Any], hollow: Sequence[str] = ()
) -> Figure:
    """How values spread, a box for each name: quartiles, whiskers, and single values beyond."""
    data = [
        {
            "type": "box",
            "name": name,
            "x": list(values),
            "orientation": "h",
            "marker": look(number, name in hollow) | {"size": 4},
            "line": {"width": 1.2},
            "boxpoints": "outliers",
        }
        for number, (name, values) in enumerate(series.items())
    ]
    return figure(data, value, axis("", autorange="reversed", type="category"), showlegend=False)


def shares(series: Mapping[str, Sequence[float]], x: Mapping[str, Any], hollow: Sequence[str] = ()) -> Figure:
    """Distributions: which share of the values is at most x, by name."""
    data = []
    for number, (name, values) in enumerate(series.items()):
        found = sorted(values)
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": found,
                "y": [(k + 1) / len(found) for k in range(len(found))],
                "line": {
                    "color": COLOURS[number % len(COLOURS)],
                    "shape": "hv",
                    "dash": "dash" if name in hollow else "solid",
                },
                "hovertemplate": "%{y:.1%} within %{x:.4g}" + _BESIDE,
            }
        )
    return figure(data, x, axis("share of requests", range=[0, 1.02], tickformat=".0%"))


def escaped(value: Any, key: str = "") -> Any:
    """A figure whose strings mean themselves, and whose numbers are finite or null."""
    if isinstance(value, str):
        return value if key in _TEMPLATES else html.escape(value, quote=False)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: escaped(inner, name) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [escaped(inner, key) for inner in value]
    return value
