"""What other libraries rely on: keys of infos, masks, names of arguments and ids, pictures, and specs."""

import copy
import json
import pickle
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from papi_env.envs.info import LazyInfo, time_limit
from papi_env.envs.masks import MaskedObservations
from papi_env.envs.registration import DECODE, ENV_IDS, KERNELS, SERVING, SERVING_V1
from papi_env.errors import ConfigurationError
from papi_env.scenario import get_scenario

SHORT = {
    DECODE: {"batch_requests": 2, "speculation": 8, "acceptance_rate": 1.0},
    KERNELS: {"scenario": "vision-stream"},
    SERVING: {"serving": {"horizon_s": 0.3}},
    SERVING_V1: {"serving": {"horizon_s": 0.3}},
}
every_id = pytest.mark.parametrize("env_id", ENV_IDS)


def pieces(env_id):
    """Arguments with which a batch measures all that single environments do."""
    return {**SHORT[env_id], **({"records": True} if env_id == SERVING_V1 else {})}


def assert_same_infos(found, expected, path=""):
    """Equal keys and masks, and equal values where the masks say that there are any."""
    found = dict(found)
    assert found.keys() == expected.keys(), path
    for name, values in expected.items():
        if name.startswith("_"):
            np.testing.assert_array_equal(found[name], values, err_msg=path + name)
            continue
        mask = expected[f"_{name}"]
        if isinstance(values, dict):
            assert_same_infos(found[name], values, f"{path}{name}.")
        else:
            one, other = (np.array(list(each[mask])) for each in (found[name], values))
            np.testing.assert_array_equal(one, other, err_msg=path + name)


