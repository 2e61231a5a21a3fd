"""Headroom of scenarios with classes: ratios that can be recomputed, the best rule, fewer seeds, choices alone."""

import json
import math
from functools import partial

import numpy as np
import polars as pl
import pytest

from experiments.arena.summaries.service import MEASURES, alone, summarize
from experiments.headroom import main
from experiments.reporting.registry import sections_of
from tests.experiments.commands import called

command = partial(called, main)
ENV = ("--env", "papi_env/Serving-v1")


def frame(values, presets=("a/m", "b/m")):
    """Rows of made-up G, by policy: [presets, seeds] or fewer seeds; the return is a tenth of G."""
    rows = []
    for policy, table in values.items():
        for preset, row in zip(presets, table, strict=True):
            for seed, g in enumerate(row):
                measured = dict.fromkeys(MEASURES, math.nan) | {"g": g, "return": g / 10}
                rows.append({"preset": preset, "policy": policy, "seed": seed, "played": policy, **measured})
    return pl.DataFrame(rows)


VALUES = {
    "random": [[0.1, 0.1, 0.1], [0.0, 0.1, 0.2]],
    "rule": [[0.5, 0.6, 0.7], [0.2, 0.3, 0.4]],
    "other": [[0.6, 0.6, 0.6], [0.3, 0.3, 0.4]],
    "planner": [[0.66, 0.66], [0.33, 0.33]],
    "bound": [[0.9, 0.9, 0.9], [0.8, 0.8, 0.8]],
}


def test_ratios_are_to_the_best_rule_on_the_seeds_that_both_play():
    policies = ("random", "rule", "other", "planner")
    found = summarize(frame(VALUES), {"a/m": 1.3, "b/m": 1.3}, policies, (), ("planner",))
    first, second = (found["presets"][name] for name in ("a/m", "b/m"))
    # A planner and random choice are no rules; of equal ones the first is the best.
    assert (first["best"], second["best"]) == ("rule", "other")
    assert first["policies"]["other"]["ratio"]["value"] == pytest.approx(1.0)
    assert first["policies"]["planner"]["ratio"]["value"] == pytest.approx(0.66 / 0.55)
    assert second["policies"]["planner"]["ratio"]["value"] == pytest.approx(0.33 / 0.3)
    ratio = second["policies"]["planner"]["ratio"]
    assert ratio["low"] == pytest.approx(ratio["high"])
    assert first["policies"]["planner"]["closed"] == pytest.approx((0.66 - 0.55) / (0.9 - 0.55))
    assert first["policies"]["rule"]["position"]["value"] == pytest.approx((0.6 - 0.1) / (0.9 - 0.1))


def test_leads_are_over_presets_at_capacity_where_half_is_served():
    policies = ("random", "rule", "other", "planner")
    found = summarize(frame(VALUES), {"a/m": 1.0, "b/m": 1.3}, policies, (), ("planner",))
    assert found["counted"] == ["a/m"]
    assert found["leads"]["planner"]["ratio"]["value"] == pytest.approx(0.66 / 0.55)
    assert found["leads"]["planner"]["seeds"] == 2
    none = summarize(frame(VALUES), {"a/m": 0.7, "b/m": math.nan}, policies, (), ("planner",))
    assert (none["counted"], none["leads"]["rule"]["ratio"]["value"]) == ([], None)
    assert none["loads"] == {"a/m": 0.7, "b/m": None}


def test_a_privileged_policy_is_never_the_best_rule():
    found = summarize(frame(VALUES), {"a/m": 1.0, "b/m": 1.0}, ("random", "rule", "other"), ("rule",), ())
    assert {row["best"] for row in found["presets"].values()} == {"other"}


def test_what_a_choice_is_worth_is_what_is_lost_without_it():
    table = frame({"best": [[0.5, 0.7]], "less": [[0.4, 0.65]]}, ("a/m",))
    worth = alone(table, ["a/m"], "best", {"order": "less"})["a/m"]["worth"]["order"]
    assert worth["value"] == pytest.approx(0.075)
    assert worth["low"] <= 0.05 + 1e-9
    assert worth["high"] >= 0.1 - 1e-9


