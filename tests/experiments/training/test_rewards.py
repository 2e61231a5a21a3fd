"""What training pays in Serving-v0: time at a price that favours no policy, progress that adds up, and holding."""

import numpy as np
import pytest

from agents.serving.search import CATCH_UP
from experiments.training import rewards as train_rewards
from experiments.training.rewards import FORGETTING, TrainingReward, tokens_in_time
from papi_env.envs.registration import DECODE, KERNELS, SERVING
from papi_env.errors import ConfigurationError
from papi_env.sb3 import make_vec
from papi_env.sb3_mixture import make_mixture
from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import empty_state

NUM_ENVS = 4
HORIZON_S = 2.0
# Speculation on FC-PIM finishes requests, one token at a time on the PUs is late.
GOOD, POOR = (1, 2, 2, 0), (0, 0, 2, 0)
OFF = {"price_time": False, "progress": False, "holding": 0.0}


def scenario(rate=9.0, horizon_s=HORIZON_S, **serving):
    """Short episodes of conversations."""
    return {
        "name": "short",
        "system": "papi",
        "model": "llama-65b",
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": rate},
            "lengths": {"table": "azure-conversation"},
            "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
            "speculation": {"classes": {"code": 1.0}},
            "horizon_s": horizon_s,
            "max_running": 32,
        }
        | serving,
    }


def plain_envs(horizon_s=HORIZON_S):
    return make_vec(SERVING, NUM_ENVS, seed=0, scenario=scenario(horizon_s=horizon_s))


def mixed_envs(horizon_s=HORIZON_S):
    """Two environments of a busy setting and two of one where next to nothing comes."""
    settings = [{"scenario": scenario(rate, horizon_s)} for rate in (9.0, 1.0)]
    return make_mixture(SERVING, settings, NUM_ENVS)


def wrapped(envs, gamma=0.99, **terms):
    return TrainingReward(envs, gamma, **{**OFF, **terms})


def engines(envs):
    inner = envs.unwrapped
    parts = inner.parts if hasattr(inner, "parts") else (inner,)
    return [part.vector_env.unwrapped.engine for part in parts]


def column(envs, array, index):
    """A counter or a clock of all environments."""
    return np.concatenate([getattr(engine, array)[:, index] for engine in engines(envs)]).astype(np.float64)


def played(envs, actions):
    """Observations, rewards, dones, infos and times of environments that take the same `actions` one by one."""
    envs.seed(0)
    steps = [(envs.reset(), None, None, None, column(envs, "clocks", at.TIME_S))]
    for action in actions:
        step = envs.step(np.tile(action, (envs.num_envs, 1)))
        steps.append((*step, column(envs, "clocks", at.TIME_S)))
    return [list(values) for values in zip(*steps, strict=True)]


def random_actions(steps, seed=0):
    return np.random.default_rng(seed).integers(0, at.NVEC, (steps, len(at.NVEC)))


def first_episodes(envs, action):
    """Return and seconds of the first episode in every environment, and the longest of their last steps."""
    envs.seed(0)
    envs.reset()
    start = column(envs, "clocks", at.TIME_S)
    returns, seconds, last = np.zeros(envs.num_envs), np.zeros(envs.num_envs), 0.0
    while not seconds.all():
        _, rewards, dones, infos = envs.step(np.tile(action, (envs.num_envs, 1)))
        playing = seconds == 0
        returns += np.where(playing, rewards, 0)
        for e in np.flatnonzero(dones & playing):
            seconds[e] = infos[e]["time_s"] - start[e]
            last = max(last, infos[e]["iteration_s"])
    return returns, seconds, last


@pytest.mark.parametrize("make", [plain_envs, mixed_envs])
def test_without_terms_everything_passes_unchanged(make):
    actions = random_actions(250)
    observations, rewards, dones, infos, _ = played(make(), actions)
    found = played(wrapped(make()), actions)
    np.testing.assert_array_equal(found[0], observations)
    np.testing.assert_array_equal(found[1][1:], rewards[1:])
    np.testing.assert_array_equal(found[2][1:], dones[1:])
    assert found[1][-1].dtype == np.float32
    assert np.any(dones[1:]), "ends of episodes are part of it"
    ended = int(np.flatnonzero(np.any(dones[1:], axis=1))[0]) + 1
    for ours, theirs in zip(found[3][ended], infos[ended], strict=True):
        assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("terms", [{"price_time": True}, {"progress": True}, {"holding": 0.7}])
