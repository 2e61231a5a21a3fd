"""Policies of Serving-v0: what they choose, what they may see, and that a search does not see the future."""

import json
from functools import cache

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.evaluate import evaluate
from agents.registry import POLICIES, SERVING_POLICIES, make_policy
from agents.serving import belief as serving_belief
from agents.serving.adaptive import ServingAdaptive
from agents.serving.belief import imagine
from agents.serving.heuristic import RANGES, Parameters, ServingHeuristic
from agents.serving.oracles import ServingOracle, distinct
from agents.serving.rules import (
    FIXED_NAMES,
    ServingFixed,
    ServingPrefillThreshold,
    ServingRandom,
    ServingThreshold,
)
from agents.serving.search import ServingClairvoyant, ServingSearch, worth
from agents.serving.tuned import parameters_from, tuned_parameters
from agents.serving.view import AcceptanceEstimate, ServingView
from papi_env.envs.decode import DecodeVectorEnv
from papi_env.envs.serving import JOINT_ACTIONS, ServingVectorEnv
from papi_env.errors import ConfigurationError, DataError
from papi_env.simulation.serving import state as at

CLASSES = {"writing": 0.5, "code": 0.5}


def scenario(rate=9.0, system="papi", horizon_s=3.0, **serving):
    """A short episode of LLaMA-65B's conversations; `serving` replaces parts of it."""
    return {
        "name": "test",
        "system": system,
        "model": "llama-65b",
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": rate},
            "lengths": {"table": "azure-conversation"},
            "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
            "speculation": {"classes": CLASSES},
            "horizon_s": horizon_s,
            "max_running": 32,
        }
        | serving,
    }


def make_env(num_envs=1, **arguments):
    return ServingVectorEnv(scenario(**arguments), num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED)


@cache
def play(name, seeds=(0, 1), **arguments):
    return evaluate(make_policy(name), make_env(len(seeds), **arguments), seeds)


def busy_env(steps=60, action=(1, 2, 2, 1), seed=3, horizon_s=20.0, **arguments):
    """An environment in the middle of an episode, and its observation."""
    env = make_env(horizon_s=horizon_s, **arguments)
    env.reset(seed=[seed])
    for _ in range(steps):
        observation, *_ = env.step(np.array([action]))
    return env, observation


