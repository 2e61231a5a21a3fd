"""What both engines have from their base: the first columns, starts, copies, metrics of ended episodes."""

import pickle

import numpy as np
import pytest

from papi_env.scenario import get_scenario
from papi_env.simulation.batch import state as batch_state
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.engine import DONE, EPISODE, NUM_SHARED_COUNTERS, SAME_STEP, SEED
from papi_env.simulation.serving import state as serving_state
from papi_env.simulation.serving.engine import ServingEngine


def engine(kind, num_envs=3, **arguments):
    """A small one of each kind."""
    if kind == "batch":
        scenario = get_scenario("general-qa/opt-30b").replace(batch_size=2)
        return DecodeEngine(scenario, num_envs, **arguments)
    scenario = get_scenario("saturated/llama-65b").replace(serving={"requests": 3})
    return ServingEngine(scenario, num_envs, **arguments)


KINDS = ("batch", "serving")


@pytest.mark.parametrize("state", [batch_state, serving_state])
def test_the_first_counters_are_those_of_every_engine(state):
    assert (
        (state.SEED, state.EPISODE, state.DONE) == (SEED, EPISODE, DONE) == tuple(range(NUM_SHARED_COUNTERS))
    )
    others = [
        value
        for name, value in vars(state).items()
        if name in ("RLP", "TLP", "REQUESTS", "ITERATION", "INVALID", "TOKENS")
    ]
    assert min(others) == NUM_SHARED_COUNTERS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("argument", ["num_envs", "threads"])
def test_numbers_below_one_are_refused(kind, argument):
    with pytest.raises(ValueError, match=f"{argument} is 0, expected at least 1"):
        engine(kind, **{argument: 0})


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_autoreset_is_refused(kind):
    with pytest.raises(ValueError, match="autoreset is 3, expected"):
        engine(kind, autoreset=3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_is_the_first_episode_of_a_seed_or_the_next_one(kind):
    made = engine(kind)
    made.start([4, 5, 2**40])
    made.start([None, 7, None], np.array([True, True, False]))
    assert made.counters[:, [SEED, EPISODE]].tolist() == [[4, 1], [7, 0], [2**40, 0]]
    assert (made.counters[:, DONE] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles_go_on_alone(kind):
    made = engine(kind)
    made.start([1, 2, 3])
    for other in (made.clone(), pickle.loads(pickle.dumps(made))):
        before = [array.copy() for array in made.state]
        other.step()
        for array, then in zip(made.state, before, strict=True):
            assert array.tobytes() == then.tobytes()
        ours = made.clone()
        ours.step()
        for array, theirs in zip(ours.state, other.state, strict=True):
            assert array.tobytes() == theirs.tobytes()
    assert made.clone().tables is made.tables


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_of_ended_episodes_are_those_of_the_episodes_alone(kind):
    restarted, alone = engine(kind, autoreset=SAME_STEP), engine(kind)
    for made in (restarted, alone):
        made.start([1, 2, 3])
    known = {}
    while len(known) < 3:
        for made in (restarted, alone):
            made.step()
        ended = np.flatnonzero(restarted.terminated)
        if len(ended):
            metrics = restarted.final_metrics(ended)
            assert list(metrics) == list(restarted.metrics())
            for env in ended.tolist():
                known.setdefault(env, {name: values[env] for name, values in metrics.items()})
    for name, values in alone.metrics().items():
        np.testing.assert_array_equal(values, [known[env][name] for env in range(3)], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_final_metrics_are_written_again(kind):
    made = engine(kind, autoreset=SAME_STEP, max_steps=2)
    made.start([1, 2, 3])
    made.step()
    made.step()
    kept = {}
    first = made.final_metrics(np.array([0, 2]), kept)
    again = made.final_metrics(np.array([1]), kept)
    assert all(again[name] is first[name] for name in first)
