"""Ratios and intervals: known cases, and how often an interval holds the truth."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from experiments.common.statistics import (
    bootstrap_means,
    geometric_mean,
    interval_levels,
    mean_estimate,
    ratio_estimate,
    regret_percent,
)

POSITIVE = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(2, 8)),
    elements=st.floats(1e-3, 1e3, allow_nan=False),
)


def test_geometric_mean_of_powers():
    assert geometric_mean(np.array([[1.0, 4.0], [16.0, 1.0]])) == pytest.approx(2.0 ** (6 / 4))
    assert math.isnan(geometric_mean(np.empty((0, 3))))


def test_regret_is_the_extra_cost_in_percent_and_zero_for_the_oracle():
    oracle = np.array([-2.0, -10.0])
    assert regret_percent(np.array([-3.0, -10.0]), oracle).tolist() == [50.0, 0.0]
    assert regret_percent(np.array([-1.0, -9.0]), oracle).tolist() == [-50.0, -10.0]


def test_equal_instances_have_a_ratio_of_one_without_width():
    times = np.random.default_rng(0).uniform(1, 5, (7, 5))
    estimate = ratio_estimate(times, times)
    assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0)


def test_no_instances_give_nan():
    estimate = ratio_estimate(np.empty((0, 5)), np.empty((0, 5)))
    assert all(math.isnan(x) for x in (estimate.value, estimate.low, estimate.high))


@given(POSITIVE, st.floats(0.1, 10))
def test_the_interval_holds_the_value_and_scales_with_the_ratio(times, factor):
    one, other = (
        ratio_estimate(times, np.ones_like(times)),
        ratio_estimate(factor * times, np.ones_like(times)),
    )
    assert one.low <= one.value <= one.high
    for name in ("value", "low", "high"):
        assert getattr(other, name) == pytest.approx(factor * getattr(one, name), rel=1e-9)


@given(POSITIVE)
def test_a_ratio_and_its_inverse_agree(times):
    there, back = ratio_estimate(times, np.ones_like(times)), ratio_estimate(np.ones_like(times), times)
    assert there.value * back.value == pytest.approx(1.0)


def test_one_seed_has_a_value_and_no_interval():
    estimate = ratio_estimate(np.array([[2.0], [8.0]]), np.ones((2, 1)))
    assert estimate.value == pytest.approx(4.0)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_pairing_cancels_what_instances_have_in_common():
    rng = np.random.default_rng(0)
    hardness = np.exp(rng.normal(0, 2, (3, 40)))
    estimate = ratio_estimate(2 * hardness, hardness)
    assert estimate.high - estimate.low < 1e-9
    assert estimate.value == pytest.approx(2.0)


def test_resamples_are_the_same_for_the_same_seed_and_follow_it():
    values = np.random.default_rng(0).normal(size=(2, 10))
    assert np.array_equal(bootstrap_means(values, 100, 3), bootstrap_means(values, 100, 3))
    assert not np.array_equal(bootstrap_means(values, 100, 3), bootstrap_means(values, 100, 4))


def test_resampled_means_have_the_spread_of_the_mean():
    values = np.random.default_rng(0).normal(size=(1, 50))
    means = bootstrap_means(values, 20_000)
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)
    assert means.std() == pytest.approx(values.std() / math.sqrt(50), rel=0.03)


@pytest.mark.parametrize(("seeds", "student"), [(5, 2.776), (10, 2.262), (20, 2.093), (50, 2.010)])
def test_levels_are_those_of_the_expanded_percentile_interval(seeds, student):
    low, high = interval_levels(seeds)
    assert low == pytest.approx(NormalDist().cdf(-student * math.sqrt(seeds / (seeds - 1))), rel=0.03)
    assert low + high == pytest.approx(1.0)


def test_levels_approach_the_plain_ones_and_never_leave_the_unit_interval():
    assert interval_levels(100_000)[0] == pytest.approx(0.025, rel=1e-3)
    levels = [interval_levels(seeds)[0] for seeds in range(2, 100)]
    assert levels == sorted(levels)
    assert 0 <= levels[0] < levels[-1] < 0.025


@pytest.mark.parametrize("seeds", [8, 20])
def test_intervals_hold_the_truth_as_often_as_they_say_where_strata_share_their_luck(seeds):
    rng = np.random.default_rng(seeds)
    trials, held, held_if_independent = 600, 0, 0
    for _ in range(trials):
        # Six strata that mostly repeat one another, as settings of one seed do.
        values = 1 + rng.normal(size=(1, seeds)) + 0.2 * rng.normal(size=(6, seeds))
        estimate = mean_estimate(values, resamples=400)
        held += estimate.low <= 1 <= estimate.high
        flat = mean_estimate(values.reshape(1, -1), resamples=400)
        held_if_independent += flat.low <= 1 <= flat.high
    assert 0.92 <= held / trials <= 0.98
    # Taking every instance for new evidence would promise far more than it holds.
    assert held_if_independent / trials < 0.8
