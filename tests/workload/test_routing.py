"""Where tokens go: laws against enumeration."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papi_env.workload.routing import (
    active_experts,
    chances,
    expected_loads,
    popularity,
    routing_of,
    tokens_per_active_expert,
)
from papi_env.workload.transformer import get_transformer


def drawn_in_turn(weights, active):
    """Chance of each expert by enumerating every order of draws without replacement."""
    found = np.zeros(len(weights))
    for order in permutations(range(len(weights)), active):
        chance, left = 1.0, weights.sum()
        for e in order:
            chance *= weights[e] / left
            left -= weights[e]
        found[list(order)] += chance
    return found


@pytest.mark.parametrize(
    ("experts", "active", "exponent"), [(3, 1, 1.0), (4, 2, 0.7), (6, 3, 1.5), (5, 5, 1.0)]
)
def test_chances_are_those_of_draws_without_replacement(experts, active, exponent):
    found = chances(experts, active, exponent)
    np.testing.assert_allclose(found, drawn_in_turn(popularity(experts, exponent), active), atol=1e-5)
    assert found.sum() == pytest.approx(active)


@settings(deadline=None, max_examples=20)
@given(experts=st.integers(2, 40), active=st.integers(1, 8), exponent=st.floats(0, 2))
def test_chances_are_chances(experts, active, exponent):
    active = min(active, experts)
    found = chances(experts, active, exponent)
    assert ((found > 0) & (found <= 1 + 1e-9)).all()
    assert (np.diff(found) <= 1e-12).all()
    assert found.sum() == pytest.approx(active)


def test_loads_are_those_of_every_routing():
    """Three tokens, each to two of three experts drawn by popularity: all 27 routings."""
    weights = popularity(3, 1.0)
    pairs = [(0, 1), (0, 2), (1, 2)]
    chance = {
        pair: sum(
            weights[a] / weights.sum() * weights[b] / (weights.sum() - weights[a])
            for a, b in permutations(pair)
        )
        for pair in pairs
    }
    expected = np.zeros(4)
    for tokens in product(pairs, repeat=3):
        counts = np.bincount(np.ravel(tokens), minlength=3)
        np.add.at(expected, counts, np.prod([chance[pair] for pair in tokens]))
    np.testing.assert_allclose(expected_loads(3, 2, 1.0, 3)[3], expected, atol=1e-5)


@pytest.mark.parametrize("exponent", [0.0, 0.7])
def test_loads_hold_all_experts_and_tokens(exponent):
    loads = expected_loads(16, 3, exponent, 50)
    np.testing.assert_allclose(loads.sum(axis=1), 16)
    np.testing.assert_allclose(loads @ np.arange(51), 3 * np.arange(51))
    active = active_experts(chances(16, 3, exponent), np.arange(51))
    np.testing.assert_allclose(16 - loads[:, 0], active)
    assert not loads.flags.writeable


def test_tokens_of_an_active_expert():
    uniform = chances(8, 2)
    assert active_experts(uniform, 16) == pytest.approx(8 * (1 - 0.75**16))
    found = tokens_per_active_expert(uniform, np.array([0, 1, 16, 4000]))
    np.testing.assert_allclose(found, [0, 1, 32 / (8 * (1 - 0.75**16)), 1000])
    assert (np.diff(tokens_per_active_expert(chances(64, 6, 0.7), np.arange(1, 200))) > 0).all()


def test_the_routing_of_a_model():
    assert routing_of(get_transformer("llama-65b")) is None
    found = routing_of(get_transformer("qwen3-30b-a3b"))
    assert found is not None
    assert (found.layer.experts, found.layer.active, found.layer.layers) == (128, 8, 48)
    assert found.layer.expert_bytes == 2 * 3 * 2048 * 768
    assert (found.exponent, found.keyed) == (0.0, False)
    assert found.chance.sum() == pytest.approx(8)
