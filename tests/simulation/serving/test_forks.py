"""Forks: copies of environments, into new memory and into that of earlier ones."""

import numpy as np
import pytest

from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine

TALK = {"turns": 3.0, "think_s": 0.1}
CLASSES = {"talk": {"conversation": TALK, "shared_prefix": 48}, "alone": {"weight": 2.0}}
SERVED = {
    "arrivals": {"process": "poisson", "rate_per_s": 60.0},
    "lengths": {"input": 40, "output": 24},
    "horizon_s": 2.0,
    "requests": None,
    "max_running": 6,
    "kv_tokens": 600,
}
SCENARIOS = {
    "without classes": SERVED,
    "with classes": SERVED | {"service": {"classes": CLASSES, "max_waiting": 8, "max_open": 16}},
    "pages of prefixes": SERVED | {"token_budget": 256, "prefix_caching": True},
}
# What a step writes and others read.
SEEN = ("observations", "rewards", "terminated", "truncated", "counters", "clocks")


def started(name, num_envs=3):
    engine = ServingEngine(get_scenario("saturated/llama-65b").replace(serving=SCENARIOS[name]), num_envs)
    engine.start(list(range(num_envs)))
    return engine


def at_random(engine, rng):
    limits = np.array(at.NVEC_V1[: engine.actions.shape[1]])
    return rng.integers(0, limits, engine.actions.shape)


def advance(engine, steps, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        engine.actions[:] = at_random(engine, rng)
        engine.step()
    return engine


def assert_alike(one, other):
    for name in SEEN:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fork_into_an_earlier_one_is_a_new_one(name):
    """Whatever the earlier one has been since: played far on, or of another environment or time."""
    engine = started(name)
    scratch = engine.fork(0, 5)
    rng = np.random.default_rng(1)
    for round_ in range(12):
        advance(engine, 15, seed=round_)
        envs = rng.integers(0, 3, 4)
        new, again = engine.fork(envs, 4), engine.fork(envs, 4, scratch)
        assert_alike(new, again)
        for _ in range(30):
            new.actions[:] = again.actions[:] = at_random(new, rng)
            new.step()
            again.step()
            assert_alike(new, again)
        for mine, others in zip(new.metrics().values(), again.metrics().values(), strict=True):
            np.testing.assert_array_equal(mine, others)
        advance(scratch, 3 * round_, seed=round_)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fork_leaves_the_engine_as_it_was(name):
    engine = advance(started(name), 20)
    before = [array.copy() for array in engine.state]
    scratch = engine.fork(1, 2)
    advance(scratch, 20)
    advance(engine.fork(2, 2, scratch), 20)
    for one, other in zip(before, engine.state, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_smaller_fork_is_made_in_a_part_of_the_memory():
    engine = advance(started("with classes"), 20)
    scratch = engine.fork(0, 5)
    for copies in (1, 3, 5, 3, 1):
        fork = engine.fork(2, copies, scratch)
        assert fork.num_envs == len(fork.rewards) == len(fork.state.counters) == copies
        assert np.shares_memory(fork.state.moments, scratch.state.moments)
        assert_alike(advance(fork, 5, seed=copies), advance(engine.fork(2, copies), 5, seed=copies))
    with pytest.raises(AssertionError):
        engine.fork(0, 6, scratch)


@pytest.mark.parametrize("env", [3, np.array([0, 1 << 40])])
def test_an_environment_that_there_is_not_is_refused(env):
    """Before compiled code looks for it, and whatever memory the copies are made in."""
    engine = advance(started("with classes"), 5)
    scratch = engine.fork(0, 2)
    before = [array.copy() for array in scratch.state]
    for into in (None, scratch):
        with pytest.raises(IndexError):
            engine.fork(env, 2, into)
    for one, other in zip(before, scratch.state, strict=True):
        np.testing.assert_array_equal(one, other)


def test_tables_of_an_earlier_fork_are_not_taken_over():
    engine = advance(started("with classes"), 5)
    scratch = engine.fork(0, 2)
    scalars = engine.tables.scalars.copy()
    scalars[at.OVERHEAD_S] += 1.0
    slower = engine.fork(0, 2, scratch)
    slower.tables = engine.tables._replace(scalars=scalars)
    advance(slower, 1)
    again = advance(engine.fork(0, 2, scratch), 1)
    assert (slower.tables.scalars != again.tables.scalars).any()
    np.testing.assert_array_equal(again.clocks, advance(engine.fork(0, 2), 1).clocks)
    assert (again.clocks[:, at.LAST_TIME_S] < 1.0).all()


def test_what_nobody_uses_is_not_copied():
    engine = advance(started("with classes"), 20)
    whole = engine.fork(0, 2)
    assert whole.copied_bytes == 2 * engine.state_bytes_per_env
    assert engine.copied_bytes == 0
    fork = engine.fork(0, 2, whole)
    assert 2 * (engine.counters[0].nbytes + engine.clocks[0].nbytes) < fork.copied_bytes < whole.copied_bytes
    used = int(engine.counters[0, at.RECORDS_USED])
    assert 0 < used < engine.state.facts.shape[1]
    for name in ("moments", "facts", "more"):
        mine, theirs = getattr(engine.state, name)[0, :used], getattr(fork.state, name)[1, :used]
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
    # As many as were ever in use at once.
    for k in range(60):
        advance(engine, 5, seed=k)
        counters = engine.counters
        busy = counters[:, at.RLP] + counters[:, at.PREFILLING] + counters[:, at.QUEUED]
        assert (busy <= counters[:, at.RECORDS_USED]).all()
        assert (counters[:, at.OPEN] <= counters[:, at.PLACES_USED]).all()
