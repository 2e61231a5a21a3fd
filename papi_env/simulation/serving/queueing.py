"""Who waits and who is next, compiled: orders of admission, shedding, and senders who give up."""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inlined, inner, seldom
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.keeping import found_tokens
from papi_env.simulation.serving.scoring import density, hopeless, score, true_density, work_left
from papi_env.simulation.serving.sessions import NOBODY, class_of, give_up, move_in_queue, waiting


@inlined
def finds_nothing(e, state):
    """Whether no prompt finds anything, since neither turns that are done nor prefixes have pages."""
    pages = state.counters[e, at.KEPT_PAGES]
    for number in range(state.prefixes.shape[1]):
        pages += state.prefixes[e, number, at.PREFIX_PAGES]
    return pages == 0


@inlined
def queue_due(e, k, state, served):
    """When the first token of who is at place k of the queue is due."""
    kind = np.uint64(state.queue_facts[e, k, at.QUEUED_KIND])
    return state.queue_arrival_s[e, k] + served.kinds[kind, at.KIND_TTFT_S]


@inlined
def to_process(e, k, bare, state, served, scalars):
    """Prompt tokens of place k of the queue to be processed: all where the queue is `bare`, which finds nothing."""
    tokens = np.int64(state.queue_facts[e, k, at.QUEUED_PROMPT])
    return tokens if bare else tokens - found_tokens(e, state.queue[e, k], state, served, scalars)


@inlined
def rank(e, k, order, bare, state, served, scalars):
    """Of places of the queue that with the least is admitted first; who came first among equals."""
    if order == at.BY_DEADLINE:
        return queue_due(e, k, state, served)
    if order == at.BY_SCORE:
        return -score(e, state.queue[e, k], state, served, scalars)
    if order >= at.BY_TRUE_WORK:
        return -true_density(e, state.queue[e, k], order == at.BY_TRUE_SPACE, state, served, scalars)
    tokens = to_process(e, k, bare, state, served, scalars)
    if order == at.BY_PROMPT:
        return np.float64(tokens)
    if order == at.BY_WORK:
        return work_left(state.queue_facts[e, k, at.QUEUED_KIND], tokens, served, scalars)
    return -density(state.queue_facts[e, k, at.QUEUED_KIND], tokens, served, scalars)


@inner
def next_in_queue(e, order, state, served, scalars):
    """The place in the queue of the request that an order admits next; -1 if nobody waits, or by score all are held."""
    count = waiting(e, state.counters)
    if count == 0:
        return np.int64(NOBODY)
    front = state.counters[e, at.QUEUE_FRONT]
    if order == at.BY_ARRIVAL:
        return front
    bare = finds_nothing(e, state)
    best = front
    least = rank(e, front, order, bare, state, served, scalars)
    for k in range(front + 1, front + count):
        value = rank(e, k, order, bare, state, served, scalars)
        if value < least:
            best = np.int64(k)
            least = value
    if (
        order == at.BY_SCORE
        and least > 0.0
        and state.counters[e, at.RLP] + state.counters[e, at.PREFILLING] > 0
    ):
        return np.int64(NOBODY)
    return best


@inlined
def close_up(places):
    """Those behind the first of some places of a row move up by one."""
    # Counted from 0, places are known not to be negative: that makes vectors of them.
    for k in range(places.shape[0] - 1):
        places[k] = places[k + 1]


@inlined
def close_facts_up(places):
    """`close_up` where places have columns."""
    for k in range(places.shape[0] - 1):
        for column in range(at.NUM_QUEUED):
            places[k, column] = places[k + 1, column]


@inner
def close_queue(e, place, state):
    """Nobody is at a place of the queue any more: it begins behind it, or those behind it move up."""
    counters = state.counters
    front = counters[e, at.QUEUE_FRONT]
    end = front + waiting(e, counters)
    if place == front:
        counters[e, at.QUEUE_FRONT] = front + 1
        return
    close_up(state.queue[e, place:end])
    close_facts_up(state.queue_facts[e, place:end])
    close_up(state.queue_arrival_s[e, place:end])
    close_up(state.queue_until_s[e, place:end])


@inlined
def abandon(e, state, served, scalars):
    """Senders whose patience is over leave."""
    if state.clocks[e, at.NEXT_LEAVE_S] <= state.clocks[e, at.TIME_S]:
        let_leave(e, state, served, scalars)


