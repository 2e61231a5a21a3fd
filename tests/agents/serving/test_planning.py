"""Planners of Serving-v1: one knows the future, and is no worse than its base rule; one sees nothing hidden."""

import math

import numpy as np
import pytest

from agents.evaluate import evaluate
from agents.registry import is_slow, make_policy, names_folder
from agents.serving.greedy import GreedyParameters, ProfileGreedy
from agents.serving.inside.choices import LEFT
from agents.serving.inside.memory import NUM_MEMORY, PRIOR_ACCEPTANCE
from agents.serving.inside.play import play_range
from agents.serving.inside.slack import KV_DROP
from agents.serving.planning.arrivals import PlannerArrivals
from agents.serving.planning.fair import LEAST_AHEAD_S, PlannerFair, answer_s
from agents.serving.planning.imagined import between, chance_of_draft, first_kinds, imagine_service
from agents.serving.planning.known import Known, unfinished
from agents.serving.planning.planner import Followed
from agents.serving.planning.star import PlannerStar
from agents.serving.slack import SlackAware, SlackParameters
from experiments.arena.entries import policy_digest
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.errors import ConfigurationError
from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.rollout import roll
from papi_env.simulation.serving.tables import build_serving_tables

CHATS = {
    "conversation": {"turns": 4, "think_s": 2.0},
    "acceptance": {"writing": 0.5, "code": 0.5},
    "patience_s": [1.0, 3.0],
}
BATCH = {"weight": 0.5, "objectives": {"ttft_s": 6.0, "tpot_s": 0.2}}
SCENARIO = {
    "name": "test",
    "system": "papi",
    "model": "llama-65b",
    "serving": {
        "arrivals": {"process": "poisson", "rate_per_s": 24.0},
        "lengths": {"table": "dolly-general-qa"},
        "objectives": {"ttft_s": 1.0, "tpot_s": 0.06},
        "horizon_s": 6.0,
        "max_running": 48,
        "kv_tokens": 6_000,
        "service": {"classes": {"chats": CHATS, "batch": BATCH}, "max_waiting": 64, "max_open": 64},
    },
}
CHOICES = np.array([at.BY_DEADLINE, at.SHED_LATE, 0, at.KEEP_ALL, at.EVICT_RETURN, 0, 0])


def environment(num_envs=1, **fields):
    return ServingV1VectorEnv(SCENARIO, num_envs=num_envs, autoreset_mode="Disabled", serving=fields)


def base():
    return ProfileGreedy(GreedyParameters()).giving(CHOICES.copy())


def base_returns(env, seeds):
    rule = base()
    rule.bind(env)
    env.reset(seed=list(seeds))
    return roll(env.engine, play_range, rule.compiled(np.zeros((len(seeds), NUM_MEMORY)))[:]).returns


def underway(seconds, seed=0, made=None):
    """An environment some seconds into an episode of the base rule, and what was seen of it."""
    env = environment() if made is None else made
    rule = base()
    rule.bind(env)
    observations, _ = env.reset(seed=[seed])
    known, state = Known(), None
    known.watch(env.engine, 0)
    while env.engine.clocks[0, at.TIME_S] < seconds:
        actions, state = rule.predict(observations, state)
        observations, *_ = env.step(actions)
        known.watch(env.engine, 0)
    return env, known


# --- the clairvoyant one ------------------------------------------------------------------------------------


def test_knowing_the_future_is_never_worse_than_the_base_rule():
    seeds = (0,)
    env = environment(len(seeds), horizon_s=1.5, arrivals={"process": "poisson", "rate_per_s": 100.0})
    expected = base_returns(env, seeds)
    planner = PlannerStar(0.5, 1, base())
    planner.bind(env)
    observations, _ = env.reset(seed=list(seeds))
    state, start, returns = None, np.ones(1, dtype=np.bool_), np.zeros(1)
    while not (env.engine.counters[:, at.DONE] == 1).all():
        actions, state = planner.predict(observations, state, start)
        start[:] = False
        observations, rewards, *_ = env.step(actions)
        returns += rewards
    assert (returns >= expected - 1e-9).all()
    assert returns.sum() > 1.02 * expected.sum()
    assert state.looks > 3 * len(seeds)


