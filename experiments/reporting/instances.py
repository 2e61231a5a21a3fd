"""Every row of a file of a run as a table, such as of its results.csv."""

from __future__ import annotations

from collections.abc import Mapping

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
    """A row for each episode, as in results.csv."""
    return whole(frame, title, "A row for each episode, as in results.csv.")


def whole(frame: pl.DataFrame, title: str, note: str, known: Mapping[str, Column] | None = None) -> Table:
    """All columns of a file that hold anything; the first rows where there are very many.

    Args:
        frame: what the file holds.
        title, note: of the table.
        known: columns that are shown in another way than by their name in the file.
    """
    kept = [name for name in frame.columns if frame[name].null_count() < len(frame)]
    columns = [(known or {}).get(name) or Column(name, _unit(name)) for name in kept]
    rows = [
        list(row)
        for row in frame.select(kept).head(MOST_ROWS).with_columns(pl.col(pl.Boolean).cast(pl.String)).rows()
    ]
    more = (
        f" The first {MOST_ROWS} of {len(frame)} rows; the run folder holds all."
        if len(frame) > MOST_ROWS
        else ""
    )
    return Table(title, columns, rows, note + more)


def _unit(name: str) -> str:
    """The unit of a column of results.csv."""
    return _NAMED.get(name) or next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")
