"""What is printed of presets with classes of requests: G by policy, leads over the best rule, worth of choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.arena.entries import FLOOR
from experiments.arena.summaries.service import LEAST_G, LEAST_LOAD


def print_report(console: Console, summary: Mapping[str, Any]) -> None:
    """G of all policies by preset, then the best rule of each beside what is better, then leads over all."""
    if "alone" in summary:
        _print_alone(console, summary)
        return
    policies, privileged = summary["policies"], summary["privileged"]
    console.print(
        "Percent of the worth offered that is served in time (G); the best rule's in bold", style="bold"
    )
    table = _table("policy")
    for preset in summary["presets"]:
        table.add_column(escape(preset.replace("/", "/\n")), justify="right", no_wrap=True)
    for policy in policies:
        cells = []
        for row in summary["presets"].values():
            text = f"{100 * row['policies'][policy]['g']['value']:.1f}"
            cells.append(f"[bold]{text}[/]" if policy == row["best"] else text)
        table.add_row(escape(policy + ("*" if policy in privileged else "")), *cells)
    table.add_row("bound", *(f"{100 * row['bound']['g']:.1f}" for row in summary["presets"].values()))
    console.print(table)
    others = [p for p in policies if p not in summary["rules"] and p != FLOOR]
    console.print("\nThe best rule; ratio of G to it with its paired 95 % interval", style="bold")
    table = _table("preset")
    table.add_column("best rule")
    table.add_column("G %", justify="right")
    for policy in others:
        table.add_column(
            escape(policy + ("*" if policy in privileged else "")), justify="right", no_wrap=True
        )
    for preset, row in summary["presets"].items():
        best = row["policies"][row["best"]]
        ratios = [_interval(row["policies"][policy]["ratio"]) for policy in others]
        table.add_row(preset, escape(best["played"]), f"{100 * best['g']['value']:.1f}", *map(escape, ratios))
    console.print(table)
    count = len(summary["counted"])
    console.print(
        f"\nOver the {count} presets at {LEAST_LOAD:g} times capacity or more where the best rule serves "
        f"{LEAST_G:.0%} or more: geometric mean of the ratio",
        style="bold",
    )
    table = _table("policy")
    for name in ("ratio [95 %]", "seeds"):
        table.add_column(escape(name), justify="right")
    for policy, lead in summary["leads"].items():
        shown = escape(policy + ("*" if policy in privileged else ""))
        table.add_row(shown, escape(_interval(lead["ratio"])), str(lead.get("seeds", "")))
    console.print(table)
    if privileged:
        console.print("\n* privileged: reads what no scheduler can see", markup=False)


def _print_alone(console: Console, summary: Mapping[str, Any]) -> None:
    """What each choice adds to the G of the best rule, in points of per cent."""
    console.print(
        "What a choice is worth alone: points of G that the best rule loses with it as in Serving-v0, "
        "± half of the paired 95 % interval",
        style="bold",
    )
    table = _table("preset")
    table.add_column("G %", justify="right")
    choices = next(iter(summary["alone"].values()))["worth"]
    for choice in choices:
        table.add_column(choice.replace("_", " "), justify="right", no_wrap=True)
    for preset, row in summary["alone"].items():
        cells = []
        for worth in row["worth"].values():
            half = "" if worth["low"] is None else f" ±{50 * (worth['high'] - worth['low']):.1f}"
            cells.append(f"{100 * worth['value']:.1f}{half}")
        table.add_row(preset, f"{100 * row['g']['value']:.1f}", *cells)
    console.print(table)
    console.print("\nThe best rules:", markup=False)
    for preset, row in summary["alone"].items():
        console.print(f"  {preset}: {row['played']}", markup=False, highlight=False, soft_wrap=True)


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    return table


def _interval(estimate: Mapping[str, float | None]) -> str:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
