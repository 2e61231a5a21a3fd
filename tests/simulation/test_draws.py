"""Draws are keyed, uniform, and independent of everything a policy does."""

import numpy as np
import pytest

from papi_env.simulation.batch.state import DRAWN
from papi_env.simulation.compiled import njit
from papi_env.simulation.draws import (
    accepted_ahead,
    accepted_prefix,
    draw_ahead,
    mix,
    request_key,
    request_row,
)


def keys(seed, episode, count=2000):
    return [int(request_key(seed, episode, i)) for i in range(count)]


def test_mix_is_a_bijection_on_a_sample():
    sample = np.arange(100_000, dtype=np.uint64)
    assert len({int(mix(x)) for x in sample[:20_000]}) == 20_000


def test_keys_of_other_seeds_and_episodes_share_nothing():
    groups = [keys(seed, episode) for seed in range(4) for episode in range(4)]
    assert len(set().union(*map(set, groups))) == sum(map(len, groups))


def test_rows_are_uniform():
    rows = np.array([request_row(key, 10) for key in np.array(keys(7, 0, 20_000), dtype=np.uint64)])
    counts = np.bincount(rows, minlength=10)
    # Chi-square with 9 degrees of freedom: 27.9 is its 99.9th percentile, and the draw is fixed.
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9


@njit
def accepted_prefixes(key, count, tlp, thresholds):
    """As many draws, one after the other."""
    found = np.empty(count, dtype=np.int64)
    for k in range(count):
        found[k] = accepted_prefix(key, k * tlp, tlp - 1, 0, thresholds)
    return found


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("tlp", [2, 4, 8])
def test_accepted_prefix_has_the_expected_length(rate, tlp):
    thresholds = np.full((1, 7), rate * 2.0**53, dtype=np.uint64)
    key = request_key(1, 2, 3)
    advance = 1 + accepted_prefixes(key, 40_000, tlp, thresholds)
    expected = tlp if rate == 1 else (1 - rate**tlp) / (1 - rate)
    error = advance.std() / np.sqrt(len(advance))
    assert abs(advance.mean() - expected) <= 4 * error + 1e-12


def test_a_draw_belongs_to_its_token_whatever_was_verified_before():
    thresholds = np.full((1, 7), 2.0**52, dtype=np.uint64)
    key = request_key(0, 0, 0)
    accepted = [accepted_prefix(key, p, 1, 0, thresholds) for p in range(64)]
    for start in range(40):
        run = accepted_prefix(key, start, 7, 0, thresholds)
        assert accepted[start : start + run] == [1] * run
        if run < 7:
            assert accepted[start + run] == 0


@pytest.mark.parametrize("drafted", [1, 3, 7])
def test_what_is_drawn_ahead_is_what_is_drawn_draft_by_draft(drafted):
    rng = np.random.default_rng(drafted)
    keys, contexts = rng.integers(0, 2**63, 16).astype(np.uint64), rng.integers(0, 4096, 16).astype(np.int32)
    thresholds = np.full((1, 7), 0.7 * 2.0**53, dtype=np.uint64)
    ones, seen = np.uint32(2**drafted - 1), set()
    for key, context in zip(keys, contexts, strict=True):
        found = np.uint32(draw_ahead(key, context, thresholds[0, 0]))
        for position in range(DRAWN - drafted + 1):
            coming = np.uint32(found >> np.uint32(position))
            alone = accepted_prefix(key, context + position, drafted, 0, thresholds)
            assert accepted_ahead(coming, ones) == alone
            seen.add(alone)
    assert seen == set(range(drafted + 1))
