"""Headroom from its command line: positions that can be recomputed, resuming, what is best of its kind, refusals."""

import json
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from experiments.arena.estimators.seeds import position_estimate
from experiments.arena.play import best_fixed, best_threshold, play
from experiments.arena.summaries.headroom import finding
from experiments.headroom import Config, Headroom, main
from experiments.splitting.definition import SERVING
from papi_env.scenario import SCENARIOS, get_scenario
from papi_env.simulation.serving import state as at
from papi_env.workload.servers import SERVERS
from tests.experiments.commands import called

ALL = ("random", "threshold", "best-threshold", "best-fixed", "oracle")


command = partial(called, main)


@pytest.fixture(scope="module")
def tiny(serving_file):
    return serving_file()


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("headroom") / "run"
    arguments = ("--presets", tiny, "--policies", *ALL[2:], "--seeds", 3, "--jobs", 1, "--out", folder)
    status, out, err = command(*arguments)
    assert status == 0, err
    summary = json.loads((folder / "summary.json").read_text())
    return arguments, folder, out, pl.read_csv(folder / "results.csv"), summary


def test_the_folder_holds_what_ran_and_what_came_out(finished):
    _, folder, out, rows, summary = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {"run.json", "jobs.json", "results.csv", "summary.json", "headroom.png"}
    assert (folder / "headroom.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(rows["policy"].unique()) == sorted([*ALL, "bound"])
    assert len(rows) == 3 * (len(ALL) + 1)
    assert summary["policies"] == list(ALL)
    assert summary["privileged"] == ["oracle"]
    assert "oracle*" in out
    assert "* privileged" in out


def test_positions_follow_from_the_rows(finished):
    _, _, _, rows, summary = finished
    returns = {
        policy: rows.filter(pl.col("policy") == policy)["return"].to_numpy() for policy in [*ALL, "bound"]
    }
    low, high = returns["random"].mean(), returns["bound"].mean()
    entries = summary["presets"]["tiny"]["policies"]
    for policy in ALL:
        position = entries[policy]["position"]
        assert position["value"] == pytest.approx((returns[policy].mean() - low) / (high - low), rel=1e-9)
        assert position["low"] <= position["value"] <= position["high"]
        # No policy exceeds the bound on any instance.
        assert (returns[policy] <= returns["bound"] + 1e-9).all()
    goodput = {
        policy: rows.filter(pl.col("policy") == policy)["goodput"].to_numpy()
        for policy in ("oracle", "threshold")
    }
    lead = entries["oracle"]["goodput_lead"]
    assert lead["value"] == pytest.approx((goodput["oracle"] - goodput["threshold"]).mean(), rel=1e-9)
    assert entries["threshold"]["goodput_lead"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_best_scheduler_is_no_privileged_one(finished):
    _, _, _, _, summary = finished
    row = summary["presets"]["tiny"]
    assert row["best"] in ("threshold", "best-threshold", "best-fixed")
    assert row["policies"][row["best"]]["return"] == max(
        row["policies"][policy]["return"] for policy in ALL if policy != "oracle"
    )


def test_a_finished_run_is_taken_up_without_playing(finished):
    arguments, folder, out, _, _ = finished
    before = (folder / "results.csv").read_text()
    status, again, _ = command(*arguments)
    assert (status, again) == (0, out)
    assert (folder / "results.csv").read_text() == before
    sessions = json.loads((folder / "run.json").read_text())["sessions"]
    assert [session["jobs_reused"] for session in sessions[-2:]] == [0, len(ALL) + 1]


def test_the_best_of_a_kind_is_better_than_the_others_of_it(tiny):
    scenario = get_scenario(tiny)
    seeds = (5, 6)

    def mean(name):
        return np.mean(play(SERVING, scenario, name, seeds)["return"])

    best = mean(best_fixed(scenario, seeds))
    for name in (
        "fixed-pu-1-all-off",
        "fixed-fc-pim-4-all-on",
        "fixed-split-2-one-off",
        "fixed-pu-1-none-off",
    ):
        assert best >= mean(name)
    best = mean(best_threshold(scenario, seeds))
    assert best >= max(mean("threshold"), mean("threshold-spec4"))


@pytest.mark.parametrize(("system", "unit"), [("attacc-only", "pim"), ("a100", "pu")])
def test_the_best_fixed_action_is_one_that_the_machine_has(tiny, system, unit):
    name = best_fixed(get_scenario(tiny).replace(system=system), (0,))
    assert name.startswith("fixed-fc-pim" if unit == "pim" else "fixed-pu")
    assert name.endswith("-off")


def test_a_family_stands_for_its_presets_and_none_for_all():
    study = Headroom(Config(scenarios=("light", "light/gpt3-175b"), entries=("threshold-spec2",)))
    assert [scenario.name for scenario in study.scenarios] == [
        f"light/{m}" for m in ("llama-65b", "gpt3-175b", "llama2-70b")
    ]
    assert [entry.label for entry in study.entries] == ["random", "threshold", "threshold-spec2"]
    assert [scenario.name for scenario in Headroom(Config()).scenarios] == [
        name
        for name, s in SCENARIOS.items()
        if s.serving is not None and s.serving.service is None and name not in SERVERS
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--presets", "lihgt"], "Unknown scenario 'lihgt'. Did you mean 'light/"),
        (["--entries", "a100/oracle"], "are of the presets' own system"),
        (["--policies", "orcale"], "Unknown policy 'orcale'. Did you mean 'oracle'"),
        (["--seeds", "0"], "expected a first seed from 0 and at least one"),
        (["--jobs", "-1"], "expected a number of processes, or 0 for all cores"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(arguments, message, tmp_path):
    status, out, err = command(*arguments, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


# --- positions and findings -------------------------------------------------------------------------

values = hnp.arrays(np.float64, st.integers(2, 12), elements=st.floats(-1e3, 1e3))


@given(values, st.floats(0, 1), st.floats(0.1, 1e3))
def test_a_policy_at_the_same_share_everywhere_has_that_position(floor, share, way):
    bound = floor + way * (1 + np.arange(len(floor)))
    found = position_estimate(floor + share * (bound - floor), floor, bound)
    assert found.value == pytest.approx(share, abs=1e-9)
    assert (found.low, found.high) == pytest.approx((share, share), abs=1e-9)


@given(values, st.floats(0.1, 1e3))
def test_positions_do_not_depend_on_scale_or_origin(floor, way):
    rng = np.random.default_rng(len(floor))
    bound = floor + way * (1 + rng.random(len(floor)))
    played = floor + way * rng.random(len(floor))
    found = position_estimate(played, floor, bound)
    moved = position_estimate(3 * played + 5, 3 * floor + 5, 3 * bound + 5)
    for name in ("value", "low", "high"):
        assert getattr(moved, name) == pytest.approx(getattr(found, name), rel=1e-6, abs=1e-6)
    assert found.low <= found.value <= found.high
    assert -1e-9 <= found.value <= 1


def test_there_is_no_position_where_the_bound_is_at_the_floor():
    found = position_estimate(np.ones(3), np.ones(3), np.ones(3))
    assert np.isnan([found.value, found.low, found.high]).all()


def entry(returned, position, attainment):
    busy = {f"utilisation_{name}": 0.1 * (k + 1) for k, name in enumerate(at.RESOURCES)}
    counts = {"attainment": attainment, "arrived": 100.0, "unfinished": 7.0}
    return {"return": returned, "position": {"value": position}, **counts, **busy}


def test_a_preset_without_headroom_is_explained_by_the_machine():
    text = finding(entry(100.0, 0.9, 0.999), entry(101.0, 0.95, 0.999))
    assert "99.9% of the requests that end" in text
    assert "7% are cut off" in text
    assert "banks busiest, 50% of the time" in text
    assert "no scheduler many more" in finding(entry(10.0, 0.1, 0.2), entry(10.1, 0.15, 0.2))
    assert finding(entry(10.0, 0.1, 0.2), entry(50.0, 0.8, 0.9)) == ""
