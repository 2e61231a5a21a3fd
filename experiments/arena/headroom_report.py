"""From finished jobs of `experiments.headroom` to positions with paired intervals, tables and a figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from experiments.common.runner import Job, RunFolder
from experiments.common.statistics import Estimate, bootstrap_means, interval_levels, mean_estimate
from experiments.serve import REJECTED
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.measures import METRIC_NAMES

FLOOR, REFERENCE, BOUND = "random", "threshold", "bound"
BEST_FIXED, BEST_THRESHOLD = "best-fixed", "best-threshold"
SCHEMA = {
    "seed": pl.Int64,
    "played": pl.String,
    **{name: pl.Float64 for name in (*METRIC_NAMES, *REJECTED)},
}
# chosen: a lead of less than 3 % of the threshold's return, or of a tenth of the way from random to the bound, is
# little to win (range 1-5 % and 0.05-0.2); 98 % of requests within their objectives is nearly all.
LITTLE_LEAD, LITTLE_WAY = 0.03, 0.1
ENOUGH = 0.98


def collect(folder: RunFolder, jobs: Mapping[tuple[str, str], Job]) -> pl.DataFrame:
    """One row per preset, policy and seed; `jobs` by preset and policy."""
    return pl.concat(
        pl.read_csv(folder.job_path(job), schema=SCHEMA).select(
            pl.lit(preset).alias("preset"), pl.lit(policy).alias("policy"), pl.all()
        )
        for (preset, policy), job in jobs.items()
    )


def position_estimate(values: FloatArray, floor: FloatArray, bound: FloatArray) -> Estimate:
    """Mean of `values` on the way from that of `floor` (0) to that of `bound` (1); all [seeds], paired.

    The 95 % interval resamples seeds, each with its value, floor and bound. NaN where the bound is at the floor.
    """
    way = float((bound - floor).mean())
    if way <= 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    value = float((values - floor).mean()) / way
    if len(values) < 2:
        return Estimate(value, float("nan"), float("nan"))
    resampled = bootstrap_means((values - floor)[None]) / bootstrap_means((bound - floor)[None])
    low, high = np.quantile(resampled, interval_levels(len(values)))
    # Where all seeds agree, rounding must not leave the value outside.
    return Estimate(value, min(float(low), value), max(float(high), value))


def summarize(
    frame: pl.DataFrame, presets: Sequence[str], policies: Sequence[str], privileged: set[str]
) -> dict[str, Any]:
    """What summary.json holds: per preset each policy's means, position, and paired lead over the threshold."""
    rows = {key: part for key, part in frame.partition_by("preset", "policy", as_dict=True).items()}

    def values(preset: str, policy: str, name: str) -> FloatArray:
        return rows[preset, policy][name].to_numpy()

    summary: dict[str, Any] = {}
    for preset in presets:
        floor, bound = (values(preset, policy, "return") for policy in (FLOOR, BOUND))
        entries = {}
        for policy in policies:
            returns = values(preset, policy, "return")
            lead = values(preset, policy, "goodput") - values(preset, REFERENCE, "goodput")
            entries[policy] = {
                "played": rows[preset, policy]["played"][0],
                "position": _plain(position_estimate(returns, floor, bound)),
                "goodput_lead": _plain(mean_estimate(lead[None])),
                **{name: _known_mean(values(preset, policy, name)) for name in (*METRIC_NAMES, *REJECTED)},
            }
        schedulers = [p for p in policies if p not in privileged]
        best = max(schedulers, key=lambda policy: entries[policy]["return"])
        goodput = float(values(preset, BOUND, "goodput").mean())
        summary[preset] = {
            "bound": {"goodput": goodput, "return": float(bound.mean())},
            "best": best,
            "policies": entries,
            "finding": finding(entries[REFERENCE], entries[best]),
        }
    return {
        "policies": list(policies),
        "privileged": sorted(privileged),
        "seeds": frame["seed"].unique().sort().to_list(),
        "presets": summary,
    }


def finding(reference: Mapping[str, Any], best: Mapping[str, Any]) -> str:
    """Why there is little to win in a preset, in figures of the machine; empty where there is more."""
    ahead = best["return"] - reference["return"]
    ways = [entry["position"]["value"] for entry in (reference, best)]
    little = None in ways or ways[1] - ways[0] < LITTLE_WAY
    if not little and ahead >= LITTLE_LEAD * abs(reference["return"]):
        return ""
    busy = {name: best[f"utilisation_{name}"] or 0.0 for name in at.RESOURCES}
    busiest = max(busy, key=lambda name: busy[name])
    machine = f"{busiest} busiest, {busy[busiest]:.0%} of the time"
    attainment = reference["attainment"] or 0.0
    if attainment >= ENOUGH:
        cut = reference["unfinished"] / max(reference["arrived"], 1)
        return (
            f"the threshold keeps {attainment:.1%} of the requests that end within their objectives, and "
            f"{cut:.0%} are cut off by the end of the episode ({machine})"
        )
    return f"the threshold keeps {attainment:.1%} within their objectives, and no scheduler many more ({machine})"


