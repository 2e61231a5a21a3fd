"""Numbers for joint actions: each valid one once, masks combined, nothing outside the table."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from papi_env.envs.flatten import FlattenActions, JointActions, common_table, flat_actions
from papi_env.errors import ConfigurationError

SMALL = {"batch_size": 2, "speculation": 8, "acceptance_rate": 1.0}
KERNELS = "papi_env/Kernels-v0"
every_id = pytest.mark.parametrize("env_id", ["papi_env/Decode-v0", KERNELS])
SYSTEMS = ["papi", "a100-attacc", "attacc-only"]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_a_joint_action_is_allowed_where_all_its_choices_are(nvec, data):
    everything = np.array(list(product(*(range(n) for n in nvec))))
    numbers = data.draw(st.lists(st.integers(0, len(everything) - 1), min_size=1, unique=True))
    joint = JointActions(gym.spaces.MultiDiscrete(nvec), everything[numbers])
    masks = np.array(data.draw(st.lists(st.booleans(), min_size=2 * sum(nvec), max_size=2 * sum(nvec))))
    masks = masks.reshape(2, sum(nvec))
    starts = [sum(nvec[:c]) for c in range(len(nvec))]
    expected = [
        [all(row[start + unit] for start, unit in zip(starts, action, strict=True)) for action in joint.table]
        for row in masks
    ]
    np.testing.assert_array_equal(joint.masks(masks), expected)
    np.testing.assert_array_equal(joint.masks(masks[1]), expected[1])
    np.testing.assert_array_equal(joint.decode(np.arange(joint.space.n)), joint.table)
    np.testing.assert_array_equal(joint.numbers(joint.table), np.arange(len(numbers)))
    known = {tuple(action): number for number, action in enumerate(joint.table.tolist())}
    np.testing.assert_array_equal(
        joint.numbers(everything), [known.get(tuple(action), -1) for action in everything.tolist()]
    )


def test_a_common_table_has_every_joint_action_once():
    one, other = np.array([[0, 1], [0, 1], [1, 0]]), np.array([[2, 0], [1, 0]])
    np.testing.assert_array_equal(common_table([one, one.copy()]), one)
    np.testing.assert_array_equal(common_table([one, other]), [[0, 1], [1, 0], [2, 0]])
    # The first of equals.
    assert JointActions(gym.spaces.MultiDiscrete([3, 2]), one).numbers(one).tolist() == [0, 0, 2]


@every_id
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_number_is_another_joint_action_that_is_valid_somewhere(env_id, system):
    env = FlattenActions(gym.make(env_id, system=system, **SMALL))
    env.reset(seed=0)
    assert isinstance(env.action_space, gym.spaces.Discrete)
    if env.table is None:
        return
    assert env.action_space.n == len(np.unique(env.table, axis=0))
    assert all(env.env.action_space.contains(action) for action in env.table)
    assert_flat_masks_allow_what_the_plain_ones_do(env)


def assert_flat_masks_allow_what_the_plain_ones_do(env):
    """Neither more nor less; returns what is allowed."""
    masks, choices = env.unwrapped.action_masks(), env.env.action_space.nvec
    per_choice = [np.flatnonzero(part).tolist() for part in np.split(masks, np.cumsum(choices)[:-1])]
    allowed = {tuple(action) for action in env.table[env.action_masks()].tolist()}
    assert allowed == set(product(*per_choice))
    return allowed


@pytest.mark.parametrize("scenario", ["vision-stream", "vision-language"])
def test_masks_follow_the_kind_of_the_next_step(scenario):
    env = FlattenActions(gym.make(KERNELS, scenario=scenario))
    env.reset(seed=0)
    seen, done = [], False
    while not done:
        seen.append(frozenset(assert_flat_masks_allow_what_the_plain_ones_do(env)))
        done = env.step(int(np.argmax(env.action_masks())))[2]
    assert len(set(seen)) == (1 if scenario == "vision-stream" else 2)


def test_a_number_does_what_its_joint_action_does():
    flat, plain = FlattenActions(gym.make(KERNELS, **SMALL)), gym.make(KERNELS, **SMALL)
    flat.reset(seed=3), plain.reset(seed=3)
    for number in range(flat.action_space.n):
        ours, theirs = flat.step(number), plain.step(flat.table[number])
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]
        if ours[2]:
            break


@every_id
def test_stable_baselines3_accepts_it_and_its_spec_survives_a_round_trip(env_id):
    env = FlattenActions(gym.make(env_id, **SMALL))
    sb3_check_env(env, warn=True)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.action_space == env.action_space


def test_a_discrete_environment_stays_as_it_is():
    env = FlattenActions(gym.make("papi_env/Decode-v0", **SMALL))
    assert env.table is None
    assert env.action_space == gym.spaces.Discrete(2)
    np.testing.assert_array_equal(env.action_masks(), env.unwrapped.action_masks())


@pytest.mark.parametrize("number", [-1, 10**6, [0, -3]])
def test_numbers_outside_the_table_are_refused(number):
    joint = JointActions(gym.spaces.MultiDiscrete([2, 2]), [[0, 0], [1, 1]])
    with pytest.raises(ConfigurationError, match=r"Flat action -?\d+ is outside Discrete\(2\)"):
        joint.decode(number)


def test_what_cannot_be_a_table_is_refused():
    space = gym.spaces.MultiDiscrete([2, 3])
    joint = JointActions(space, [[0, 0]])
    with pytest.raises(ConfigurationError, match="dtype float64, expected integers below 1"):
        joint.decode([0.0])
    with pytest.raises(ConfigurationError, match=r"Joint action 1, \[0, 3\], is outside MultiDiscrete"):
        JointActions(space, [[0, 2], [0, 3]])
    for table in ([], [[0]], [0, 0]):
        with pytest.raises(ConfigurationError, match=r"expected \(actions, 2\)"):
            JointActions(space, table)
    with pytest.raises(ConfigurationError, match="expected Discrete or MultiDiscrete"):
        flat_actions(gym.spaces.Box(0, 1), None)
    with pytest.raises(ValueError, match="read-only"):
        joint.table[0] = 1
