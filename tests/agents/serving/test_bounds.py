"""No policy beats the bounds, whatever the machine and the load; and they are worth something."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.evaluate import evaluate
from agents.registry import make_policy
from agents.serving.bounds import ServingBounds, knapsacks, serving_bounds
from agents.serving.bounds_tables import decode_paths, least_seconds
from papi_env.envs.serving import JOINT_ACTIONS, ServingVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.simulation.draws import accepted_prefix, request_key
from papi_env.simulation.serving import state as at

PLAYERS = (
    "random",
    "threshold",
    "fixed-fc-pim-4-all-on",
    "fixed-split-8-one-off",
    "oracle",
    "clairvoyant-8x8",
)


def make_env(serving, system="papi", num_envs=1, **arguments):
    table = {
        "name": "test",
        "system": system,
        "model": "opt-30b",
        "energy_weight": 1e-3,
        "serving": {
            "arrivals": {"process": "poisson", "rate_per_s": 20.0},
            "lengths": {"table": "dolly-general-qa"},
            "objectives": {"ttft_s": 0.2, "tpot_s": 0.01},
            "speculation": {"classes": {"writing": 0.5, "code": 0.5}},
            "max_running": 8,
            "chunk_tokens": 64,
            "requests": 6,
        }
        | serving,
    }
    return ServingVectorEnv(table, num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED, **arguments)


def play(name, env, seeds):
    policy = make_policy(name)
    try:
        return evaluate(policy, env, seeds)
    except ConfigurationError:  # a fixed action that the machine cannot take
        return None


def check(env, seeds, players=PLAYERS):
    """Play an environment with several policies; the bounds that all of them kept."""
    env.reset(seed=list(seeds))
    bounds = serving_bounds(env.engine)
    by_time = np.isfinite(env.engine.tables.scalars[at.HORIZON_S])
    for name in players:
        metrics = play(name, env, seeds)
        if metrics is None:
            continue
        counted = "on_time_tokens" if env.scenario.serving.reward == "on-time" else "good_tokens"
        assert (metrics[counted] <= bounds["good_tokens"]).all(), name
        assert (metrics["time_s"] >= bounds["time_s"]).all(), name
        rounding = 1e-9 * np.abs(bounds["episode_return"]) + 1e-9
        assert (metrics["return"] <= bounds["episode_return"] + rounding).all(), name
        if counted == "good_tokens":
            assert (np.nan_to_num(metrics["goodput"]) <= bounds["goodput"]).all(), name
        if not by_time:
            assert (metrics["finished"] + metrics["rejected"] == metrics["arrived"]).all()
    return bounds


objectives = st.fixed_dictionaries(
    {"ttft_s": st.sampled_from([0.005, 0.05, 0.5, 50.0]), "tpot_s": st.sampled_from([1e-4, 3e-3, 8e-3, 1.0])}
)
lengths = st.one_of(
    st.just({"table": "dolly-general-qa"}),
    st.fixed_dictionaries({"input": st.integers(1, 300), "output": st.integers(1, 60)}),
)
arrivals = st.one_of(
    st.just({"process": "together"}),
    st.fixed_dictionaries(
        {"process": st.just("gamma"), "rate_per_s": st.floats(1.0, 300.0), "shape": st.floats(0.2, 4.0)}
    ),
)
serving = st.fixed_dictionaries(
    {
        "arrivals": arrivals,
        "lengths": lengths,
        "objectives": objectives,
        "prefill": st.booleans(),
        "draft_cost": st.booleans(),
        "switching": st.booleans(),
        "dual_row_buffers": st.booleans(),
        "drift": st.sampled_from([None, {}, {"period_s": 0.1}]),
        "reward": st.sampled_from(["attained", "on-time"]),
        "decision_s": st.sampled_from([0.0, 1e-3]),
    }
)
systems = st.sampled_from(["papi", "papi-pim-only", "a100", "attacc-only", "papi-h100"])


@settings(max_examples=25)
@given(serving, systems, st.integers(1, 8), st.integers(0, 1000))
def test_no_policy_serves_all_requests_sooner(settings_drawn, system, requests, seed):
    check(make_env(settings_drawn | {"requests": requests}, system), [seed])


@settings(max_examples=40)
@given(serving, systems, st.floats(0.02, 0.6), st.integers(0, 1000))
def test_no_policy_has_more_good_tokens_before_the_horizon(settings_drawn, system, horizon, seed):
    if settings_drawn["arrivals"]["process"] == "together":
        settings_drawn["arrivals"] = {"process": "poisson", "rate_per_s": 100.0}
    check(make_env(settings_drawn | {"requests": None, "horizon_s": horizon}, system), [seed])


def test_bounds_hold_where_requests_are_preempted():
    # KV pages for three requests alone, so that six preempt one another.
    scenario = {"arrivals": {"process": "together"}, "lengths": {"input": 40, "output": 200}}
    env = make_env(scenario | {"objectives": {"ttft_s": 1.0, "tpot_s": 0.02}})
    tables = env.engine.tables
    few = tables.scalars.copy()
    few[at.TOTAL_PAGES], few[at.WATERMARK_PAGES] = 20, 0
    few.flags.writeable = False
    env.engine.tables = tables._replace(scalars=few)
    assert play("threshold", env, [0])["preemptions"][0] > 0
    check(env, [0])


def test_alone_on_the_machine_the_best_policy_comes_close():
    # One request at a time: what is relaxed is little, so the bound on time must be near.
    scenario = {
        "requests": 1,
        "arrivals": {"process": "together"},
        "lengths": {"input": 64, "output": 40},
        "speculation": {"classes": {"writing": 1.0}, "acceptance": {"writing": (1.0,)}},
    }
    env = make_env(scenario, system="papi")
    env.reset(seed=[0])
    bound = serving_bounds(env.engine)["time_s"][0]
    best = min(play(f"fixed-fc-pim-{t}-all-off", env, [0])["time_s"][0] for t in (1, 2, 4, 8))
    assert bound <= best <= 1.1 * bound


def test_a_full_machine_comes_close_to_the_bound_on_time():
    scenario = {"requests": 64, "arrivals": {"process": "together"}, "max_running": 64, "chunk_tokens": 512}
    env = make_env(scenario | {"lengths": {"input": 512, "output": 16}})
    env.reset(seed=[0])
    bound = serving_bounds(env.engine)["time_s"][0]
    best = min(play(name, env, [0])["time_s"][0] for name in ("oracle", "fixed-fc-pim-2-all-on"))
    assert bound <= best <= 1.5 * bound


def test_a_machine_that_keeps_up_comes_close_to_the_bound_on_good_tokens():
    scenario = {
        "lengths": {"input": 100, "output": 50},
        "objectives": {"ttft_s": 1.0, "tpot_s": 0.05},
        "requests": None,
        "horizon_s": 5.0,
    }
    env = make_env(scenario)
    bound = check(env, [0])["good_tokens"][0]
    best = play("oracle", env, [0])["good_tokens"][0]
    assert 0.9 * bound <= best <= bound


def test_overload_bounds_good_tokens_far_below_what_is_asked_for():
    # Prompts come at several times the rate at which any policy can process them, and in order.
    scenario = {
        "arrivals": {"process": "poisson", "rate_per_s": 400.0},
        "lengths": {"input": 1000, "output": 50},
        "objectives": {"ttft_s": 0.5, "tpot_s": 1.0},
        "requests": None,
        "horizon_s": 5.0,
        "max_running": 64,
        "chunk_tokens": 512,
    }
    env = make_env(scenario)
    env.reset(seed=[0])
    asked = 50 * env.engine.counters[0, at.REQUESTS]
    assert 0 < serving_bounds(env.engine)["good_tokens"][0] < 0.5 * asked


def test_objectives_that_no_request_can_meet_leave_nothing():
    for objectives in ({"ttft_s": 1e-6, "tpot_s": 1.0}, {"ttft_s": 10.0, "tpot_s": 1e-6}):
        env = make_env({"objectives": objectives, "lengths": {"input": 20, "output": 20}})
        env.reset(seed=[0])
        assert serving_bounds(env.engine)["good_tokens"][0] == 0


def test_bounds_do_not_depend_on_what_was_played():
    env = make_env({"requests": 12})
    env.reset(seed=[4])
    at_first = serving_bounds(env.engine)
    for action in JOINT_ACTIONS[10:40]:
        env.step(action[None])
    later = serving_bounds(env.engine)
    for name, values in at_first.items():
        np.testing.assert_array_equal(values, later[name])


def test_drift_slows_every_policy_and_moves_no_bound():
    for drift in (None, {"period_s": 1.0}):
        env = make_env({"drift": drift})
        env.reset(seed=[4])
        bounds = serving_bounds(env.engine)
        slow = play("threshold", env, [4])["time_s"][0]
        if drift is None:
            healthy, without = slow, bounds
    assert slow > healthy
    assert bounds["time_s"] == without["time_s"]


def test_prices_never_exceed_the_least_time():
    bounds = ServingBounds(make_env({}).engine.tables)
    least = bounds.least_s
    requests = np.arange(len(least))[:, None, None]
    prompts = np.arange(least.shape[2])
    for price, decode in zip(bounds.prompt_prices, bounds.decode_prices, strict=True):
        priced = requests * decode[None, :, None] + price * prompts
        assert (priced <= least * (1 + 1e-12)).all()
    # The largest price of a prompt token is attained somewhere.
    assert (bounds.prompt_prices[-1] * prompts >= (1 - 1e-12) * least[:, :, :].min(axis=(0, 1)))[1:].any()


@settings(max_examples=30)
@given(serving, systems, st.integers(0, 10_000))
def test_no_iteration_is_shorter_than_the_least_of_its_kind(settings_drawn, system, seed):
    env = make_env(settings_drawn | {"requests": 8}, system)
    tables = env.engine.tables
    shortest = int(tables.population[:, 0].min())
    chunk = int(tables.scalars[at.CHUNK])
    least = least_seconds(8, chunk, shortest, tables)
    env.reset(seed=[seed])
    rng = np.random.default_rng(seed)
    for _ in range(40):
        masks = np.flatnonzero(env.joint_masks()[0])
        action = JOINT_ACTIONS[rng.choice(masks)]
        env.step(action[None])
        counters, clocks = env.engine.counters[0], env.engine.clocks[0]
        tlp = (1, 2, 4, 8)[action[at.SPECULATION]]
        rlp, rows = counters[at.LAST_N] // tlp, counters[at.LAST_CHUNK]
        if rlp + rows:
            floor = least[rlp, action[at.SPECULATION], rows]
            assert clocks[at.LAST_TIME_S] >= floor * (1 - 1e-12)
        if counters[at.DONE]:
            break


@given(
    st.integers(0, 10**6),
    st.integers(1, 200),
    st.integers(1, 40),
    st.lists(st.floats(0.0, 1.0), min_size=7, max_size=7),
    st.lists(st.floats(0.1, 4.0), min_size=4, max_size=4),
    st.booleans(),
)
def test_no_way_of_decoding_is_cheaper_than_the_cheapest(seed, prompt, output, chances, prices, prefill):
    thresholds = np.array([[int(chance * 2.0**53) for chance in chances]], dtype=np.uint64)
    facts = np.zeros((1, at.NUM_FACTS), dtype=np.int64)
    facts[0, at.INPUT], facts[0, at.OUTPUT] = prompt, output
    decode = np.array([prices])
    none = np.array([1e9])
    whole, after_first, but_last = decode_paths(
        seed, 0, np.zeros(1, dtype=np.int64), facts, thresholds, decode, none, none, prefill
    )[0, 0]
    key = np.uint64(request_key(seed, 0, 0))
    rng = np.random.default_rng(seed)
    for choose in (*(lambda t=t: t for t in range(4)), lambda: int(rng.integers(4))):
        left, held, spent = output - prefill, prompt, []
        while left > 0:
            k = choose()
            gain = min(1 + accepted_prefix(key, held, (1, 2, 4, 8)[k] - 1, 0, thresholds), left)
            left, held = left - gain, held + gain
            spent.append(prices[k])
        assert whole <= sum(spent) + 1e-9
        assert but_last <= sum(spent[:-1]) + 1e-9
        assert after_first <= sum(spent if prefill else spent[1:]) + 1e-9


@given(
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=6),
    st.lists(st.floats(-5, 40), min_size=6, max_size=6),
)
def test_a_relaxed_knapsack_is_at_least_every_whole_one(items, budgets):
    values, weights = np.array(items).T
    budgets = np.array(budgets[: len(values)])
    best = knapsacks(values, weights, budgets)
    assert knapsacks(values, weights, budgets, blocks=2) >= best - 1e-9
    for chosen in range(2 ** len(values)):
        taken = (chosen >> np.arange(len(values))) & 1 == 1
        last = int(np.flatnonzero(taken).max(initial=0))
        if weights[taken].sum() <= budgets[last]:
            assert best >= values[taken].sum() - 1e-9


def test_bounds_of_other_episodes_are_refused():
    env = make_env({}, max_episode_steps=5)
    env.reset(seed=[0])
    with pytest.raises(ConfigurationError, match=r"truncated after 5 steps"):
        serving_bounds(env.engine)
    with pytest.raises(ConfigurationError, match=r"tables of another engine"):
        ServingBounds(make_env({}).engine.tables).of(make_env({}).engine, 0)
