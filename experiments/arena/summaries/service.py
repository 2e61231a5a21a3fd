"""Where policies stand on presets with classes of requests: G, its ratio to the best rule's, places below the bound.

G is the worth served within objectives over the worth offered, of an episode; then the mean over seeds. The best rule
of a preset is the one with the highest mean on the very seeds that are shown, which favours rules over all that is
compared with them. Who plays fewer seeds is compared on those.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from experiments.arena.entries import BOUND, FLOOR
from experiments.arena.estimators.seeds import known_mean, plain, position_estimate, ratio_of_means
from experiments.arena.measures import measures
from experiments.common.statistics import mean_estimate
from papi_env.envs.registration import SERVING_V1
from papi_env.kernel import FloatArray

MEASURES = measures(SERVING_V1)
# Presets that a lead is stated over: at capacity and above, where the best rule serves half of what is offered or more.
LEAST_LOAD, LEAST_G = 1.0, 0.5


def as_written(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame as results.csv has it: a row for each preset, policy and seed; NaN for what is not known."""
    return frame.select(
        *(pl.col("setting").alias("preset"), pl.col("entry").alias("policy"), "seed", "played"),
        pl.col(MEASURES).cast(pl.Float64).fill_null(float("nan")),
    )


class Rows:
    """Columns of a frame by preset and policy, in the order of the seeds."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._rows = frame.partition_by("preset", "policy", as_dict=True)

    def of(self, preset: str, policy: str, name: str = "g") -> FloatArray:
        """A measure, float64 [seeds that the policy plays]."""
        return self._rows[preset, policy][name].to_numpy()

    def played(self, preset: str, policy: str) -> str:
        """What a name stood for."""
        return str(self._rows[preset, policy]["played"][0])


def summarize(
    frame: pl.DataFrame,
    presets: Mapping[str, float],
    policies: Sequence[str],
    privileged: Collection[str],
    planners: Collection[str],
) -> dict[str, Any]:
    """What summary.json holds: per preset each policy's means, ratio to the best rule, and place; then leads over all.

    Args:
        frame: from `as_written`, with rows of the floor and the bound.
        presets: their load relative to capacity, by name; NaN where that is not known.
        policies: in the order of the tables.
        privileged: those of the policies that are.
        planners: those that are no rules, privileged or not.
    """
    rows = Rows(frame)
    rules = [p for p in policies if p not in planners and p not in privileged and p != FLOOR]
    found = {name: _preset(rows, name, policies, rules) for name in presets}
    counted = [
        name
        for name, load in presets.items()
        if load >= LEAST_LOAD and found[name]["policies"][found[name]["best"]]["g"]["value"] >= LEAST_G
    ]
    return {
        "policies": list(policies),
        "rules": rules,
        "privileged": sorted(privileged),
        "seeds": frame["seed"].unique().sort().to_list(),
        "loads": {name: None if np.isnan(load) else load for name, load in presets.items()},
        "counted": counted,
        "leads": {
            p: _lead(rows, p, {name: found[name]["best"] for name in counted}) for p in policies if p != FLOOR
        },
        "presets": found,
    }


def _preset(rows: Rows, preset: str, policies: Sequence[str], rules: Sequence[str]) -> dict[str, Any]:
    best = max(rules, key=lambda policy: rows.of(preset, policy).mean())
    ours = rows.of(preset, best)
    bound, bound_returns = rows.of(preset, BOUND), rows.of(preset, BOUND, "return")
    floor = rows.of(preset, FLOOR, "return")
    entries = {}
    for policy in policies:
        g, returns = rows.of(preset, policy), rows.of(preset, policy, "return")
        n = len(g)
        way = float((bound[:n] - ours[:n]).mean())
        entries[policy] = {
            "played": rows.played(preset, policy),
            "seeds": n,
            "g": plain(mean_estimate(g[None])),
            "ratio": plain(ratio_of_means(g[None], ours[None, :n])),
            "position": plain(position_estimate(returns, floor[:n], bound_returns[:n])),
            "closed": None if way <= 0 else float((g - ours[:n]).mean()) / way,
            "means": {name: known_mean(rows.of(preset, policy, name)) for name in MEASURES},
        }
    return {
        "best": best,
        "bound": {"g": float(bound.mean()), "return": float(bound_returns.mean())},
        "policies": entries,
    }


def _lead(rows: Rows, policy: str, best: Mapping[str, str]) -> dict[str, Any]:
    """The geometric mean over presets of a policy's G over that of the best rule, with its paired interval."""
    if not best:
        return {"presets": 0, "ratio": plain(ratio_of_means(np.zeros((0, 0)), np.zeros((0, 0))))}
    n = min(len(rows.of(preset, policy)) for preset in best)
    ours = np.array([rows.of(preset, policy)[:n] for preset in best])
    theirs = np.array([rows.of(preset, rule)[:n] for preset, rule in best.items()])
    return {"presets": len(best), "seeds": n, "ratio": plain(ratio_of_means(ours, theirs))}


def alone(
    frame: pl.DataFrame, presets: Sequence[str], base: str, variants: Mapping[str, str]
) -> dict[str, Any]:
    """What each choice is worth alone: G of the best rule, and what is left of it with one choice as in Serving-v0.

    Args:
        frame: from `as_written`.
        presets: in the order of the table.
        base: the policy that has all choices.
        variants: the policy without it, by the name of each choice.
    """
    rows = Rows(frame)
    return {
        preset: {
            "played": rows.played(preset, base),
            "g": plain(mean_estimate(rows.of(preset, base)[None])),
            "worth": {
                choice: plain(mean_estimate((rows.of(preset, base) - rows.of(preset, policy))[None]))
                for choice, policy in variants.items()
            },
        }
        for preset in presets
    }