def print_report(console: Console, summary: Mapping[str, Any]) -> None:
    """Positions, then the best scheduler of each preset, then presets in which there is little to win."""
    policies, privileged = summary["policies"], summary["privileged"]
    shown = [policy for policy in policies if policy != FLOOR]
    console.print("Percent of the way from random to the bound, ± half of the 95 % interval", style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("preset", no_wrap=True)
    for policy in shown:
        label = policy.replace("-", "-\n") + ("*" if policy in privileged else "")
        table.add_column(label, justify="right", no_wrap=True, min_width=len(label.rpartition("\n")[2]))
    for preset, row in summary["presets"].items():
        table.add_row(preset, *(_percent(row["policies"][policy]["position"]) for policy in shown))
    console.print(table)
    console.print(
        "\nGoodput in tokens/s; lead over the threshold with its paired 95 % interval", style="bold"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name, justify in (("preset", "left"), ("threshold", "right"), ("best scheduler", "left")):
        table.add_column(name, justify=justify, no_wrap=name == "preset")  # type: ignore[arg-type]
    for name in ("its goodput", "lead", "bound"):
        table.add_column(name, justify="right", no_wrap=True)
    for preset, row in summary["presets"].items():
        best = row["policies"][row["best"]]
        lead = best["goodput_lead"]
        between = "" if lead["low"] is None else f" [{lead['low']:.0f}, {lead['high']:.0f}]"
        name = best["played"]
        table.add_row(
            preset,
            f"{row['policies'][REFERENCE]['goodput']:.0f}",
            name,
            f"{best['goodput']:.0f}",
            f"{lead['value']:+.0f}{between}",
            f"{row['bound']['goodput']:.0f}",
        )
    console.print(table)
    findings = {preset: row["finding"] for preset, row in summary["presets"].items() if row["finding"]}
    if findings:
        console.print("\nLittle to win:", markup=False)
        for preset, text in findings.items():
            console.print(f"  {preset}: {text}", markup=False, highlight=False)
    if privileged:
        console.print("\n* privileged: reads what no scheduler can see", markup=False)


def headroom_figure(summary: Mapping[str, Any]) -> bytes:
    """Positions of policies between random and the bound, a row for each preset; PNG."""
    # Pictures alone need it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from experiments.common.plots import MARKERS, PALETTE, STYLE

    presets = list(summary["presets"])
    shown = [policy for policy in summary["policies"] if policy != FLOOR]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 1.6 + 0.3 * len(presets)), dpi=200, layout="constrained")
        axes = figure.subplots()
        step = min(0.7 / max(len(shown), 1), 0.1)
        for k, policy in enumerate(shown):
            marked = policy in summary["privileged"]
            colour = PALETTE[k % len(PALETTE)]
            points = [
                (i + (k - (len(shown) - 1) / 2) * step, row["policies"][policy]["position"])
                for i, row in enumerate(summary["presets"].values())
                if row["policies"][policy]["position"]["value"] is not None
            ]
            values = [position["value"] for _, position in points]
            axes.errorbar(
                values,
                [y for y, _ in points],
                xerr=[
                    [v - _end(position, "low") for v, (_, position) in zip(values, points, strict=True)],
                    [_end(position, "high") - v for v, (_, position) in zip(values, points, strict=True)],
                ],
                linestyle="none",
                marker=MARKERS[k % len(MARKERS)],
                markersize=4.5,
                elinewidth=1.0,
                color=colour,
                markerfacecolor="white" if marked else colour,
                label=policy + ("*" if marked else ""),
            )
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
        axes.set_title("Headroom by preset (95 % intervals)")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        if summary["privileged"]:
            figure.supxlabel("* privileged: reads what no scheduler can see", x=0.995, ha="right", fontsize=8)
        image = io.BytesIO()
        figure.savefig(image, format="png")
    return image.getvalue()


def _percent(position: Mapping[str, float | None]) -> str:
    value, low, high = (position[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    text = f"{100 * value:.0f}"
    return text if low is None or high is None else f"{text} ±{50 * (high - low):.0f}"


def _end(position: Mapping[str, Any], name: str) -> float:
    """An end of the interval, or the value where there is no interval."""
    return position["value"] if position[name] is None else position[name]


def _plain(estimate: Estimate) -> dict[str, float | None]:
    """An estimate as plain data, None for NaN."""
    return {name: None if np.isnan(x) else float(x) for name, x in vars(estimate).items()}


def _known_mean(values: FloatArray) -> float | None:
    """Mean of what is known, or None."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
