"""What is printed of serving presets: goodput, latencies, joules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.arena.tables.energy import LEGEND, causes_table
from experiments.arena.tables.text import (
    bracketed,
    how_it_ran,
    marked,
    notes_on_rows,
    of_baseline,
    own_systems,
    scaled,
    shown,
)


def print_report(console: Console, summary: Mapping[str, Any], session: Mapping[str, Any]) -> None:
    """A table over all scenarios, one for each of them where there are several, and what must be known to read them."""
    rows = shown(summary)
    scenarios = summary["scenarios"]
    figure = summary.get("figure", "goodput")
    console.print(_table("all scenarios" if len(scenarios) > 1 else scenarios[0], rows, figure), "")
    if len(scenarios) > 1:
        for name in scenarios:
            console.print(_table(name, [{**row, **row["by_scenario"][name]} for row in rows], figure), "")
    console.print(causes_table(rows), "")
    for line in legend(summary, session):
        console.print(line, style="dim", markup=False, highlight=False)


def _table(title: str, rows: Sequence[Mapping[str, Any]], figure: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(escape(title), overflow="fold", vertical="bottom")
    for name in (
        "goodput [95 %]\ntokens/s" if figure == "goodput" else "G [95 %]",
        "ratio [95 %]",
        "met\n%",
        "TTFT s\np50/p99",
        "TPOT ms\np50/p99",
        "J per\ntoken",
    ):
        table.add_column(escape(name), justify="right", no_wrap=True, vertical="bottom")
    best = _best(rows, figure)
    for row in rows:
        means = row["means"]
        cells = [
            marked(row),
            _interval(row[figure]) if row["scenarios"] else "does not fit",
            _interval(row["ratio"]),
            scaled(means["attainment"], 100, ".1f"),
            f"{scaled(means['ttft_p50_s'], 1, '.2f')}/{scaled(means['ttft_p99_s'], 1, '.2f')}",
            f"{scaled(means['tpot_p50_s'], 1e3, '.0f')}/{scaled(means['tpot_p99_s'], 1e3, '.0f')}",
            scaled(means["j_per_token"], 1, ".2f"),
        ]
        table.add_row(*(f"[bold]{escape(cell)}[/]" if row is best else escape(cell) for cell in cells))
    return table


def _best(rows: Sequence[Mapping[str, Any]], figure: str) -> Mapping[str, Any] | None:
    """The highest goodput of a scheduler that a machine could run, among those that fit wherever any fits."""
    most = max((row["scenarios"] for row in rows), default=0)
    fair = [row for row in rows if not row["privileged"] and row["scenarios"] == most > 0]
    return max(fair, key=lambda row: row[figure]["value"], default=None)


def legend(summary: Mapping[str, Any], session: Mapping[str, Any]) -> list[str]:
    """What one must know to read the tables, a line each."""
    rows, baseline = shown(summary), summary["baseline"]
    seeds, scenarios = summary["seeds"], summary["scenarios"]
    several = "geometric means over scenarios of " if len(scenarios) > 1 else ""
    if "figure" in summary:
        what = "G: worth served within both objectives over worth offered, turns that never came included"
        of = "G"
    else:
        what = "Goodput: output tokens per simulated second of requests that met both latency objectives"
        of = "goodput"
    lines = [
        f"{what}. Ratio: "
        f"{several}mean {of} over that of {baseline}; {summary['instances']} instances ({len(scenarios)} "
        f"scenarios x {len(seeds)} seeds), 95 % bootstrap intervals over seeds, paired for ratios.",
        "Met: requests within both objectives, of those that finished or were rejected before the episode's end. "
        "Latencies: means of each episode's quantiles, over requests that got their first token (TTFT) or finished "
        "(TPOT). Joules of the whole machine, per token of any request.",
        LEGEND,
    ]
    lines += notes_on_rows(rows, len(seeds), "what no scheduler can see", "scenarios", len(scenarios))
    own = of_baseline(summary)
    without = [name for name in scenarios if not own["by_scenario"][name]["scenarios_with_ratio"]]
    if without:
        lines.append(
            f"{baseline} does not fit, or has no good token, in {', '.join(without)}: there is no ratio there."
        )
    lines += own_systems(summary)
    return lines + how_it_ran(summary, session)


def _interval(estimate: Mapping[str, float | None]) -> str:
    """`value [low, high]` with three digits, or all before the point; no brackets where there is no interval."""
    value, low, high = (
        None if x is None else f"{x:.{2 if x < 9.995 else 1 if x < 99.95 else 0}f}"
        for x in (estimate["value"], estimate["low"], estimate["high"])
    )
    return bracketed(value, low, high)
