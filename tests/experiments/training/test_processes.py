"""Trainings in phases on several processes: the bits of one, whoever dies, and wherever one goes on."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from experiments.common import workers
from experiments.common.machine import Machine
from experiments.common.pools import Call, OwnProcess, died
from experiments.common.runner import ROOT
from experiments.training.expert.rounds import ROUNDS
from tests.experiments.training.runs import assert_the_same_run, command

COMMON = ["--env", "papi_env/Serving-v1", "--episodes", "1", "--validations", "2", "--no-tensorboard"]
COMMON += ["--scenarios", "chats/llama-65b", "bursts/llama-65b"]
OPTIONS = {
    "evolution": [
        *("--algorithm", "evolution", *COMMON, "--timesteps", 100_000),
        *("--hyper", "pairs=2", "settings=2", "episodes=1", "horizon_s=2.0", "apart=0.5"),
    ],
    "expert-iteration": [
        *("--algorithm", "expert-iteration", *COMMON, "--timesteps", 700_000),
        *("--hyper", "checks=8", "looks=16", "leaf_s=4.0", "horizon_s=2.0", "seconds=0.5", "updates=20"),
    ],
}


def dies_once(mark, call):
    """Ends its process the first time."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), 9)
    return call.run()


class Dying(Machine):
    """Two processes, one of which dies in the fourth call."""

    def __init__(self, mark):
        super().__init__(2)
        self.mark, self.begun = mark, 0

    def _one(self, number, call):
        self.begun += 1
        if self.begun == 4:
            call = Call(call.label, dies_once, (self.mark, call))
        return super()._one(number, call)


class Losing(OwnProcess):
    """Has no process for the tenth call."""

    def __init__(self):
        self.begun = 0

    def run(self, calls):
        for number, call in enumerate(calls):
            self.begun += 1
            if self.begun == 10:
                raise died(call)
            yield number, call.run()


# Expert iteration and evolution take turns, since processes take seconds to start.
EVOLUTION = pytest.mark.parametrize("whole", ["evolution"], indirect=True)
EXPERT = pytest.mark.parametrize("whole", ["expert-iteration"], indirect=True)


@pytest.fixture(scope="module")
def whole(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    status, _, err = command(*OPTIONS[request.param], "--out", folder)
    assert status == 0, err
    return request.param, folder


@EXPERT
def test_two_processes_give_the_same_though_one_of_them_dies(whole, tmp_path, monkeypatch):
    algorithm, expected = whole
    pool = Dying(tmp_path / "died")
    monkeypatch.setitem(workers.BACKENDS, "local", lambda asked: pool)
    status, _, err = command(*OPTIONS[algorithm], "--jobs", 2, "--out", tmp_path / "run")
    assert status == 0, err
    assert (tmp_path / "died").exists()
    assert_the_same_run(tmp_path / "run", expected)
    assert (tmp_path / "run" / ROUNDS).read_text() == (expected / ROUNDS).read_text()


@EVOLUTION
def test_a_run_that_loses_its_processes_goes_on_with_others(whole, tmp_path, monkeypatch):
    algorithm, expected = whole
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setitem(workers.BACKENDS, "local", lambda asked: Losing())
        status, _, err = command(*OPTIONS[algorithm], "--out", folder)
    assert status == 2
    assert "died 3 times" in err
    assert f"python -m experiments.train --resume {folder} goes on" in err
    status, _, err = command("--resume", folder, "--jobs", 2)
    assert status == 0, err
    assert_the_same_run(folder, expected)
    # What other processes took is not known.
    sessions = json.loads((folder / "run.json").read_text())["sessions"]
    assert ["processor_s" in session for session in sessions] == [True, False]


@pytest.mark.slow
@EXPERT
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_a_ray_of_two_processes_gives_the_same(whole, tmp_path):
    algorithm, expected = whole
    words = [str(word) for word in OPTIONS[algorithm]]
    # In a process of its own: Ray's threads and warnings stay there.
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.train", *words),
            *("--backend", "ray", "--jobs", "2", "--out", tmp_path / "run"),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert_the_same_run(tmp_path / "run", expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--algorithm", "ppo", "--jobs", "2"], "ppo takes one process"),
        (["--algorithm", "dqn", "--backend", "ray"], "dqn takes one process"),
        (["--algorithm", "ppo", "--tune", "2", "--jobs", "0"], "--tune takes one process"),
        (["--algorithm", "evolution", *COMMON, "--jobs", "-1"], "--jobs is -1"),
        (["--algorithm", "evolution", *COMMON, "--address", "a:1"], "it needs --backend ray"),
    ],
)
def test_processes_that_have_nothing_to_do_are_refused(tmp_path, options, said):
    status, _, err = command(*options, "--out", tmp_path / "run")
    assert status == 2
    assert said in err
    assert not (tmp_path / "run").exists()
