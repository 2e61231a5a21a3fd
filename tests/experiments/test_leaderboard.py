"""The leaderboard: statistics with known answers, what may enter, failures, and the command from end to end."""

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agents.evaluate import evaluate
from agents.learned.checkpoint import (
    ActionLayout,
    Checkpoint,
    Description,
    ObservationLayout,
    save_checkpoint,
)
from agents.learned.networks import Architecture
from agents.registry import make_policy
from experiments import leaderboard
from experiments.arena.contestants import enter, shortages
from experiments.arena.entries import CEILINGS, default_policies, parse
from experiments.arena.estimators.runs import (
    Earnings,
    aggregate,
    improvement,
    instance_weights,
    interquartile_mean,
    mean_over,
    paired_difference,
    performance_profile,
    resampled_positions,
    resampled_runs,
    wins,
)
from experiments.arena.play import attempt
from experiments.arena.trained import read_run
from experiments.distilling.collect import make_envs
from experiments.leaderboard import Config, Contest, main
from experiments.splitting.definition import DECODE, PROBLEM_IDS, SERVING, TEST_SEED, Setting
from experiments.splitting.splits import load_split
from papi_env.envs.registration import SERVING_V1
from papi_env.errors import ConfigurationError, DataError
from papi_env.scenario import get_scenario
from papi_env.simulation.batch import state as layout
from tests.experiments.commands import called

# --- statistics -------------------------------------------------------------------------------------

finite = st.floats(-100, 100)
scores = hnp.arrays(np.float64, st.integers(1, 40), elements=finite)


@given(scores)
def test_the_interquartile_mean_is_that_of_the_middle_half(values):
    # Every value four times: then the middle half is whole values.
    ordered = np.sort(np.repeat(values, 4))
    count = len(values)
    expected = ordered[count : 3 * count].mean()
    assert interquartile_mean(values) == pytest.approx(expected, abs=1e-9)


@given(scores, st.floats(0.1, 10), finite)
def test_the_interquartile_mean_heeds_scale_and_ignores_what_is_missing(values, scale, shift):
    found = float(interquartile_mean(values))
    assert values.min() - 1e-9 <= found <= values.max() + 1e-9
    assert interquartile_mean(scale * values + shift) == pytest.approx(scale * found + shift, abs=1e-7)
    with_missing = np.append(values, [np.nan, np.nan])
    assert interquartile_mean(with_missing) == pytest.approx(found, abs=1e-12)
    assert np.isnan(interquartile_mean(np.full(3, np.nan)))


def test_the_interquartile_mean_ignores_what_is_far_out():
    assert interquartile_mean(np.array([0.0, 1.0, 1.0, 1e9])) == 1.0


@given(st.integers(2, 20), st.integers(1, 12), st.integers(1, 6))
def test_resamples_begin_with_the_sample_and_keep_its_size(instances, runs, number):
    weights = instance_weights(instances, 50)
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    np.testing.assert_array_equal(weights[:, 0], 1 / instances)
    np.testing.assert_allclose(np.round(weights * instances), weights * instances, atol=1e-9)
    drawn = resampled_runs(runs, number, 50)
    assert drawn.shape == (runs, number, 51)
    np.testing.assert_array_equal(drawn[:, :, 0], np.arange(runs)[:, None].repeat(number, axis=1))
    assert drawn.min() >= 0
    assert drawn.max() < runs


def random_entries(seed, runs=3, number=4, instances=6, share=None):
    rng = np.random.default_rng(seed)
    floor = rng.normal(size=(number, instances))
    ceiling = floor + 1 + rng.random((number, instances))
    positions = rng.random((runs, number, instances)) if share is None else np.full((runs, 1, 1), share)
    returns = floor + positions * (ceiling - floor)
    return Earnings(returns, floor, ceiling)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(-0.5, 1.2))
