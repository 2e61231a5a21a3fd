"""No policy beats its oracle or the optimum, and PAPI's threshold comes within one percent."""

from itertools import product

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.batch.adaptive import AdaptiveAlpha
from agents.batch.oracles import plan
from agents.batch.rules import Random, Static, Threshold, calibrate_alpha
from agents.evaluate import evaluate
from agents.registry import POLICIES, make_policy
from papi_env.envs.decode import DecodeVectorEnv
from papi_env.envs.kernels import KernelsVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.scenario import PAPER_SCENARIOS, get_scenario
from papi_env.workload.requests import Lengths

SEEDS = range(4)


def returns(policy, scenario="creative-writing/llama-65b", problem=DecodeVectorEnv, seeds=SEEDS, **arguments):
    env = problem(scenario, num_envs=len(seeds), autoreset_mode=AutoresetMode.DISABLED, **arguments)
    policy = make_policy(policy) if isinstance(policy, str) else policy
    return evaluate(policy, env, seeds)["return"]


def rounding(best):
    """Sums of a thousand terms in another order differ by this much at most."""
    return 1e-9 * np.abs(best)


@pytest.mark.parametrize("scenario", PAPER_SCENARIOS)
@pytest.mark.parametrize(("batch_size", "speculation"), [(4, 1), (16, 2), (64, 4)])
def test_with_free_switching_no_policy_beats_the_oracle(scenario, batch_size, speculation):
    where = {"scenario": scenario, "batch_size": batch_size, "speculation": speculation}
    best = returns("oracle", **where)
    for policy in sorted(set(POLICIES) - {"oracle"}):
        assert (returns(policy, **where) <= best + rounding(best)).all(), policy


@pytest.mark.parametrize("scenario", PAPER_SCENARIOS)
def test_the_calibrated_threshold_is_within_three_percent_of_the_oracle(scenario):
    # Steps of a GPU's tiles, to which a threshold is blind, are what is left.
    for batch_size, speculation in product((4, 16, 64), (1, 2, 4)):
        where = {"scenario": scenario, "batch_size": batch_size, "speculation": speculation}
        best = returns("oracle", **where)
        assert (returns("threshold", **where) >= 1.03 * best).all()


@pytest.mark.parametrize("switch_s", [1e-4, 1e-2, 0.3])
def test_with_a_switching_cost_no_policy_beats_the_optimum(switch_s):
    where = {"switch_s": switch_s, "acceptance_rate": 0.7, "speculation": 4, "batch_size": 32}
    best = returns("optimum", **where)
    for policy in sorted(set(POLICIES) - {"optimum"}):
        assert (returns(policy, **where) <= best + rounding(best)).all(), policy


def test_the_one_step_oracle_is_not_optimal_when_switching_costs():
    where = {"switch_s": 0.05}
    assert (returns("optimum", **where) > returns("oracle", **where)).all()


