"""What must balance in a serving engine with classes of requests, and scenarios to play with."""

import numpy as np

from papi_env.scenario import get_scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.counting import EMPTY, SLOTS_AT_ONCE
from papi_env.simulation.serving.engine import ServingEngine

TALK = {"turns": 2.5, "most_turns": 6, "think_s": 0.5, "lengths": {"input": 40, "output": 20}}
CLASSES = {
    "chat": {
        "weight": 2.0,
        "conversation": TALK,
        "patience_s": (1.0, 3.0),
        "shared_prefix": 100,
        "objectives": {"ttft_s": 0.8, "tpot_s": 0.03},
    },
    "agent": {"share": 0.5, "conversation": TALK | {"turns": 4.0, "think_s": 0.1}, "shared_prefix": 333},
    "batch": {"share": 0.5, "weight": 0.2, "objectives": {"ttft_s": 6.0, "tpot_s": 0.2}},
}


def scenario(classes=CLASSES, preset="saturated/llama-65b", service=None, **serving):
    """A preset with classes, for four seconds of short requests unless `serving` says otherwise."""
    whole = {"classes": classes, "charge": 0.25, **(service or {})}
    small = {"horizon_s": 4.0, "max_running": 24, "lengths": {"input": 200, "output": 30}}
    return get_scenario(preset).replace(serving=small | serving | {"service": whole})


def started(scenario, seeds=(0,), **arguments):
    engine = ServingEngine(scenario, len(seeds), **arguments)
    engine.start(list(seeds))
    return engine


def drain(engine, choose, watch=None, steps=20000):
    """Step until every episode is over; `choose(engine)` gives actions [num_envs, 10]."""
    for _ in range(steps):
        if (engine.counters[:, at.DONE] == 1).all():
            return engine
        engine.actions[:] = choose(engine)
        engine.step()
        if watch is not None:
            watch(engine)
    raise AssertionError(f"not over after {steps} iterations")


def at_random(seed, admit=True):
    rng = np.random.default_rng(seed)

    def choose(engine):
        actions = rng.integers(0, at.NVEC_V1, (engine.num_envs, len(at.NVEC_V1)))
        if admit:
            actions[rng.random(engine.num_envs) < 0.7, at.ADMISSION] = at.ALL
        return actions

    return choose


def always(**choices):
    """An action: everybody who fits is admitted, Serving-v0's choices otherwise, but for those named."""
    action = np.zeros(len(at.NVEC_V1), dtype=np.int64)
    action[at.ADMISSION] = at.ALL
    for name, value in choices.items():
        action[getattr(at, name)] = value
    return lambda engine: action


def ring(engine, e):
    """Places of the ring of prompts, oldest first."""
    c = engine.counters[e]
    slots = engine.state.requests.shape[1]
    return [(c[at.PREFILL_FRONT] + k) % slots for k in range(c[at.PREFILLING])]


def live(engine, e):
    """Records of those who decode, are in prefill, wait, and wait preempted."""
    state, c = engine.state, engine.counters[e]
    waiting = c[at.QUEUED] - c[at.PREEMPTED]
    return (
        state.requests[e, : c[at.RLP]].tolist(),
        [int(state.prefill[e, place]) for place in ring(engine, e)],
        state.queue[e, c[at.QUEUE_FRONT] : c[at.QUEUE_FRONT] + waiting].tolist(),
        state.preempted[e, : c[at.PREEMPTED]].tolist(),
    )


def check_slots(engine):
    """Rows of slots are whole vectors, and those behind the decoding requests are empty."""
    contexts, left = engine.state.contexts, engine.state.left
    assert contexts.shape == left.shape
    assert contexts.shape[1] % SLOTS_AT_ONCE == 0
    empty = np.arange(contexts.shape[1]) >= engine.counters[:, at.RLP, None]
    np.testing.assert_array_equal(contexts[empty], EMPTY)
    np.testing.assert_array_equal(left[empty], 0)
    assert (contexts[~empty] > 0).all()
    assert (left[~empty] > 0).all()


