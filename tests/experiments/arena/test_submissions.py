"""What is asked of a policy before it enters the leaderboard."""

import json
import shutil

import pytest

from agents.learned.shipped import FOLDER
from experiments.submission import main
from papi_env import DECODE, KERNELS
from tests.experiments.commands import called


def asked(*arguments):
    return called(main, *arguments, "--env", DECODE, "--settings", 1)


@pytest.fixture
def copy(tmp_path):
    """A copy of the shipped policy whose description can be changed."""
    folder = tmp_path / "mine"
    shutil.copytree(FOLDER / "decode-v0", folder)

    def change(**training):
        path = folder / "policy.json"
        document = json.loads(path.read_text())
        document["training"] |= training
        document["training"] = {
            key: value for key, value in document["training"].items() if value is not None
        }
        path.write_text(json.dumps(document))
        return folder

    return change


def test_the_shipped_policy_may_enter():
    status, out, _ = asked(FOLDER / "decode-v0")
    assert (status, out.count("  yes ")) == (0, 6)
    assert "may stand in the leaderboard" in out


def test_what_was_trained_on_another_problem_may_not():
    status, out, _ = called(main, FOLDER / "decode-v0", "--env", KERNELS)
    assert status == 1
    assert "it was trained on papi_env/Decode-v0" in out


def test_a_damaged_file_may_not(copy):
    folder = copy()
    weights = folder / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    status, out, _ = asked(folder)
    assert status == 1
    assert "NO  files load" in out
    assert "may not stand" in out


def test_one_of_another_training_split_may_not(copy):
    status, out, _ = asked(copy(splits={"train": "0" * 16}))
    assert status == 1
    assert "NO  " in out


def test_numbers_that_cannot_be_are_refused():
    assert asked(FOLDER / "decode-v0", "--seeds", 0)[0] == 2
