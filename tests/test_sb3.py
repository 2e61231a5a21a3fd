"""The SB3 adapter gives what `DummyVecEnv` over monitored single environments gives, bit for bit."""

import copy
import pickle
import subprocess
import sys
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_maskable
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from papi_env.envs.decode import DecodeVectorEnv
from papi_env.envs.flatten import FlattenActions
from papi_env.errors import ConfigurationError
from papi_env.sb3 import BatchVecEnv, make_vec

# Short episodes: some ten to a hundred iterations.
SMALL = {"batch_size": 2, "speculation": 8, "acceptance_rate": 1.0}
DECODE, KERNELS = IDS = ("papi_env/Decode-v0", "papi_env/Kernels-v0")
every_id = pytest.mark.parametrize("env_id", IDS)
# Masks that stay, and masks that follow the kind of the next step.
CASES = {
    "decode": (DECODE, SMALL),
    "kernels": (KERNELS, SMALL),
    "images": (KERNELS, {"scenario": "vision-stream"}),
    "images-and-text": (KERNELS, {"scenario": "vision-language", **SMALL}),
}
SERVING = {
    "scenario": {
        "name": "few-requests",
        "system": "papi",
        "model": "llama-65b",
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": 20.0},
            "lengths": {"input": 40, "output": 24},
            "objectives": {"ttft_s": 1.0, "tpot_s": 0.02},
            "requests": 4,
            "max_running": 4,
        },
    }
}
CASES["serving"] = ("papi_env/Serving-v0", SERVING)
CLASSES = {"chat": {"conversation": {"turns": 1.5, "think_s": 0.05}}, "batch": {"weight": 0.5}}
CASES["classes"] = ("papi_env/Serving-v1", {**SERVING, "serving": {"service": {"classes": CLASSES}}})
every_case = pytest.mark.parametrize(("env_id", "arguments"), CASES.values(), ids=CASES)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def dummy(env_id, num_envs, *, flatten=False, max_episode_steps=None, **kwargs):
    """The reference: SB3's own `VecEnv` over single environments."""

    def one():
        env = gym.make(env_id, max_episode_steps=max_episode_steps, **kwargs)
        return Monitor(FlattenActions(env) if flatten else env)

    return DummyVecEnv([one] * num_envs)


def both(env_id, num_envs=3, **kwargs):
    # Metrics of single environments have joules by cause.
    return make_vec(env_id, num_envs, causes=True, **kwargs), dummy(env_id, num_envs, **kwargs)


def without_clock(info):
    """An info without what differs from run to run: when the episode ended."""
    info = dict(info)
    if "episode" in info:
        info["episode"] = {name: value for name, value in info["episode"].items() if name != "t"}
    return info


def assert_identical(one, other):
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


def assert_same_steps(fast, slow, actions):
    """Step both; returns the infos that ended an episode, of `fast`."""
    endings = []
    for action in actions:
        ours, theirs = fast.step(action), slow.step(action)
        for one, other in zip(ours[:3], theirs[:3], strict=True):
            assert_identical(one, other)
        for done, one, other in zip(ours[2], ours[3], theirs[3], strict=True):
            assert one["TimeLimit.truncated"] == other["TimeLimit.truncated"]
            if not done:
                continue
            one, other = without_clock(one), without_clock(other)
            endings.append(one)
            assert_identical(one.pop("terminal_observation"), other.pop("terminal_observation"))
            np.testing.assert_equal(one, other)  # some measures are NaN
    return endings


def sampled(envs, count, seed=0):
    envs.action_space.seed(seed)
    return [np.array([envs.action_space.sample() for _ in range(envs.num_envs)]) for _ in range(count)]


