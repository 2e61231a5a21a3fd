"""The figures of `python -m experiments.reproduce`, as PNG, with the numbers that they show.

Every figure function returns (PNG bytes, plotted numbers); the numbers are those of the function of
`experiments.paper.data` that it calls. Width is one column of a paper. What the paper states is drawn in
black and called the paper's: dashed lines or hollow diamonds. Figures of whole systems are drawn in
`experiments.paper.system_figures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from experiments.common.plots import MARKERS, PALETTE, png
from experiments.common.runner import write_whole
from experiments.common.study import json_text
from experiments.paper import data as numbers
from experiments.paper.data import Cells, Data
from experiments.paper.look import (
    BLUE,
    DARK,
    GREEN,
    GREY,
    NAMES,
    ORANGE,
    PAPER_LINE,
    PAPER_POINT,
    PINK,
    SKY,
    Drawn,
    legend_above,
    light_grid,
    new_figure,
    note,
    plain_numbers,
    powers_of_two,
    styled,
)
from experiments.paper.system_figures import (
    breakdown_figure,
    end_to_end_figure,
    pim_only_figure,
    sensitivity_figure,
)
from papi_env.hardware.system import System, get_system

_GPU_LOOKS = {"roofline": ("6 A100, 1935 GB/s each", DARK), "hbm3": ("6 A100, 3352 GB/s each", GREY)}


def draw_all(
    folder: Path,
    results: list[dict[str, Any]],
    gpu_bandwidth: str | None = None,
    bank_rate: str | None = None,
    seeds: int = 4,
    *,
    systems: Callable[[str], System] = get_system,
) -> list[Path]:
    """Draw every figure into `folder`, and write the plotted numbers to `figures.json` there.

    Args:
        folder: made if it does not exist.
        results: rows of the reproduction, with row, paper, simulated and ratio; figures 8 to 12 print
            theirs below the picture. May be empty.
        gpu_bandwidth, bank_rate: readings of the paper's ambiguous figures (`System.with_readings`).
        seeds: episodes of each cell of the figures that play whole systems.
        systems: gives a system by its registered name, for other constants than the registered ones; the
            readings apply on top.

    Returns:
        The files written, the pictures in the order of the paper and `figures.json` last.

    Raises:
        ConfigurationError: a reading is unknown.
    """
    cells = Cells(seeds, gpu_bandwidth, bank_rate, systems)
    figures: Mapping[str, Callable[[], Drawn]] = {
        "figure-02-roofline": partial(roofline_figure, cells),
        "figure-03-rlp-decay": rlp_decay_figure,
        "figure-04-fc-latency": partial(fc_latency_figure, cells),
        "figure-06-intensity": intensity_figure,
        "figure-07-energy-power": energy_power_figure,
        "figure-08-speedup": partial(end_to_end_figure, cells, "total_s", results),
        "figure-09-energy": partial(end_to_end_figure, cells, "total_j", results),
        "figure-10-sensitivity": partial(sensitivity_figure, cells, results),
        "figure-11-pim-only": partial(pim_only_figure, cells, results),
        "figure-12-breakdown": partial(breakdown_figure, cells, results),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    plotted: dict[str, Any] = {"seeds": seeds, "gpu_bandwidth": gpu_bandwidth, "bank_rate": bank_rate}
    for name, draw in figures.items():
        image, plotted[name] = draw()
        written.append(folder / f"{name}.png")
        write_whole(written[-1], image)
    written.append(folder / "figures.json")
    write_whole(written[-1], json_text(plotted))
    return written


@styled
def roofline_figure(cells: Cells) -> Drawn:
    """Figure 2: kernels under the roofs of 6 A100, both bandwidth readings, and of FC-PIM."""
    data = numbers.roofline(cells)
    figure = new_figure(3.1)
    axes = figure.subplots()
    left, right, bottom = 0.6, 2000.0, 5.0
    looks = _GPU_LOOKS | {"fc-pim": ("30 FC-PIM stacks", SKY)}
    for name, (label, color) in looks.items():
        roof = data["roofs"][name]
        x = [left, roof["ridge"], right]
        y = [min(at * roof["bytes_per_s"], roof["flops_per_s"]) / 1e12 for at in x]
        axes.plot(x, y, color=color, label=label, zorder=2)
    for name, side, ha in (("roofline", 4, "left"), ("hbm3", -4, "right")):
        roof = data["roofs"][name]
        axes.vlines(roof["ridge"], bottom, roof["flops_per_s"] / 1e12, looks[name][1], ":", linewidth=0.9)
        paper = f" (paper: {data['paper']['ridge']})" if name == "roofline" else ""
        note(axes, f"{roof['ridge']:.0f}{paper}", (roof["ridge"], bottom), (side, 8), ha=ha)
    for model, color, marker, size in (("opt-30b", ORANGE, "s", 5.5), ("llama-65b", GREEN, "o", 3)):
        _rates(axes, data["fc"][model], color, marker, size, f"FC, {NAMES[model]}")
    _rates(axes, data["attention"]["llama-65b"], PINK, "^", 4, "attention, speculation 1-8")
    for kernel, shift, ha in (
        (data["fc"]["opt-30b"][0], (5, -20), "left"),
        (data["fc"]["opt-30b"][-1], (8, 14), "right"),
    ):
        text = f"batch {kernel['batch']}, spec. {kernel['speculation']}"
        at = (kernel["intensity"], kernel["flops_per_s"] / 1e12)
        note(axes, text, at, shift, ha=ha, fontsize=6.5)
    # The paper gives these two intensities, not the rates: they stand on the roof.
    bandwidth = data["roofs"]["roofline"]["bytes_per_s"]
    given = [data["paper"]["attention"], data["paper"]["fc_opt-30b_batch4_speculation8"]]
    axes.plot(given, [x * bandwidth / 1e12 for x in given], label="paper: 7.0 and 31.7", **PAPER_POINT)
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, 5000))
    plain_numbers(axes.xaxis, axes.yaxis)
    axes.set_xlabel("arithmetic intensity (FLOP/B)")
    axes.set_ylabel("TFLOP/s of all units")
    light_grid(axes)
    legend_above(figure, axes, 2)
    return png(figure), data


def _rates(axes: Axes, points: Sequence[Data], color: str, marker: str, size: float, label: str) -> None:
    x = [point["intensity"] for point in points]
    y = [point["flops_per_s"] / 1e12 for point in points]
    axes.plot(x, y, color=color, marker=marker, markersize=size, linestyle="none", label=label, zorder=3)


@styled
def rlp_decay_figure() -> Drawn:
    """Figure 3: RLP by iteration on both datasets, and its mean over a batch's iterations."""
    data = numbers.rlp_decay()
    figure = new_figure(4.6)
    panels = figure.subplots(3, 1, height_ratios=(1.5, 1.5, 1.0))
    colors = {"4": ORANGE, "16": GREEN, "64": BLUE}
    bars, notes = panels[2], data["notes_mean_rlp_creative_writing"]
    for i, (dataset, batches) in enumerate(data["datasets"].items()):
        axes = panels[i]
        for batch, curve in batches.items():
            x, color = curve["iteration"], colors[batch]
            axes.fill_between(x, curve["low"], curve["high"], color=color, alpha=0.2, linewidth=0)
            axes.plot(x, curve["mean"], color=color, label=f"batch {batch}")
        axes.set(yscale="log", ylim=(0.9, 80), xlim=(0, 1000))
        axes.set_yticks((1, 4, 16, 64), ("1", "4", "16", "64"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(dataset)
        axes.set_ylabel("RLP")
        axes.set_xlabel("iteration")
        light_grid(axes)
        at = [j + (i - 0.5) * 0.36 for j in range(len(batches))]
        heights = [curve["mean_rlp"] for curve in batches.values()]
        bars.bar(at, heights, 0.34, color=(BLUE, SKY)[i], label=dataset)
        for x, height in zip(at, heights, strict=True):
            note(bars, f"{height:.1f}", (x, height), (0, 8), fontsize=6.5)
    panels[0].legend(loc="upper right", title="mean and 10-90 %", title_fontsize=7)
    at = [j - 0.18 for j in range(len(notes))]
    bars.plot(at, list(notes.values()), label="Dolly's own requests", **PAPER_POINT | {"marker": "o"})
    bars.set_xticks(range(len(notes)), [f"batch {batch}" for batch in notes])
    bars.tick_params(axis="x", length=0)
    bars.set_ylabel("mean RLP")
    bars.set_ylim(0, 18)
    bars.legend(loc="upper left")
    light_grid(bars, "y")
    return png(figure), data


@styled
def fc_latency_figure(cells: Cells) -> Drawn:
    """Figure 4: seconds of the FC kernels by n, and where PAPI's α lies."""
    data = numbers.fc_latency(cells)
    figure = new_figure(2.9)
    axes = figure.subplots()
    n, alphas = data["n"], data["alpha"]
    left, bottom, top = 0.7, 0.2, 200.0
    looks = {f"a100-{reading}": look for reading, look in _GPU_LOOKS.items()}
    looks |= {"attacc": ("30 AttAcc stacks", GREEN), "fc-pim": ("30 FC-PIM stacks", BLUE)}
    for name, (label, color) in looks.items():
        milliseconds = [1e3 * value for value in data["seconds"][name]]
        milliseconds.insert(0, milliseconds[0])
        # What fills the FPUs of a bank takes one slot: the time of n holds for all of (n - 1, n].
        axes.plot([left, *n], milliseconds, color=color, label=label, drawstyle="steps-pre")
    for reading, alpha in alphas.items():
        if not n[0] <= alpha <= n[-1]:
            continue
        height = 1e3 * data["seconds"]["fc-pim"][int(alpha) - n[0]]
        axes.vlines(alpha, bottom, height, looks[f"a100-{reading}"][1], ":", linewidth=1.0)
        side, ha = (3, "left") if alpha == max(alphas.values()) else (-3, "right")
        # The paper's lines do not cross it.
        plain = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        note(axes, f"α = {alpha:g}", (alpha, bottom), (side, 8), ha=ha, fontsize=6.5, bbox=plain)
    paper = data["paper"]
    for at, side, ha, text in (
        (paper["attacc_ahead_at"], -3, "right", "paper:\nAttAcc ahead\nat 8"),
        (paper["a100_ahead_from"], 3, "left", "paper:\nA100s ahead\nfrom 16"),
    ):
        axes.axvline(at, **PAPER_LINE, zorder=1)
        note(axes, text, (at, top), (side, -2), ha=ha, va="top", fontsize=6.5)
    axes.set(yscale="log", xlim=(left, 256), ylim=(bottom, top))
    powers_of_two(axes, [2**k for k in range(9)])
    plain_numbers(axes.yaxis)
    axes.set_xlabel("n = RLP × TLP")
    axes.set_ylabel(f"FC kernels of {NAMES[data['model']]}\n(ms per iteration)")
    light_grid(axes)
    legend_above(figure, axes, 2)
    return png(figure), data


@styled
def intensity_figure() -> Drawn:
    """Figure 6: PAPI's estimate n of the arithmetic intensity, the formula, and how much it overestimates."""
    data = numbers.intensity()
    figure = new_figure(4.3)
    top, bottom = figure.subplots(2, 1, sharex=True)
    n, paper = data["n"], data["paper"]
    top.plot(n, n, color="0.55", linewidth=1.0, label="PAPI's estimate: n")
    for i, model in enumerate(data["formula"]):
        excess = [100 * (x / true - 1) for x, true in zip(n, data["layer"][model], strict=True)]
        for axes, y in ((top, data["formula"][model]), (bottom, excess)):
            # Models nearly coincide: the markers shrink, so that those below show.
            style = {"color": PALETTE[i], "marker": MARKERS[i], "markersize": 6.5 - 1.1 * i}
            axes.plot(n, y, linewidth=0.9, label=NAMES[model], **style)
    at, given = paper["n"], paper["intensity"]
    top.plot(at, given, label=f"paper, {NAMES[paper['model']]}: {given}", **PAPER_POINT)
    top.set(yscale="log", ylim=(0.8, 1500))
    top.set_ylabel("intensity of an\nh × h kernel (FLOP/B)")
    bottom.set(yscale="log")
    bottom.set_ylabel("n above the intensity of\na layer's FC kernels (%)")
    bottom.set_xlabel("n = RLP × TLP")
    for axes in (top, bottom):
        powers_of_two(axes, n)
        plain_numbers(axes.yaxis)
        light_grid(axes)
    legend_above(figure, top, 2)
    return png(figure), data


@styled
def energy_power_figure() -> Drawn:
    """Figure 7: DRAM's share of PIM energy, and power by FPUs per bank, by reuse of a column."""
    data = numbers.energy_and_power()
    figure = new_figure(5.0)
    share, *panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.0, 1.3, 1.3))
    reuse, percent = data["reuse"], [100 * x for x in data["dram_share"]]
    budget, paper = data["paper"]["budget_w"], data["paper"]["dram_share"]
    share.plot(reuse, percent, color=BLUE, marker="o", label="AttAcc's energies")
    label = "paper: " + " and ".join(f"{100 * x:.1f} %" for x in paper.values())
    share.plot([int(at) for at in paper], [100 * x for x in paper.values()], label=label, **PAPER_POINT)
    for at, shift, ha in ((0, (6, -9), "left"), (-1, (-4, -8), "right")):
        note(share, f"{percent[at]:.1f} %", (reuse[at], percent[at]), shift, ha=ha, color=BLUE)
    share.set_ylim(0, 108)
    share.set_ylabel("DRAM access\n(% of PIM energy)")
    share.legend(loc="lower left")
    looks = {"1P2B": (SKY, "o"), "1P1B": (GREEN, "s"), "2P1B": (ORANGE, "^"), "4P1B": (BLUE, "D")}
    sources = {"papi": "PAPI", "attacc-limit": "AttAcc"}
    for axes, (reading, designs) in zip(panels, data["power_w"].items(), strict=True):
        for design, watts in designs.items():
            color, marker = looks[design]
            axes.plot(reuse, watts, color=color, marker=marker, label=design)
        axes.axhline(budget, label=f"paper's budget: {budget:g} W", **PAPER_LINE)
        axes.set_ylabel("W per stack")
        clocks, rate = data["cadence_clocks"][reading], data["bank_gb_per_s"][reading]
        axes.set_title(f"{rate:.1f} GB/s per bank ({sources[reading]}: {clocks:g} clocks)")
        axes.set_ylim(0, 1.1 * max(budget, *(max(watts) for watts in designs.values())))
    panels[0].legend(loc="upper right")
    for axes in (share, *panels):
        powers_of_two(axes, reuse)
        light_grid(axes)
    panels[-1].set_xlabel("reuse of a column read")
    return png(figure), data
