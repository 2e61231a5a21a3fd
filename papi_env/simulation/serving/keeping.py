"""KV pages of finished turns and shared prefixes, compiled: what a prompt finds there, and what is evicted."""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inlined, inner, seldom
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.service_tables import BEFORE, CELL_BITS, EDGE_S, FROM
from papi_env.simulation.serving.sessions import LATEST, NOBODY, bits_of, class_of, release_kept

# Nothing is evicted for it.
NO_PLACE = -2


@inlined
def found_tokens(e, request, state, served, scalars):
    """Prompt tokens of a request that are in kept pages or in its class's prefix; one at least is processed."""
    place = state.more[e, request, at.PLACE]
    kind = state.facts[e, request, at.CLASS]
    tokens = np.int64(state.facts[e, request, at.INPUT]) + np.int64(state.facts[e, request, at.GENERATED])
    found = np.int64(0)
    if place >= 0 and state.places[e, at.PAGES, place] > 0:
        found = np.int64(state.places[e, at.TOLD, place])
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
    kind = state.places[e, at.KIND, place]
    if state.place_s[e, at.RETURN_S, place] == np.inf and (
        state.places[e, at.NEXT_TURN, place] < state.places[e, at.TURNS, place]
    ):
        return 0.0  # it waits already
    passed = max(state.clocks[e, at.TIME_S] - state.place_s[e, at.DONE_S, place], 0.0)
    cells = served.returning[kind]
    cell = (bits_of(passed) >> CELL_BITS) - np.int64(served.kinds[kind, at.RETURN_CELL])
    cell = np.uint64(min(max(cell, 0), cells.shape[0] - 1))
    return cells[cell, FROM] if passed >= cells[cell, EDGE_S] else cells[cell, BEFORE]


@inlined
def true_return(e, place, state):
    """When a conversation goes on, infinite where it is over; before everything where it waits already."""
    returns = state.place_s[e, at.RETURN_S, place]
    if returns == np.inf and state.places[e, at.NEXT_TURN, place] < state.places[e, at.TURNS, place]:
        return -np.inf
    return returns


@seldom
def longest_kept(e, spared, state):
    """The place other than `spared` whose pages are kept longest, the first of them; -1 where none keeps any."""
    used = state.counters[e, at.PLACES_USED]
    pages, done = state.places[e, at.PAGES, :used], state.place_s[e, at.DONE_S]
    least = LATEST
    for place in range(pages.shape[0]):
        least = min(least, bits_of(done[place]) if (pages[place] > 0) & (place != spared) else LATEST)
    if least == LATEST:
        return np.int64(NOBODY)
    place = 0
    while pages[place] == 0 or place == spared or bits_of(done[place]) != least:
        place += 1
    return np.int64(place)


@seldom
def least_wanted(e, spared, choice, state, served):
    """The place other than `spared` that goes on last, as expected or in truth, the first of them; -1 if none."""
    pages = state.places[e, at.PAGES, : state.counters[e, at.PLACES_USED]]
    victim = np.int64(NOBODY)
    worst = 0.0
    for place in range(pages.shape[0]):
        if pages[place] == 0 or place == spared:
            continue
        expects = choice == at.EVICT_RETURN
        value = expected_return(e, place, state, served) if expects else true_return(e, place, state)
        if victim == NOBODY or value > worst:
            victim = np.int64(place)
            worst = value
    return victim


@seldom
def evict(e, spared, state, served):
    """Give up what a conversation other than `spared` keeps, or an unused prefix. Returns pages, 0 if none."""
    counters = state.counters
    if counters[e, at.KEPT_PAGES] > 0:
        choice = counters[e, at.LAST_SERVICE + at.EVICTION - at.ORDER]
        if choice == at.EVICT_LRU:
            victim = longest_kept(e, spared, state)
        else:
            victim = least_wanted(e, spared, choice, state, served)
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
    if place >= 0 and places[e, at.PAGES, place] > 0:
        # As a user of the prefix it was counted already.
        counters[e, at.KEPT_PAGES] -= places[e, at.PAGES, place]
        places[e, at.PAGES, place] = 0
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


@seldom
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
