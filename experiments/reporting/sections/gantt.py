"""Units and requests over simulated time, from the trace and the table of requests that `experiments.serve` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from experiments.reporting import charts
from experiments.reporting.content import Picture, Table
from papi_env.envs.serving_timeline import ServingTimeline

# chosen: bars of a picture; more are slow to zoom on a phone (range 1e3-1e4).
MOST_BARS = 4000
_US = 1e6
_EXACT = "Lengths of bars are exact, and their places within an iteration schematic."
# The legend stands above the figure, for the range slider is below it.
_ABOVE = {
    "legend": {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
    "margin": {"l": 10, "r": 10, "t": 84, "b": 40},
}
_STATUS = {"attained": 5, "late": 3, "rejected": 4, "dropped": 4, "left": 2}


def gantt(trace: Mapping[str, Any]) -> list[Table | Picture]:
    """Bars of work by unit, and requests and pages as steps below, for each policy of a trace in Chrome's format."""
    names: dict[int, str] = {}
    lanes: dict[tuple[int, int], str] = {}
    bars: dict[int, list[Mapping[str, Any]]] = {}
    levels: dict[int, list[Mapping[str, Any]]] = {}
    for event in trace["traceEvents"]:
        pid, kind = event["pid"], event["ph"]
        if kind == "M" and event["name"] == "process_name":
            names[pid] = event["args"]["name"]
        elif kind == "M" and event["name"] == "thread_name":
            lanes[pid, event["tid"]] = event["args"]["name"]
        elif kind == "X":
            bars.setdefault(pid, []).append(event)
        elif kind == "C" and event["name"] == "requests":
            levels.setdefault(pid, []).append(event)
    return [_one(name, bars.get(pid, []), levels.get(pid, []), pid, lanes) for pid, name in names.items()]


def _one(
    name: str,
    bars: list[Mapping[str, Any]],
    levels: list[Mapping[str, Any]],
    pid: int,
    lanes: Mapping[tuple[int, int], str],
) -> Picture:
    shown = bars[:MOST_BARS]
    end = (shown[-1]["ts"] + shown[-1]["dur"]) / _US if len(shown) < len(bars) else None
    data: list[dict[str, Any]] = []
    for label, colour in ServingTimeline.colours.items():
        found = [bar for bar in shown if bar["name"] == label]
        if not found:
            continue
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label,
                "base": [bar["ts"] / _US for bar in found],
                "x": [bar["dur"] / _US for bar in found],
                "y": [lanes[pid, bar["tid"]] for bar in found],
                "customdata": [[1e-3 * bar["dur"], bar["args"].get("iteration")] for bar in found],
                "width": 0.8,
                # With an edge, the shortest ones are still a pixel wide.
                "marker": {"color": colour, "line": {"color": colour, "width": 0.6}},
                "hovertemplate": "%{y}: %{customdata[0]:.3f} ms<br>iteration %{customdata[1]}"
                "<extra>%{fullData.name}</extra>",
            }
        )
    kinds = list(levels[0]["args"]) if levels else []
    kept = [level for level in levels if end is None or level["ts"] / _US <= end]
    for number, kind in enumerate(kinds):
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"requests {kind}",
                "x": [level["ts"] / _US for level in kept],
                "y": [level["args"][kind] for level in kept],
                "yaxis": "y2",
                "line": {
                    "shape": "hv",
                    "width": 1.4,
                    "color": charts.COLOURS[(number * 3 + 1) % len(charts.COLOURS)],
                },
                "hovertemplate": "%{y} at %{x:.3f} s<extra>%{fullData.name}</extra>",
            }
        )
    order = [lane for (owner, _), lane in lanes.items() if owner == pid]
    y = charts.axis("", type="category", categoryorder="array", categoryarray=order, autorange="reversed")
    drawn = charts.figure(
        data,
        charts.axis("simulated time (s)", rangeslider={"visible": True, "thickness": 0.06}, anchor="y2"),
        y | {"domain": [0.42, 1.0], "fixedrange": True},
        yaxis2=charts.axis("requests", domain=[0.0, 0.34], rangemode="tozero", fixedrange=True),
        barmode="overlay",
        **_ABOVE,
        bargap=0.1,
    )
    cut = (
        f" The first {MOST_BARS} of {len(bars)} bars; a shorter --gantt FROM TO shows later ones."
        if end
        else ""
    )
    note = f"{_EXACT} Requests: as at the end of each iteration. Drag to zoom, double-click to go back.{cut}"
    return Picture(f"Units over time: {name}", drawn, note, 620)


def requests_over_time(requests: pl.DataFrame) -> list[Table | Picture]:
    """A line for each request of the first seed from its arrival to its end, by policy: waiting, then served."""
    pictures: list[Table | Picture] = []
    first = min(requests["seed"].to_list())
    for policy in requests["policy"].unique(maintain_order=True).to_list():
        found = requests.filter((pl.col("policy") == policy) & (pl.col("seed") == first)).sort("arrival_s")
        shown = found.head(MOST_BARS // 4)
        last = max((x for x in found["last_token_s"].to_list() if x is not None and x == x), default=0.0)
        data = [_waiting(shown, last)]
        for status in sorted(shown["status"].unique().to_list()):
            data.append(_served(shown.filter(pl.col("status") == status), str(status), last))
        x = charts.axis("simulated time (s)", rangeslider={"visible": True, "thickness": 0.06})
        y = charts.axis("request, by arrival", autorange="reversed", fixedrange=True)
        drawn = charts.figure(data, x, y, **_ABOVE)
        cut = f" The first {len(shown)} of {len(found)} requests." if len(shown) < len(found) else ""
        note = f"Seed {first}. Grey: waiting; coloured: from admission to the last token, by what became of it.{cut}"
        pictures.append(Picture(f"Requests over time: {policy}", drawn, note, 560))
    return pictures


def _segments(starts: list[float], stops: list[float], rows: list[int]) -> dict[str, Any]:
    """Lines between two moments, one below the other, apart from each other."""
    xs: list[float | None] = []
    ys: list[int | None] = []
    for start, stop, row in zip(starts, stops, rows, strict=True):
        xs += [start, stop, None]
        ys += [row, row, None]
    return {"type": "scatter", "mode": "lines", "x": xs, "y": ys, "connectgaps": False}


def _waiting(shown: pl.DataFrame, last: float) -> dict[str, Any]:
    ends = [last if x is None or x != x else x for x in shown["admitted_s"].to_list()]
    lines = _segments(shown["arrival_s"].to_list(), ends, shown["request"].to_list())
    return lines | {"name": "waiting", "line": {"color": "#8a8a8a", "width": 1}, "hoverinfo": "skip"}


def _served(shown: pl.DataFrame, status: str, last: float) -> dict[str, Any]:
    known = shown.filter(pl.col("admitted_s").is_not_null() & pl.col("admitted_s").is_not_nan())
    ends = [last if x is None or x != x else x for x in known["last_token_s"].to_list()]
    lines = _segments(known["admitted_s"].to_list(), ends, known["request"].to_list())
    colour = charts.COLOURS[_STATUS.get(status, 1)]
    template = "request %{y}, %{x:.3f} s<extra>%{fullData.name}</extra>"
    return lines | {"name": status, "line": {"color": colour, "width": 2.5}, "hovertemplate": template}