@every_case
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("max_episode_steps", [None, 9])
def test_the_trajectories_are_those_of_dummy_vec_env(env_id, arguments, max_episode_steps, flatten):
    fast, slow = both(env_id, max_episode_steps=max_episode_steps, flatten=flatten, **arguments)
    assert fast.seed(7) == slow.seed(7) == [7, 8, 9]
    assert_identical(fast.reset(), slow.reset())
    assert [without_clock(info) for info in fast.reset_infos] == slow.reset_infos
    actions = sampled(fast, 400)
    endings = assert_same_steps(fast, slow, actions[:200])
    assert len(endings) >= 2 * fast.num_envs, "several episodes each"
    # In the middle of episodes: the next ones of the same seeds, and then those of other seeds.
    assert_identical(fast.reset(), slow.reset())
    assert_same_steps(fast, slow, actions[200:300])
    fast.seed(100), slow.seed(100)
    assert_identical(fast.reset(), slow.reset())
    assert_same_steps(fast, slow, actions[300:])


PAIRS = {}


@settings(max_examples=25)
@given(
    st.sampled_from(sorted(CASES)),
    st.sampled_from([None, 1, 5]),
    st.integers(0, 2**40),
    st.integers(1, 60),
)
def test_any_seed_gives_the_same_trajectories(case, max_episode_steps, seed, steps):
    key = case, max_episode_steps
    if key not in PAIRS:
        env_id, arguments = CASES[case]
        PAIRS[key] = both(env_id, 2, max_episode_steps=max_episode_steps, **arguments)
    fast, slow = PAIRS[key]
    fast.seed(seed), slow.seed(seed)
    assert_identical(fast.reset(), slow.reset())
    assert_same_steps(fast, slow, sampled(fast, steps, seed % 2**32))


def test_an_episode_that_ends_in_its_last_allowed_step_is_not_truncated():
    def first_ending(limit):
        envs = make_vec(DECODE, 1, seed=4, max_episode_steps=limit, **SMALL)
        envs.reset()
        while True:
            _, _, dones, infos = envs.step(np.array([0]))
            if dones[0]:
                return infos[0]

    length = first_ending(None)["episode"]["l"]
    assert first_ending(length)["TimeLimit.truncated"] is False
    cut = first_ending(length - 1)
    assert cut["TimeLimit.truncated"] is True
    assert cut["episode"]["l"] == length - 1
    assert cut["metrics"]["iterations"] == length - 1


def test_what_a_step_returned_is_not_written_again():
    envs = make_vec(KERNELS, 4, seed=0, max_episode_steps=5, **SMALL)
    kept = [(envs.reset(),)]
    frozen = copy.deepcopy(kept)
    for actions in sampled(envs, 30):
        returned = envs.step(actions)
        returned[1][:] += 1.0  # PPO adds the value of a truncated episode's last state
        kept.append(returned)
        frozen.append(copy.deepcopy(returned))
    for one, other in zip(kept, frozen, strict=True):
        for array, before in zip(one[:3], other[:3], strict=True):
            np.testing.assert_array_equal(array, before)
        for info, before in zip(
            one[3] if len(one) > 1 else [], other[3] if len(other) > 1 else [], strict=True
        ):
            assert info.keys() == before.keys()
            if "terminal_observation" in info:
                np.testing.assert_array_equal(info["terminal_observation"], before["terminal_observation"])
    # And the rewards that were written into did not reach the environment.
    slow = dummy(KERNELS, 4, max_episode_steps=5, **SMALL)
    slow.seed(0), slow.reset()
    for actions, returned in zip(sampled(envs, 30), kept[1:], strict=True):
        assert_identical(returned[1], slow.step(actions)[1] + np.float32(1))


def test_running_environments_share_one_info_that_refuses_writes():
    envs = make_vec(DECODE, 3, seed=0, **SMALL)
    envs.reset()
    first, second = (envs.step(np.zeros(3, dtype=int))[3] for _ in range(2))
    assert first is not second
    assert all(info is first[0] for info in first + second)
    for write in (
        lambda info: info.__setitem__("x", 1),
        lambda info: info.update(x=1),
        lambda info: info.setdefault("x", 1),
        lambda info: info.pop("TimeLimit.truncated"),
        lambda info: info.clear(),
    ):
        with pytest.raises(TypeError, match="read-only"):
            write(first[0])
    assert first[0] == {"TimeLimit.truncated": False}
    for again in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert again == first
    changed = first[0].copy()
    changed["x"] = 1
    assert "x" not in first[0]


