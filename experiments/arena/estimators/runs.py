"""Aggregates over training runs, settings and instances, with intervals that resample runs and instances.

Scores are positions: 0 what uniformly random choice returns in a setting, 1 what the ceiling returns there. The
aggregates are those of Agarwal, Schwarzer, Castro, Courville and Bellemare ("Deep Reinforcement Learning at the Edge of
the Statistical Precipice", NeurIPS 2021): the interquartile mean over runs and settings, performance profiles, and the
probability of improvement; intervals are percentiles of a bootstrap that draws training runs anew in every setting by
itself (stratified). Instances are drawn anew as well, the same ones for all entries and settings, because all played
the same: rules, which have no training runs, get their intervals from instances alone.

Relative differences between two entries' returns (`resampled_relative`), which claims rest on, draw whole training
runs, with what each earned in every setting: one run plays them all, and some runs are better in all settings alike.

Intervals are expanded for few instances (`statistics.interval_levels`), not for few training runs: with 3 runs, that
part of an interval is too narrow by a factor of up to sqrt(3 / 2). Drawing runs anew in every setting by itself takes
what a run earns in one setting as no hint of what it earns in another; where it is one, the intervals of positions are
too narrow, and those of relative differences are the ones to quote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from experiments.common.statistics import Estimate, interval_levels
from papi_env.kernel import FloatArray

# chosen: ends of intervals then move by a few per cent of their length from one seed to another (range 1000-10000).
RESAMPLES = 2000
# Returns that differ by less than this, relative to the larger, are the same: sums in another order.
SAME = 1e-9
# From which share on a single run in a single setting is counted as behind. chosen: what is asked of Kernels-v0.
BEHIND = 0.02


@dataclass(frozen=True)
class Earnings:
    """What an entry earned, and what it is measured against.

    Attributes:
        returns: float64 [runs, settings, instances]; NaN where the entry failed.
        floor, ceiling: float64 [settings, instances] each.
    """

    returns: FloatArray
    floor: FloatArray
    ceiling: FloatArray

    def __post_init__(self) -> None:
        assert self.returns.ndim == 3
        assert self.floor.shape == self.ceiling.shape == self.returns.shape[1:]

    @property
    def counted(self) -> FloatArray:
        """Returns in which a failure counts as the floor: who cannot play is worth no more than random choice."""
        return np.where(np.isnan(self.returns), self.floor, self.returns)

    @property
    def instances(self) -> int:
        """Of every setting."""
        return self.returns.shape[2]

    def first(self, instances: int) -> Earnings:
        """The same on the first instances alone."""
        return Earnings(self.returns[..., :instances], self.floor[:, :instances], self.ceiling[:, :instances])

    @property
    def failures(self) -> int:
        """Runs and settings that failed."""
        return int(np.isnan(self.returns).any(axis=2).sum())


@lru_cache(maxsize=8)
def instance_weights(instances: int, resamples: int = RESAMPLES, seed: int = 0) -> FloatArray:
    """How much each instance weighs in each resample, [instances, 1 + resamples]; in the first all weigh the same."""
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(instances, np.full(instances, 1 / instances), size=resamples).T / instances
    weights = np.concatenate([np.full((instances, 1), 1 / instances), draws], axis=1)
    weights.flags.writeable = False
    return weights


def resampled_runs(
    runs: int, settings: int, resamples: int = RESAMPLES, seed: int = 1, whole: bool = False
) -> npt.NDArray[np.int64]:
    """Which runs each resample holds, by setting: int64 [runs, settings, 1 + resamples]; the first holds each once.

    Runs are drawn by setting, or, where they are `whole`, once for all settings.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(runs, size=(runs, 1 if whole else settings, resamples))
    drawn = np.broadcast_to(drawn, (runs, settings, resamples))
    first = np.broadcast_to(np.arange(runs)[:, None, None], (runs, settings, 1))
    return np.concatenate([first, drawn], axis=2)


def resampled_positions(entry: Earnings) -> FloatArray:
    """Positions in every resample, [runs, settings, 1 + resamples]; the first is the sample itself.

    NaN in settings where the ceiling is not above the floor.
    """
    weights = instance_weights(entry.floor.shape[1])
    floor, ceiling = entry.floor @ weights, entry.ceiling @ weights
    way = ceiling - floor
    ahead = entry.counted @ weights - floor
    positions = np.divide(ahead, way, out=np.full_like(ahead, np.nan), where=way > SAME * np.abs(ceiling))
    return _with_resampled_runs(positions)


def _with_resampled_runs(values: FloatArray, seed: int = 1, whole: bool = False) -> FloatArray:
    """`values` [runs, settings, 1 + resamples] of the runs that each resample holds, the same shape."""
    runs, settings, resamples = values.shape
    if runs == 1:
        return values
    return np.take_along_axis(values, resampled_runs(runs, settings, resamples - 1, seed, whole), axis=0)


