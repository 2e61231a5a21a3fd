"""Goodput of entries by scenario."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.arena.tables.text import of_baseline, picture_label, shown
from experiments.common.plots import MARKERS, PALETTE, STYLE, has_interval, interval_errors, png

_PANELS_ABREAST = 4


def figure(summary: Mapping[str, Any]) -> bytes:
    """Goodput of the entries by scenario, and over several scenarios its ratio to the baseline's; PNG."""
    rows, own = shown(summary), of_baseline(summary)
    figure_of = summary.get("figure", "goodput")
    called = {"goodput": "goodput (tokens/s)", "g": "G"}[figure_of]
    # Title, quantity, a figure for each row, and the baseline's value.
    panels: list[tuple[str, str, list[Mapping[str, Any]], float | None]] = [
        (
            name,
            called,
            [row["by_scenario"][name][figure_of] for row in rows],
            own["by_scenario"][name][figure_of]["value"],
        )
        for name in summary["scenarios"]
    ]
    if len(panels) > 1:
        quantity = f"{called.partition(' ')[0]} / that of {summary['baseline']}"
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
            "95 % intervals" if has_interval(one for *_, figures, _ in panels for one in figures) else "",
            f"dashed: {summary['baseline']}",
            "* privileged: reads what no scheduler can see" if any(row["privileged"] for row in rows) else "",
            "† does not fit every scenario" if any(row["does_not_fit"] for row in rows) else "",
        ]
        drawn.supxlabel("   ".join(note for note in notes if note), x=0.995, ha="right", fontsize=8)
        return png(drawn)


def _panel(axes: Any, rows: Sequence[Mapping[str, Any]], figures: Sequence[Mapping[str, Any]]) -> None:
    """A point with its interval for each entry that has one."""
    for i, (row, found) in enumerate(zip(rows, figures, strict=True)):
        value = found["value"]
        if value is None:
            continue
        colour = PALETTE[i % len(PALETTE)]
        axes.errorbar(
            [value],
            [i],
            xerr=interval_errors([found]),
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
