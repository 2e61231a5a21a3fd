"""A mixture steps as its parts would alone, bit for bit, under one numbering of environments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3.common.monitor import Monitor

from papi_env.errors import ConfigurationError
from papi_env.sb3 import BatchVecEnv, make_vec
from papi_env.sb3_mixture import MixtureVecEnv, make_mixture, shares

DECODE, KERNELS = "papi_env/Decode-v0", "papi_env/Kernels-v0"
SMALL = {"speculation": 8, "acceptance_rate": 1.0}
PARTS = (
    {"batch_size": 2},
    {"batch_size": 3, "model": "opt-30b"},
    {"scenario": "vision-language", "batch_size": 1},
)


def mixture(sizes=(2, 3, 1)):
    return MixtureVecEnv(
        [make_vec(KERNELS, n, **SMALL, **part) for n, part in zip(sizes, PARTS, strict=True)]
    )


def sampled(envs, steps, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 3, size=(steps, envs.num_envs, 7))


@settings(max_examples=20)
@given(st.integers(0, 2**40), st.integers(1, 60))
def test_every_environment_steps_as_it_would_in_its_part_alone(seed, steps):
    envs, sizes = mixture(), (2, 3, 1)
    alone = [make_vec(KERNELS, n, **SMALL, **part) for n, part in zip(sizes, PARTS, strict=True)]
    starts = np.cumsum((0, *sizes[:-1]))
    assert envs.seed(seed) == list(range(seed, seed + 6))
    for part, start in zip(alone, starts, strict=True):
        part.seed(seed + int(start))
    np.testing.assert_array_equal(envs.reset(), np.concatenate([part.reset() for part in alone]))
    for action in sampled(envs, steps, seed % 2**32):
        np.testing.assert_array_equal(
            envs.action_masks(), np.concatenate([part.action_masks() for part in alone])
        )
        ours = envs.step(action)
        theirs = [part.step(action[a : a + n]) for part, a, n in zip(alone, starts, sizes, strict=True)]
        for k in range(3):
            joined = np.concatenate([each[k] for each in theirs])
            assert ours[k].dtype == joined.dtype
            np.testing.assert_array_equal(ours[k], joined)
        for one, other in zip(ours[3], [info for each in theirs for info in each[3]], strict=True):
            assert one["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            # Joules by cause are no numbers where they are not kept, which equal themselves here.
            np.testing.assert_equal(one.get("metrics"), other.get("metrics"))
            if "terminal_observation" in one:
                np.testing.assert_array_equal(one["terminal_observation"], other["terminal_observation"])


def test_indices_reach_the_environments_that_they_number():
    envs = mixture()
    assert envs.num_envs == 6
    names = [scenario.name for scenario in envs.get_attr("scenario")]
    assert names == ["creative-writing/llama-65b"] * 2 + ["creative-writing/llama-65b"] * 3 + [
        "vision-language"
    ]
    assert [s.name for s in envs.get_attr("scenario", [5, 0])] == [
        "vision-language",
        "creative-writing/llama-65b",
    ]
    assert [s.workload.batch_size for s in envs.get_attr("scenario", [4, -1, 0])] == [3, 1, 2]
    envs.seed(0)
    envs.reset()
    masks = get_action_masks(envs)
    np.testing.assert_array_equal(masks, envs.action_masks())
    np.testing.assert_array_equal(envs.env_method("action_masks", indices=[5, 1]), masks[[5, 1]])
    assert envs.env_is_wrapped(Monitor) == [True] * 6
    assert not envs.has_attr("no_such_thing")
    envs.set_attr("strict", True, [0, 1])
    assert envs.get_attr("strict") == [True] * 2 + [False] * 4
    with pytest.raises(ConfigurationError, match="share one engine"):
        envs.set_attr("strict", True, [0])
    assert len(envs.reset_infos) == 6
    envs.close()


def test_a_mixture_is_trained_on():
    envs = make_mixture(KERNELS, [{"batch_size": 2}, {"batch_size": 4}], 5, seed=3, **SMALL)
    assert [part.num_envs for part in envs.parts] == [3, 2]
    model = MaskablePPO("MlpPolicy", envs, n_steps=8, batch_size=20, n_epochs=1, device="cpu")
    model.learn(80)
    assert model.num_timesteps == 80


def test_one_scenario_needs_no_mixture():
    assert type(make_mixture(DECODE, [{}], 4)) is BatchVecEnv


@given(st.integers(1, 500), st.integers(1, 50))
def test_shares_are_even_and_none_is_empty(num_envs, parts):
    if num_envs < parts:
        with pytest.raises(ConfigurationError, match="at least one environment for each"):
            shares(num_envs, parts)
        return
    found = shares(num_envs, parts)
    assert sum(found) == num_envs
    assert len(found) == parts
    assert max(found) - min(found) <= 1
    assert min(found) >= 1


def test_parts_that_one_policy_cannot_play_alike_are_refused():
    with pytest.raises(ConfigurationError, match="no parts"):
        MixtureVecEnv([])
    with pytest.raises(ConfigurationError, match="Part 1 of a mixture has observation_space"):
        MixtureVecEnv([make_vec(DECODE, 1), make_vec(KERNELS, 1)])
    flat = [make_vec(KERNELS, 1, flatten=True, system=name) for name in ("papi", "a100-attacc")]
    with pytest.raises(ConfigurationError, match=r"Part 1 of a mixture (has action_space|numbers other)"):
        MixtureVecEnv(flat)


def test_flat_parts_of_one_mixture_are_numbered_alike():
    """Also where they have other valid actions: LLM iterations here, stages of an image encode there."""
    parts = [{"scenario": "creative-writing/llama-65b", "batch_size": 4}, {"scenario": "vision-stream"}]
    envs = make_mixture(KERNELS, parts, 4, seed=0, flatten=True)
    own = [
        make_vec(KERNELS, 2, seed=seed, flatten=True, **part)
        for seed, part in zip((0, 2), parts, strict=True)
    ]
    tables = [{tuple(row) for row in part.flat_actions.tolist()} for part in own]
    assert tables[0] != tables[1]
    assert {tuple(row) for row in envs.flat_actions.tolist()} == tables[0] | tables[1]
    plain = make_mixture(KERNELS, parts, 4, seed=0)
    np.testing.assert_array_equal(envs.reset(), plain.reset())
    rng = np.random.default_rng(0)
    for _ in range(20):
        allowed = envs.action_masks()
        assert allowed.any(axis=1).all()
        numbers = rng.integers(0, envs.action_space.n, 4)
        for found, expected in zip(
            envs.step(numbers)[:3], plain.step(envs.flat_actions[numbers])[:3], strict=True
        ):
            np.testing.assert_array_equal(found, expected)
