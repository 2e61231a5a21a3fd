"""Relative differences by group, a panel for each comparator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from experiments.arena.tables.claims import figures_of, labels_of, name_of
from experiments.common.plots import (
    MARKERS,
    PALETTE,
    STYLE,
    interval_end,
    interval_errors,
    png,
    titled,
)

# Of the picture: panels in a row; the percentage from which on an axis is logarithmic, but for its middle, and the
# half-width of that. chosen: that differences of a few per cent can be read beside those of thousands.
_PANELS, _FAR, _LINEAR = 4, 300.0, 10.0


def figure(summary: Mapping[str, Any]) -> bytes:
    """Relative differences with intervals by group, a panel for each comparator, a colour for each challenger; PNG."""
    challengers = summary["challengers"]
    against = list(dict.fromkeys(name_of(other) for row in challengers for other in row["against"]))
    labels = labels_of(summary)
    down = -(-len(against) // _PANELS)
    across = -(-len(against) // down)
    height = 0.8 + len(labels) * (0.14 + 0.1 * len(challengers))
    with mpl.rc_context(STYLE):
        drawn_on = Figure(figsize=(2.2 + 2.6 * across, 0.5 + height * down), dpi=200, layout="constrained")
        panels = drawn_on.subplots(down, across, sharey=True, squeeze=False)
        for axes in panels.flat[len(against) :]:
            axes.set_visible(False)
        drawn: dict[str, Any] = {}
        shown: list[Mapping[str, Any]] = []
        for axes, name in zip(panels.flat, against, strict=False):
            found = [
                next((figures_of(other) for other in row["against"] if name_of(other) == name), [])
                for row in challengers
            ]
            shown += [figure for figures in found for figure in figures]
            points = _draw(axes, found, [bool(row["marks"]) for row in challengers])
            drawn.update({name_of(challengers[k]): point for k, point in points.items()})
            axes.set_title(f"against {name}", fontsize=9)
            axes.axhspan(len(labels) - 1.5, len(labels) - 0.5, color="0.95", zorder=0)
        panels[0, 0].set_yticks(range(len(labels)), labels)
        drawn_on.supylabel(summary["grouped_by"], fontsize=9)
        panels[0, 0].set_ylim(len(labels) - 0.5, -0.5)
        drawn_on.supxlabel(f"mean return above the other's, percent of it ({summary['better']})", fontsize=9)
        title = name_of(challengers[0]) if len(challengers) == 1 else "Challengers"
        drawn_on.suptitle(
            titled(f"{title} against others", "95 % intervals", shown), x=0.01, ha="left", fontweight="bold"
        )
        if len(challengers) > 1:
            drawn_on.legend(list(drawn.values()), list(drawn), loc="outside upper right", ncols=len(drawn))
        return png(drawn_on)


def _draw(axes: Any, found: Sequence[Sequence[Mapping[str, Any]]], hollow: Sequence[bool]) -> dict[int, Any]:
    """Draw figures of challengers against one comparator, from the top down; returns the points by challenger."""
    drawn, reach = {}, 0.0
    for k, figures in enumerate(found):
        rows = [i for i, figure in enumerate(figures) if figure["value"] is not None]
        if not rows:
            continue
        known = [figures[i] for i in rows]
        reach = max(
            reach,
            *(-100 * interval_end(figure, "low") for figure in known),
            *(100 * interval_end(figure, "high") for figure in known),
        )
        colour = PALETTE[(k + 1) % len(PALETTE)]
        drawn[k] = axes.errorbar(
            [100 * figure["value"] for figure in known],
            np.array(rows) + (k - (len(found) - 1) / 2) * 0.5 / len(found),
            xerr=100 * np.array(interval_errors(known)),
            linestyle="none",
            color=colour,
            marker=MARKERS[k % len(MARKERS)],
            markerfacecolor="white" if hollow[k] else colour,
            markersize=4.5,
            elinewidth=1.2,
        )
    if reach > _FAR:
        axes.set_xscale("symlog", linthresh=_LINEAR)
        axes.xaxis.set_major_formatter("{x:.0f}")
    axes.axvline(0, color="0.2", linewidth=1.0, zorder=1)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    return drawn
