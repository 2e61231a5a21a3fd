"""Pictures of `experiments.reparameterize`: kernels against the thresholds, and which unit suits each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from experiments.common.plots import PALETTE, STYLE, png
from papi_env.simulation.batch import state as at

Rows = Sequence[Mapping[str, Any]]

_NAMES = dict(zip(at.STAGE_CLASSES, ("FC1, FC2", "FC3", "FFN"), strict=True))
_MARKERS = dict(zip(at.STAGE_CLASSES, ("o", "s", "^"), strict=True))
_COLORS = {"pu": PALETTE[1], "fc-pim": PALETTE[4]}
_MEASURES = {"rows": "rows per weight", "intensity": "arithmetic intensity / FLOP/B"}
_THRESHOLD: dict[str, Any] = {"color": "0.25", "linewidth": 1.1, "linestyle": (0, (4, 2))}
# chosen: as many as are readable on a page of 9 inches, which a browser shows some 850 pixels wide (range 1-3).
_BESIDE = 2
# chosen: ratios beyond eightfold look alike (range 4-32); the printed numbers go on.
_REACH = 3.0


def threshold_figure(kernels: Rows, rules: Rows) -> bytes:
    """Every kernel class, stage and image count against the thresholds on rows and on arithmetic intensity, as PNG.

    Higher is better for FC-PIM, 1 is where the units are equal; what is left of a threshold goes to FC-PIM. A
    rule is right where blue lies right of its threshold and orange left of it.

    Args:
        kernels: rows of kernels.csv.
        rules: rows of rules.csv, whose two thresholds are drawn; two panels for each.
    """
    with mpl.rc_context(STYLE):
        figure, panels = _panels([rule["network"] for rule in rules], 2.3, sharex=False)
        for rule in rules:
            own = [row for row in kernels if row["network"] == rule["network"] and row["form"] == "deploy"]
            for axes, (measure, label) in zip(panels[rule["network"]], _MEASURES.items(), strict=True):
                _against_threshold(axes, own, measure, rule[f"alpha_{measure}"])
                axes.set_xlabel(label, fontsize=8.5)
            panels[rule["network"]][0].set_title(_short(rule["network"]))
        figure.supylabel("time on PUs / on FC-PIM", fontsize=8.5)
        figure.legend(
            handles=_threshold_legend(), loc="outside upper center", ncols=4 if len(rules) > 1 else 2
        )
        return png(figure)


def _panels(
    networks: Sequence[str], height: float, sharex: bool
) -> tuple[Figure, dict[str, tuple[Axes, Axes]]]:
    """A figure of the width of a page with two panels for each network, `height` inches high, two networks a row."""
    beside = min(_BESIDE, len(networks))
    rows = -(-len(networks) // beside)
    size = (0.8 + 4.1 * beside, 0.9 + height * rows)
    figure = Figure(figsize=size, dpi=160, layout="constrained")
    grid = figure.subplots(rows, 2 * beside, sharex=sharex, sharey=True, squeeze=False)
    pairs = [(left, right) for line in grid for left, right in zip(line[::2], line[1::2], strict=True)]
    for pair in pairs[len(networks) :]:
        for axes in pair:
            axes.set_visible(False)
    return figure, dict(zip(networks, pairs, strict=False))


def _against_threshold(axes: Axes, kernels: Rows, measure: str, alpha: float) -> None:
    for kind, marker in _MARKERS.items():
        for stage in sorted({row["stage"] for row in kernels}):
            track = sorted(
                (row for row in kernels if row["kernel"] == kind and row["stage"] == stage),
                key=lambda row: row["images"],
            )
            x = [row[measure] for row in track]
            y = [row["pu_s"] / row["fc_pim_s"] for row in track]
            axes.plot(x, y, color="0.8", linewidth=0.7, zorder=1)
            colors = [_COLORS[row["least_time"]] for row in track]
            axes.scatter(x, y, c=colors, marker=marker, s=12, linewidths=0, zorder=2)
            axes.annotate(
                str(stage),
                (x[0], y[0]),
                xytext=(-4, 0),
                textcoords="offset points",
                fontsize=7,
                color="0.3",
                ha="right",
                va="center",
            )
    axes.set(xscale="log", yscale="log")
    axes.margins(x=0.1)
    axes.axhline(1, color="0.6", linewidth=0.8, linestyle=":", zorder=0)
    if 0 < alpha < math.inf:
        axes.axvline(alpha, **_THRESHOLD, zorder=0)
    unit = "rows" if measure == "rows" else "FLOP/B"
    said = {0.0: "α = 0: all on PUs", math.inf: "all on FC-PIM"}.get(alpha, f"α = {alpha:.3g} {unit}")
    axes.text(0.98, 0.97, said, transform=axes.transAxes, ha="right", va="top", fontsize=8)
    axes.grid(color="0.93", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _threshold_legend() -> list[Line2D]:
    def dot(marker: str, color: str, label: str) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, color=color, label=label, markersize=5)

    return [
        dot("o", _COLORS["pu"], "faster on the PUs"),
        dot("o", _COLORS["fc-pim"], "faster on FC-PIM"),
        *(dot(marker, "0.5", _NAMES[kind]) for kind, marker in _MARKERS.items()),
        Line2D([], [], **_THRESHOLD, label="α by the offline sweep"),
        dot("$1$", "0.3", "stage, at the fewest images"),
    ]


def units_figure(kernels: Rows) -> bytes:
    """Time and energy on the PUs over those on FC-PIM, by stage, class and image count, for each network; PNG.

    Args:
        kernels: rows of kernels.csv; dynamic joules.
    """
    networks = list(dict.fromkeys(row["network"] for row in kernels))
    with mpl.rc_context(STYLE):
        figure, panels = _panels(networks, 2.75, sharex=True)
        mesh = None
        for network, pair in panels.items():
            own = [row for row in kernels if row["network"] == network and row["form"] == "deploy"]
            for axes, quantity, word in zip(pair, "sj", ("time", "energy"), strict=True):
                mesh = _heat_map(axes, own, quantity)
                axes.set_title(f"{_short(network)}: {word}")
        figure.supxlabel("images at once", fontsize=8.5)
        assert mesh is not None
        shown = [axes for pair in panels.values() for axes in pair]
        bar = figure.colorbar(mesh, ax=shown, location="top", shrink=0.6, pad=0.02, aspect=40)
        ticks = np.arange(-_REACH, _REACH + 1)
        bar.set_ticks(list(ticks), labels=[f"{2.0**t:g}" for t in ticks])
        bar.ax.tick_params(labelsize=8)
        bar.set_label("on PUs / on FC-PIM (above 1: FC-PIM is better)", fontsize=8.5)
        return png(figure)


def _heat_map(axes: Axes, kernels: Rows, quantity: str) -> Any:
    counts = sorted({row["images"] for row in kernels})
    lines = [(stage, kind) for stage in sorted({row["stage"] for row in kernels}) for kind in _NAMES]
    ratios = np.empty((len(lines), len(counts)))
    for row in kernels:
        if row["kernel"] in _NAMES:
            place = lines.index((row["stage"], row["kernel"])), counts.index(row["images"])
            ratios[place] = row[f"pu_{quantity}"] / row[f"fc_pim_{quantity}"]
    colors = mpl.colormaps["RdBu_r"]
    mesh = axes.pcolormesh(np.log2(ratios), cmap=colors, norm=TwoSlopeNorm(0, -_REACH, _REACH))
    for (line, column), ratio in np.ndenumerate(ratios):
        # Two digits at most, lest they touch; white on dark cells.
        text = f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}".lstrip("0")
        dark = abs(math.log2(ratio)) > 0.6 * _REACH
        axes.text(
            column + 0.5,
            line + 0.5,
            text,
            ha="center",
            va="center",
            fontsize=6.8,
            color="white" if dark else "black",
            weight="bold" if ratio > 1 else "normal",
        )
    axes.set_xticks(np.arange(len(counts)) + 0.5, [str(count) for count in counts], fontsize=7.5)
    axes.set_yticks(
        np.arange(len(lines)) + 0.5, [f"{stage}  {_NAMES[kind]}" for stage, kind in lines], fontsize=7.5
    )
    axes.tick_params(length=0)
    for between in range(len(_NAMES), len(lines), len(_NAMES)):
        axes.axhline(between, color="white", linewidth=1.5)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    return mesh


def _short(network: str) -> str:
    return network.removeprefix("repmlpnet-").upper()