def test_an_entry_at_the_same_share_of_the_way_everywhere_has_that_position(seed, share):
    entry = random_entries(seed, share=share)
    positions = resampled_positions(entry)
    for found in (aggregate(positions, 6), mean_over(positions, 6)):
        assert (found.value, found.low, found.high) == pytest.approx((share,) * 3, abs=1e-9)
    profile = performance_profile(positions, 6, np.array([share - 0.01, share + 0.01]))
    np.testing.assert_array_equal(profile.share, [1, 0])
    np.testing.assert_array_equal(profile.low, [1, 0])
    np.testing.assert_array_equal(profile.high, [1, 0])


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_positions_do_not_depend_on_the_scale_of_a_setting(seed):
    entry = random_entries(seed)
    factor, shift = np.array([1.0, 100.0, 0.01, 7.0])[:, None], np.array([0.0, 5.0, -3.0, 1.0])[:, None]
    moved = Earnings(*(factor * part + shift for part in (entry.returns, entry.floor, entry.ceiling)))
    np.testing.assert_allclose(resampled_positions(moved), resampled_positions(entry), rtol=1e-6, atol=1e-8)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.5))
def test_paired_differences_do_not_carry_what_both_share(seed, lead):
    entry = random_entries(seed, runs=1)
    ahead = Earnings(entry.returns + lead * (entry.ceiling - entry.floor), entry.floor, entry.ceiling)
    one, other = resampled_positions(ahead), resampled_positions(entry)
    found = paired_difference(one, other, 6)
    assert (found.value, found.low, found.high) == pytest.approx((lead,) * 3, abs=1e-9)
    alone = mean_over(one, 6)
    assert alone.low < alone.high  # each of them varies
    assert improvement(ahead, entry).value == pytest.approx(1)
    assert improvement(entry, ahead).value == 0
    assert improvement(entry, entry).value == pytest.approx(0.5)


def test_wins_count_ties_half_and_every_pair_of_runs():
    returns = np.array([[[1.0, 5.0]], [[3.0, 5.0]]])  # two runs, one setting, two instances
    others = np.array([[[2.0, 5.0 + 1e-12]], [[0.0, 9.0]]])
    np.testing.assert_allclose(wins(returns, others), [[[0.5, 0.25]], [[1.0, 0.25]]])


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_probabilities_of_improvement_are_complements(seed):
    one, other = random_entries(seed), random_entries(seed + 1)
    other = Earnings(other.returns, one.floor, one.ceiling)
    assert improvement(one, other).value + improvement(other, one).value == pytest.approx(1)
    found = improvement(one, other)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_failure_counts_as_the_floor():
    entry = random_entries(0, share=0.8)
    returns = entry.returns.copy()
    returns[1, 2] = np.nan
    failed = Earnings(returns, entry.floor, entry.ceiling)
    assert failed.failures == 1
    positions = resampled_positions(failed)[..., 0]
    np.testing.assert_allclose(np.sort(positions.ravel()), [0.0] + [0.8] * 11, atol=1e-12)


def test_a_setting_without_a_way_has_no_position():
    entry = random_entries(0, share=0.5)
    ceiling = entry.ceiling.copy()
    ceiling[0] = entry.floor[0]
    positions = resampled_positions(Earnings(entry.returns, entry.floor, ceiling))
    assert np.isnan(positions[:, 0]).all()
    assert aggregate(positions, 6).value == pytest.approx(0.5)


def test_more_training_runs_give_narrower_intervals():
    widths = []
    for runs in (3, 30):
        rng = np.random.default_rng(0)
        floor, ceiling = np.zeros((5, 40)), np.ones((5, 40))
        returns = np.repeat(rng.random((runs, 5, 1)), 40, axis=2)  # only the runs differ
        found = mean_over(resampled_positions(Earnings(returns, floor, ceiling)), 40)
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] < 0.6 * widths[0]


# --- what may enter ---------------------------------------------------------------------------------


