"""Traces on Serving-v1: what is the trace's own, what its senders are, and the file of time scales."""

import json
import math

import numpy as np
import pytest

from papi_env.errors import ConfigurationError, DataError
from papi_env.scenario import class_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.instance import serving_instance
from papi_env.simulation.serving.tables import build_serving_tables
from papi_env.workload.presets import rounded
from papi_env.workload.service_presets import (
    FAMILIES,
    TRACE_FAMILIES,
    TRAFFIC,
    TRAINING_LOADS,
    TRAINING_MODELS,
    traffic_serving,
)
from papi_env.workload.service_traces import (
    HORIZONS_S,
    MODELS,
    TIME_SCALES,
    family_serving,
    load_time_scales,
    trace_serving,
)

# Requests of a made-up trace, one a second: the third does not fit a context of 2048 tokens.
ROWS = [(100, 20), (700, 30), (2040, 30), (300, 10)] * 50


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    lines = [f"{second}.0,{given},{made}" for second, (given, made) in enumerate(ROWS)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines, ""]))
    return str(path)


def test_every_trace_is_a_family_at_capacity_and_beyond_on_a_known_and_an_unseen_model():
    assert {family.trace for family in TRACE_FAMILIES.values()} == set(HORIZONS_S)
    assert [family.load for family in TRACE_FAMILIES.values()] == [1.0, TRAINING_LOADS[1]] * 2
    assert {family.traffic for family in TRACE_FAMILIES.values()} == {"tiers"}
    assert not set(TRACE_FAMILIES) & set(FAMILIES)
    assert {model in TRAINING_MODELS for model in MODELS} == {True, False}


def test_times_and_lengths_are_the_traces_and_all_else_that_of_the_traffic(trace):
    serving = trace_serving("azure-conversation", trace, "tiers", "llama-65b", 2.0)
    usual = traffic_serving("tiers", "llama-65b", serving.arrivals)
    for name, entry in serving.service.classes.items():
        assert entry.lengths is None
        assert entry == usual.service.classes[name].model_copy(update={"lengths": None, "shared_prefix": 0})
    assert serving.service.classes.keys() == TRAFFIC["tiers"].shares.keys()
    assert (serving.service.charge, serving.max_running) == (usual.service.charge, usual.max_running)
    # A window of ninety seconds of the trace, at twice its pace.
    short = serving.model_copy(update={"horizon_s": 45.0})
    tables = build_serving_tables(class_scenario("mine", "tiers", "llama-65b", short))
    found = serving_instance(tables, 3, 0)
    assert len(found.arrival_s) in (89, 90, 91)
    assert np.allclose(np.diff(found.arrival_s), 0.5)
    pairs = list(zip(found.prompt.tolist(), found.output.tolist(), strict=True))
    start = ROWS.index(pairs[0])
    assert pairs == [ROWS[start + k] for k in range(len(pairs))]
    assert found.refused.tolist() == [sum(pair) > 2048 for pair in pairs]
    assert set(found.number.tolist()) == {0, 1, 2}
    # What a scheduler is told of every class is true of the requests that fit.
    fit = [output for prompt, output in ROWS if prompt + output <= 2048]
    assert np.allclose(tables.kinds[:, at.MEAN_OUTPUT], np.mean(fit))


@pytest.mark.parametrize("name", TRACE_FAMILIES)
@pytest.mark.parametrize("model", MODELS)
def test_a_family_is_its_load_times_what_was_measured(trace, name, model):
    scales = load_time_scales()
    family = TRACE_FAMILIES[name]
    serving = family_serving(name, trace, model, scales)
    assert serving.arrivals.time_scale == rounded(family.load * scales[family.trace, model])
    assert serving.arrivals.trace == serving.lengths.trace == trace
    assert (serving.arrivals.split, serving.horizon_s) == ("all", HORIZONS_S[family.trace])


def test_unknown_names_are_answered_with_the_nearest(trace):
    with pytest.raises(ConfigurationError, match=r"Unknown trace 'azure-cod'\. Did you mean 'azure-code'"):
        trace_serving("azure-cod", trace, "tiers", "llama-65b", 1.0)
    with pytest.raises(ConfigurationError, match=r"family of a trace 'azure-code'.*azure-code-1"):
        family_serving("azure-code", trace, "llama-65b", load_time_scales())


GOOD = dict.fromkeys((f"{trace}/{model}" for trace in HORIZONS_S for model in MODELS), 1.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "found no table 'measured' in JSON"),
        ({"azure-cod/llama-65b": 1.0}, "measured.azure-cod/llama-65b: expected TRACE/MODEL, with one of"),
        (GOOD | {"azure-code/llama-65b": 0}, "measured.azure-code/llama-65b: found 0, expected a number"),
        (GOOD | {"azure-code/llama-65b": True}, "found True, expected a number above 0"),
        (GOOD | {"azure-code/llama-65b": math.nan}, "found nan, expected a number above 0"),
        ({"azure-code/llama-65b": 1.0}, "measured: found no azure-conversation/llama-65b, expected one for"),
    ],
)
def test_a_file_of_time_scales_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "scales.json"
    path.write_text(content if isinstance(content, str) else json.dumps({"measured": content}))
    with pytest.raises(DataError) as caught:
        load_time_scales(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_stored_time_scales_leave_no_window_without_requests():
    # The longest hole of Azure's code service; its conversations have none of five seconds.
    longest_s = 217.2
    scales = load_time_scales(TIME_SCALES)
    for (name, _), scale in scales.items():
        if name == "azure-code":
            assert scale * HORIZONS_S[name] > longest_s
