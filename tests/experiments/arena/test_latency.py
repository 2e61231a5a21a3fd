"""Decision times: of planners their looks count, of all others what a call usually takes."""

import pytest

from agents.registry import make_policy
from experiments.arena import latency
from experiments.arena.latency import decision_latency, time_decisions
from papi_env.envs.registration import SERVING_V1
from papi_env.scenario import get_scenario

SCENARIO = get_scenario("overload/llama-65b").replace(serving={"horizon_s": 12.0})


class Clock:
    """Seconds that pass only where a test lets them."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    return clock


def timed(policy, clock, look_s, other_s):
    """The policy, whose looks and other decisions take so long."""
    act, calls = policy.act, []

    def slower(observations, state, episode_start):
        before = 0 if state is None else state.looks
        actions, state = act(observations, state, episode_start)
        calls.append(state.looks > before)
        clock.now += look_s if calls[-1] else other_s
        return actions, state

    policy.act = slower
    return policy, calls


@pytest.mark.parametrize("name", ["planner-fair-1x12x2@slack-aware", "planner-star-1x1@slack-aware"])
def test_of_planners_the_mean_counts_with_their_looks(clock, name, monkeypatch):
    monkeypatch.setattr(latency, "_LOOKS", 3)
    policy, calls = timed(make_policy(name), clock, 2.0, 1e-3)
    found = decision_latency(policy, SERVING_V1, SCENARIO)
    looks = [k for k, looked in enumerate(calls) if looked]
    counted = calls[looks[2] : looks[5]]
    assert sum(counted) == 3
    expected = (3 * 2.0 + (len(counted) - 3) * 1e-3) / len(counted)
    assert found.single_s == pytest.approx(expected)
    # They look ahead for one environment after the other.
    assert found.batched_s == found.single_s


def test_of_an_episode_with_few_looks_all_of_it_counts(clock):
    policy, calls = timed(make_policy("planner-star-9x1@slack-aware"), clock, 2.0, 1e-3)
    found = decision_latency(policy, SERVING_V1, SCENARIO)
    assert found.single_s == pytest.approx((sum(calls) * 2.0 + (len(calls) - sum(calls)) * 1e-3) / len(calls))


def test_of_others_the_usual_call_counts(clock):
    policy = make_policy("slack-aware")
    act = policy.act

    def slower(observations, *others):
        clock.now += 1e-4 if len(observations) == 1 else 1e-3
        return act(observations, *others)

    policy.act = slower
    found = decision_latency(policy, SERVING_V1, SCENARIO)
    assert found.single_s == pytest.approx(1e-4)
    assert found.batched_s == pytest.approx(1e-3 / latency.BATCH)


def test_what_cannot_play_has_no_time():
    assert time_decisions(SERVING_V1, SCENARIO, "none-such") == {"single_s": [None], "batched_s": [None]}
