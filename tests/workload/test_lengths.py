"""Length tables give the published statistics back; populations keep every request within its bounds."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError
from papi_env.workload.lengths import (
    LENGTH_TABLES,
    MAX_TOKENS,
    LengthTable,
    RequestPopulation,
    fixed_lengths,
    sample_table,
    within_context,
)

TABLES = pytest.mark.parametrize("table", LENGTH_TABLES.values(), ids=LENGTH_TABLES)

SMALL = LengthTable(
    name="small",
    source="made up",
    n=3,
    levels=(0, 50, 100),
    input_quantiles=(1, 100, 10000),
    output_quantiles=(10, 100, 1000),
    input_mean=1000,
    output_mean=200,
    rank_correlation=0,
)

lengths = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), min_size=1, max_size=30)


def spearman(pairs):
    """Rank correlation with ties sharing their mean rank."""
    ranks = []
    for column in pairs.T:
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    return np.corrcoef(ranks)[0, 1]


def population(pairs):
    return RequestPopulation(np.array(pairs), source="test")


def test_the_tables_are_the_published_ones():
    assert {name: (table.n, table.rank_correlation) for name, table in LENGTH_TABLES.items()} == {
        "dolly-creative-writing": (703, 0.23),
        "dolly-general-qa": (2145, 0.12),
        "azure-code": (8819, -0.02),
        "azure-conversation": (19366, 0.07),
    }
    median = LENGTH_TABLES["azure-conversation"].levels.index(50)
    assert [table.input_quantiles[median] for table in LENGTH_TABLES.values()] == [14, 10, 1469, 1020]
    assert [table.output_quantiles[median] for table in LENGTH_TABLES.values()] == [143, 91, 13, 129]
    assert all("CC BY" in table.source for table in LENGTH_TABLES.values())


@TABLES
def test_sample_means_are_the_published_means_within_3_percent(table):
    assert sample_table(table).means == pytest.approx((table.input_mean, table.output_mean), rel=0.03)


@TABLES
def test_sample_quantiles_are_the_tables(table):
    sample = sample_table(table, seed=3).lengths
    for drawn, quantiles in zip(sample.T, (table.input_quantiles, table.output_quantiles), strict=True):
        # The extremes end the CDF, and strata stop short of them. Tolerances: half a token of rounding,
        # and the distance of neighbouring draws where the quantiles are steepest.
        inside = np.percentile(drawn, table.levels[1:-1])
        assert inside == pytest.approx(quantiles[1:-1], abs=0.51, rel=3e-3)
        assert quantiles[0] <= drawn.min()
        assert drawn.max() <= quantiles[-1]


@TABLES
@pytest.mark.parametrize("size", [2048, 32768])
def test_sample_rank_correlation_is_the_tables(table, size):
    assert spearman(sample_table(table, size, seed=1).lengths) == pytest.approx(
        table.rank_correlation, abs=0.6 / np.sqrt(size) + 0.004
    )


@pytest.mark.parametrize("rho", [-1, -0.7, -0.3, 0, 0.5, 0.9, 1])
def test_rank_correlation_is_spearmans_and_not_pearsons(rho):
    # At 0.5 an unconverted copula would give 0.483.
    sample = sample_table(dataclasses.replace(SMALL, rank_correlation=rho))
    assert spearman(sample.lengths) == pytest.approx(rho, abs=0.008)


def test_quantiles_are_interpolated_in_the_logarithm():
    # A quarter of the way from 1 to 10000 through 100 is 10: linearly it would be 50.5.
    drawn = sample_table(SMALL, size=4001).lengths
    assert np.percentile(drawn, 25, axis=0) == pytest.approx([10, 32], abs=0.51)


def test_seeds_repeat_and_decide_the_pairing_only():
    first, again, other = (sample_table(SMALL, 500, seed).lengths for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.sort(first, axis=0), np.sort(other, axis=0))


@given(st.sampled_from(list(LENGTH_TABLES.values())), st.integers(1, 300), st.integers(0, 2**64))
def test_samples_of_any_size_stay_within_the_table(table, size, seed):
    sample = sample_table(table, size, seed)
    assert sample.lengths.shape == (size, 2)
    assert sample.lengths.dtype == np.int32
    lows, highs = zip(*((q[0], q[-1]) for q in (table.input_quantiles, table.output_quantiles)), strict=True)
    assert (sample.lengths >= lows).all()
    assert (sample.lengths <= highs).all()
    assert max(highs) < sample.max_total + max(highs) <= sum(highs) + max(highs)


@pytest.mark.parametrize("size", [0, -1, 2.5, float("nan"), True, None, 10**12])
def test_a_sample_of_no_or_absurd_size_is_refused(size):
    with pytest.raises(ConfigurationError, match=r"size is .* expected a whole number"):
        sample_table(SMALL, size)


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigurationError, match="seed is -1"):
        sample_table(SMALL, 10, seed=-1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("levels", (0, 50, 99)),
        ("levels", (0, 50, 50)),
        ("levels", (0, float("nan"), 100)),
        ("input_quantiles", (1, 100)),
        ("input_quantiles", (0, 100, 200)),
        ("output_quantiles", (1, 100, 99)),
        ("output_quantiles", (1, float("nan"), 99)),
        ("output_quantiles", (1, 10, float("inf"))),
        ("rank_correlation", 1.01),
        ("rank_correlation", float("nan")),
    ],
)
def test_a_table_that_is_no_distribution_is_refused(field, value):
    with pytest.raises(ConfigurationError, match=f"'small': {field} is .*expected"):
        dataclasses.replace(SMALL, **{field: value})


def test_fixed_lengths_are_one_request():
    fixed = fixed_lengths(128, 512)
    assert fixed.lengths.tolist() == [[128, 512]]
    assert (len(fixed), fixed.max_total, fixed.means) == (1, 640, (128.0, 512.0))
    assert (fixed.excluded, fixed.truncated) == (0, 0)


@pytest.mark.parametrize("bad", [0, -5, 1.5, "12", float("inf"), MAX_TOKENS + 1, False])
def test_fixed_lengths_that_are_no_lengths_are_refused(bad):
    with pytest.raises(ConfigurationError, match="input_tokens"):
        fixed_lengths(bad, 1)
    with pytest.raises(ConfigurationError, match="output_tokens"):
        fixed_lengths(1, bad)


@pytest.mark.parametrize(
    "bad",
    [
        np.empty((0, 2), int),
        np.ones((3, 3), int),
        np.ones(2, int),
        np.ones((2, 2)),
        np.array([[3, 0]]),
        np.array([[-1, 3]]),
        np.array([[2**32 + 1, 3]]),
    ],
)
def test_populations_of_other_arrays_are_refused(bad):
    with pytest.raises(ConfigurationError, match=r"^test: .*expected"):
        population(bad)


def test_a_population_is_its_own_and_cannot_be_written():
    mine = np.array([[5, 6]])
    theirs = population(mine)
    mine[:] = 1
    assert theirs.lengths.tolist() == [[5, 6]]
    with pytest.raises(ValueError, match="read-only"):
        theirs.lengths[0, 0] = 1


@given(lengths, st.integers(2, 400))
def test_context_limits_account_for_every_request(pairs, limit):
    whole = population(pairs)
    fitting = [(i, o) for i, o in pairs if i + o <= limit]
    roomy = [(i, min(o, limit - i)) for i, o in pairs if i < limit]
    for policy, left in (("refuse", fitting), ("truncate", roomy)):
        if not left:
            with pytest.raises(
                ConfigurationError, match=f"none of {len(pairs)} .* {limit} tokens .*{policy}"
            ):
                within_context(whole, limit, policy)
            continue
        kept = within_context(whole, limit, policy)
        assert kept.lengths.tolist() == [list(pair) for pair in left]
        assert kept.max_total <= limit
        assert kept.excluded == len(pairs) - len(left)
        assert kept.truncated == (len(left) - len(fitting) if policy == "truncate" else 0)
    assert within_context(whole, limit, "extrapolate") is whole


def test_counts_add_up_over_several_limits():
    first = within_context(population([(10, 90), (10, 40), (60, 5), (200, 1)]), 100, "truncate")
    assert (first.excluded, first.truncated) == (1, 0)
    second = within_context(first, 60, "truncate")
    assert second.lengths.tolist() == [[10, 50], [10, 40]]
    assert (second.excluded, second.truncated) == (2, 1)


def test_the_shortest_request_is_named_where_none_fits():
    with pytest.raises(ConfigurationError, match=r"shortest needs 30$"):
        within_context(population([(10, 20), (5, 50)]), 25)
    with pytest.raises(ConfigurationError, match=r"shortest needs 31$"):
        within_context(population([(30, 20), (50, 1)]), 25, "truncate")


def test_another_context_policy_is_answered_with_the_nearest():
    with pytest.raises(ConfigurationError, match=r"policy 'truncat'.* mean 'truncate'.*extrapolate, refuse"):
        within_context(fixed_lengths(1, 1), 10, "truncat")


@pytest.mark.parametrize("limit", [1, 0, -3, 2.0, float("nan"), None])
@pytest.mark.parametrize("policy", ["refuse", "truncate", "extrapolate"])
def test_a_context_limit_without_room_for_a_request_is_refused(limit, policy):
    with pytest.raises(ConfigurationError, match="context limit is"):
        within_context(fixed_lengths(1, 1), limit, policy)