@pytest.mark.parametrize("switch_s", [1e-4, 3e-3, 2e-2, 0.1])
def test_the_optimum_is_the_best_of_all_schedules(switch_s):
    scenario = get_scenario("creative-writing/llama-65b").replace(
        lengths=Lengths(table="dolly-creative-writing"), batch_size=64, speculation=2, switch_s=switch_s
    )
    horizon = 8
    env = DecodeVectorEnv(
        scenario, num_envs=1, autoreset_mode=AutoresetMode.DISABLED, max_episode_steps=horizon
    )
    env.reset(seed=3)
    # Shorten the instance: only requests that end within the horizon, and parallelism that crosses α.
    remaining = env.engine.remaining[0]
    remaining[:] = np.linspace(1, 2 * horizon, len(remaining)).astype(np.int32)
    start = env.engine.clone()
    costs, switches, last = env.clairvoyant_costs()
    assert len(costs) == horizon
    schedule = plan(costs, switches, last)[:, 0]

    def play(units):
        engine = start.clone()
        for unit in units:
            engine.actions[:] = unit
            engine.step()
        assert engine.metrics()["tokens"][0] == remaining.sum()
        return engine.metrics()["return"][0]

    every = {units: play(units) for units in product((0, 1), repeat=horizon)}
    best = max(every.values())
    assert play(tuple(schedule)) == pytest.approx(best, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_dynamic_programme_equals_brute_force(data):
    horizon = data.draw(st.integers(1, 7))
    cost = st.floats(0, 10)
    costs = np.array(data.draw(st.lists(st.tuples(cost, cost), min_size=horizon, max_size=horizon)))
    switches = np.array(data.draw(st.lists(cost, min_size=horizon, max_size=horizon)))
    last = data.draw(st.sampled_from([-1, 0, 1]))

    def price(units):
        total, previous = 0.0, last
        for t, unit in enumerate(units):
            total += costs[t, unit] + (switches[t] if previous >= 0 and previous != unit else 0.0)
            previous = unit
        return total

    schedule = plan(costs[:, None], switches[:, None], np.array([last]))[:, 0]
    best = min(price(units) for units in product((0, 1), repeat=horizon))
    assert price(schedule) == pytest.approx(best, abs=1e-9)


def test_in_kernels_the_oracle_beats_every_fixed_joint_action_where_switching_is_free():
    where = {"problem": KernelsVectorEnv, "switch_s": 0.0, "batch_size": 16}
    best = returns("oracle", **where)
    env = KernelsVectorEnv("creative-writing/llama-65b", num_envs=1, batch_size=16)
    for joint in env.joint_actions():

        class Fixed:
            privileged = False

            def predict(self, observation, state=None, episode_start=None, deterministic=True, joint=joint):
                return np.repeat(joint[None], len(observation), axis=0), state

        assert (returns(Fixed(), **where) <= best + rounding(best)).all(), joint


@pytest.mark.parametrize("problem", [DecodeVectorEnv, KernelsVectorEnv])
@pytest.mark.parametrize("system", ["papi", "a100-attacc", "attacc-only", "papi-pim-only", "a100"])
def test_every_policy_plays_every_system_without_an_invalid_action(problem, system):
    for name in POLICIES:
        env = problem(
            "creative-writing/opt-30b",
            num_envs=2,
            system=system,
            batch_size=4,
            autoreset_mode=AutoresetMode.DISABLED,
        )
        try:
            metrics = evaluate(make_policy(name), env, [0, 1])
        except ConfigurationError as refusal:
            if name not in ("static-pu", "static-fc-pim", "optimum"):
                raise AssertionError(name) from refusal
            continue
        assert (metrics["invalid_actions"] == 0).all()


def test_initial_scheduling_decides_once_and_runtime_scheduling_follows_the_requests():
    switches = {}
    for runtime in (True, False):
        env = DecodeVectorEnv(
            "creative-writing/llama-65b",
            num_envs=4,
            autoreset_mode=AutoresetMode.DISABLED,
            batch_size=64,
            speculation=4,
        )
        switches[runtime] = evaluate(Threshold(runtime=runtime), env, SEEDS)["switches"]
    assert (switches[True] == 1).all()
    assert (switches[False] == 0).all()


def test_extreme_thresholds_are_the_static_mappings():
    np.testing.assert_array_equal(returns(Threshold(alpha=0)), returns("static-pu"))
    np.testing.assert_array_equal(returns(Threshold(alpha=np.inf)), returns("static-fc-pim"))


def test_adaptive_alpha_finds_the_calibrated_one_from_times_alone():
    env = DecodeVectorEnv("creative-writing/llama-65b", num_envs=4, batch_size=64, speculation=4)
    policy = AdaptiveAlpha()
    policy.bind(env)
    observations, _ = env.reset(seed=0)
    state = None
    for _ in range(2500):
        actions, state = policy.predict(observations, state)
        observations, *_ = env.step(actions)
    # The curves have steps, of 32 rows and more on the GPUs, which a straight line cannot follow closer.
    assert np.abs(policy.alpha_of(state) - env.alpha).max() <= 32


def test_adaptive_alpha_follows_a_machine_that_departs_from_its_profile():
    # FC-PIM at a third of its rate: the threshold calibrated on the healthy machine is wrong.
    slow = get_scenario("creative-writing/llama-65b").model_dump()
    slow["system"]["fc_pim"]["cadence_clocks"] *= 3
    slow["workload"]["batch_size"] = 32
    stale = Threshold(alpha=calibrate_alpha("papi", "llama-65b"))
    assert (returns(AdaptiveAlpha(), scenario=slow) > returns(stale, scenario=slow)).all()


def test_no_unprivileged_policy_reads_costs(monkeypatch):
    def forbidden(*_):
        raise AssertionError("read the costs")

    monkeypatch.setattr(DecodeVectorEnv, "joint_costs", forbidden)
    monkeypatch.setattr(DecodeVectorEnv, "clairvoyant_costs", forbidden)
    for name in POLICIES:
        policy = make_policy(name)
        if policy.privileged:
            with pytest.raises(AssertionError, match="read the costs"):
                returns(policy, batch_size=4)
        else:
            returns(policy, batch_size=4)


def test_a_batch_and_its_rows_get_the_same_actions():
    env = gym.make("papi_env/Decode-v0", batch_size=64)
    observation, _ = env.reset(seed=0)
    policy = Threshold()
    policy.bind(env)
    single, _ = policy.predict(observation)
    batch, _ = policy.predict(np.stack([observation, observation]))
    assert np.shape(single) == ()
    assert batch.tolist() == [single, single]
    assert env.action_space.contains(single)


def test_policies_run_in_stable_baselines3s_evaluation():
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    env = Monitor(gym.make("papi_env/Decode-v0", batch_size=4))
    policy = Threshold()
    policy.bind(env)
    mean, _ = evaluate_policy(policy, env, n_eval_episodes=2)
    assert mean < 0


def test_alpha_of_the_registered_systems():
    assert calibrate_alpha("a100-attacc", "llama-65b") == 0
    assert calibrate_alpha("attacc-only", "llama-65b") == np.inf
    assert 100 <= calibrate_alpha("papi", "llama-65b") <= 200


def test_unknown_and_broken_policies_get_one_clear_message():
    with pytest.raises(ConfigurationError, match=r"Unknown policy 'treshold'\. Did you mean 'threshold'"):
        make_policy("treshold")
    with pytest.raises(ConfigurationError, match="cannot import 'nowhere'"):
        make_policy("nowhere:Policy")
    with pytest.raises(ConfigurationError, match="called without arguments"):
        make_policy("agents.batch.rules:Missing")
    with pytest.raises(ConfigurationError, match="has no predict"):
        make_policy("collections:OrderedDict")
    assert isinstance(make_policy("agents.batch.rules:Random"), Random)
    with pytest.raises(ConfigurationError, match="alpha is -1"):
        Threshold(alpha=-1)
    with pytest.raises(ConfigurationError, match="Unknown unit 'gpu'"):
        Static("gpu")
    with pytest.raises(ConfigurationError, match="before predict"):
        Threshold().predict(np.zeros(3))
    with pytest.raises(ConfigurationError, match="plays the environments of papi_env in this process"):
        Threshold().bind(gym.make("CartPole-v1"))
    with pytest.raises(ConfigurationError, match=r"cannot run FC kernels on 'fc-pim'; it can on pu"):
        returns("static-fc-pim", system="a100-attacc")
