"""Relative returns of the leaderboard: statistics with known answers, groups of settings, and the command."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.registry import is_slow
from experiments import leaderboard
from experiments.arena.estimators.runs import mean_of_groups, mean_over, resampled_relative
from experiments.arena.figures import ranking
from experiments.arena.summaries.claims import at_full_load, groups_of
from experiments.splitting.definition import (
    DECODE,
    KERNELS,
    PROBLEM_IDS,
    SERVING,
    SERVING_V1,
    TEST_SEED,
    Setting,
)
from experiments.splitting.splits import load_split
from papi_env.scenario import get_scenario
from tests.experiments.test_leaderboard import TRAINED_ON, command, network, small, split, training_run  # noqa: F401, fixtures

# --- statistics -------------------------------------------------------------------------------------

SETTINGS, INSTANCES = 4, 6
seeds = st.integers(0, 2**32 - 1)
signs = st.sampled_from([1.0, -1.0])  # of returns: earnings, or costs


def random_returns(seed, runs=3, sign=1.0):
    """Returns [runs, SETTINGS, INSTANCES] of one sign."""
    return sign * np.random.default_rng(seed).uniform(1, 3, size=(runs, SETTINGS, INSTANCES))


def ends(found):
    return found.value, found.low, found.high


@settings(max_examples=25)
@given(seeds, st.integers(1, 4), st.integers(1, 4), signs)
def test_who_returns_the_same_is_exactly_level(seed, runs, others, sign):
    one = random_returns(seed, 1, sign)
    relative = resampled_relative(np.repeat(one, runs, axis=0), np.repeat(one, others, axis=0))
    assert (relative == 0).all()
    assert ends(mean_over(relative, INSTANCES)) == (0, 0, 0)


@settings(max_examples=25)
@given(seeds, st.floats(-0.5, 2), signs)
def test_the_same_lead_on_every_instance_is_the_difference_without_doubt(seed, lead, sign):
    # Less of a cost is better, so the lead is positive for both signs.
    other = random_returns(seed, 1, sign)
    relative = resampled_relative(other + lead * np.abs(other), other)
    assert ends(mean_over(relative, INSTANCES)) == pytest.approx((lead,) * 3, abs=1e-9)


def test_groups_weigh_the_same_however_many_settings_they_have():
    leads = np.array([0.1, 0.2, 0.6, -1.0])[:, None]
    other = random_returns(1, 1)
    relative = resampled_relative(other + leads * np.abs(other), other)
    groups = [np.array([True, True, False, False]), np.array([False, False, True, False])]
    found = mean_of_groups(relative, INSTANCES, groups)
    assert ends(found) == pytest.approx(((0.15 + 0.6) / 2,) * 3, abs=1e-9)


@settings(max_examples=25)
@given(seeds, signs, st.floats(0.01, 100))
def test_relative_differences_do_not_depend_on_units(seed, sign, factor):
    ours, theirs = random_returns(seed, 3, sign), random_returns(seed + 1, 2, sign)
    scale = np.array([1.0, factor, 1 / factor, 7.0])[:, None]  # by setting
    found = resampled_relative(scale * ours, scale * theirs)
    np.testing.assert_allclose(found, resampled_relative(ours, theirs), rtol=1e-9, atol=1e-9)
    # Means over settings weigh each setting the same, and so do runs.
    expected = (ours.mean(axis=(0, 2)) - theirs.mean(axis=(0, 2))) / np.abs(theirs.mean(axis=(0, 2)))
    assert mean_over(found, INSTANCES).value == pytest.approx(expected.mean())
    kept = np.array([False, True, False, True])
    assert mean_over(found, INSTANCES, kept).value == pytest.approx(expected[kept].mean())
    np.testing.assert_allclose(found[:, :, 0].mean(axis=0), expected)


@settings(max_examples=25)
@given(seeds, st.integers(1, 4), st.integers(1, 4), signs)
def test_intervals_hold_their_value(seed, runs, others, sign):
    relative = resampled_relative(random_returns(seed, runs, sign), random_returns(seed + 1, others, sign))
    assert relative.shape[0] == runs
    value, low, high = ends(mean_over(relative, INSTANCES))
    assert low <= value <= high
    assert low < high


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_more_training_runs_of_either_give_narrower_intervals(side):
    widths = []
    for runs in (3, 30):
        # Only the runs differ.
        several = np.repeat(np.random.default_rng(0).uniform(1, 2, (runs, SETTINGS, 1)), INSTANCES, axis=2)
        one = np.full((1, SETTINGS, INSTANCES), 1.5)
        relative = resampled_relative(several, one) if side == "ours" else resampled_relative(one, several)
        value, low, high = ends(mean_over(relative, INSTANCES))
        assert low < value < high
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


def test_training_runs_of_two_entries_are_drawn_apart():
    # As good as each other in the sample; trained anew, either could be ahead.
    several = np.repeat(np.random.default_rng(0).uniform(1, 2, (4, SETTINGS, 1)), INSTANCES, axis=2)
    value, low, high = ends(mean_over(resampled_relative(several, several), INSTANCES))
    assert value == pytest.approx(0, abs=1e-12)
    assert low < -0.01
    assert high > 0.01


def test_instances_are_paired():
    # Both vary much from instance to instance, but together.
    luck = np.array([1.0, 5, 20, 50, 90, 200]) * np.ones((1, SETTINGS, 1))
    rng = np.random.default_rng(0)
    paired = mean_over(resampled_relative(luck * rng.uniform(1.09, 1.11, luck.shape), luck), INSTANCES)
    assert paired.high - paired.low < 0.03
    apart = mean_over(resampled_relative(1.1 * luck[..., ::-1], luck), INSTANCES)
    assert apart.high - apart.low > 1


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_settings_with_nothing_to_be_relative_to_are_left_out(value):
    ours, theirs = random_returns(0), random_returns(1, 1)
    kept = resampled_relative(ours, theirs)
    theirs[:, 1] = value
    relative = resampled_relative(ours, theirs)
    assert np.isnan(relative[:, 1]).all()
    others = np.array([True, False, True, True])
    np.testing.assert_array_equal(relative[:, others], kept[:, others])
    assert mean_over(relative, INSTANCES) == mean_over(kept, INSTANCES, others)


# --- groups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", PROBLEM_IDS)
@pytest.mark.parametrize("name", ["test", "validation"])
def test_every_setting_is_in_one_group(env, name, tmp_path):
    whole = load_split(env, name)
    groups = groups_of(env, whole.settings)
    members = [setting for group in groups.values() for setting in group]
    assert sorted(members) == sorted(setting.name for setting in whole.settings)


def test_groups_are_those_that_claims_are_about():
    by_problem = {env: groups_of(env, load_split(env, "test").settings) for env in PROBLEM_IDS}
    assert list(by_problem[DECODE]) == ["none", "sizes", "model", "lengths", "system"]
    assert list(by_problem[KERNELS]) == [
        *("none", "sizes", "model", "network", "lengths", "system", "vision-stream")
    ]
    streams = by_problem[KERNELS]["vision-stream"]
    assert len(streams) == 5
    assert all(name.startswith("vision-stream") for name in streams)
    assert all(name.startswith("vision-language") for name in by_problem[KERNELS]["network"])
    serving = by_problem[SERVING]
    assert serving["saturated"] == ["saturated/llama-65b", "saturated/gpt3-175b"]
    assert serving["long-context"] == ["long-context/llama-65b", "long-context/gpt3-175b"]
    assert all(name.endswith("/llama2-70b") for name in serving["unseen model"])
    assert len(serving["unseen model"]) == 8
    # Windows and traces come last, whatever their model.
    base = get_scenario("saturated/llama2-70b")
    shifts = {"a": "trace", "b": "window", "saturated/gpt3-175b": "none"}
    groups = groups_of(SERVING, [Setting(name, base, shift) for name, shift in shifts.items()])
    assert groups == {"saturated": ["saturated/gpt3-175b"], "trace window": ["b"], "unseen trace": ["a"]}


# --- the command ------------------------------------------------------------------------------------


class Stumbling:
    """A policy that cannot play."""

    privileged = False

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        """Raise."""
        raise RuntimeError("cannot play")


def test_groups_at_full_load_hold_presets_at_capacity_and_above():
    groups = groups_of(SERVING_V1, load_split(SERVING_V1, "test").settings)
    loaded = at_full_load(groups)
    assert set(groups) - set(loaded) == {"overload-0.7", "priced"}
    assert loaded["overload"] == groups["overload"]
    assert not any(name.startswith("overload-0.7/") for name in loaded["unseen model"])
    assert {"overload-1/gpt3-175b", "overload/gpt3-175b"} < set(loaded["unseen model"])
    assert at_full_load({"none": ["batch 64"]}) == {}


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """The ranking's own picture, which takes longest, is drawn in its own tests."""
    monkeypatch.setattr(ranking, "figure", lambda summary: b"")


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def claimed(small, tmp_path):  # noqa: F811
    """Two training runs, of which one leans to FC-PIM and one to the PUs, and a tree of arguments that ran."""
    folders = [
        training_run(tmp_path / f"run{k}", network(TRAINED_ON, lean, seed=k + 7))
        for k, lean in enumerate((20.0, -60.0))
    ]
    arguments = [
        *("--env", DECODE, "--seeds", 3, "--jobs", 1, "--policies", "static-pu", "threshold", "--no-latency"),
        *("--learned", *folders, "--out", tmp_path / "board"),
    ]
    status, out, err = command(*arguments)
    assert status == 0, err
    return arguments, tmp_path / "board", out