def network(scenario, lean=20.0, env=DECODE, **training):
    """A policy for Decode-v0 that goes to FC-PIM where n / (n + α) is small."""
    names = layout.OBSERVATION_NAMES
    architecture = Architecture(
        inputs=len(names), hidden=(), activation="tanh", head="categorical", options=(2,)
    )
    weights = np.zeros((2, len(names)), dtype=np.float32)
    weights[0, names.index("n_share_of_alpha")] = 40
    description = Description(
        algorithm="PPO",
        env=env,
        observation=ObservationLayout(names=names),
        action=ActionLayout(options=(2,)),
        architecture=architecture,
        masked=False,
        scenarios=(scenario.model_dump(mode="json"),),
        training=training,
    )
    return Checkpoint(
        description, {"head.weight": weights, "head.bias": np.array([0, lean], dtype=np.float32)}
    )


def training_run(folder, checkpoint, status="finished", wall_s=2.0):
    """The folder of a training run that ended so."""
    folder.mkdir(parents=True)
    session = {"status": status, "wall_s": wall_s, "steps": 640}
    record = {"experiment": "train", "configuration": {}, "sessions": [session]}
    (folder / "run.json").write_text(json.dumps(record))
    if checkpoint is not None:
        save_checkpoint(folder / "best", checkpoint)
    return folder


@pytest.fixture(scope="module")
def split():
    """A small split: two known settings, and one with a new model."""
    whole = load_split(DECODE, "test")
    text = get_scenario("general-qa/llama-65b").replace(speculation=2)
    found = tuple(
        Setting(f"batch {batch}", text.replace(batch_size=batch, model=model), shift)
        for batch, model, shift in ((64, None, "none"), (32, None, "none"), (16, "gpt3-175b", "model"))
    )
    return replace(whole, settings=found)


@pytest.fixture
def small(split, monkeypatch):
    monkeypatch.setattr(leaderboard, "load_split", lambda env, name, traces: replace(split, env_id=env))
    return split


TRAINED_ON = get_scenario("general-qa/llama-65b").replace(batch_size=16, speculation=2)


def entered(names, split):
    """What enters a ranking under these names."""
    return enter([parse(str(name)) for name in names], split)


def test_runs_are_grouped_by_algorithm_or_label_and_say_what_they_cost(split, tmp_path):
    hyper = {"timesteps": 640, "tuned": "by hand"}
    folders = [
        training_run(
            tmp_path / f"run{k}", network(TRAINED_ON, 20.0 + k, seed=k, hyperparameters=hyper), wall_s=k
        )
        for k in (1, 2, 3)
    ]
    found = entered([str(folders[0]), f"mine={folders[1]}", str(folders[2] / "best")], split)
    assert [entry.label for entry in found] == ["PPO", "mine"]
    assert [run.seed for run in found[0].runs] == [1, 3]
    assert [run.wall_s for run in found[0].runs] == [1, 3]
    assert {run.steps for run in found[0].runs} == {640}
    assert found[0].tuning == "by hand"
    assert len(shortages(found)) == 2
    with pytest.raises(ConfigurationError, match="hold the same policy"):
        entered([str(folders[0]), f"other={folders[0] / 'best'}"], split)


def test_a_policy_trained_on_what_is_held_out_or_elsewhere_is_refused(split, tmp_path):
    unseen = TRAINED_ON.replace(model="llama2-70b")
    folder = training_run(tmp_path / "unseen", network(unseen))
    with pytest.raises(ConfigurationError, match=r"cannot be judged on the test split.*model llama2-70b"):
        entered([str(folder)], split)
    folder = training_run(tmp_path / "elsewhere", network(TRAINED_ON, env=SERVING))
    with pytest.raises(ConfigurationError, match="it was trained on papi_env/Serving-v0"):
        entered([str(folder)], split)


def test_folders_that_hold_nothing_or_damage_are_refused(split, tmp_path):
    with pytest.raises(ConfigurationError, match="expected the folder of a training run"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DataError, match="not the record of a run"):
        read_run(tmp_path)
    folder = training_run(tmp_path / "run", network(TRAINED_ON))
    weights = folder / "best" / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DataError, match="cut off or damaged"):
        entered([str(folder)], split)


