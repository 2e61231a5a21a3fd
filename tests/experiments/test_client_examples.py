"""The examples for other libraries run, where those are installed."""

import importlib

import pytest

# By the example: what it needs, and arguments with which it takes a moment.
EXAMPLES = {
    "cleanrl": ("torch", {"num_envs": 4, "steps": 8, "updates": 1}),
    "sb3": ("sb3_contrib", {"num_envs": 8, "steps": 4}),
    "torchrl": ("torchrl", {"num_envs": 4, "steps": 10}),
    "minari": ("minari", {"episodes": 1}),
    "tianshou": ("tianshou", {"num_envs": 2, "steps": 20}),
    "rllib": ("ray.rllib", {"iterations": 1}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name):
    needs, arguments = EXAMPLES[name]
    pytest.importorskip(needs)
    example = importlib.import_module(f"experiments.examples.clients.with_{name}")
    assert example.main(**arguments) > 0
