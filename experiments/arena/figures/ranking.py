"""Interquartile means and performance profiles of a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.arena.summaries.ranking import LEVELS
from experiments.common.plots import MARKERS, PALETTE, STYLE, png


def figure(summary: Mapping[str, Any]) -> bytes:
    """Interquartile means with intervals, and performance profiles with bands; PNG."""
    rows = sorted(summary["entries"], key=lambda row: -(row["iqm"]["value"] or 0))
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(10, 2.2 + 0.28 * len(rows)), dpi=200, layout="constrained")
        left, right = drawn.subplots(1, 2, width_ratios=(1, 1.25))
        for i, row in enumerate(rows):
            colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
            face = "white" if row["marks"] else colour
            value = row["iqm"]["value"]
            if value is not None:
                low, high = (value if row["iqm"][end] is None else row["iqm"][end] for end in ("low", "high"))
                left.errorbar(
                    [value],
                    [i],
                    xerr=[[value - low], [high - value]],
                    color=colour,
                    marker=marker,
                    markerfacecolor=face,
                    markersize=5,
                    elinewidth=1.2,
                )
            if row["entry"] in (summary["floor"], summary["ceiling"]):
                continue
            profile = row["profile"]
            if profile["share"][0] is None:
                continue
            right.plot(
                profile["levels"],
                profile["share"],
                "--" if row["marks"] else "-",
                color=colour,
                linewidth=1.3,
                marker=marker,  # of panel a, for colours recur; from another level on where lines lie together
                markerfacecolor=face,
                markersize=4,
                markevery=(i % 8, 8),
                label=_label(row),
            )
            if profile["low"][0] is not None:
                right.fill_between(
                    profile["levels"], profile["low"], profile["high"], color=colour, alpha=0.1, linewidth=0
                )
        left.set_yticks(range(len(rows)), [_label(row) for row in rows])
        left.invert_yaxis()
        left.tick_params(axis="y", length=0)
        for x in (0, 1):
            left.axvline(x, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        left.set_xlabel(f"interquartile mean, {summary['floor']} = 0, {summary['ceiling']} = 1")
        left.set_title("a  Position (95 % intervals)")
        right.set_xlim(float(LEVELS[0]), float(LEVELS[-1]))
        right.set_ylim(0, 1.02)
        right.set_xlabel("position")
        right.set_ylabel("share of runs and settings above it")
        right.set_title("b  Performance profiles (pointwise 95 % bands)")
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        for axes in (left, right):
            axes.grid(axis="x", color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
        return png(drawn)


def _label(row: Mapping[str, Any]) -> str:
    runs = f" ({row['training_runs']})" if row["training_runs"] else ""
    return f"{row['entry']}{row['marks']}{runs}"
