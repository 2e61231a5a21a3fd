"""Every row of a run's results.csv as a table."""

from __future__ import annotations

import polars as pl

from experiments.reporting.content import MOST_ROWS, Column, Table

# Ends of names in results.csv, and the units that they stand for.
_UNITS = {
    "_per_s": "1/s",
    "_s": "s",
    "_j": "J",
    "_w": "W",
    "_percent": "%",
    "_share": "share",
    "_rps": "requests/s",
}
_NAMED = {
    "throughput": "tokens/s",
    "goodput": "tokens/s",
    "j_per_token": "J/token",
    "joules_per_token": "J/token",
    "joules_per_image": "J/image",
    "tokens_per_s": "tokens/s",
    "images_per_s": "images/s",
}


def instances(frame: pl.DataFrame, title: str = "Instances") -> Table:
    """A row for each of the frame, in all columns that hold anything; the first ones where there are very many."""
    kept = [name for name in frame.columns if frame[name].null_count() < len(frame)]
    columns = [Column(name, _unit(name)) for name in kept]
    rows = [
        list(row)
        for row in frame.select(kept).head(MOST_ROWS).with_columns(pl.col(pl.Boolean).cast(pl.String)).rows()
    ]
    more = (
        f" The first {MOST_ROWS} of {len(frame)} rows; the run folder holds all."
        if len(frame) > MOST_ROWS
        else ""
    )
    return Table(title, columns, rows, f"A row for each episode, as in results.csv.{more}")


def _unit(name: str) -> str:
    """The unit of a column of results.csv."""
    return _NAMED.get(name) or next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