@every_case
@pytest.mark.parametrize("system", ["papi", "a100-attacc", "attacc-only"])
@pytest.mark.parametrize("flatten", [False, True])
def test_masks_are_found_and_are_those_of_the_single_environments(env_id, arguments, system, flatten):
    fast, slow = both(env_id, **{**arguments, "system": system}, flatten=flatten)
    fast.seed(0), slow.seed(0)
    fast.reset(), slow.reset()
    assert is_masking_supported(fast)
    for actions in sampled(fast, 30):
        assert_identical(get_action_masks(fast), get_action_masks(slow))
        assert_identical(fast.action_masks(), get_action_masks(slow))
        fast.step(actions), slow.step(actions)
    assert_identical(fast.env_method("action_masks", indices=[2])[0], slow.env_method("action_masks")[2])
    assert_identical(fast.get_attr("action_masks", indices=1)[0](), slow.env_method("action_masks")[1])


@every_case
@pytest.mark.parametrize("system", ["papi", "a100-attacc"])
def test_a_choice_within_the_masks_is_carried_out_as_chosen(env_id, arguments, system):
    envs = make_vec(env_id, 2, seed=1, flatten=True, **{**arguments, "system": system})
    envs.reset()
    rng = np.random.default_rng(0)
    endings = 0
    for _ in range(400):
        allowed = envs.action_masks()
        infos = envs.step(np.array([rng.choice(np.flatnonzero(row)) for row in allowed]))[3]
        for info in infos:
            if "metrics" in info:
                endings += 1
                assert info["metrics"]["invalid_actions"] == 0
    assert endings > 0


# --- the VecEnv interface ---------------------------------------------------------------------------


def test_attributes_are_those_of_the_single_environments():
    fast, slow = both(KERNELS, **SMALL)
    for name in ("action_space", "observation_space", "render_mode", "alpha", "reference"):
        assert fast.get_attr(name) == slow.get_attr(name)
    assert fast.get_attr("alpha", indices=[0, 2]) == slow.get_attr("alpha", indices=[0, 2])
    assert fast.has_attr("alpha")
    assert not fast.has_attr("alhpa")
    with pytest.raises(AttributeError, match=r"no attribute 'alhpa'; did you mean 'alpha'\?"):
        fast.get_attr("alhpa")
    assert fast.spec.id == KERNELS


def test_methods_give_each_environment_its_part():
    fast, slow = both(DECODE, **SMALL)
    fast.seed(3), slow.seed(3)
    fast.reset(), slow.reset()
    assert_same_steps(fast, slow, sampled(fast, 8))
    singles = [{name: v[0].item() for name, v in metrics.items()} for metrics in slow.env_method("metrics")]
    assert fast.env_method("metrics") == singles
    assert fast.env_method("metrics", indices=1) == [singles[1]]
    for name in ("joint_costs", "step_masks", "ignored"):
        for one, other in zip(fast.env_method(name), slow.env_method(name), strict=True):
            assert_identical(one, other[0])
    for one in fast.env_method("valid_units"):
        assert_identical(one, slow.env_method("valid_units")[0])


@pytest.mark.parametrize("name", ["step", "reset", "close"])
def test_one_environment_cannot_move_alone(name):
    with pytest.raises(ConfigurationError, match=f"call {name}\\(\\) on all"):
        make_vec(DECODE, 2, **SMALL).env_method(name, indices=0)


def test_attributes_are_set_for_all_or_refused():
    envs = make_vec(DECODE, 3, system="a100", seed=0, **SMALL)
    envs.reset()
    envs.step(np.ones(3, dtype=int))  # a unit that the system lacks: falls back
    envs.set_attr("strict", True)
    with pytest.raises(ConfigurationError, match="cannot run on"):
        envs.step(np.ones(3, dtype=int))
    with pytest.raises(ConfigurationError, match="names 1 of 3"):
        envs.set_attr("strict", False, indices=1)
    with pytest.raises(AttributeError, match="did you mean 'strict'"):
        envs.set_attr("strickt", True)


def test_options_go_to_the_whole_batch():
    envs = make_vec(DECODE, 2, seed=0, **SMALL)
    envs.reset()
    envs.set_options({"reset_mask": np.array([True])})
    with pytest.raises(ConfigurationError, match="reset_mask"):
        envs.reset()
    envs.set_options([{"a": 1}, {"a": 2}])
    with pytest.raises(ConfigurationError, match="different options"):
        envs.reset()


