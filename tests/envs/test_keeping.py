"""What a batch hands over is its caller's for good, though its memory is used again."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest

import papi_env  # noqa: F401  registers the ids
from papi_env.envs.keeping import Shelf

LARGE = (4096, 5)


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_once_no_view_is_left():
    shelf = Shelf(LARGE, np.float64)
    array = shelf.take()
    first = address(array)
    view = array[7:9, 1]
    del array
    other = shelf.take()
    assert address(other) != first
    del view
    assert address(shelf.take()) == first


def test_many_that_are_kept_share_nothing():
    shelf = Shelf(LARGE, np.int64)
    kept = [shelf.take() for _ in range(12)]
    for k, array in enumerate(kept):
        array[:] = k
    assert [int(array.min()) for array in kept] == [int(array.max()) for array in kept] == list(range(12))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda shelf: pickle.loads(pickle.dumps(shelf))])
def test_a_copy_has_memory_of_its_own(again):
    shelf = Shelf(LARGE, np.float32)
    array = shelf.take()
    first = address(array)
    twin = again(shelf)
    del array
    assert address(twin.take()) != address(shelf.take()) == first


@pytest.mark.parametrize("env_id", ["Decode-v0", "Kernels-v0"])
def test_steps_that_are_kept_never_change(env_id):
    # So many that their observations are memory of a shelf.
    envs = gym.make_vec(f"papi_env/{env_id}", num_envs=1024)
    twin = gym.make_vec(f"papi_env/{env_id}", num_envs=1024, copy=False)
    envs.reset(seed=3)
    twin.reset(seed=3)
    actions = np.zeros(envs.action_space.shape, dtype=np.int64)
    kept, expected = [], []
    for _ in range(7):
        kept.append(envs.step(actions))
        step = twin.step(actions)
        expected.append(copy.deepcopy((*step[:4], dict(step[4]))))
    for step, right in zip(kept, expected, strict=True):
        for array, same in zip(step[:4], right[:4], strict=True):
            np.testing.assert_array_equal(array, same)
        for name in ("rlp", "tokens", "time_s", "qkv_s", "reward_energy"):
            np.testing.assert_array_equal(step[4][name], right[4][name])


def test_there_are_the_columns_that_nobody_has_read():
    envs = gym.make_vec("papi_env/Kernels-v0", num_envs=3)
    envs.reset(seed=0)
    infos = envs.step(np.zeros((3, 7), dtype=np.int64))[4]
    there = dict(infos.there())
    assert there["stage"].tolist() == [-1] * 3
    assert "prefill_s" not in there
    infos["rlp"][:] = -5  # the caller's own
    assert envs.unwrapped.engine.counters.min() > -5