def test_what_a_plan_promises_comes_true():
    env = environment()
    planner = PlannerStar(1.0, 2, base())
    planner.bind(env)
    env.reset(seed=[3])
    state = Followed(1, planner.space)
    futures = planner.futures(env.engine, 0, state)
    now, then = planner.search(futures, state.memory[0], planner.space.base)
    promised = planner.values(futures, state.memory[0], now[None], then[None])[0, 0]
    memory = np.zeros((1, NUM_MEMORY))
    found = 0.0
    for candidate, seconds in ((now, 1.0), (then, None)):
        policy = planner.space.policy(planner.base, candidate[None], memory)
        found += roll(env.engine, play_range, policy[:], seconds=seconds).returns[0]
    assert found == promised


def test_a_look_changes_nothing():
    env, _ = underway(2.0)
    before = [array.copy() for array in env.engine.state]
    for planner in (PlannerStar(1.0, 1, base()), PlannerFair(1.0, 12, base(), ahead_s=2.0)):
        planner.bind(env)
        state = Followed(1, planner.space)
        planner.watch(env.engine, state, None)
        planner.search(planner.futures(env.engine, 0, state), state.memory[0], planner.space.base)
        for array, old in zip(env.engine.state, before, strict=True):
            np.testing.assert_array_equal(array, old)


def test_plans_about_a_rule_that_decides_by_itself_leave_it_its_choices():
    env = environment()
    rule = SlackAware(SlackParameters(kv_drop=0.9))
    planner = PlannerStar(1.0, 1, rule)
    planner.bind(env)
    space = planner.space
    assert space.coordinates[0].values == (LEFT, 0, 1, 2, 3, 4, at.BY_TRUE_WORK, at.BY_TRUE_SPACE)
    policy = space.policy(
        rule, np.array([space.base, *space.neighbours(space.base)]), np.zeros((1, NUM_MEMORY))
    )
    assert (policy.service[0] == LEFT).all()
    assert policy.service[1].tolist() == [0, *[LEFT] * 6]
    drops = {row[KV_DROP] for row in policy.parameters}
    assert drops == {0.9, 0.5, 0.75, 1.0}


# --- the fair one ---------------------------------------------------------------------------------------------


def hide(engine, known, rng):
    """Change all that a scheduler cannot see, and nothing that it can."""
    state, tables = engine.state, engine.tables
    counters, clocks = state.counters[0], state.clocks[0]
    counters[at.SEED], counters[at.EPISODE] = rng.integers(0, 2**40), 7
    clocks[at.NEXT_SESSION_S] = clocks[at.TIME_S] + rng.random()
    clocks[at.OPERATIONAL_S] = clocks[at.NEXT_SESSION_S]
    for record in unfinished(state, 0):
        state.facts[0, record, at.OUTPUT] += rng.integers(0, 9)
        own = tables.kinds[state.facts[0, record, at.CLASS], at.OF_CLASS]
        state.facts[0, record, at.CLASS] = rng.choice(np.flatnonzero(tables.kinds[:, at.OF_CLASS] == own))
    rlp = counters[at.RLP]
    decoding = state.requests[0, :rlp]
    generated = known_generated(engine)
    state.left[0, :rlp] = state.facts[0, decoding, at.OUTPUT] - generated
    state.classes[0, :rlp] = state.facts[0, decoding, at.CLASS]
    state.keys[0] += np.uint64(12345)
    queued = waiting_in(engine)
    state.queue_facts[0, queued, at.QUEUED_KIND] = state.facts[0, state.queue[0, queued], at.CLASS]
    state.queue_until_s[0, queued] += 0.5
    clocks[at.NEXT_LEAVE_S] += 0.25
    served = set(state.more[0, unfinished(state, 0), at.PLACE].tolist())
    for place in np.flatnonzero(state.places[0, at.NUMBER] >= 0).tolist():
        if place in served:
            state.places[0, at.TURNS, place] += 1
        elif state.places[0, at.PAGES, place] > 0:
            # It was to go on, and is over; or the other way round.
            over = state.places[0, at.TURNS, place] == state.places[0, at.NEXT_TURN, place]
            state.places[0, at.TURNS, place] = state.places[0, at.NEXT_TURN, place] + int(over)
            state.place_s[0, at.RETURN_S, place] = clocks[at.TIME_S] + 1.0 if over else np.inf
        else:
            state.places[0, at.NUMBER, place] = -1
            state.place_s[0, at.RETURN_S, place] = np.inf
            state.places[0, at.TOLD, place] = counters[at.FREE_PLACE]
            counters[at.FREE_PLACE] = place
            counters[at.OPEN] -= 1


def waiting_in(engine):
    """The places of the queue that are taken."""
    front, queued, preempted = engine.counters[0, [at.QUEUE_FRONT, at.QUEUED, at.PREEMPTED]]
    return slice(front, front + queued - preempted)


