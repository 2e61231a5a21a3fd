"""Figures 8 to 12 of `experiments.paper.figures`: whole systems, in time and energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from experiments.common.plots import MARKERS, png
from experiments.paper import data as numbers
from experiments.paper.data import Cells, Data
from experiments.paper.look import (
    BLUE,
    COLORS,
    GREY,
    NAMES,
    ORANGE,
    PAPER_LINE,
    PAPER_POINT,
    PINK,
    RED,
    SKY,
    Drawn,
    Results,
    legend_above,
    light_grid,
    note,
    panels_and_table,
    powers_of_two,
    styled,
)


def _ratio_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic y axis around 1 that holds `values`, with the baseline at 1."""
    axes.set_yscale("log")
    axes.set_ylim(min(0.8, 0.85 * min(values)), max(1.25, 1.3 * max(values)))
    low, high = axes.get_ylim()
    steps = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if high / low > 8 else (0.25, 0.5, 1, 2, 4)
    ticks = [tick for tick in steps if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.axhline(1, color=GREY, linewidth=0.9, zorder=1)
    light_grid(axes, "y")


def _setting_ticks(axes: Axes, settings: Sequence[Sequence[int]]) -> None:
    """An x axis of (batch, speculation), a line between batches."""
    axes.set_xticks(range(len(settings)), [f"{batch}/{tlp}" for batch, tlp in settings])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(settings) - 0.45)
    for i in range(1, len(settings)):
        if settings[i][0] != settings[i - 1][0]:
            axes.axvline(i - 0.5, color="0.85", linewidth=0.8, zorder=0)


@styled
def end_to_end_figure(cells: Cells, metric: str, results: Results) -> Drawn:
    """Figures 8 and 9: gains in time ("total_s") or energy ("total_j") over A100+AttAcc, and PAPI's means."""
    data = numbers.end_to_end(cells, metric)
    rows = [f"E{i}" for i in range(1, 7)] if metric == "total_s" else [f"N{i}" for i in range(1, 5)]
    what = "speed-up" if metric == "total_s" else "energy efficiency"
    figure, axes = panels_and_table([1.0] * len(data["gains"]) + [1.5], results, rows)
    *panels, means = axes
    shown = [gain for name in data["gains"].values() for values in name.values() for gain in values]
    for panel, (scenario, gains) in zip(panels, data["gains"].items(), strict=True):
        dataset, model = scenario.split("/")
        for i, system in enumerate(("papi", "a100-hbm-pim", "attacc-only")):
            at = [k + (i - 1) * 0.28 for k in range(len(data["settings"]))]
            # With an edge, a gain of 1 shows as a line.
            look: Any = {"color": COLORS[system], "edgecolor": COLORS[system], "linewidth": 0.8}
            panel.bar(
                at, [gain - 1 for gain in gains[system]], 0.25, 1, label=NAMES[system], zorder=2, **look
            )
        _ratio_axis(panel, shown)
        _setting_ticks(panel, data["settings"])
        panel.set_title(f"{dataset}, {NAMES[model]}", pad=3)
    panels[-1].set_xlabel("batch / speculation")
    panels[1].set_ylabel(f"{what} over {NAMES[numbers.BASELINE]}", y=-0.1)
    _mean_bars(means, data)
    legend_above(figure, panels[0], 4, also=means, columnspacing=0.9)
    return png(figure), data


def _mean_bars(axes: Axes, data: Data) -> None:
    """PAPI's mean gain over each rival by dataset, and the paper's."""
    shown = [1.0]
    ticks, given = {}, {}
    for i, (dataset, over) in enumerate(data["papi_over"].items()):
        for j, (rival, gain) in enumerate(over.items()):
            at, paper = 3.4 * i + j, data["paper"][dataset].get(rival)
            # The dataset stands below the middle one of its bars.
            below = f"\n{dataset}" if j == len(over) // 2 else ""
            ticks[at] = NAMES[rival].replace("+", "+\n").replace("-only", "-\nonly") + below
            axes.bar(at, gain - 1, 0.6, 1, color=COLORS[rival], zorder=2)
            if paper is not None:
                given[at] = paper
            text = f"{gain:.2f}" if paper is None else f"{gain:.2f}\n({paper:g})"
            highest = max(gain, given.get(at, 1), 1)
            shown += [gain, highest]
            note(axes, text, (at, highest), (0, 5), va="bottom", fontsize=6.5)
    axes.plot(list(given), list(given.values()), label="paper", **PAPER_POINT)
    _ratio_axis(axes, shown)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.5)
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="x", length=0)
    axes.set_title("PAPI over each: geometric mean (paper's)", pad=3)


