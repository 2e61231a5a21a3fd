"""What is printed of static batches and image encodes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.arena.measures import REGRET_PARTS
from experiments.arena.tables.energy import LEGEND, causes_table
from experiments.arena.tables.text import (
    bracketed,
    how_it_ran,
    marked,
    notes_on_rows,
    of_baseline,
    own_systems,
    shown,
)

_SCENARIOS_ABREAST = 6


def _interval(estimate: Mapping[str, float | None], digits: int) -> str:
    """`value [low, high]`, without the brackets where there is no interval."""
    # Adding 0 turns a rounded -1e-12 from "-0.0" into "0.0".
    value, low, high = (
        None if (x := estimate[key]) is None else f"{round(x, digits) + 0.0:.{digits}f}"
        for key in ("value", "low", "high")
    )
    return bracketed(value, low, high)


def _significant(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


def _best(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The fastest entry that a machine could run, among those that fit every setting that any fits."""
    most = max((row["settings_with_baseline"] for row in rows), default=0)
    fair = [row for row in rows if not row["privileged"] and row["settings_with_baseline"] == most > 0]
    return max(fair, key=lambda row: row["speedup"]["value"])["entry"] if fair else None


def _name(row: Mapping[str, Any], best: str | None) -> str:
    name = marked(row).replace("[", r"\[")
    return f"[bold]{name}[/]" if row["entry"] == best else name


def main_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Speed-up, tokens/s, J/token (images where nothing decodes) and regret of the entries asked for."""
    images = all(row["tokens_per_s"] is None for row in rows) and any(row["images_per_s"] for row in rows)
    thing = "image" if images else "token"
    best = _best(rows)
    invalid = any(row["invalid_actions"] for row in rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("entry", overflow="fold")
    for name in ("speed-up [95 %]", f"{thing}s/s", f"J/{thing}", "regret % [95 %]"):
        table.add_column(name.replace("[", r"\["), justify="right", no_wrap=True)
    if invalid:
        table.add_column("invalid", justify="right")
    for row in rows:
        figures = [
            _interval(row["speedup"], 2),
            _significant(row[f"{thing}s_per_s"]),
            _significant(row[f"joules_per_{thing}"]),
            _interval(row["regret_percent"], 1),
        ]
        if not row["settings"]:
            figures[0] = "does not fit"
        if invalid:
            figures.append(str(row["invalid_actions"]))
        cells = [text.replace("[", r"\[") for text in figures]
        if row["entry"] == best:
            cells = [f"[bold]{text}[/]" for text in cells]
        table.add_row(_name(row, best), *cells)
    return table


def regret_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Regret by kernel class of the entries asked for, as far as any has some."""
    rows = [row for row in rows if row["settings"]]
    found = [row["regret_by_class"] for row in rows]
    parts = [part for part in REGRET_PARTS if any(abs(split.get(part) or 0.0) >= 0.05 for split in found)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("regret % by class", overflow="fold")
    for part in parts:
        table.add_column(REGRET_PARTS[part], justify="right", no_wrap=True)
    for row, split in zip(rows, found, strict=True):
        table.add_row(_name(row, None), *(_plain_number(split[part]) for part in parts))
    return table


def _plain_number(value: float | None) -> str:
    # Adding 0 turns a rounded -1e-12 from "-0.0" into "0.0".
    return "-" if value is None else f"{round(value, 1) + 0.0:.1f}"


def scenario_tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Speed-up by scenario, a few scenarios abreast."""
    scenarios = list(rows[0]["by_scenario"]) if rows else []
    tables = []
    for start in range(0, len(scenarios), _SCENARIOS_ABREAST):
        abreast = scenarios[start : start + _SCENARIOS_ABREAST]
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("speed-up", overflow="fold", vertical="bottom")
        for name in abreast:
            table.add_column(_narrow(name), justify="right", vertical="bottom")
        bests = [_best([{**row, **row["by_scenario"][name]} for row in rows]) for name in abreast]
        for row in rows:
            cells = []
            for name, best in zip(abreast, bests, strict=True):
                value = row["by_scenario"][name]["speedup"]["value"]
                text = "no fit" if value is None else f"{value:.2f}"
                cells.append(f"[bold]{text}[/]" if row["entry"] == best else text)
            table.add_row(_name(row, None), *cells)
        tables.append(table)
    return tables


def _narrow(name: str) -> str:
    """A scenario's name on lines of at most about ten characters."""
    return "\n".join(
        line
        for part in name.split("/")
        for line in textwrap.wrap(part.replace("_", "_ "), 10, break_on_hyphens=True)
    ).replace("_ ", "_")


def legend(summary: Mapping[str, Any], session: Mapping[str, Any]) -> list[str]:
    """What one must know to read the tables, a line each."""
    rows = shown(summary)
    instances = summary["instances"]
    lines = [
        f"Speed-up: end-to-end time of {summary['baseline']} / the entry's, prefill included; geometric means "
        f"over {instances} instances ({summary['settings']} settings x {len(summary['seeds'])} seeds), "
        "paired 95 % bootstrap intervals over seeds. Regret: cost without prefill above the oracle of the same system.",
        LEGEND,
    ]
    seen = "true costs or lengths, which no scheduler can see"
    lines += notes_on_rows(rows, len(summary["seeds"]), seen, "settings", summary["settings"])
    baseline = of_baseline(summary)
    if baseline["does_not_fit"]:
        lines.append(
            f"The baseline does not fit {summary['settings'] - baseline['settings']} of {summary['settings']} "
            f"settings, which have no speed-up: {baseline['does_not_fit'][0]}"
        )
    lines += own_systems(summary)
    for field, said in (
        ("left_out", "left out"),
        ("truncated", "cut to it"),
        ("extrapolated", "extrapolated"),
    ):
        shares = {
            name: requests[field] / (requests["requests"] + requests["left_out"])
            for name, requests in summary["requests"].items()
        }
        worst = max(shares, key=lambda name: shares[name], default=None)
        if worst is not None and shares[worst] > 0:
            lines.append(
                f"Requests beyond the model's context are {said}: {100 * shares[worst]:.2g} % in {worst}"
                + (", no more in others." if len(shares) > 1 else ".")
            )
    for system, models in summary["alpha"].items():
        found = ", ".join(f"{model} {'/'.join(f'{a:g}' for a in values)}" for model, values in models.items())
        lines.append(f"α of {system}: {found}.")
    rates = "/".join(f"{rate:g}" for rate in summary["acceptance_rates"])
    acceptance = f"Acceptance rate {rates}. " if rates else ""
    return lines + how_it_ran(summary, session, acceptance)


def print_report(console: Console, summary: Mapping[str, Any], session: Mapping[str, Any]) -> None:
    """The tables and the legend."""
    rows = shown(summary)
    console.print(main_table(rows), "")
    if summary["entries"] and "regret_by_class" in summary["entries"][0]:
        console.print(regret_table(rows), "")
    console.print(causes_table(rows), "")
    if len(summary["scenarios"]) > 1:
        for table in scenario_tables(rows):
            console.print(table, "")
    for line in legend(summary, session):
        console.print(line, style="dim", markup=False, highlight=False)