def test_seeds_hold_for_one_reset_and_chance_gives_others():
    envs = make_vec(DECODE, 2, seed=5, **SMALL)
    first, second = envs.reset(), envs.reset()
    envs.seed(5)
    np.testing.assert_array_equal(envs.reset(), first)
    np.testing.assert_array_equal(envs.reset(), second)
    assert not np.array_equal(first, second)
    envs.seed()
    assert not np.array_equal(envs.reset(), first)


def test_only_same_step_vector_environments_are_wrapped():
    with pytest.raises(
        ConfigurationError, match=r"NEXT_STEP.*expected autoreset_mode=AutoresetMode\.SAME_STEP"
    ):
        BatchVecEnv(gym.make_vec(DECODE, num_envs=2, **SMALL))
    with pytest.raises(ConfigurationError, match="not OrderEnforcing"):
        BatchVecEnv(gym.make(DECODE, **SMALL))
    for name, value in (("copy", True), ("autoreset_mode", "SameStep")):
        with pytest.raises(ConfigurationError, match=f"make_vec got {name}="):
            make_vec(DECODE, 2, **{name: value}, **SMALL)


@every_id
def test_gymnasiums_own_vector_environment_is_adapted_alike(env_id):
    singles = [lambda: gym.make(env_id, **SMALL)] * 2
    slow = BatchVecEnv(SyncVectorEnv(singles, autoreset_mode=AutoresetMode.SAME_STEP))
    fast = make_vec(env_id, 2, causes=True, **SMALL)
    fast.seed(2), slow.seed(2)
    assert_identical(fast.reset(), slow.reset())
    assert len(assert_same_steps(fast, slow, sampled(fast, 150))) >= 2


def test_text_and_pictures_come_from_the_vector_environment():
    class Painted(DecodeVectorEnv):
        metadata: ClassVar = {**DecodeVectorEnv.metadata, "render_modes": ["rgb_array"]}

        def render(self):
            return tuple(np.full((2, 3, 3), i, dtype=np.uint8) for i in range(self.num_envs))

    envs = BatchVecEnv(Painted(num_envs=2, render_mode="rgb_array", autoreset_mode="SameStep", **SMALL))
    assert envs.render_mode == "rgb_array"
    assert [image.max() for image in envs.get_images()] == [0, 1]
    assert envs.render().shape == (2 * 2, 3, 3)
    text = make_vec(DECODE, 2, seed=0, render_mode="ansi", **SMALL)
    text.reset()
    text.step(np.zeros(2, dtype=int))
    assert ["iteration 1" in line for line in text.env_method("render")] == [True, True]
    with pytest.warns(UserWarning, match="rgb_array"):
        assert text.get_images() == [None, None]
    assert make_vec(DECODE, 2, **SMALL).env_method("render", indices=0) == [None]


# --- wrappers, algorithms, evaluation ---------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        VecNormalize,
        lambda envs: VecNormalize(envs, norm_obs=False),
        lambda envs: VecCheckNan(envs, raise_exception=True),
        lambda envs: VecFrameStack(envs, 3),
        lambda envs: VecCheckNan(VecNormalize(VecFrameStack(envs, 2))),
    ],
    ids=["normalize", "normalize-rewards", "check-nan", "frame-stack", "all"],
)
def test_wrappers_see_what_they_see_of_dummy_vec_env(wrap):
    fast, slow = (wrap(envs) for envs in both(KERNELS, max_episode_steps=6, **SMALL))
    fast.seed(0), slow.seed(0)
    assert_identical(fast.reset(), slow.reset())
    # Cut off after six steps, all of them.
    assert len(assert_same_steps(fast, slow, sampled(fast, 60))) == 3 * 10