def test_a_term_changes_rewards_alone(terms):
    actions = random_actions(150)
    observations, rewards, dones, _, _ = played(plain_envs(), actions)
    found = played(wrapped(plain_envs(), **terms), actions)
    np.testing.assert_array_equal(found[0], observations)
    np.testing.assert_array_equal(found[2][1:], dones[1:])
    assert not np.array_equal(found[1][1:], rewards[1:])


def test_the_price_of_time_favours_no_policy(monkeypatch):
    """Over whole episodes it takes price x seconds, and all policies have the horizon's."""
    price, much = 1.7, 1e14
    monkeypatch.setattr(train_rewards, "FORGETTING", 0.0)
    returns, taken = {}, {}
    for action in (GOOD, POOR):
        plain, seconds, last = first_episodes(plain_envs(), action)
        envs = wrapped(plain_envs(), price_time=True)
        envs.memory[:] = [[price * much], [much]]  # so much that what is earned here moves nothing
        priced, again, _ = first_episodes(envs, action)
        np.testing.assert_array_equal(seconds, again)
        np.testing.assert_allclose(plain - priced, price * seconds, rtol=1e-5)
        returns[action], taken[action] = plain, plain - priced
    assert (returns[GOOD] > returns[POOR] + 0.1).any(), "policies that differ"
    # An episode ends with the iteration that reaches the horizon: no later than that by an iteration.
    assert last < 0.1 * HORIZON_S
    np.testing.assert_allclose(taken[GOOD], taken[POOR], atol=price * 0.1 * HORIZON_S)


def test_the_price_is_what_each_setting_earned_per_second_of_late():
    actions = np.tile(GOOD, (220, 1))
    _, rewards, dones, infos, times = played(mixed_envs(), actions)
    envs = wrapped(mixed_envs(), price_time=True)
    found = played(envs, actions)[1]
    earned, taken = np.zeros(2), np.zeros(2)
    for k in range(1, len(times)):
        ends = [
            info["time_s"] if done else time
            for info, done, time in zip(infos[k], dones[k], times[k], strict=True)
        ]
        seconds = np.array(ends) - times[k - 1]
        assert (seconds >= 0).all(), "0 for an episode in which nothing arrives"
        earned = earned * (1 - FORGETTING) + rewards[k].reshape(2, 2).sum(axis=1)
        taken = taken * (1 - FORGETTING) + seconds.reshape(2, 2).sum(axis=1)
        price = np.repeat(earned / taken, 2)
        np.testing.assert_allclose(found[k], rewards[k] - price * seconds, rtol=1e-5, atol=1e-6)
    # Rewards come in single precision.
    np.testing.assert_allclose(envs.memory, [earned, taken], rtol=1e-7)
    assert earned[0] / taken[0] > 2 * earned[1] / taken[1], "settings that earn differently"


def test_what_a_setting_earned_is_remembered_over_a_reset():
    envs = wrapped(plain_envs(), price_time=True)
    played(envs, np.tile(GOOD, (120, 1)))
    memory = envs.memory.copy()
    assert (memory > 0).all()
    envs.reset()
    np.testing.assert_array_equal(envs.memory, memory)
    np.testing.assert_array_equal(envs.before, column(envs, "clocks", at.TIME_S))


@pytest.mark.parametrize("make", [plain_envs, mixed_envs])
def test_progress_adds_up_to_the_growth_of_its_potential(make):
    actions = np.tile(GOOD, (60, 1))
    _, rewards, dones, _, _ = played(make(100.0), actions)
    assert not np.any(dones[1:])
    envs = wrapped(make(100.0), gamma=1.0, progress=True)
    found = played(envs, actions)[1]
    grown = np.sum(np.subtract(found[1:], rewards[1:]), axis=0)
    assert (envs.potential[:2] > 0.01).all()
    np.testing.assert_allclose(grown, envs.potential, atol=1e-5)  # an empty machine has none


def test_progress_is_discounted_and_an_end_pays_none():
    gamma, actions = 0.9, np.tile(GOOD, (220, 1))
    _, rewards, dones, _, _ = played(plain_envs(), actions)
    envs = wrapped(plain_envs(), gamma=gamma, progress=True)
    envs.seed(0)
    envs.reset()
    for k, action in enumerate(actions, start=1):
        before = envs.potential.copy()
        _, paid, _, _ = envs.step(np.tile(action, (NUM_ENVS, 1)))
        (engine,) = engines(envs)
        after = plain_tokens(engine.state, CATCH_UP * engine.tables.scalars[at.TPOT_S])
        after /= engine.tables.scalars[at.REFERENCE_TOKENS]
        expected = np.where(dones[k], 0.0, gamma * after - before)
        np.testing.assert_allclose(paid - rewards[k], expected, atol=1e-6)
        np.testing.assert_allclose(envs.potential, after, rtol=1e-12)
    assert np.any(dones[1:])


