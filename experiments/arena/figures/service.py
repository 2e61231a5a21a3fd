"""G of policies relative to the best rule, by preset with classes of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
_LINE = 0.07
# chosen: what the second panel shows, from where the worst of good rules are on (range 0.9-0.98).
_NEAR = 0.95


def figure(summary: Mapping[str, Any]) -> bytes:
    """Ratios of G to the best rule's, a row for each preset, with the bound; PNG.

    Two panels: all of it, and what lies about the best rule, where a tenth of the first panel holds most markers.
    """
    presets = list(summary["presets"])
    shown = [policy for policy in summary["policies"] if policy != FLOOR]
    figures = [row["policies"][policy]["ratio"] for row in summary["presets"].values() for policy in shown]
    known = [ratio for ratio in figures if ratio["value"] is not None]
    inches = max(0.3, _LINE * (len(shown) + 1.5))
    with mpl.rc_context(STYLE):
        size = (9.5, 2.1 + inches * len(presets) + 0.18 * -(-(len(shown) + 1) // 3))
        drawn = Figure(figsize=size, dpi=200, layout="constrained")
        whole, near = drawn.subplots(1, 2, sharey=True, width_ratios=(1, 1.7))
        for axes in (whole, near):
            _ratios(axes, summary, shown, _LINE / inches)
            ends = _bounds(axes, summary)
            axes.grid(axis="x", color="0.9", linewidth=0.6)
            axes.tick_params(axis="y", length=0)
            axes.set_axisbelow(True)
        whole.set_yticks(range(len(presets)), presets)
        whole.set_ylim(len(presets) - 0.5, -0.5)
        whole.set_xlim(left=min([interval_end(ratio, "low") for ratio in known], default=0.0) - 0.05)
        near.set_xlim(_NEAR, max([1.0, *(interval_end(ratio, "high") for ratio in known), *ends]) + 0.01)
        whole.set_title(titled("a  All", "95 % intervals", figures))
        near.set_title(f"b  From {_NEAR:g} on")
        drawn.legend(
            *near.get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8, frameon=False
        )
        note = "; *: reads what no scheduler can see" if summary["privileged"] else ""
        drawn.supxlabel(
            f"G (worth served in time / worth offered), over that of the preset's best rule{note}", fontsize=9
        )
        return png(drawn)


def _ratios(axes: Axes, summary: Mapping[str, Any], shown: Sequence[str], step: float) -> None:
    """Ratios with their intervals, a line of its own for each policy of a preset."""
    for k, policy in enumerate(shown):
        marked = policy in summary["privileged"]
        colour = PALETTE[k % len(PALETTE)]
        ratios = [row["policies"][policy]["ratio"] for row in summary["presets"].values()]
        known = [(i, r) for i, r in enumerate(ratios) if r["value"] is not None]
        axes.errorbar(
            [r["value"] for _, r in known],
            [i + (k - (len(shown) - 1) / 2) * step for i, _ in known],
            xerr=interval_errors([r for _, r in known]),
            linestyle="none",
            marker=MARKERS[k % len(MARKERS)],
            markersize=4.0,
            elinewidth=0.9,
            color=colour,
            markerfacecolor="white" if marked else colour,
            label=policy + ("*" if marked else ""),
        )


def _bounds(axes: Axes, summary: Mapping[str, Any]) -> list[float]:
    """The bound of each preset, which is returned, the best rule's line, and lines between presets."""
    presets, bounds = list(summary["presets"]), []
    for i, row in enumerate(summary["presets"].values()):
        best = row["policies"][row["best"]]["g"]["value"]
        if best > 0:
            label = "bound" if i == 0 else "_"
            bounds.append(row["bound"]["g"] / best)
            axes.vlines(bounds[-1], i - 0.4, i + 0.4, color="0.2", linewidth=1.5, label=label)
        if i:
            apart = presets[i].partition("/")[0] != presets[i - 1].partition("/")[0]
            axes.axhline(i - 0.5, color="0.6" if apart else "0.9", linewidth=0.8, zorder=0)
    axes.axvline(1.0, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    return bounds


def alone_figure(summary: Mapping[str, Any]) -> bytes:
    """Points of G that the best rule loses without each choice, a row for each preset; PNG."""
    presets = list(summary["alone"])
    choices = list(next(iter(summary["alone"].values()))["worth"])
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(8.5, 1.6 + 0.3 * len(presets)), dpi=200, layout="constrained")
        axes = drawn.subplots()
        height = 0.8 / len(choices)
        for k, choice in enumerate(choices):
            found = [row["worth"][choice] for row in summary["alone"].values()]
            places = [i + (k - (len(choices) - 1) / 2) * height for i in range(len(presets))]
            widths = [100 * worth["value"] for worth in found]
            label = choice.replace("_", " ")
            axes.barh(places, widths, height, color=PALETTE[k % len(PALETTE)], label=label)
        axes.set_yticks(range(len(presets)), presets)
        axes.set_ylim(len(presets) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("points of G that the best rule loses with the choice as in Serving-v0")
        axes.set_title("What each choice is worth alone")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return png(drawn)