@every_id
@pytest.mark.parametrize("totals", [True, False, "always"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_infos_of_a_batch_are_what_gymnasium_collects_from_single_environments(env_id, mode, totals):
    copy = totals != "always"  # one of each kind where infos are worked out
    batch = gym.make_vec(
        env_id, num_envs=3, autoreset_mode=mode, causes=True, totals=totals, copy=copy, **pieces(env_id)
    )
    singles = gym.make_vec(
        env_id,
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        totals=totals,
        **pieces(env_id),
    )
    assert_same_infos(batch.reset(seed=1)[1], singles.reset(seed=1)[1])
    batch.action_space.seed(0)
    ended, before = 0, set()
    for _ in range(150):
        actions = batch.action_space.sample()
        *_, terminated, truncated, infos = batch.step(actions)
        assert_same_infos(infos, singles.step(actions)[-1])
        done = terminated | truncated
        names = {name.lstrip("_") for name in infos} - {"metrics", "final_info", "final_obs"}
        assert not before or names == before
        before = names
        at_end = totals is True and done.any() and mode is not AutoresetMode.SAME_STEP
        assert ("metrics" in infos) == (totals == "always" or at_end)
        ended += done.sum()
        if done.any() and mode is AutoresetMode.DISABLED:
            again = {"reset_mask": done}
            assert_same_infos(batch.reset(options=again)[1], singles.reset(options=again)[1])
        if ended >= 3:
            return
    pytest.fail("too few episodes ended")


@every_id
def test_infos_have_the_same_keys_at_every_step(env_id):
    """With `totals` false or "always" to the end of an episode, with them at its end up to it."""
    for totals in (False, True, "always"):
        env = gym.make(env_id, totals=totals, **SHORT[env_id])
        env.action_space.seed(0)
        names = set(env.reset(seed=0)[1])
        assert ("metrics" in names) == (totals == "always")
        ended = False
        while not ended:
            *_, terminated, truncated, info = env.step(env.action_space.sample())
            ended = terminated or truncated
            assert set(info) == names | ({"metrics"} if ended and totals else set())
            if totals == "always":
                so_far = {name: values[0] for name, values in env.unwrapped.metrics().items()}
                assert info["metrics"] == pytest.approx(so_far, nan_ok=True)
    for make in (gym.make, gym.make_vec):
        with pytest.raises(ConfigurationError, match="totals is 'never', expected true, false or 'always'"):
            make(env_id, totals="never")


@every_id
@pytest.mark.parametrize("checked", [True, False])
def test_an_episode_that_is_cut_off_has_metrics_too(env_id, checked):
    env = gym.make(env_id, max_episode_steps=3, disable_env_checker=not checked, **SHORT[env_id])
    for _ in range(2):
        env.reset(seed=0)
        for step in range(3):
            *_, terminated, truncated, info = env.step(env.action_space.sample() * 0)
            assert ("metrics" in info) == (step == 2)
        assert (terminated, truncated) == (False, True)
        assert info["metrics"] == pytest.approx(
            {name: values[0] for name, values in env.unwrapped.metrics().items()}, nan_ok=True
        )


def test_a_limit_of_another_environment_is_not_taken_for_its_own():
    class Resets(gym.Wrapper):
        def reset(self, **kwargs):
            other.reset(seed=0)
            return super().reset(**kwargs)

    other = gym.make(DECODE, batch_size=2)
    limited = Resets(gym.wrappers.TimeLimit(gym.make(DECODE, batch_size=2), 2))
    limited.reset(seed=0)
    assert time_limit(other.unwrapped) == 0
    for _ in range(2):
        assert "metrics" not in other.step(0)[-1]
        info = limited.step(0)[-1]
    assert "metrics" in info


# --- infos that are worked out when they are read -----------------------------------------------------


def lazy(**values):
    asked = []

    def work_out(name):
        asked.append(name)
        return values[name]

    info = LazyInfo({"a": 1, **dict.fromkeys(values)})
    info.later, info.work_out = frozenset(values), work_out
    return info, asked


@pytest.mark.parametrize(
    "use",
    [
        dict,
        lambda info: {**info},
        lambda info: info | {},
        lambda info: {} | info,
        lambda info: (lambda found: found.update(info) or found)({}),
        lambda info: dict(**info),
        lambda info: {name: info[name] for name in reversed(info)},
        lambda info: dict(info.popitem() for _ in range(3)),
        lambda info: {name: info.setdefault(name) for name in ("a", "b", "c")},
        lambda info: dict(info.items()),
        lambda info: dict(zip(info, info.values(), strict=True)),
        copy.deepcopy,
        lambda info: info.copy(),
        lambda info: pickle.loads(pickle.dumps(info)),
        lambda info: {name: info[name] for name in info},
        lambda info: {name: info.get(name) for name in info},
        lambda info: {name: info.pop(name) for name in list(info)},
        lambda info: json.loads(json.dumps(dict(info))),
    ],
)
def test_whoever_reads_an_info_finds_its_values(use):
    info, asked = lazy(b=2, c=3)
    assert len(info) == 3
    assert "b" in info
    assert asked == []
    assert use(info) == {"a": 1, "b": 2, "c": 3}
    assert sorted(asked) == ["b", "c"]


def test_an_info_can_be_written_and_is_worked_out_once():
    info, asked = lazy(b=2, c=3)
    info["b"] = 5
    del info["c"]
    info.update(d=6)
    assert (info.get("e", 7), info["b"]) == (7, 5)
    assert info == {"a": 1, "b": 5, "d": 6}
    assert asked == []
    info, asked = lazy(b=2)
    assert info["b"] == info["b"] == 2
    assert asked == ["b"]
    assert info.there() == [("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (len, 3),
        (bool, True),
        (list, ["a", "b", "d"]),
        (lambda info: list(info.keys()), ["a", "b", "d"]),
        (lambda info: list(reversed(info)), ["d", "b", "a"]),
        (lambda info: "d" in info, True),
        (lambda info: info["d"], 4),
        (lambda info: info.get("d"), 4),
        (lambda info: info.there(), [("a", 1), ("d", 4)]),
        (lambda info: info == {"a": 1, "b": 2, "d": 4}, True),
        (repr, "{'a': 1, 'b': 2, 'd': 4}"),
    ],
)
def test_whoever_looks_first_finds_what_was_put_there(look, expected):
    info = LazyInfo({"a": 1, "b": None, "d": None}, frozenset("b"))
    info.put("d", 4)
    info.work_out = {"b": 2}.__getitem__
    assert look(info) == expected
    info.clear()
    assert (len(info), dict(info)) == (0, {})


def test_a_value_can_be_put_after_somebody_looked():
    info = LazyInfo({"a": 1})
    assert len(info) == 1
    info.put("d", 4)
    assert dict(info) == {"a": 1, "d": 4}


def test_an_info_takes_over_other_names():
    info, asked = lazy(b=2, c=3)
    info |= {"b": 5}
    assert isinstance(info, LazyInfo)
    assert (info["b"], asked) == (5, [])


def test_an_info_that_was_read_too_late_says_so():
    envs = gym.make_vec(DECODE, num_envs=2, **SHORT[DECODE])
    _, first = envs.reset(seed=0)
    kept, late = dict(first), None
    *_, first = envs.step(np.zeros(2, dtype=np.int64))
    for _ in range(60):
        *_, terminated, truncated, infos = envs.step(np.zeros(2, dtype=np.int64))
        if late is None and (terminated | truncated).any():
            late = infos
    for name, info in (("metrics", late), ("prefill_s", first)):
        with pytest.raises(RuntimeError, match=f"{name}.* was first read in a later step"):
            info[name]
    assert (kept["prefill_s"] > 0).all()


# --- names ---------------------------------------------------------------------------------------------


def test_the_batch_size_has_a_name_that_collides_with_nobodys():
    for make in (gym.make, gym.make_vec):
        assert make(DECODE, batch_requests=5).unwrapped.scenario.workload.batch_size == 5
        assert make(DECODE, batch_requests=5, batch_size=5).unwrapped.scenario.workload.batch_size == 5
        with pytest.raises(ConfigurationError, match=r"batch_size is 4 and batch_requests 5.*expected one"):
            make(DECODE, batch_requests=5, batch_size=4)


def test_libraries_that_try_an_argument_are_told_as_python_does():
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'frameskip'") as found:
        gym.make(DECODE, frameskip=1)
    assert isinstance(found.value, ConfigurationError)


@every_id
def test_an_id_may_name_the_package_that_registers_it(env_id):
    env = gym.make(f"papi_env:{env_id}", **SHORT[env_id])
    assert type(env.unwrapped) is type(gym.make(env_id, **SHORT[env_id]).unwrapped)
    assert gym.make_vec(f"papi_env:{env_id}", num_envs=2, **SHORT[env_id]).num_envs == 2


@pytest.mark.parametrize("env_id", [DECODE, SERVING])
def test_a_spec_with_an_object_for_a_scenario_is_json(env_id):
    scenario = get_scenario("general-qa/opt-30b" if env_id == DECODE else "light/llama-65b")
    env = gym.make(env_id, scenario=scenario, system="papi-h100")
    again = gym.make(EnvSpec.from_json(env.spec.to_json())).unwrapped
    assert again.scenario == env.unwrapped.scenario == scenario.replace(system="papi-h100")
    envs = gym.make_vec(env_id, num_envs=2, scenario=scenario)
    assert json.loads(envs.unwrapped.spec.to_json())["kwargs"]["scenario"]["name"] == scenario.name


# --- actions and masks ---------------------------------------------------------------------------------


@every_id
def test_tensors_and_arrays_are_actions(env_id):
    torch = pytest.importorskip("torch")
    env = gym.make(env_id, **SHORT[env_id]).unwrapped
    env.reset(seed=0)
    action = env.action_space.sample(mask=env.sample_mask())
    expected = env.step(action)[1]
    for kind in (torch.as_tensor, lambda a: np.atleast_1d(a).astype(np.int32), lambda a: np.asarray(a)):
        env.reset(seed=0)
        assert env.step(kind(action))[1] == expected
    for bad in (np.atleast_1d(action) * 1.0, np.atleast_1d(action)[None], torch.as_tensor(action) + 99):
        with pytest.raises(ConfigurationError, match="is outside"):
            env.step(bad)


@every_id
@pytest.mark.parametrize("flatten", [False, True])
def test_masks_are_taken_by_the_spaces(env_id, flatten):
    """A space samples what is possible alone, of one environment and of a batch."""
    arguments = {**SHORT[env_id], "strict": True, "flatten": flatten}
    env, envs = gym.make(env_id, **arguments).unwrapped, gym.make_vec(env_id, num_envs=3, **arguments)
    if flatten:
        assert isinstance(env.action_space, gym.spaces.Discrete)
        assert env.action_masks().shape == (env.action_space.n,)
    samples = flatten or env_id == DECODE
    if not samples:
        envs.reset(seed=0)
        with pytest.raises(ConfigurationError, match="samples without masks; expected flatten=True"):
            envs.sample_mask()
    for one in (env, envs)[: 1 + samples]:
        one.reset(seed=0)
        one.action_space.seed(0)
        for _ in range(8):
            *_, terminated, truncated, info = one.step(one.action_space.sample(mask=one.sample_mask()))
            assert np.all(info["invalid_actions"] == 0)
            if np.any(terminated | truncated):
                one.reset()


@pytest.mark.parametrize("env_id", [KERNELS, SERVING, SERVING_V1])
def test_flat_actions_do_what_the_table_says(env_id):
    flat, plain = (gym.make(env_id, flatten=flatten, **SHORT[env_id]) for flatten in (True, False))
    batch = gym.make_vec(env_id, num_envs=1, flatten=True, **SHORT[env_id])
    table = plain.unwrapped.joint_actions()
    assert flat.action_space.n == batch.single_action_space.n == len(table)
    for number in (0, len(table) // 2, len(table) - 1):
        for env in (flat, plain, batch):
            env.reset(seed=0)
        expected = plain.step(table[number])
        np.testing.assert_array_equal(flat.step(number)[0], expected[0])
        observations, rewards, *_ = batch.step(np.array([number]))
        np.testing.assert_array_equal(observations[0], expected[0])
        assert rewards[0] == expected[1]
    with pytest.raises(ConfigurationError, match="is outside Discrete"):
        flat.step(len(table))
    with pytest.raises(ConfigurationError, match="is outside Discrete"):
        batch.step(np.array([-1]))


@pytest.mark.parametrize("flatten", [False, True])
def test_observations_may_hold_the_mask(flatten):
    env = MaskedObservations(gym.make(SERVING, flatten=flatten, **SHORT[SERVING]), "obs", "mask")
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        assert env.observation_space.contains(observation)
        np.testing.assert_array_equal(observation["mask"], env.unwrapped.action_masks())
        observation, *_ = env.step(env.action_space.sample())
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space


# --- pictures ------------------------------------------------------------------------------------------


@every_id
def test_pictures_of_a_batch_are_those_of_its_environments(env_id):
    pytest.importorskip("PIL")
    envs = gym.make_vec(
        env_id, num_envs=2, render_mode="rgb_array", autoreset_mode="Disabled", **SHORT[env_id]
    )
    env = gym.make(env_id, render_mode="rgb_array", **SHORT[env_id])
    envs.reset(seed=0), env.reset(seed=1)
    blank = envs.render()
    for _ in range(3):
        action = env.action_space.sample() * 0
        envs.step(np.stack([action, action]))
        env.step(action)
    pictures = envs.render()
    assert [picture.shape for picture in pictures] == [(360, 960, 3)] * 2
    assert pictures[0].dtype == np.uint8
    # Below the title, which also says which of the batch it is.
    np.testing.assert_array_equal(pictures[1][34:], env.render()[34:])
    assert (pictures[1][34:] != blank[1][34:]).any()
    envs.reset(options={"reset_mask": np.array([False, True])})
    np.testing.assert_array_equal(envs.render()[1], blank[1])
    np.testing.assert_array_equal(envs.render()[0], pictures[0])


def test_a_picture_begins_with_its_episode_and_forgets_what_it_does_not_show():
    envs = gym.make_vec(DECODE, num_envs=1, render_mode="rgb_array", **SHORT[DECODE])
    envs.reset(seed=0)
    (timeline,) = envs.unwrapped._timelines
    lengths = []
    for _ in range(300):
        envs.step(np.array([1]))
        lengths.append(len(timeline.iterations))
    assert max(lengths) <= 97
    assert lengths.count(0) >= 1
    assert timeline.iterations == [] or timeline.iterations[-1].number == len(timeline.iterations)


def test_what_takes_no_time_beside_the_rest_is_a_pixel_wide():
    pytest.importorskip("PIL")
    from papi_env.envs.picture import render_rgb
    from papi_env.envs.rendering import BatchTimeline, Iteration, Segment

    timeline = BatchTimeline()
    segments = (Segment("pu", "qkv", 0.0, 1.0), Segment("link", "switching", 1.0, 1e-9))
    timeline.iterations.append(Iteration(1, 1, segments))
    colour = tuple(int(timeline.colours["switching"][k : k + 2], 16) for k in (1, 3, 5))
    lanes = render_rgb(timeline, "")[40:250, 90:]
    columns = (lanes == colour).all(axis=2).sum(axis=0)
    assert (columns > 20).sum() == 1


@pytest.mark.parametrize("env_id", [DECODE, SERVING])
def test_a_picture_takes_less_than_20_ms_of_the_processor(env_id):
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    taken = []
    for _ in range(60):
        env.step(env.action_space.sample(mask=env.unwrapped.sample_mask()))
        start = time.process_time()
        env.render()
        taken.append(time.process_time() - start)
    assert min(taken[-12:]) < 0.02  # with 48 iterations in the picture


@pytest.mark.filterwarnings("ignore")
def test_gymnasium_records_videos_of_one_and_of_a_batch(tmp_path):
    pytest.importorskip("moviepy")
    if not hasattr(gym.wrappers.vector, "RecordVideo"):
        pytest.skip("gymnasium records videos of batches from 1.2 on")
    env = gym.make(DECODE, render_mode="rgb_array", **SHORT[DECODE])
    env = gym.wrappers.RecordVideo(env, str(tmp_path), name_prefix="one", video_length=4)
    envs = gym.make_vec(DECODE, num_envs=2, render_mode="rgb_array", **SHORT[DECODE])
    envs = gym.wrappers.vector.RecordVideo(
        envs, str(tmp_path), name_prefix="batch", video_length=4, step_trigger=lambda step: step == 0
    )
    for one, action in ((env, 1), (envs, np.array([1, 0]))):
        one.reset(seed=0)
        for _ in range(6):
            one.step(action)
        one.close()
    assert sorted(path.name.partition("-")[0] for path in tmp_path.glob("*.mp4")) == ["batch", "one"]


@pytest.mark.filterwarnings("ignore")
def test_gymnasium_shows_it_in_a_window(monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make(DECODE, render_mode="human", **SHORT[DECODE])
    env.reset(seed=0)
    env.step(1)
    assert env.screen_size == (960, 360)
    env.close()
