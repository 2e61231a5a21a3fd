"""Systems like other published machines load by name and from files, play, and refuse what they cannot hold."""

import re

import gymnasium as gym
import numpy as np
import pytest

import papi_env
from papi_env.errors import ConfigurationError
from papi_env.hardware.system import get_system
from papi_env.hardware.units import UNIT_NAMES

GIB = 2**30
LIKE = pytest.mark.parametrize("name", ["neupims-like", "aim-like", "cxl-pnm-like"])
TOML = """
name = "mine"
system = {{ base = "{name}" }}
model = "opt-30b"
[workload]
batch_size = 4
lengths = {{ input = 60, output = 5 }}
"""


def episode(env):
    """Seconds of one episode under the only valid choices."""
    env.reset(seed=3)
    done, seconds, info = False, 0.0, {}
    while not done:
        action = int(np.flatnonzero(env.unwrapped.action_masks())[0])
        _, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        seconds += info["iteration_s"]
    return seconds, info


@LIKE
def test_it_plays_by_name_and_from_a_file_alike(name, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML.format(name=name))
    from_file = gym.make("papi_env/Decode-v0", scenario=path)
    scenario = papi_env.get_scenario(path)
    assert scenario.system == get_system(name)
    by_name = gym.make("papi_env/Decode-v0", scenario=scenario.replace(system=name))
    seconds, info = episode(from_file)
    assert (seconds, info["invalid_actions"]) == (episode(by_name)[0], 0)
    assert seconds > 0


@LIKE
def test_it_is_written_down_whole(name):
    system = get_system(name)
    assert type(system).model_validate_json(system.model_dump_json()) == system
    assert "-like" in system.description


@LIKE
def test_weights_that_do_not_fit_are_refused_with_both_sizes(name):
    system = get_system(name)
    capacity = system.weight_capacity_bytes
    # Layers of twice GPT-3's width have four times its weights.
    gpt3 = papi_env.get_transformer("gpt3-175b")
    layers = 1 + capacity // (4 * gpt3.weight_bytes // gpt3.layers)
    scenario = {
        "name": "large",
        "system": name,
        "model": {"base": "gpt3-175b", "layers": layers, "hidden": 24576, "feed_forward": 98304},
        "workload": {"lengths": {"input": 9, "output": 9}},
    }
    message = f"System {name!r}: weights and KV caches need .* GB .*but the weight stacks hold {capacity / 1e9:.1f} GB"
    with pytest.raises(ConfigurationError, match=re.escape(message).replace(r"\.\*", ".*")):
        gym.make("papi_env/Decode-v0", scenario=scenario)


def test_their_capacities():
    found = {
        name: get_system(name).weight_capacity_bytes / GIB
        for name in ("neupims-like", "aim-like", "cxl-pnm-like")
    }
    assert found == {"neupims-like": 6 * 5 * 16, "aim-like": 16 * 16, "cxl-pnm-like": 8 * 512}


def test_attention_runs_in_memory_where_there_is_any():
    kinds = {
        name: get_system(name).unit_of("attention") for name in ("neupims-like", "aim-like", "cxl-pnm-like")
    }
    assert kinds == {"neupims-like": "fc-pim", "aim-like": "fc-pim", "cxl-pnm-like": "pu"}
    assert set(kinds.values()) <= set(UNIT_NAMES)
