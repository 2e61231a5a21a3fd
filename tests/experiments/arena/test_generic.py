"""An entry is written the same way, and plays, wherever entries are: registered, a class of one's own, a folder."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import agents
from experiments import compare, headroom, leaderboard, serve
from experiments.splitting.definition import SERVING, Setting
from experiments.splitting.splits import load_split
from papi_env.scenario import get_scenario
from tests.experiments.commands import called

USERS = """
import numpy as np

class Fixed:
    def predict(self, observation, state=None, episode_start=None, deterministic=True):
        return np.tile([1, 1, 2, 1], (len(observation), 1)), state
"""
FOLDER = Path(agents.__file__).parent / "pretrained" / "serving-v0"
# One of each kind, as they are written, and what they are called.
ENTRIES = ["fixed-fc-pim-2-all-on", "mine=users_everywhere:Fixed", f"ours={FOLDER}"]


@pytest.fixture
def tiny(serving_file, tmp_path, monkeypatch):
    (tmp_path / "users_everywhere.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)
    path = serving_file(horizon_s=1.0, objectives={"ttft_s": 0.5, "tpot_s": 0.05})
    setting = Setting("tiny", get_scenario(path))
    few = replace(load_split(SERVING, "validation"), settings=(setting,))
    monkeypatch.setattr(leaderboard, "load_split", lambda *_: few)
    return path


def rows_of(module, folder, *arguments):
    """The rows of a command's results."""
    status, _, err = called(module.main, *arguments, "--seeds", 2, "--out", folder)
    assert status == 0, err
    return pl.read_csv(folder / "results.csv")


def test_the_same_entries_play_in_every_command(tiny, tmp_path):
    played = ["--scenarios", tiny, "--entries", *ENTRIES]
    found = {
        "compare": rows_of(compare, tmp_path / "c", "--env", SERVING, *played, "--jobs", 1),
        "headroom": rows_of(headroom, tmp_path / "h", *played, "--jobs", 1),
        "serve": rows_of(serve, tmp_path / "s", *played),
    }
    ranked = rows_of(
        leaderboard, tmp_path / "l", "--env", SERVING, "--entries", *ENTRIES, "--no-latency", "--jobs", 1
    )
    names, earned = {}, []
    for command, rows in found.items():
        rows = rows if command != "compare" else rows.drop("policy").rename({"entry": "policy"})
        names[command] = rows["policy"].unique(maintain_order=True).to_list()
        rule = names[command][names[command].index("mine") - 1]
        returns = {name: rows.filter(pl.col("policy") == name)["return"].to_list() for name in names[command]}
        assert returns["mine"] == returns[rule]
        earned.append(returns["ours"])
    # One play: whoever asks, the same instances earn the same.
    assert earned[0] == earned[1] == earned[2]
    assert names["compare"][0] == "papi/fixed-fc-pim-2-all-on"
    assert names["serve"] == ["fixed-fc-pim-2-all-on", "mine", "ours"]
    summary = json.loads((tmp_path / "l" / "summary.json").read_text())
    assert [row["entry"] for row in summary["entries"]] == ["random", "fixed-fc-pim-2-all-on", "mine", "ours"]
    assert not ranked["note"].drop_nulls().len()


def test_an_entry_may_choose_another_machine_where_machines_are_compared(tiny, tmp_path):
    entries = ["threshold", "papi-pim-only/threshold"]
    rows = rows_of(serve, tmp_path / "s", "--scenarios", tiny, "--entries", *entries)
    assert rows["policy"].unique(maintain_order=True).to_list() == entries
    times = [rows.filter(pl.col("policy") == name)["j_per_token"].to_list() for name in entries]
    assert times[0] != times[1]


def test_the_folder_of_a_training_means_its_policy(tiny, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "best").symlink_to(FOLDER, target_is_directory=True)
    (run / "run.json").write_text(json.dumps({"experiment": "train", "configuration": {}, "sessions": []}))
    rows = rows_of(serve, tmp_path / "s", "--scenarios", tiny, "--entries", f"a={run}", f"b={FOLDER}")
    one, other = (rows.filter(pl.col("policy") == name)["return"].to_list() for name in "ab")
    assert one == other


def test_the_best_of_a_kind_and_the_bound_are_entries_of_serving(tiny, tmp_path):
    entries = ["best-threshold", "threshold-spec2", "bound"]
    arguments = ["--env", SERVING, "--scenarios", tiny, "--entries", *entries, "--jobs", 1]
    rows = rows_of(compare, tmp_path / "c", *arguments)
    best, rule, bound = (rows.filter(pl.col("policy") == name)["return"].to_numpy() for name in entries)
    assert best.mean() >= rule.mean()
    assert (best <= bound + 1e-9).all()
    assert rows.filter(pl.col("privileged"))["policy"].unique().to_list() == ["bound"]
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        status = compare.main(["--entries", "papi/best-fixed", "--scenarios", "general-qa/opt-30b"])
    assert status == 2
    assert f"is chosen among serving policies; it plays {SERVING} alone" in err.getvalue()
