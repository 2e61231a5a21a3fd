"""What is printed of headroom: positions, the best scheduler, and where there is little to win."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.arena.entries import FLOOR, REFERENCE


def print_report(console: Console, summary: Mapping[str, Any]) -> None:
    """Positions, then the best scheduler of each preset, then presets in which there is little to win."""
    policies, privileged = summary["policies"], summary["privileged"]
    shown = [policy for policy in policies if policy != FLOOR]
    console.print("Percent of the way from random to the bound, ± half of the 95 % interval", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("preset", no_wrap=True)
    for policy in shown:
        label = policy.replace("-", "-\n") + ("*" if policy in privileged else "")
        table.add_column(label, justify="right", no_wrap=True, min_width=len(label.rpartition("\n")[2]))
    for preset, row in summary["presets"].items():
        table.add_row(preset, *(_percent(row["policies"][policy]["position"]) for policy in shown))
    console.print(table)
    console.print(
        "\nGoodput in tokens/s; lead over the threshold with its paired 95 % interval", style="bold"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name, justify in (("preset", "left"), ("threshold", "right"), ("best scheduler", "left")):
        table.add_column(name, justify=justify, no_wrap=name == "preset")  # type: ignore[arg-type]
    for name in ("its goodput", "lead", "bound"):
        table.add_column(name, justify="right", no_wrap=True)
    for preset, row in summary["presets"].items():
        best = row["policies"][row["best"]]
        lead = best["goodput_lead"]
        between = "" if lead["low"] is None else f" [{lead['low']:.0f}, {lead['high']:.0f}]"
        name = best["played"]
        table.add_row(
            preset,
            f"{row['policies'][REFERENCE]['goodput']:.0f}",
            name,
            f"{best['goodput']:.0f}",
            f"{lead['value']:+.0f}{between}",
            f"{row['bound']['goodput']:.0f}",
        )
    console.print(table)
    findings = {preset: row["finding"] for preset, row in summary["presets"].items() if row["finding"]}
    if findings:
        console.print("\nLittle to win:", markup=False)
        for preset, text in findings.items():
            console.print(f"  {preset}: {text}", markup=False, highlight=False)
    if privileged:
        console.print("\n* privileged: reads what no scheduler can see", markup=False)


def _percent(position: Mapping[str, float | None]) -> str:
    value, low, high = (position[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    text = f"{100 * value:.0f}"
    return text if low is None or high is None else f"{text} ±{50 * (high - low):.0f}"
