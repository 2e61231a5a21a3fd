"""Of `experiments.kill`: what was killed how often, and what came of it."""

from __future__ import annotations

from experiments.killing.trials import TARGETS
from experiments.reporting.content import Column, Part, Table
from experiments.reporting.folder import Run

_COUNTS = {"kills": "kills", "runs": "runs", "sessions": "sessions", "given up": "given_up"}


def parts(run: Run) -> list[Part]:
    """A table of cases and, if there are any, one of what was not the same."""
    found = run.json("summary.json")
    columns = [Column("command"), Column("jobs on"), Column("killed"), *map(Column, _COUNTS), Column("wrong")]
    rows = [
        [case["name"], case["backend"], TARGETS[case["target"]]]
        + [case[key] for key in _COUNTS.values()]
        + [len(case["wrong"])]
        for case in found["cases"]
    ]
    totals = [sum(row[k] for row in rows) for k in range(3, len(columns))]
    about = (
        "A session is a start of the command, a run goes on until it ends by itself; given up: a session that lost the "
        "processes of one job again and again, said so and ended. Wrong: results that differ from those of a run in "
        "peace, and files of jobs left behind."
    )
    wrong = [[line] for case in found["cases"] for line in case["wrong"]]
    return [
        Table("Kills", columns, [*rows, ["all", "", "", *totals]], about),
        *([Table("What was wrong", [Column("what")], wrong)] if wrong else []),
    ]