@pytest.fixture(scope="module")
def finished(classes_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("headroom") / "run"
    arguments = (
        *(*ENV, "--scenarios", classes_file, "--seeds", 3, "--jobs", 1, "--out", folder),
        *("--entries", "threshold", "profile-greedy+deadline+late"),
    )
    status, out, err = command(*arguments)
    assert status == 0, err
    return arguments, folder, out


def test_a_report_shows_every_policy_of_every_preset(finished):
    _, folder, _ = finished
    summary = json.loads((folder / "summary.json").read_text())
    found = {part.title: part for part in sections_of([folder])[0].parts}
    assert len(found["Policies by preset"].rows) == sum(
        len(row["policies"]) for row in summary["presets"].values()
    )
    assert found["Headroom by preset"].figure["data"][-1]["name"] == "bound"


def test_the_folder_holds_what_ran_and_what_came_out(finished):
    _, folder, out = finished
    assert {p.name for p in folder.iterdir()} == {
        "run.json",
        "jobs.json",
        "results.csv",
        "summary.json",
        "headroom.png",
    }
    rows = pl.read_csv(folder / "results.csv")
    assert len(rows) == 3 * 4
    bound = rows.filter(pl.col("policy") == "bound")["g"].to_numpy()
    for (policy,), part in rows.partition_by("policy", as_dict=True).items():
        assert (part["g"].to_numpy() <= bound + 1e-9).all(), policy
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["loads"] == {"chats": None}
    g = rows.filter(pl.col("policy") == "threshold")["g"].mean()
    assert summary["presets"]["chats"]["policies"]["threshold"]["g"]["value"] == pytest.approx(g)
    assert f"{100 * g:.1f}" in out


def test_a_finished_run_is_taken_up_without_playing(finished):
    arguments, folder, out = finished
    status, again, _ = command(*arguments)
    assert (status, again) == (0, out)
    sessions = json.loads((folder / "run.json").read_text())["sessions"]
    assert [session["jobs_reused"] for session in sessions[-2:]] == [0, 4]


def test_choices_alone_are_those_of_the_best_profile_greedy(classes_file, tmp_path, monkeypatch):
    from experiments.arena import choosing

    monkeypatch.setattr(choosing, "GROUPS", {"best-greedy": choosing.thresholds})
    folder = tmp_path / "run"
    status, out, err = command(
        *(*ENV, "--ablate", "--scenarios", classes_file, "--seeds", 2, "--jobs", 1, "--out", folder)
    )
    assert status == 0, err
    found = json.loads((folder / "summary.json").read_text())["alone"]["chats"]
    assert set(found["worth"]) >= {"order", "shedding", "victim", "keeping", "eviction", "drafted_for"}
    assert found["played"].startswith("threshold")
    # A choice that is as in Serving-v0 already is worth nothing.
    assert found["worth"]["drafted_for"]["value"] == 0
    assert (folder / "alone.png").read_bytes().startswith(b"\x89PNG")
    assert "worth alone" in out
    assert [part.title for part in sections_of([folder])[0].parts][:2] == [
        "What each choice is worth alone",
        "Worth of choices by preset",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ablate"], "--ablate belongs to papi_env/Serving-v1"),
        (["--slow-seeds", "2"], "--slow-seeds belongs to papi_env/Serving-v1"),
        (["--env", "papi_env/Serving-v2"], "Unknown problem with serving 'papi_env/Serving-v2'"),
        ([*ENV, "--slow-seeds", "9", "--scenarios", "{file}"], "--slow-seeds is 9, expected 1 to 8"),
        ([*ENV, "--scenarios", "{file}", "--entries", "best-greedy+lte"], "Did you mean 'late'"),
        ([*ENV, "--scenarios", "{file}", "--entries", "random"], "No rule among the entries"),
        (["--entries", "best-greedy"], "plays papi_env/Serving-v1 alone"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(arguments, message, classes_file, tmp_path):
    arguments = [str(argument).replace("{file}", str(classes_file)) for argument in arguments]
    status, out, err = command(*arguments, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_equal_values_have_an_interval_of_no_width():
    found = summarize(
        frame({**VALUES, "rule": VALUES["other"]}), {"a/m": 1, "b/m": 1}, ("rule", "other"), (), ()
    )
    ratio = found["leads"]["other"]["ratio"]
    assert np.allclose([ratio["value"], ratio["low"], ratio["high"]], 1.0)
