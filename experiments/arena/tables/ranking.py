"""What is printed of a ranking: positions, cost, and what is new in a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from agents.registry import plans
from experiments.arena.measures import BATCH
from experiments.arena.tables.text import interval_text, scaled, table_of


def print_report(console: Console, summary: Mapping[str, Any]) -> None:
    """The ranking, positions by what is new in a setting, failures, and what the figures mean."""
    rows = sorted(summary["entries"], key=lambda row: -(row["iqm"]["value"] or 0))
    split = summary["split"]
    part = f", of it {', '.join(split['families'])}" if "families" in split else ""
    console.print(
        f"{split['problem']}, {split['name']} split {split['sha256']}{part}: {len(summary['settings'])} settings x "
        f"{summary['instances']} instances. Percent of the way from {summary['floor']} to {summary['ceiling']}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    # Where some entries played fewer instances than others, how many is a column.
    fewer = any(row["instances"] < summary["instances"] for row in rows)
    columns = ("runs", "IQM [95 %]", f"mean over {summary['baseline']} [95 %]", "better", "failures")
    table = table_of((*columns, "n") if fewer else columns)
    for row in rows:
        cells = [
            row["entry"] + row["marks"],
            str(row["training_runs"] or "-"),
            interval_text(row["iqm"]),
            interval_text(row["over_baseline"], "+"),
            scaled(row["improvement"]["value"], 100, ".0f"),
            str(row["failures"] or "-"),
        ]
        table.add_row(*cells, *([str(row["instances"])] if fewer else []))
    console.print(table)
    console.print(
        f"better: percent of instances on which it returns more than {summary['baseline']}, ties counting half\n",
        markup=False,
        highlight=False,
    )
    console.print("Cost", style="bold", markup=False)
    table = table_of(("steps", "training s", "decision us", f"us, one of {BATCH}"))
    for row in rows:
        training, latency = row["training"], row["latency_s"]
        table.add_row(
            row["entry"] + row["marks"],
            scaled(training["steps"], 1, ",.0f"),
            scaled(training["wall_s"], 1, ",.0f"),
            scaled(latency["single_s"], 1e6, ".1f"),
            scaled(latency["batched_s"], 1e6, ".2f"),
        )
    console.print(table)
    shifts = list(rows[0]["by_shift"])
    console.print("\nMean position by what is new in a setting", style="bold", markup=False)
    counts = list(summary["settings"].values())
    table = table_of([f"{shift} ({counts.count(shift)})" for shift in shifts])
    for row in rows:
        table.add_row(
            row["entry"] + row["marks"], *(scaled(row["by_shift"][s]["value"], 100, ".1f") for s in shifts)
        )
    console.print(table)
    _notes(console, summary, rows)


def _notes(console: Console, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    notes = [f"tuned: {row['entry']}: {row['tuning']}" for row in rows if row["tuning"]]
    for row in rows:
        failed = row["failed"]
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            notes.append(f"failed, counted as {summary['floor']}: {row['entry']}: {failed[0]}{more}")
    notes += [
        f"fewer: {row['entry']}: the first {row['instances']} of {summary['instances']} instances of each setting; "
        f"its differences from {summary['baseline']} are on the instances that both played"
        for row in rows
        if row["instances"] < summary["instances"]
    ]
    if any(row["latency_s"]["single_s"] is not None and plans(row["policies"][0] or "") for row in rows):
        notes.append(
            "decision times of planners: means with their looks ahead, which they take for one environment after the "
            "other, so that one of a batch costs as much as one alone"
        )
    notes += [f"short: {text}" for text in summary["shortages"]]
    notes += [f"left out: {name} needs the trace {trace}" for name, trace in summary["left_out"].items()]
    notes += [f"no way from floor to ceiling, left out of positions: {name}" for name in summary["no_way"]]
    marks = "".join(row["marks"] for row in rows)
    if "*" in marks:
        notes.append("* privileged: reads what no scheduler can see")
    if "†" in marks:
        notes.append("† tuned on settings of this split, or on what it holds out")
    if summary["ceiling"] == "oracle":
        notes.append("oracle: the best next step, not the best episode, so other entries may exceed it")
    if notes:
        console.print()
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