@pytest.mark.parametrize("env", PROBLEM_IDS)
def test_default_entries_are_there_with_a_floor_and_a_ceiling(env):
    split = load_split(env, "test")
    problem = env.partition("/")[2].removesuffix("-v0").lower()
    found = entered(default_policies(f"leaderboard {problem}"), split)
    assert found[0].label == "random"
    assert "threshold" in {entry.label for entry in found}
    assert {entry.label for entry in found if entry.privileged} <= {"oracle", "optimum"}
    assert CEILINGS[env] in {"bound", "optimum", "oracle"}
    # What was chosen on the very settings, or tuned on what they hold out, is marked.
    marked = {entry.label for entry in found if entry.met_test}
    best = {"best-fixed", "best-threshold"}
    assert marked == {SERVING: best, SERVING_V1: best | {"best-greedy"}}.get(env, set())


def test_rules_that_cannot_be_are_refused(split):
    with pytest.raises(ConfigurationError, match="Did you mean 'threshold'"):
        entered(["threshhold"], split)
    with pytest.raises(ConfigurationError, match="it plays papi_env/Serving-v0 alone"):
        entered(["best-fixed"], split)


# --- playing ----------------------------------------------------------------------------------------


class Stumbling:
    """A policy with a mistake in it."""

    privileged = False

    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        """Raise."""
        raise RuntimeError("my own mistake")


def test_what_keeps_a_policy_from_playing_is_noted_and_earns_nothing(split):
    scenario = split.settings[0].scenario
    found = attempt(DECODE, scenario, f"{__name__}:Stumbling", (0, 1))
    assert found["return"] == [None, None]
    assert found["note"] == ["RuntimeError: my own mistake"] * 2
    found = attempt(DECODE, scenario.replace(system="a100-attacc"), "static-fc-pim", (0, 1))
    assert "cannot run FC kernels on 'fc-pim'" in found["note"][0]


def test_the_bound_is_above_what_is_played():
    scenario = get_scenario("saturated/llama-65b").replace(serving={"horizon_s": 3.0})
    bound = attempt(SERVING, scenario, "bound", (0, 1))["return"]
    for policy in ("random", "threshold", "best-threshold"):
        found = attempt(SERVING, scenario, policy, (0, 1))
        assert found["note"] == [None, None]
        assert (np.array(found["return"]) <= np.array(bound) + 1e-9).all()
    assert found["played"][0].startswith("threshold")


# --- the command ------------------------------------------------------------------------------------


command = partial(called, main)


@pytest.fixture
def finished(small, tmp_path):
    folders = [training_run(tmp_path / f"run{k}", network(TRAINED_ON, 20.0 - k, seed=k)) for k in (0, 1)]
    diverged = training_run(tmp_path / "diverged", None, "failed: Training diverged")
    arguments = [
        *("--env", DECODE, "--seeds", 3, "--jobs", 1, "--policies", "static-pu", "threshold"),
        *("--learned", *folders, f"PPO={diverged}", "--out", tmp_path / "board"),
    ]
    status, out, err = command(*arguments)
    assert status == 0, err
    return arguments, tmp_path / "board", out


