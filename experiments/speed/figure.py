"""The picture of `experiments.throughput`, drawn without a display from what summary.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.common.plots import PALETTE, STYLE, png
from experiments.speed.measure import CARTPOLE, DECODE

SKY, BLUE, PINK, ORANGE, RED, GREEN, BLACK = PALETTE
Rows = Sequence[Mapping[str, Any]]


def throughput_figure(summary: Mapping[str, Any]) -> bytes:
    """Ratios beside their targets, the three sweeps, PPO's rates and its way to the oracle, as PNG."""
    rows = summary["rows"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 7), dpi=170, layout="constrained")
        axes = figure.subplots(2, 3)
        _ratios(axes[0, 0], summary["ratios"])
        _sizes(axes[0, 1], [row for row in rows if row["part"] == "sweep-envs"])
        _sweep(axes[0, 2], [row for row in rows if row["part"] == "sweep-requests"], "requests")
        _sweep(axes[1, 0], [row for row in rows if row["part"] == "sweep-tlp"], "tlp")
        _ppo(axes[1, 1], [row for row in rows if row["part"] == "ppo"])
        _curves(axes[1, 2], summary["curves"])
        titles = (
            "Ratios and what they must reach",
            "Decode-v0, 16 requests, TLP 1",
            "Requests, TLP 1",
            "TLP, 16 requests",
            "PPO on Decode-v0",
            "PPO's way to the oracle",
        )
        for letter, title, each in zip("abcdef", titles, axes.flat, strict=True):
            each.set_title(f"{letter}  {title}")
            if not each.has_data():
                each.text(0.5, 0.5, "not measured", ha="center", transform=each.transAxes, color="0.5")
                each.set_xticks([])
                each.set_yticks([])
        note = f"one core of {summary['processor']}; medians, bars are quartiles"
        figure.supxlabel("quick: the figures mean nothing" if summary["quick"] else note, fontsize=8)
        return png(figure)


def _ratios(axes: Axes, ratios: Mapping[str, Mapping[str, Any]]) -> None:
    """Dots, with the way from what a ratio must reach to its goal as a bar."""
    named = {name: entry for name, entry in ratios.items() if "must" in entry and entry["value"] is not None}
    for i, entry in enumerate(named.values()):
        axes.plot((entry["must"], entry["goal"]), (i, i), color="0.8", linewidth=7, solid_capstyle="butt")
        axes.plot(entry["must"], i, marker="|", markersize=11, color="0.3")
        reached = entry["reached"] != "no"
        low = entry["value"] if entry["low"] is None else entry["low"]
        high = entry["value"] if entry["high"] is None else entry["high"]
        errors = [[entry["value"] - low], [high - entry["value"]]]
        color = GREEN if reached else RED
        axes.errorbar(
            entry["value"], i, xerr=errors, marker="o" if reached else "X", color=color, linestyle="none"
        )
    if named:
        axes.set_xscale("log")
        axes.set_yticks(range(len(named)), [name.removeprefix("ratio_") for name in named])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel("ratio; tick: must reach, end of bar: goal")


def _line(axes: Axes, rows: Rows, over: str, **style: Any) -> None:
    ordered = sorted(rows, key=lambda row: row[over])
    values = [row["value"] for row in ordered]
    errors = [
        [row["value"] - row["low"] for row in ordered],
        [row["high"] - row["value"] for row in ordered],
    ]
    axes.errorbar([row[over] for row in ordered], values, yerr=errors, markersize=4.5, **style)


def _scales(axes: Axes, rows: Rows, over: str, words: str) -> None:
    ticks = sorted({row[over] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:,}".replace(",", " ") for tick in ticks])
    axes.tick_params(axis="x", labelrotation=45 if len(ticks) > 6 else 0)
    axes.minorticks_off()
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_xlabel(words)
    axes.set_ylabel("environment steps/s")
    axes.set_axisbelow(True)


def _sizes(axes: Axes, rows: Rows) -> None:
    if not rows:
        return
    for name, color, marker in ((CARTPOLE, "0.5", "s"), (DECODE, BLUE, "o")):
        _line(
            axes,
            [row for row in rows if row["name"] == name],
            "envs",
            color=color,
            marker=marker,
            label=name.removeprefix("papi_env/"),
        )
    _scales(axes, rows, "envs", "environments")
    axes.set_yscale("log")
    axes.legend()


def _sweep(axes: Axes, rows: Rows, over: str) -> None:
    if not rows:
        return
    for variant, words, color, marker in (
        ("", "lengths drawn", BLUE, "o"),
        ("all decode", "all requests always decode", ORANGE, "D"),
    ):
        _line(
            axes,
            [row for row in rows if row["variant"] == variant],
            over,
            color=color,
            marker=marker,
            label=words,
        )
    words = "requests per environment" if over == "requests" else "TLP (acceptance drawn above 1)"
    _scales(axes, rows, over, words)
    # From zero, so that a fall looks as deep as it is; the legend has its place above.
    axes.set_ylim(bottom=0, top=max(row["high"] for row in rows) * 1.3)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g}"))
    axes.set_ylabel("million environment steps/s")
    axes.legend(loc="upper right")


def _ppo(axes: Axes, rows: Rows) -> None:
    rates = [row for row in rows if row["unit"] == "steps/s"]
    if not rates:
        return
    settings = list(dict.fromkeys(row["variant"] for row in rates))
    for i, (name, color) in enumerate((("adapter", BLUE), ("DummyVecEnv", SKY))):
        own = [row for row in rates if row["name"] == name]
        at = [settings.index(row["variant"]) + 0.36 * (i - 0.5) for row in own]
        bars = axes.bar(at, [row["value"] for row in own], width=0.34, color=color, label=name)
        axes.bar_label(bars, [f"{row['value']:,.0f}".replace(",", " ") for row in own], fontsize=8)
    axes.set_yscale("log")
    axes.set_ylim(top=max(row["value"] for row in rates) * 3)
    sizes = {row["variant"]: row["envs"] for row in rates}
    axes.set_xticks(range(len(settings)), [f"{words}\n{sizes[words]} environments" for words in settings])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("environment steps/s")
    axes.legend()


def _curves(axes: Axes, curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> None:
    for (name, runs), color in zip(curves.items(), (BLUE, SKY), strict=False):
        for i, curve in enumerate(runs):
            if curve:
                x = [point["seconds"] for point in curve]
                excess = [max(100 * (point["cost"] - 1), 0.01) for point in curve]
                axes.plot(x, excess, color=color, marker=".", markersize=4, label=name if i == 0 else None)
    if not axes.has_data():
        return
    axes.axhline(1, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training seconds")
    axes.set_ylabel("cost above the oracle (%)")
    axes.legend()
