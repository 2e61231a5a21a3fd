"""The examples for other libraries run, where those are installed."""

import importlib
import re
from pathlib import Path

import gymnasium as gym
import pytest

import papi_env  # noqa: F401  registers the ids

# By the example: what it needs, and arguments with which it takes a moment.
EXAMPLES = {
    "cleanrl": ("torch", {"num_envs": 4, "steps": 8, "updates": 1}),
    "rl_zoo3": ("rl_zoo3", {"steps": 512}),
    "sb3": ("sb3_contrib", {"num_envs": 8, "steps": 4}),
    "sbx": ("sbx", {"num_envs": 4, "steps": 4, "rollouts": 1}),
    "torchrl": ("torchrl", {"num_envs": 4, "steps": 10}),
    "minari": ("minari", {"episodes": 1}),
    "tianshou": ("tianshou", {"num_envs": 2, "steps": 20}),
    "rllib": ("ray.rllib", {"iterations": 1}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name):
    needs, arguments = EXAMPLES[name]
    pytest.importorskip(needs, exc_type=ImportError)
    example = importlib.import_module(f"experiments.examples.clients.with_{name}")
    assert example.main(**arguments) > 0


def test_every_example_is_tried():
    folder = Path(importlib.import_module("experiments.examples.clients").__file__).parent
    assert {path.stem.removeprefix("with_") for path in folder.glob("with_*.py")} == set(EXAMPLES)


def test_the_zoo_finds_hyperparameters_for_an_id_that_there_is():
    example = importlib.import_module("experiments.examples.clients.with_rl_zoo3")
    ids = re.findall(r"^(\S+):$", example.HYPERPARAMETERS.read_text(encoding="utf-8"), re.M)
    assert ids
    for env_id in ids:
        gym.make(env_id)
