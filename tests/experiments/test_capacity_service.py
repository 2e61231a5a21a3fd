"""Capacity of the best tuned rule: the bisection, the file, and a measurement in small."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import presets
from experiments.capacity import service
from experiments.capacity.files import PRESETS
from experiments.capacity.files import TIME_SCALES as TIME_SCALES_FILE
from experiments.capacity.service import Measured, bisect, check_file, document, measure, pairs
from experiments.common.study import json_text
from papi_env.errors import ConfigurationError, DataError
from papi_env.workload.service_presets import (
    CAPACITIES,
    TRAFFIC,
    Capacity,
    load_capacities,
    service_presets,
)
from papi_env.workload.service_traces import TIME_SCALES
from tests.experiments.commands import called


def found(rate=4.0):
    return Measured(
        Capacity(rate, 900.0, 120.0, 5e3),
        "profile-greedy (guess)+late",
        0.953,
        {"sessions_per_s": 1.04 * rate, "rule": "profile-greedy (guess)", "g": 0.94},
        [[rate, 0.953]],
        9,
        100,
    )


@given(st.floats(0.05, 500.0), st.sampled_from([0.5, 4.0, 64.0]), st.sampled_from([0.01, 0.04, 0.2]))
def test_bisection_finds_the_edge_from_below(edge, first, resolution):
    tried = []

    def enough(rate):
        tried.append(rate)
        return rate <= edge

    low, high = bisect(enough, first, resolution)
    assert low <= edge < high
    assert high <= (1 + resolution) * low
    assert len(set(tried)) == len(tried)
    # Each halving and doubling, then halves of an octave.
    assert (
        len(tried)
        <= 2 + abs(math.log2(edge / first)) + math.ceil(math.log2(math.log(2) / math.log1p(resolution))) + 1
    )


@pytest.mark.parametrize(
    ("answer", "message"), [(True, "enough at all rates"), (False, "not enough at any rate")]
)
def test_a_capacity_that_is_nowhere_is_refused(answer, message):
    with pytest.raises(DataError, match=message):
        bisect(lambda rate: answer)


def test_names_stand_for_traffic_or_one_model_of_it():
    assert pairs() == [(traffic, model) for traffic, sent in TRAFFIC.items() for model in sent.models]
    assert pairs(("experts", "tiers/gpt3-175b")) == [("experts", "qwen3-30b-a3b"), ("tiers", "gpt3-175b")]
    with pytest.raises(
        ConfigurationError, match=r"Unknown traffic and model 'tier/gpt3-175b'.*tiers/gpt3-175b"
    ):
        pairs(("tier/gpt3-175b",))


def test_the_file_keeps_what_was_not_measured_now_and_gives_presets(tmp_path):
    first = document({("tiers", "gpt3-175b"): found(2.0)})
    both = document({("tiers", "llama-65b"): found(4.0)}, first)
    assert list(both["measured"]) == ["tiers/llama-65b", "tiers/gpt3-175b"]
    assert both["found"]["tiers/gpt3-175b"]["rule"] == "profile-greedy (guess)+late"
    # Sessions come for longer where few of them come.
    rare = document({("mixed-documents", "llama-3.1-70b"): found(0.1)})["found"]
    assert rare["mixed-documents/llama-3.1-70b"]["horizon_s"] == 300.0 > both["horizon_s"]
    assert "horizon_s" not in both["found"]["tiers/llama-65b"]
    path = tmp_path / "capacities.json"
    path.write_text(json_text(both))
    capacities = load_capacities(path)
    assert capacities["tiers", "gpt3-175b"] == found(2.0).capacity
    assert service_presets(capacities)["overload/llama-65b"].serving.arrivals.rate_per_s == pytest.approx(5.2)


def test_a_file_that_says_something_else_is_named(tmp_path):
    path = tmp_path / "capacities.json"
    path.write_text(json_text(document({("tiers", "llama-65b"): found(4.0)})))
    check_file(path, {("tiers", "llama-65b"): found(4.0)})
    with pytest.raises(DataError, match=r"measured.tiers/llama-65b.sessions_per_s: 4 there, 4.2 measured"):
        check_file(path, {("tiers", "llama-65b"): found(4.2)})
    with pytest.raises(DataError, match=r"measured.tiers/gpt3-175b.sessions_per_s: nan there, 4 measured"):
        check_file(path, {("tiers", "gpt3-175b"): found(4.0)})
    there = json.loads(path.read_text())
    path.write_text(json_text({**there, "resolution": 0.5}))
    with pytest.raises(DataError, match="resolution"):
        check_file(path, {("tiers", "llama-65b"): found(4.0)})


def test_a_measurement_in_small_lies_where_it_says():
    options = {"seeds": (0, 1), "tuning_seeds": (7,), "horizon_s": 2.0, "resolution": 0.5}
    said = []
    one = measure("tiers", "llama-65b", first=8.0, say=said.append, **options)
    assert one.g >= service.ENOUGH > one.beyond["g"]
    assert one.capacity.sessions_per_s < one.beyond["sessions_per_s"] <= 1.5 * one.capacity.sessions_per_s
    assert len(said) == len(one.rates) >= 2
    assert one.requests > one.tried > len(one.rates)
    assert measure("tiers", "llama-65b", first=8.0, **options) == one


def test_the_command_measures_what_is_asked_and_checks_it(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "measure", lambda traffic, model, say: found())
    file = tmp_path / "capacities.json"
    asked = ("--env", "papi_env/Serving-v1", "--only", "tiers/llama-65b", "--jobs", 1, "--file", file)
    status, out, err = called(presets.main, *asked)
    assert status == 0, err
    assert load_capacities(file) == {("tiers", "llama-65b"): found().capacity}
    assert "overload-1.6/llama-65b" in out
    assert called(presets.main, *asked, "--check")[0] == 0
    monkeypatch.setattr(service, "measure", lambda traffic, model, say: found(5.0))
    status, _, err = called(presets.main, *asked, "--check")
    assert status == 2
    assert "out of date" in err
    status, _, err = called(presets.main, "--only", "tiers")
    assert status == 2
    assert "--only belongs to papi_env/Serving-v1" in err


V1 = ("--env", "papi_env/Serving-v1")


def test_what_is_stored_is_shown_without_measuring(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "measure", None)
    folder = tmp_path / "run"
    status, out, err = called(presets.main, *V1, "--stored", "--out", folder)
    assert status == 0, err
    assert "overload-1.6/llama-65b" in out
    assert json.loads((folder / PRESETS).read_text()) == json.loads(CAPACITIES.read_text())
    assert json.loads((folder / TIME_SCALES_FILE).read_text()) == json.loads(TIME_SCALES.read_text())
    assert "azure-code/qwen3-30b-a3b" in out
    (session,) = json.loads((folder / "run.json").read_text())["sessions"]
    assert session["status"] == "finished"
    assert session["command"].startswith("python -m experiments.presets --env papi_env/Serving-v1 --stored")


def test_what_is_measured_stands_in_the_run_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "measure", lambda traffic, model, say: found())
    file, folder = tmp_path / "capacities.json", tmp_path / "run"
    asked = (*V1, "--only", "tiers/llama-65b", "--jobs", 1, "--file", file)
    assert called(presets.main, *asked)[0] == 0
    assert called(presets.main, *asked, "--check", "--out", folder)[0] == 0
    assert json.loads((folder / PRESETS).read_text()) == json.loads(file.read_text())
    status, _, err = called(presets.main, *asked, "--out", folder)
    assert status == 2
    assert "check: True there, False asked" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--stored", "--check"), "--stored measures nothing, so that there is no --check"),
        (("--stored", "--only", "tiers"), "--stored measures nothing, so that there is no --only"),
        (("--file", "a.json", "--out", "b.json"), "--out is b.json beside --file, expected a run folder"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, said):
    status, _, err = called(presets.main, *V1, *options)
    assert status == 2
    assert said in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("found"), "capacities.json: found"),
        (lambda d: d["found"].pop("tiers/llama-65b"), "found no found.tiers/llama-65b, expected how each"),
        (lambda d: d["found"]["tiers/llama-65b"].update(g="a"), "found.tiers/llama-65b.g"),
        (
            lambda d: d["found"]["tiers/llama-65b"]["beyond"].pop("sessions_per_s"),
            "found no found.tiers/llama-65b.beyond.sessions_per_s",
        ),
    ],
    ids=["nothing", "not of one", "a text", "no load"],
)
def test_a_file_that_does_not_say_how_is_not_shown(tmp_path, change, said):
    path = tmp_path / "capacities.json"
    there = document({("tiers", "llama-65b"): found()})
    change(there)
    path.write_text(json.dumps(there))
    status, _, err = called(presets.main, *V1, "--stored", "--file", path)
    assert status == 2
    assert said in err
    assert err.count("\n") == 1
