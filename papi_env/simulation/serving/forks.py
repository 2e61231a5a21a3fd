"""Copies of environments for looking ahead, compiled: of an environment's rows only what is in use.

What rows hold behind the requests, records and places in use is nobody's, and as a copy of the whole left it: a
fork is copied whole once, and then as far as either of the two has used its rows.
"""

from __future__ import annotations

from papi_env.simulation.compiled import inlined, njit
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.requests import state_at
from papi_env.simulation.serving.sessions import waiting
from papi_env.simulation.vectors import copy_first


@inlined
def copy_running(e, source, k, target):
    """Copy the requests that decode, are in prefill, were preempted or wait. Returns the bytes."""
    counters = source.counters
    rlp = counters[e, at.RLP]
    moved = copy_first(source.requests[e], target.requests[k], rlp)
    # With the empty slots behind them, of which the target may have fewer.
    moved += copy_first(source.contexts[e], target.contexts[k], source.contexts.shape[1])
    moved += copy_first(source.left[e], target.left[k], source.left.shape[1])
    moved += copy_first(source.classes[e], target.classes[k], rlp)
    moved += copy_first(source.keys[e], target.keys[k], rlp)
    moved += copy_first(source.deadlines[e], target.deadlines[k], rlp)
    if counters[e, at.PREFILLING] > 0:  # a ring
        moved += copy_first(source.prefill[e], target.prefill[k], source.prefill.shape[1])
        moved += copy_first(source.found[e], target.found[k], source.found.shape[1])
    moved += copy_first(source.preempted[e], target.preempted[k], counters[e, at.PREEMPTED])
    queued = counters[e, at.QUEUE_FRONT] + waiting(e, counters)
    moved += copy_first(source.queue[e], target.queue[k], queued)
    moved += copy_first(source.queue_facts[e], target.queue_facts[k], queued)
    moved += copy_first(source.queue_arrival_s[e], target.queue_arrival_s[k], queued)
    return moved + copy_first(source.queue_until_s[e], target.queue_until_s[k], queued)


@inlined
def copy_records(e, source, k, target):
    """Copy the records of requests, and conversations, that either has had. Returns the bytes."""
    records = max(source.counters[e, at.RECORDS_USED], target.counters[k, at.RECORDS_USED])
    moved = copy_first(source.moments[e], target.moments[k], records)
    moved += copy_first(source.facts[e], target.facts[k], records)
    moved += copy_first(source.more[e], target.more[k], records)
    places = max(source.counters[e, at.PLACES_USED], target.counters[k, at.PLACES_USED])
    for row in range(at.NUM_PLACE):
        moved += copy_first(source.places[e, row], target.places[k, row], places)
    for row in range(at.NUM_PLACE_S):
        moved += copy_first(source.place_s[e, row], target.place_s[k, row], places)
    return moved


@njit
def copy_live(envs, source_frame, target_frame):
    """Make environment k of `target_frame` what `envs[k]` of `source_frame` is, which it was a copy of once.

    Args:
        envs: int64 [copies]; frames are addresses of those of states with rows of the same length.

    Returns:
        bytes that were copied.
    """
    source, target = state_at(source_frame), state_at(target_frame)
    moved = 0
    for k in range(envs.shape[0]):
        e = envs[k]
        moved += copy_running(e, source, k, target)
        moved += copy_records(e, source, k, target)
        moved += copy_first(source.free[e], target.free[k], source.free.shape[1])
        moved += copy_first(source.prefixes[e], target.prefixes[k], source.prefixes.shape[1])
        moved += copy_first(source.queries[e], target.queries[k], source.queries.shape[1])
        moved += copy_first(source.counters[e], target.counters[k], source.counters.shape[1])
        moved += copy_first(source.clocks[e], target.clocks[k], source.clocks.shape[1])
    return moved
