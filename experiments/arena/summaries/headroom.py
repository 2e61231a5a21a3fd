"""Where policies stand between random and the bound, by serving preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from experiments.arena.entries import BOUND, FLOOR, REFERENCE
from experiments.arena.estimators.seeds import known_mean, plain, position_estimate
from experiments.arena.measures import measures
from experiments.common.statistics import (
    mean_estimate,
)
from experiments.splitting.definition import SERVING
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at

# chosen: a lead of less than 3 % of the threshold's return, or of a tenth of the way from random to the bound, is
# little to win (range 1-5 % and 0.05-0.2); 98 % of requests within their objectives is nearly all.
LITTLE_LEAD, LITTLE_WAY = 0.03, 0.1
ENOUGH = 0.98


MEASURES = measures(SERVING)


def as_written(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame as results.csv has it: a row for each preset, policy and seed; NaN for what is not known."""
    return frame.select(
        *(pl.col("setting").alias("preset"), pl.col("entry").alias("policy"), "seed", "played"),
        pl.col(MEASURES).cast(pl.Float64).fill_null(float("nan")),
    )


def summarize(
    frame: pl.DataFrame, presets: Sequence[str], policies: Sequence[str], privileged: set[str]
) -> dict[str, Any]:
    """What summary.json holds: per preset each policy's means, position, and paired lead over the threshold.

    Args:
        frame: from `as_written`, with rows of the floor, the reference and the bound.
        presets, policies: in the order of the tables.
        privileged: those of the policies that are.
    """
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
                "position": plain(position_estimate(returns, floor, bound)),
                "goodput_lead": plain(mean_estimate(lead[None])),
                **{name: known_mean(values(preset, policy, name)) for name in MEASURES},
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