@seldom
def let_leave(e, state, served, scalars):
    """`abandon` where somebody's patience is over."""
    clocks = state.clocks
    now = clocks[e, at.TIME_S]
    front = state.counters[e, at.QUEUE_FRONT]
    kept = front
    soonest = np.inf
    for k in range(front, front + waiting(e, state.counters)):
        until = state.queue_until_s[e, k]
        if until <= now:
            give_up(e, state.queue[e, k], at.LEFT, state, served, scalars)
        else:
            soonest = min(soonest, until)
            move_in_queue(e, k, kept, state)
            kept += 1
    clocks[e, at.NEXT_LEAVE_S] = soonest


@seldom
def lightest_class(e, state, served, scalars):
    """The class whose waiting requests have the least weight per work on average, -1 unless two classes wait."""
    lightest = np.int64(NOBODY)
    least = np.inf
    classes = 0
    bare = finds_nothing(e, state)
    front = state.counters[e, at.QUEUE_FRONT]
    for number in range(np.int64(scalars[at.NUM_CLASSES])):
        count = 0
        total = 0.0
        for k in range(front, front + waiting(e, state.counters)):
            kind = state.queue_facts[e, k, at.QUEUED_KIND]
            if class_of(kind, served) == number:
                tokens = to_process(e, k, bare, state, served, scalars)
                total += density(kind, tokens, served, scalars)
                count += 1
        if count > 0:
            classes += 1
            if total / count < least:
                least = total / count
                lightest = np.int64(number)
    return lightest if classes > 1 else np.int64(NOBODY)


@inlined
def late_ones(e, begin, end, backlog, state, served, scalars):
    """How many of some places of the queue would be late if they found nothing: at least those that are."""
    now = state.clocks[e, at.TIME_S]
    found = 0
    for k in range(begin, end):
        tokens = backlog + np.int64(state.queue_facts[e, k, at.QUEUED_PROMPT])
        found += int(hopeless(now, tokens, queue_due(e, k, state, served), scalars))
    return found


@inlined
def shed(e, choice, state, served, scalars):
    """Drop who waits and cannot be served in time any more, or besides the class that is worth the least."""
    if choice != at.SHED_NONE and waiting(e, state.counters) > 0:
        drop(e, choice, state, served, scalars)


@seldom
def drop(e, choice, state, served, scalars):
    """`shed` where somebody waits and something is chosen."""
    counters = state.counters
    count = waiting(e, counters)
    dropped = np.int64(NOBODY)
    if choice == at.SHED_CLASS:
        dropped = lightest_class(e, state, served, scalars)
    backlog, now = counters[e, at.PREFILL_BACKLOG], state.clocks[e, at.TIME_S]
    front = counters[e, at.QUEUE_FRONT]
    if dropped == NOBODY and late_ones(e, front, front + count, backlog, state, served, scalars) == 0:
        return
    bare = finds_nothing(e, state)
    kept = front
    for k in range(front, front + count):
        drops = class_of(state.queue_facts[e, k, at.QUEUED_KIND], served) == dropped
        if not drops:
            # Nobody whose whole prompt comes in time is late with a part of it.
            due = queue_due(e, k, state, served)
            drops = hopeless(now, backlog + np.int64(state.queue_facts[e, k, at.QUEUED_PROMPT]), due, scalars)
            if drops and not bare:
                tokens = to_process(e, k, bare, state, served, scalars)
                drops = hopeless(now, backlog + tokens, due, scalars)
        if drops:
            give_up(e, state.queue[e, k], at.DROPPED, state, served, scalars)
        else:
            if kept < k:
                move_in_queue(e, k, kept, state)
            kept += 1


@inner
def survey_queue(e, state, served, scalars):
    """Note of each class the slack and the prompt of the request whose first token is due first.

    Within a class that is the one that has waited longest, and the queue is in the order of arrival.
    """
    counters, clocks = state.counters, state.clocks
    sought = 0
    for number in range(at.MAX_CLASSES):
        clocks[e, at.CLASS_SLACK_S + number] = np.inf
        clocks[e, at.CLASS_PROMPT + number] = 0.0
        sought += int(counters[e, at.CLASS_QUEUED + number] > 0)
    bare = finds_nothing(e, state)
    k = counters[e, at.QUEUE_FRONT]
    while sought > 0:
        number = class_of(state.queue_facts[e, k, at.QUEUED_KIND], served)
        if clocks[e, at.CLASS_SLACK_S + number] == np.inf:
            clocks[e, at.CLASS_SLACK_S + number] = queue_due(e, k, state, served) - clocks[e, at.TIME_S]
            tokens = to_process(e, k, bare, state, served, scalars)
            clocks[e, at.CLASS_PROMPT + number] = np.float64(tokens)
            sought -= 1
        k += 1