def known_generated(engine):
    state = engine.state
    rlp = state.counters[0, at.RLP]
    return (
        np.array(engine.generated_before)
        if hasattr(engine, "generated_before")
        else (state.facts[0, state.requests[0, :rlp], at.OUTPUT] - state.left[0, :rlp])
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_machines_that_look_alike_are_planned_for_alike(seed):
    rng = np.random.default_rng(seed)
    env, known = underway(4.0, seed)
    other, same = underway(4.0, seed)
    rlp = other.engine.counters[0, at.RLP]
    slots = other.engine.state.requests[0, :rlp]
    other.engine.generated_before = (
        other.engine.state.facts[0, slots, at.OUTPUT] - other.engine.state.left[0, :rlp]
    )
    hide(other.engine, same, rng)
    assert len(known.resting) > 3
    found = []
    for each, seen in ((env, known), (other, same)):
        planner = PlannerFair(1.0, 12, base(), ahead_s=2.0, errors=0.0)
        planner.bind(each)
        state = Followed(1, planner.space)
        state.seen[0] = seen
        futures = planner.futures(each.engine, 0, state)
        plan = planner.search(futures, state.memory[0], planner.space.base)
        first, then = planner.varied(planner.space.base, planner.space.base)
        found.append((plan, planner.values(futures, state.memory[0], first[:8], then[:8], 0, 6)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    # What was hidden decides what comes.
    true = [roll(e.engine, play_range, bound_policy(e)[:]).returns[0] for e in (env, other)]
    assert true[0] != true[1]


def bound_policy(env):
    rule = base()
    rule.bind(env)
    return rule.compiled(np.zeros((1, NUM_MEMORY)))


def test_conversations_at_rest_are_known_without_being_told():
    env, known = underway(4.0)
    state = env.engine.state
    served = set(state.more[0, unfinished(state, 0), at.PLACE].tolist())
    rest = [p for p in np.flatnonzero(state.places[0, at.NUMBER] >= 0) if p not in served]
    assert len(rest) > 3
    for place in rest:
        seen = known.resting[int(state.places[0, at.NUMBER, place])]
        assert seen.turn == state.places[0, at.NEXT_TURN, place]
        assert seen.told == state.places[0, at.TOLD, place]
        assert seen.done_s == state.place_s[0, at.DONE_S, place]
    # Of those that are over the simulation knows nothing any more.
    assert len(known.resting) > len(rest)


def test_what_is_imagined_agrees_with_what_is_known():
    env, known = underway(4.0, 1)
    engine, samples = env.engine, 200
    now = engine.clocks[0, at.TIME_S]
    twin = imagine_service(engine, 0, samples, known, 5.0, 1)
    state, true = twin.state, engine.state
    records = unfinished(true, 0)
    generated = true.facts[0, records, at.GENERATED]
    assert (state.facts[:, records, at.OUTPUT] > generated).all()
    assert len(np.unique(state.facts[:, records[0], at.OUTPUT])) > 10
    rlp = engine.counters[0, at.RLP]
    assert (state.left[:, :rlp] > 0).all()
    assert (state.queue_until_s[:, waiting_in(engine)] >= now).all()
    gaps = state.clocks[:, at.NEXT_SESSION_S] - now
    assert gaps.min() > 0
    assert gaps.mean() == pytest.approx(1 / 24, rel=0.3)
    assert (state.place_s[:, at.RETURN_S] >= now).all()
    # As many go on as the chance says that is left after their rest.
    kinds = engine.tables.kinds
    goes_on = kinds[0, at.GOES_ON]
    chances = []
    for rest in known.resting.values():
        z = (np.log(now - rest.done_s) - kinds[0, at.THINK_MU]) / kinds[0, at.THINK_SIGMA]
        waits = 0.5 * math.erfc(z / math.sqrt(2))
        chances.append(goes_on * waits / (1 - goes_on + goes_on * waits))
    alive = np.isfinite(state.place_s[:, at.RETURN_S]).sum(axis=1)
    assert alive.mean() == pytest.approx(sum(chances), rel=0.15)
    # The copies drain, and conserve what is offered.
    roll(twin, play_range, tiled(bound_policy(env), samples)[:])
    assert (twin.counters[:, at.DONE] == 1).all()


def tiled(policy, count):
    return policy._replace(
        parameters=np.repeat(policy.parameters, count, axis=0),
        service=np.repeat(policy.service, count, axis=0),
        memory=np.zeros((count, NUM_MEMORY)),
    )


def test_draws_by_hand():
    outputs = np.array([2, 4, 8, 16], dtype=np.int32)
    uniforms = np.array([[0.0, 0.0, 0.0, 0.0], [0.999, 0.999, 0.999, 0.999]])
    drawn = between(np.array([0, 4, 8, 16]), np.array([99, 8, 99, 99]), outputs, uniforms)
    assert drawn.tolist() == [[2, 8, 16, 17], [16, 8, 16, 17]]
    assert chance_of_draft(0.0, 3) == chance_of_draft(0.5, 0) == PRIOR_ACCEPTANCE
    assert chance_of_draft((0.6 + 0.36 + 0.216) / 3, 3) == pytest.approx(0.6)
    env, _ = underway(0.1)
    classes = env.engine.tables.kinds[:, at.OF_CLASS]
    assert (classes[first_kinds(env.engine.tables)] == classes).all()


# --- the one that knows who comes -----------------------------------------------------------------------------


def without_conversations(num_envs=1):
    classes = {"people": {"patience_s": [1.0, 3.0]}, "batch": BATCH}
    return environment(num_envs, service={"classes": classes, "max_waiting": 64, "max_open": 64})


def futures_of(env):
    planner = PlannerArrivals(1.0, 12, base())
    planner.bind(env)
    return planner.futures(env.engine, 0, Followed(1, planner.space)).made


def test_who_knows_arrivals_knows_all_but_the_answers_of_those_who_are_here():
    env, _ = underway(2.0, made=without_conversations())
    engine, made = env.engine, futures_of(env)
    here = unfinished(engine.state, 0)
    outputs = made.state.facts[:, here, at.OUTPUT]
    assert (outputs.std(axis=0) > 0).any()
    for name, mine, true in zip(engine.state._fields, made.state, engine.state, strict=True):
        if name == "left":
            continue
        mine, true = mine.copy(), np.repeat(true, len(mine), axis=0)
        if name == "facts":
            mine[:, here, at.OUTPUT] = true[:, here, at.OUTPUT]
        np.testing.assert_array_equal(mine, true, name)
    rule = base()
    rule.bind(env)
    roll(made, play_range, rule.compiled(np.zeros((12, NUM_MEMORY)))[:])
    roll(engine, play_range, rule.compiled(np.zeros((1, NUM_MEMORY)))[:])
    assert (made.counters[:, at.DONE] == 1).all()
    # As many come in every future as in truth, and what is served of it differs.
    assert set(made.counters[:, at.SESSIONS]) == {engine.counters[0, at.SESSIONS]}
    assert made.clocks[:, at.SERVED].std() > 0


def test_who_knows_arrivals_is_not_told_answers():
    env, _ = underway(2.0, made=without_conversations())
    expected = futures_of(env)
    state = env.engine.state
    here = unfinished(state, 0)
    # Longer answers of all who are here: what a scheduler sees of them stays.
    state.facts[0, here, at.OUTPUT] += 7
    state.left[0, : env.engine.counters[0, at.RLP]] += 7
    made = futures_of(env)
    for array, other in zip(made.state, expected.state, strict=True):
        np.testing.assert_array_equal(array, other)


def test_who_knows_arrivals_plays_no_conversations():
    with pytest.raises(ConfigurationError, match="'test' has conversations"):
        PlannerArrivals(1.0, 12, base()).bind(environment())


# --- their names ------------------------------------------------------------------------------------------------


def test_names_say_the_budget():
    star = make_policy("planner-star-1.5x3")
    assert (star.seconds, star.rounds, star.privileged) == (1.5, 3, True)
    fair = make_policy("planner-fair-4x12")
    assert (fair.seconds, fair.samples, fair.privileged) == (4.0, 12, False)
    ahead = make_policy("planner-fair-0.5x24x30")
    assert (ahead.seconds, ahead.samples, ahead.ahead_s, fair.ahead_s) == (0.5, 24, 30.0, None)
    knowing = make_policy("planner-arrivals-4x24")
    assert (knowing.seconds, knowing.samples, knowing.privileged) == (4.0, 24, True)
    assert is_slow("planner-fair-0.5x24x30")
    assert is_slow("planner-arrivals-4x24@slack-aware")
    assert make_policy("planner-star").seconds == make_policy("planner-fair").seconds / 2 == 2.0
    with pytest.raises(ConfigurationError, match="ahead_s is 0"):
        make_policy("planner-fair-2x12x0")
    with pytest.raises(ConfigurationError, match="Unknown policy 'planner-star-2x2x30'"):
        make_policy("planner-star-2x2x30")
    with pytest.raises(ConfigurationError, match="rounds is 0"):
        make_policy("planner-star-2x0")
    with pytest.raises(ConfigurationError, match="samples is 1"):
        make_policy("planner-fair-2x1")
    with pytest.raises(ConfigurationError, match="more than 0"):
        make_policy("planner-star-0x2")


def test_arrivals_are_imagined_for_as_long_as_an_answer_takes():
    # A quarter of what wildchat's 441 tokens may take at 0.2 s each, a mean of the table's 32,768 draws.
    assert answer_s(build_serving_tables(get_scenario("chats/llama-65b"))) == pytest.approx(
        0.25 * 441 * 0.2, rel=0.1
    )
    assert answer_s(build_serving_tables(get_scenario("two-classes/llama-65b"))) == LEAST_AHEAD_S


def test_a_plan_is_judged_on_futures_that_it_was_not_chosen_by(monkeypatch):
    """Whatever wins on chosen futures by luck alone is not followed: on the others it is no better."""
    planner = make_policy("planner-fair-4x12")
    planner.bind(environment(1))
    asked = []

    def values(futures, memory, first, then, start=0, stop=1):
        asked.append((len(first), start, stop))
        lucky = np.zeros((len(first), stop - start))
        if start < 6 and len(first) > 1:
            lucky[-1] = 1.0
        return lucky

    monkeypatch.setattr(planner, "values", values)
    base = planner.space.base
    now, then = planner.search(None, np.zeros(NUM_MEMORY), base)
    np.testing.assert_array_equal([now, then], [base, base])
    assert [(start, stop) for count, start, stop in asked if count == 1] == [
        (0, 1),
        (1, 3),
        (3, 6),
        (6, 12),
        (6, 12),
    ]


@pytest.mark.parametrize(
    ("parts", "column", "option"),
    [
        ("deadline+late+keep+belady", at.EVICTION, at.EVICT_TRUE_RETURN),
        ("weight-per-true-work+late+keep", at.ORDER, at.BY_TRUE_WORK),
        ("weight-per-true-space+late+keep", at.ORDER, at.BY_TRUE_SPACE),
    ],
)
def test_choosing_by_what_will_come_is_privileged(parts, column, option):
    clairvoyant = make_policy(f"profile-greedy+{parts}")
    assert clairvoyant.privileged
    assert not make_policy("profile-greedy+deadline+late+keep+return").privileged
    env = environment(2)
    inside = evaluate(clairvoyant, env, [0, 1])
    outside = evaluate(make_policy(f"profile-greedy+{parts}"), env, [0, 1], inside=False)
    assert inside["tokens"].tolist() == outside["tokens"].tolist()
    fresh = environment()
    fresh.reset(seed=[0])
    action = np.zeros((1, len(at.NVEC_V1)), dtype=np.int64)
    action[0, column] = option
    with pytest.raises(Exception, match="outside"):
        fresh.step(action)


def test_the_reference_chooses_among_orders_that_know_how_long_answers_will_be():
    for name, known in (("planner-star@slack-aware", True), ("planner-fair-4x12@slack-aware", False)):
        planner = make_policy(name)
        planner.bind(environment())
        (order,) = (c for c in planner.space.coordinates if c.name == "order")
        assert ({at.BY_TRUE_WORK, at.BY_TRUE_SPACE} <= set(order.values)) == known


def test_a_planner_starts_from_what_stands_after_it():
    planner = make_policy("planner-fair-4x12@slack-aware+deadline")
    assert isinstance(planner.base, SlackAware)
    assert is_slow("planner-star@slack-aware")
    assert not names_folder("planner-fair@agents/pretrained/serving-v1")
    folder = "agents/pretrained/serving-v1"
    assert policy_digest(f"planner-fair@{folder}") == policy_digest(folder) is not None
    for wrong, says in (("planner-fair@threshold", "network"), ("planner-fair@nothing", "nothing")):
        with pytest.raises(ConfigurationError, match=says):
            make_policy(wrong)


def test_a_planner_from_a_network_leaves_it_as_it_is_and_is_never_worse_with_the_true_future():
    alone = evaluate(make_policy("agents/pretrained/serving-v1"), environment(), [0])
    planner = make_policy("planner-star-8x1@agents/pretrained/serving-v1")
    planned = evaluate(planner, environment(), [0])
    assert (planned["return"] >= alone["return"] - 1e-9).all()
    names = [coordinate.name for coordinate in planner.space.coordinates]
    assert "scores of class 0" in names
    assert "drops a class" in names
    assert "order" in names
