"""Steps shared among threads go on in a forked child, which has none of the threads."""

import multiprocessing
import os

import gymnasium as gym
import numpy as np
import pytest

from papi_env.envs.registration import DECODE, SERVING, SERVING_V1

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no forks")


def played(envs, seed):
    envs.reset(seed=seed)
    action = np.zeros(envs.action_space.shape, dtype=np.int64)
    for _ in range(5):
        observations = envs.step(action)[0]
    return observations


def in_child(envs, results):
    fresh = gym.make_vec(envs.spec.id, num_envs=4, threads=2)
    results.put([played(envs, 1), played(fresh, 1)])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("env_id", [DECODE, SERVING, SERVING_V1])
def test_a_forked_child_steps_its_environments_to_the_same_bits(env_id):
    envs = gym.make_vec(env_id, num_envs=4, threads=2)
    expected = played(envs, 1)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=in_child, args=(envs, results), daemon=True)
    child.start()
    try:
        for found in results.get(timeout=60):
            np.testing.assert_array_equal(found, expected)
        child.join(timeout=30)
        assert child.exitcode == 0
    finally:
        child.kill()
    np.testing.assert_array_equal(played(envs, 1), expected)
