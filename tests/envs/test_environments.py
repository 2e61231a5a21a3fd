"""Decode-v0 and Kernels-v0 with text: what is exact, possible, counted, rewarded and drawn."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from papi_env.envs.registration import ENV_IDS, register_all
from papi_env.errors import ConfigurationError
from papi_env.simulation.batch.engine import METRIC_NAMES

SMALL = {"batch_size": 4, "speculation": 4, "acceptance_rate": 0.7}
# Those of a static batch, with its arguments.
every_id = pytest.mark.parametrize("env_id", [env_id for env_id in ENV_IDS if "Serving" not in env_id])


@every_id
def test_rlp_and_tlp_are_exact_in_float32(env_id):
    for speculation in range(1, 9):
        env = gym.make(env_id, batch_size=127, speculation=speculation)
        observation, info = env.reset(seed=0)
        names = env.unwrapped.observation_names
        assert observation[names.index("rlp")] * 128 == info["rlp"] == 127
        assert observation[names.index("tlp")] * 8 == info["tlp"] == speculation
        assert observation[names.index("n")] * 1024 == 127 * speculation


@every_id
@pytest.mark.parametrize("system", ["papi", "a100-attacc", "attacc-only", "papi-pim-only", "a100"])
def test_masks_name_what_the_system_lacks(env_id, system):
    env = gym.make(env_id, system=system, model="opt-30b", **SMALL).unwrapped
    env.reset(seed=0)
    mask = env.action_masks().reshape(env.choices, -1)
    assert mask.any(axis=1).all()
    has_pu, has_fc_pim = system not in ("attacc-only", "papi-pim-only"), "a100" not in system
    assert mask[0, :2].tolist() == [has_pu, has_fc_pim]
    if env.choices > 1:
        assert mask[:, 2].tolist() == [False, system != "a100"] + 5 * [False]
        assert mask[1, :2].tolist() == [has_pu, False]
        # Without images there is no stage: its classes stay on their default unit.
        assert mask[4:, :2].tolist() == 3 * [[has_pu, not has_pu]]


def test_invalid_choices_run_on_the_default_unit_and_are_counted():
    env = gym.make("papi_env/Decode-v0", system="a100-attacc", **SMALL)
    env.reset(seed=0)
    _, reward, *_, info = env.step(1)
    assert info["invalid_actions"] == 1
    env.reset(seed=0)
    _, valid_reward, *_, info = env.step(0)
    assert info["invalid_actions"] == 0
    assert reward == valid_reward
    kernels = gym.make("papi_env/Kernels-v0", system="a100-attacc", **SMALL)
    kernels.reset(seed=0)
    assert kernels.step(np.array([1, 1, 2, 0, 2, 2, 2]))[-1]["invalid_actions"] == 3


def test_strict_environments_refuse_invalid_choices():
    expected = "FC kernels cannot run on 'fc-pim' in system 'a100-attacc'; expected one of \\['pu'\\]"
    env = gym.make("papi_env/Decode-v0", system="a100-attacc", strict=True, **SMALL)
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match=expected):
        env.step(1)
    vector = gym.make_vec("papi_env/Decode-v0", num_envs=2, system="a100-attacc", strict=True, **SMALL)
    vector.reset(seed=0)
    with pytest.raises(ConfigurationError, match=f"Environment 1: {expected}"):
        vector.step(np.array([0, 1]))
    kernels = gym.make("papi_env/Kernels-v0", strict=True, **SMALL)
    kernels.reset(seed=0)
    with pytest.raises(ConfigurationError, match="projection kernels cannot run on 'attn-pim'"):
        kernels.step(np.array([0, 2, 2, 0, 0, 0, 0]))


@pytest.mark.parametrize("action", [2, -1, 0.5, np.array([0, 0])])
def test_actions_outside_the_space_raise(action):
    env = gym.make("papi_env/Decode-v0", disable_env_checker=True, **SMALL)
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="outside Discrete"):
        env.step(action)


def test_reward_terms_and_metrics_are_in_info():
    env = gym.make("papi_env/Decode-v0", energy_weight=0.002, **SMALL)
    _, info = env.reset(seed=0)
    assert info["prefill_s"] > 0
    total, terminated = 0.0, False
    while not terminated:
        _, reward, terminated, _, info = env.step(1)
        assert reward == info["reward_time"] + info["reward_energy"]
        assert info["reward_energy"] < 0
        total += reward
    assert set(info["metrics"]) == set(METRIC_NAMES)
    assert info["metrics"]["return"] == pytest.approx(total, rel=1e-12)


def test_the_reference_is_the_first_iteration_of_a_typical_batch():
    from papi_env.scenario import get_scenario
    from papi_env.workload.requests import Lengths

    scenario = get_scenario("creative-writing/llama-65b").replace(
        lengths=Lengths(input=50, output=10), **SMALL
    )
    env = gym.make("papi_env/Decode-v0", scenario=scenario)
    env.reset(seed=0)
    assert env.step(0)[1] == pytest.approx(-1.0, rel=1e-12)


def test_rendering_shows_what_ran_where():
    env = gym.make("papi_env/Kernels-v0", render_mode="ansi", **SMALL)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.array([0, 2, 1, 1, 0, 0, 0]))
    text = env.render()
    assert text.count("iteration") == 3
    assert "qkv@pu" in text
    assert "projection@fc-pim" in text
    assert "attention@attn-pim" in text
    picture_env = gym.make("papi_env/Kernels-v0", render_mode="rgb_array", **SMALL)
    picture_env.reset(seed=0)
    blank = picture_env.render()
    picture_env.step(np.array([0, 2, 1, 1, 0, 0, 0]))
    drawn = picture_env.render()
    assert drawn.dtype == np.uint8
    assert drawn.shape == blank.shape == (360, 960, 3)
    assert not np.array_equal(drawn, blank)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"system": "papy"}, "Unknown system 'papy'. Did you mean 'papi'"),
        ({"model": "llama-65"}, "Did you mean 'llama-65b'"),
        ({"scenario": "creative-writing/llama65b"}, "Did you mean 'creative-writing/llama-65b'"),
        ({"batch_size": 129}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"speculation": 9}, "speculation"),
        ({"acceptance_rate": 1.5}, "acceptance_rate"),
        ({"acceptance_rate": float("nan")}, "acceptance_rate"),
        ({"energy_weight": -1.0}, "energy_weight"),
        ({"switch_s": -1e-6}, "switch_s"),
        ({"render_mode": "human"}, "render mode"),
        ({"system": "a100", "model": "gpt3-175b", "batch_size": 128}, "GB"),
    ],
)
def test_bad_arguments_get_one_clear_message(arguments, message):
    from papi_env.envs.decode import DecodeEnv, DecodeVectorEnv

    with pytest.raises(ConfigurationError, match=message):
        DecodeEnv(**arguments)
    with pytest.raises(ConfigurationError, match=message):
        DecodeVectorEnv(num_envs=2, **arguments)


def test_importing_the_package_loads_no_heavy_library_and_registers_once():
    code = (
        "import sys, papi_env, gymnasium; "
        "heavy = {'torch', 'stable_baselines3', 'matplotlib', 'numba'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "assert 'papi_env/Decode-v0' in gymnasium.registry"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    register_all()