def test_learned_entries_are_claimed_against_what_is_played(claimed, small):  # noqa: F811
    _, folder, out = claimed
    claims = summary_of(folder)["claims"]
    assert claims["groups"] == {"none": ["batch 64", "batch 32"], "model": ["batch 16"]}
    assert [row["entry"] for row in claims["challengers"]] == ["PPO"]
    # The oracle is not played; the optimum is, as the ceiling.
    against = {row["entry"]: row for row in claims["challengers"][0]["against"]}
    assert list(against) == ["optimum", "threshold"]
    rows = pl.read_csv(folder / "results.csv")
    means = {
        key: part["return"].mean()
        for key, part in rows.partition_by("entry", "setting", as_dict=True).items()
    }
    found = against["threshold"]
    expected = {}
    for setting in small.settings:
        theirs = means["threshold", setting.name]
        expected[setting.name] = (means["PPO", setting.name] - theirs) / abs(theirs)
        assert found["by_setting"][setting.name]["value"] == pytest.approx(expected[setting.name], abs=1e-12)
    assert found["groups"]["none"]["value"] == pytest.approx(
        (expected["batch 64"] + expected["batch 32"]) / 2
    )
    assert found["all"]["value"] == pytest.approx(sum(expected.values()) / 3)
    worst = min(expected, key=expected.get)
    assert expected[worst] < 0
    assert found["worst"] == {"setting": worst, **found["by_setting"][worst]}
    # The run that stays on the PUs is the unlucky one; by run as over all of them.
    best, unlucky = found["runs"]["best"], found["runs"]["worst"]
    assert (best["seed"], unlucky["seed"]) == (7, 8)
    assert unlucky["value"] < best["value"]
    assert (best["value"] + unlucky["value"]) / 2 == pytest.approx(found["all"]["value"])
    by_run = {
        key: part["return"].mean()
        for key, part in rows.filter(pl.col("entry") == "PPO")
        .partition_by("run", "setting", as_dict=True)
        .items()
    }
    gaps = {
        (run, setting): (value - means["threshold", setting]) / abs(means["threshold", setting])
        for (run, setting), value in by_run.items()
    }
    single = found["worst_of_one_run"]
    assert (single["run"], single["setting"]) == min(gaps, key=gaps.get)
    assert single["value"] == pytest.approx(min(gaps.values()))
    assert single["value"] < found["worst"]["value"], "worse than the mean over runs of any setting"
    assert single["seed"] == 8
    assert (single["behind"], single["pairs"]) == (sum(gap < -0.02 for gap in gaps.values()), 6)
    assert 0 < single["behind"] < 6
    assert f"{single['behind']} of 6" in out
    assert against["optimum"]["all"]["high"] <= 1e-12
    assert "+1: 1 % less cost" in out
    assert "(seed 8)" in out
    assert (folder / "claims.png").read_bytes().startswith(b"\x89PNG")


