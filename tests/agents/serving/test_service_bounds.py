"""No policy beats the bounds on what is served of classes and conversations; and they are worth something."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.serving.service_bounds import ServiceBounds, service_bounds
from agents.serving.service_bounds_tables import prompt_steps
from agents.serving.time_prices import Jobs, bound_by_prices, chosen, constant_price, lowest, value
from papi_env.errors import ConfigurationError
from papi_env.scenario import parse_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine

TALK = {"turns": 2.5, "most_turns": 4, "think_s": 0.02, "lengths": {"input": 15, "output": 8}}
FAST = {
    "share": 1.0,
    "weight": 2.0,
    "lengths": {"input": 40, "output": 10},
    "objectives": {"ttft_s": 0.1, "tpot_s": 0.005},
}
SLOW = {"share": 1.0, "lengths": {"input": 200, "output": 30}, "objectives": {"ttft_s": 0.4, "tpot_s": 0.02}}


def scenario(classes, system="papi", charge=0.25, **changes):
    serving = {
        "arrivals": {"process": "poisson", "rate_per_s": 40.0},
        "lengths": {"table": "dolly-general-qa"},
        "objectives": {"ttft_s": 0.2, "tpot_s": 0.01},
        "speculation": {"classes": {"writing": 0.5, "code": 0.5}},
        "max_running": 6,
        "chunk_tokens": 64,
        "requests": 12,
    } | changes
    serving["service"] = {
        "classes": classes,
        "charge": charge,
        "max_waiting": 16,
        "max_open": 16,
    } | serving.pop("service", {})
    table = {"name": "test", "system": system, "model": "opt-30b", "energy_weight": 1e-3, "serving": serving}
    return parse_scenario(table, "test")


def started(scenario, num_envs, seeds=None):
    engine = ServingEngine(scenario, num_envs)
    engine.counters[:, at.SEED] = np.arange(num_envs) if seeds is None else seeds
    engine.reset()
    return engine


def play(engine, actions, steps=20_000):
    """Step until every environment has ended; `actions(step)` are [num_envs, 10]. Returns the sums of rewards."""
    returns = np.zeros(engine.num_envs)
    for step in range(steps):
        if (engine.counters[:, at.DONE] == 1).all():
            return returns
        engine.actions[:] = actions(step)
        engine.step()
        returns += engine.rewards
    raise AssertionError(f"not over after {steps} iterations")


def players(num_envs):
    """Some that are good at one thing, and chance."""
    rng = np.random.default_rng(0)
    yield lambda step: rng.integers(0, at.NVEC_V1, (num_envs, len(at.NVEC_V1)))
    for unit, length, order, shedding, keeping in (
        (at.FC_PIM, 0, at.BY_ARRIVAL, at.SHED_NONE, at.KEEP_NONE),
        (at.FC_PIM, 2, at.BY_WEIGHT, at.SHED_LATE, at.KEEP_ALL),
        (at.PU, 1, at.BY_PROMPT, at.SHED_CLASS, at.KEEP_CLASS),
        (at.SPLIT, 3, at.BY_DEADLINE, at.SHED_LATE, at.KEEP_ALL),
    ):
        action = np.zeros((num_envs, len(at.NVEC_V1)), dtype=np.int64)
        action[:, at.FC], action[:, at.SPECULATION], action[:, at.ADMISSION] = unit, length, at.ALL
        action[:, at.ORDER], action[:, at.SHEDDING], action[:, at.KEEPING] = order, shedding, keeping
        yield lambda step, action=action: action


def check(scenario, num_envs=2, first=0):
    """Play an environment in several ways; the bounds that all of them kept."""
    engine = started(scenario, num_envs, first + np.arange(num_envs))
    bounds = service_bounds(engine)
    for actions in players(num_envs):
        engine.counters[:, at.EPISODE] = 0
        engine.reset()
        returns = play(engine, actions)
        clocks = engine.state.clocks
        np.testing.assert_allclose(clocks[:, at.OFFERED], bounds["offered"], rtol=1e-9)
        assert (clocks[:, at.SERVED] <= bounds["served"] * (1 + 1e-9)).all()
        assert (clocks[:, at.TIME_S] >= bounds["time_s"] * (1 - 1e-12)).all()
        assert (returns <= bounds["episode_return"] + 1e-9 * np.abs(bounds["episode_return"]) + 1e-9).all()
    return bounds


classes = st.lists(
    st.fixed_dictionaries(
        {
            "share": st.floats(0.2, 2.0),
            "weight": st.sampled_from([0.5, 1.0, 3.0]),
            "lengths": st.fixed_dictionaries({"input": st.integers(1, 250), "output": st.integers(1, 40)}),
            "objectives": st.fixed_dictionaries(
                {"ttft_s": st.sampled_from([0.03, 0.2, 2.0]), "tpot_s": st.sampled_from([2e-3, 6e-3, 0.1])}
            ),
            "conversation": st.sampled_from([None, TALK]),
            "patience_s": st.sampled_from([None, (0.1, 0.5)]),
            "shared_prefix": st.sampled_from([0, 40]),
        }
    ),
    min_size=1,
    max_size=3,
)
rest = st.fixed_dictionaries(
    {
        "prefill": st.booleans(),
        "draft_cost": st.booleans(),
        "drift": st.sampled_from([None, {"period_s": 0.1}]),
        "dual_row_buffers": st.booleans(),
    }
)


@settings(max_examples=5, deadline=None)
@given(
    classes,
    rest,
    st.sampled_from(["papi", "papi-pim-only", "a100", "attacc-only"]),
    st.sampled_from([None, 500]),
    st.sampled_from(
        [{}, {"requests": None, "horizon_s": 0.3}, {"requests": None, "horizon_s": 0.3, "drain": False}]
    ),
    st.sampled_from(["tokens", "requests"]),
)
def test_no_policy_serves_more(drawn, settings_drawn, system, kv_tokens, end, worth):
    end = dict(end)
    service = {"worth": worth, "drain": end.pop("drain", True)}
    named = {f"class-{k}": entry for k, entry in enumerate(drawn)}
    if not settings_drawn["prefill"]:
        named = {name: entry | {"conversation": None, "shared_prefix": 0} for name, entry in named.items()}
    check(scenario(named, system, service=service, kv_tokens=kv_tokens, **settings_drawn, **end))


@pytest.mark.parametrize("system", ["papi", "a100"])
def test_what_happens_in_an_iteration_costs_no_more_than_its_seconds(system):
    named = {
        "fast": FAST | {"acceptance": {"writing": 1.0}},
        "slow": SLOW | {"acceptance": {"code": 1.0}},
        "talk": FAST
        | {"conversation": TALK, "acceptance": {"writing": 0.5, "code": 0.5}, "shared_prefix": 20},
    }
    engine = started(scenario(named, system, requests=30), 4)
    bounds = ServiceBounds(engine.tables)
    shares = np.array([(1, 0, 0, 1), (0.5, 0.5, 4, 0.7), (0, 1, 16, 0.3), (0.8, 0.1, 1, 0.9)], dtype=float)
    tight, other, paces = bounds.prices(shares)
    kinds = engine.tables.kinds
    fast = kinds[:, at.KIND_TPOT_S] == kinds[:, at.KIND_TPOT_S].min()
    shared = (kinds[:, at.SHARED] * 2.0 ** engine.tables.scalars[at.PAGE_LOG2]).astype(int)
    rng, mixed = np.random.default_rng(5), 0
    state, counters = engine.state, engine.counters
    for _ in range(300):
        contexts, running = state.contexts.copy(), counters[:, at.RLP].copy()
        of_kind, preempted = state.classes.copy(), counters[:, at.PREEMPTIONS].copy()
        actions = rng.integers(0, at.NVEC_V1, (4, len(at.NVEC_V1)))
        actions[:, at.SPECULATION] = np.maximum(actions[:, at.SPECULATION], 1)
        actions[:, at.DRAFTED_FOR] = at.DRAFT_ACCEPTED
        over = counters[:, at.DONE] == 1
        engine.actions[:] = actions
        engine.step()
        for e in np.flatnonzero(~over & (counters[:, at.PREEMPTIONS] == preempted)):
            kind = of_kind[e, : running[e]]
            drafts = (counters[e, at.UNDRAFTED] >> kind) & 1 == 0
            place = np.where(drafts, actions[e, at.SPECULATION], 0)
            mixed += len(set(drafts)) == 2
            own = np.maximum(contexts[e, : running[e]] - shared[kind], 0)
            part = np.where(fast[kind], tight.part[:, place], other.part[:, place]).sum(axis=1)
            content = part + (tight.token[:, place] * own).sum(axis=1)
            content += tight.prompt * counters[e, at.LAST_CHUNK]
            seconds = state.clocks[e, at.LAST_TIME_S] * (1 + paces * fast[kind].sum())
            assert (content <= seconds * (1 + 1e-9)).all()
    assert mixed > 20


def test_every_sequence_of_choices_on_a_tiny_instance_keeps_the_bound():
    # Two who cannot wait and two who take long; five choices in each of the first six iterations.
    entry = {
        "share": 1.0,
        "lengths": {"input": 60, "output": 3},
        "objectives": {"ttft_s": 0.045, "tpot_s": 0.02},
    }
    tiny = scenario(
        {"only": entry}, requests=4, max_running=2, arrivals={"process": "poisson", "rate_per_s": 100.0}
    )
    options = np.zeros((5, len(at.NVEC_V1)), dtype=np.int64)
    options[:, at.ADMISSION] = (at.ALL, at.ONE, at.NONE, at.ALL, at.ONE)
    options[:, at.SHEDDING] = (at.SHED_NONE, at.SHED_NONE, at.SHED_NONE, at.SHED_LATE, at.SHED_LATE)
    options[:, at.FC] = (at.FC_PIM, at.FC_PIM, at.PU, at.PU, at.PU)
    options[:, at.SPECULATION] = (0, 2, 0, 2, 0)
    sequences = np.array(list(itertools.product(range(5), repeat=6)))
    for seed in range(3):
        engine = started(tiny, len(sequences), np.full(len(sequences), seed))
        bound = ServiceBounds(engine.tables).of(engine, 0)
        play(
            engine,
            lambda step: options[sequences[:, step] if step < 6 else np.ones(len(sequences), dtype=int)],
        )
        best = engine.state.clocks[:, at.SERVED].max()
        assert 0.0 < best <= bound.served


def test_overload_is_bounded_below_what_is_asked_for():
    slow = SLOW | {"lengths": {"input": 1000, "output": 30}}
    bounds = check(
        scenario({"slow": slow}, requests=60, arrivals={"process": "poisson", "rate_per_s": 200.0})
    )
    assert (bounds["figure"] < 0.6).all()


def test_little_load_can_be_served_to_the_last():
    easy = scenario({"slow": SLOW}, arrivals={"process": "poisson", "rate_per_s": 1.0})
    assert (check(easy)["figure"] == 1.0).all()


def test_few_pages_bound_what_is_served():
    # Two contexts fit where thirty-two may run: decoding is at most so far from a full machine's.
    entry = {"lengths": {"input": 30, "output": 300}, "objectives": {"ttft_s": 0.5, "tpot_s": 0.005}}
    load = {"arrivals": {"process": "poisson", "rate_per_s": 100.0}, "requests": 60, "max_running": 32}
    wide = check(scenario({"only": entry}, **load))
    few = check(scenario({"only": entry}, kv_tokens=400, **load))
    assert (few["figure"] < wide["figure"] - 0.05).all()


def test_objectives_that_cannot_be_met_leave_nothing():
    for objectives in ({"ttft_s": 1e-4, "tpot_s": 1.0}, {"ttft_s": 10.0, "tpot_s": 1e-5}):
        bounds = check(scenario({"only": SLOW | {"objectives": objectives}}), 2)
        assert (bounds["served"] == 0.0).all()


def test_bounds_do_not_depend_on_what_was_played():
    engine = started(scenario({"fast": FAST, "slow": SLOW}), 1)
    before = service_bounds(engine)
    for _ in range(20):
        engine.actions[:] = next(players(1))(0)
        engine.step()
    assert service_bounds(engine) == before


def test_bounds_belong_to_an_engine_with_classes():
    plain = scenario({"slow": SLOW})
    other = started(plain, 1)
    with pytest.raises(ConfigurationError, match="another engine"):
        ServiceBounds(other.tables).of(started(plain, 1), 0)
    without = plain.model_copy(update={"serving": plain.serving.model_copy(update={"service": None})})
    with pytest.raises(ConfigurationError, match="no classes"):
        ServiceBounds(ServingEngine(without, 1).tables)


# --- prices of time -------------------------------------------------------------------------------------


def jobs(rng, sessions=12, slots=9):
    length = rng.integers(1, 4, sessions)
    turns = length.sum()
    windows = np.sort(rng.integers(0, slots, (turns, 4)), axis=1)
    return Jobs(
        first=np.cumsum(length) - length,
        worth=rng.uniform(0.5, 2.0, turns),
        able=rng.random(turns) < 0.9,
        prompt=rng.uniform(0.0, 1.0, turns),
        decode=rng.uniform(0.0, 1.0, turns),
        credit=np.zeros(turns),
        prompt_from=windows[:, 0],
        prompt_to=windows[:, 1],
        decode_from=windows[:, 1],
        decode_to=windows[:, 3],
    )


def test_the_least_price_of_a_window():
    rng = np.random.default_rng(1)
    prices = rng.random(13)
    start = rng.integers(0, 13, 50)
    stop = np.minimum(start + rng.integers(0, 13, 50), 12)
    expected = [prices[a : b + 1].min() for a, b in zip(start, stop, strict=True)]
    np.testing.assert_array_equal(lowest(prices, start, stop), expected)


def test_sessions_choose_the_best_of_all_ways():
    rng = np.random.default_rng(2)
    for _ in range(20):
        some = jobs(rng)
        turns = len(some.worth)
        cost, later = rng.uniform(0, 2, turns), rng.uniform(0, 2, turns)
        gained, counted, anytime = chosen(some, cost, later)
        total = 0.0
        for first, end in zip(some.first, np.append(some.first[1:], turns), strict=True):
            ways = []
            for lost in range(first, end + 1):  # the first that does not count, or none
                if not some.able[first:lost].all():
                    break
                gain = (some.worth - cost)[first:lost].sum()
                free = np.where(some.able, np.maximum(some.worth - later, 0.0), 0.0)[lost + 1 : end].sum()
                ways.append(gain + free)
            total += max(ways)
        assert gained == pytest.approx(total)
        taken = (counted * (some.worth - cost) + anytime * (some.worth - later))[counted + anytime > 0].sum()
        assert taken == pytest.approx(total)


def test_prices_bound_the_linear_programme_and_come_near_it():
    linprog = pytest.importorskip("scipy.optimize").linprog
    rng = np.random.default_rng(3)
    for _ in range(5):
        some, slots = jobs(rng, sessions=25), 9
        # Sessions of one turn: all they can do is to count in part.
        single = some._replace(first=np.arange(len(some.worth)))
        room = np.full(slots, 1.0)
        rows, count = [], len(single.worth)
        pieces = [
            (i, kind, m)
            for i in range(count)
            for kind, low, high in (
                (0, single.prompt_from[i], single.prompt_to[i]),
                (1, single.decode_from[i], single.decode_to[i]),
            )
            for m in range(low, high + 1)
        ]
        columns = count + len(pieces)
        balance = np.zeros((2 * count, columns))
        balance[np.arange(count), np.arange(count)] = -single.prompt
        balance[count + np.arange(count), np.arange(count)] = -single.decode
        rows = np.zeros((slots, columns))
        for k, (i, kind, m) in enumerate(pieces):
            balance[kind * count + i, count + k] = 1.0
            rows[m, count + k] = 1.0
        upper = [(0, float(able)) for able in single.able] + [(0, None)] * len(pieces)
        best = linprog(
            -np.append(single.worth, np.zeros(len(pieces))),
            A_ub=rows,
            b_ub=room,
            A_eq=balance,
            b_eq=np.zeros(2 * count),
            bounds=upper,
        )
        found = bound_by_prices(single, room)
        assert -best.fun * (1 - 1e-9) <= found <= -best.fun * 1.03
        assert found <= constant_price(single, room)[1] <= value(single, room, np.zeros(slots)) + 1e-9


def test_credit_only_adds_room():
    rng = np.random.default_rng(4)
    some, room = jobs(rng), np.full(9, 0.7)
    more = some._replace(credit=some.decode * 0.5)
    assert bound_by_prices(some, room) < bound_by_prices(more, room) <= some.worth[some.able].sum() + 1e-9


def test_steps_along_prompts_end_with_a_chunk():
    for chunk in (1, 2, 64, 512):
        steps = prompt_steps(chunk)
        assert steps[0] == 0
        assert steps[-1] == chunk
        assert (np.diff(steps) > 0).all()
    assert prompt_steps(0).tolist() == [0]
