"""The instance of an episode with classes is what an engine offers, whatever is decided."""

import numpy as np
import pytest

from papi_env.errors import ConfigurationError
from papi_env.scenario import parse_scenario
from papi_env.simulation.engine import SAME_STEP
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.instance import serving_instance

# People who talk, agents with a prefix and no patience, and batch work that stands alone.
CLASSES = {
    "interactive": {
        "share": 3.0,
        "weight": 2.0,
        "lengths": {"table": "dolly-general-qa"},
        "objectives": {"ttft_s": 0.5, "tpot_s": 0.02},
        "acceptance": {"writing": 0.5, "code": 0.5},
        "conversation": {"turns": 2.5, "think_s": 0.3, "lengths": {"input": 20, "output": 30}},
    },
    "agent": {
        "share": 1.0,
        "lengths": {"input": 60, "output": 9},
        "shared_prefix": 100,
        "patience_s": (0.5, 1.0),
        "conversation": {"turns": 4.0, "most_turns": 6, "think_s": 0.05, "think_sigma": 0.0},
    },
    "batch": {"share": 1.0, "weight": 0.5, "lengths": {"input": 300, "output": 20}},
}


def scenario(system="papi", model="opt-30b", service=None, **changes):
    serving = {
        "arrivals": {"process": "gamma", "rate_per_s": 20.0, "shape": 0.5},
        "lengths": {"table": "dolly-general-qa"},
        "objectives": {"ttft_s": 1.0, "tpot_s": 0.05},
        "requests": 12,
        "max_running": 6,
        "chunk_tokens": 64,
        "service": {"classes": CLASSES, "charge": 0.2} | (service or {}),
    } | changes
    return parse_scenario({"name": "test", "system": system, "model": model, "serving": serving}, "test")


def engines(scenario, num_envs, seed=0, **arguments):
    engine = ServingEngine(scenario, num_envs, records=True, **arguments)
    engine.counters[:, at.SEED] = seed + np.arange(num_envs)
    engine.reset()
    return engine


def play(engine, actions, steps=20_000):
    """Step until every environment has ended; `actions(step)` are [num_envs, 10]."""
    for step in range(steps):
        if (engine.counters[:, at.DONE] == 1).all():
            return engine
        engine.actions[:] = actions(step)
        engine.step()
    raise AssertionError(f"not over after {steps} iterations")


def at_random(num_envs, seed=0):
    rng = np.random.default_rng(seed)
    return lambda step: rng.integers(0, at.NVEC_V1, (num_envs, len(at.NVEC_V1)))


def patient(num_envs):
    """Everyone is admitted, in order of arrival, and nobody is dropped."""
    action = np.zeros((num_envs, len(at.NVEC_V1)), dtype=np.int64)
    action[:, at.ADMISSION] = at.ALL
    return lambda step: action


def offered(engine, e):
    """The instance of environment e, and where each of its records stands in it."""
    counters = engine.counters[e]
    instance = serving_instance(engine.tables, int(counters[at.SEED]), int(counters[at.EPISODE]))
    records = engine.records(e)
    places = {pair: i for i, pair in enumerate(zip(instance.session, instance.turn, strict=True))}
    return instance, records, [places[pair] for pair in zip(records["session"], records["turn"], strict=True)]


def check(engine):
    for e in range(engine.num_envs):
        instance, records, where = offered(engine, e)
        assert len(set(where)) == len(where)
        for name, values in (
            ("input", instance.prompt),
            ("output", instance.output),
            ("kind", instance.kind),
            ("class", instance.number),
        ):
            assert (records[name] == values[where]).all(), name
        by_place = {place: i for i, place in enumerate(where)}
        for i, place in enumerate(where):
            if instance.turn[place] == 0:
                assert records["arrival_s"][i] == instance.arrival_s[place]
            else:
                done = records["finish_s"][by_place[place - 1]]
                assert records["arrival_s"][i] == done + instance.think_s[place - 1]
            waited = records["finish_s"][i] - records["arrival_s"][i]
            if records["status"][i] == at.LEFT:
                assert waited >= instance.patience_s[place] * (1 - 1e-12)
            assert (records["status"][i] == at.REFUSED) or not instance.refused[place]
        # Every session comes, and all its turns count as offered, come or not.
        assert set(instance.session) == set(records["session"])
        clocks, counters = engine.state.clocks[e], engine.counters[e]
        assert clocks[at.OFFERED] == pytest.approx(instance.worth.sum(), rel=1e-12)
        assert clocks[at.SERVED] + clocks[at.LOST_WORTH] == pytest.approx(clocks[at.OFFERED], rel=1e-9)
        for number in range(3):
            assert counters[at.CLASS_OFFERED + number] == (instance.number == number).sum()
        got = records["status"] == at.ATTAINED_STATUS
        assert clocks[at.SERVED] == pytest.approx(instance.worth[where][got].sum(), rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_engine_offers_the_instance_whatever_is_done(seed):
    engine = engines(scenario(), 6, seed=10 * seed)
    check(play(engine, at_random(6, seed)))


def test_whoever_is_served_in_order_sees_every_turn():
    engine = play(engines(scenario(service={"charge": 0.0}), 4), patient(4))
    check(engine)
    for e in range(4):
        instance, records, where = offered(engine, e)
        lost = (records["status"] == at.LEFT).any()
        assert lost or len(where) == len(instance.session)
        assert (instance.turn > 0).any()
        assert np.isinf(instance.think_s).sum() == len(set(instance.session))


def test_what_does_not_fit_into_the_memory_is_refused():
    lengths = {"input": 1500, "output": 60}
    classes = {"long": {"lengths": lengths}, "short": {"lengths": {"input": 30, "output": 6}}}
    engine = engines(scenario(kv_tokens=1024, service={"classes": classes}), 3)
    check(play(engine, at_random(3)))
    instance, _, _ = offered(engine, 0)
    assert (instance.refused == (instance.number == 0)).all()


def test_instances_differ_by_seed_and_episode():
    tables = engines(scenario(), 1).tables
    one, two, three = (serving_instance(tables, *pair) for pair in ((0, 0), (1, 0), (0, 1)))
    assert one.arrival_s[0] != two.arrival_s[0] != three.arrival_s[0] != one.arrival_s[0]


def test_final_records_are_those_of_the_episode_that_ended():
    single = play(engines(scenario(), 1, seed=3), patient(1))
    expected = single.records(0)
    engine = engines(scenario(), 1, seed=3, autoreset=SAME_STEP)
    step = 0
    while not (engine.terminated[0] or engine.truncated[0]):
        engine.actions[:] = patient(1)(step)
        engine.step()
        step += 1
    for name, values in engine.records(0, engine.final).items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_records_that_are_reused_cannot_be_listed():
    engine = ServingEngine(scenario(), 1)
    engine.reset()
    with pytest.raises(ConfigurationError, match="records=True"):
        engine.records(0)


def test_without_classes_there_is_no_such_instance():
    plain = ServingEngine(
        scenario().model_copy(update={"serving": scenario().serving.model_copy(update={"service": None})}), 1
    )
    with pytest.raises(ConfigurationError, match="no classes of requests"):
        serving_instance(plain.tables, 0, 0)
