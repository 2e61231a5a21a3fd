"""Seeds, counts and truth values that environments take; actions and views that reach no memory of others."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from papi_env.envs.registration import DECODE, ENV_IDS, SERVING, SERVING_V1
from papi_env.errors import ConfigurationError
from papi_env.simulation.batch import state as at
from papi_env.simulation.engine import seed_number


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_any_non_negative_integer_is_a_seed(env_id):
    env = gym.make(env_id)
    for seed in (2**63 - 1, 2**63, 2**64, 2**200, np.int64(5), np.uint64(2**64 - 1)):
        first = env.reset(seed=seed)[0]
        np.testing.assert_array_equal(first, env.reset(seed=seed)[0])
    fresh = gym.make(env_id)
    fresh.reset()
    fresh.reset(seed=fresh.unwrapped.np_random_seed)


def test_large_seeds_name_different_instances_and_small_ones_are_themselves():
    assert [seed_number(seed) for seed in (0, 7, 2**63 - 1)] == [0, 7, 2**63 - 1]
    large = [seed_number(2**63 + i) for i in range(1000)]
    assert len(set(large)) == 1000
    assert all(0 <= number < 2**63 for number in large)
    assert seed_number(2**63) == 2543904115474403623  # as it always was


@pytest.mark.parametrize("env_id", [DECODE, SERVING, SERVING_V1])
def test_environment_i_of_a_batch_is_the_single_one_with_seed_plus_i_beyond_all_bounds(env_id):
    single, many = gym.make(env_id), gym.make_vec(env_id, num_envs=3)
    many.reset(seed=2**63 - 1)
    seeds = many.unwrapped.engine.counters[:, 0]
    for i in range(3):
        single.reset(seed=2**63 - 1 + i)
        assert single.unwrapped.engine.counters[0, 0] == seeds[i]


NO_SEEDS = ([-1, -2, 3], [1.5, 2, 3], [2, 3, -1], [True, 2, 3], [[1], [2], [3]], 1.0, -1, "5", {1, 2, 3})


@pytest.mark.parametrize("seed", NO_SEEDS, ids=repr)
def test_what_is_no_seed_is_refused_and_resets_nothing(seed):
    envs = gym.make_vec(DECODE, num_envs=3)
    envs.reset(seed=4)
    before = envs.unwrapped.engine.counters.copy(), envs.np_random.bit_generator.state
    with pytest.raises(ConfigurationError, match="expected a non-negative integer"):
        envs.reset(seed=seed)
    np.testing.assert_array_equal(envs.unwrapped.engine.counters, before[0])
    assert envs.np_random.bit_generator.state == before[1]
    if not isinstance(seed, list):
        env = gym.make(DECODE)
        env.reset(seed=4)
        state = env.np_random.bit_generator.state
        with pytest.raises(ConfigurationError, match="expected a non-negative integer"):
            env.unwrapped.reset(seed=seed)
        assert env.np_random.bit_generator.state == state


@pytest.mark.parametrize("env_id", ENV_IDS)
@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        ("num_envs", 0, "expected at least 1, a whole number"),
        ("num_envs", 2.0, "expected at least 1, a whole number"),
        ("num_envs", True, "expected at least 1, a whole number"),
        ("threads", 1.5, "expected at least 1, a whole number"),
        ("max_episode_steps", 2.5, "expected at least 1, a whole number"),
        ("strict", "no", "strict is 'no', expected true or false"),
        ("copy", 0, "copy is 0, expected true or false"),
        ("causes", "yes", "causes is 'yes', expected true or false"),
    ],
)
def test_counts_are_whole_numbers_and_switches_truth_values(env_id, argument, value, expected):
    make = gym.envs.registration.load_env_creator(gym.spec(env_id).vector_entry_point)
    with pytest.raises(ConfigurationError, match=expected):
        make(**{argument: value})
    if argument == "strict":
        with pytest.raises(ConfigurationError, match=expected):
            gym.make(env_id, strict=value)


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_views_cannot_be_written_through(env_id):
    make = gym.envs.registration.load_env_creator(gym.spec(env_id).vector_entry_point)
    envs = make(num_envs=2, copy=False, autoreset_mode=AutoresetMode.SAME_STEP, max_episode_steps=1)
    found = [envs.reset(seed=0)]
    action = np.zeros(envs.action_space.shape, dtype=np.int64)
    *arrays, infos = envs.step(action)
    assert "final_info" in infos
    engine = envs.engine
    # With `copy=False` nothing is copied, and nothing of the simulator can be written.
    assert np.shares_memory(arrays[0], engine.observations)
    own = (
        engine.observations,
        engine.rewards,
        engine.counters,
        engine.clocks,
        engine.final_counters,
        engine.final_clocks,
    )
    views = [found[0][0], *arrays, *infos.values(), *infos["final_info"].values()]
    shared = [v for v in views if isinstance(v, np.ndarray) and any(np.shares_memory(v, a) for a in own)]
    assert len(shared) > 10
    for view in shared:
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_an_engine_refuses_actions_outside_their_options_before_anything_moves(env_id):
    envs = gym.make_vec(env_id, num_envs=3)
    envs.reset(seed=0)
    engine = envs.unwrapped.engine
    for bad in (-1, 100, 10**9, -(2**63)):
        engine.actions[:] = 0
        engine.actions[1, -1] = bad
        before = engine.counters.copy(), engine.clocks.copy()
        with pytest.raises(ConfigurationError, match="Environment 1: action"):
            engine.step()
        np.testing.assert_array_equal(engine.counters, before[0])
        np.testing.assert_array_equal(engine.clocks, before[1])
    engine.actions[:] = 0
    engine.step()
    assert (engine.clocks != before[1]).any()


def unlike(actions):
    """The same actions in arrays that a step cannot read where they lie."""
    spread = np.zeros((*actions.shape, 2), dtype=np.int64)
    spread[..., 1] = actions
    fixed = actions.copy()
    fixed.flags.writeable = False
    big = actions.astype(actions.dtype.newbyteorder(">"))
    return actions.astype(np.int32), actions.astype(np.uint8), spread[..., 1], fixed, big, actions.tolist()


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_a_batch_takes_actions_however_they_lie_and_leaves_them_as_they_are(env_id):
    plain = gym.make_vec(env_id, num_envs=4)
    plain.reset(seed=0)
    plain.action_space.seed(0)
    valid = plain.unwrapped.joint_actions()
    chosen = valid[np.arange(4) % len(valid)].astype(np.int64).reshape(plain.action_space.shape)
    expected = plain.step(chosen)
    for actions in unlike(chosen):
        envs = gym.make_vec(env_id, num_envs=4)
        envs.reset(seed=0)
        before = copy.deepcopy(actions)
        step = envs.step(actions)
        for array, right in zip(step[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(array, right)
        np.testing.assert_array_equal(actions, before)


@pytest.mark.parametrize("env_id", ["papi_env/Decode-v0", "papi_env/Kernels-v0"])
def test_actions_that_were_refused_are_not_those_of_the_next_step(env_id):
    strict = gym.make_vec(env_id, num_envs=2, strict=True)
    strict.reset(seed=0)
    engine = strict.unwrapped.engine
    bad = np.full(engine.actions.shape, 2)  # Attn-PIM for FC kernels
    with pytest.raises(ConfigurationError):
        strict.step(bad.reshape(strict.action_space.shape))
    engine.actions[:] = 0
    engine.step()
    assert (engine.counters[:, at.INVALID] == 0).all()
    assert (engine.counters[:, at.LAST_UNIT] == 0).all()
