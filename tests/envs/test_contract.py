"""Every registered id keeps gymnasium's and SB3's contracts, and a batch is its single environments.

The ids come from the registry: one that is added is asked the same, on its default arguments if it has no examples
here.
"""

import pickle
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from papi_env.envs.registration import ENV_IDS
from papi_env.errors import ConfigurationError
from papi_env.scenario import get_scenario
from papi_env.workload.requests import Lengths

BATCH = {"batch_size": 4, "speculation": 4, "acceptance_rate": 0.7}
SERVING = {
    "name": "small",
    "system": "papi",
    "model": "llama-65b",
    "serving": {
        "arrivals": {"process": "gamma", "rate_per_s": 20.0, "shape": 0.5},
        "lengths": {"input": 90, "output": 8},
        "objectives": {"ttft_s": 0.4, "tpot_s": 0.02},
        "speculation": {"classes": {"code": 1.0, "writing": 1.0}},
        "drift": {"period_s": 0.5},
        "requests": 6,
        "max_running": 8,
    },
}
# Two classes, one of conversations with a prefix, few pages, and impatient senders.
CLASSES = {
    **SERVING,
    "name": "classes",
    "energy_weight": 1e-4,
    "serving": {
        **SERVING["serving"],
        "kv_tokens": 640,
        "service": {
            "classes": {
                "chat": {
                    "share": 3.0,
                    "weight": 2.0,
                    "acceptance": {"code": 1.0},
                    "patience_s": [0.2, 0.8],
                    "shared_prefix": 40,
                    "conversation": {"turns": 2.5, "most_turns": 4, "think_s": 0.05},
                },
                "batch": {"objectives": {"ttft_s": 2.0, "tpot_s": 0.1}, "acceptance": {"writing": 1.0}},
            },
            "charge": 0.25,
            "max_waiting": 5,
            "max_open": 4,
        },
    },
}
LANGUAGE = get_scenario("vision-language").replace(
    batch_size=3, speculation=4, acceptance_rate=0.7, lengths=Lengths(input=20, output=12)
)
TRAINING_FORM = get_scenario("vision-stream").replace(reparameterized=False, system="papi-1gpu")
# Small arguments, so that episodes end soon; several machines and kinds of steps.
EXAMPLES = {
    "papi_env/Decode-v0": {
        "papi": BATCH,
        "a100-attacc": {**BATCH, "system": "a100-attacc"},
        "attacc-only": {**BATCH, "system": "attacc-only"},
    },
    "papi_env/Kernels-v0": {
        "papi": BATCH,
        "a100-attacc": {**BATCH, "system": "a100-attacc"},
        "attacc-only": {**BATCH, "system": "attacc-only"},
        "stream": {"scenario": get_scenario("vision-stream")},
        "training form": {"scenario": TRAINING_FORM},
        "language": {"scenario": LANGUAGE},
    },
    "papi_env/Serving-v0": {
        "papi": {"scenario": SERVING},
        "a100": {"scenario": SERVING, "system": "a100"},
        "papi-pim-only": {"scenario": SERVING, "system": "papi-pim-only"},
    },
    "papi_env/Serving-v1": {
        "classes": {"scenario": CLASSES},
        "profile": {"scenario": CLASSES, "profile": True},
        "papi-pim-only": {"scenario": CLASSES, "system": "papi-pim-only", "profile": True},
        "plain": {"scenario": SERVING, "system": "a100"},
    },
}
CASES = {
    f"{env_id} {name}": (env_id, arguments)
    for env_id in ENV_IDS
    for name, arguments in EXAMPLES.get(env_id, {"defaults": {}}).items()
}
every_case = pytest.mark.parametrize(("env_id", "arguments"), CASES.values(), ids=CASES)
# The first example of each id, where one says enough.
every_id = pytest.mark.parametrize(
    ("env_id", "arguments"),
    [(env_id, next(iter(EXAMPLES.get(env_id, {"": {}}).values()))) for env_id in ENV_IDS],
    ids=ENV_IDS,
)


def single(env_id, arguments, **more):
    return gym.make(env_id, disable_env_checker=True, **arguments, **more).unwrapped