def test_other_claims_are_made_of_what_was_played(claimed):
    arguments, folder, _ = claimed
    status, _, err = command(
        *arguments, "--claims", "threshold", "PPO", "--against", "threshold", "static-pu"
    )
    assert status == 0, err
    by_name = {row["entry"]: row for row in summary_of(folder)["claims"]["challengers"]}
    # Nobody is compared with itself.
    assert [row["entry"] for row in by_name["threshold"]["against"]] == ["static-pu"]
    assert [row["entry"] for row in by_name["PPO"]["against"]] == ["threshold", "static-pu"]
    better = by_name["threshold"]["against"][0]
    assert better["all"]["value"] > 0  # a smaller cost
    assert better["runs"] is None
    sessions = json.loads((folder / "run.json").read_text())["sessions"]
    assert sessions[-1]["jobs_reused"] == sessions[-1]["jobs"]


def test_comparators_are_played_where_they_are_no_entries_and_left_out_where_they_cannot_play(
    small,  # noqa: F811
    tmp_path,
):
    stumbling = f"{__name__}:Stumbling"
    arguments = ["--env", DECODE, "--seeds", 2, "--jobs", 1, "--policies", "threshold", "--no-latency"]
    arguments += ["--out", tmp_path / "board", "--claims", "threshold", "--against", "oracle", stumbling]
    status, out, err = command(*arguments)
    assert status == 0, err
    summary = summary_of(tmp_path / "board")
    assert [row["entry"] for row in summary["entries"]] == ["random", "threshold"]
    oracle, other = summary["claims"]["challengers"][0]["against"]
    assert (oracle["entry"], oracle["marks"]) == ("oracle", "*")
    assert oracle["all"]["high"] <= 1e-12
    assert other["left_out"] == [setting.name for setting in small.settings]
    assert (other["all"]["value"], other["worst"]) == (None, None)
    assert f"left out: threshold against {stumbling}" in out


