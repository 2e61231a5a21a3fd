"""Positions between random and the bound, by preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT

from experiments.arena.entries import FLOOR
from experiments.common.plots import (
    MARKERS,
    PALETTE,
    STYLE,
    interval_end,
    interval_errors,
    png,
    titled,
)

# Inches between the policies of a preset: the height of a marker.
_LINE = 0.06


def figure(summary: Mapping[str, Any]) -> bytes:
    """Positions of policies between random and the bound, a row for each preset; PNG."""
    presets = list(summary["presets"])
    shown = [policy for policy in summary["policies"] if policy != FLOOR]
    with mpl.rc_context(STYLE):
        # A line of its own for each policy, so that markers of equal positions do not hide one another.
        inches = max(0.3, _LINE * (len(shown) + 1.5))
        drawn = Figure(figsize=(8.5, 1.6 + inches * len(presets)), dpi=160, layout="constrained")
        axes = drawn.subplots()
        step = _LINE / inches
        left, right = _reach(summary, shown)
        cut = False
        for k, policy in enumerate(shown):
            marked = policy in summary["privileged"]
            colour = PALETTE[k % len(PALETTE)]
            points = [
                (i + (k - (len(shown) - 1) / 2) * step, row["policies"][policy]["position"])
                for i, row in enumerate(summary["presets"].values())
                if row["policies"][policy]["position"]["value"] is not None
            ]
            axes.errorbar(
                [position["value"] for _, position in points],
                [y for y, _ in points],
                xerr=interval_errors([position for _, position in points]),
                linestyle="none",
                marker=MARKERS[k % len(MARKERS)],
                markersize=4,
                elinewidth=1.0,
                color=colour,
                markerfacecolor="white" if marked else colour,
                label=policy + ("*" if marked else ""),
            )
            beyond = [y for y, position in points if interval_end(position, "low") < left]
            if beyond:
                cut = True
                where = [left] * len(beyond)
                axes.plot(where, beyond, linestyle="none", marker=CARETLEFT, color=colour, clip_on=False)
        for i in range(1, len(presets)):
            apart = presets[i].partition("/")[0] != presets[i - 1].partition("/")[0]
            axes.axhline(i - 0.5, color="0.6" if apart else "0.9", linewidth=0.8, zorder=0)
        for x in (0, 1):
            axes.axvline(x, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.set_yticks(range(len(presets)), presets)
        axes.set_ylim(len(presets) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("way from random (0) to the bound that no policy exceeds (1), by return")
        axes.set_xlim(left, right)
        axes.set_title(titled("Headroom by preset", "95 % intervals", _positions(summary, shown)))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        notes = ["* privileged: reads what no scheduler can see"] if summary["privileged"] else []
        notes += ["a triangle on the left: the interval goes on"] if cut else []
        if notes:
            drawn.supxlabel("; ".join(notes), x=0.995, ha="right", fontsize=8)
        return png(drawn)


def _reach(summary: Mapping[str, Any], shown: Sequence[str]) -> tuple[float, float]:
    """Both ends of the axis: lowest position, for one wide interval would leave no room for others; highest end."""
    known = _positions(summary, shown)
    low = min((position["value"] for position in known), default=0.0)
    high = max((interval_end(position, "high") for position in known), default=1.0)
    return min(low, 0.0) - 0.05, max(high, 1.0) + 0.05


def _positions(summary: Mapping[str, Any], shown: Sequence[str]) -> list[Mapping[str, Any]]:
    """Those that are drawn."""
    found = [row["policies"][policy]["position"] for row in summary["presets"].values() for policy in shown]
    return [position for position in found if position["value"] is not None]
