"""The ends of every range that users may write: refused with a reason, or played with numbers that are numbers."""

import json
import math

import gymnasium as gym
import numpy as np
import pytest

from papi_env.definition import Definition
from papi_env.envs.registration import DECODE, SERVING, SERVING_V1
from papi_env.errors import ConfigurationError
from papi_env.scenario import get_scenario, parse_scenario
from tests.test_quantities import number_fields

SCENARIOS = {
    DECODE: "creative-writing/llama-65b",
    SERVING: "drifting/llama-65b",
    SERVING_V1: "storms/llama-65b",
}
STEPS = 12


def fields(part, at=()):
    """Every number of a scenario: the path to it, and its quantity."""
    yield from (((*at, name), quantity) for name, quantity in number_fields(type(part)))
    for name in type(part).model_fields:
        inner = getattr(part, name)
        if isinstance(inner, Definition):
            yield from fields(inner, (*at, name))


def ends(quantity):
    """Both ends of a range, and the nearest numbers inside it where an end is outside."""
    sizes = {quantity.low, quantity.high} | ({0.0, 5e-324, 1e-300} if quantity.zero else set())
    sizes = {math.copysign(1e300, size) if math.isinf(size) else size for size in sizes}
    sizes |= {math.nextafter(quantity.low, math.inf)} if quantity.above else set()
    return sorted({int(size) if quantity.whole and abs(size) < 2**63 else size for size in sizes})


def changed(dump, path, value):
    """A dumped scenario with another number; None where the dump leaves out what is as usual."""
    data = json.loads(dump)
    inner = data
    for name in path[:-1]:
        if not isinstance(inner.get(name), dict):
            return None
        inner = inner[name]
    inner[path[-1]] = value
    return data


def settings(env_id, every):
    """(name, scenario as data) of the ends of every `every`th number."""
    scenario = get_scenario(SCENARIOS[env_id])
    dump = scenario.model_dump_json()
    for path, quantity in list(fields(scenario))[::every]:
        for value in ends(quantity):
            data = changed(dump, path, value)
            if data is not None:
                yield f"{'.'.join(path)} = {value}", data


def check(env_id, name, data):
    """Whether a setting is accepted; then all that it plays is inside its spaces and finite."""
    try:
        envs = gym.make_vec(env_id, num_envs=2, scenario=parse_scenario(data, "extreme"))
        observations, _ = envs.reset(seed=0)
    except ConfigurationError:
        return False
    choices = np.array(getattr(envs.single_action_space, "nvec", getattr(envs.single_action_space, "n", 0)))
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        assert envs.observation_space.contains(observations), name
        observations, rewards, *_ = envs.step(rng.integers(choices, size=envs.action_space.shape))
        assert np.isfinite(rewards).all(), name
    for measure, values in envs.unwrapped.metrics().items():
        assert not np.isinf(np.asarray(values, dtype=np.float64)).any(), (name, measure)
    envs.close()
    return True


@pytest.mark.parametrize(
    ("env_id", "every"),
    [
        pytest.param(env_id, every, marks=[pytest.mark.slow] * (every == 1))
        for env_id in SCENARIOS
        for every in (9, 1)
    ],
)
def test_what_is_accepted_at_the_ends_of_ranges_gives_numbers(env_id, every):
    accepted = [check(env_id, name, data) for name, data in settings(env_id, every)]
    assert 0.3 < np.mean(accepted) < 1
    assert len(accepted) > 20


# Each once gave NaN, or observations outside their space.
FOUND = (
    ("serving.drift.period_s", 1e-19),
    ("serving.objectives.ttft_s", 1e-320),
    ("serving.objectives.tpot_s", 1e-320),
    ("system.pu.memory_bandwidth", 1e-300),
    ("system.pu.memory_bandwidth", 1e30),
    ("system.attention_link.latency_s", 1e300),
    ("system.fc_pim.fpus_per_bank", 5e-324),
)


@pytest.mark.parametrize(("path", "value"), FOUND)
def test_what_no_machine_and_no_traffic_has_is_refused_by_name(path, value):
    parts = path.split(".")
    data = changed(get_scenario(SCENARIOS[SERVING]).model_dump_json(), parts, value)
    with pytest.raises(ConfigurationError, match=rf"{parts[-1]}.*expected"):
        parse_scenario(data, "extreme")