def test_without_challengers_nothing_is_claimed(small, tmp_path):  # noqa: F811
    folder = tmp_path / "board"
    arguments = ["--env", DECODE, "--seeds", 2, "--jobs", 1, "--policies", "threshold", "--no-latency"]
    assert command(*arguments, "--out", folder, "--claims", "threshold", "--against", "optimum")[0] == 0
    assert (folder / "claims.png").exists()
    status, out, err = command(*arguments, "--out", folder)
    assert status == 0, err
    assert summary_of(folder)["claims"]["challengers"] == []
    assert "against" not in out
    assert not (folder / "claims.png").exists()  # of other claims


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--claims", "PPo"], "--claims PPo: none of the entries (random, static-pu"),
        (["--claims", "threshold", "--against", "orcale"], "Did you mean 'oracle'"),
        (["--claims", "threshold", "--against", "bound"], "--against bound: none of the entries"),
        (["--claims", "threshold", "--against", "threshold"], "there is nobody to compare it with"),
        (["--against", "threshold"], "name entries in --claims, or a learned one in --entries"),
        (["--slow-seeds", "0"], "--slow-seeds is 0, expected 1 to 16 (--seeds)"),
        (["--seeds", "4", "--slow-seeds", "5"], "--slow-seeds is 5, expected 1 to 4 (--seeds)"),
    ],
)
def test_claims_that_cannot_be_are_refused_in_one_line(small, arguments, message, tmp_path):  # noqa: F811
    status, out, err = command("--env", DECODE, *arguments, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


# --- slow references --------------------------------------------------------------------------------


def test_look_aheads_alone_are_slow(tmp_path):
    assert all(is_slow(name) for name in ("search", "search-24x2x16", "clairvoyant", "clairvoyant-4x4"))
    learned = tmp_path / "search"
    assert not any(is_slow(name) for name in ("oracle", "threshold", f"{learned}/", "search:Mine", "search/"))


def test_slow_references_are_judged_on_the_instances_that_they_play(monkeypatch, tmp_path):
    scenario = get_scenario("saturated/llama-65b").replace(serving={"horizon_s": 4.0})
    few = replace(load_split(SERVING, "test"), settings=(Setting(scenario.name, scenario),))
    monkeypatch.setattr(leaderboard, "load_split", lambda *_: few)
    slow, folder = "search-2x1x1", tmp_path / "board"
    arguments = ["--seeds", 3, "--slow-seeds", 2, "--jobs", 1, "--no-latency", "--out", folder]
    arguments += ["--baseline", slow]
    arguments += ["--policies", "oracle", slow, "threshold", "--claims", "oracle", "--against", slow, "bound"]
    status, out, err = command(*arguments)
    assert status == 0, err
    rows = pl.read_csv(folder / "results.csv")
    assert rows.filter(pl.col("entry") == slow)["seed"].to_list() == [TEST_SEED, TEST_SEED + 1]
    summary = summary_of(folder)
    entries = {row["entry"]: row for row in summary["entries"]}
    played = {name: row["instances"] for name, row in entries.items()}
    assert played == {"random": 3, "oracle": 3, slow: 2, "threshold": 3}
    # What it did not play is no failure, and counts nowhere.
    assert entries[slow]["failures"] == 0
    both = rows.filter(pl.col("seed") < TEST_SEED + 2).group_by("entry").agg(pl.col("return").mean())
    mean = dict(both.iter_rows())
    way = mean["bound"] - mean["random"]
    assert entries[slow]["mean"]["value"] == pytest.approx((mean[slow] - mean["random"]) / way)
    assert entries[slow]["over_baseline"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert entries["oracle"]["over_baseline"]["value"] == pytest.approx((mean["oracle"] - mean[slow]) / way)
    paired, alone = summary["claims"]["challengers"][0]["against"]
    assert (paired["instances"], alone["instances"]) == (2, 3)
    assert paired["all"]["value"] == pytest.approx((mean["oracle"] - mean[slow]) / abs(mean[slow]))
    assert f"fewer: {slow}: the first 2 of 3 instances" in out
    assert f"fewer: oracle against {slow}: the first 2 instances" in out
    # How many they play is part of the run.
    status, _, err = command(*arguments[:2], *arguments[4:])
    assert status == 2
    assert f"seeds.fewer: {{'{slow}': 2}} there" in err
