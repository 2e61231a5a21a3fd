"""What is asked of a policy before it enters the leaderboard."""

import json
import shutil

import pytest

from agents.learned.checkpoint import document_digest
from agents.learned.shipped import FOLDER
from experiments.submission import main
from papi_env import DECODE, KERNELS
from tests.experiments.commands import called


def asked(*arguments):
    return called(main, *arguments, "--env", DECODE, "--settings", 1)


@pytest.fixture
def change(tmp_path):
    """A copy of the shipped policy whose description can be changed."""
    folder = tmp_path / "mine"
    shutil.copytree(FOLDER / "decode-v0", folder)

    def changed(**training):
        path = folder / "policy.json"
        document = json.loads(path.read_text())
        document["training"] |= training
        document["training"] = {
            key: value for key, value in document["training"].items() if value is not None
        }
        del document["sha256"]
        document["sha256"] = document_digest(document)
        path.write_text(json.dumps(document))
        return folder

    return changed


def test_the_shipped_policy_may_enter():
    status, out, _ = asked(FOLDER / "decode-v0")
    assert (status, out.count("  yes ")) == (0, 6)
    assert "may stand in the leaderboard" in out


def test_what_was_trained_on_another_problem_may_not():
    status, out, _ = called(main, FOLDER / "decode-v0", "--env", KERNELS)
    assert status == 1
    assert "it was trained on papi_env/Decode-v0" in out


def test_a_damaged_file_may_not(change):
    folder = change()
    weights = folder / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    status, out, _ = asked(folder)
    assert status == 1
    assert "NO  files load" in out
    assert "may not stand" in out


def test_one_that_was_chosen_on_the_test_split_may_not(change):
    status, out, _ = asked(change(splits={"test": "0" * 16}))
    assert status == 1
    assert "it was trained or chosen on the test split" in out


def test_another_training_split_is_told(change):
    status, out, _ = asked(change(splits={"train": "0" * 16}))
    assert status == 0
    assert "train 0000000000000000 (another one than c970013765ab626e" in out


def test_one_that_does_not_say_how_it_was_trained_may_not(change):
    status, out, _ = asked(change(command=None, seed=None))
    assert status == 1
    assert "its file records no command, seed" in out


def test_numbers_that_cannot_be_are_refused():
    assert asked(FOLDER / "decode-v0", "--seeds", 0)[0] == 2
