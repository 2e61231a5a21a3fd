"""Estimates whose intervals resample seeds, each with what every entry earned on it (`common.statistics`)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.common.statistics import (
    Estimate,
    bootstrap_means,
    geometric_mean,
    interval_levels,
)
from papi_env.kernel import FloatArray


def ratio_of_means(numerators: FloatArray, denominators: FloatArray) -> Estimate:
    """Geometric mean over strata of the ratio of two means over seeds, with its paired 95 % interval.

    Args:
        numerators, denominators: [strata, seeds], 0 or more, played on the same seeds; in every stratum some
            denominator is above 0.

    Returns:
        NaN for an end that is not bounded: too many resamples have nothing but zeros below the line. Those that have
        zeros above it as well have no ratio, and are left out.
    """
    if not numerators.size:
        return Estimate(float("nan"), float("nan"), float("nan"))
    seeds = numerators.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = geometric_mean(numerators.mean(axis=1) / denominators.mean(axis=1))
        if seeds < 2:
            return Estimate(value, float("nan"), float("nan"))
        logs = [
            np.log(bootstrap_means(above[None]) / bootstrap_means(below[None]))
            for above, below in zip(numerators, denominators, strict=True)
        ]
        low, high = np.nanquantile(np.exp(np.mean(logs, axis=0)), interval_levels(seeds))
    # Where all seeds agree, rounding must not leave the value outside.
    low, high = min(float(low), value), max(float(high), value)
    return Estimate(value, low, high if math.isfinite(high) else float("nan"))


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


def number(value: float) -> float | None:
    """A number as JSON has it: None for NaN."""
    return None if math.isnan(value) else float(value)


def plain(estimate: Estimate) -> dict[str, float | None]:
    """`value`, `low` and `high` as JSON has them."""
    return {name: number(x) for name, x in vars(estimate).items()}


def known_mean(values: npt.NDArray[Any]) -> float | None:
    """Mean of what is known, or None."""
    known = values[~np.isnan(values.astype(float))]
    return float(known.mean()) if len(known) else None
