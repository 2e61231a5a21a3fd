"""Serving presets: what they derive from, what is measured, and the file between the two."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import presets
from experiments.capacity.measure import (
    check_file,
    document,
    measure_capacity,
    measure_unloaded,
    played,
    serving_scenario,
)
from experiments.presets import main
from papi_env.errors import DataError
from papi_env.scenario import SCENARIOS, get_scenario
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.workload.presets import (
    FAMILIES,
    MEASUREMENTS,
    MODELS,
    TRAFFIC,
    Family,
    Measurement,
    derive,
    load_measurements,
    serving_presets,
    traffic_table,
)
from papi_env.workload.servers import SERVERS

MEASURED = load_measurements()
# On PAPI's machine; the others, of GPUs alone, are `workload.servers`.
NAMES = [
    name
    for name, one in SCENARIOS.items()
    if one.serving is not None and one.serving.service is None and name not in SERVERS
]
PRESETS = pytest.mark.parametrize("name", NAMES)
positive = st.floats(1e-3, 1e3)
measurements = st.builds(
    Measurement,
    capacity_rps=st.floats(0.1, 1e3),
    output_tokens=st.floats(1, 1e4),
    dynamic_j_per_token=positive,
    static_w=st.floats(1, 1e5),
    ttft_s=positive,
    tpot_s=positive,
)


def test_every_family_has_a_preset_on_every_model():
    assert [f"{family}/{model}" for family in FAMILIES for model in MODELS] == NAMES
    assert {"light", "saturated", "bursty", "long-context", "short-context"} < set(FAMILIES)
    assert {"energy-priced", "tight-objectives", "drifting"} < set(FAMILIES)


@PRESETS
def test_a_preset_is_its_family_times_what_was_measured(name):
    family_name, model = name.split("/")
    family, scenario = FAMILIES[family_name], get_scenario(name)
    measured, serving = MEASURED[family.traffic, model], scenario.serving
    assert (scenario.name, scenario.model.name, scenario.system.name) == (name, model, "papi")
    assert serving.arrivals.rate_per_s == pytest.approx(family.load * measured.capacity_rps, rel=1e-3)
    assert serving.objectives.ttft_s == pytest.approx(family.ttft_multiple * measured.ttft_s, rel=1e-3)
    assert serving.objectives.tpot_s == pytest.approx(family.tpot_multiple * measured.tpot_s, rel=1e-3)
    assert serving.horizon_s * serving.arrivals.rate_per_s == pytest.approx(family.requests, rel=0.06)
    assert (serving.drift is not None) == (family_name == "drifting")
    assert (scenario.energy_weight > 0) == (family_name == "energy-priced")
    assert (serving.arrivals.process == "gamma") == (family_name == "bursty")
    if serving.arrivals.profile is not None:
        assert serving.arrivals.period_s == serving.horizon_s


@PRESETS
def test_a_preset_allows_256_requests_at_once_in_64_kib_of_state(name):
    scenario = get_scenario(name)
    assert scenario.serving.max_running == 256
    assert ServingEngine(scenario).state_bytes_per_env < 64 * 1024


@given(measured=measurements, load=st.floats(0.1, 3), share=st.floats(0, 1), multiple=st.floats(1, 50))
def test_rates_objectives_and_prices_scale_with_what_was_measured(measured, load, share, multiple):
    family = Family(load=load, energy_share=share, ttft_multiple=multiple, tpot_multiple=multiple, why="")
    preset = derive(family, "llama-65b", measured)
    rate = preset.serving.arrivals.rate_per_s
    assert math.isclose(rate, load * measured.capacity_rps, rel_tol=1e-3)
    assert math.isclose(preset.serving.objectives.ttft_s, multiple * measured.ttft_s, rel_tol=1e-3)
    assert math.isclose(preset.serving.objectives.tpot_s, multiple * measured.tpot_s, rel_tol=1e-3)
    # A token's worth is 1, so its energy costs the share asked for.
    joules = measured.dynamic_j_per_token + measured.static_w / (rate * measured.output_tokens)
    assert math.isclose(preset.energy_weight * joules, share, rel_tol=1e-3, abs_tol=1e-12)


def test_traffic_that_was_not_measured_has_no_preset():
    only = {("short", "llama-65b"): MEASURED["short", "llama-65b"]}
    assert list(serving_presets(only)) == ["short-context/llama-65b"]


# --- the file ---------------------------------------------------------------------------------------


def test_the_file_records_what_was_measured_and_on_what():
    there = json.loads(MEASUREMENTS.read_text())
    assert there["traffic"] == traffic_table()
    assert set(there["measured"]) == {f"{traffic}/{model}" for traffic in TRAFFIC for model in MODELS}
    assert there["command"] == "python -m experiments.presets"
    assert {**there, "package": None} == {**document(MEASURED), "package": None}


def test_the_file_is_what_is_measured_now(capsys):
    assert main(["--check", "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES)


@pytest.mark.parametrize("option", ["--file", "--out"])
def test_the_file_is_written_where_it_is_asked_for(tmp_path, monkeypatch, capsys, option):
    """`--out` is what earlier versions called the option."""
    monkeypatch.setattr(presets, "measure", lambda traffic, model: MEASURED[traffic, model])
    assert main([option, str(tmp_path / "here.json"), "--jobs", "1"]) == 0
    assert (tmp_path / "here.json").read_text() == MEASUREMENTS.read_text()


def test_a_file_that_is_out_of_date_is_refused_with_what_changed(tmp_path):
    found = document(MEASURED)
    old = json.loads(json.dumps(found))
    old["measured"]["short/llama-65b"]["capacity_rps"] *= 1.01
    old["capacity"]["backlog_requests"] = 1
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    with pytest.raises(DataError, match=r"old.json: out of date.*backlog_requests.*short/llama-65b.capacity"):
        check_file(path, found)
    # What other mathematical libraries round otherwise is no change.
    old = json.loads(json.dumps(found))
    old["measured"]["short/llama-65b"]["capacity_rps"] *= 1 + 1e-7
    path.write_text(json.dumps(old))
    check_file(path, found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "found no table 'measured' in JSON"),
        ("[]", "found no table 'measured'"),
        ('{"measured": {"short": {}}}', r"measured\.short: expected TRAFFIC/MODEL"),
        ('{"measured": {"a/b": {"ttft_s": 1}}}', r"measured\.a/b: found .* expected capacity_rps"),
        (
            json.dumps({"measured": {"a/b": dict.fromkeys(Measurement._fields, -1.0)}}),
            r"measured\.a/b\.capacity_rps: found -1\.0, expected a number above 0",
        ),
    ],
)
def test_a_broken_file_is_refused_with_its_entry(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_measurements(path)
    with pytest.raises(DataError, match=r"absent\.json: cannot be read"):
        load_measurements(tmp_path / "absent.json")


# --- what is measured -------------------------------------------------------------------------------


def test_capacity_counts_the_full_machine_alone():
    capacity, joules = measure_capacity("long", "llama-65b", (0,), backlog=48, ramp=8, max_running=4)
    env, _ = played(serving_scenario("long", "llama-65b", {"requests": 48, "max_running": 4}), (0,))
    records = env.engine.records(0)
    finish = np.sort(records["finish_s"])
    end = records["admitted_s"].max()
    between = [t for t in finish.tolist() if finish[7] < t <= end]
    assert capacity == pytest.approx(len(between) / (end - finish[7]), rel=1e-12)
    # Longer than ramp up and tail together would allow, so more than the whole run's mean.
    assert capacity > 48 / finish[-1]
    assert joules > 0


def test_more_requests_at_once_serve_more_and_two_no_more_than_two_alone():
    few, _ = measure_capacity("long", "llama-65b", (0,), backlog=32, ramp=4, max_running=2)
    more, _ = measure_capacity("long", "llama-65b", (0,), backlog=64, ramp=16, max_running=8)
    assert more > few
    ttft_s, tpot_s = measure_unloaded("long", "llama-65b", alone=2)
    # A request takes at least as long in company as alone.
    assert few < 2 / (ttft_s + 499 * tpot_s)


def test_unloaded_requests_meet_nobody():
    ttft_s, tpot_s = measure_unloaded("long", "gpt3-175b", alone=3)
    # Fixed lengths: all requests are alike, so one has the mean of three.
    assert measure_unloaded("long", "gpt3-175b", alone=1) == pytest.approx((ttft_s, tpot_s), rel=1e-12)
    assert ttft_s > 2 * tpot_s  # 1400 prompt tokens take three chunks
