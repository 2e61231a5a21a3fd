"""Of `experiments.fuzz`: what each reader read, and what faults came out."""

from __future__ import annotations

from experiments.reporting.content import Column, Part, Table
from experiments.reporting.folder import Run

_COLUMNS = {
    "reader": Column("reader"),
    "inputs": Column("inputs"),
    "refused": Column("refused as documented"),
    "accepted": Column("accepted"),
    "faults": Column("faults"),
    "slowest_s": Column("slowest", "s of the processor"),
    "peak_mb": Column("most memory", "MB", digits=0),
    "wall_s": Column("took", "s", digits=0),
}


def parts(run: Run) -> list[Part]:
    """A table of readers and, if there are any, one of faults."""
    found = run.json("summary.json")
    rows = [[row[name] for name in _COLUMNS] for row in found["rows"]]
    sums = [sum(row[name] for row in found["rows"]) for name in ("inputs", "refused", "accepted", "faults")]
    faults = [
        [reader, fault["error"], fault["where"], fault["count"], fault["message"]]
        for reader, some in found["faults"].items()
        for fault in some
    ]
    columns = list(map(Column, ("reader", "fault", "where", "inputs", "message")))
    return [
        Table("Readers", list(_COLUMNS.values()), [*rows, ["all", *sums, None, None, None]]),
        *([Table("Faults", columns, faults)] if faults else []),
    ]