NAMES = (
    *SERVING_POLICIES,
    FIXED_NAMES[0],
    FIXED_NAMES[-1],
    "search-4x2x4",
    "clairvoyant-4x4",
    "portfolio-20",
)


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_plays_without_an_invalid_action(name):
    metrics = play(name)
    assert (metrics["tokens"] > 0).all()
    assert (metrics["invalid_actions"] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_plays_the_same_twice(name):
    again = evaluate(make_policy(name), make_env(2), (0, 1))
    for metric in ("time_s", "tokens", "total_j"):
        np.testing.assert_array_equal(play(name)[metric], again[metric])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
def test_single_and_vector_environments_are_played_alike(name):
    batch = play(name)
    for i in range(2):
        env = gym.make("papi_env/Serving-v0", scenario=scenario())
        policy = make_policy(name)
        policy.bind(env)
        observation, _ = env.reset(seed=i)
        state, start, done = None, np.ones(1, dtype=bool), False
        while not done:
            action, state = policy.predict(observation, state, start)
            assert env.action_space.contains(action)
            observation, _, terminated, truncated, _ = env.step(action)
            start[:] = False
            done = terminated or truncated
        assert env.unwrapped.metrics()["time_s"][0] == batch["time_s"][i]


@pytest.mark.parametrize("system", ["a100-attacc", "attacc-only", "papi-pim-only", "a100"])
def test_other_machines_are_played_with_what_they_have(system):
    for name in ("threshold-prefill-spec2", "adaptive", "random", "heuristic", "oracle", "search-4x1x4"):
        metrics = play(name, seeds=(0,), system=system, horizon_s=1.0, rate=4.0)
        assert (metrics["invalid_actions"] == 0).all(), name


def test_which_policies_are_privileged():
    privileged = {name for name in SERVING_POLICIES if make_policy(name).privileged}
    assert privileged == {"oracle", "search", "clairvoyant", "portfolio"}
    assert not make_policy(FIXED_NAMES[0]).privileged


def test_no_unprivileged_policy_looks_ahead_or_reads_the_instance(monkeypatch):
    env, observation = busy_env(20)
    rules = {name: make_policy(name) for name in SERVING_POLICIES}
    # Random draws among the masks, which are public.
    rules = {name: rule for name, rule in rules.items() if not rule.privileged and name != "random"}
    for rule in rules.values():
        rule.bind(env)
    # A learned policy is given the masks, which it would otherwise ask the environment for.
    given = {"learned": {"action_masks": env.valid_choices()}}

    def forbidden(*_):
        raise AssertionError("read the engine's state")

    for name in ("fork", "clone", "records"):
        monkeypatch.setattr(type(env.engine), name, forbidden)
    for name in ("state", "observations"):
        monkeypatch.setattr(type(env.engine), name, property(forbidden), raising=False)
    for name, rule in rules.items():
        actions, _ = rule.predict(observation, None, np.ones(1, dtype=bool), **given.get(name, {}))
        assert actions.shape == (1, 4), name


# --- rules ----------------------------------------------------------------------------------------------


def test_a_view_recovers_what_the_engine_counts():
    env, observation = busy_env(120, rate=12.0)
    counters, clocks = env.engine.counters[0], env.engine.clocks[0]
    view = ServingView(observation, env.engine.tables.scalars)
    assert counters[at.RLP] > 0
    assert view.rlp[0] == counters[at.RLP]
    assert view.prefilling[0] == counters[at.PREFILLING]
    assert view.queued[0] == counters[at.QUEUED]
    assert view.backlog[0] == counters[at.PREFILL_BACKLOG]
    assert view.last_speculation[0] == 4
    assert view.slack_s[0] == pytest.approx(clocks[at.SLACK_MEAN_S], rel=1e-4)
    assert view.mean_context[0] == pytest.approx(counters[at.CONTEXT_SUM] / counters[at.RLP], rel=1e-4)
    assert view.oldest_wait_s[0] == pytest.approx(clocks[at.TIME_S] - clocks[at.HEAD_ARRIVAL_S], abs=1e-6)


def observe(env, rlp, **features):
    """An observation of an idle machine, with `rlp` requests decoding and named features set."""
    observation = np.zeros((1, len(at.OBSERVATION_NAMES)), dtype=np.float32)
    values = {"rlp": rlp / 256, "tpot_slack_mean": 0.5, **features}
    for name, value in values.items():
        observation[0, at.OBSERVATION_NAMES.index(name)] = value
    return observation


def unit_of(policy, env, observation, state=None):
    policy.bind(env)
    actions, _ = policy.predict(observation, state)
    return int(actions[0, at.FC])


@pytest.mark.parametrize("speculation", [1, 2, 4, 8])
def test_the_threshold_is_papis(speculation):
    env = make_env()
    for rlp in range(1, 33):
        expected = at.PU if rlp * speculation > env.alpha else at.FC_PIM
        policy = ServingThreshold(speculation)
        assert unit_of(policy, env, observe(env, rlp)) == expected
        actions, _ = policy.predict(observe(env, rlp))
        assert actions[0, 1:].tolist() == [[1, 2, 4, 8].index(speculation), at.ALL, 0]


def test_beside_a_prompt_decoding_moves_to_fc_pim_where_the_profile_says_so():
    env = make_env(system="papi-h100")
    tables, scalars = env.engine.tables, env.engine.tables.scalars
    switching = scalars[at.SWITCHES_PER_SPLIT] * scalars[at.SWITCH_S]
    seen = set()
    for rlp in range(1, 33):
        for speculation in (1, 8):
            n = rlp * speculation
            beside = max(tables.fc_s[at.PU, 512], tables.fc_s[at.FC_PIM, n] + tables.bank_s[512] + switching)
            expected = at.FC_PIM if beside < tables.fc_s[at.PU, n + 512] else at.PU
            backlog = observe(env, rlp, prefill_backlog=600 / (600 + 2048))
            assert unit_of(ServingPrefillThreshold(speculation), env, backlog) == expected
            # Without prompts, PAPI's rule.
            alone = observe(env, rlp)
            assert unit_of(ServingPrefillThreshold(speculation), env, alone) == unit_of(
                ServingThreshold(speculation), env, alone
            )
            seen.add(expected)
    assert seen == {at.PU, at.FC_PIM}


def test_the_adaptive_threshold_follows_what_was_observed_and_tries_again():
    env = make_env()
    rlp = max(int(env.alpha) - 4, 1)
    healthy = observe(env, rlp)
    assert unit_of(ServingAdaptive(), env, healthy) == at.FC_PIM
    # FC-PIM at twice its profiled time: log2(2) squashed is one half.
    slow = observe(env, rlp, **{"drift_fc-pim": 0.5})
    assert unit_of(ServingAdaptive(), env, slow) == at.PU
    near = observe(env, rlp, **{"drift_fc-pim": 0.1})
    policy = ServingAdaptive(patience=3, margin=2.0)
    policy.bind(env)
    state, units = None, []
    for _ in range(5):
        actions, state = policy.predict(near, state, np.full(1, state is None))
        units.append(int(actions[0, at.FC]))
    assert units == [units[0]] * 4 + [1 - units[0]]


def test_every_fixed_action_has_a_name_and_is_that_action():
    assert len(set(FIXED_NAMES)) == len(JOINT_ACTIONS) == 72
    env = make_env()
    observation = observe(env, 4)
    for name, action in zip(FIXED_NAMES, JOINT_ACTIONS, strict=True):
        policy = make_policy(name)
        policy.bind(env)
        assert policy.predict(observation)[0][0].tolist() == action.tolist()


def test_random_choices_are_uniform_over_the_valid_ones():
    env, observation = busy_env()
    policy = ServingRandom(seed=5)
    policy.bind(env)
    drawn = np.array([policy.predict(observation)[0][0] for _ in range(1200)])
    for column, n in enumerate(at.NVEC):
        counts = np.bincount(drawn[:, column], minlength=n)
        # Five standard deviations of a binomial.
        assert np.abs(counts - 1200 / n).max() < 5 * np.sqrt(1200 / n * (1 - 1 / n))


@given(st.floats(0.05, 0.95), st.sampled_from([2, 4, 8]), st.integers(1, 64))
def test_acceptance_is_inferred_from_tokens_gained(rate, length, rlp):
    env = shared_env()
    gained = sum(rate**j for j in range(length)) / length
    features = {f"tokens_at_{length}": gained, f"last_speculation_{length}": 1.0}
    view = ServingView(observe(env, rlp, **features), env.engine.tables.scalars)
    assert view.acceptance()[0] == pytest.approx(rate, abs=0.01)
    estimate = AcceptanceEstimate(1)
    start = np.zeros(1, dtype=bool)
    assert np.isnan(ServingView(observe(env, rlp), env.engine.tables.scalars).acceptance()[0])
    beliefs = [float(estimate.update(view, start)[0]) for _ in range(200)]
    # From the prior towards what is seen, and never past it.
    gaps = np.abs(np.array(beliefs) - view.acceptance()[0])
    assert (np.diff(gaps) <= 1e-12).all()
    assert gaps[-1] < 0.6 * gaps[0] + 1e-3


@cache
def shared_env():
    return make_env()


def test_one_early_rejection_does_not_end_drafting():
    env = shared_env()
    policy = ServingHeuristic(Parameters(rows=16.0))
    policy.bind(env)
    # One request, one draft, rejected.
    seen = observe(env, 1, last_speculation_2=1.0, tokens_at_2=0.5)
    state = None
    for _ in range(2):
        actions, state = policy.predict(seen, state, np.full(1, state is None))
    assert actions[0, at.SPECULATION] > 0


def test_a_unit_seen_slow_takes_fewer_rows():
    env = shared_env()
    given = {"pim_alone": 1.0, "split_alone": 1.0, "gain": 1.8}
    rlp = int(env.alpha) - 2

    def unit(power, **features):
        return unit_of(ServingHeuristic(Parameters(**given, drift=power)), env, observe(env, rlp, **features))

    assert unit(1.0) == at.FC_PIM
    # FC-PIM at twice its profiled time: log2(2) squashed is one half.
    assert unit(1.0, **{"drift_fc-pim": 0.5}) == at.PU
    assert unit(0.0, **{"drift_fc-pim": 0.5}) == at.FC_PIM
    assert unit(1.0, **{"drift_fc-pim": 0.5, "drift_pu": 0.5}) == at.FC_PIM


def test_a_small_chunk_counts_as_none():
    env = shared_env()
    given = {"pim_alone": 0.1, "split_alone": 0.1, "pim_beside": 16.0}
    # 300 tokens of prompts wait to be processed, and nobody is in the queue.
    backlog = observe(env, 8, prefill_backlog=300 / (300 + 2048))
    for small, unit in ((0.0, at.FC_PIM), (200.0, at.FC_PIM), (400.0, at.PU)):
        assert unit_of(ServingHeuristic(Parameters(**given, small_chunk=small)), env, backlog) == unit


def test_the_heuristics_parameters_are_read_and_checked(tmp_path):
    assert set(RANGES) == set(Parameters.__dataclass_fields__)
    assert "default" in tuned_parameters(ServingHeuristic.file, Parameters)
    assert ServingHeuristic.file.name == "heuristic.json"
    assert tuned_parameters(tmp_path / "none.json", Parameters) == {"default": Parameters()}
    with pytest.raises(ConfigurationError, match=r"Did you mean 'pim_alone'"):
        parameters_from("somewhere", {"pim_alne": 1.0}, Parameters)
    with pytest.raises(ConfigurationError, match=r"urgent is 1000.*0, expected a finite number"):
        parameters_from("somewhere", {"urgent": 10**400}, Parameters)
    with pytest.raises(ConfigurationError, match=r"urgent is nan, expected a finite number"):
        Parameters(urgent=float("nan"))
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{")
    with pytest.raises(DataError, match=r"damaged.json: line 1: expected JSON"):
        tuned_parameters(damaged, Parameters)
    damaged.write_text('{"light": {}}')
    with pytest.raises(DataError, match=r"damaged.json, light: found no table 'parameters'"):
        tuned_parameters(damaged, Parameters)


def test_the_heuristic_takes_the_parameters_of_its_family(tmp_path, monkeypatch):
    file = tmp_path / "stored.json"
    stored = {"default": {"parameters": {"urgent": 0.1}}, "test": {"parameters": {"urgent": 0.2}}}
    file.write_text(json.dumps(stored))
    monkeypatch.setattr(ServingHeuristic, "file", file)
    policy = ServingHeuristic()
    policy.bind(make_env())
    assert policy.parameters.urgent == 0.2
    policy.bind(ServingVectorEnv(scenario() | {"name": "other/llama-65b"}, num_envs=1))
    assert policy.parameters.urgent == 0.1


def test_a_family_that_was_not_tuned_has_the_parameters_of_its_nearest(tmp_path, monkeypatch):
    stored = {"default": {"parameters": {"urgent": 0.1}}, "chats": {"parameters": {"urgent": 0.2}}}
    (tmp_path / "stored-v1.json").write_text(json.dumps(stored))
    monkeypatch.setattr(ServingHeuristic, "file", tmp_path / "stored.json")
    policy = ServingHeuristic()
    for name, urgent in (("chats-1.6/llama-65b", 0.2), ("storms/llama-65b", 0.1)):
        policy.bind(gym.make_vec("papi_env/Serving-v1", num_envs=1, scenario=name))
        assert policy.parameters.urgent == urgent


# --- look-ahead -----------------------------------------------------------------------------------------


def test_the_oracle_has_the_least_time_per_useful_token_of_the_step():
    env, observation = busy_env(80, rate=12.0)
    policy = ServingOracle()
    policy.bind(env)
    chosen = policy.predict(observation)[0][0]
    weight = policy._prompt_weight
    assert weight > 0

    def seconds_per_token(action):
        twin = env.engine.fork(0, 1)
        twin.actions[:] = action
        twin.step()
        gained = twin.counters[0] - env.engine.counters[0]
        useful = gained[at.TOKENS] + weight * gained[at.PREFILLED]
        return twin.clocks[0, at.LAST_TIME_S] / useful

    assert env.engine.counters[0, at.RLP] > 4
    best = seconds_per_token(chosen)
    assert all(best <= seconds_per_token(action) for action in JOINT_ACTIONS)


def test_only_what_means_nothing_is_left_out():
    env, _ = busy_env(80, rate=12.0)
    engine = env.engine
    kept = distinct(engine, 0, JOINT_ACTIONS)

    def outcomes(actions):
        twin = engine.fork(0, len(actions))
        twin.actions[:] = actions
        twin.step()
        names = [at.TIME_S, at.DYNAMIC_J]
        return {tuple(row) for row in np.hstack([twin.clocks[:, names], twin.counters[:, [at.TOKENS]]])}

    assert len(kept) < len(JOINT_ACTIONS) or engine.counters[0, at.QUEUED] > 1
    assert outcomes(kept) == outcomes(JOINT_ACTIONS)


def other_future(env, rng):
    """Change, in place, all of an instance that a scheduler cannot know yet."""
    engine = env.engine
    state, counters = engine.state, engine.counters
    arrived, total = int(counters[0, at.ARRIVED]), int(counters[0, at.REQUESTS])
    assert total > arrived
    state.moments[0, arrived:total, at.ARRIVAL_S] += 0.123
    engine.clocks[0, at.NEXT_ARRIVAL_S] += 0.123
    state.facts[0, arrived:total, at.INPUT] = rng.integers(1, 400, total - arrived)
    # Outputs still to come, and with them what is left of those that decode.
    facts, rlp = state.facts[0], int(counters[0, at.RLP])
    unfinished = np.isin(facts[:, at.STATUS], (at.WAITING, at.RUNNING, at.FUTURE))
    longer = np.where(unfinished, rng.integers(1, 100, len(facts)), 0)
    facts[:, at.OUTPUT] += longer
    state.left[0, :rlp] += longer[state.requests[0, :rlp]]
    # Classes, and which drafts pass.
    facts[:, at.CLASS] = 1 - facts[:, at.CLASS]
    state.classes[0, :rlp] = 1 - state.classes[0, :rlp]
    counters[0, at.SEED] += 17
    state.keys[0] += np.uint64(12345)


@pytest.mark.parametrize("steps", [5, 40, 90])
def test_a_search_does_not_see_the_future_and_a_clairvoyant_one_does(steps):
    env, observation = busy_env(steps, rate=12.0)
    engine = env.engine
    search = ServingSearch(candidates=72, samples=2, iterations=8)
    search.bind(env)
    clairvoyant = ServingClairvoyant(72, 8)
    clairvoyant.bind(env)
    options = distinct(engine, 0, JOINT_ACTIONS)
    action = search.predict(observation)[0]
    rates = search._rates(engine, 0, options, 8)
    knowing = clairvoyant._rates(engine, 0, options, 8)
    other_future(env, np.random.default_rng(0))
    np.testing.assert_array_equal(search._rates(engine, 0, options, 8), rates)
    np.testing.assert_array_equal(search.predict(observation)[0], action)
    assert not np.array_equal(clairvoyant._rates(engine, 0, options, 8), knowing)


def test_imagined_copies_keep_the_past_and_leave_the_engine_alone():
    env, _ = busy_env(90, rate=12.0, drift={})
    engine = env.engine
    before = [array.copy() for array in engine.state]
    twin = imagine(engine, 0, 3, 4, 0.6, seed=1)
    for array, then in zip(engine.state, before, strict=True):
        np.testing.assert_array_equal(array, then)
    assert twin.num_envs == 12
    arrived, rlp = engine.counters[0, at.ARRIVED], int(engine.counters[0, at.RLP])
    assert (twin.counters[:, at.REQUESTS] == arrived).all()
    generated = engine.state.facts[0, engine.state.requests[0, :rlp], at.OUTPUT] - engine.state.left[0, :rlp]
    imagined = np.take_along_axis(
        twin.state.facts[:, :, at.OUTPUT], twin.state.requests[:, :rlp].astype(np.int64), axis=1
    )
    np.testing.assert_array_equal(imagined - twin.state.left[:, :rlp], np.broadcast_to(generated, (12, rlp)))
    assert (twin.state.left[:, :rlp] >= 1).all()
    finished = engine.state.facts[0, :arrived, at.STATUS] >= at.ATTAINED_STATUS
    np.testing.assert_array_equal(
        twin.state.facts[:, :arrived, at.OUTPUT][:, finished],
        np.broadcast_to(engine.state.facts[0, :arrived, at.OUTPUT][finished], (12, finished.sum())),
    )
    # Samples differ, copies of a sample do not.
    lengths = twin.state.left[:, :rlp].reshape(3, 4, rlp)
    assert (lengths == lengths[:1]).all()
    assert len({tuple(row) for row in lengths[0]}) > 1
    # Units are as slow as they are now, at any later time.
    true, held = engine.fork(0, 1), imagine(engine, 0, 1, 1, 0.6, seed=1)
    for one in (true, held):
        one.actions[:] = (1, 0, 0, 0)
        one.step()
    assert held.clocks[0, at.LAST_TIME_S] == pytest.approx(true.clocks[0, at.LAST_TIME_S], rel=1e-12)
    factors = held.clocks[0, at.SEEN_DRIFT : at.SEEN_DRIFT + 3].copy()
    held.clocks[:, at.TIME_S] += 1000.0
    held.step()
    np.testing.assert_allclose(held.clocks[0, at.SEEN_DRIFT : at.SEEN_DRIFT + 3], factors, rtol=1e-12)


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 600), min_size=1, max_size=8),
    st.lists(st.integers(1, 500), min_size=1, max_size=8),
    st.integers(0, 2**32),
)
def test_imagined_lengths_come_from_the_population_that_is_longer(generated, population, seed):
    generated, known = np.array(generated), np.sort(np.array(population))
    uniforms = np.random.default_rng(seed).random((5, len(generated)))
    drawn = serving_belief.longer_than(generated, known, uniforms)
    assert (drawn > generated).all()
    within = generated < known[-1]
    assert np.isin(drawn[:, within], known).all()
    assert (drawn[:, ~within] == generated[~within] + 1).all()


