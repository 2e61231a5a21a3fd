"""G of policies relative to the best rule, by preset with classes of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.arena.entries import FLOOR
from experiments.common.plots import MARKERS, PALETTE, STYLE, png, titled


def figure(summary: Mapping[str, Any]) -> bytes:
    """Ratios of G to the best rule's, a row for each preset, with the bound; PNG."""
    presets = list(summary["presets"])
    shown = [policy for policy in summary["policies"] if policy != FLOOR]
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(9.5, 1.8 + 0.34 * len(presets)), dpi=200, layout="constrained")
        axes = drawn.subplots()
        step = min(0.75 / max(len(shown), 1), 0.1)
        for k, policy in enumerate(shown):
            marked = policy in summary["privileged"]
            colour = PALETTE[k % len(PALETTE)]
            ratios = [row["policies"][policy]["ratio"] for row in summary["presets"].values()]
            known = [(i, r) for i, r in enumerate(ratios) if r["value"] is not None]
            values = [r["value"] for _, r in known]
            ends = {
                name: [r["value"] if r[name] is None else r[name] for _, r in known]
                for name in ("low", "high")
            }
            axes.errorbar(
                values,
                [i + (k - (len(shown) - 1) / 2) * step for i, _ in known],
                xerr=[
                    [v - low for v, low in zip(values, ends["low"], strict=True)],
                    [high - v for v, high in zip(values, ends["high"], strict=True)],
                ],
                linestyle="none",
                marker=MARKERS[k % len(MARKERS)],
                markersize=4.0,
                elinewidth=0.9,
                color=colour,
                markerfacecolor="white" if marked else colour,
                label=policy + ("*" if marked else ""),
            )
        for i, row in enumerate(summary["presets"].values()):
            best = row["policies"][row["best"]]["g"]["value"]
            if best > 0:
                label = "bound" if i == 0 else "_"
                axes.vlines(
                    row["bound"]["g"] / best, i - 0.4, i + 0.4, color="0.2", linewidth=1.5, label=label
                )
            if i:
                apart = presets[i].partition("/")[0] != presets[i - 1].partition("/")[0]
                axes.axhline(i - 0.5, color="0.6" if apart else "0.9", linewidth=0.8, zorder=0)
        axes.axvline(1.0, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.set_yticks(range(len(presets)), presets)
        axes.set_ylim(len(presets) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("G (worth served in time / worth offered), over that of the preset's best rule")
        figures = [
            row["policies"][policy]["ratio"] for row in summary["presets"].values() for policy in shown
        ]
        axes.set_title(titled("Headroom by preset", "95 % intervals", figures))
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        if summary["privileged"]:
            drawn.supxlabel("* privileged: reads what no scheduler can see", x=0.995, ha="right", fontsize=8)
        return png(drawn)


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
