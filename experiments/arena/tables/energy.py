"""What is printed of joules by cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.arena.measures import ENERGY_CAUSES
from experiments.arena.tables.text import marked, scaled

LEGEND = (
    "Energy by cause: percent of all joules, means over instances. Background: what stacks draw above idle while their "
    "banks work. Idle: static power over the time."
)


def causes_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Energy by cause in percent, of the entries that fit somewhere."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("energy % by cause", overflow="fold")
    for cause in ENERGY_CAUSES:
        table.add_column(cause, justify="right", no_wrap=True)
    for row in rows:
        shares = row["energy_by_cause"]
        if shares["idle"] is not None:
            table.add_row(
                escape(marked(row)), *(scaled(shares[cause], 100, ".1f") for cause in ENERGY_CAUSES)
            )
    return table
