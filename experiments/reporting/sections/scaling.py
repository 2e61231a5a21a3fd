"""Of `experiments.scaling`: seconds of the same comparison by backend and number of processes."""

from __future__ import annotations

from experiments.reporting.content import Column, Part, Table
from experiments.reporting.folder import Run


def parts(run: Run) -> list[Part]:
    """The table."""
    summary = run.json("summary.json")
    columns = [
        Column("backend"),
        Column("processes"),
        Column("jobs", "s", 1, 1),
        Column("jobs over one process", "×", 1, 2),
        Column("command", "s", 1, 1),
        Column("command over one process", "×", 1, 2),
    ]
    names = ("backend", "processes", "jobs_s", "jobs_over_one", "command_s", "command_over_one")
    rows = [[row[name] for name in names] for row in summary["rows"]]
    note = (
        f"Medians of {summary['repeats']} of `{summary['command']}`, whose results were the same bit for bit. Jobs: "
        "from the first that is handed out to the last result, with the start of processes of their own; command: from "
        "its start to its end."
    )
    return [Table("Scaling", columns, rows, note)]
