"""What `experiments.compare` prints and draws of Serving-v0: tables of goodput and latencies, a legend, a picture."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.arena.report import marked, notes_on_rows, picture_label

_PANELS_ABREAST = 4


def print_report(console: Console, summary: Mapping[str, Any], wall_s: float, reused: int) -> None:
    """A table over all scenarios, one for each of them where there are several, and what must be known to read them."""
    rows = _shown(summary)
    scenarios = summary["scenarios"]
    console.print(_table("all scenarios" if len(scenarios) > 1 else scenarios[0], rows), "")
    if len(scenarios) > 1:
        for name in scenarios:
            console.print(_table(name, [{**row, **row["by_scenario"][name]} for row in rows]), "")
    for line in legend(summary, wall_s, reused):
        console.print(line, style="dim", markup=False, highlight=False)


def _shown(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries that were asked for."""
    return [row for row in summary["entries"] if not row["reference"]]


def _of_baseline(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of the entry that the others are measured against."""
    return next(row for row in summary["entries"] if row["entry"] == summary["baseline"])


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(escape(title), overflow="fold", vertical="bottom")
    for name in (
        "goodput [95 %]\ntokens/s",
        "ratio [95 %]",
        "met\n%",
        "TTFT s\np50/p99",
        "TPOT ms\np50/p99",
        "J per\ntoken",
    ):
        table.add_column(escape(name), justify="right", no_wrap=True, vertical="bottom")
    best = _best(rows)
    for row in rows:
        means = row["means"]
        cells = [
            marked(row),
            _interval(row["goodput"]) if row["scenarios"] else "does not fit",
            _interval(row["ratio"]),
            _one(means["attainment"], 100, 1),
            f"{_one(means['ttft_p50_s'], 1, 2)}/{_one(means['ttft_p99_s'], 1, 2)}",
            f"{_one(means['tpot_p50_s'], 1e3, 0)}/{_one(means['tpot_p99_s'], 1e3, 0)}",
            _one(means["j_per_token"], 1, 2),
        ]
        table.add_row(*(f"[bold]{escape(cell)}[/]" if row is best else escape(cell) for cell in cells))
    return table


def _best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The highest goodput of a scheduler that a machine could run, among those that fit wherever any fits."""
    most = max((row["scenarios"] for row in rows), default=0)
    fair = [row for row in rows if not row["privileged"] and row["scenarios"] == most > 0]
    return max(fair, key=lambda row: row["goodput"]["value"], default=None)


def legend(summary: Mapping[str, Any], wall_s: float, reused: int) -> list[str]:
    """What one must know to read the tables, a line each."""
    rows, baseline = _shown(summary), summary["baseline"]
    seeds, scenarios = summary["seeds"], summary["scenarios"]
    several = "geometric means over scenarios of " if len(scenarios) > 1 else ""
    lines = [
        "Goodput: output tokens per simulated second of requests that met both latency objectives. Ratio: "
        f"{several}mean goodput over that of {baseline}; {summary['instances']} instances ({len(scenarios)} "
        f"scenarios x {len(seeds)} seeds), 95 % bootstrap intervals over seeds, paired for ratios.",
        "Met: requests within both objectives, of those that finished or were rejected before the episode's end. "
        "Latencies: means of each episode's quantiles, over requests that got their first token (TTFT) or finished "
        "(TPOT). Joules of the whole machine, per token of any request.",
    ]
    lines += notes_on_rows(rows, len(seeds), "what no scheduler can see", "scenarios", len(scenarios))
    own = _of_baseline(summary)
    without = [name for name in scenarios if not own["by_scenario"][name]["scenarios_with_ratio"]]
    if without:
        lines.append(
            f"{baseline} does not fit, or has no good token, in {', '.join(without)}: there is no ratio there."
        )
    for name, system in summary["own_systems"].items():
        lines.append(f"In {name}, {system} is the scenario's own system, not the registered one.")
    used = [*summary["readings"]["gpu_bandwidth"], *summary["readings"]["bank_rate"]]
    if summary["constants"] != "plain":
        used.append("constants of experiments.reproduce")
    lines.append(f"Readings: {', '.join(used)}. {summary['problem']}.")
    again = f", {reused} jobs taken from earlier sessions" if reused else ""
    lines.append(f"{wall_s:.1f} s on {summary['cores']} cores{again}.")
    return lines


def figure(summary: Mapping[str, Any]) -> bytes:
    """Goodput of the entries by scenario, and over several scenarios its ratio to the baseline's; PNG."""
    # Pictures alone need it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from experiments.common.plots import STYLE

    rows, own = _shown(summary), _of_baseline(summary)
    # Title, quantity, a figure for each row, and the baseline's value.
    panels: list[tuple[str, str, list[Mapping[str, Any]], float | None]] = [
        (
            name,
            "goodput (tokens/s)",
            [row["by_scenario"][name]["goodput"] for row in rows],
            own["by_scenario"][name]["goodput"]["value"],
        )
        for name in summary["scenarios"]
    ]
    if len(panels) > 1:
        quantity = f"goodput / that of {summary['baseline']}"
        panels.append(("all scenarios (geometric mean)", quantity, [row["ratio"] for row in rows], 1.0))
    columns = min(len(panels), _PANELS_ABREAST)
    lines = math.ceil(len(panels) / columns)
    with mpl.rc_context(STYLE):
        size = (2.6 + 2.6 * columns, lines * (1.1 + 0.3 * len(rows)) + 0.3)
        drawn = Figure(figsize=size, dpi=200, layout="constrained")
        grid = drawn.subplots(lines, columns, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (title, quantity, figures, line) in zip(grid.flat, panels, strict=False):
            _panel(axes, rows, figures)
            if line is not None:
                axes.axvline(line, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
            axes.set_title(title)
            axes.set_xlabel(quantity)
        for axes in grid[:, 0]:
            axes.set_yticks(
                range(len(rows)), ["\n".join(textwrap.wrap(picture_label(row), 32)) for row in rows]
            )
            axes.set_ylim(len(rows) - 0.5, -0.5)
        notes = [
            f"95 % intervals; dashed: {summary['baseline']}",
            "* privileged: reads what no scheduler can see" if any(row["privileged"] for row in rows) else "",
            "† does not fit every scenario" if any(row["does_not_fit"] for row in rows) else "",
        ]
        drawn.supxlabel("   ".join(note for note in notes if note), x=0.995, ha="right", fontsize=8)
        image = io.BytesIO()
        drawn.savefig(image, format="png")
    return image.getvalue()


def _panel(axes: Any, rows: Sequence[Mapping[str, Any]], figures: Sequence[Mapping[str, Any]]) -> None:
    """A point with its interval for each entry that has one."""
    from experiments.common.plots import MARKERS, PALETTE

    for i, (row, found) in enumerate(zip(rows, figures, strict=True)):
        value = found["value"]
        if value is None:
            continue
        low, high = (value if found[end] is None else found[end] for end in ("low", "high"))
        colour = PALETTE[i % len(PALETTE)]
        axes.errorbar(
            [value],
            [i],
            xerr=[[value - low], [high - value]],
            color=colour,
            marker=MARKERS[i % len(MARKERS)],
            markerfacecolor="white" if row["privileged"] else colour,
            markersize=5.5,
            elinewidth=1.3,
            clip_on=False,  # a marker at 0 is on the axis
        )
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def _interval(estimate: Mapping[str, float | None]) -> str:
    """`value [low, high]` with three digits, or all before the point; no brackets where there is no interval."""
    value, low, high = (
        "-" if x is None else _one(x, 1, 2 if x < 9.995 else 1 if x < 99.95 else 0)
        for x in (estimate["value"], estimate["low"], estimate["high"])
    )
    return value if "-" in (low, high) else f"{value} [{low}, {high}]"


def _one(value: float | None, factor: float, digits: int) -> str:
    return "-" if value is None else f"{factor * value:.{digits}f}"
