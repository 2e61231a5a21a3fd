"""Kernels-v0 with images: masks and spaces follow the kind of the coming step."""

import gymnasium as gym
import numpy as np
import pytest

from papi_env.envs.kernels import KernelsEnv, KernelsVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.scenario import get_scenario
from papi_env.simulation.batch import state as at
from papi_env.workload.requests import Lengths

KERNELS = "papi_env/Kernels-v0"
SCENARIOS = {
    "stream": get_scenario("vision-stream"),
    "training-form": get_scenario("vision-stream").replace(reparameterized=False, system="papi-1gpu"),
    "language": get_scenario("vision-language").replace(
        batch_size=3, speculation=4, acceptance_rate=0.7, lengths=Lengths(input=20, output=12)
    ),
}
every_scenario = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)


@every_scenario
def test_masks_allow_the_default_alone_where_the_coming_step_has_no_such_class(scenario):
    env = KernelsEnv(scenario)
    env.reset(seed=0)
    assert env.action_masks().shape == (21,)
    valid, defaults = env.valid_units(), env.engine.tables.defaults
    done, kinds = False, set()
    while not done:
        encodes = env.engine.counters[0, at.STAGE] >= 0
        kinds.add(bool(encodes))
        mask = env.action_masks().reshape(7, 3)
        read = slice(4, 7) if encodes else slice(0, 4)
        np.testing.assert_array_equal(mask[read], valid[read])
        for k in set(range(7)) - set(range(7)[read]):
            assert np.flatnonzero(mask[k]).tolist() == [defaults[k]]
        done = env.step(np.argmax(mask, axis=1))[2]
    assert kinds == ({True, False} if scenario.model is not None else {True})
    assert KernelsVectorEnv(scenario, num_envs=5).action_masks().shape == (5, 21)


def test_what_a_step_ignores_is_never_invalid_and_changes_nothing():
    for scenario in SCENARIOS.values():
        plain, strict = KernelsEnv(scenario), KernelsEnv(scenario, strict=True)
        plain.reset(seed=0)
        strict.reset(seed=0)
        done = False
        while not done:
            encodes = plain.engine.counters[0, at.STAGE] >= 0
            action = np.array([0, 2 if scenario.model else 0, 1, 1, 1, 0, 0])
            other = action.copy()
            other[: 4 if encodes else 0] = 2
            other[7 if encodes else 4 :] = 2
            one, reward, done, _, info = plain.step(action)
            same, expected, *_ = strict.step(other)
            np.testing.assert_array_equal(one, same)
            assert reward == expected
            assert info["invalid_actions"] == 0


def test_invalid_units_of_a_stage_fall_back_and_are_counted_or_raise():
    env = KernelsEnv("vision-stream")
    env.reset(seed=0)
    default = env.step(np.zeros(7, dtype=int))[1]
    env.reset(seed=0)
    _, reward, *_, info = env.step(np.array([0, 0, 0, 0, 2, 2, 0]))
    assert (reward, info["invalid_actions"]) == (default, 2)
    strict = KernelsEnv("vision-stream", strict=True)
    strict.reset(seed=0)
    with pytest.raises(
        ConfigurationError, match=r"repmlp_fc3 kernels cannot run on 'attn-pim' .* \['pu', 'fc-pim'\]"
    ):
        strict.step(np.array([0, 0, 0, 0, 0, 2, 0]))


def test_text_is_the_same_with_the_classes_of_stages_and_their_features_are_zero():
    scenario = get_scenario("creative-writing/llama-65b").replace(batch_size=4)
    env = KernelsEnv(scenario)
    first, info = env.reset(seed=0)
    assert env.observation_names[: len(at.OBSERVATION_NAMES)] == at.OBSERVATION_NAMES
    assert len(env.observation_names) == len(first)
    observed, *_ = env.step(np.array([0, 2, 1, 1, 1, 1, 1]))
    assert (first[len(at.OBSERVATION_NAMES) :] == 0).all()
    assert (observed[len(at.OBSERVATION_NAMES) :] == 0).all()
    assert info["stage"] == -1


def test_a_stages_seconds_are_in_info_and_its_episodes_totals_in_the_metrics():
    env = KernelsEnv("vision-stream", render_mode="ansi", energy_weight=0.001)
    env.reset(seed=3)
    sums = dict.fromkeys(at.TIMED_CLASSES, 0.0)
    total, done = 0.0, False
    while not done:
        _, reward, done, _, info = env.step(np.array([0, 0, 0, 0, 1, 1, 0]))
        assert reward == info["reward_time"] + info["reward_energy"]
        total += reward
        for kind in sums:
            sums[kind] += info[f"{kind}_s"]
    assert info["metrics"]["return"] == pytest.approx(total, rel=1e-12)
    for kind, seconds in sums.items():
        assert info["metrics"][f"{kind}_s"] == pytest.approx(seconds, rel=1e-12)
    assert info["encodes"] == env.scenario.images.encodes
    lines = env.render().splitlines()
    assert lines[-1].startswith(f"encode   {env.scenario.images.encodes - 1}  stage 3  images")
    for said in ("repmlp_fc3@fc-pim", "repmlp_ffn@pu", "convolution@pu", "switching@link"):
        assert said in lines[-1]


def test_the_reference_is_a_mean_stage_of_an_encode_of_the_mean_size():
    data = get_scenario("vision-stream").model_dump()
    data["images"] |= {"batch_sizes": (6,), "encodes": 1}
    env = KernelsEnv(data)
    env.reset(seed=0)
    rewards = [env.step(np.zeros(7, dtype=int))[1] for _ in range(4)]
    assert sum(rewards) == pytest.approx(-4, rel=1e-12)


def test_truncation_counts_stages_and_iterations():
    scenario = SCENARIOS["language"]
    vector = KernelsVectorEnv(scenario, num_envs=2, max_episode_steps=6)
    vector.reset(seed=0)
    zero = np.zeros((2, 7), dtype=int)
    flags = [vector.step(zero)[3].tolist() for _ in range(6)]
    assert flags == [[False, False]] * 5 + [[True, True]]
    assert (vector.engine.counters[:, at.ITERATION] == 2).all()


@pytest.mark.parametrize("scenario", ["vision-stream", "vision-language"])
def test_decode_v0_refuses_images_and_names_who_does_not(scenario):
    with pytest.raises(ConfigurationError, match=f"'{scenario}' has images, which papi_env/Kernels-v0 alone"):
        gym.make("papi_env/Decode-v0", scenario=scenario)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "repmlpnet-b265"}, "Did you mean 'repmlpnet-b256'"),
        ({"batch_size": 4}, "'vision-stream' decodes no text"),
        ({"model": "opt-30b"}, "'vision-stream' decodes no text"),
        (
            {"scenario": "general-qa/opt-30b", "reparameterized": False},
            "has no images, so no network to replace",
        ),
        ({"scenario": "vision-language", "batch_size": 128, "model": "gpt3-175b"}, "GB"),
    ],
)
def test_bad_arguments_get_one_clear_message(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        KernelsEnv(**({"scenario": "vision-stream"} | arguments))