def actions_of(env, count, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def play(env, actions, seed=None):
    """Observations, rewards and ends, until the episode's end or that of the actions."""
    trajectory = [(env.reset(seed=seed)[0], 0.0, False, False)]
    for action in actions:
        trajectory.append(env.step(action)[:4])
        if trajectory[-1][2] or trajectory[-1][3]:
            break
    return trajectory


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:] == other[1:]


def played_to_the_end(env, seed=0):
    """Step with one sampled action after another; returns the last step's tuple."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    while True:
        last = env.step(env.action_space.sample())
        if last[2] or last[3]:
            return last


@every_case
@pytest.mark.parametrize("render_mode", [None, "ansi", "rgb_array"])
def test_gymnasium_accepts_it_without_a_warning(env_id, arguments, render_mode):
    check_env(single(env_id, arguments, render_mode=render_mode))


@every_case
def test_stable_baselines3_accepts_it_without_a_warning(env_id, arguments):
    sb3_check_env(gym.make(env_id, **arguments), warn=True)


@every_case
def test_the_same_seed_gives_the_same_trajectory(env_id, arguments):
    env = single(env_id, arguments)
    actions = actions_of(env, 60)
    assert_same(play(env, actions, seed=5), play(single(env_id, arguments), actions, seed=5))


@every_id
def test_another_seed_or_episode_gives_another_instance(env_id, arguments):
    env = single(env_id, arguments)
    actions = actions_of(env, 60)
    seeds = (5, None, 6, None)  # episodes 0 and 1 of seed 5, then of seed 6
    rewards = [tuple(step[1] for step in play(env, actions, seed=seed)) for seed in seeds]
    assert len(set(rewards)) == len(seeds)
    assert tuple(step[1] for step in play(env, actions, seed=5)) == rewards[0]


@every_case
def test_pickling_in_the_middle_of_an_episode_changes_nothing(env_id, arguments):
    env = single(env_id, arguments)
    actions = actions_of(env, 40)
    whole = play(env, actions, seed=2)
    middle = min(10, len(whole) // 2)
    play(env, actions[:middle], seed=2)
    restored = pickle.loads(pickle.dumps(env))
    assert_same(
        [restored.step(action)[:4] for action in actions[middle : len(whole) - 1]], whole[middle + 1 :]
    )


@every_id
def test_the_spec_survives_a_round_trip(env_id, arguments):
    env = gym.make(env_id, system="papi-h100", **arguments)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.scenario == env.unwrapped.scenario
    assert again.unwrapped.scenario.system.name == "papi-h100"


@every_case
def test_environment_i_of_a_batch_is_the_single_one_with_its_seed(env_id, arguments):
    vector = gym.make_vec(env_id, num_envs=3, **arguments)
    singles = [single(env_id, arguments) for _ in range(3)]
    observations, _ = vector.reset(seed=11)
    for i, env in enumerate(singles):
        np.testing.assert_array_equal(observations[i], env.reset(seed=11 + i)[0])
    vector.action_space.seed(0)
    ended, episodes = np.zeros(3, dtype=bool), np.zeros(3, dtype=int)
    for _ in range(900):
        masks, actions = vector.unwrapped.action_masks(), vector.action_space.sample()
        observations, rewards, terminated, truncated, infos = vector.step(actions)
        for i, env in enumerate(singles):
            if ended[i]:
                observation, reward, ends = env.reset()[0], 0.0, (False, False)
                episodes[i] += 1
            else:
                np.testing.assert_array_equal(masks[i], env.action_masks())
                observation, reward, *ends, info = env.step(actions[i])
                for name, value in info.items():
                    if name != "metrics":
                        assert infos[name][i] == value, name
            np.testing.assert_array_equal(observations[i], observation)
            assert rewards[i] == reward
            assert (terminated[i], truncated[i]) == tuple(ends)
        ended = terminated | truncated
        if episodes.min() >= 1:
            return
    pytest.fail("some environment met no autoreset")


@every_case
def test_gymnasiums_sync_vector_gives_the_same_trajectory(env_id, arguments):
    fast = gym.make_vec(env_id, num_envs=2, **arguments)
    slow = gym.make_vec(env_id, num_envs=2, vectorization_mode="sync", **arguments)
    np.testing.assert_array_equal(fast.reset(seed=3)[0], slow.reset(seed=3)[0])
    fast.action_space.seed(0)
    for _ in range(120):
        actions = fast.action_space.sample()
        for one, other in zip(fast.step(actions)[:4], slow.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(one, other)


@every_case
def test_same_step_autoreset_hands_over_the_final_state(env_id, arguments):
    next_step = gym.make_vec(env_id, num_envs=2, **arguments)
    same_step = gym.make_vec(env_id, num_envs=2, autoreset_mode="SameStep", **arguments)
    assert same_step.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert type(same_step.unwrapped).metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    next_step.reset(seed=1)
    same_step.reset(seed=1)
    next_step.action_space.seed(0)
    for _ in range(2000):
        actions = next_step.action_space.sample()
        observation, reward, terminated, truncated, info = next_step.step(actions)
        observation_s, reward_s, terminated_s, truncated_s, info_s = same_step.step(actions)
        np.testing.assert_array_equal(reward, reward_s)
        np.testing.assert_array_equal(terminated, terminated_s)
        np.testing.assert_array_equal(truncated, truncated_s)
        done = terminated | truncated
        if done.any():
            np.testing.assert_array_equal(info_s["_final_obs"], done)
            np.testing.assert_array_equal(info_s["final_obs"][done], observation[done])
            final = info_s["final_info"]
            for name in (name for name in info if not name.startswith("_") and name != "metrics"):
                np.testing.assert_array_equal(final[name][done], info[name][done], err_msg=name)
            for name, values in next_step.unwrapped.metrics().items():
                np.testing.assert_array_equal(final["metrics"][name][done], values[done], err_msg=name)
            np.testing.assert_array_equal(observation_s[done], next_step.step(actions)[0][done])
            return
    pytest.fail("no episode ended")


@every_case
def test_a_vector_environment_truncates_by_itself(env_id, arguments):
    vector = gym.make_vec(env_id, num_envs=2, max_episode_steps=4, **arguments)
    alone = gym.make(env_id, max_episode_steps=4, **arguments)
    vector.reset(seed=0)
    alone.reset(seed=0)
    zero = np.zeros_like(vector.action_space.sample())
    flags = []
    for _ in range(4):
        _, _, terminated, truncated, _ = vector.step(zero)
        assert alone.step(zero[0])[2:4] == (terminated[0], truncated[0])
        flags.append((terminated | truncated).tolist())
    assert flags[-1] == [True, True]
    assert not any(map(any, flags[:-1]))
    with pytest.raises(ConfigurationError, match="max_episode_steps is 0, expected at least 1"):
        gym.make_vec(env_id, num_envs=2, max_episode_steps=0, **arguments)


@every_id
def test_observations_are_copies_unless_asked_otherwise(env_id, arguments):
    for copy in (True, False):
        vector = gym.make_vec(env_id, num_envs=2, copy=copy, **arguments)
        first = vector.reset(seed=0)[0]
        kept = first.copy()
        vector.step(np.zeros_like(vector.action_space.sample()))
        assert np.array_equal(first, kept) == copy


@every_case
def test_every_feature_and_choice_has_its_place(env_id, arguments):
    env = single(env_id, arguments)
    names = env.observation_names
    assert env.observation_space == gym.spaces.Box(0.0, 1.0, (len(names),), np.float32)
    assert len(set(names)) == len(names)
    env.reset(seed=0)
    sizes = getattr(env.action_space, "nvec", None)
    options = int(env.action_space.n) if sizes is None else int(sum(sizes))
    masks = env.action_masks()
    assert (masks.shape, masks.dtype) == ((options,), np.dtype(bool))
    np.testing.assert_array_equal(env.step_masks()[0], masks)


@every_case
def test_every_choice_that_a_mask_allows_is_valid(env_id, arguments):
    """The count of invalid choices stays 0, and strict environments raise nothing."""
    env = single(env_id, arguments, strict=True)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    sizes = getattr(env.action_space, "nvec", None)
    bounds = np.cumsum([env.action_space.n] if sizes is None else sizes)[:-1]
    for _ in range(60):
        chosen = [int(rng.choice(np.flatnonzero(part))) for part in np.split(env.action_masks(), bounds)]
        action = chosen[0] if sizes is None else np.array(chosen)
        *_, terminated, truncated, info = env.step(action)
        assert info["invalid_actions"] == 0
        if terminated or truncated:
            break


@every_id
def test_actions_outside_the_space_raise(env_id, arguments):
    env = single(env_id, arguments)
    env.reset(seed=0)
    vector = gym.make_vec(env_id, num_envs=2, **arguments)
    vector.reset(seed=0)
    good = env.action_space.sample()
    outside = np.asarray(good) * 0 + getattr(env.action_space, "n", 99)
    for bad in (outside, np.asarray(good) * 0 - 1, np.append(good, 0)[..., None], "0"):
        with pytest.raises(ConfigurationError, match="is outside"):
            env.step(bad)
    for bad in (np.stack([good, outside]), np.stack([good, good]) * 1.0, np.stack([good])):
        with pytest.raises(ConfigurationError, match=r"is outside|expected \(2"):
            vector.step(bad)


@every_id
def test_stepping_without_reset_or_past_the_end_raises(env_id, arguments):
    env = single(env_id, arguments)
    with pytest.raises(ResetNeeded, match="before reset"):
        env.step(env.action_space.sample())
    played_to_the_end(env)
    with pytest.raises(ResetNeeded, match="has ended"):
        env.step(env.action_space.sample())
    vector = gym.make_vec(env_id, num_envs=2, **arguments)
    with pytest.raises(ResetNeeded):
        vector.step(vector.action_space.sample())


@every_id
def test_reset_masks_restart_some_environments(env_id, arguments):
    vector = gym.make_vec(env_id, num_envs=3, autoreset_mode="Disabled", **arguments)
    first = vector.reset(seed=0)[0]
    stepped = vector.step(np.zeros_like(vector.action_space.sample()))[0]
    again = vector.reset(seed=0, options={"reset_mask": np.array([True, False, True])})[0]
    np.testing.assert_array_equal(again[[0, 2]], first[[0, 2]])
    np.testing.assert_array_equal(again[1], stepped[1])
    with pytest.raises(ConfigurationError, match="reset_mask"):
        vector.reset(options={"reset_mask": np.array([1, 0, 1])})
    with pytest.raises(ConfigurationError, match="2 seeds for 3"):
        vector.reset(seed=[1, 2])


@every_id
def test_finished_environments_idle_where_autoreset_is_disabled(env_id, arguments):
    vector = gym.make_vec(env_id, num_envs=2, autoreset_mode="Disabled", **arguments)
    vector.reset(seed=0)
    vector.action_space.seed(0)
    done = np.zeros(2, dtype=bool)
    while not done.all():
        before = vector.unwrapped.metrics()["time_s"][done]
        _, rewards, terminated, truncated, _ = vector.step(vector.action_space.sample())
        assert (rewards[done] == 0).all()
        np.testing.assert_array_equal(vector.unwrapped.metrics()["time_s"][done], before)
        done |= terminated | truncated


@every_case
def test_the_return_is_the_sum_of_rewards_and_metrics_come_with_the_end(env_id, arguments):
    env = single(env_id, arguments)
    env.reset(seed=0)
    env.action_space.seed(0)
    total, ended = 0.0, False
    while not ended:
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        total += reward
        ended = terminated or truncated
        assert ("metrics" in info) == ended
    assert info["metrics"]["return"] == pytest.approx(total, rel=1e-12, abs=1e-12)
    assert list(info["metrics"]) == list(env.metrics())


@every_case
def test_its_class_is_its_page(env_id, arguments):
    """Gymnasium's headings, and every feature by name in the order of the observation."""
    env = single(env_id, arguments)
    page = type(env).__doc__
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \|", page, re.M)
    # Arguments may add features behind those of the class.
    assert rows == [(str(i), name) for i, name in enumerate(type(env).observation_names)]
    assert env.observation_names[: len(rows)] == type(env).observation_names
    for heading in ("Description", "Action space", "Observation space", "Rewards", "Starting state"):
        assert f"## {heading}" in page
    for heading in ("Episode end", "Arguments", "Vectorised use", "Version history"):
        assert f"## {heading}" in page
