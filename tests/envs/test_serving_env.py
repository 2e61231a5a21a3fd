"""Serving-v0 names what is possible, shows what a scheduler can know, and says what it rewards."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import papi_env  # noqa: F401 - registers the id
from papi_env.envs.serving import JOINT_ACTIONS, ServingEnv, ServingVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.measures import METRIC_NAMES

ID = "papi_env/Serving-v0"
SERVE = (at.FC_PIM, 1, at.ALL, 1)


def scenario(system="papi", model="llama-65b", energy_weight=0.0, **changes):
    serving = {
        "arrivals": {"process": "gamma", "rate_per_s": 20.0, "shape": 0.5},
        "lengths": {"input": 90, "output": 8},
        "objectives": {"ttft_s": 0.4, "tpot_s": 0.02},
        "speculation": {"classes": {"code": 1.0, "writing": 1.0}},
        "drift": {"period_s": 0.5},
        "requests": 6,
        "max_running": 8,
    } | changes
    return {
        "name": "small",
        "system": system,
        "model": model,
        "energy_weight": energy_weight,
        "serving": serving,
    }


def single(*, strict=False, render_mode=None, **changes):
    return ServingEnv(scenario(**changes), strict=strict, render_mode=render_mode)


def vector(
    num_envs, *, strict=False, autoreset_mode="NextStep", copy=True, max_episode_steps=None, **changes
):
    return ServingVectorEnv(
        scenario(**changes),
        num_envs=num_envs,
        strict=strict,
        autoreset_mode=autoreset_mode,
        copy=copy,
        max_episode_steps=max_episode_steps,
    )


def play(env, actions, seed=None):
    trajectory = [(env.reset(seed=seed)[0],)]
    for action in actions:
        trajectory.append(env.step(action)[:4])
        if trajectory[-1][2] or trajectory[-1][3]:
            break
    return trajectory


def sampled_actions(env, count, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:] == other[1:]


# --- the contracts -------------------------------------------------------------------------------------


def test_spaces_are_the_documented_ones():
    env = single()
    assert env.action_space == gym.spaces.MultiDiscrete([3, 4, 3, 2])
    assert env.observation_space.shape == (len(env.observation_names),) == (len(set(at.OBSERVATION_NAMES)),)
    assert JOINT_ACTIONS.shape == (72, 4)
    assert len(np.unique(JOINT_ACTIONS, axis=0)) == 72
    assert all(env.action_space.contains(action) for action in JOINT_ACTIONS)


def test_another_seed_or_episode_gives_another_instance():
    env = single()

    def arrivals(**arguments):
        env.reset(**arguments)
        return env.engine.state.moments[0, :, at.ARRIVAL_S].copy()

    first, second_episode, other = arrivals(seed=5), arrivals(), arrivals(seed=6)
    for one, two in ((first, second_episode), (first, other), (second_episode, other)):
        assert not np.array_equal(one, two)
    np.testing.assert_array_equal(arrivals(seed=5), first)


def test_pickling_in_the_middle_of_an_episode_changes_nothing():
    env = single()
    actions = sampled_actions(env, 40)
    whole = play(env, actions, seed=2)
    play(env, actions[:10], seed=2)
    restored = pickle.loads(pickle.dumps(env))
    # Or else all would be compiled again, for tables that may be written to.
    for array, copy in zip(env.engine.tables, restored.engine.tables, strict=True):
        if isinstance(array, np.ndarray):
            assert copy.flags.writeable == array.flags.writeable
    for action, expected in zip(actions[10:], whole[11:], strict=False):
        observation, reward, terminated, _, info = restored.step(action)
        np.testing.assert_array_equal(observation, expected[0])
        assert (reward, terminated) == expected[1:3]
        assert info["iteration"] == restored.engine.counters[0, at.ITERATION]


def test_the_spec_survives_a_round_trip():
    env = gym.make(ID, scenario=scenario(), system="papi-h100", serving={"max_running": 5})
    again = gym.make(EnvSpec.from_json(env.spec.to_json())).unwrapped
    assert again.scenario == env.unwrapped.scenario
    assert again.scenario.system.name == "papi-h100"
    assert again.scenario.serving.max_running == 5


def test_arguments_replace_parts_of_the_scenario():
    env = ServingEnv(
        scenario(),
        model="llama2-70b",
        energy_weight=0.01,
        switch_s=2e-6,
        serving={"horizon_s": 3.0, "drift": None},
    )
    built = env.scenario
    assert built.model.name == "llama2-70b"
    assert (built.energy_weight, built.switch_s) == (0.01, 2e-6)
    # One end takes the place of the other.
    assert (built.serving.requests, built.serving.horizon_s, built.serving.drift) == (None, 3.0, None)
    assert built.serving.objectives.ttft_s == 0.4


@pytest.mark.parametrize("action", [[3, 0, 0, 0], [0, 4, 0, 0], [0, 0, 0, -1], [0, 0, 0], 5])
def test_actions_outside_the_space_raise(action):
    env = single()
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match=r"outside MultiDiscrete"):
        env.step(np.array(action))
    many = vector(2)
    many.reset(seed=0)
    with pytest.raises(ConfigurationError, match=r"outside MultiDiscrete|expected \(2, 4\) integers"):
        many.step(np.array([action, action]))


# --- the vector environment ----------------------------------------------------------------------------


def test_records_of_an_ended_episode_outlive_the_restart_in_the_same_step():
    next_step, same_step = vector(2), vector(2, autoreset_mode="SameStep")
    next_step.reset(seed=1)
    same_step.reset(seed=1)
    done = np.zeros(2, dtype=bool)
    while not done.any():
        done = next_step.step(np.array([SERVE, SERVE]))[2]
        same_step.step(np.array([SERVE, SERVE]))
    e = int(np.flatnonzero(done)[0])
    kept = same_step.engine.records(e, same_step.engine.final)
    for name, values in next_step.engine.records(e).items():
        np.testing.assert_array_equal(kept[name], values, err_msg=name)
    assert len(kept["finish_s"]) == 6


# --- masks and invalid choices -------------------------------------------------------------------------

# Of FC units PU, FC-PIM, split; and overlap.
POSSIBLE = {
    "papi": ([1, 1, 1], 1),
    "papi-1gpu": ([1, 1, 1], 0),
    "a100-attacc": ([1, 0, 0], 1),
    "a100": ([1, 0, 0], 0),
    "attacc-only": ([0, 1, 0], 1),
    "papi-pim-only": ([0, 1, 0], 1),
}


@pytest.mark.parametrize("system", POSSIBLE)
def test_masks_name_what_the_system_lacks(system):
    env = single(system=system, model="opt-30b")
    env.reset(seed=0)
    units, overlap = POSSIBLE[system]
    # Somebody has arrived and nothing runs: admitting none is no choice.
    assert env.action_masks().tolist() == [*units, 1, 1, 1, 1, 0, 1, 1, 1, overlap]
    env.step(np.array([units.index(1), 0, at.ONE, 0]))
    assert env.action_masks().tolist() == [*units, 1, 1, 1, 1, 1, 1, 1, 1, overlap]
    np.testing.assert_array_equal(env.step_masks()[0], env.action_masks())
    joint = env.joint_masks()[0]
    mask = env.action_masks()
    starts = np.cumsum((0, 3, 4, 3))
    for action, possible in zip(JOINT_ACTIONS, joint, strict=True):
        assert possible == mask[starts + action].all()
    assert joint.sum() == sum(units) * 4 * 3 * (1 + overlap)


def test_masks_of_a_batch_differ_by_environment():
    env = vector(2, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step(np.array([SERVE, SERVE]))
    env.reset(options={"reset_mask": np.array([False, True])})
    masks = env.action_masks()
    assert masks.shape == (2, 12)
    none = 3 + 4 + at.NONE
    assert masks[:, none].tolist() == [True, False]
    np.testing.assert_array_equal(env.step_masks(), masks)
    assert env.joint_masks().sum(axis=1).tolist() == [72, 48]


@pytest.mark.parametrize(
    ("system", "given", "stands_for", "invalid"),
    [
        ("a100-attacc", (at.FC_PIM, 1, at.ALL, 1), (at.PU, 1, at.ALL, 1), 1),
        ("a100-attacc", (at.SPLIT, 1, at.ALL, 0), (at.PU, 1, at.ALL, 0), 1),
        ("papi-pim-only", (at.SPLIT, 0, at.ONE, 1), (at.FC_PIM, 0, at.ONE, 1), 1),
        ("a100", (at.PU, 2, at.ALL, 1), (at.PU, 2, at.ALL, 0), 1),
        ("papi", (at.PU, 0, at.NONE, 0), (at.PU, 0, at.ONE, 0), 1),
        ("a100", (at.FC_PIM, 0, at.NONE, 1), (at.PU, 0, at.ONE, 0), 3),
        ("papi", (at.SPLIT, 3, at.ONE, 1), (at.SPLIT, 3, at.ONE, 1), 0),
    ],
)
def test_invalid_choices_fall_back_and_are_counted(system, given, stands_for, invalid):
    steps = []
    for action in (given, stands_for):
        env = single(system=system)
        env.reset(seed=0)
        assert env.joint_masks()[0][np.ravel_multi_index(action, at.NVEC)] == (action != given or not invalid)
        steps.append(env.step(np.array(action)))
    (observation, reward, *_, info), (other_observation, other_reward, *_, other_info) = steps
    np.testing.assert_array_equal(observation, other_observation)
    assert reward == other_reward
    assert info.pop("invalid_actions") == invalid
    assert other_info.pop("invalid_actions") == 0
    assert info == other_info


@pytest.mark.parametrize(
    ("system", "action", "message"),
    [
        (
            "a100-attacc",
            (at.FC_PIM, 0, at.ONE, 0),
            r"FC unit 'fc-pim' is not possible now in system 'a100-attacc'; expected one of \['pu'\]",
        ),
        ("a100", (at.PU, 0, at.ONE, 1), r"overlap 'on' is not possible .* expected one of \['off'\]"),
        ("papi", (at.PU, 0, at.NONE, 0), r"admission 'none' is not possible .* \['one', 'all'\]"),
    ],
)
def test_strict_environments_refuse_invalid_choices(system, action, message):
    env = single(system=system, strict=True)
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match=f"Environment 0: {message}"):
        env.step(np.array(action))
    assert env.engine.counters[0, at.ITERATION] == 0
    many = vector(2, system=system, strict=True)
    many.reset(seed=0)
    with pytest.raises(ConfigurationError, match=f"Environment 1: {message}"):
        many.step(np.array([(at.PU, 0, at.ONE, 0), action]))
    # What the mask allows is played.
    for _ in range(30):
        masks = many.joint_masks()
        many.step(np.stack([JOINT_ACTIONS[np.flatnonzero(mask)[-1]] for mask in masks]))


# --- info, rewards, observations -----------------------------------------------------------------------


@pytest.mark.parametrize("reward", ["attained", "on-time"])
def test_the_reward_is_its_terms_and_its_terms_are_tokens_and_joules(reward):
    env = single(energy_weight=0.002, reward=reward)
    env.reset(seed=4)
    assert env.reference == 8  # output tokens of every request
    total, ended, rng = 0.0, False, np.random.default_rng(0)
    power = env.scenario.system.static_power_w
    good_name = "good_tokens" if reward == "attained" else "on_time_tokens"
    while not ended:
        before = {name: values[0] for name, values in env.metrics().items()}
        _, value, ended, _, info = env.step(rng.integers(0, at.NVEC))
        after = {name: values[0] for name, values in env.metrics().items()}
        assert value == info["reward_goodput"] + info["reward_energy"]
        assert info["reward_goodput"] == (after[good_name] - before[good_name]) / 8
        joules = info["iteration_dynamic_j"] + power * (after["time_s"] - before["time_s"])
        assert info["reward_energy"] == pytest.approx(-0.002 * joules / 8, rel=1e-9)
        total += value
    assert set(info["metrics"]) == set(METRIC_NAMES)
    assert info["metrics"]["return"] == pytest.approx(total, rel=1e-12)
    assert info["metrics"][good_name] > 0
    records = env.engine.records(0)
    attained = records["status"] == at.ATTAINED_STATUS
    assert info["attained"] == attained.sum()
    assert info["metrics"]["good_tokens"] == 8 * attained.sum()


def test_by_requests_it_terminates_and_by_time_it_is_truncated():
    by_requests = play(single(), [np.array(SERVE)] * 500, seed=0)[-1]
    by_time = play(single(requests=None, horizon_s=0.5), [np.array(SERVE)] * 500, seed=0)[-1]
    assert by_requests[2:] == (True, False)
    assert by_time[2:] == (False, True)


def test_observations_name_what_they_hold():
    env = single(drift=None)
    names = env.observation_names
    observation, info = env.reset(seed=3)
    seen = dict(zip(names, observation.tolist(), strict=True))
    assert seen["last_fc_pu"] == seen["last_overlap_on"] == 0
    assert seen["attainment"] == 1
    for _ in range(25):
        action = np.array(SERVE)
        observation, _, ended, _, info = env.step(action)
        if ended:
            break
        seen = dict(zip(names, observation.tolist(), strict=True))
        # Exactly, in float32.
        assert seen["rlp"] * 256 == info["rlp"]
        assert seen["prefilling"] * 256 == info["prefilling"]
        assert seen["running_share"] == (info["rlp"] + info["prefilling"]) / 8
        assert seen["queued"] == pytest.approx(info["queued"] / 16 / (1 + info["queued"] / 16), rel=1e-6)
        chosen = {"fc_fc-pim", "speculation_2", "admission_all", "overlap_on"}
        lit = {name[5:] for name in names if name.startswith("last_") and seen[name] == 1.0}
        assert {
            name for name in lit if name.split("_")[0] in ("fc", "speculation", "admission", "overlap")
        } == chosen
        # No drift: nothing is slower than its profile.
        assert seen["drift_pu"] == seen["drift_fc-pim"] == seen["drift_attn-pim"] == 0
        assert 0 <= seen["tokens_at_2"] <= 1
        assert seen["tokens_at_4"] == seen["tokens_at_8"] == 0
        squashed = info["iteration_s"] / env.engine.tables.scalars[at.REFERENCE_S]
        assert seen["last_time"] == pytest.approx(squashed / (1 + squashed), rel=1e-6)
    assert ended


def test_observations_do_not_tell_what_a_scheduler_cannot_know():
    """Twins that differ in lengths to come and in later arrivals look alike until these come."""
    env = single(lengths={"input": 90, "output": 40})
    other = single(lengths={"input": 90, "output": 40})
    for e in (env, other):
        e.reset(seed=8)
    state = other.engine.state
    state.facts[0, :, at.OUTPUT] = 60
    state.moments[0, 2:, at.ARRIVAL_S] += 100.0
    later = env.engine.state.moments[0, 2, at.ARRIVAL_S]
    compared = 0
    while True:
        one, two = (e.step(np.array([at.PU, 0, at.ALL, 0])) for e in (env, other))
        if one[-1]["time_s"] >= later:
            break
        np.testing.assert_array_equal(one[0], two[0])
        compared += 1
    assert compared > 0


def test_drift_is_observed_once_a_unit_has_run():
    env = single(drift={"period_s": 100.0, "pu": 8.0, "fc_pim": 8.0, "attn_pim": 1.0})
    names = env.observation_names
    env.reset(seed=2)
    seen = dict(zip(names, env.step(np.array([at.PU, 0, at.ALL, 0]))[0].tolist(), strict=True))
    assert 0 < seen["drift_pu"] <= 3 / 4  # log2 of 8, squashed
    assert seen["drift_fc-pim"] == seen["drift_attn-pim"] == 0


# --- rendering -----------------------------------------------------------------------------------------


def test_rendering_shows_what_ran_where():
    env = single(render_mode="ansi")
    env.reset(seed=0)
    assert "iteration" not in env.render()
    times = [
        env.step(np.array(action))[-1] for action in ((at.PU, 0, at.ALL, 0), *[(at.FC_PIM, 1, at.ALL, 0)] * 3)
    ]
    text = env.render()
    assert text.startswith("papi · small")
    assert text.count("iteration") == 4
    for shown in ("prefill@pu", "draft@pu", "fc@fc-pim", "attention@attn-pim", "communication@link"):
        assert shown in text
    assert f"draft@pu {1e3 * times[-1]['draft_s']:.3f} ms" in text


@pytest.mark.parametrize("system", ["papi", "papi-pim-only", "a100"])
def test_segments_lie_within_their_iteration_and_add_up_to_the_busy_times(system):
    env = single(system=system, render_mode="ansi")
    env.reset(seed=1)
    ended, rng = False, np.random.default_rng(0)
    while not ended:
        ended = env.step(rng.integers(0, at.NVEC))[2]
        clocks = env.engine.clocks[0]
        iteration = env._timeline.iterations[-1]
        start, end = clocks[at.LAST_START_S], clocks[at.LAST_START_S] + clocks[at.LAST_TIME_S]
        for segment in iteration.segments:
            assert segment.start_s >= start * (1 - 1e-12)
            assert segment.start_s + segment.duration_s <= end * (1 + 1e-12)
        for lane, resource in (("pu", 0), ("fc-pim", 1), ("attn-pim", 2), ("link", 3)):
            shown = sum(s.duration_s for s in iteration.segments if s.lane == lane)
            assert shown == pytest.approx(clocks[at.LAST_BUSY_S + resource], rel=1e-9)
    assert len(env._timeline.iterations) == env.engine.counters[0, at.ITERATION]


def test_pictures_are_drawn():
    env = single(render_mode="rgb_array")
    env.reset(seed=0)
    blank = env.render()
    env.step(np.array(SERVE))
    drawn = env.render()
    assert drawn.dtype == np.uint8
    assert drawn.shape == blank.shape == (360, 960, 3)
    assert not np.array_equal(drawn, blank)


def test_a_batch_is_described_in_lines():
    env = ServingVectorEnv(scenario(), num_envs=2, render_mode="ansi")
    env.reset(seed=0)
    lines = env.render()
    assert len(lines) == 2
    assert lines[1].startswith("env 1: iteration 0, ")
    assert lines[1].endswith("s, 0 decoding, 0 in prefill, 1 queued, 0 finished, 0 in time")


# --- bad arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"system": "papy"}, "Unknown system 'papy'. Did you mean 'papi'"),
        ({"model": "llama-65"}, "Did you mean 'llama-65b'"),
        ({"energy_weight": -1.0}, "energy_weight"),
        ({"switch_s": -1e-6}, "switch_s"),
        ({"render_mode": "human"}, "render mode"),
        (
            {"serving": {"max_runing": 4}},
            r"serving\.max_runing: not a known field; did you mean 'max_running'",
        ),
        ({"serving": 3}, "serving is 3, expected Mapping"),
        ({"serving": {"requests": 4, "horizon_s": 1.0}}, "expected exactly one of requests and horizon_s"),
        ({"scenario": "creative-writing/llama-65b"}, "'creative-writing/llama-65b' has no serving part"),
        ({"system": "papi-1gpu"}, "weights"),
    ],
)
def test_bad_arguments_get_one_clear_message(arguments, message):
    arguments = {"scenario": scenario()} | arguments
    with pytest.raises(ConfigurationError, match=message):
        ServingEnv(**arguments)
    with pytest.raises(ConfigurationError, match=message):
        ServingVectorEnv(num_envs=2, **arguments)


def test_the_cost_of_one_step_is_no_ranking_here():
    env = single()
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="fork its engine"):
        env.joint_costs()
