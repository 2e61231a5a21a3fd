"""Small trainings through the command, and what they leave: for tests of training."""

import csv

import numpy as np
from safetensors.numpy import load_file

from agents.learned.checkpoint import WEIGHTS
from experiments.train import main
from experiments.training.evaluation import Validator
from experiments.training.record import BEST, EVALUATIONS, LAST, STATE
from papi_env.envs.registration import KERNELS
from tests.experiments.commands import called

SHORT = ["--batch-sizes", "2", "3", "--speculation", "8", "--validations", "4", "--episodes", "2"]
# Short rollouts; rewards normalised, so that the running statistics are part of what is resumed.
ROLLOUTS = ["n_envs=4", "n_steps=16", "normalize_reward=true", "net_arch=[8]"]
REPLAY = ["n_envs=4", "buffer_size=300", "learning_starts=64", "batch_size=16", "target_update_interval=40"]
REPLAY += ["normalize_reward=true", "net_arch=[8]"]
HYPER = {
    "ppo": [*ROLLOUTS, "batch_size=32"],
    "maskable-ppo": [*ROLLOUTS, "batch_size=32"],
    "recurrent-ppo": [*ROLLOUTS, "batch_size=32", "lstm_hidden_size=4"],
    "a2c": ROLLOUTS,
    "dqn": REPLAY,
    "qr-dqn": [*REPLAY, "n_quantiles=5"],
}


def command(*arguments, run=main):
    return called(run, *arguments)


def options(algorithm, env=KERNELS, timesteps=640):
    return [
        *("--algorithm", algorithm, "--env", env, "--timesteps", timesteps, *SHORT, "--no-tensorboard"),
        *("--hyper", *HYPER[algorithm]),
    ]


def tensors(folder):
    """Everything at the end of a run that is an array: the policies, and the whole state."""
    files = {name: folder / name / WEIGHTS for name in (BEST, LAST)} | {"state": folder / STATE}
    return {f"{name}: {key}": value for name, path in files.items() for key, value in load_file(path).items()}


def evaluations(folder):
    with (folder / EVALUATIONS).open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "wall_s"} for row in csv.DictReader(file)]


def assert_the_same_run(one, other):
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    assert evaluations(one) == evaluations(other)


def stopping_at(monkeypatch, call, stop):
    """Run `stop` in the validation number `call` of the coming session."""
    validate, calls = Validator.__call__, []

    def counted(self, checkpoint):
        calls.append(checkpoint)
        if len(calls) == call:
            stop()
        return validate(self, checkpoint)

    monkeypatch.setattr(Validator, "__call__", counted)
