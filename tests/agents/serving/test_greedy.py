"""The profile-greedy rule: its profile is the machine's, it sees nothing else, and sets of parameters share a batch."""

from functools import cache

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.registry import make_policy
from agents.serving.greedy import GREEDY_RANGES, GreedyParameters, ProfileGreedy
from agents.serving.heuristic import Parameters, ServingHeuristic
from agents.serving.inside.memory import coming_chunk, expected_gain
from agents.serving.oracles import ORDERED_ACTIONS
from agents.serving.tuned import Estimates
from agents.serving.view import PRIOR_ACCEPTANCE, ServingView
from papi_env.envs.serving import JOINT_ACTIONS, ServingVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.seen import see

FIXED = (1, 1, 2, 0)


def scenario(system="papi", energy_weight=0.0, rate=12.0, horizon_s=20.0, **serving):
    return {
        "name": "test",
        "system": system,
        "model": "llama-65b",
        "energy_weight": energy_weight,
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": rate},
            "lengths": {"table": "azure-conversation"},
            "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
            "speculation": {"classes": {"writing": 0.5, "code": 0.5}},
            "horizon_s": horizon_s,
            "max_running": 64,
        }
        | serving,
    }


def make_env(num_envs=1, **arguments):
    return ServingVectorEnv(scenario(**arguments), num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED)


def busy(env, steps):
    env.reset(seed=list(range(env.num_envs)))
    for _ in range(steps):
        observation, *_ = env.step(np.tile(FIXED, (env.num_envs, 1)))
    return observation.copy()


def bound(env, *parameters):
    policy = ProfileGreedy(*parameters)
    policy.bind(env)
    return policy


@pytest.mark.parametrize("steps", [8, 60, 150])
@pytest.mark.parametrize("system", ["papi", "papi-h100", "attacc-only"])
def test_the_profile_gives_what_iterations_take(system, steps):
    rate = {"papi": 12.0, "papi-h100": 2.0, "attacc-only": 0.2}[system]
    env = make_env(system=system, rate=rate)
    observation = busy(env, steps)
    policy = bound(env, GreedyParameters())
    view = ServingView(observation, policy.tables.scalars)
    assert view.rlp[0] > 0
    options = policy.options.copy()
    options[:, at.ADMISSION] = at.NONE
    twin = env.engine.fork(0, len(options))
    twin.actions[:] = options
    twin.step()
    chunk = np.minimum(view.backlog, int(policy.tables.scalars[at.CHUNK]))
    prompt = np.full(1, float(env.engine.tables.population[:, 0].mean()))
    seconds, joules = policy.profiled(view, chunk, prompt)
    assert twin.counters[0, at.LAST_CHUNK] == chunk[0]
    # Contexts are known by their mean and the longest alone.
    np.testing.assert_allclose(seconds[0], twin.clocks[:, at.LAST_TIME_S], rtol=0.03)
    np.testing.assert_allclose(joules[0], twin.clocks[:, at.LAST_DYNAMIC_J], rtol=0.05)


def test_the_profile_follows_the_slow_down_that_was_seen():
    env = make_env(drift={"period_s": 5.0, "pu": 2.0, "fc_pim": 2.0, "attn_pim": 2.0}, rate=6.0)
    observation = busy(env, 150)
    policy = bound(env, GreedyParameters())
    view = ServingView(observation, policy.tables.scalars)
    twin = env.engine.fork(0, 1)
    twin.actions[:] = (at.FC_PIM, 1, at.NONE, 0)
    twin.step()
    k = np.flatnonzero((policy.options == (at.FC_PIM, 1, at.ALL, 0)).all(axis=1))[0]
    chunk, prompt = np.minimum(view.backlog, 512), np.full(1, 1000.0)
    seen = policy.profiled(view, chunk, prompt)[0][0, k]
    assert seen == pytest.approx(twin.clocks[0, at.LAST_TIME_S], rel=0.04)
    undrifted = observation.copy()
    undrifted[:, at.COLUMN.drift_pu : at.COLUMN.drift_pu + 3] = 0.0
    view = ServingView(undrifted, policy.tables.scalars)
    assert policy.profiled(view, chunk, prompt)[0][0, k] < 0.95 * seen


