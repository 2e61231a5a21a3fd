"""Who waits and who is next, compiled: orders of admission, shedding, and senders who give up."""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inner
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.keeping import found_tokens
from papi_env.simulation.serving.scoring import density, first_due, hopeless, score, true_density, work_left
from papi_env.simulation.serving.sessions import NOBODY, class_of, give_up, waiting


@inner
def rank(e, request, order, state, served, scalars):
    """Who has the least is admitted first; who came first among equals."""
    if order == at.BY_DEADLINE:
        return first_due(e, request, state, served)
    if order == at.BY_PROMPT:
        tokens = state.facts[e, request, at.INPUT] - found_tokens(e, request, state, served, scalars)
        return np.float64(tokens)
    if order == at.BY_WORK:
        return work_left(e, request, state, served, scalars)
    if order == at.BY_SCORE:
        return -score(e, request, state, served, scalars)
    if order >= at.BY_TRUE_WORK:
        return -true_density(e, request, order == at.BY_TRUE_SPACE, state, served, scalars)
    return -density(e, request, state, served, scalars)


@inner
def next_in_queue(e, order, state, served, scalars):
    """Where in the queue the request stands that an order admits next; -1 if nobody waits, or by score all are held."""
    count = waiting(e, state.counters)
    if count == 0:
        return np.int64(NOBODY)
    if order == at.BY_ARRIVAL:
        return np.int64(0)
    best = np.int64(0)
    least = rank(e, state.queue[e, 0], order, state, served, scalars)
    for k in range(1, count):
        value = rank(e, state.queue[e, k], order, state, served, scalars)
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


@inner
def close_queue(e, position, count, state):
    """Those behind a position of a queue of `count` move up."""
    # Counted from 0, places are known not to be negative: that makes vectors of them.
    behind = state.queue[e, position:count]
    for k in range(behind.shape[0] - 1):
        behind[k] = behind[k + 1]


@inner
def abandon(e, state, served, scalars):
    """Senders whose patience is over leave."""
    clocks, queue = state.clocks, state.queue
    now = clocks[e, at.TIME_S]
    if clocks[e, at.NEXT_LEAVE_S] > now:
        return
    count = waiting(e, state.counters)
    kept = 0
    soonest = np.inf
    for k in range(count):
        request = queue[e, k]
        if state.patience[e, request] <= now:
            give_up(e, request, at.LEFT, state, served, scalars)
        else:
            soonest = min(soonest, state.patience[e, request])
            queue[e, kept] = request
            kept += 1
    clocks[e, at.NEXT_LEAVE_S] = soonest


@inner
def lightest_class(e, state, served, scalars):
    """The class whose waiting requests have the least weight per work on average, -1 unless two classes wait."""
    lightest = np.int64(NOBODY)
    least = np.inf
    classes = 0
    for number in range(np.int64(scalars[at.NUM_CLASSES])):
        count = 0
        total = 0.0
        for k in range(waiting(e, state.counters)):
            request = state.queue[e, k]
            if class_of(state.facts[e, request, at.CLASS], served) == number:
                total += density(e, request, state, served, scalars)
                count += 1
        if count > 0:
            classes += 1
            if total / count < least:
                least = total / count
                lightest = np.int64(number)
    return lightest if classes > 1 else np.int64(NOBODY)


@inner
def shed(e, choice, state, served, scalars):
    """Drop who waits and cannot be served in time any more, or besides the class that is worth the least."""
    counters, queue = state.counters, state.queue
    count = waiting(e, counters)
    if choice == at.SHED_NONE or count == 0:
        return
    dropped = np.int64(NOBODY)
    if choice == at.SHED_CLASS:
        dropped = lightest_class(e, state, served, scalars)
    backlog = counters[e, at.PREFILL_BACKLOG]
    kept = 0
    for k in range(count):
        request = queue[e, k]
        number = class_of(state.facts[e, request, at.CLASS], served)
        if number == dropped or hopeless(e, request, backlog, state, served, scalars):
            give_up(e, request, at.DROPPED, state, served, scalars)
        else:
            queue[e, kept] = request
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
    k = 0
    while sought > 0:
        request = state.queue[e, k]
        number = class_of(state.facts[e, request, at.CLASS], served)
        if clocks[e, at.CLASS_SLACK_S + number] == np.inf:
            slack = first_due(e, request, state, served) - clocks[e, at.TIME_S]
            clocks[e, at.CLASS_SLACK_S + number] = slack
            tokens = state.facts[e, request, at.INPUT] - found_tokens(e, request, state, served, scalars)
            clocks[e, at.CLASS_PROMPT + number] = np.float64(tokens)
            sought -= 1
        k += 1
