"""Ratios and rates as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.common.command import say


def print_tables(console: Console, summary: Mapping[str, Any]) -> None:
    """Everything that was measured, then the ratios with their notes."""
    console.print(rows_table(summary["rows"]))
    console.print()
    console.print(ratio_table(summary))
    used = summary["instructions"]
    if used is not None:
        vectors = f"compiled code: {used['numba']} ({used['processor']}); numpy: {', '.join(used['numpy'])}"
        load = "" if summary["load"] is None else f"; load of the machine at the end: {summary['load']:.1f}"
        say(console, vectors + load)
    for name, entry in summary["ratios"].items():
        if entry["note"]:
            say(console, f"{name}: {entry['note']}")


def ratio_table(summary: Mapping[str, Any]) -> Table:
    """The named ratios beside what they must reach."""
    table = Table(title="Ratios, medians with quartiles", title_justify="left", box=None, pad_edge=False)
    table.add_column("ratio", no_wrap=True)
    table.add_column("what")
    for name in ("median", "quartiles", "must", "goal", "reached"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, entry in summary["ratios"].items():
        value = "-" if entry["value"] is None else ">= " * entry["at_least"] + f"{entry['value']:.3g}"
        spread = "" if entry["low"] is None else f"{entry['low']:.3g}-{entry['high']:.3g}"
        must, goal = (f"{entry[key]:g}" if key in entry else "" for key in ("must", "goal"))
        table.add_row(name, entry.get("what", ""), value, spread, must, goal, entry.get("reached") or "")
    return table


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Everything that was measured."""
    table = Table(title="Measured", title_justify="left", box=None, pad_edge=False)
    table.add_column("part", no_wrap=True)
    table.add_column("what")
    for name in ("envs", "requests", "TLP", "median", "unit", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        what = ", ".join(text for text in (row["name"].removeprefix("papi_env/"), row["variant"]) if text)
        sizes = ["" if row[key] is None else str(row[key]) for key in ("envs", "requests", "tlp")]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        table.add_row(row["part"], what, *sizes, f"{row['value']:.4g}", row["unit"], ratio)
    return table