def plain_tokens(state, reserve_s):
    """`tokens_in_time` in words of one request at a time."""
    found = []
    for e in range(len(state.counters)):
        held = 0.0
        for i in range(state.counters[e, at.RLP]):
            left = int(state.left[e, i])
            made = int(state.facts[e, state.requests[e, i], at.OUTPUT]) - left
            behind_s = max(state.clocks[e, at.TIME_S] - state.deadlines[e, i], 0.0)
            held += made * max(1.0 - behind_s / (reserve_s * max(left, 1)), 0.0)
        found.append(held)
    return np.array(found)


def counted(state, reserve_s):
    found = np.full(len(state.counters), np.nan)
    arrays = (state.requests, state.left, state.deadlines, state.facts)
    tokens_in_time(state.counters, state.clocks, *arrays, reserve_s, found)
    return found


def test_tokens_in_time_are_those_of_a_plain_count():
    envs = plain_envs()
    (engine,) = engines(envs)
    envs.reset()
    late = 0
    for action in random_actions(120, seed=1):
        envs.step(np.tile(action, (NUM_ENVS, 1)))
        reserve_s = CATCH_UP * engine.tables.scalars[at.TPOT_S]
        found = counted(engine.state, reserve_s)
        np.testing.assert_allclose(found, plain_tokens(engine.state, reserve_s), rtol=1e-12)
        on_pace = plain_tokens(engine.state, np.inf)
        assert (found <= on_pace).all()
        late += int((found < on_pace).sum())
    assert late > 0, "requests that are behind are part of it"


@pytest.mark.parametrize(
    ("deadline_s", "expected"),
    [(10.0, 30.0), (5.0, 30.0), (4.0, 15.0), (3.0, 0.0), (-20.0, 0.0), (-np.inf, 0.0)],
)
def test_a_request_counts_as_far_as_it_can_catch_up(deadline_s, expected):
    """At 5 s, with 30 of 50 tokens made and 0.1 s to catch up in each of the other 20."""
    state = empty_state(1, 2, 1, at.NUM_CLOCKS, get_scenario("saturated/llama-65b").serving)
    state.counters[0, at.RLP] = 1
    state.clocks[0, at.TIME_S] = 5.0
    state.facts[0, 0, at.OUTPUT], state.left[0, 0] = 50, 20
    state.deadlines[0, 0] = deadline_s
    np.testing.assert_allclose(counted(state, 0.1), [expected], atol=1e-9)


def test_holding_costs_the_requests_on_the_machine_for_their_share_of_the_episode():
    weight, actions = 0.7, np.tile(POOR, (150, 1))
    _, rewards, dones, infos, times = played(mixed_envs(), actions)
    envs = wrapped(mixed_envs(), holding=weight)
    envs.seed(0)
    envs.reset()
    for k, action in enumerate(actions, start=1):
        running = sum(column(envs, "counters", c) for c in (at.RLP, at.PREFILLING, at.QUEUED))
        _, paid, _, _ = envs.step(np.tile(action, (NUM_ENVS, 1)))
        ends = np.where(dones[k], [info.get("time_s", 0.0) for info in infos[k]], times[k])
        cost = weight * running * (ends - times[k - 1]) / HORIZON_S
        np.testing.assert_allclose(paid, rewards[k] - cost, rtol=1e-5, atol=1e-6)
    assert np.any(dones[1:])
    assert running[:2].mean() > 5, "a machine that has something to hold"


def test_holding_costs_nothing_where_episodes_end_with_their_requests():
    by_requests = scenario(horizon_s=None, requests=3)
    actions = np.tile(GOOD, (40, 1))
    rewards = played(make_vec(SERVING, NUM_ENVS, scenario=by_requests), actions)[1]
    found = played(wrapped(make_vec(SERVING, NUM_ENVS, scenario=by_requests), holding=1.0), actions)[1]
    np.testing.assert_array_equal(found[1:], rewards[1:])


@pytest.mark.parametrize("env_id", [DECODE, KERNELS])
def test_other_problems_are_refused(env_id):
    with pytest.raises(ConfigurationError, match="terms of papi_env/Serving-v0; expected none of them here"):
        wrapped(make_vec(env_id, 2), price_time=True)
