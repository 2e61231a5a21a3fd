"""How fast traces may be played: a measurement in small, the file, and the command."""

import json

import numpy as np
import pytest

from experiments import presets
from experiments.capacity import files, service, time_scales
from experiments.capacity.service import Measured
from experiments.capacity.time_scales import check_file, document, fitting, measure, pairs, scenario_at
from experiments.common.study import json_text
from experiments.reporting.folder import Run
from experiments.reporting.sections import presets as presets_section
from experiments.splitting.definition import TRACES
from experiments.tuning.combinations import Combination, greedies, played
from papi_env.errors import DataError
from papi_env.workload.service_traces import MODELS, TIME_SCALES, load_time_scales
from tests.experiments.commands import called


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Ten minutes of requests, every fourth of which is beyond 2048 tokens."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("traces") / "trace.csv"
    times = np.cumsum(rng.exponential(0.15, 4000))
    inputs = np.where(np.arange(4000) % 4 == 0, 2045, rng.integers(50, 900, 4000))
    outputs = rng.integers(5, 200, 4000)
    rows = [f"{t:.6f},{i},{o}" for t, i, o in zip(times, inputs, outputs, strict=True)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""]))
    return str(path)


def found(scale=1.5):
    beyond = {"time_scale": 1.6, "g": 0.94}
    return Measured(scale, "profile-greedy (guess)+late", 0.953, beyond, [[scale, 0.953]], 9, 100)


def test_of_the_worth_offered_that_counts_which_fits_the_context(trace):
    scenario = scenario_at("azure-conversation", trace, "tiers", "llama-65b", 1.0)
    (metrics,) = played(scenario, [Combination(next(iter(greedies(stored=False))))], greedies(False), (0, 1))
    fits = fitting(scenario, (0, 1))
    assert 0 < float(metrics["served"].sum()) <= fits < float(metrics["offered"].sum())
    # A model with a longer context takes all of it.
    longer = scenario_at("azure-conversation", trace, "tiers", "qwen3-30b-a3b", 1.0)
    (metrics,) = played(longer, [Combination(next(iter(greedies(stored=False))))], greedies(False), (0, 1))
    assert fitting(longer, (0, 1)) == pytest.approx(float(metrics["offered"].sum()))


def test_a_measurement_in_small_lies_where_it_says(trace):
    options = {"seeds": (0, 1), "tuning_seeds": (7,), "resolution": 0.5}
    said = []
    one = measure("azure-conversation", trace, "llama-65b", say=said.append, **options)
    assert one.g >= service.ENOUGH > one.beyond["g"]
    assert one.capacity < one.beyond["time_scale"] <= 1.5 * one.capacity
    assert len(said) == len(one.rates) >= 2
    assert "azure-conversation/llama-65b: G " in said[0]
    assert " x as fast under profile-greedy" in said[0]


def test_the_file_in_use_was_measured_as_it_says():
    there = json.loads(TIME_SCALES.read_text())
    now = document({pair: found() for pair in pairs()})
    for name in ("command", "g", "resolution", "seeds", "tuning_seeds"):
        assert there[name] == now[name]
    assert there["measured"].keys() == there["found"].keys() == now["measured"].keys()
    for key, how in there["found"].items():
        assert how["g"] >= service.ENOUGH > how["beyond"]["g"]
        scale = there["measured"][key]
        assert scale < how["beyond"]["time_scale"] <= (1 + service.RESOLUTION) * scale


def test_a_file_that_says_something_else_is_named(tmp_path):
    path = tmp_path / "scales.json"
    path.write_text(json_text(document({pair: found() for pair in pairs()})))
    check_file(path, {pair: found() for pair in pairs()})
    with pytest.raises(DataError, match=r"measured.azure-conversation/llama-65b: 1.5 there, 1.6 measured"):
        check_file(path, {pair: found(1.6) for pair in pairs()})
    path.write_text(json_text(json.loads(path.read_text()) | {"resolution": 0.5}))
    with pytest.raises(DataError, match="resolution"):
        check_file(path, {pair: found() for pair in pairs()})


def test_the_command_measures_all_traces_and_checks_them(tmp_path, monkeypatch, trace):
    monkeypatch.setattr(presets, "recognised", lambda given: dict.fromkeys(TRACES, trace))
    asked_for = []

    def measured(name, path, model, say):
        asked_for.append((name, path, model))
        return found()

    monkeypatch.setattr(time_scales, "measure", measured)
    file = tmp_path / "scales.json"
    asked = ("--env", "papi_env/Serving-v1", "--trace", trace, "--jobs", 1, "--file", file)
    folder = tmp_path / "run"
    status, out, err = called(presets.main, *asked, "--out", folder)
    assert status == 0, err
    assert sorted(path.name for path in folder.iterdir()) == ["run.json", files.TIME_SCALES]
    (table,) = presets_section.parts(Run.open(folder))
    assert [row[:3] for row in table.rows] == [[*pair, 1.5] for pair in pairs()]
    assert asked_for == [(name, trace, model) for name in TRACES for model in MODELS]
    assert load_time_scales(file) == dict.fromkeys(pairs(), 1.5)
    assert "azure-code/qwen3-30b-a3b" in out
    assert called(presets.main, *asked, "--check")[0] == 0
    monkeypatch.setattr(time_scales, "measure", lambda name, path, model, say: found(1.7))
    status, _, err = called(presets.main, *asked, "--check")
    assert status == 2
    assert "out of date" in err


def test_traces_that_cannot_be_measured_are_refused(monkeypatch, trace):
    status, _, err = called(presets.main, "--trace", trace)
    assert status == 2
    assert "--trace belongs to papi_env/Serving-v1" in err
    v1 = ("--env", "papi_env/Serving-v1", "--trace", trace)
    status, _, err = called(presets.main, *v1, "--stored")
    assert status == 2
    assert "--stored measures nothing, so that there is no --trace" in err
    status, _, err = called(presets.main, *v1, "--only", "tiers")
    assert status == 2
    assert "--only excludes it" in err
    status, _, err = called(presets.main, *v1, "--jobs", 1)
    assert status == 2
    assert "those of no pinned trace" in err
    monkeypatch.setattr(presets, "recognised", lambda given: {"azure-code": trace})
    status, _, err = called(presets.main, *v1, "--jobs", 1)
    assert status == 2
    assert "found no AzureLLMInferenceTrace_conv.csv, expected all traces" in err
