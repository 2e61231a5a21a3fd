"""Of `experiments.curves`: learning curves of groups of trainings, beside what other policies earn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.common.statistics import Estimate
from experiments.reporting import charts
from experiments.reporting.content import Cell, Column, Part, Picture, Table
from experiments.reporting.folder import Run

_TIMES = ("first", "best", "last")
_X = {"steps": "environment steps", "wall": "training time (s)"}


def parts(run: Run) -> list[Part]:
    """Tables of groups and of other policies, and their curves."""
    summary = run.json("summary.json")
    regret = summary["y"] == "regret"
    unit, digits = ("%", 3) if regret else ("", None)
    columns = [
        Column("group"),
        Column("runs"),
        Column("seeds"),
        Column("steps"),
        *(Column(name, unit, 1, digits) for name in _TIMES),
        Column("training time", "s", 1, 0),
        Column("notes"),
    ]
    rows: list[list[Cell]] = [
        [
            row["group"],
            row["runs"],
            ", ".join(map(str, row["seeds"])),
            row["steps"],
            *(Estimate(row[name]["iqm"], row[name]["low"], row[name]["high"]) for name in _TIMES),
            row["wall_s"],
            "; ".join(row["notes"]),
        ]
        for row in summary["groups"]
    ]
    what = "Regret over the oracle" if regret else "Score"
    about = (
        f"{what} at the first, the best and the last validation: interquartile mean over runs, with the lowest and "
        f"the highest; {summary['settings']} settings, {summary['episodes']} episodes each."
    )
    others: list[list[Cell]] = [[name, value] for name, value in summary["references"].items()]
    return [
        Table("Groups", columns, rows, about),
        Table(
            "Policies that were not trained",
            [Column("policy"), Column("regret" if regret else "score", unit, 1, digits)],
            others,
            "On the very instances.",
        ),
        _curves(summary, f"regret ({unit} of the oracle's cost)" if regret else "score"),
    ]


def _curves(summary: Mapping[str, Any], called: str) -> Picture:
    """A line for each group, and a level one for each other policy."""
    series = {}
    for row in summary["groups"]:
        curve = row["curve"]
        series[row["group"]] = (curve["x"], curve["iqm"], [row["group"]] * len(curve["x"]))
    most = max(x for row in summary["groups"] for x in row["curve"]["x"])
    for name, value in summary["references"].items():
        series[name] = ([0.0, most], [value, value], [name] * 2)
    drawn = charts.points(
        series, charts.axis(_X[summary["x"]]), charts.axis(called, rangemode="normal"), lines=True
    )
    return Picture("Learning curves", drawn, "Interquartile means over the runs of a group.", 460)
