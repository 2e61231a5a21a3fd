"""What became of the requests that policies served, by policy and seed."""

from __future__ import annotations

from typing import Any

import polars as pl

from experiments.arena.estimators.seeds import known_mean
from experiments.arena.measures import SERVICE_COUNTS, SERVING_COUNTS, measures
from experiments.splitting.definition import SERVING


def as_written(frame: pl.DataFrame, problem: str = SERVING) -> pl.DataFrame:
    """The frame as results.csv has it: privileged policies with a star, NaN for what is not known."""
    star = pl.when(pl.col("privileged")).then(pl.lit("*")).otherwise(pl.lit(""))
    counts = pl.col(*(SERVING_COUNTS if problem == SERVING else SERVICE_COUNTS)).cast(pl.Int64)
    names = measures(problem)
    return frame.select((pl.col("entry") + star).alias("policy"), "seed", *names).with_columns(counts)


def summarize(frame: pl.DataFrame, scenario: str, problem: str = SERVING) -> dict[str, Any]:
    """What summary.json holds: means over the seeds of what is known, by policy."""
    seeds = frame["seed"].unique(maintain_order=True)
    return {
        "scenario": scenario,
        "seeds": [seeds[0], seeds[-1]],
        "policies": {
            str(policy): {name: known_mean(rows[name].to_numpy()) for name in measures(problem)}
            for (policy,), rows in frame.partition_by("policy", as_dict=True, maintain_order=True).items()
        },
    }