def test_vec_monitor_takes_over_the_statistics():
    fast = VecMonitor(make_vec(DECODE, 3, monitor=False, max_episode_steps=6, **SMALL))
    slow = dummy(DECODE, 3, max_episode_steps=6, **SMALL)
    assert fast.env_is_wrapped(Monitor) == [False] * 3
    fast.seed(0), slow.seed(0)
    fast.reset(), slow.reset()
    for actions in sampled(fast, 6):
        infos, expected = fast.step(actions)[3], slow.step(actions)[3]
    for info, other in zip(infos, expected, strict=True):
        assert info["episode"]["l"] == other["episode"]["l"] == 6
        # VecMonitor sums in float32: six terms below 2 are off by some 1e-6 at most.
        assert info["episode"]["r"] == pytest.approx(other["episode"]["r"], abs=5e-6)
    with pytest.warns(UserWarning, match="overwritten"):
        VecMonitor(make_vec(DECODE, 3, **SMALL))


def learner(name, envs):
    small = {"policy": "MlpPolicy", "seed": 0, "device": "cpu", "policy_kwargs": {"net_arch": [8]}}
    rollout = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    replay = {"learning_starts": 32, "buffer_size": 400, "train_freq": 4}
    match name:
        case "PPO":
            return PPO(env=envs, **rollout, **small)
        case "A2C":
            return A2C(env=envs, n_steps=8, **small)
        case "DQN":
            return DQN(env=envs, **replay, **small)
        case "QRDQN":
            return QRDQN(env=envs, **replay, **small)
        case "MaskablePPO":
            return MaskablePPO(env=envs, **rollout, **small)
        case "RecurrentPPO":
            small["policy"] = "MlpLstmPolicy"
            small["policy_kwargs"] = {"net_arch": [8], "lstm_hidden_size": 8}
            return RecurrentPPO(env=envs, **rollout, **small)
    raise ValueError(name)


@every_id
@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "QRDQN", "MaskablePPO", "RecurrentPPO"])
def test_algorithms_learn_the_same_as_on_dummy_vec_env(name, env_id):
    models = []
    for envs in both(env_id, 4, flatten="DQN" in name, max_episode_steps=15, **SMALL):
        models.append(learner(name, envs).learn(300))
    ours, theirs = models
    assert ours.num_timesteps == theirs.num_timesteps >= 300
    endings = [[without_clock({"episode": info}) for info in model.ep_info_buffer] for model in models]
    assert endings[0] == endings[1]
    assert len(endings[0]) >= 300 // 15 - 4
    start = learner(name, make_vec(env_id, 4, flatten="DQN" in name, **SMALL)).policy.state_dict()
    weights, expected = ours.policy.state_dict(), theirs.policy.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in weights)
    assert any(not torch.equal(weights[key], start[key]) for key in weights), "it learned something"


def test_dqn_stores_the_transitions_that_happened():
    ours, theirs = (
        learner("DQN", envs).learn(200) for envs in both(DECODE, 4, max_episode_steps=15, **SMALL)
    )
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        assert_identical(getattr(ours.replay_buffer, name), getattr(theirs.replay_buffer, name))
    assert ours.replay_buffer.timeouts.any()
    # `_last_obs` outlived a step: states follow one another, except where an episode was cut off.
    buffer, last = ours.replay_buffer, 200 // 4 - 1
    follows = (buffer.observations[1:last] == buffer.next_observations[: last - 1]).all(axis=2)
    np.testing.assert_array_equal(follows, buffer.dones[: last - 1] == 0)


@every_id
def test_evaluation_counts_the_episodes_of_dummy_vec_env(env_id):
    fast, slow = both(env_id, 2, **SMALL)
    plain, masked = learner("PPO", fast), learner("MaskablePPO", fast)
    for model, evaluate in ((plain, evaluate_policy), (masked, evaluate_maskable)):
        found = []
        for envs in (fast, slow):
            envs.seed(0)
            found.append(evaluate(model, envs, n_eval_episodes=5, return_episode_rewards=True))
        assert found[0] == found[1]
        assert len(found[0][0]) == 5


def test_without_stable_baselines3_one_error_names_the_extra():
    code = "import sys; sys.modules['stable_baselines3'] = None; import papi_env; import papi_env.sb3"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "DependencyNotInstalled: papi_env.sb3 needs stable-baselines3" in result.stderr
    assert 'pip install "papi-env[learn]"' in result.stderr
