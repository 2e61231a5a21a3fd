"""Capacity of the best tuned rule: the bisection, the file, and a measurement in small."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import presets
from experiments.capacity import service
from experiments.capacity.service import Measured, bisect, check_file, document, measure, pairs
from experiments.common.study import json_text
from papi_env.errors import ConfigurationError, DataError
from papi_env.workload.service_presets import TRAFFIC, Capacity, load_capacities, service_presets
from tests.experiments.commands import called


def found(rate=4.0):
    return Measured(
        Capacity(rate, 900.0, 120.0, 5e3),
        "profile-greedy (guess)+late",
        0.953,
        {"g": 0.94},
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