@styled
def sensitivity_figure(cells: Cells, results: Results) -> Drawn:
    """Figure 10: speed-up over A100+AttAcc by initial RLP and by TLP."""
    data = numbers.sensitivity(cells)
    figure, (by_rlp, by_tlp, *_) = panels_and_table([1.9, 1.7], results, ("S1", "S2"))
    for axes, x, curves in (
        (by_rlp, data["rlp"], data["by_rlp"]),
        (by_tlp, data["tlp"], data["by_tlp"]),
    ):
        for (system, values), marker in zip(curves.items(), MARKERS, strict=False):
            if system != numbers.BASELINE:
                axes.plot(x, values, color=COLORS[system], marker=marker, label=NAMES[system])
        shown = [value for values in curves.values() for value in values]
        _ratio_axis(axes, [*shown, 0.5])
        light_grid(axes)
        axes.set_ylabel(f"speed-up over\n{NAMES[numbers.BASELINE]}")
    powers_of_two(by_rlp, data["rlp"])
    by_rlp.set_xlabel("initial RLP, at speculation 1")
    by_tlp.set_xticks(data["tlp"])
    by_tlp.set_xlabel("TLP (speculation length), at batch 4")
    paper = data["paper"]["papi_over_mean_by_tlp"]
    over_baseline, over_attacc = paper[numbers.BASELINE], paper["attacc-only"]
    by_tlp.axhline(over_baseline, label=f"paper's mean, PAPI: {over_baseline:g}", **PAPER_LINE)
    label = f"paper's mean, AttAcc-only: {over_baseline:g}/{over_attacc:g}"
    by_tlp.axhline(over_baseline / over_attacc, label=label, **PAPER_LINE | {"linestyle": ":"})
    legend_above(figure, by_tlp, 2)
    return png(figure), data


@styled
def pim_only_figure(cells: Cells, results: Results) -> Drawn:
    """Figure 11: decoding speed-up of PIM-only PAPI over AttAcc-only."""
    data = numbers.pim_only(cells)
    figure, (axes, *_) = panels_and_table([2.3], results, ("P1", "P2", "P3"))
    for i, (model, values) in enumerate(data["speedup"].items()):
        at = [k + (i - 1) * 0.27 for k in range(len(values))]
        axes.bar(at, values, 0.25, color=(BLUE, SKY, ORANGE)[i], label=NAMES[model], zorder=2)
    paper = data["paper"]
    axes.axhline(data["mean"], color=RED, linewidth=1.0, label=f"mean here: {data['mean']:.2f}", zorder=3)
    axes.axhline(paper["mean"], label=f"paper's mean: {paper['mean']}", **PAPER_LINE, zorder=3)
    given = [paper["batch4_speculation1"], paper["batch64_speculation4"]]
    label = f"paper: {given[0]} and {given[1]}"
    axes.plot([0, len(data["settings"]) - 1], given, label=label, **PAPER_POINT)
    _setting_ticks(axes, data["settings"])
    axes.set_xlabel("batch / speculation")
    axes.set_ylabel("decoding speed-up\nover AttAcc-only")
    light_grid(axes, "y")
    legend_above(figure, axes, 2)
    return png(figure), data


@styled
def breakdown_figure(cells: Cells, results: Results) -> Drawn:
    """Figure 12: where the time of a decode iteration goes on both PIM-only systems, and the ratios."""
    data = numbers.breakdown(cells)
    figure, (bars, ratios, *_) = panels_and_table([1.4, 1.35], results, ("P4", "P5", "P6"))
    looks = {
        "fc": ("FC", BLUE, ""),
        "attention": ("attention", ORANGE, "///"),
        "communication": ("communication", "0.75", ""),
        "other": ("other", PINK, "..."),
    }
    systems = list(data["seconds"])
    left = [0.0] * len(systems)
    for part, (label, color, hatch) in looks.items():
        widths = [1e3 * data["seconds"][system][part] for system in systems]
        bars.barh(systems, widths, 0.6, left=left, color=color, hatch=hatch, edgecolor="white", label=label)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for i, system in enumerate(systems):
        note(bars, f"{1e3 * data['seconds'][system]['total']:.2f}", (left[i], i), (4, 0), ha="left")
    bars.set_yticks(range(len(systems)), [NAMES[system].replace(" ", "\n") for system in systems])
    bars.invert_yaxis()
    bars.set_xlim(0, 1.15 * max(left))
    bars.set_xlabel("ms per iteration (batch 4, speculation 4)")
    names = {
        "fc_speedup": "FC:\nspeed-up",
        "attention_speedup": "attention:\nspeed-up",
        "communication_share": "communication:\nshare",
    }
    values = [data[name] for name in names]
    paper = [data["paper"][name] for name in names]
    ratios.barh(range(3), values, 0.55, color=SKY)
    ratios.plot(paper, range(3), label="paper", **PAPER_POINT)
    for i, (value, given) in enumerate(zip(values, paper, strict=True)):
        text = f"{value:.2f} (paper: {given:.2f})"
        note(ratios, text, (max(value, given), i), (7, 0), ha="left")
    ratios.set_yticks(range(3), list(names.values()))
    ratios.invert_yaxis()
    ratios.set_xlim(0, 1.8 * max(*values, *paper))
    ratios.set_xlabel("PIM-only PAPI, against AttAcc-only")
    for axes in (bars, ratios):
        axes.tick_params(axis="y", length=0)
        light_grid(axes, "x")
    legend_above(figure, bars, 5, also=ratios, columnspacing=0.8)
    return png(figure), data
