"""Settings drawn at random for training: valid, the same every time, each another, and none of a held-out part."""

import numpy as np
import pytest

from experiments.splitting import varied as splits_varied
from experiments.splitting.definition import define
from experiments.splitting.parts import fingerprint, parts_of, trace_paths
from experiments.splitting.splits import load_split
from experiments.splitting.varied import VARIATIONS, varied
from papi_env.envs.registration import ENV_IDS
from papi_env.envs.serving import ServingVectorEnv
from papi_env.simulation.serving import state as at
from papi_env.workload.presets import MODELS, TRAFFIC, load_measurements
from papi_env.workload.transformer import get_transformer

SERVING = ENV_IDS[2]
KNOWN = ("llama-65b", "gpt3-175b")


@pytest.fixture(scope="module")
def drawn():
    return list(varied(KNOWN))


def scenarios(drawn):
    return [scenario for _, scenario in drawn]


def test_names_are_unique_and_those_of_the_scenarios(drawn):
    names = [name for name, _ in drawn]
    assert names == [f"varied-{k:02d}/{model}" for model in KNOWN for k in range(1, VARIATIONS + 1)]
    assert len(set(names)) == len(names)
    for name, scenario in drawn:
        assert scenario.name == name
        assert scenario.model.name == name.partition("/")[2]
        assert scenario.model.name in scenario.description


def test_every_setting_is_another(drawn):
    assert len({fingerprint(scenario, {}) for scenario in scenarios(drawn)}) == len(drawn)


def test_they_are_the_same_every_time_whatever_models_follow(drawn):
    again = list(varied(KNOWN))
    assert [(name, s.model_dump_json()) for name, s in again] == [(n, s.model_dump_json()) for n, s in drawn]
    first = list(varied(KNOWN[:1]))
    assert [s.model_dump_json() for _, s in first] == [s.model_dump_json() for _, s in drawn[:VARIATIONS]]


def test_they_are_the_training_split_s_and_no_other_s(drawn):
    expected = {name: scenario.model_dump_json() for name, scenario in drawn}
    for split, settings in define(SERVING).items():
        found = {s.name: s.scenario.model_dump_json() for s in settings if s.name.startswith("varied")}
        assert found == (expected if split == "train" else {})


def test_scenarios_are_valid_and_written_in_full(drawn):
    for scenario in scenarios(drawn):
        scenario.check()
        assert type(scenario).model_validate(scenario.model_dump(mode="json")) == scenario
        assert not trace_paths(scenario)
        assert scenario.serving.horizon_s is not None, "an episode by time"


@pytest.mark.parametrize("split", ["validation", "test"])
def test_none_has_a_part_that_is_held_out(drawn, split):
    held_out = load_split(SERVING, split).held_out
    assert held_out
    for name, scenario in drawn:
        shared = {(part.kind, part.sha256) for part in parts_of(scenario, {})} & held_out.keys()
        assert not shared, name


def test_contexts_fit_the_model(drawn):
    for scenario in scenarios(drawn):
        lengths, limit = scenario.serving.lengths, get_transformer(scenario.model.name).context_limit
        assert lengths.input >= 1
        assert lengths.output >= 1
        assert lengths.input + lengths.output <= limit
        population = lengths.population(limit, "refuse").lengths
        np.testing.assert_array_equal(population, [[lengths.input, lengths.output]])


def test_environments_can_be_built_and_played(drawn):
    """Every setting for a while: tokens come, no request is refused."""
    for name, scenario in drawn:
        env = ServingVectorEnv(scenario, num_envs=2)
        env.reset(seed=0)
        for _ in range(150):
            env.step(np.tile((2, 1, 2, 0), (2, 1)))
        counters = env.engine.counters
        assert (counters[:, at.REJECTED] == 0).all(), name
        assert (counters[:, at.TOKENS] > 0).any(), name
        assert (
            counters[:, at.ARRIVED].max()
            < scenario.serving.horizon_s * scenario.serving.arrivals.rate_per_s * 3
        )


def test_draws_stay_in_their_ranges_and_meet_everything_a_preset_fixes(drawn):
    own = splits_varied
    servings = [scenario.serving for scenario in scenarios(drawn)]
    for serving in servings:
        arrivals, lengths = serving.arrivals, serving.lengths
        assert own._INPUTS[0] - 1 <= lengths.input <= own._INPUTS[1]
        assert own._OUTPUTS[0] - 1 <= lengths.output <= own._OUTPUTS[1]
        requests = serving.horizon_s * arrivals.rate_per_s
        assert own._REQUESTS[0] * 0.95 <= requests <= own._REQUESTS[1] * 1.05, (
            "two digits are kept of horizons"
        )
        if arrivals.process == "gamma":
            assert own._SHAPES[0] <= arrivals.shape <= own._SHAPES[1]
            assert arrivals.period_s == serving.horizon_s
        if serving.drift is not None:
            for unit in ("pu", "fc_pim", "attn_pim"):
                assert own._WORST_DRIFT[0] <= getattr(serving.drift, unit) <= own._WORST_DRIFT[1]
    # Both sides of every choice occur, on each model.
    for start in (0, VARIATIONS):
        some = drawn[start : start + VARIATIONS]
        for has in (
            lambda s: s.serving.arrivals.process == "gamma",
            lambda s: s.serving.drift is not None,
            lambda s: s.energy_weight > 0,
            lambda s: len(s.serving.speculation.classes) > 1,
        ):
            assert {has(scenario) for _, scenario in some} == {True, False}


@pytest.mark.parametrize("model", MODELS)
def test_the_capacity_is_roughly_that_of_the_traffics_it_is_fitted_to(model):
    measured = load_measurements()
    for name, traffic in TRAFFIC.items():
        inputs, outputs = splits_varied._mean_lengths(traffic.lengths, model)
        found = splits_varied._capacity_rps(model, measured, inputs, outputs)
        assert 0.5 < found / measured[name, model].capacity_rps < 2
    short, long = (splits_varied._capacity_rps(model, measured, *n) for n in ((100, 50), (400, 200)))
    assert short > long > 0
