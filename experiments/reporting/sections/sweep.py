"""Of `experiments.sweep`: designs between two objectives, those that nothing dominates, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from experiments.common.parts import scan
from experiments.reporting import charts
from experiments.reporting.content import MOST_ROWS, Column, Picture, Table
from experiments.reporting.folder import Run
from experiments.sweeping.definition import Sweep
from experiments.sweeping.fronts import summarize


def parts(run: Run) -> list[Table | Picture]:
    """Tables and pictures of a sweep."""
    kept = run.json("summary.json")
    sweep = Sweep.model_validate(run.configuration["sweep"])
    summary, designs = summarize(scan(run.path, foreign=True), sweep)
    found: list[Table | Picture] = [_picture(sweep, designs, summary["schedulers"])]
    found += [_front(sweep, name, rows) for name, rows in kept["schedulers"].items()]
    if any(one["answer"] for one in kept["schedulers"].values()):
        found.append(_answers(kept["schedulers"]))
    counts = [Column("designs"), Column("count")]
    refused = [["in all", kept["designs"]], *([f"refused: {why}", n] for why, n in kept["refused"].items())]
    found.append(Table("What became of designs", counts, refused))
    return found + [_designs(sweep, name, frame) for name, frame in designs.items()]


def _axis(sweep: Sweep, number: int) -> dict[str, Any]:
    one = sweep.objectives[number]
    return charts.axis(f"{one.measure} ({'more' if one.goal == 'max' else 'less'} is better)")


def _picture(sweep: Sweep, designs: Mapping[str, pl.DataFrame], schedulers: Mapping[str, Any]) -> Picture:
    """All designs by their first two objectives, and the front of each scheduler; one objective by the design."""
    first = sweep.objectives[0].measure
    second = sweep.objectives[1].measure if len(sweep.objectives) > 1 else "design"
    data: list[dict[str, Any]] = []
    for number, (name, frame) in enumerate(designs.items()):
        values = zip(*(frame[path].to_list() for path in sweep.paths), strict=True)
        words = [
            ", ".join(
                f"{path.rpartition('.')[2]} {value}" for path, value in zip(sweep.paths, row, strict=True)
            )
            for row in values
        ]
        look = charts.look(number)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": frame[first].to_list(),
                "y": frame[second].to_list(),
                "text": words,
                "marker": look | {"size": 6, "opacity": 0.55},
                "hovertemplate": "%{text}<br>%{x:.4g}, %{y:.4g}<extra>%{fullData.name}</extra>",
            }
        )
        if second != "design":
            front = schedulers[name]["front"]
            order = sorted((row[first], row[second]) for row in front)
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": f"front: {name}",
                    "x": [x for x, _ in order],
                    "y": [y for _, y in order],
                    "marker": look | {"size": 10},
                    "line": {"color": look["color"], "dash": "dot"},
                    "hovertemplate": "%{x:.4g}, %{y:.4g}<extra>%{fullData.name}</extra>",
                }
            )
    y = charts.axis("design") if second == "design" else _axis(sweep, 1)
    note = (
        "A point for each design that fits, under the scheduler's best policy; large ones nothing dominates"
    )
    more = " in all objectives" if len(sweep.objectives) > 2 else ""
    return Picture("Designs", charts.figure(data, _axis(sweep, 0), y), f"{note}{more}.", 560)


def _columns(sweep: Sweep) -> list[Column]:
    return [
        Column("design"),
        *map(Column, sweep.paths),
        Column("policy"),
        *(Column(o.measure) for o in sweep.objectives),
    ]


def _front(sweep: Sweep, name: str, found: Mapping[str, Any]) -> Table:
    columns = _columns(sweep)
    rows = [[row[column.name] for column in columns] for row in found["front"]]
    return Table(f"Pareto front: {name}", columns, rows, f"{found['designs']} designs fit and were played.")


def _designs(sweep: Sweep, name: str, frame: pl.DataFrame) -> Table:
    columns = _columns(sweep)
    rows = [list(row) for row in frame.select(column.name for column in columns).head(MOST_ROWS).rows()]
    more = f" The first {MOST_ROWS} of {len(frame)}." if len(frame) > MOST_ROWS else ""
    return Table(f"All designs: {name}", columns, rows, f"Under the scheduler's best policy on each.{more}")


def _answers(schedulers: Mapping[str, Any]) -> Table:
    columns = [
        Column("scheduler"),
        Column("settings of the other axes"),
        Column("asked values are best"),
        Column("nothing dominates them"),
        Column("mean gain of the best", "%", 100, 2),
        Column("best instead"),
    ]
    rows = []
    for name, found in schedulers.items():
        answer = found["answer"]
        best = "; ".join(f"{values}: {count}" for values, count in answer["others"].items())
        rows.append([name, answer["settings"], answer["best"], answer["undominated"], answer["gain"], best])
    return Table(
        "The answer", columns, rows, "How the values that the sweep asks about fare, all else the same."
    )