@pytest.mark.parametrize("steps", [8, 90, 150])
@pytest.mark.parametrize("system", ["papi", "papi-h100", "attacc-only", "a100-attacc"])
def test_it_takes_the_most_useful_tokens_per_second_of_its_profile(system, steps):
    env = make_env(system=system)
    observation = busy(env, steps)
    policy = bound(env, GreedyParameters(pace=1e9))
    action = policy.predict(observation)[0][0]
    view = ServingView(observation, policy.tables.scalars)
    # Nothing was drafted or admitted before: what is expected are the priors.
    chunk, prompt = view.coming_chunk, np.full(1, policy.tables.scalars[at.CHUNK])
    seconds, _ = policy.profiled(view, chunk, prompt)
    rate = [
        view.rlp[0] * expected_gain(PRIOR_ACCEPTANCE, 2**k) + policy._prompt_weight * chunk[0]
        for k in policy.options[:, at.SPECULATION]
    ] / seconds[0]
    best = policy.options[rate == rate.max()]
    preferred = [row.tolist() for row in ORDERED_ACTIONS if row.tolist() in best.tolist()]
    assert action.tolist() == preferred[0]


def test_it_sees_nothing_but_observations():
    env = make_env(num_envs=2)
    observation = busy(env, 60)
    policy = bound(env, GreedyParameters())
    before = policy.predict(observation)[0]
    # What is true changes, what is observed does not.
    for array in (env.engine.state.contexts, env.engine.state.left, env.engine.counters, env.engine.clocks):
        array[:] = 0
    np.testing.assert_array_equal(policy.predict(observation)[0], before)
    assert not policy.privileged


def test_a_price_on_energy_saves_energy_and_time_that_is_worth_more_brings_it_back():
    seeds = range(2)

    def joules(weight, time_worth):
        env = make_env(2, rate=3.0, energy_weight=weight, horizon_s=3.0)
        metrics = evaluate(ProfileGreedy(GreedyParameters(time_worth=time_worth)), env, seeds)
        return (metrics["dynamic_j"] / metrics["tokens"]).mean()

    assert joules(0.1, 0.01) < 0.99 * joules(0.0, 0.01)
    assert joules(0.1, 1e6) == pytest.approx(joules(0.0, 1.0), rel=1e-6)


def test_a_short_pace_holds_iterations_to_the_objective():
    env = make_env(system="papi", rate=25.0)
    observation = busy(env, 200)
    lengths = {}
    for pace in (0.25, 1e6):
        policy = bound(env, GreedyParameters(pace=pace))
        action = policy.predict(observation)[0]
        twin = env.engine.fork(0, 1)
        twin.actions[:] = action
        twin.step()
        lengths[pace] = twin.clocks[0, at.LAST_TIME_S] / (twin.counters[0, at.LAST_DECODED] or 1)
    assert lengths[0.25] <= lengths[1e6]


@pytest.mark.parametrize("system", ["a100", "a100-attacc", "attacc-only", "papi-pim-only", "papi-h100"])
def test_it_plays_machines_that_lack_units(system):
    env = make_env(2, system=system, rate=2.0, horizon_s=5.0)
    metrics = evaluate(make_policy("profile-greedy"), env, (0, 1))
    assert (metrics["tokens"] > 0).all()
    assert (metrics["invalid_actions"] == 0).all()


