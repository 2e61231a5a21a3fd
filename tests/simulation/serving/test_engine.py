"""Under any policy and any switch the serving engine loses no request and no token, and its books balance."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papi_env.errors import ConfigurationError
from papi_env.hardware.dram import GROUP_TOKENS
from papi_env.hardware.system import SYSTEMS
from papi_env.scenario import get_scenario, parse_scenario
from papi_env.simulation.batch import loop as batch
from papi_env.simulation.batch import state as decode_at
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.measures import METRIC_NAMES, latencies
from papi_env.workload.requests import Lengths
from papi_env.workload.serving import PAGE_TOKENS, SPECULATION_LENGTHS
from tests.simulation.serving.service_books import check_slots

OFF = {"prefill": False, "paging": False, "draft_cost": False, "switching": False}
# KV caches of a few thousand tokens at most, so that short requests run out of pages: one stack of 16 banks a die.
TIGHT = {"base": "papi", "name": "papi-tight", "attn_pim": {"stacks": 1, "stack": {"banks_per_die": 16}}}
WAITS, ADMITS_ONE, ADMITS_ALL = at.NONE, at.ONE, at.ALL
FINISHED = (at.ATTAINED_STATUS, at.LATE)


def scenario(system="papi", model="llama-65b", energy_weight=0.0, **changes):
    serving = {
        "arrivals": {"process": "poisson", "rate_per_s": 8.0},
        "lengths": {"input": 150, "output": 12},
        "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
        "requests": 8,
        "max_running": 8,
    } | changes
    table = {
        "name": "test",
        "system": system,
        "model": model,
        "energy_weight": energy_weight,
        "serving": serving,
    }
    return parse_scenario(table, "test")


def started(scenario, num_envs=1, seed=0, **arguments):
    engine = ServingEngine(scenario, num_envs, **arguments)
    engine.counters[:, at.SEED] = seed + np.arange(num_envs)
    engine.reset()
    return engine


def play(engine, choose, steps=4000):
    """Step until every environment has ended; `choose(engine)` gives actions [num_envs, 4]."""
    for _ in range(steps):
        if (engine.counters[:, at.DONE] == 1).all():
            return engine
        engine.actions[:] = choose(engine)
        engine.step()
    raise AssertionError(f"not over after {steps} iterations")


def constant(*action):
    return lambda engine: action


def at_random(seed):
    rng = np.random.default_rng(seed)
    return lambda engine: rng.integers(0, at.NVEC, (engine.num_envs, 4))


def pages(tokens, page_tokens=PAGE_TOKENS):
    return -(-tokens // page_tokens)


# --- what must be true after every step ----------------------------------------------------------------


def generated_tokens(engine, e):
    """Output tokens that every request of the episode has so far."""
    state, count = engine.state, int(engine.counters[e, at.REQUESTS])
    tokens = state.facts[e, :count, at.GENERATED].astype(np.int64)
    for i in range(engine.counters[e, at.RLP]):
        request = state.requests[e, i]
        tokens[request] = state.facts[e, request, at.OUTPUT] - state.left[e, i]
    return tokens


def ring(engine, e):
    """Requests in prefill, oldest first."""
    c, slots = engine.counters[e], engine.state.prefill.shape[1]
    return [int(engine.state.prefill[e, (c[at.PREFILL_FRONT] + k) % slots]) for k in range(c[at.PREFILLING])]


def audit(engine, e=0):
    """Recompute from slots and records what the counters say."""
    check_slots(engine)
    state, c, t = engine.state, engine.counters[e], engine.clocks[e]
    serving, scalars = engine.scenario.serving, engine.tables.scalars
    count, arrived, rlp = int(c[at.REQUESTS]), int(c[at.ARRIVED]), int(c[at.RLP])
    moments, facts = state.moments[e, :count], state.facts[e, :count].astype(np.int64)
    status, now = facts[:, at.STATUS], t[at.TIME_S]

    # Every request is in one place.
    assert arrived == (moments[:, at.ARRIVAL_S] <= now).sum()
    assert np.isin(status[arrived:], (at.FUTURE, at.REFUSED)).all()
    assert not (status[:arrived] == at.FUTURE).any()
    here = status[:arrived]
    assert c[at.REJECTED] == (here == at.REFUSED).sum()
    assert c[at.QUEUED] == (here == at.WAITING).sum()
    assert c[at.FINISHED] == np.isin(here, FINISHED).sum()
    assert c[at.ATTAINED] == (here == at.ATTAINED_STATUS).sum()
    decoding, prefilling = state.requests[e, :rlp].tolist(), ring(engine, e)
    assert sorted(decoding + prefilling) == np.flatnonzero(status == at.RUNNING).tolist()
    assert len(decoding) + len(prefilling) <= serving.max_running
    preempted = state.preempted[e, : c[at.PREEMPTED]].tolist()
    never_admitted = np.flatnonzero(
        (status[:arrived] == at.WAITING) & np.isnan(moments[:arrived, at.ADMITTED_S])
    )
    assert sorted(preempted + never_admitted.tolist()) == np.flatnonzero(status == at.WAITING).tolist()
    assert c[at.HEAD] == (never_admitted[0] if len(never_admitted) else arrived)
    assert c[at.PREEMPTIONS] == facts[:, at.PREEMPTED_TIMES].sum()

    # Tokens: those of the records and slots, whoever holds them.
    tokens = generated_tokens(engine, e)
    assert (tokens <= facts[:, at.OUTPUT]).all()
    over = np.isin(status, FINISHED)
    np.testing.assert_array_equal(tokens[over], facts[over, at.OUTPUT])
    assert (tokens[~over] < facts[~over, at.OUTPUT]).all()
    assert c[at.TOKENS] == tokens.sum()
    assert c[at.FINISHED_TOKENS] == tokens[over].sum()
    assert c[at.GOOD_TOKENS] == tokens[status == at.ATTAINED_STATUS].sum()
    assert 0 <= c[at.ON_TIME_TOKENS] <= c[at.TOKENS]

    # Contexts: a prompt that was processed here has its latest token still to read; one that came processed not.
    contexts = state.contexts[e, :rlp].astype(np.int64)
    held = facts[decoding, at.INPUT] + tokens[decoding] - int(serving.prefill)
    np.testing.assert_array_equal(contexts, held)
    assert c[at.CONTEXT_SUM] == contexts.sum()
    assert c[at.PAGE_SUM] == pages(contexts + 1, serving.page_tokens).sum()
    assert c[at.GROUP_MAX] == (-(-(contexts + 1) // GROUP_TOKENS)).max(initial=0)
    prompts = facts[prefilling, at.INPUT] + tokens[prefilling]
    assert c[at.PREFILL_BACKLOG] == prompts.sum() - c[at.PREFILL_DONE]
    assert c[at.PREFILL_PAGES] == pages(prompts + 1, serving.page_tokens).sum()
    assert 0 <= c[at.PREFILL_DONE] < max(prompts[:1].sum(), 1)
    assert c[at.PAGES_HIGH] <= scalars[at.TOTAL_PAGES]

    # Moments come in order, and a request's verdict is that of its moments.
    arrival, admitted, first, finish = moments.T
    for before, after in ((arrival, admitted), (admitted, first), (first, finish)):
        assert not (np.isnan(before) & ~np.isnan(after)).any()
        assert (after >= before)[~np.isnan(after)].all()
    np.testing.assert_array_equal(~np.isnan(first), tokens > 0)
    np.testing.assert_array_equal(~np.isnan(finish), over)
    objectives = serving.objectives
    kept = first - arrival <= objectives.ttft_s
    kept &= finish - first <= objectives.tpot_s * (facts[:, at.OUTPUT] - 1)
    np.testing.assert_array_equal(status == at.ATTAINED_STATUS, kept)

    # What the observation says of arrivals.
    ahead = moments[arrived, at.ARRIVAL_S] if arrived < count else np.inf
    assert t[at.NEXT_ARRIVAL_S] == ahead
    head = preempted[-1] if preempted else c[at.HEAD]
    assert t[at.HEAD_ARRIVAL_S] == (moments[head, at.ARRIVAL_S] if c[at.QUEUED] else now)
    observation = engine.observations[e]
    assert np.isfinite(observation).all()
    assert observation.min() >= 0
    assert observation.max() <= 1


def audited_step(engine, actions, e=0):
    """One step with every account checked before and after."""
    c, t = engine.counters[e], engine.clocks[e]
    before_c, before_t, tokens_before = c.copy(), t.copy(), generated_tokens(engine, e)
    running = c[at.RLP] + c[at.PREFILLING]
    forced = actions[at.ADMISSION] == WAITS and running == 0 and c[at.QUEUED] > 0
    only, separate = engine.tables.scalars[at.ONLY_UNIT], engine.tables.scalars[at.ATTENTION_UNIT] == 2
    invalid = int(forced) + int(only >= 0 and actions[at.FC] != only)
    invalid += int(actions[at.OVERLAP] == 1 and not separate)
    engine.actions[e] = actions
    engine.step()
    audit(engine, e)
    assert c[at.INVALID] - before_c[at.INVALID] == invalid

    # Tokens are never lost, and come from rows that were verified and from prompts that were completed.
    gained = generated_tokens(engine, e) - tokens_before
    assert (gained >= 0).all()
    tlp = SPECULATION_LENGTHS[actions[at.SPECULATION]]
    assert gained.max(initial=0) <= tlp
    assert c[at.LAST_N] % tlp == 0
    rlp = c[at.LAST_N] // tlp
    assert rlp <= c[at.LAST_DECODED] <= c[at.LAST_N]
    assert c[at.DRAFTED] - before_c[at.DRAFTED] == rlp * (tlp - 1)
    assert 0 <= c[at.ACCEPTED] - before_c[at.ACCEPTED] <= rlp * (tlp - 1)
    assert c[at.LAST_CHUNK] <= engine.scenario.serving.chunk_tokens
    assert c[at.PREFILLED] - before_c[at.PREFILLED] == c[at.LAST_CHUNK]
    prompts_done = gained.sum() - c[at.LAST_DECODED]
    assert 0 <= prompts_done <= c[at.LAST_CHUNK]

    # Time passes whenever there is work, and nothing is busy for longer than it.
    seconds = t[at.LAST_TIME_S]
    works = c[at.LAST_N] + c[at.LAST_CHUNK] > 0
    assert works == (seconds > 0) == (t[at.LAST_DYNAMIC_J] > 0)
    assert c[at.STALLS] - before_c[at.STALLS] == int(not works)
    assert t[at.LAST_START_S] == before_t[at.TIME_S]
    idle = t[at.IDLE_S] - before_t[at.IDLE_S]
    assert idle >= 0
    assert t[at.TIME_S] - before_t[at.TIME_S] == pytest.approx(seconds + idle, rel=1e-9)
    busy = t[at.LAST_BUSY_S : at.LAST_BUSY_S + at.NUM_RESOURCES]
    assert (busy >= 0).all()
    assert (busy <= seconds * (1 + 1e-12)).all(), dict(zip(at.RESOURCES, busy / seconds, strict=True))
    parts = t[[at.LAST_DRAFT_S, at.LAST_PREFILL_S]]
    assert (parts >= 0).all()
    assert (parts <= seconds).all()
    assert 0 <= t[at.LAST_COMMUNICATION_S] <= seconds * (1 + 1e-12)
    good = at.ON_TIME_TOKENS if engine.scenario.serving.reward == "on-time" else at.GOOD_TOKENS
    scalars = engine.tables.scalars
    joules = t[at.LAST_DYNAMIC_J] + (seconds + idle) * scalars[at.STATIC_W]
    expected = (c[good] - before_c[good] - scalars[at.ENERGY_WEIGHT] * joules) / scalars[at.REFERENCE_TOKENS]
    assert engine.rewards[e] == pytest.approx(expected, rel=1e-9, abs=1e-12)


ARRIVALS = (
    {"process": "together"},
    {"process": "poisson", "rate_per_s": 3.0},
    {"process": "poisson", "rate_per_s": 60.0},
    {"process": "gamma", "rate_per_s": 20.0, "shape": 0.3},
)
SWITCHES = ("prefill", "paging", "draft_cost", "switching", "dual_row_buffers")
DRIFTS = (None, {"period_s": 0.3}, {"period_s": 5.0, "pu": 10.0, "attn_pim": 1.0})


@st.composite
def scenarios(draw):
    system = draw(st.sampled_from(sorted(SYSTEMS)))
    # One GPU's stacks hold nothing larger.
    model = (
        "opt-30b" if system == "papi-1gpu" else draw(st.sampled_from(["llama-65b", "llama2-70b", "opt-30b"]))
    )
    arrivals = draw(st.sampled_from(ARRIVALS))
    by_requests = arrivals["process"] == "together" or draw(st.booleans())
    end = {"requests": draw(st.integers(1, 14))} if by_requests else {"horizon_s": 0.6}
    fixed = {"input": draw(st.integers(1, 1900)), "output": draw(st.integers(1, 24))}
    lengths = draw(st.sampled_from([fixed, {"table": "dolly-general-qa"}]))
    chunks = [1, 37, 512] if lengths is fixed and fixed["input"] < 40 else [512]
    return scenario(
        system,
        model,
        energy_weight=draw(st.sampled_from([0.0, 0.01])),
        arrivals=arrivals,
        lengths=lengths,
        max_running=draw(st.integers(1, 12)),
        chunk_tokens=draw(st.sampled_from(chunks)),
        **common(draw, end),
    )


@st.composite
def crowded(draw):
    """Requests that grow out of the KV pages there are."""
    model = draw(st.sampled_from(["llama-65b", "opt-30b"]))
    # Five to twelve times as many requests as would fit with all their tokens.
    whole = draw(st.integers(20, 200)) * (1 if model == "llama-65b" else 2)
    output = draw(st.integers(whole // 4, whole))
    return scenario(
        TIGHT,
        model,
        arrivals=draw(st.sampled_from([ARRIVALS[0], ARRIVALS[2]])),
        lengths={"input": max(whole - output, 1), "output": output},
        max_running=16,
        chunk_tokens=draw(st.sampled_from([64, 512])),
        **common(draw, {"requests": 24}),
    )


def common(draw, end):
    """Objectives, classes, drift and switches, as arguments of `scenario`."""
    ttft, tpot = draw(st.sampled_from([(2.0, 0.05), (0.2, 0.01), (30.0, 2.0)]))
    return {
        "requests": None,
        "objectives": {"ttft_s": ttft, "tpot_s": tpot},
        "speculation": {"classes": draw(st.sampled_from([{"writing": 1.0}, {"code": 2.0, "tools": 1.0}]))},
        "drift": draw(st.sampled_from(DRIFTS)),
        "reward": draw(st.sampled_from(["attained", "on-time"])),
        "decision_s": draw(st.sampled_from([0.0, 1e-3])),
        "page_tokens": draw(st.sampled_from([PAGE_TOKENS, PAGE_TOKENS, 4, 64])),
        **{switch: draw(st.booleans()) for switch in SWITCHES},
        **end,
    }


CUSTOM = (
    # Attention on FC-PIM, with no other unit; prompts on PIM although there are PUs.
    {
        "base": "papi-pim-only",
        "name": "fc-pim-alone",
        "attn_pim": "none",
        "fc_pim": {"runs": ["fc", "attention"]},
    },
    {"base": "papi", "name": "papi-pim-prefill", "prefill_unit": "fc-pim"},
)


@settings(max_examples=80, deadline=None)
@given(
    scenario=st.one_of(scenarios(), crowded()),
    seed=st.integers(0, 2**40),
    weights=st.tuples(*(st.lists(st.integers(1, 9), min_size=n, max_size=n) for n in at.NVEC)),
)
def test_every_account_balances_under_every_policy_and_switch(scenario, seed, weights):
    engine = started(scenario, seed=seed, max_steps=120)
    audit(engine)
    instance = [array.copy() for array in drawn(engine)]
    # A policy that leans towards some choices, so that long queues and full batches come up too.
    shares = [np.array(w) / sum(w) for w in weights]
    rng = np.random.default_rng(seed)
    while not engine.counters[0, at.DONE]:
        audited_step(engine, [rng.choice(len(p), p=p) for p in shares])
    for before, after in zip(instance, drawn(engine), strict=True):
        np.testing.assert_array_equal(before, after)
    metrics = {name: values[0] for name, values in engine.metrics().items()}
    if engine.terminated[0]:
        assert scenario.serving.requests == metrics["finished"] + metrics["rejected"] == metrics["arrived"]
    else:
        assert metrics["iterations"] == 120 or metrics["time_s"] >= scenario.serving.horizon_s
    assert metrics["unfinished"] == metrics["arrived"] - metrics["finished"] - metrics["rejected"] >= 0
    for resource in at.RESOURCES:
        assert not metrics[f"utilisation_{resource}"] > 1 + 1e-12


def drawn(engine, e=0):
    """What the instance draws and no policy may change: arrivals; input, output, class."""
    return engine.state.moments[e, :, at.ARRIVAL_S], engine.state.facts[e][:, [at.INPUT, at.OUTPUT, at.CLASS]]


def test_halves_that_communicate_at_once_take_no_longer_than_their_iteration():
    # Full of rows from FC-PIM and the PUs, whose results both cross while the other half's do.
    s = get_scenario("short-context/llama-65b").replace(serving={"horizon_s": 4.0, "draft_cost": False})
    engine, most = started(s), 0.0
    while not engine.counters[0, at.DONE]:
        engine.actions[0] = (2, 3, ADMITS_ALL, 1)
        engine.step()
        clocks = engine.clocks[0]
        most = max(most, clocks[at.LAST_COMMUNICATION_S] / clocks[at.LAST_TIME_S])
    assert most == pytest.approx(1, rel=1e-12)  # at times nothing else is waited for
    assert engine.metrics()["communication_share"][0] < 1


@pytest.mark.parametrize("system", ["papi", "papi-pim-only", "papi-1gpu", "attacc-only", *CUSTOM], ids=str)
@pytest.mark.parametrize("dual", [False, True])
def test_long_contexts_and_full_batches_keep_every_unit_within_its_time(system, dual):
    one_gpu = system == "papi-1gpu"
    s = scenario(
        system,
        "opt-30b" if one_gpu else "llama-65b",
        arrivals={"process": "together"},
        lengths={"input": 600 if one_gpu else 2000, "output": 20},
        requests=64,
        max_running=64,
        paging=not one_gpu,
        dual_row_buffers=dual,
    )
    engine, rng = started(s), np.random.default_rng(0)
    for _ in range(330):
        if engine.counters[0, at.DONE]:
            break
        audited_step(engine, [rng.integers(3), rng.integers(4), ADMITS_ALL, 1])
    assert engine.counters[0, at.TOKENS] > 64


def test_crowded_pages_do_preempt_and_lose_nothing():
    s = scenario(
        TIGHT,
        arrivals={"process": "together"},
        lengths={"input": 60, "output": 60},
        requests=24,
        max_running=16,
    )
    engine = started(s)
    while not engine.counters[0, at.DONE]:
        audited_step(engine, [at.PU, 0, ADMITS_ALL, 0])
    records, metrics = engine.records(0), engine.metrics()
    assert metrics["preemptions"] == records["preemptions"].sum() > 10
    assert metrics["tokens"] == 24 * 60
    # What was processed: every prompt once, and again what preempted requests held.
    again = metrics["recomputed_tokens"][0]
    assert again > 0
    # The latest token of a request is processed for the first time then.
    assert 0 <= metrics["prefilled_tokens"][0] - 24 * 60 - again <= metrics["preemptions"][0]
    # The last to come give way: they finish after those before them.
    assert records["finish_s"][:6].max() < records["finish_s"][-6:].min()
    # Without a limit there is nothing to preempt, and the same tokens take fewer iterations.
    free = play(started(s.replace(serving={"paging": False})), constant(at.PU, 0, ADMITS_ALL, 0)).metrics()
    assert free["preemptions"] == free["recomputed_tokens"] == 0
    assert free["iterations"] < metrics["iterations"]
    assert np.isnan(free["kv_high_water"])
    assert 0.9 < metrics["kv_high_water"] <= 1
    assert 0 < metrics["kv_mean"] < metrics["kv_high_water"]


def test_the_size_of_a_page_moves_admission_and_preemption_but_no_attention_time():
    base = scenario(
        TIGHT,
        arrivals={"process": "together"},
        lengths={"input": 60, "output": 60},
        requests=24,
        max_running=16,
    )
    small, large = (started(base.replace(serving={"page_tokens": size})) for size in (16, 32))
    assert [engine.tables.scalars[at.TOTAL_PAGES] for engine in (small, large)] == [51, 25]
    for name in ("attention", "shares", "fc_s", "link"):
        np.testing.assert_array_equal(getattr(small.tables, name), getattr(large.tables, name))
    assert small.tables.scalars[at.REFERENCE_S] == large.tables.scalars[at.REFERENCE_S]
    compared = 0
    while not small.counters[0, at.DONE]:
        small.actions[0] = (at.FC_PIM, 0, ADMITS_ALL, 0)
        # The same batch, with pages of another size and as many as it takes.
        twin = small.fork(0, 1)
        scalars = large.tables.scalars.copy()
        scalars[at.TOTAL_PAGES] = 1000
        scalars.flags.writeable = False
        twin.tables = large.tables._replace(scalars=scalars)
        twin.actions[:] = small.actions
        twin.step()
        audited_step(small, small.actions[0])
        ran = [at.LAST_N, at.LAST_CHUNK, at.PREEMPTIONS]
        if (twin.counters[0, ran] == small.counters[0, ran]).all() and small.counters[0, at.LAST_N] > 0:
            for clock in (at.LAST_ATTENTION_S, at.LAST_TIME_S):
                assert twin.clocks[0, clock] == small.clocks[0, clock]
            compared += 1
    assert compared > 50
    while not large.counters[0, at.DONE]:
        audited_step(large, [at.FC_PIM, 0, ADMITS_ALL, 0])
    admitted = [engine.records(0)["admitted_s"] for engine in (small, large)]
    assert not np.array_equal(*admitted)
    few, more = (int(engine.counters[0, at.PREEMPTIONS]) for engine in (small, large))
    assert few != more
    assert min(few, more) > 0


def test_requests_that_come_processed_are_not_computed_again():
    s = scenario(
        TIGHT,
        arrivals={"process": "together"},
        lengths={"input": 60, "output": 60},
        requests=24,
        max_running=16,
        prefill=False,
    )
    metrics = play(started(s), constant(at.PU, 0, ADMITS_ALL, 0)).metrics()
    assert metrics["preemptions"] > 0
    assert metrics["recomputed_tokens"] == metrics["prefilled_tokens"] == 0


# --- who is refused, and how episodes end --------------------------------------------------------------


def test_requests_longer_than_all_pages_are_refused_as_they_come():
    s = scenario(
        TIGHT,
        lengths={"table": "dolly-creative-writing"},
        requests=80,
        arrivals={"process": "poisson", "rate_per_s": 40.0},
    )
    engine = started(s, seed=3)
    too_long = (
        pages(engine.state.facts[0, :, [at.INPUT, at.OUTPUT]].sum(axis=0) + SPECULATION_LENGTHS[-1]) > 51
    )
    assert 0 < too_long.sum() < 80
    while not engine.counters[0, at.DONE]:
        audited_step(engine, [at.FC_PIM, 0, ADMITS_ALL, 0])
    np.testing.assert_array_equal(engine.records(0)["status"] == at.REFUSED, too_long)
    metrics = engine.metrics()
    assert metrics["rejected"] == too_long.sum()
    assert metrics["attainment"] == metrics["attained"] / 80


def test_a_population_that_fits_nowhere_is_an_error_with_its_sizes():
    s = scenario(TIGHT, lengths={"input": 900, "output": 10})
    with pytest.raises(
        ConfigurationError, match=r"shortest request needs 58 KV pages .* 'papi-tight' has 51"
    ):
        ServingEngine(s)


def test_weights_that_do_not_fit_are_an_error_with_their_sizes():
    with pytest.raises(ConfigurationError, match=r"weights 129\.5, KV 0\.0.*hold 64\.4 GB"):
        ServingEngine(scenario("papi-1gpu", "llama-65b"))


def test_a_scenario_without_a_serving_part_is_an_error():
    with pytest.raises(ConfigurationError, match="serves no requests"):
        ServingEngine(get_scenario("creative-writing/llama-65b"))


def test_num_envs_must_be_positive():
    with pytest.raises(ValueError, match="num_envs is 0"):
        ServingEngine(scenario(), 0)


def test_by_requests_an_episode_terminates_and_by_time_it_is_truncated():
    by_requests = play(started(scenario()), constant(at.FC_PIM, 1, ADMITS_ALL, 0))
    assert by_requests.terminated[0]
    assert not by_requests.truncated[0]
    by_time = play(started(scenario(requests=None, horizon_s=1.0)), constant(at.FC_PIM, 1, ADMITS_ALL, 0))
    assert by_time.truncated[0]
    assert not by_time.terminated[0]
    end = by_time.clocks[0, at.TIME_S]
    assert end - by_time.clocks[0, at.LAST_TIME_S] < 1.0 <= end
    assert np.nanmax(by_time.state.moments[0, :, at.ARRIVAL_S]) < 1.0


def test_an_episode_without_requests_is_over_at_its_horizon():
    s = scenario(requests=None, horizon_s=0.5, arrivals={"process": "poisson", "rate_per_s": 1e-6})
    engine = started(s)
    assert engine.clocks[0, at.TIME_S] == engine.clocks[0, at.IDLE_S] == 0.5
    audited_step(engine, [at.PU, 0, WAITS, 0])
    assert engine.truncated[0]
    assert engine.metrics()["idle_share"] == 1
    assert engine.counters[0, at.STALLS] == 1


def test_time_passes_to_the_next_arrival_when_there_is_nothing_to_do():
    s = scenario(arrivals={"process": "poisson", "rate_per_s": 0.1}, requests=4)
    engine = started(s)
    arrivals = engine.state.moments[0, :, at.ARRIVAL_S].copy()
    assert engine.clocks[0, at.TIME_S] == arrivals[0]
    starts = []
    while not engine.counters[0, at.DONE]:
        starts.append(engine.clocks[0, at.TIME_S])
        audited_step(engine, [at.FC_PIM, 0, ADMITS_ALL, 0])
    assert set(arrivals) <= set(starts)
    busy = engine.metrics()["time_s"] * (1 - engine.metrics()["idle_share"])
    assert 0 < busy < 4 * 12 * 0.1


def test_max_steps_truncates_and_a_finished_episode_idles():
    engine = started(scenario(), max_steps=3)
    for _ in range(3):
        assert not engine.truncated[0]
        audited_step(engine, [at.PU, 0, ADMITS_ALL, 0])
    assert engine.truncated[0]
    clocks = engine.clocks.copy()
    engine.step()
    assert engine.rewards[0] == 0
    np.testing.assert_array_equal(engine.clocks, clocks)


# --- admission -----------------------------------------------------------------------------------------


def test_admission_takes_none_one_or_all_in_order_of_arrival():
    s = scenario(arrivals={"process": "together"}, requests=6, max_running=4)
    engine = started(s)
    running = []
    for admission in (WAITS, WAITS, ADMITS_ONE, WAITS, ADMITS_ALL):
        audited_step(engine, [at.PU, 0, admission, 0])
        running.append(int(engine.counters[0, at.RLP] + engine.counters[0, at.PREFILLING]))
    # Nothing ran at first, so that one was admitted all the same.
    assert running == [1, 1, 2, 2, 4]
    assert engine.counters[0, at.INVALID] == 1
    play(engine, constant(at.PU, 0, ADMITS_ALL, 0))
    assert (np.diff(engine.records(0)["admitted_s"]) >= 0).all()


def test_admission_leaves_the_watermark_free():
    s = scenario(TIGHT, arrivals={"process": "together"}, lengths={"input": 270, "output": 3}, requests=16)
    engine = started(s.replace(serving={"max_running": 16}))
    audited_step(engine, [at.PU, 0, ADMITS_ALL, 0])
    # 51 pages, of which 1 % rounded up stay free; 271 tokens take 17.
    assert engine.counters[0, at.RLP] + engine.counters[0, at.PREFILLING] == (51 - 1) // 17 == 51 // 17 - 1


def test_prompts_are_processed_in_chunks_first_come_first_served():
    s = scenario(
        arrivals={"process": "together"}, lengths={"input": 150, "output": 3}, requests=4, chunk_tokens=100
    )
    engine = started(s)
    chunks, decoding = [], []
    while not engine.counters[0, at.DONE]:
        audited_step(engine, [at.PU, 0, ADMITS_ALL, 0])
        chunks.append(int(engine.counters[0, at.LAST_CHUNK]))
        decoding.append(int(engine.counters[0, at.LAST_N]))
    assert chunks == [100] * 6 + [0] * 2
    # A prompt that is done has its first token, and decodes from the next iteration on.
    assert decoding == [0, 0, 1, 2, 1, 1, 2, 1]
    first = engine.records(0)["first_token_s"]
    assert (np.diff(first) > 0).all()


# --- the static batch ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tlp", SPECULATION_LENGTHS)
@pytest.mark.parametrize(
    ("system", "model", "unit", "acceptance"),
    [
        ("papi", "llama-65b", at.PU, 0.7),
        ("papi", "llama2-70b", at.FC_PIM, 1.0),
        ("papi-h100", "opt-30b", at.FC_PIM, 0.0),
        ("a100-attacc", "gpt3-66b", at.PU, 0.64),
        ("attacc-only", "llama-65b", at.FC_PIM, 1.0),
        ("papi-pim-only", "opt-30b", at.FC_PIM, 0.9),
        ("a100", "llama-65b", at.PU, 0.5),
        ("papi-1gpu", "opt-30b", at.FC_PIM, 0.3),
    ],
)
def test_with_all_effects_off_it_is_the_static_batch(system, model, unit, acceptance, tlp):
    requests = 8
    lengths = Lengths(input=90, output=40) if system == "papi-1gpu" else Lengths(table="dolly-general-qa")
    static = get_scenario(f"general-qa/{model}").replace(
        system=system, batch_size=requests, speculation=tlp, acceptance_rate=acceptance, lengths=lengths
    )
    decode = DecodeEngine(static, 2)
    decode.counters[:, decode_at.SEED] = [5, 6]
    decode.reset()
    decode.actions[:] = unit
    s = scenario(
        system,
        model,
        arrivals={"process": "together"},
        lengths=lengths.model_dump(),
        requests=requests,
        max_running=requests,
        speculation={"classes": {"one": 1.0}, "acceptance": {"one": [acceptance]}},
        **OFF,
    )
    serving = started(s, 2, seed=5)
    serving.actions[:] = (unit, SPECULATION_LENGTHS.index(tlp), ADMITS_ALL, 0)
    for _ in range(3000):
        if (decode.counters[:, decode_at.DONE] == 1).all():
            break
        decode.step()
        serving.step()
        for clock, other in (
            (decode_at.TIME_S, at.TIME_S),
            (decode_at.LAST_TIME_S, at.LAST_TIME_S),
            (decode_at.DYNAMIC_J, at.DYNAMIC_J),
            (decode_at.COMMUNICATION_S, at.COMMUNICATION_S),
        ):
            np.testing.assert_allclose(serving.clocks[:, other], decode.clocks[:, clock], rtol=1e-9)
        np.testing.assert_array_equal(serving.counters[:, at.RLP], decode.counters[:, decode_at.RLP])
    np.testing.assert_array_equal(serving.counters[:, at.DONE], [1, 1])
    np.testing.assert_array_equal(serving.counters[:, at.TOKENS], decode.counters[:, decode_at.DECODED])


# --- environments of a batch, episodes, copies ---------------------------------------------------------

LIVELY = {
    "arrivals": {"process": "gamma", "rate_per_s": 25.0, "shape": 0.5},
    "lengths": {"input": 80, "output": 10},
    "requests": 6,
    "drift": {"period_s": 0.5},
    "speculation": {"classes": {"code": 1.0, "tools": 1.0}},
}


@pytest.mark.parametrize("autoreset", [batch.NEXT_STEP, batch.SAME_STEP])
def test_environment_i_is_the_single_one_with_its_seed_bit_for_bit(autoreset):
    s = scenario(TIGHT, **LIVELY)
    many = started(s, 3, seed=40, autoreset=autoreset)
    singles = [started(s, seed=40 + i, autoreset=autoreset) for i in range(3)]
    rng = np.random.default_rng(1)
    for _ in range(250):
        many.actions[:] = rng.integers(0, at.NVEC, (3, 4))
        many.step()
        for i, single in enumerate(singles):
            single.actions[0] = many.actions[i]
            single.step()
            for array, alone in zip(many.state, single.state, strict=True):
                np.testing.assert_array_equal(array[i], alone[0])
            for name in ("observations", "rewards", "terminated", "truncated"):
                assert getattr(many, name)[i].tobytes() == getattr(single, name)[0].tobytes()
    assert many.counters[:, at.EPISODE].min() >= 2


def test_both_autoresets_play_the_same_episodes():
    s = scenario(TIGHT, **LIVELY)
    same, later = (started(s, 2, seed=7, autoreset=mode) for mode in (batch.SAME_STEP, batch.NEXT_STEP))
    action = (at.FC_PIM, 1, ADMITS_ALL, 1)
    ends = {0: [], 1: []}
    for engine, final in ((same, True), (later, False)):
        engine.actions[:] = action
        finished = {0: [], 1: []}
        for _ in range(150):
            engine.step()
            metrics = engine.measured(engine.final) if final else engine.metrics()
            for e in np.flatnonzero(engine.terminated):
                records = engine.records(e, engine.final if final else None)
                observed = (engine.final_observations if final else engine.observations)[e]
                moments = np.stack([records[name] for name in at.MOMENT_NAMES])
                finished[e].append((metrics["time_s"][e], metrics["return"][e], moments, observed.copy()))
        if final:
            ends = finished
    for e in (0, 1):
        assert len(ends[e]) >= 2
        for one, other in zip(ends[e], finished[e], strict=False):
            for x, y in zip(one, other, strict=True):
                np.testing.assert_array_equal(x, y)


def test_resets_are_repeatable_and_episodes_and_seeds_differ():
    s = scenario(lengths={"table": "dolly-general-qa"})
    engine, again = started(s, 3, seed=2), started(s, 3, seed=2)
    play(again, at_random(0))
    again.reset()
    # Slots that nobody occupies may hold anything; nobody does.
    for name in ("counters", "clocks", "moments", "facts"):
        np.testing.assert_array_equal(getattr(engine.state, name), getattr(again.state, name))
    np.testing.assert_array_equal(engine.observations, again.observations)
    first = [array.copy() for array in drawn(engine)]
    assert not np.array_equal(first[0], drawn(engine, 1)[0])
    assert not np.array_equal(first[1], drawn(engine, 1)[1])
    engine.counters[:, at.EPISODE] = 1
    engine.reset(np.array([True, False, True]))
    for before, now, other_seed in zip(first, drawn(engine), drawn(engine, 1), strict=True):
        assert not np.array_equal(before, now)
        assert not np.array_equal(now, other_seed)
    np.testing.assert_array_equal(drawn(again, 1)[0], drawn(engine, 1)[0])


def test_acceptance_belongs_to_the_token_and_not_to_the_path():
    """Requests served one after the other or all together gain the same tokens in as many verifications."""
    s = scenario(
        arrivals={"process": "together"}, requests=6, lengths={"input": 20, "output": 30}, max_running=6
    )
    counts = []
    for admission in (ADMITS_ALL, WAITS):
        engine = started(s, seed=9)
        gains = {request: [] for request in range(6)}
        while not engine.counters[0, at.DONE]:
            before = generated_tokens(engine, 0)
            audited_step(engine, [at.PU, 2, admission, 0])
            for request, gained in enumerate(generated_tokens(engine, 0) - before):
                if gained:
                    gains[request].append(int(gained))
        counts.append(gains)
    assert counts[0] == counts[1]


def test_forks_and_clones_go_their_own_way():
    s = scenario(TIGHT, **LIVELY)
    engine = started(s, 2, seed=4, autoreset=batch.SAME_STEP)
    engine.actions[:] = (at.PU, 1, ADMITS_ALL, 0)
    for _ in range(4):
        engine.step()
    before = [array.copy() for array in engine.state]
    fork = engine.fork(1, 3)
    fork.actions[:] = [(at.PU, 0, 2, 0), (at.PU, 1, 2, 0), (at.FC_PIM, 3, 2, 1)]
    fork.step()
    clone = engine.clone()
    for _ in range(40):
        clone.step()
    for one, other in zip(before, engine.state, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(set(fork.clocks[:, at.TIME_S])) == 3
    engine.step()
    # The copy with the same action is what came.
    np.testing.assert_array_equal(fork.clocks[1], engine.clocks[1])
    np.testing.assert_array_equal(fork.observations[1], engine.observations[1])
    assert fork.rewards[1] == engine.rewards[1]


def test_state_of_256_concurrent_requests_stays_under_64_kib():
    engine = ServingEngine(scenario("papi", requests=512, max_running=256), 2)
    assert engine.state_bytes_per_env < 64 * 1024


# --- metrics and records -------------------------------------------------------------------------------


def test_metrics_are_those_of_the_records():
    s = scenario(
        energy_weight=0.003,
        lengths={"table": "dolly-general-qa"},
        requests=20,
        objectives={"ttft_s": 0.15, "tpot_s": 0.008},
    )
    engine = play(started(s, 2), at_random(3))
    metrics = engine.metrics()
    assert tuple(metrics) == METRIC_NAMES
    # As result files have them.
    assert (len(METRIC_NAMES), METRIC_NAMES[0], METRIC_NAMES[-1]) == (53, "time_s", "return")
    digest = hashlib.sha256("|".join(METRIC_NAMES).encode()).hexdigest()
    assert digest == "3efba39321aa2eaaa0a8963720593860e2842faa246161d4bb63711dc70d6bb1"
    for e in range(2):
        m, r = {name: values[e] for name, values in metrics.items()}, engine.records(e)
        tokens = r["output"].sum()
        assert m["arrived"] == m["finished"] == 20
        assert m["unfinished"] == 0
        assert m["tokens"] == tokens
        attained = r["status"] == at.ATTAINED_STATUS
        assert 0 < attained.sum() < 20
        assert m["attainment"] == attained.mean()
        assert m["goodput"] == pytest.approx(r["output"][attained].sum() / m["time_s"], rel=1e-12)
        assert m["goodput_rps"] == pytest.approx(attained.sum() / m["time_s"], rel=1e-12)
        assert m["throughput"] == pytest.approx(tokens / m["time_s"], rel=1e-12)
        assert m["time_s"] == r["finish_s"].max()
        ttft, e2e = r["first_token_s"] - r["arrival_s"], r["finish_s"] - r["arrival_s"]
        later = r["output"] > 1
        tpot = ((r["finish_s"] - r["first_token_s"])[later]) / (r["output"][later] - 1)
        for name, values in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)):
            for q in (50, 90, 99):
                assert m[f"{name}_p{q}_s"] == pytest.approx(np.percentile(values, q), rel=1e-12)
        assert m["static_j"] == pytest.approx(m["time_s"] * s.system.static_power_w, rel=1e-12)
        assert m["total_j"] == m["dynamic_j"] + m["static_j"]
        assert m["j_per_token"] == pytest.approx(m["total_j"] / tokens, rel=1e-12)
        # Energy counts from the first arrival on: before it no action was taken.
        charged = m["total_j"] - s.system.static_power_w * r["arrival_s"][0]
        reference = engine.tables.scalars[at.REFERENCE_TOKENS]
        assert m["return"] == pytest.approx((m["good_tokens"] - 0.003 * charged) / reference, rel=1e-9)
        for name in ("overlap", "idle_share", "accepted_share", *(f"utilisation_{k}" for k in at.RESOURCES)):
            assert 0 <= m[name] <= 1, name


def test_latencies_of_a_single_token_have_no_pace():
    moments = np.array([[1.0, 1.5, 2.0, 2.0], [1.0, 1.5, 2.0, 5.0], [1.0, np.nan, np.nan, np.nan]])
    facts = np.zeros((3, at.NUM_FACTS), dtype=np.int32)
    facts[:, at.OUTPUT] = (1, 4, 2)
    found = latencies(moments, facts)
    np.testing.assert_array_equal(found["ttft"], [1, 1, np.nan])
    np.testing.assert_array_equal(found["tpot"], [np.nan, 1, np.nan])
    np.testing.assert_array_equal(found["e2e"], [1, 4, np.nan])


def test_a_lone_request_takes_its_prompt_and_then_its_tokens():
    s = scenario(arrivals={"process": "together"}, requests=1, lengths={"input": 700, "output": 5})
    engine = started(s)
    seconds = []
    while not engine.counters[0, at.DONE]:
        audited_step(engine, [at.FC_PIM, 0, ADMITS_ALL, 0])
        seconds.append(engine.clocks[0, at.LAST_TIME_S])
    # 512 and 188 prompt tokens, the second of which gives the first output token; then four more.
    assert len(seconds) == 2 + 4
    records = engine.records(0)
    assert records["arrival_s"] == records["admitted_s"] == 0
    assert records["first_token_s"] == pytest.approx(sum(seconds[:2]), rel=1e-12)
    assert records["finish_s"] == pytest.approx(sum(seconds), rel=1e-12)


@pytest.mark.parametrize(("tpot_scale", "kept"), [(1 + 1e-9, True), (1 - 1e-9, False)])
def test_objectives_are_met_up_to_the_limit(tpot_scale, kept):
    """A pace just above the one that was had is met, and one just below is not; on-time tokens agree."""
    s = scenario(arrivals={"process": "together"}, requests=1, lengths={"input": 64, "output": 9})
    action = constant(
        at.PU, 0, ADMITS_ALL, 0
    )  # where the prompt was, so that no first token pays for a switch
    pace = play(started(s), action).metrics()["tpot_p50_s"][0]
    strict = s.replace(serving={"objectives": {"ttft_s": 2.0, "tpot_s": pace * tpot_scale}})
    metrics = play(started(strict), action).metrics()
    assert metrics["attained"] == kept
    assert metrics["good_tokens"] == (9 if kept else 0)
    assert (metrics["on_time_tokens"] == 9) == kept


def test_a_late_first_token_is_late_for_good():
    s = scenario(
        arrivals={"process": "together"},
        requests=1,
        lengths={"input": 64, "output": 9},
        objectives={"ttft_s": 1e-6, "tpot_s": 10.0},
    )
    engine = play(started(s), constant(at.FC_PIM, 0, ADMITS_ALL, 0))
    assert engine.records(0)["status"] == at.LATE
    assert engine.metrics()["good_tokens"] == engine.metrics()["on_time_tokens"] == 0


@pytest.mark.parametrize("prefill", [False, True])
def test_a_first_token_is_on_time_when_it_comes(prefill):
    """Requests of one token have no pace to keep: each is good, and each of their tokens on time."""
    s = scenario(
        arrivals={"process": "poisson", "rate_per_s": 30.0},
        requests=60,
        lengths={"input": 40, "output": 1},
        objectives={"ttft_s": 100.0, "tpot_s": 30.0},
        prefill=prefill,
    )
    metrics = play(started(s), constant(at.FC_PIM, 1, ADMITS_ALL, 0)).metrics()
    assert metrics["good_tokens"] == metrics["on_time_tokens"] == 60


@pytest.mark.parametrize("autoreset", [batch.NEXT_STEP, batch.SAME_STEP])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads, autoreset):
    table = scenario(drift={}, requests=6)
    one, many = (started(table, 7, autoreset=autoreset, threads=count) for count in (1, threads))
    rng = np.random.default_rng(0)
    for _ in range(150):
        actions = rng.integers(0, at.NVEC, (7, 4))
        for engine in (one, many):
            engine.actions[:] = actions
            engine.step()
        np.testing.assert_array_equal(one.observations, many.observations)
        np.testing.assert_array_equal(one.rewards, many.rewards)
    for ours, theirs in zip(one.state, many.state, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_counts_beyond_32_bits_are_refused():
    """Steps count with int32; a head of 2^17 numbers and contexts of 2^20 tokens are beyond all that there is."""
    model = dict(name="wide", layers=1, hidden=1 << 17, heads=1, feed_forward=1024, context_limit=1 << 20)
    assert started(scenario(model=model, max_running=8)).counters[0, at.RLP] == 0
    with pytest.raises(ConfigurationError, match=r"1024 requests of 1048576 tokens hold \d+ .* rows of keys"):
        started(scenario(model=model, max_running=1024))
