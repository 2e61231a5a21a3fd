"""Speed-up by scenario and regret by entry."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from experiments.arena.tables.text import picture_label
from experiments.common.plots import (
    GREYS,
    MARKERS,
    PALETTE,
    STYLE,
    interval_end,
    interval_errors,
    png,
    titled,
)


def figure(summary: Mapping[str, Any]) -> bytes:
    """Speed-up by scenario and regret by entry, as PNG; `summary` is what summary.json holds."""
    rows = [row for row in summary["entries"] if not row["reference"] and row["settings"]]
    groups = list(rows[0]["by_scenario"]) if rows else []
    with mpl.rc_context(STYLE):
        width = min(max(7.5, 2.2 + 1.35 * (len(groups) + 1)), 20)
        drawn = Figure(figsize=(width, 4.0 + 0.24 * len(rows)), dpi=200, layout="constrained")
        top, bottom = drawn.subplots(2, 1, height_ratios=(3.4, 0.5 + 0.24 * len(rows)))
        _speedups(top, rows, groups, summary["baseline"])
        _regrets(bottom, rows)
        notes = [
            "* privileged: reads what no scheduler can see" if any(row["privileged"] for row in rows) else "",
            "† does not fit every setting" if any(row["does_not_fit"] for row in rows) else "",
        ]
        if any(notes):
            drawn.supxlabel("   ".join(note for note in notes if note), x=0.995, ha="right", fontsize=8)
        return png(drawn)


def _styles(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Colour and marker of each entry; both differ, so that print without colour can be read too."""
    entries = Counter(row["system"] for row in rows)
    rivals = any(count > 1 for count in entries.values())
    colors, greys = cycle(PALETTE), cycle(GREYS)
    return [
        {"color": next(greys if rivals and entries[row["system"]] == 1 else colors), "marker": marker}
        for row, marker in zip(rows, cycle(MARKERS), strict=False)
    ]


def _speedups(axes: Axes, rows: Sequence[Mapping[str, Any]], groups: Sequence[str], baseline: str) -> None:
    """Points with intervals in a group per scenario, and one for all of them together."""
    step = min(0.86 / max(len(rows), 1), 0.15)
    for i, (row, style) in enumerate(zip(rows, _styles(rows), strict=True)):
        figures = [row["by_scenario"][name]["speedup"] for name in groups]
        if len(groups) > 1:
            figures.append(row["speedup"])
        points = [
            (group + (i - (len(rows) - 1) / 2) * step, figure)
            for group, figure in enumerate(figures)
            if figure["value"] is not None
        ]
        x = [at for at, _ in points]
        y = [figure["value"] for _, figure in points]
        axes.errorbar(
            x,
            y,
            yerr=interval_errors([figure for _, figure in points]),
            linestyle="none",
            markersize=5,
            elinewidth=1.1,
            markerfacecolor="white" if row["privileged"] else style["color"],
            label=picture_label(row),
            **style,
        )
    count = len(groups) + (len(groups) > 1)
    for group in range(1, count):
        axes.axvline(group - 0.5, color="0.85", linewidth=0.8, zorder=0)
    if len(groups) > 1:
        axes.axvspan(count - 1.5, count - 0.5, color="0.95", zorder=0)
    axes.axhline(1, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yscale("log")
    axes.set_xlim(-0.5, count - 0.5)
    labels = [_wrapped(name) for name in groups] + (["geometric\nmean"] if len(groups) > 1 else [])
    axes.set_xticks(range(count), labels)
    axes.tick_params(axis="x", length=0)
    _plain_log_ticks(axes)
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylabel(f"speed-up over {baseline}")
    axes.set_title(titled("a  End-to-end speed-up", "95 % intervals", [row["speedup"] for row in rows]))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.4, labelspacing=0.6)


def _plain_log_ticks(axes: Axes) -> None:
    """Ticks written out, closer together where the axis spans less."""
    low, high = axes.get_ylim()
    subs = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if high / low < 12 else (1, 2, 5)
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=50))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _regrets(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """A bar per entry, with its value."""
    values = [row["regret_percent"]["value"] for row in rows]
    edges = [interval_end(row["regret_percent"], "high") for row in rows]
    colors = [style["color"] for style in _styles(rows)]
    at = range(len(rows))
    bars = axes.barh(
        at,
        values,
        xerr=interval_errors([row["regret_percent"] for row in rows]),
        color=colors,
        height=0.7,
        error_kw={"elinewidth": 1.0},
    )
    for bar, row in zip(bars, rows, strict=True):
        if row["privileged"]:
            bar.set(facecolor="white", edgecolor=bar.get_facecolor(), hatch="///")
    reach = max(edges, default=0.0)
    for i, row in enumerate(rows):
        axes.annotate(
            f"{round(row['regret_percent']['value'], 1) + 0.0:.1f}",
            (max(edges[i], 0.0), i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(at, [picture_label(row) for row in rows])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    lows = [interval_end(row["regret_percent"], "low") for row in rows]
    # Rounding alone must not open a side below zero.
    axes.set_xlim(left=0 if min(lows, default=0) > -0.05 else None, right=max(reach * 1.15, 1))
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("cost above the oracle of the same system, prefill left out (%)")
    axes.set_title(titled("b  Regret", "95 % intervals", [row["regret_percent"] for row in rows]))


def _wrapped(name: str) -> str:
    return "\n".join(line for part in name.split("/") for line in textwrap.wrap(part, 16))