def test_it_beats_every_fixed_action_where_units_drift():
    seeds, load = range(2), {"rate": 6.0, "drift": {"period_s": 5.0, "pu": 2.0, "fc_pim": 2.0}}
    greedy = evaluate(ProfileGreedy(GreedyParameters()), make_env(2, **load), seeds)["return"].mean()
    env = make_env(2 * len(JOINT_ACTIONS), **load)
    env.reset(seed=[seed for seed in seeds for _ in JOINT_ACTIONS])
    env.engine.actions[:] = np.tile(JOINT_ACTIONS, (2, 1))
    while (env.engine.counters[:, at.DONE] == 0).any():
        env.engine.step()
    fixed = env.engine.clocks[:, at.RETURN].reshape(2, -1).mean(axis=0)
    assert greedy > fixed.max() > 0


@pytest.mark.parametrize(("tokens", "rate"), [(60, 25.0), (60, 100.0), (900, 6.0)])
def test_the_length_of_prompts_is_learned_from_those_admitted(tokens, rate):
    env = make_env(lengths={"input": tokens, "output": 100}, rate=rate)
    observations, _ = env.reset(seed=[0])
    estimates, start = Estimates(1), np.ones(1, dtype=bool)
    view = ServingView(observations, env.engine.tables.scalars)
    everyone = np.ones(1, dtype=bool)
    assert estimates.update(view, start)[1] == view.scalars[at.CHUNK]
    estimates.decided(view, everyone)
    for _ in range(400):
        observations, *_ = env.step(np.array([FIXED]))
        view = ServingView(observations, env.engine.tables.scalars)
        _, prompt = estimates.update(view, ~everyone)
        estimates.decided(view, everyone)
    assert env.engine.counters[0, at.PREFILLED] > 20 * tokens
    # The prior of a full chunk counts as one request. Where slots are short nothing wrong is learned.
    assert prompt[0] == pytest.approx(tokens, abs=20)
    queued = observations.copy()
    queued[0, at.OBSERVATION_NAMES.index("queued")] = 2 / 18
    view = ServingView(queued, env.engine.tables.scalars)
    seen, scalars = see(0, queued, view.scalars), view.scalars
    coming = coming_chunk(seen, True, prompt[0], scalars)
    assert coming == pytest.approx(min(view.backlog[0] + 2 * prompt[0], 512), abs=1)
    assert coming_chunk(seen, False, prompt[0], scalars) == min(view.backlog[0], 512)
    # Another episode knows nothing.
    assert estimates.update(view, everyone)[1] == view.scalars[at.CHUNK]


# --- parameters -----------------------------------------------------------------------------------------


SETS = {
    ServingHeuristic: (Parameters(), Parameters(gain=1.8, drift=0.0), Parameters(pim_alone=0.1, urgent=0.0)),
    ProfileGreedy: (GreedyParameters(), GreedyParameters(prompt_worth=4.0), GreedyParameters(pace=0.25)),
}


@cache
def alone(rule, k):
    return evaluate(rule(SETS[rule][k]), make_env(2, horizon_s=6.0, energy_weight=0.05), (5, 6))["return"]


@pytest.mark.parametrize("rule", SETS)
def test_sets_that_share_a_batch_play_as_each_alone(rule):
    together = evaluate(
        rule(*SETS[rule]), make_env(6, horizon_s=6.0, energy_weight=0.05), (5, 6) * len(SETS[rule])
    )["return"]
    expected = np.concatenate([alone(rule, k) for k in range(len(SETS[rule]))])
    np.testing.assert_array_equal(together, expected)
    assert len(set(together)) > 2
    with pytest.raises(ConfigurationError, match="3 parameter sets for 4 environments, expected a multiple"):
        rule(*SETS[rule]).bind(make_env(4))


def test_its_parameters_have_ranges_with_the_defaults_inside():
    assert set(GREEDY_RANGES) == set(GreedyParameters.__dataclass_fields__)
    for name, span in GREEDY_RANGES.items():
        assert span.low <= getattr(GreedyParameters(), name) <= span.high


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_gained_tokens_are_a_geometric_sum(length):
    for rate in (0.0, 0.3, 0.65, 1.0):
        expected = sum(rate**j for j in range(length))
        assert expected_gain(rate, length) == pytest.approx(expected, rel=1e-12)
