"""Ratios on the same instances, and intervals that respect how those instances were drawn.

Instances are arrays [strata, seeds]: a stratum is a setting (scenario, batch size, speculation length),
every one played on the same seeds. The lengths of a seed's requests are the same draws in every setting,
so strata are not independent: an interval resamples seeds, and a resampled seed brings its instance in
all strata along. Resampling within each stratum by itself would treat the same luck as new evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from papi_env.kernel import FloatArray

RESAMPLES = 10_000
CONFIDENCE = 0.95
# With fewer, the smallest and the largest resample are still too close: 93 % with 6, 87 % with 4.
ENOUGH_SEEDS = 6


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its interval: NaN where there are no instances, the ends also with one seed."""

    value: float
    low: float
    high: float


def geometric_mean(values: FloatArray) -> float:
    """Geometric mean of positive values of any shape; NaN if there are none."""
    return float(np.exp(np.log(values).mean())) if values.size else float("nan")


def regret_percent(returns: FloatArray, oracle_returns: FloatArray) -> FloatArray:
    """Decoding cost above the oracle's, in percent of it; both arguments of one shape, returns below 0.

    Negative where a policy beats the oracle, which can happen where switching costs: the oracle
    minimises the next step alone.
    """
    return np.asarray(100 * (oracle_returns - returns) / np.abs(oracle_returns))


def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Between minus this and this, Student's t with `freedom` >= 1 degrees of freedom lies with `confidence`.

    Exact for 1 and 2 degrees, else Fisher's expansion (Abramowitz and Stegun, 26.7.5): 0.8 % too small with 3,
    right to four digits from 9 on.
    """
    if freedom == 1:
        return math.tan(math.pi * confidence / 2)
    if freedom == 2:
        return confidence * math.sqrt(2 / (1 - confidence**2))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def interval_levels(seeds: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The quantiles of a bootstrap distribution between which an interval lies, for 2 seeds and more.

    Percentile intervals are too narrow for few seeds, by the factor that a t interval is wider than a
    normal one with the biased variance; the quantiles are moved outwards to make up for it (Hesterberg,
    "What Teachers Should Know About the Bootstrap", The American Statistician 69(4), 2015:
    the expanded percentile interval).
    """
    freedom = seeds - 1
    student = student_quantile(freedom, confidence)
    low = NormalDist().cdf(-student * np.sqrt(seeds / freedom))
    return low, 1 - low


@lru_cache(maxsize=1)
def _weights(seeds: int, resamples: int, seed: int) -> FloatArray:
    """How much each seed weighs in each resample, [seeds, resamples]; columns sum to 1."""
    draws = np.random.default_rng(seed).integers(seeds, size=(resamples, seeds))
    draws += seeds * np.arange(resamples)[:, None]
    counts = np.bincount(draws.ravel(), minlength=resamples * seeds)
    return np.ascontiguousarray(counts.reshape(resamples, seeds).T) / seeds


def bootstrap_means(values: FloatArray, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """Means of resampled instances, [resamples]; every stratum has the same weight.

    Args:
        values: float [strata, seeds], paired differences or ratios' logarithms.
        resamples: how often the seeds are drawn with replacement.
        seed: of the draws. Calls with one seed and as many seeds draw the same, so that entries resampled
            one after the other are still resampled together.
    """
    # Strata weigh the same and share the draw, so the mean over them can be taken first.
    return np.asarray(values.mean(axis=0) @ _weights(values.shape[1], resamples, seed))


def mean_estimate(values: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean of `values` [strata, seeds] with its 95 % interval, which has no ends where there is one seed."""
    if not values.size:
        return Estimate(float("nan"), float("nan"), float("nan"))
    value = float(values.mean())
    if values.shape[1] < 2:
        return Estimate(value, float("nan"), float("nan"))
    levels = interval_levels(values.shape[1])
    low, high = np.quantile(bootstrap_means(values, resamples, seed), levels)
    # Where all seeds agree, rounding must not leave the value outside.
    return Estimate(value, min(float(low), value), max(float(high), value))


def ratio_estimate(
    numerators: FloatArray, denominators: FloatArray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Geometric mean of paired ratios of positive [strata, seeds] arrays, with its 95 % interval."""
    logs = mean_estimate(np.log(numerators / denominators), resamples=resamples, seed=seed)
    return Estimate(*(float(np.exp(x)) for x in (logs.value, logs.low, logs.high)))
