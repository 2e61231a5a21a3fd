"""Kernels-v0 and Decode-v0 with a mixture of experts: spaces, masks, what is observed, and what others keep."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from papi_env.envs.decode import DecodeEnv
from papi_env.envs.flatten import FlattenActions
from papi_env.envs.kernels import KernelsEnv, KernelsVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.simulation.batch import state as at

ARGUMENTS = {"scenario": "mixture-of-experts-zipf", "batch_size": 4, "speculation": 2}
SPLIT = np.array([1, 2, 1, 1, 0, 0, 0, 2])


def kernels(**changes):
    return KernelsEnv(**(ARGUMENTS | changes))


def test_experts_are_a_choice_of_their_own():
    env = kernels()
    assert env.action_space == gym.spaces.MultiDiscrete([3] * 8)
    assert env.single_space() == env.action_space
    assert env.observation_space.shape == (len(env.observation_names),)
    assert env.observation_names[: len(at.KERNELS_FEATURES)] == KernelsEnv.observation_names
    assert set(env.observation_names) - set(KernelsEnv.observation_names) == {
        f.name for f in at.EXPERT_FEATURES
    }
    assert "24" in KernelsEnv.__doc__
    assert all(f"`{feature.name}`" in KernelsEnv.__doc__ for feature in at.EXPERT_FEATURES)


def test_it_is_an_environment_of_gymnasium():
    check_env(kernels(), skip_render_check=True)


def test_other_scenarios_keep_their_spaces():
    kernels()
    env = KernelsEnv(batch_size=4)
    assert env.action_space == gym.spaces.MultiDiscrete([3] * 7)
    assert env.observation_names == KernelsEnv.observation_names
    assert env.action_masks().shape == (21,)
    assert "experts_s" not in env.reset(seed=0)[1]
    assert env.engine.clocks.shape[1] == at.NUM_CLOCKS


@pytest.mark.parametrize(
    ("system", "experts"),
    [(None, [True, True, True]), ("a100", [True, False, False]), ("papi-pim-only", [False, True, False])],
)
def test_masks_name_what_the_system_can_do(system, experts):
    env = kernels(system=system)
    env.reset(seed=0)
    mask = env.action_masks().reshape(8, 3)
    assert mask[at.EXPERTS].tolist() == experts
    assert (mask[at.QKV, :2] == experts[:2]).all()
    # Classes of image encodes, which do not come, are on their default.
    assert (mask[at.NUM_CLASSES : at.NUM_CHOICES].sum(axis=1) == 1).all()
    joint = env.joint_actions()
    assert len(joint) == len(np.unique(joint, axis=0))
    assert set(joint[:, at.EXPERTS]) == set(np.flatnonzero(experts))
    costs = env.joint_costs()[0]
    assert np.isfinite(costs).all()


def test_an_invalid_choice_runs_on_the_default_and_is_counted():
    env = kernels(system="papi-pim-only")
    env.reset(seed=0)
    *_, info = env.step(np.array([1, 2, 1, 1, 1, 1, 1, 2]))
    assert info["invalid_actions"] == 1
    assert info["experts_pu_s"] == 0 < info["experts_fc_pim_s"] == info["experts_s"]
    strict = kernels(system="papi-pim-only", strict=True)
    strict.reset(seed=0)
    with pytest.raises(ConfigurationError, match=r"experts kernels cannot run on 'split'.*\['fc-pim'\]"):
        strict.step(np.array([1, 2, 1, 1, 1, 1, 1, 2]))


def test_what_is_observed_is_what_a_scheduler_knows():
    env = kernels()
    observation, _ = env.reset(seed=3)
    named = dict(zip(env.observation_names, observation, strict=True))
    profile = env.profile.experts
    tokens = profile.tokens_per_active[8]
    assert named["expert_tokens"] == pytest.approx(tokens / (tokens + 16))
    assert named["expert_tokens_share_of_alpha"] == pytest.approx(tokens / (tokens + profile.alpha))
    assert named["active_experts"] == pytest.approx(8 * 8 / tokens / 128)
    assert named["experts_per_token"] == pytest.approx(8 / 128)
    assert named["expert_exponent"] == pytest.approx(0.7 / 1.7)
    assert not any(named[f"last_experts_{option}"] for option in at.EXPERT_OPTIONS)
    observation, *_, info = env.step(SPLIT)
    named = dict(zip(env.observation_names, observation, strict=True))
    assert [named[f"last_experts_{option}"] for option in at.EXPERT_OPTIONS] == [0, 0, 1]
    share = info["experts_s"] / env.reference
    assert named["last_time_experts"] == pytest.approx(share / (1 + share))


def test_a_batch_is_as_many_single_ones():
    batch = KernelsVectorEnv(num_envs=3, **ARGUMENTS)
    first, _ = batch.reset(seed=5)
    singles = [kernels() for _ in range(3)]
    for i, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=5 + i)[0], first[i])
    for step in range(20):
        actions = np.array([[1, 2, 0, 1, 0, 0, 0, (step + i) % 3] for i in range(3)])
        observations, rewards, *_, infos = batch.step(actions)
        for i, env in enumerate(singles):
            observation, reward, *_, info = env.step(actions[i])
            np.testing.assert_array_equal(observation, observations[i])
            assert reward == rewards[i]
            assert info["experts_s"] == infos["experts_s"][i]


def test_it_goes_on_after_pickling():
    env = kernels()
    env.reset(seed=0)
    twin = pickle.loads(pickle.dumps(env))
    assert twin.action_space == env.action_space
    assert twin.step(SPLIT)[1] == env.step(SPLIT)[1]


def test_flat_actions_are_the_valid_ones():
    env = FlattenActions(kernels())
    assert env.action_space == gym.spaces.Discrete(len(env.unwrapped.joint_actions()))
    assert env.action_masks().all()


def test_a_timeline_shows_both_parts_of_a_split():
    env = kernels(render_mode="ansi")
    env.reset(seed=0)
    env.step(SPLIT)
    text = env.render()
    assert "experts@fc-pim" in text
    env.step(np.array([0, 2, 0, 0, 0, 0, 0, 0]))
    assert "experts@pu" in env.render()


def test_decode_has_its_two_choices_for_all_kernels():
    env = DecodeEnv(**ARGUMENTS)
    assert env.action_space == gym.spaces.Discrete(2)
    assert env.observation_names == DecodeEnv.observation_names
    env.reset(seed=0)
    done = False
    while not done:
        *_, done, _, info = env.step(1)
    assert info["metrics"]["experts_s"] > 0
    assert info["metrics"]["hot_experts"] == 0
