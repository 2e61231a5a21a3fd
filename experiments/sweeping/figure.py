"""The picture of a sweep: designs and fronts, a panel for each scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import polars as pl
from matplotlib.figure import Figure

from experiments.common.plots import MARKERS, PALETTE, STYLE, png
from experiments.sweeping.definition import Sweep


def figure(summary: Mapping[str, Any], designs: Mapping[str, pl.DataFrame], sweep: Sweep) -> bytes:
    """Designs by the first two objectives, the front in lines, the question's first path in colours; PNG."""
    x, y = (sweep.objectives[k].measure for k in (0, min(1, len(sweep.objectives) - 1)))
    path = sweep.question.paths[0] if sweep.question else sweep.paths[0]
    values = sorted({value for found in designs.values() for value in found[path].unique().to_list()})
    # A range has too many for a legend.
    shown = values if len(values) <= len(PALETTE) else []
    with mpl.rc_context(STYLE):
        drawn = Figure(figsize=(4.4 * len(designs) + 0.6, 4.0), dpi=200, layout="constrained")
        panels = drawn.subplots(1, len(designs), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (name, found) in zip(panels, designs.items(), strict=True):
            for k, value in enumerate(shown or [None]):
                part = found if value is None else found.filter(pl.col(path) == value)
                label = None if value is None else f"{value:g}" if isinstance(value, float) else str(value)
                mark = {"marker": MARKERS[k], "color": PALETTE[k], "linestyle": "none", "markersize": 4}
                axes.plot(part[x].to_numpy(), part[y].to_numpy(), label=label, **mark)
            best = pl.DataFrame(summary["schedulers"][name]["front"], schema=found.schema).sort(x)
            axes.plot(best[x].to_numpy(), best[y].to_numpy(), color="0.3", linewidth=1, zorder=0)
            axes.set_title(f"{name} (front: {len(best)} of {len(found)})")
            axes.set_xlabel(f"{x} ({sweep.objectives[0].goal})")
            axes.grid(color="0.92", linewidth=0.6)
        panels[0].set_ylabel(f"{y} ({sweep.objectives[min(1, len(sweep.objectives) - 1)].goal})")
        if shown and any(len(found) for found in designs.values()):
            panels[0].legend(title=path.rpartition(".")[2])
        return png(drawn)
