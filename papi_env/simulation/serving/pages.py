"""Free KV pages that keep their content, compiled: vLLM's prefix caching, of a request's own pages alone.

Free pages stand in a queue and are taken from its front. A request gives its pages back at the end, its last page
first, so that of what it held the beginning stays longest. A preempted request that comes back finds what is left of
its full pages; nobody else looks for anything. (vLLM: `FreeKVCacheBlockQueue` and `KVCacheManager` of engine v1.)

The queue is kept as parts: so many pages of one preempted request, last page first, or of nobody (owner -1: never
used, partly filled, or of a request that is done). Neighbours of nobody are one part, so that there are at most
2 S + 1 parts for S requests that may be preempted at once. Counters: `FREE_PAGES`, `FREE_PARTS`.
"""

from __future__ import annotations

from papi_env.simulation.compiled import seldom
from papi_env.simulation.serving import state as at

OWNER, PAGES = range(2)
NOBODY = -1


@seldom
def start_pages(e, state, total):
    """All pages are free and nobody's."""
    state.free[e, 0, OWNER] = NOBODY
    state.free[e, 0, PAGES] = total
    state.counters[e, at.FREE_PARTS] = 1
    state.counters[e, at.FREE_PAGES] = total


@seldom
def give_back(e, owner, pages, state):
    """Put so many pages at the end of the queue."""
    if pages <= 0:
        return
    parts = state.counters[e, at.FREE_PARTS]
    state.counters[e, at.FREE_PAGES] += pages
    if owner == NOBODY and parts > 0 and state.free[e, parts - 1, OWNER] == NOBODY:
        state.free[e, parts - 1, PAGES] += pages
        return
    state.free[e, parts, OWNER] = owner
    state.free[e, parts, PAGES] = pages
    state.counters[e, at.FREE_PARTS] = parts + 1


@seldom
def drop_parts(e, first, count, state):
    """Remove parts from the queue."""
    parts = state.counters[e, at.FREE_PARTS]
    for k in range(first, parts - count):
        state.free[e, k, OWNER] = state.free[e, k + count, OWNER]
        state.free[e, k, PAGES] = state.free[e, k + count, PAGES]
    state.counters[e, at.FREE_PARTS] = parts - count


@seldom
def take_pages(e, pages, state):
    """Take so many pages from the front; their content is lost."""
    state.counters[e, at.FREE_PAGES] -= pages
    empty = 0
    while pages > 0:
        taken = min(pages, state.free[e, empty, PAGES])
        state.free[e, empty, PAGES] -= taken
        pages -= taken
        if state.free[e, empty, PAGES] == 0:
            empty += 1
    if empty > 0:
        drop_parts(e, 0, empty, state)


@seldom
def find_pages(e, owner, most, state):
    """Take back what is left of a request's full pages, at most so many. Returns how many there were."""
    for k in range(state.counters[e, at.FREE_PARTS]):
        if state.free[e, k, OWNER] != owner:
            continue
        found = min(state.free[e, k, PAGES], most)
        state.free[e, k, PAGES] -= found
        state.counters[e, at.FREE_PAGES] -= found
        # What is left is of no use to anybody, and one with neighbours that are nobody's.
        state.free[e, k, OWNER] = NOBODY
        if k + 1 < state.counters[e, at.FREE_PARTS] and state.free[e, k + 1, OWNER] == NOBODY:
            state.free[e, k, PAGES] += state.free[e, k + 1, PAGES]
            drop_parts(e, k + 1, 1, state)
        if k > 0 and state.free[e, k - 1, OWNER] == NOBODY:
            state.free[e, k - 1, PAGES] += state.free[e, k, PAGES]
            drop_parts(e, k, 1, state)
        elif state.free[e, k, PAGES] == 0:
            drop_parts(e, k, 1, state)
        return found
    return 0


@seldom
def settle_pages(e, held, total, state):
    """Take or give back pages until all but the `held` ones are free."""
    change = state.counters[e, at.FREE_PAGES] - (total - held)
    if change > 0:
        take_pages(e, change, state)
    elif change < 0:
        give_back(e, NOBODY, -change, state)
