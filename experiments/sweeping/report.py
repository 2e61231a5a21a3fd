"""A sweep in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.common.command import say
from experiments.sweeping.definition import Sweep

# Of a front that is long: first those that are best in the first objective; front.csv has all.
_MOST_SHOWN = 12
_WHY = {
    "machine": "cannot be built (area, power, counts)",
    "capacity": "are too small for the model",
    "limit": "are beyond a limit of the file",
    "policy": "have nothing for a policy to choose",
}


def print_report(console: Console, summary: Mapping[str, Any], sweep: Sweep) -> None:
    """Print what was tried, the front under each scheduler, and the answer."""
    refused = [f"{count} {_WHY[kind]}" for kind, count in summary["refused"].items() if count]
    say(console, f"{summary['designs']} designs" + (f"; {', '.join(refused)}" if refused else ""))
    short = _short(sweep)
    for name, found in summary["schedulers"].items():
        policies = [f"{p}{'*' if p in found['privileged'] else ''}" for p in found["policies"]]
        title = (
            f"front under {name} ({', '.join(policies)}): {len(found['front'])} of {found['designs']} designs"
        )
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        columns = {"design": "design", **short, "policy": "policy"}
        columns |= {one.measure: one.measure for one in sweep.objectives}
        for column in columns.values():
            # Wrapped between words.
            table.add_column(column.replace("_", " "), justify="right", overflow="fold")
        for row in found["front"][:_MOST_SHOWN]:
            shown = [row[name] for name in columns]
            table.add_row(*(f"{value:.5g}" if isinstance(value, float) else str(value) for value in shown))
        console.print(table)
        if len(found["front"]) > _MOST_SHOWN:
            say(console, f"... and {len(found['front']) - _MOST_SHOWN} more in summary.json")
        if found["unscored"]:
            say(
                console,
                f"{found['unscored']} more fit, but not all scenarios, or have no value of an objective",
            )
        if found["answer"] is not None:
            _print_answer(console, name, found["answer"], sweep)
    if any(found["privileged"] for found in summary["schedulers"].values()):
        say(console, "* reads the true costs: a bound on what any rule or learned policy can choose")


def _short(sweep: Sweep) -> dict[str, str]:
    """The paths that differ between designs, by their ends, which tell them apart."""
    varied = [path for axis in sweep.axes if len(axis.values or ("low", "high")) > 1 for path in axis.paths]
    for parts in (1, 2, 3):
        short = {path: ".".join(path.split(".")[-parts:]) for path in varied}
        if len(set(short.values())) == len(short):
            return short
    return {path: path for path in varied}


def _print_answer(console: Console, scheduler: str, found: Mapping[str, Any], sweep: Sweep) -> None:
    assert sweep.question is not None
    objective = sweep.objectives[0].measure
    if not found["settings"]:
        say(console, f"{sweep.question.name} under {scheduler}: no design that fits has it")
        return
    verdict = "right only in some settings"
    if found["best"] == found["settings"]:
        verdict = "right"
    elif found["undominated"] == found["settings"]:
        verdict = "right by some objective"
    elif not found["undominated"]:
        verdict = "not right"
    others = ", ".join(f"({name}) in {count}" for name, count in found["others"].items())
    say(
        console,
        f"{sweep.question.name} under {scheduler}: {verdict}: best {objective} in "
        f"{found['best']} of {found['settings']} settings of the other axes, undominated in "
        f"{found['undominated']}; the best is {100 * found['gain']:.2f} % better on average. Best: {others}",
    )