def test_the_folder_holds_the_ranking_and_its_rows(finished, small):
    _, folder, _ = finished
    rows = pl.read_csv(folder / "results.csv")
    summary = json.loads((folder / "summary.json").read_text())
    assert (folder / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    entries = {row["entry"]: row for row in summary["entries"]}
    assert list(entries) == ["random", "static-pu", "threshold", "PPO"]
    assert (summary["floor"], summary["ceiling"]) == ("random", "optimum")
    assert set(rows["seed"].drop_nulls()) == set(range(TEST_SEED, TEST_SEED + 3))
    # What a row says is what is played.
    setting = small.settings[2]
    env = make_envs(DECODE, [setting.scenario], 3)[0]
    expected = evaluate(make_policy("threshold"), env, range(TEST_SEED, TEST_SEED + 3))["return"]
    played = rows.filter((pl.col("entry") == "threshold") & (pl.col("setting") == setting.name))
    np.testing.assert_array_equal(played["return"].to_numpy(), expected)
    assert entries["random"]["iqm"]["value"] == 0
    assert entries["threshold"]["over_baseline"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert entries["threshold"]["improvement"]["value"] == 0.5
    # Positions follow from the rows.
    means = {
        name: rows.filter((pl.col("entry") == name) & (pl.col("setting") == setting.name))["return"].mean()
        for name in ("random", "static-pu", "optimum")
    }
    position = (means["static-pu"] - means["random"]) / (means["optimum"] - means["random"])
    assert entries["static-pu"]["by_setting"][setting.name] == pytest.approx(position)
    assert entries["static-pu"]["by_shift"]["model"]["value"] == pytest.approx(position)


def test_a_training_that_failed_is_shown_and_counts_as_the_floor(finished, small):
    _, folder, out = finished
    summary = json.loads((folder / "summary.json").read_text())
    entry = next(row for row in summary["entries"] if row["entry"] == "PPO")
    assert entry["training_runs"] == entry["runs"] == 3
    assert entry["failures"] == len(small.settings)
    assert entry["training"]["unfinished"] == 1
    assert "training left no policy: failed: Training diverged" in out
    assert "failed, counted as random: PPO" in out
    rows = pl.read_csv(folder / "results.csv").filter(pl.col("entry") == "PPO")
    good = [rows.filter(pl.col("run") == k)["return"].null_count() for k in range(3)]
    assert good == [0, 0, len(small.settings)]


def test_a_finished_run_is_taken_up_without_playing(finished):
    arguments, folder, out = finished
    before = (folder / "results.csv").read_text()
    status, again, _ = command(*arguments)
    assert (status, again) == (0, out)
    assert (folder / "results.csv").read_text() == before
    sessions = json.loads((folder / "run.json").read_text())["sessions"]
    assert sessions[-1]["jobs_reused"] == sessions[-1]["jobs"] > 0
    other = [*arguments[:3], 4, *arguments[4:]]
    status, _, err = command(*other)
    assert status == 2
    assert "seeds.count: 3 there, 4 asked" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds is 0, expected 1 to"),
        (["--jobs", "-1"], "expected a number of processes"),
        (["--policies", "orcale"], "Did you mean 'oracle'"),
        (["--baseline", "thresholt"], "Did you mean 'threshold'"),
        (
            ["--families", "batch 65"],
            "of the test split of papi_env/Decode-v0 'batch 65'. Did you mean 'batch 64'?",
        ),
        (["--learned", "nowhere"], "Unknown policy 'nowhere'"),
        (["--learned", "runs/nowhere"], "found no such folder, expected that of a policy or a training run"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(small, arguments, message, tmp_path):
    status, out, err = command("--env", DECODE, *arguments, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_two_entries_with_one_name_are_refused(small, tmp_path):
    folder = training_run(tmp_path / "run", network(TRAINED_ON))
    with pytest.raises(ConfigurationError, match="Two entries are called 'threshold'"):
        Contest(Config(env=DECODE, entries=("default", f"threshold={folder}")))
    shutil.rmtree(folder)


def test_the_bound_of_serving_v1_is_of_few_instances(monkeypatch, tmp_path):
    whole = load_split(SERVING_V1, "test")
    scenario = get_scenario("chats/llama-65b").replace(serving={"horizon_s": 3.0})
    few = replace(whole, settings=(Setting("chats/llama-65b", scenario),))
    monkeypatch.setattr(leaderboard, "load_split", lambda *_: few)
    out = tmp_path / "run"
    arguments = ["--env", SERVING_V1, "--entries", "threshold", "slack-aware", "--claims", "slack-aware"]
    arguments += ["--seeds", "3", "--slow-seeds", "1", "--no-latency", "--jobs", "1", "--out", str(out)]
    assert main([*arguments, "--against", "threshold"]) == 0
    rows = pl.read_csv(out / "results.csv")
    assert dict(rows.group_by("entry").len().rows()) == {
        "random": 3,
        "threshold": 3,
        "slack-aware": 3,
        "bound": 1,
    }
    summary = json.loads((out / "summary.json").read_text())
    # Positions need the bound, comparisons do not.
    assert {entry["instances"] for entry in summary["entries"]} == {1}
    assert [row["instances"] for row in summary["claims"]["challengers"][0]["against"]] == [3]
