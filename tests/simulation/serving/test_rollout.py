"""Rollouts: how far they go, what they add up, and that the engine goes on from there."""

import numpy as np
import pytest

from agents.serving.inside.play import play_range
from agents.serving.rules import fixed_policy
from papi_env.errors import ConfigurationError
from papi_env.scenario import parse_scenario
from papi_env.simulation.engine import SAME_STEP
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.rollout import END_NAMES, roll

SCENARIO = parse_scenario(
    {
        "name": "test",
        "system": "papi",
        "model": "llama-65b",
        "energy_weight": 0.01,
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": 10.0},
            "lengths": {"input": 300, "output": 40},
            "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
            "requests": 12,
            "max_running": 16,
        },
    },
    "test",
)
ACTIONS = np.array([(1, 1, 2, 0), (0, 0, 2, 0), (2, 2, 1, 1)])


def make_engine(**arguments):
    engine = ServingEngine(SCENARIO, 3, **arguments)
    engine.counters[:, at.SEED] = 5
    engine.reset()
    return engine


def played(engine, **limits):
    return roll(engine, play_range, fixed_policy(ACTIONS)[:], **limits)


def stepped(engine, most=10**9, seconds=np.inf):
    """Rewards and times at the start of each step, by environment, under the fixed actions."""
    engine.actions[:] = ACTIONS
    begin = engine.clocks[:, at.TIME_S].copy()
    found = [[] for _ in range(3)]
    for _ in range(most):
        going = engine.counters[:, at.DONE] == 0
        if not going.any():
            break
        before = engine.clocks[:, at.TIME_S].copy()
        engine.step()
        for e in np.flatnonzero(going):
            found[e].append((before[e] - begin[e], engine.rewards[e]))
    return found


def test_to_the_end_of_the_episode():
    engine, twin = make_engine(), make_engine()
    found, steps = played(engine), stepped(twin)
    assert [END_NAMES[k] for k in found.ends] == ["terminated"] * 3
    np.testing.assert_array_equal(found.steps, [len(each) for each in steps])
    np.testing.assert_array_equal(found.returns, [sum(reward for _, reward in each) for each in steps])
    np.testing.assert_array_equal(found.discounted, found.returns)
    for ours, theirs in zip(engine.state, twin.state, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(engine.observations, twin.observations)
    assert engine.terminated.all()
    again = played(engine)
    assert [END_NAMES[k] for k in again.ends] == ["was over"] * 3
    assert not again.steps.any()
    assert not again.returns.any()


def test_steps_and_simulated_seconds_limit_it_and_the_rest_follows():
    whole = played(make_engine())
    engine = make_engine()
    first = played(engine, steps=9)
    assert [END_NAMES[k] for k in first.ends] == ["steps"] * 3
    begin = engine.clocks[:, at.TIME_S].copy()
    second = played(engine, seconds=0.2)
    assert [END_NAMES[k] for k in second.ends] == ["time"] * 3
    passed = engine.clocks[:, at.TIME_S] - begin
    assert (passed >= 0.2).all()
    assert (engine.clocks[:, at.LAST_START_S] - begin < 0.2).all()
    # The engine may be stepped in between.
    engine.actions[:] = ACTIONS
    engine.step()
    rest = played(engine)
    np.testing.assert_array_equal(first.steps + second.steps + 1 + rest.steps, whole.steps)
    np.testing.assert_array_equal(engine.clocks[:, at.TIME_S], make_rolled().clocks[:, at.TIME_S])


def make_rolled():
    engine = make_engine()
    played(engine)
    return engine


def test_most_steps_of_an_episode_truncate_it():
    found = played(make_engine(max_steps=7))
    assert [END_NAMES[k] for k in found.ends] == ["truncated"] * 3
    assert (found.steps == 7).all()


def test_rewards_are_discounted_by_the_seconds_before_their_step():
    found, steps = played(make_engine(), discount=0.5), stepped(make_engine())
    expected = [sum(reward * 0.5**passed for passed, reward in each) for each in steps]
    np.testing.assert_allclose(found.discounted, expected, rtol=1e-12)
    assert (np.abs(found.discounted - found.returns) > 1e-3).all()


def test_forks_try_first_actions_and_leave_the_original():
    engine = make_engine()
    played(engine, steps=20)
    before = [array.copy() for array in engine.state]
    firsts = np.array([(0, 0, 2, 0), (1, 3, 2, 0), (1, 0, 0, 0)])
    twin = engine.fork(0, 3)
    policy = fixed_policy(np.repeat(ACTIONS[:1], 3, axis=0))
    found = roll(twin, play_range, policy[:], first=firsts)
    for e, first in enumerate(firsts):
        alone = engine.fork(0, 1)
        alone.actions[:] = first
        alone.step()
        total = alone.rewards[0]
        alone.actions[:] = ACTIONS[0]
        while alone.counters[0, at.DONE] == 0:
            alone.step()
            total += alone.rewards[0]
        assert found.returns[e] == total
    assert len(set(found.returns)) > 1
    for array, then in zip(engine.state, before, strict=True):
        np.testing.assert_array_equal(array, then)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps is 0, expected at least 1"),
        ({"seconds": 0.0}, "seconds is 0.0, expected more than 0"),
        ({"seconds": float("nan")}, "seconds is nan, expected more than 0"),
        ({"discount": 1.5}, "discount is 1.5, expected more than 0 and at most 1"),
        ({"first": ACTIONS[:2]}, r"first has shape \(2, 4\)"),
        ({"first": ACTIONS + 4}, "values 4 to 6"),
        ({"first": ACTIONS, "hold": 0}, "hold is 0, expected at least 1"),
    ],
)
def test_plans_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        played(make_engine(), **arguments)


def test_an_engine_that_resets_by_itself_is_refused():
    with pytest.raises(ConfigurationError, match="expected autoreset DISABLED"):
        played(make_engine(autoreset=SAME_STEP))
