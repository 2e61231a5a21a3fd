"""Both ids keep gymnasium's and SB3's contracts, and a batch is its single environments."""

import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from papi_env.envs.registration import ENV_IDS, register_all
from papi_env.errors import ConfigurationError
from papi_env.simulation.batch.engine import METRIC_NAMES

SMALL = {"batch_size": 4, "speculation": 4, "acceptance_rate": 0.7}
# Those of a static batch, with its arguments; `test_serving_env` asks the same of Serving-v0.
every_id = pytest.mark.parametrize("env_id", [env_id for env_id in ENV_IDS if "Serving" not in env_id])


def play(env, actions, seed=None):
    trajectory = [env.reset(seed=seed)[0]]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        trajectory.append((observation, reward, terminated, truncated))
        if terminated or truncated:
            break
    return trajectory


def sampled_actions(env, count, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def assert_same(first, second):
    assert len(first) == len(second)
    np.testing.assert_array_equal(first[0], second[0])
    for one, other in zip(first[1:], second[1:], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:] == other[1:]


@every_id
@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
def test_gymnasium_accepts_it_without_a_warning(env_id, render_mode):
    check_env(gym.make(env_id, render_mode=render_mode, **SMALL).unwrapped)


@every_id
def test_stable_baselines3_accepts_it_without_a_warning(env_id):
    sb3_check_env(gym.make(env_id, **SMALL), warn=True)


@every_id
def test_the_same_seed_gives_the_same_trajectory(env_id):
    env = gym.make(env_id, **SMALL)
    actions = sampled_actions(env, 60)
    assert_same(play(env, actions, seed=5), play(gym.make(env_id, **SMALL), actions, seed=5))


@every_id
def test_another_seed_or_episode_gives_another_instance(env_id):
    env = gym.make(env_id, **SMALL)
    first, other = env.reset(seed=5)[0], env.reset(seed=6)[0]
    second_episode = env.reset()[0]
    assert not np.array_equal(first, other)
    assert not np.array_equal(other, second_episode)
    # Episode 1 of seed 5 is not episode 0 of seed 6.
    env.reset(seed=5)
    assert not np.array_equal(env.reset()[0], other)


@every_id
def test_pickling_in_the_middle_of_an_episode_changes_nothing(env_id):
    env = gym.make(env_id, **SMALL)
    actions = sampled_actions(env, 40)
    whole = play(env, actions, seed=2)
    play(env, actions[:10], seed=2)
    restored = pickle.loads(pickle.dumps(env.unwrapped))
    for action, expected in zip(actions[10:], whole[11:], strict=False):
        observation, reward, terminated, _, info = restored.step(action)
        np.testing.assert_array_equal(observation, expected[0])
        assert (reward, terminated) == expected[1:3]
        assert info["iteration"] == restored.engine.counters[0, 5]


@every_id
def test_the_spec_survives_a_round_trip(env_id):
    spec = gym.make(env_id, system="papi-h100", **SMALL).spec
    again = gym.make(EnvSpec.from_json(spec.to_json()))
    assert again.unwrapped.scenario.system.name == "papi-h100"
    assert again.unwrapped.scenario.workload.batch_size == 4


@every_id
@pytest.mark.parametrize("system", ["papi", "a100-attacc", "attacc-only"])
def test_environment_i_of_a_batch_is_the_single_one_with_its_seed(env_id, system):
    vector = gym.make_vec(env_id, num_envs=3, system=system, **SMALL)
    singles = [gym.make(env_id, system=system, **SMALL) for _ in range(3)]
    observations, _ = vector.reset(seed=11)
    for i, single in enumerate(singles):
        np.testing.assert_array_equal(observations[i], single.reset(seed=11 + i)[0])
    vector.action_space.seed(0)
    ended = np.zeros(3, dtype=bool)
    for _ in range(900):
        actions = vector.action_space.sample()
        observations, rewards, terminated, truncated, infos = vector.step(actions)
        for i, single in enumerate(singles):
            if ended[i]:
                observation, reward, done = single.reset()[0], 0.0, False
            else:
                observation, reward, done, _, info = single.step(actions[i])
                assert infos["time_s"][i] == info["time_s"]
            np.testing.assert_array_equal(observations[i], observation)
            assert rewards[i] == reward
            assert terminated[i] == done
        ended = terminated | truncated
    assert vector.unwrapped.engine.counters[:, 1].min() >= 1, "every environment has met an autoreset"


@every_id
def test_gymnasiums_sync_vector_gives_the_same_trajectory(env_id):
    fast = gym.make_vec(env_id, num_envs=2, **SMALL)
    slow = gym.make_vec(env_id, num_envs=2, vectorization_mode="sync", **SMALL)
    np.testing.assert_array_equal(fast.reset(seed=3)[0], slow.reset(seed=3)[0])
    fast.action_space.seed(0)
    for _ in range(300):
        actions = fast.action_space.sample()
        for one, other in zip(fast.step(actions)[:4], slow.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(one, other)


@every_id
def test_same_step_autoreset_hands_over_the_final_state(env_id):
    next_step = gym.make_vec(env_id, num_envs=2, **SMALL)
    same_step = gym.make_vec(env_id, num_envs=2, autoreset_mode="SameStep", **SMALL)
    assert same_step.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert type(same_step.unwrapped).metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    next_step.reset(seed=1)
    same_step.reset(seed=1)
    zero = np.zeros_like(next_step.action_space.sample())
    for _ in range(2000):
        observation, reward, terminated, _, info = next_step.step(zero)
        observation_s, reward_s, terminated_s, _, info_s = same_step.step(zero)
        np.testing.assert_array_equal(reward, reward_s)
        np.testing.assert_array_equal(terminated, terminated_s)
        if terminated.any():
            done = terminated
            np.testing.assert_array_equal(info_s["_final_obs"], done)
            np.testing.assert_array_equal(info_s["final_obs"][done], observation[done])
            np.testing.assert_array_equal(info_s["final_info"]["time_s"][done], info["time_s"][done])
            np.testing.assert_array_equal(
                info_s["final_info"]["metrics"]["tokens"][done], next_step.unwrapped.metrics()["tokens"][done]
            )
            following = next_step.step(zero)[0]
            np.testing.assert_array_equal(observation_s[done], following[done])
            return
    pytest.fail("no episode ended")


@every_id
def test_a_vector_environment_truncates_by_itself(env_id):
    vector = gym.make_vec(env_id, num_envs=2, max_episode_steps=5, batch_size=64)
    single = gym.make(env_id, max_episode_steps=5, batch_size=64)
    vector.reset(seed=0)
    single.reset(seed=0)
    zero = np.zeros_like(vector.action_space.sample())
    flags = []
    for _ in range(5):
        _, _, terminated, truncated, _ = vector.step(zero)
        assert single.step(zero[0])[3] == truncated[0]
        assert not terminated.any()
        flags.append(truncated.tolist())
    assert flags == [[False, False]] * 4 + [[True, True]]


@every_id
def test_observations_are_copies_unless_asked_otherwise(env_id):
    for copy in (True, False):
        vector = gym.make_vec(env_id, num_envs=2, copy=copy, **SMALL)
        first = vector.reset(seed=0)[0]
        kept = first.copy()
        vector.step(np.zeros_like(vector.action_space.sample()))
        assert np.array_equal(first, kept) == copy


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


@pytest.mark.parametrize(
    "actions", [np.array([0, 2]), np.array([-1, 0]), np.array([0.0, 1.0]), np.array([0])]
)
def test_vector_actions_outside_the_space_raise(actions):
    vector = gym.make_vec("papi_env/Decode-v0", num_envs=2, **SMALL)
    vector.reset(seed=0)
    with pytest.raises(ConfigurationError, match=r"outside|expected"):
        vector.step(actions)


@every_id
def test_stepping_without_reset_or_past_the_end_raises(env_id):
    env = gym.make(env_id, disable_env_checker=True, **SMALL).unwrapped
    zero = np.zeros_like(env.action_space.sample())
    with pytest.raises(ResetNeeded):
        env.step(zero)
    env.reset(seed=0)
    while not env.step(zero)[2]:
        pass
    with pytest.raises(ResetNeeded):
        env.step(zero)
    vector = gym.make_vec(env_id, num_envs=2, **SMALL)
    with pytest.raises(ResetNeeded):
        vector.step(np.zeros_like(vector.action_space.sample()))


@every_id
def test_reset_masks_restart_some_environments(env_id):
    vector = gym.make_vec(env_id, num_envs=3, autoreset_mode="Disabled", **SMALL)
    first = vector.reset(seed=0)[0]
    zero = np.zeros_like(vector.action_space.sample())
    stepped = vector.step(zero)[0]
    again = vector.reset(seed=0, options={"reset_mask": np.array([True, False, True])})[0]
    np.testing.assert_array_equal(again[[0, 2]], first[[0, 2]])
    np.testing.assert_array_equal(again[1], stepped[1])
    with pytest.raises(ConfigurationError, match="reset_mask"):
        vector.reset(options={"reset_mask": np.array([1, 0, 1])})
    with pytest.raises(ConfigurationError, match="2 seeds for 3"):
        vector.reset(seed=[1, 2])


@every_id
def test_finished_environments_idle_where_autoreset_is_disabled(env_id):
    vector = gym.make_vec(env_id, num_envs=2, autoreset_mode="Disabled", **SMALL)
    vector.reset(seed=0)
    zero = np.zeros_like(vector.action_space.sample())
    done = np.zeros(2, dtype=bool)
    while not done.all():
        before = vector.unwrapped.metrics()["time_s"][done]
        _, rewards, terminated, _, _ = vector.step(zero)
        assert (rewards[done] == 0).all()
        np.testing.assert_array_equal(vector.unwrapped.metrics()["time_s"][done], before)
        assert (terminated >= done).all()
        done = terminated


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
