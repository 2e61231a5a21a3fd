"""Interquartile means and performance profiles of a ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.arena.summaries.ranking import LEVELS
from experiments.common.plots import MARKERS, PALETTE, STYLE, interval_errors, png, titled

# chosen: bands that can be told apart where they overlap (range 2-5).
BANDS = 3


def figure(summary: Mapping[str, Any]) -> bytes:
    """Interquartile means with intervals, and performance profiles with bands; PNG."""
    rows = sorted(summary["entries"], key=lambda row: -(row["iqm"]["value"] or 0))
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(10, 2.2 + 0.28 * len(rows)), dpi=200, layout="constrained")
        left, right = drawn.subplots(1, 2, width_ratios=(1, 1.7))
        profiled = [row for row in rows if _profiled(row, summary)]
        # Bands of all would hide the lines.
        banded = [row for row in profiled if not row["marks"] and row["profile"]["low"][0] is not None][
            :BANDS
        ]
        for i, row in enumerate(rows):
            colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
            face = "white" if row["marks"] else colour
            value = row["iqm"]["value"]
            if value is not None:
                left.errorbar(
                    [value],
                    [i],
                    xerr=interval_errors([row["iqm"]]),
                    color=colour,
                    marker=marker,
                    markerfacecolor=face,
                    markersize=5,
                    elinewidth=1.2,
                )
            if row not in profiled:
                continue
            profile = row["profile"]
            right.plot(
                profile["levels"],
                profile["share"],
                "--" if row["marks"] else "-",
                color=colour,
                linewidth=1.3,
                marker=marker,  # from another level on where lines lie together
                markerfacecolor=face,
                markersize=4,
                markevery=(i % 8, 8),
            )
            if row in banded:
                right.fill_between(
                    profile["levels"], profile["low"], profile["high"], color=colour, alpha=0.15, linewidth=0
                )
        left.set_yticks(range(len(rows)), [_label(row) for row in rows])
        left.invert_yaxis()
        left.tick_params(axis="y", length=0)
        for x in (0, 1):
            left.axvline(x, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        left.set_xlabel(f"interquartile mean, {summary['floor']} = 0, {summary['ceiling']} = 1")
        left.set_title(titled("a  Position", "95 % intervals", [row["iqm"] for row in rows]))
        right.set_xlim(_first(profiled), float(LEVELS[-1]))
        right.set_ylim(0, 1.02)
        bands = f"shaded: pointwise 95 % bands of the best {len(banded)}" if banded else ""
        right.set_xlabel("; ".join(filter(None, ("position", "colours and markers of a", bands))))
        right.set_ylabel("share of runs and settings above it")
        right.set_title("b  Performance profiles")
        for axes in (left, right):
            axes.grid(axis="x", color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
        return png(drawn)


def _profiled(row: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Whether an entry has a profile; those that positions are measured by have none."""
    return (
        row["entry"] not in (summary["floor"], summary["ceiling"]) and row["profile"]["share"][0] is not None
    )


def _first(rows: Sequence[Mapping[str, Any]]) -> float:
    """The last level up to which the share of every entry stays the same: what comes before says nothing."""
    levels, first = LEVELS.tolist(), float(LEVELS[0])
    for k, level in enumerate(levels):
        if any(row["profile"]["share"][k] != row["profile"]["share"][0] for row in rows):
            break
        first = level
    return first


def _label(row: Mapping[str, Any]) -> str:
    runs = f" ({row['training_runs']})" if row["training_runs"] else ""
    return f"{row['entry']}{row['marks']}{runs}"
