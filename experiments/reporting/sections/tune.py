"""Of `experiments.tune`: what each search found, how it got there, and every set of parameters that it tried."""

from __future__ import annotations

from itertools import accumulate

import polars as pl

from experiments.reporting import charts
from experiments.reporting.content import Column, Part, Picture, Table
from experiments.reporting.folder import Run
from experiments.reporting.instances import whole
from experiments.tuning.families import FOUND, TRIED


def parts(run: Run) -> list[Part]:
    """Tables and a picture of a rule's searches."""
    found = run.json(FOUND)
    trials = run.table(TRIED)
    columns = [
        Column("search"),
        Column("return per request"),
        Column("best guess"),
        Column("its return"),
        Column("trials"),
        Column("simulated requests"),
        Column("settings"),
    ]
    rows = [
        [
            name,
            one["score"],
            one["best_guess"]["name"],
            one["best_guess"]["score"],
            one["trials"],
            one["simulated_requests"],
            len(one["scenarios"]),
        ]
        for name, one in found.items()
    ]
    names = list(dict.fromkeys(key for one in found.values() for key in one["parameters"]))
    best = [[name, *(one["parameters"].get(key) for key in names)] for name, one in found.items()]
    about = "On seeds that the search did not meet; the best guess is where it started from."
    return [
        Table("Searches", columns, rows, about),
        _course(trials),
        Table("What is stored", [Column("search"), *map(Column, names)], best),
        whole(trials, "Trials", "A row for each set of parameters, as in trials.csv; guesses first."),
    ]


def _course(trials: pl.DataFrame) -> Picture:
    series = {}
    for (name,), frame in trials.group_by("search", maintain_order=True):
        best = list(accumulate(frame["score"].to_list(), max))
        numbers = list(range(1, len(best) + 1))
        series[str(name)] = (numbers, best, [f"trial {number}" for number in numbers])
    drawn = charts.points(
        series,
        charts.axis("trials, guesses included"),
        charts.axis("best return per request so far", rangemode="normal"),
        lines=True,
    )
    return Picture("Course of the searches", drawn, "On the seeds of the search.")
