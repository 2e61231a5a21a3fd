"""Iterations that only count: where no draft is drawn, slots are left behind, and no number differs for it."""

import pickle

import numpy as np
import pytest

from papi_env.hardware.dram import COLUMNS_PER_ROW
from papi_env.scenario import MAX_BATCH, get_scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.batch.tokens import survey
from papi_env.simulation.engine import NEXT_STEP, SAME_STEP
from papi_env.workload.requests import Lengths

# TLP from an iteration on.
SCHEDULE = [(0, 1), (9, 4), (25, 1), (40, 7), (90, 2)]
CASES = {
    "one token": {"batch_size": 16, "speculation": 1},
    "one request": {"batch_size": 1, "speculation": 1},
    "all accepted": {"batch_size": 16, "speculation": 8},
    "schedule": {"batch_size": 40},
    # The bytes that count what begins are as full as they can be.
    "all at once": {"batch_size": MAX_BATCH, "speculation": 1, "lengths": Lengths(input=16, output=300)},
}


def started(case, num_envs=5, columns=None, **arguments):
    engine = DecodeEngine(
        get_scenario("creative-writing/llama-65b").replace(**CASES[case]), num_envs, **arguments
    )
    if case == "schedule":
        engine.tables = engine.tables._replace(schedule=np.array(SCHEDULE, dtype=np.int64))
        engine._bind()
    if columns is not None:
        scalars = engine.tables.scalars.copy()
        scalars[at.GROUP_COLUMNS] = columns
        engine.tables = engine.tables._replace(scalars=scalars)
        engine._bind()
    engine.start(range(num_envs))
    return engine


def lag(engine):
    """Most tokens that slots lack."""
    foreseen = engine._for_settling[1]
    return foreseen[:, at.PENDING].max() if foreseen.shape[1] else 0


def act(step, *engines):
    for engine in engines:
        engine.actions[:] = step % 2
        engine.step()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("autoreset", [NEXT_STEP, SAME_STEP])
def test_it_is_the_same_whether_slots_are_left_behind_or_not(case, autoreset):
    engine, settled = (started(case, autoreset=autoreset, max_steps=700) for _ in range(2))
    most = 0
    for step in range(800):
        act(step, engine, settled)
        most = max(most, lag(engine))
        assert settled.state is not None  # slots are brought up to date
        np.testing.assert_array_equal(engine.counters, settled.counters)
        np.testing.assert_array_equal(engine.clocks, settled.clocks)
        if step % 97 == 0:
            for mine, other in zip(engine.state, settled.state, strict=True):
                np.testing.assert_array_equal(mine, other)
    assert most > 40


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 12, 31, COLUMNS_PER_ROW])
@pytest.mark.parametrize("case", ["one token", "schedule"])
def test_sums_are_those_of_the_contexts(case, columns):
    engine = started(case, columns=columns)
    most = 0
    for step in range(300):
        act(step, engine)
        most = max(most, lag(engine))
        # What `state` would bring up to date.
        behind = engine._for_settling[1][:, at.PENDING, None]
        contexts, counters = vars(engine)["state"].slots + behind, engine.counters.copy()
        for e in range(engine.num_envs):
            survey(e, counters, contexts, engine.tables.scalars)
        np.testing.assert_array_equal(engine.counters, counters)
    assert most > 40


@pytest.mark.parametrize(
    "changes",
    [
        {"speculation": 4, "acceptance_rate": 0.5},  # drafts are drawn
        {"speculation": 4, "acceptance_rate": 0.0},
    ],
)
def test_where_drafts_are_drawn_nothing_is_foreseen(changes):
    engine = DecodeEngine(get_scenario("creative-writing/llama-65b").replace(batch_size=4, **changes), 2)
    engine.start([0, 1])
    for step in range(30):
        act(step, engine)
        assert lag(engine) == 0


@pytest.mark.parametrize("columns", [0, COLUMNS_PER_ROW + 1])
def test_groups_of_no_column_or_of_more_than_a_row_are_not_foreseen(columns):
    engine = started("one token", columns=columns)
    for step in range(30):
        act(step, engine)
        assert lag(engine) == 0


def test_what_others_write_to_slots_counts():
    engine, plain = started("one token"), started("one token")
    for step in range(33):
        act(step, engine, plain)
    assert lag(engine) > 0
    engine.contexts[2, :3] += 11
    engine.remaining[2, 1] = 1
    act(33, engine, plain)
    changed = np.flatnonzero((engine.counters != plain.counters).any(axis=1))
    assert changed.tolist() == [2]
    assert engine.counters[2, at.LAST_FINISHED] == 1
    counters = engine.counters.copy()
    survey(2, counters, engine.contexts, engine.tables.scalars)
    np.testing.assert_array_equal(engine.counters[2], counters[2])


@pytest.mark.parametrize("again", ["clone", "pickle"])
def test_a_copy_goes_on_as_the_engine_does(again):
    engine = started("schedule")
    for step in range(60):
        act(step, engine)
    assert lag(engine) > 0
    twin = engine.clone() if again == "clone" else pickle.loads(pickle.dumps(engine))
    for step in range(60, 300):
        act(step, engine, twin)
    for mine, other in zip(engine.state, twin.state, strict=True):
        assert mine.tobytes() == other.tobytes()


def test_metrics_of_some_environments_are_those_of_all_and_leave_slots_alone():
    engine = started("one token")
    for step in range(50):
        act(step, engine)
    behind = lag(engine)
    some, every = engine.metrics(np.array([1, 3])), engine.metrics()
    assert lag(engine) == behind > 0
    for name, values in every.items():
        np.testing.assert_array_equal(some[name], values[[1, 3]])