def resampled_relative(returns: FloatArray, others: FloatArray) -> FloatArray:
    """How much more an entry returns than another one, relative to the other, in every resample.

    In each setting (mean return - the other's) / |the other's|: positive is better, also where returns are negative
    costs, of which it is then the share that is saved. Instances are drawn anew, the same for both; whole training
    runs of both as well, those of one independently of the other's. `mean_over` gives means over settings, in which
    each setting weighs the same, and their intervals.

    Args:
        returns: float64 [runs, settings, instances].
        others: float64 [other runs, settings, instances]; the mean over its runs is what is compared with.

    Returns:
        float64 [runs, settings, 1 + RESAMPLES]; the first is the sample itself. NaN in settings where one of them has
        NaN or the other entry returns 0, which nothing can be relative to.
    """
    weights = instance_weights(returns.shape[2])
    ours = _with_resampled_runs(returns @ weights, whole=True)
    theirs = _with_resampled_runs(others @ weights, seed=2, whole=True).mean(axis=0)
    ahead = ours - theirs
    # Sums in another order.
    ahead[np.abs(ahead) <= SAME * np.maximum(np.abs(ours), np.abs(theirs))] = 0
    base = np.abs(theirs)
    known = base > SAME * np.abs(others).max(axis=(0, 2))[:, None]
    return np.divide(ahead, base, out=np.full_like(ahead, np.nan), where=known & known[:, :1])


def interquartile_mean(values: FloatArray) -> FloatArray:
    """Mean of the middle half of `values` [n, ...] along the first axis; values at its edges count in part.

    NaN are left out; NaN where nothing is left.
    """
    ordered = np.sort(values, axis=0)  # NaN last
    count = (~np.isnan(ordered)).sum(axis=0)
    rank = np.arange(len(ordered)).reshape((-1,) + (1,) * (ordered.ndim - 1))
    inside = np.clip(np.minimum(rank + 1, 0.75 * count) - np.maximum(rank, 0.25 * count), 0, 1)
    total = np.where(inside > 0, ordered, 0.0) * inside
    width = inside.sum(axis=0)
    return np.asarray(np.divide(total.sum(axis=0), width, out=np.full(width.shape, np.nan), where=width > 0))


def estimate(resampled: FloatArray, instances: int) -> Estimate:
    """A value and its interval from [1 + resamples] values, the first of which is the sample's own."""
    value = float(resampled[0])
    if instances < 2 or np.isnan(resampled).all():
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.nanquantile(resampled[1:], interval_levels(instances))
    # Where all resamples agree, rounding must not leave the value outside.
    return Estimate(value, min(float(low), value), max(float(high), value))


def aggregate(positions: FloatArray, instances: int) -> Estimate:
    """Interquartile mean over runs and settings of `resampled_positions`, with its 95 % interval."""
    runs, settings, resamples = positions.shape
    return estimate(interquartile_mean(positions.reshape(runs * settings, resamples)), instances)


def mean_over(
    resampled: FloatArray, instances: int, settings: npt.NDArray[np.bool_] | None = None
) -> Estimate:
    """Mean over runs and some of the settings of what is resampled, with its 95 % interval.

    Args:
        resampled: from `resampled_positions` or `resampled_relative`.
        instances: that they were resampled from.
        settings: bool [settings]; all of them by default. Those without a value (NaN) are left out.
    """
    kept = resampled if settings is None else resampled[:, settings]
    return estimate(_mean(kept), instances)


def mean_of_groups(
    resampled: FloatArray, instances: int, groups: Sequence[npt.NDArray[np.bool_]]
) -> Estimate:
    """As `mean_over`, of one group or more of settings, which weigh the same, however many settings each has."""
    return estimate(np.mean([_mean(resampled[:, settings]) for settings in groups], axis=0), instances)


def paired_difference(positions: FloatArray, baseline: FloatArray, instances: int) -> Estimate:
    """Mean difference of two entries' positions on the same instances, with its 95 % interval."""
    return estimate(_mean(positions) - _mean(baseline), instances)


def _mean(positions: FloatArray) -> FloatArray:
    """Mean over runs and settings, [1 + resamples]; settings without a position are left out."""
    flat = positions.reshape(-1, positions.shape[2])
    known = ~np.isnan(flat)
    count = known.sum(axis=0)
    total = np.where(known, flat, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))


def wins(returns: FloatArray, others: FloatArray) -> FloatArray:
    """How often runs beat another entry's runs on the same instance, ties counting half.

    Args:
        returns: [runs, settings, instances]; others: [other runs, settings, instances].

    Returns:
        float64 [runs, settings, instances], mean over the other runs.
    """
    scale = SAME * np.maximum(np.abs(returns)[:, None], np.abs(others)[None])
    ahead = returns[:, None] - others[None]
    return np.asarray(np.where(np.abs(ahead) <= scale, 0.5, ahead > 0).mean(axis=1))


def improvement(entry: Earnings, other: Earnings) -> Estimate:
    """Probability that a run of the entry returns more than one of the other on the same instance.

    Mean over settings, with its 95 % interval; failures count as the floor.
    """
    found = wins(entry.counted, other.counted)
    weights = instance_weights(found.shape[2])
    by_setting = _with_resampled_runs(found @ weights)
    return estimate(by_setting.mean(axis=(0, 1)), found.shape[2])


@dataclass(frozen=True)
class Profile:
    """A performance profile: the share of runs and settings with a position above each level, float64 [levels] each."""

    levels: FloatArray
    share: FloatArray
    low: FloatArray
    high: FloatArray


def performance_profile(positions: FloatArray, instances: int, levels: FloatArray) -> Profile:
    """The profile of `resampled_positions` at increasing levels, with pointwise 95 % intervals."""
    flat = positions.reshape(-1, positions.shape[2])
    flat = flat[~np.isnan(flat).any(axis=1)]
    rows = [
        estimate((flat > level).mean(axis=0) if len(flat) else np.full(positions.shape[2], np.nan), instances)
        for level in levels
    ]
    return Profile(
        levels,
        np.array([row.value for row in rows]),
        np.array([row.low for row in rows]),
        np.array([row.high for row in rows]),
    )
