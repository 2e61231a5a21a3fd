"""KV pages of finished turns and shared prefixes, compiled: what a prompt finds there, and what is evicted."""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inlined, inner
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.service_tables import FIRST_OCTAVE, GRID, STEPS_PER_OCTAVE
from papi_env.simulation.serving.sessions import NOBODY, class_of, release_kept

# Nothing is evicted for it.
NO_PLACE = -2


@inlined
def found_tokens(e, request, state, served, scalars):
    """Prompt tokens of a request that are in kept pages or in its class's prefix; one at least is processed."""
    place = state.more[e, request, at.PLACE]
    kind = state.facts[e, request, at.CLASS]
    tokens = np.int64(state.facts[e, request, at.INPUT]) + np.int64(state.facts[e, request, at.GENERATED])
    found = np.int64(0)
    if place >= 0 and state.places[e, place, at.PAGES] > 0:
        found = np.int64(state.places[e, place, at.TOLD])
    elif state.prefixes[e, class_of(kind, served), at.PREFIX_PAGES] > 0:
        found = np.int64(served.kinds[kind, at.SHARED]) << np.int64(scalars[at.PAGE_LOG2])
    return min(found, tokens - 1)


@inlined
def held_pages(e, state, scalars):
    """KV pages in use, those of kept turns included."""
    counters = state.counters
    pages = counters[e, at.PAGE_SUM] + counters[e, at.PREFILL_PAGES]
    return pages + counters[e, at.KEPT_PAGES] + counters[e, at.SHARED_PAGES]


@inlined
def expected_return(e, place, state, served):
    """Seconds until a conversation is expected to go on over the chance that it does, from what a scheduler knows."""
    kind = state.places[e, place, at.KIND]
    if state.place_s[e, place, at.RETURN_S] == np.inf and (
        state.places[e, place, at.NEXT_TURN] < state.places[e, place, at.TURNS]
    ):
        return 0.0  # it waits already
    passed = state.clocks[e, at.TIME_S] - state.place_s[e, place, at.DONE_S]
    octave = np.log2(max(passed, 1e-9)) - served.kinds[kind, at.THINK_MU] / np.log(2.0)
    step = np.int64(np.rint((octave - FIRST_OCTAVE) * STEPS_PER_OCTAVE))
    return served.returning[kind, min(max(step, 0), GRID - 1)]


@inlined
def true_return(e, place, state):
    """When a conversation goes on, infinite where it is over; before everything where it waits already."""
    returns = state.place_s[e, place, at.RETURN_S]
    if returns == np.inf and state.places[e, place, at.NEXT_TURN] < state.places[e, place, at.TURNS]:
        return -np.inf
    return returns


@inner
def evict(e, spared, state, served):
    """Give up what a conversation other than `spared` keeps, or an unused prefix. Returns pages, 0 if none."""
    counters, places = state.counters, state.places
    if counters[e, at.KEPT_PAGES] > 0:
        choice = counters[e, at.LAST_SERVICE + at.EVICTION - at.ORDER]
        victim = NOBODY
        worst = 0.0
        for place in range(places.shape[1]):
            if places[e, place, at.PAGES] == 0 or places[e, place, at.NUMBER] == NOBODY or place == spared:
                continue
            if choice == at.EVICT_LRU:
                value = -state.place_s[e, place, at.DONE_S]
            elif choice == at.EVICT_RETURN:
                value = expected_return(e, place, state, served)
            else:
                value = true_return(e, place, state)
            if victim == NOBODY or value > worst:
                victim = place
                worst = value
        if victim != NOBODY:
            counters[e, at.EVICTIONS] += 1
            return release_kept(e, victim, state, served)
    for number in range(state.prefixes.shape[1]):
        pages = np.int64(state.prefixes[e, number, at.PREFIX_PAGES])
        if pages > 0 and state.prefixes[e, number, at.USERS] == 0:
            state.prefixes[e, number, at.PREFIX_PAGES] = 0
            counters[e, at.SHARED_PAGES] -= pages
            return pages
    return np.int64(0)


@inner
def use_kept(e, request, state, served, scalars):
    """A request is admitted: it takes over what its conversation kept, or uses its class's prefix, made if need be.

    Returns the prompt tokens that need no processing.
    """
    counters, places = state.counters, state.places
    found = found_tokens(e, request, state, served, scalars)
    place = state.more[e, request, at.PLACE]
    kind = state.facts[e, request, at.CLASS]
    shared = np.int64(served.kinds[kind, at.SHARED])
    if place >= 0 and places[e, place, at.PAGES] > 0:
        # As a user of the prefix it was counted already.
        counters[e, at.KEPT_PAGES] -= places[e, place, at.PAGES]
        places[e, place, at.PAGES] = 0
    elif shared > 0:
        number = class_of(kind, served)
        state.prefixes[e, number, at.USERS] += 1
        if state.prefixes[e, number, at.PREFIX_PAGES] == 0:
            state.prefixes[e, number, at.PREFIX_PAGES] = shared
            counters[e, at.SHARED_PAGES] += shared
    counters[e, at.SHARED_PAGES] -= shared
    counters[e, at.HIT_TOKENS] += found
    state.more[e, request, at.KEPT] = found
    return found


@inner
def lose_pages(e, request, state, served):
    """A request is preempted and loses its pages. A prefix that it was just making is lost with them."""
    kind = state.facts[e, request, at.CLASS]
    shared = np.int64(served.kinds[kind, at.SHARED])
    if shared == 0:
        return
    counters, prefixes = state.counters, state.prefixes
    number = class_of(kind, served)
    counters[e, at.SHARED_PAGES] += shared
    prefixes[e, number, at.USERS] -= 1
    if prefixes[e, number, at.USERS] == 0 and state.more[e, request, at.KEPT] == 0:
        prefixes[e, number, at.PREFIX_PAGES] = 0
        counters[e, at.SHARED_PAGES] -= shared