def test_worth_counts_what_can_still_be_good():
    env, _ = busy_env(90, rate=12.0)
    engine = env.engine
    rlp = int(engine.counters[0, at.RLP])
    on_pace = engine.fork(0, 1)
    on_pace.state.deadlines[:] = on_pace.clocks[0, at.TIME_S] + 1.0
    late = engine.fork(0, 1)
    late.state.deadlines[:] = late.clocks[0, at.TIME_S] - 0.01
    lost = engine.fork(0, 1)
    lost.state.deadlines[:] = -np.inf
    values = [worth(twin, 0.0)[0] for twin in (on_pace, late, lost)]
    assert rlp > 0
    assert values[0] > values[1] > values[2] == engine.counters[0, at.GOOD_TOKENS]


# --- names ----------------------------------------------------------------------------------------------


def test_a_name_means_the_class_of_the_problem_it_is_bound_to():
    both = set(POLICIES) & set(SERVING_POLICIES)
    assert {"threshold", "adaptive", "oracle", "random"} <= both
    for name in both:
        assert make_policy(name).privileged == SERVING_POLICIES[name]().privileged
    policy = make_policy("threshold")
    decode = DecodeVectorEnv("creative-writing/opt-30b", num_envs=1, batch_size=4)
    for env, shape in ((make_env(), (1, 4)), (decode, (1,))):
        observation, _ = env.reset(seed=0)
        policy.bind(env)
        assert np.shape(policy.predict(observation)[0]) == shape