def check_books(engine, e):
    """Requests, prompt tokens, pages, users of prefixes and worth of environment e balance."""
    check_slots(engine)
    state, c, clocks, kinds = engine.state, engine.counters[e], engine.clocks[e], engine.tables.kinds
    decoding, prefilling, waiting, preempted = live(engine, e)
    everybody = decoding + prefilling + waiting + preempted
    queued = slice(c[at.QUEUE_FRONT], c[at.QUEUE_FRONT] + len(waiting))
    kind = state.facts[e, waiting, at.CLASS]
    np.testing.assert_array_equal(state.queue_facts[e, queued, at.QUEUED_KIND], kind)
    np.testing.assert_array_equal(
        state.queue_facts[e, queued, at.QUEUED_PROMPT], state.facts[e, waiting, at.INPUT]
    )
    arrival_s = state.moments[e, waiting, at.ARRIVAL_S]
    np.testing.assert_array_equal(state.queue_arrival_s[e, queued], arrival_s)
    until = state.queue_until_s[e, queued]
    assert (until >= clocks[at.NEXT_LEAVE_S]).all()
    assert (until >= arrival_s + kinds[kind, at.PATIENCE_S]).all()
    assert len(set(everybody)) == len(everybody)
    free = []
    record = c[at.FREE_RECORD]
    while record >= 0:
        free.append(int(record))
        record = state.facts[e, record, at.INPUT]
    assert not set(free) & set(everybody)
    assert not free or max(free) < c[at.RECORDS_USED] <= state.facts.shape[1]
    if engine.reuses_records:
        assert len(free) + len(everybody) == c[at.RECORDS_USED]

    places = state.places[e]
    used = places[at.NUMBER] >= 0
    assert not used[c[at.PLACES_USED] :].any()
    assert used.sum() == c[at.OPEN]
    holding = [int(state.more[e, request, at.PLACE]) for request in everybody]
    holding = [place for place in holding if place >= 0]
    assert len(set(holding)) == len(holding)
    assert used[holding].all()
    resting = np.flatnonzero(used & ~np.isin(np.arange(places.shape[1]), holding))
    # Who neither waits nor runs is expected back, or keeps pages for nothing.
    back = np.isfinite(state.place_s[e, at.RETURN_S, resting])
    over = places[at.NEXT_TURN, resting] == places[at.TURNS, resting]
    assert (back != over).all()
    assert (places[at.PAGES, resting[over]] > 0).all()
    assert clocks[at.NEXT_RETURN_S] == state.place_s[e, at.RETURN_S].min()

    users = np.zeros(at.MAX_CLASSES, dtype=int)
    saved = 0
    of_class = kinds[:, at.OF_CLASS].astype(int)
    for request in decoding + prefilling:
        kind = state.facts[e, request, at.CLASS]
        saved += int(kinds[kind, at.SHARED])
        users[of_class[kind]] += kinds[kind, at.SHARED] > 0
    keeping = np.flatnonzero(used & (places[at.PAGES] > 0))
    for place in keeping:
        kind = places[at.KIND, place]
        users[of_class[kind]] += kinds[kind, at.SHARED] > 0
    prefixes = state.prefixes[e]
    np.testing.assert_array_equal(prefixes[:, at.USERS], users)
    # Nothing shared is gone while it is used.
    assert (prefixes[users > 0, at.PREFIX_PAGES] > 0).all()
    assert c[at.SHARED_PAGES] == prefixes[:, at.PREFIX_PAGES].sum() - saved
    assert c[at.KEPT_PAGES] == places[at.PAGES, keeping].sum()
    page = engine.scenario.serving.page_tokens
    held = sum(-(-(int(state.contexts[e, i]) + 1) // page) for i in range(len(decoding)))
    assert held == c[at.PAGE_SUM]
    total = engine.tables.scalars[at.TOTAL_PAGES]
    # Each request that took part may have grown out of a page, for which room is made in the next iteration: it decodes
    # on, or was done in this one and is kept.
    just_kept = state.place_s[e, at.DONE_S, keeping] > clocks[at.LAST_START_S]
    grown = len(decoding) + int(just_kept.sum())
    assert held + c[at.PREFILL_PAGES] + c[at.KEPT_PAGES] + c[at.SHARED_PAGES] <= total + grown
    assert c[at.PAGES_HIGH] <= total

    tokens = [int(state.facts[e, r, at.INPUT] + state.facts[e, r, at.GENERATED]) for r in prefilling]
    found = [int(state.found[e, place]) for place in ring(engine, e)]
    done = int(c[at.PREFILL_DONE]) - found[0] if found else 0
    assert c[at.PREFILL_BACKLOG] == sum(tokens) - sum(found) - done

    queued = np.bincount([of_class[state.facts[e, r, at.CLASS]] for r in waiting], minlength=at.MAX_CLASSES)
    np.testing.assert_array_equal(c[at.CLASS_QUEUED : at.CLASS_QUEUED + at.MAX_CLASSES], queued)
    left = places[at.TURNS, used] - places[at.NEXT_TURN, used]
    alone = len(everybody) - len(holding)
    judged = c[at.FINISHED] + c[at.REJECTED] + c[at.SHED] + c[at.ABANDONED] + c[at.CUT]
    assert c[at.CLASS_OFFERED : at.CLASS_OFFERED + 4].sum() == judged + left.sum() + alone
    assert clocks[at.SERVED] + clocks[at.LOST_WORTH] <= clocks[at.OFFERED] * (1 + 1e-9)


def check_end(engine, e):
    """Of a drained episode everything is served or lost, and the return follows from it."""
    c, clocks, scalars = engine.counters[e], engine.clocks[e], engine.tables.scalars
    for group in (at.CLASS_OFFERED,):
        offered, attained, lost = (c[k : k + at.MAX_CLASSES] for k in (group, group + 4, group + 8))
        np.testing.assert_array_equal(offered, attained + lost)
    np.testing.assert_allclose(clocks[at.SERVED] + clocks[at.LOST_WORTH], clocks[at.OFFERED], rtol=1e-9)
    served = clocks[at.SERVED] - scalars[at.CHARGE] * clocks[at.LOST_WORTH]
    if scalars[at.ENERGY_WEIGHT] == 0:
        np.testing.assert_allclose(
            clocks[at.RETURN], served / scalars[at.REFERENCE_TOKENS], rtol=1e-9, atol=1e-9
        )
    assert c[at.QUEUED] == c[at.RLP] == c[at.PREFILLING] == 0