def test_what_cannot_be_played_is_said():
    decode = DecodeVectorEnv("creative-writing/opt-30b", num_envs=1, batch_size=4)
    with pytest.raises(ConfigurationError, match=r"plays papi_env/Serving-v0 alone, not DecodeVectorEnv"):
        make_policy("heuristic").bind(decode)
    with pytest.raises(ConfigurationError, match=r"dispatches static batches and image encodes"):
        make_policy("optimum").bind(make_env())
    with pytest.raises(ConfigurationError, match=r"before predict"):
        make_policy("threshold").predict(np.zeros(3))
    with pytest.raises(ConfigurationError, match=r"Did you mean 'fixed-fc-pim-4-all-on'"):
        make_policy("fixed-fcpim-4-all-on")
    with pytest.raises(ConfigurationError, match=r"cannot run FC kernels on 'fc-pim'; it can on 'pu' alone"):
        ServingFixed("fc-pim").bind(make_env(system="a100-attacc"))
    with pytest.raises(ConfigurationError, match=r"nothing overlaps; expected overlap 'off'"):
        ServingFixed("pu", overlap="on").bind(make_env(system="a100"))
    with pytest.raises(ConfigurationError, match=r"Unknown speculation length '3'"):
        ServingThreshold(3)
    with pytest.raises(ConfigurationError, match=r"samples is 0, expected at least 1"):
        make_policy("search-4x0x4")
    with pytest.raises(ConfigurationError, match=r"Did you mean 'threshold-prefill'"):
        make_policy("treshold-prefil")
