"""The dynamics of continuous batching, compiled: arrivals, admission, preemption, prefill, decoding, rewards.

Written for one environment of a batch; the loops over environments are at the end. State is passed as one
tuple of arrays (`ServingState`), unpacked once per call.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.hardware.dram import COLUMNS_PER_ROW
from papi_env.simulation import serving_layout as at
from papi_env.simulation.arrival_draws import draw_arrivals
from papi_env.simulation.batch import NEXT_STEP, SAME_STEP
from papi_env.simulation.compiled import inlined, lean, njit, unlocked
from papi_env.simulation.draws import mix, request_key, request_row
from papi_env.simulation.serving import drift_factor, iteration
from papi_env.workload.serving import PAGE_TOKENS, SPECULATION_LENGTHS

_CLASS_STREAM = np.uint64(0xA24BAED4963EE407)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_11 = np.uint64(11)
MISSED = -np.inf  # deadline of a request whose first token was late
UNBORN = np.inf  # deadline of a request without a first token
# Weight of the newest observation in moving averages. chosen: 1/16, some tens of iterations; range 1/64-1/4.
NEWEST = 1.0 / 16.0


class ServingState(NamedTuple):
    """State of `E` environments, `S` slots for running requests and `R` requests an episode.

    Attributes:
        counters: int64 [E, NUM_COUNTERS]; clocks: float64 [E, NUM_CLOCKS].
        moments: float64 [E, R, NUM_MOMENTS]; facts: int32 [E, R, NUM_FACTS]: the requests' records.
        requests, contexts, left, classes: int32 [E, S], of the decoding requests first: which request, tokens
            held, output tokens left, class. keys: uint64 [E, S], of acceptance draws. deadlines: float64 [E, S],
            when the latest token is due.
        prefill: int32 [E, S], a ring of requests in prefill; preempted: int32 [E, S], a stack of requests.
    """

    counters: npt.NDArray[np.int64]
    clocks: npt.NDArray[np.float64]
    moments: npt.NDArray[np.float64]
    facts: npt.NDArray[np.int32]
    requests: npt.NDArray[np.int32]
    contexts: npt.NDArray[np.int32]
    left: npt.NDArray[np.int32]
    classes: npt.NDArray[np.int32]
    keys: npt.NDArray[np.uint64]
    deadlines: npt.NDArray[np.float64]
    prefill: npt.NDArray[np.int32]
    preempted: npt.NDArray[np.int32]


@inlined
def pages_of(tokens):
    """KV pages that so many tokens take."""
    return (tokens + PAGE_TOKENS - 1) // PAGE_TOKENS


@inlined
def drawn_class(key, cumulative):
    """Index of a request's class from its key and the cumulative shares."""
    uniform = np.float64(mix(key ^ _CLASS_STREAM) >> _11) * 2.0**-53
    kind = 0
    while kind < cumulative.shape[0] - 1 and uniform >= cumulative[kind]:
        kind += 1
    return kind


@inlined
def accepted_prefix(key, position, drafted, kind, thresholds):
    """Accepted drafts after `position`: draft j of a request of class
    `kind` passes where its 53-bit draw is below `thresholds[kind, j]`.

    The draw belongs to the token, so it is the same whatever was drafted before.
    """
    accepted = 0
    alive = 1
    # Without an early exit: the draws do not wait for one another, and a branch would be guessed wrong.
    for j in range(drafted):
        draw = mix(key + np.uint64(position + j + 1) * _GOLDEN) >> _11
        alive &= int(draw < thresholds[kind, j])
        accepted += alive
    return accepted


# --- requests come, are admitted, begin to decode, and leave -------------------------------------------


@lean
def arrive(e, state):
    """Move requests whose arrival has passed into the queue; refused ones are counted as they come."""
    counters, clocks, moments, facts = state.counters, state.clocks, state.moments, state.facts
    now = clocks[e, at.TIME_S]
    arrived = counters[e, at.ARRIVED]
    total = counters[e, at.REQUESTS]
    while arrived < total and moments[e, arrived, at.ARRIVAL_S] <= now:
        if facts[e, arrived, at.STATUS] == at.REFUSED:
            counters[e, at.REJECTED] += 1
        else:
            facts[e, arrived, at.STATUS] = at.WAITING
            counters[e, at.QUEUED] += 1
        arrived += 1
    counters[e, at.ARRIVED] = arrived
    clocks[e, at.NEXT_ARRIVAL_S] = moments[e, arrived, at.ARRIVAL_S] if arrived < total else np.inf
    head = counters[e, at.HEAD]
    while head < arrived and facts[e, head, at.STATUS] != at.WAITING:
        head += 1
    counters[e, at.HEAD] = head


@inlined
def find_oldest(e, state, counters, clocks):
    """Note when the request that would be admitted next arrived."""
    if counters[e, at.PREEMPTED] > 0:
        request = state.preempted[e, counters[e, at.PREEMPTED] - 1]
        clocks[e, at.HEAD_ARRIVAL_S] = state.moments[e, request, at.ARRIVAL_S]
    elif counters[e, at.HEAD] < counters[e, at.ARRIVED]:
        clocks[e, at.HEAD_ARRIVAL_S] = state.moments[e, counters[e, at.HEAD], at.ARRIVAL_S]
    else:
        clocks[e, at.HEAD_ARRIVAL_S] = clocks[e, at.TIME_S]


@lean
def finish(e, request, state, scalars):
    """A request has all its tokens: judge it by its objectives."""
    counters, moments, facts = state.counters, state.moments, state.facts
    now = state.clocks[e, at.TIME_S]
    moments[e, request, at.FINISH_S] = now
    output = facts[e, request, at.OUTPUT]
    facts[e, request, at.GENERATED] = output
    first = moments[e, request, at.FIRST_TOKEN_S]
    attained = first - moments[e, request, at.ARRIVAL_S] <= scalars[at.TTFT_S]
    attained = attained and now - first <= scalars[at.TPOT_S] * (output - 1)
    facts[e, request, at.STATUS] = at.ATTAINED_STATUS if attained else at.LATE
    counters[e, at.FINISHED] += 1
    counters[e, at.FINISHED_TOKENS] += output
    if attained:
        counters[e, at.ATTAINED] += 1
        counters[e, at.GOOD_TOKENS] += output


@lean
def first_deadline(e, request, state, scalars):
    """Note the first token; when it was due: now if in time, else the request is lost."""
    now = state.clocks[e, at.TIME_S]
    state.moments[e, request, at.FIRST_TOKEN_S] = now
    if now - state.moments[e, request, at.ARRIVAL_S] <= scalars[at.TTFT_S]:
        return now
    return MISSED


@lean
def begin_decode(e, request, context, generated, state, scalars):
    """Put a request that holds `context` tokens and has produced `generated` into a slot."""
    counters = state.counters
    i = counters[e, at.RLP]
    state.requests[e, i] = request
    state.contexts[e, i] = context
    state.left[e, i] = state.facts[e, request, at.OUTPUT] - generated
    state.classes[e, i] = state.facts[e, request, at.CLASS]
    state.keys[e, i] = request_key(counters[e, at.SEED], counters[e, at.EPISODE], request)
    first = state.moments[e, request, at.FIRST_TOKEN_S]
    if np.isnan(first):
        state.deadlines[e, i] = UNBORN
    elif first - state.moments[e, request, at.ARRIVAL_S] <= scalars[at.TTFT_S]:
        state.deadlines[e, i] = first + scalars[at.TPOT_S] * (generated - 1)
    else:
        state.deadlines[e, i] = MISSED
    counters[e, at.RLP] = i + 1
    groups = pages_of(context + 1)
    counters[e, at.CONTEXT_SUM] += context
    counters[e, at.GROUP_SUM] += groups
    counters[e, at.GROUP_MAX] = max(counters[e, at.GROUP_MAX], groups)


@lean
def admit(e, most, state, scalars):
    """Admit up to `most` requests, preempted ones first, then in order of arrival, while slots and pages last."""
    counters, facts = state.counters, state.facts
    slots = state.requests.shape[1]
    admitted = 0
    while admitted < most:
        running = counters[e, at.RLP] + counters[e, at.PREFILLING]
        if running >= scalars[at.MAX_RUNNING]:
            break
        stack = counters[e, at.PREEMPTED]
        if stack > 0:
            request = state.preempted[e, stack - 1]
        elif counters[e, at.HEAD] < counters[e, at.ARRIVED]:
            request = counters[e, at.HEAD]
        else:
            break
        tokens = facts[e, request, at.INPUT] + facts[e, request, at.GENERATED]
        need = pages_of(tokens + 1)
        used = counters[e, at.GROUP_SUM] + counters[e, at.PREFILL_PAGES]
        if running > 0 and used + need + scalars[at.WATERMARK_PAGES] > scalars[at.TOTAL_PAGES]:
            break
        if stack > 0:
            counters[e, at.PREEMPTED] -= 1
        else:
            head = counters[e, at.HEAD] + 1
            while head < counters[e, at.ARRIVED] and facts[e, head, at.STATUS] != at.WAITING:
                head += 1
            counters[e, at.HEAD] = head
        counters[e, at.QUEUED] -= 1
        facts[e, request, at.STATUS] = at.RUNNING
        if np.isnan(state.moments[e, request, at.ADMITTED_S]):
            state.moments[e, request, at.ADMITTED_S] = state.clocks[e, at.TIME_S]
        if scalars[at.PREFILL_ON] > 0.0:
            place = (counters[e, at.PREFILL_FRONT] + counters[e, at.PREFILLING]) % slots
            state.prefill[e, place] = request
            counters[e, at.PREFILLING] += 1
            counters[e, at.PREFILL_BACKLOG] += tokens
            counters[e, at.PREFILL_PAGES] += need
        else:
            begin_decode(e, request, tokens, facts[e, request, at.GENERATED], state, scalars)
        admitted += 1
    return admitted


@lean
def preempt_latest(e, state, scalars):
    """Take the KV pages of the request admitted last; it waits at the queue's front and is computed again."""
    counters, facts = state.counters, state.facts
    slots = state.requests.shape[1]
    if counters[e, at.PREFILLING] > 0:
        place = (counters[e, at.PREFILL_FRONT] + counters[e, at.PREFILLING] - 1) % slots
        request = state.prefill[e, place]
        tokens = facts[e, request, at.INPUT] + facts[e, request, at.GENERATED]
        counters[e, at.PREFILLING] -= 1
        counters[e, at.PREFILL_BACKLOG] -= tokens
        counters[e, at.PREFILL_PAGES] -= pages_of(tokens + 1)
        if counters[e, at.PREFILLING] == 0:
            counters[e, at.PREFILL_BACKLOG] = 0
            counters[e, at.RECOMPUTED] += counters[e, at.PREFILL_DONE]
            counters[e, at.PREFILL_DONE] = 0
    else:
        victim = 0
        for i in range(counters[e, at.RLP]):
            if state.requests[e, i] > state.requests[e, victim]:
                victim = i
        request = state.requests[e, victim]
        facts[e, request, at.GENERATED] = facts[e, request, at.OUTPUT] - state.left[e, victim]
        if scalars[at.PREFILL_ON] > 0.0:
            counters[e, at.RECOMPUTED] += state.contexts[e, victim]
        counters[e, at.CONTEXT_SUM] -= state.contexts[e, victim]
        counters[e, at.GROUP_SUM] -= pages_of(state.contexts[e, victim] + 1)
        leave_slot(e, victim, state)
    facts[e, request, at.STATUS] = at.WAITING
    facts[e, request, at.PREEMPTED_TIMES] += 1
    state.preempted[e, counters[e, at.PREEMPTED]] = request
    counters[e, at.PREEMPTED] += 1
    counters[e, at.QUEUED] += 1
    counters[e, at.PREEMPTIONS] += 1


@inlined
def leave_slot(e, i, state):
    """Empty slot i: the last decoding request takes it."""
    last = state.counters[e, at.RLP] - 1
    state.requests[e, i] = state.requests[e, last]
    state.contexts[e, i] = state.contexts[e, last]
    state.left[e, i] = state.left[e, last]
    state.classes[e, i] = state.classes[e, last]
    state.keys[e, i] = state.keys[e, last]
    state.deadlines[e, i] = state.deadlines[e, last]
    state.counters[e, at.RLP] = last


# --- resets --------------------------------------------------------------------------------------------


@njit
def reset_env(e, state, tables):
    """Draw the instance of (seed, episode): arrivals, lengths, classes. Time starts at the first arrival."""
    counters, clocks, moments, facts = state.counters, state.clocks, state.moments, state.facts
    scalars = tables.scalars
    seed = counters[e, at.SEED]
    episode = counters[e, at.EPISODE]
    counters[e, 2:] = 0
    clocks[e, :] = 0.0
    moments[e, :, :] = np.nan
    facts[e, :, :] = 0
    # The column of outputs serves as scratch for the rows of the trace.
    count = draw_arrivals(seed, episode, tables.arrivals, moments[e, :, at.ARRIVAL_S], facts[e, :, at.OUTPUT])
    for i in range(count):
        key = request_key(seed, episode, i)
        row = facts[e, i, at.OUTPUT]
        refused = False
        if row >= 0 and tables.trace_lengths.shape[0] > 0:
            length, output = tables.trace_lengths[row, 0], tables.trace_lengths[row, 1]
            refused = tables.trace_refused[row]
        else:
            row = request_row(key, tables.population.shape[0])
            length, output = tables.population[row, 0], tables.population[row, 1]
        if pages_of(length + output + SPECULATION_LENGTHS[-1]) > scalars[at.TOTAL_PAGES]:
            refused = True
        facts[e, i, at.INPUT] = length
        facts[e, i, at.OUTPUT] = output
        facts[e, i, at.CLASS] = drawn_class(key, tables.class_shares)
        facts[e, i, at.STATUS] = at.REFUSED if refused else at.FUTURE
    counters[e, at.REQUESTS] = count
    counters[e, at.LAST_FC] = -1
    for k in range(4):
        counters[e, at.LAST_ACTION + k] = -1
    for unit in range(at.NUM_DRIFTING):
        clocks[e, at.SEEN_DRIFT + unit] = 1.0
    arrive(e, state)
    wait(e, state, scalars)
    find_oldest(e, state, counters, clocks)


@lean
def wait(e, state, scalars):
    """While nothing runs and nothing waits, time passes to the next arrival, or to the end of the episode."""
    counters, clocks = state.counters, state.clocks
    horizon = scalars[at.HORIZON_S]
    while counters[e, at.RLP] + counters[e, at.PREFILLING] + counters[e, at.QUEUED] == 0:
        until = min(clocks[e, at.NEXT_ARRIVAL_S], horizon)
        if not np.isfinite(until) or until <= clocks[e, at.TIME_S]:
            break
        clocks[e, at.IDLE_S] += until - clocks[e, at.TIME_S]
        clocks[e, at.TIME_S] = until
        arrive(e, state)


# --- a step --------------------------------------------------------------------------------------------


@inlined
def resolved(e, actions, counters, scalars):
    """What the four choices mean, and how many were invalid.

    A unit that the system lacks becomes its only one (split: likewise), overlap is off where attention has no
    stacks of its own, and where nothing runs one request is admitted at least.
    """
    unit = actions[e, at.FC]
    overlap = actions[e, at.OVERLAP]
    admission = actions[e, at.ADMISSION]
    invalid = 0
    only = np.int64(scalars[at.ONLY_UNIT])
    if only >= 0 and unit != only:
        unit = only
        invalid += 1
    if overlap == 1 and scalars[at.ATTENTION_UNIT] != 2.0:
        overlap = 0
        invalid += 1
    running = counters[e, at.RLP] + counters[e, at.PREFILLING]
    if admission == at.NONE and running == 0 and counters[e, at.QUEUED] > 0:
        admission = at.ONE
        invalid += 1
    return unit, overlap, admission, invalid


@inlined
def survey(e, tlp, rlp, contexts, group_columns):
    """Sums over decoding requests of what the iteration attends to: (context, groups, longest, chunks, longest)."""
    context_sum = 0
    group_sum = 0
    group_max = 0
    chunk_sum = 0
    for i in range(rlp):
        context = contexts[e, i] + tlp
        groups = (context + PAGE_TOKENS - 1) // PAGE_TOKENS
        context_sum += context
        group_sum += groups
        group_max = max(group_max, groups)
        chunk_sum += (groups * group_columns + COLUMNS_PER_ROW - 1) // COLUMNS_PER_ROW
    chunk_max = (group_max * group_columns + COLUMNS_PER_ROW - 1) // COLUMNS_PER_ROW
    return context_sum, group_sum, group_max, chunk_sum, chunk_max


@lean
def chunk_of_prompts(e, state, scalars):
    """The prompt tokens of this iteration, first come first served: (tokens, (query, key) pairs, tokens read)."""
    counters, facts = state.counters, state.facts
    room = np.int64(scalars[at.CHUNK])
    slots = state.requests.shape[1]
    done = counters[e, at.PREFILL_DONE]
    rows = 0
    pairs = 0
    read = 0
    k = 0
    while k < counters[e, at.PREFILLING] and rows < room:
        request = state.prefill[e, (counters[e, at.PREFILL_FRONT] + k) % slots]
        tokens = facts[e, request, at.INPUT] + facts[e, request, at.GENERATED]
        upto = min(tokens, done + room - rows)
        pairs += upto * (upto + 1) // 2 - done * (done + 1) // 2
        read += upto
        rows += upto - done
        done = 0
        k += 1
    return rows, pairs, read


@inlined
def decode_tokens(
    e,
    tlp,
    rlp,
    counters,
    clocks,
    requests,
    contexts,
    left,
    classes,
    keys,
    deadlines,
    gains,
    limits,
    state,
    thresholds,
    scalars,
):
    """Advance the first `rlp` slots by one iteration that has just ended; requests with all tokens leave.

    In passes over one or two arrays each, which the compiler turns into vector instructions.
    """
    now = clocks[e, at.TIME_S]
    tpot = scalars[at.TPOT_S]
    drafted = tlp - 1
    accepted = 0
    for i in range(rlp):
        gains[i] = 1
    # All draws, slot by slot within a draft position: a vector of them costs less than finding out which count.
    for draft in range(1, drafted + 1):
        for i in range(rlp):
            limits[i] = thresholds[classes[e, i], draft - 1]
        for i in range(rlp):
            draw = mix(keys[e, i] + np.uint64(contexts[e, i] + draft) * _GOLDEN) >> _11
            gains[i] += np.int64(draw < limits[i] and gains[i] == draft)
    if drafted > 0:
        for i in range(rlp):
            accepted += gains[i] - 1
    decoded = 0
    leaving = 0
    for i in range(rlp):
        gain = min(gains[i], left[e, i])
        gains[i] = gain
        decoded += gain
        left[e, i] -= gain
        contexts[e, i] += gain
        leaving += int(left[e, i] == 0)
    if scalars[at.PREFILL_ON] == 0.0:
        # Prompts that arrive processed have their first token now; only those after it have a pace to keep.
        for i in range(rlp):
            if deadlines[e, i] == UNBORN:
                deadlines[e, i] = first_deadline(e, requests[e, i], state, scalars) + tpot * (gains[i] - 1)
            else:
                deadlines[e, i] += tpot * gains[i]
    else:
        for i in range(rlp):
            deadlines[e, i] += tpot * gains[i]
    on_time = 0
    for i in range(rlp):
        on_time += gains[i] * int(now <= deadlines[e, i])
    active = rlp
    if leaving > 0:
        i = 0
        while i < active:
            if left[e, i] > 0:
                i += 1
                continue
            finish(e, requests[e, i], state, scalars)
            # The last decoding request takes this place and is looked at in its turn.
            active -= 1
            requests[e, i] = requests[e, active]
            contexts[e, i] = contexts[e, active]
            left[e, i] = left[e, active]
            classes[e, i] = classes[e, active]
            keys[e, i] = keys[e, active]
            deadlines[e, i] = deadlines[e, active]
    context_sum = 0
    group_sum = 0
    group_max = 0
    for i in range(active):
        context = contexts[e, i]
        groups = (context + PAGE_TOKENS) // PAGE_TOKENS
        context_sum += context
        group_sum += groups
        group_max = max(group_max, groups)
    slack_sum = 0.0
    slack_min = np.inf
    behind = 0
    lost = 0
    for i in range(active):
        deadline = deadlines[e, i]
        if deadline == MISSED:
            lost += 1
        else:
            slack = deadline - now
            slack_sum += slack
            slack_min = min(slack_min, slack)
            behind += int(slack < 0.0)
    counters[e, at.RLP] = active
    counters[e, at.CONTEXT_SUM] = context_sum
    counters[e, at.GROUP_SUM] = group_sum
    counters[e, at.GROUP_MAX] = group_max
    counters[e, at.TOKENS] += decoded
    counters[e, at.ON_TIME_TOKENS] += on_time
    counters[e, at.LAST_DECODED] = decoded
    counters[e, at.DRAFTED] += drafted * rlp
    counters[e, at.ACCEPTED] += accepted
    in_time = active - lost
    clocks[e, at.SLACK_MEAN_S] = slack_sum / in_time if in_time > 0 else 0.0
    clocks[e, at.SLACK_MIN_S] = slack_min if in_time > 0 else 0.0
    clocks[e, at.BEHIND] = behind / active if active > 0 else 0.0
    clocks[e, at.LOST] = lost / active if active > 0 else 0.0
    if drafted > 0:
        seen_accepted = accepted / (drafted * rlp)
        old = clocks[e, at.SEEN_ACCEPTED]
        clocks[e, at.SEEN_ACCEPTED] = seen_accepted if old == 0.0 else old + NEWEST * (seen_accepted - old)
    gained = decoded / rlp
    k = 0
    while SPECULATION_LENGTHS[k] != tlp:
        k += 1
    old = clocks[e, at.SEEN_TOKENS + k]
    clocks[e, at.SEEN_TOKENS + k] = gained if old == 0.0 else old + NEWEST * (gained - old)


@lean
def prefill_tokens(e, rows, state, scalars):
    """Process `rows` prompt tokens of the ring; a request whose last one is done has produced a token."""
    counters, facts = state.counters, state.facts
    slots = state.requests.shape[1]
    counters[e, at.PREFILL_BACKLOG] -= rows
    counters[e, at.PREFILLED] += rows
    while rows > 0:
        front = counters[e, at.PREFILL_FRONT]
        request = state.prefill[e, front]
        tokens = facts[e, request, at.INPUT] + facts[e, request, at.GENERATED]
        part = min(rows, tokens - counters[e, at.PREFILL_DONE])
        rows -= part
        counters[e, at.PREFILL_DONE] += part
        if counters[e, at.PREFILL_DONE] < tokens:
            break
        counters[e, at.PREFILL_DONE] = 0
        counters[e, at.PREFILL_FRONT] = (front + 1) % slots
        counters[e, at.PREFILLING] -= 1
        counters[e, at.PREFILL_PAGES] -= pages_of(tokens + 1)
        generated = facts[e, request, at.GENERATED] + 1
        facts[e, request, at.GENERATED] = generated
        counters[e, at.TOKENS] += 1
        if np.isnan(state.moments[e, request, at.FIRST_TOKEN_S]):
            due = first_deadline(e, request, state, scalars)
        else:
            first = state.moments[e, request, at.FIRST_TOKEN_S]
            due = MISSED
            if first - state.moments[e, request, at.ARRIVAL_S] <= scalars[at.TTFT_S]:
                due = first + scalars[at.TPOT_S] * (generated - 1)
        if state.clocks[e, at.TIME_S] <= due:
            counters[e, at.ON_TIME_TOKENS] += 1
        if generated == facts[e, request, at.OUTPUT]:
            finish(e, request, state, scalars)
        else:
            begin_decode(e, request, tokens, generated, state, scalars)


@inlined
def advance_env(
    e,
    actions,
    state,
    counters,
    clocks,
    requests,
    contexts,
    left,
    classes,
    keys,
    deadlines,
    fc_seconds,
    fc_joules,
    bank_seconds,
    attention,
    rounds,
    link,
    moves,
    draft,
    thresholds,
    scalars,
    busy,
    gains,
    limits,
):
    """One iteration of environment e. Returns the reward. `busy` is scratch, float64 [NUM_RESOURCES]."""
    unit, overlap, admission, invalid = resolved(e, actions, counters, scalars)
    counters[e, at.INVALID] += invalid
    tlp = SPECULATION_LENGTHS[actions[e, at.SPECULATION]]
    good_before = counters[e, at.GOOD_TOKENS]
    if scalars[at.REWARD_ON_TIME] > 0.0:
        good_before = counters[e, at.ON_TIME_TOKENS]

    running = counters[e, at.RLP] + counters[e, at.PREFILLING]
    if admission != at.NONE and counters[e, at.QUEUED] > 0 and running < scalars[at.MAX_RUNNING]:
        admit(e, 1 if admission == at.ONE else requests.shape[1], state, scalars)
    group_columns = np.int64(scalars[at.GROUP_COLUMNS])
    context_sum, group_sum, group_max, chunk_sum, chunk_max = survey(
        e, tlp, counters[e, at.RLP], contexts, group_columns
    )
    pages = group_sum + counters[e, at.PREFILL_PAGES]
    while pages > scalars[at.TOTAL_PAGES] and counters[e, at.RLP] + counters[e, at.PREFILLING] > 1:
        preempt_latest(e, state, scalars)
        context_sum, group_sum, group_max, chunk_sum, chunk_max = survey(
            e, tlp, counters[e, at.RLP], contexts, group_columns
        )
        pages = group_sum + counters[e, at.PREFILL_PAGES]
    counters[e, at.PAGES_HIGH] = max(counters[e, at.PAGES_HIGH], pages)

    rlp = counters[e, at.RLP]
    rows = 0
    pairs = 0
    read = 0
    if counters[e, at.PREFILLING] > 0:
        rows, pairs, read = chunk_of_prompts(e, state, scalars)
    counters[e, at.ITERATION] += 1
    seconds = 0.0
    joules = 0.0
    fc_s = 0.0
    attention_s = 0.0
    draft_s = 0.0
    prompt_s = 0.0
    communication_s = 0.0
    pim_rows = 0
    busy[:] = 0.0
    if rlp + rows > 0:
        seed = counters[e, at.SEED]
        episode = counters[e, at.EPISODE]
        now = clocks[e, at.TIME_S]
        pu_factor = 1.0
        pim_factor = 1.0
        attention_factor = 1.0
        if scalars[at.DRIFT_PERIOD_S] > 0.0:
            pu_factor = drift_factor(seed, episode, 0, now, scalars)
            pim_factor = drift_factor(seed, episode, 1, now, scalars)
            attention_factor = drift_factor(seed, episode, 2, now, scalars)
        home = scalars[at.ATTENTION_UNIT]
        if home == 0.0:
            attention_factor = pu_factor
        elif home == 1.0:
            attention_factor = pim_factor
        (
            seconds,
            joules,
            fc_s,
            attention_s,
            draft_s,
            prompt_s,
            communication_s,
            switching_s,
            switches,
            mode,
            pim_rows,
        ) = iteration(
            rlp,
            tlp,
            context_sum,
            group_sum,
            group_max,
            chunk_sum,
            chunk_max,
            rows,
            pairs,
            read,
            unit,
            overlap,
            counters[e, at.LAST_FC],
            pu_factor,
            pim_factor,
            attention_factor,
            fc_seconds,
            fc_joules,
            bank_seconds,
            attention,
            rounds,
            link,
            moves,
            draft,
            scalars,
            busy,
        )
        counters[e, at.LAST_FC] = mode
        counters[e, at.SWITCHES] += switches
        clocks[e, at.SWITCHING_S] += switching_s
        if busy[at.BUSY_PU] > 0.0:
            clocks[e, at.SEEN_DRIFT] = pu_factor
        if busy[at.BUSY_FC_PIM] > 0.0:
            clocks[e, at.SEEN_DRIFT + 1] = pim_factor
        if busy[at.BUSY_ATTN] > 0.0:
            clocks[e, at.SEEN_DRIFT + 2] = attention_factor
    else:
        counters[e, at.STALLS] += 1
    computing = 0.0
    for k in range(at.NUM_RESOURCES):
        clocks[e, at.BUSY_S + k] += busy[k]
        clocks[e, at.LAST_BUSY_S + k] = busy[k]
        if k <= at.BUSY_ATTN:
            computing += busy[k]
    clocks[e, at.OVERLAPPED_S] += max(computing - seconds, 0.0)
    clocks[e, at.LAST_START_S] = clocks[e, at.TIME_S]
    clocks[e, at.TIME_S] += seconds
    clocks[e, at.DYNAMIC_J] += joules
    clocks[e, at.COMMUNICATION_S] += communication_s
    clocks[e, at.DRAFT_S] += draft_s
    clocks[e, at.PAGES_USED_TIME] += pages * seconds
    clocks[e, at.LAST_TIME_S] = seconds
    clocks[e, at.LAST_FC_S] = fc_s
    clocks[e, at.LAST_ATTENTION_S] = attention_s
    clocks[e, at.LAST_DRAFT_S] = draft_s
    clocks[e, at.LAST_PREFILL_S] = prompt_s
    clocks[e, at.LAST_COMMUNICATION_S] = communication_s
    clocks[e, at.LAST_DYNAMIC_J] = joules
    counters[e, at.LAST_ACTION + at.FC] = unit
    counters[e, at.LAST_ACTION + at.SPECULATION] = actions[e, at.SPECULATION]
    counters[e, at.LAST_ACTION + at.ADMISSION] = admission
    counters[e, at.LAST_ACTION + at.OVERLAP] = overlap
    counters[e, at.LAST_N] = rlp * tlp
    counters[e, at.LAST_CHUNK] = rows
    counters[e, at.LAST_DECODED] = 0
    counters[e, at.SPLIT_ROWS] = pim_rows
    if rlp > 0:
        decode_tokens(
            e,
            tlp,
            rlp,
            counters,
            clocks,
            requests,
            contexts,
            left,
            classes,
            keys,
            deadlines,
            gains,
            limits,
            state,
            thresholds,
            scalars,
        )
    if rows > 0:
        prefill_tokens(e, rows, state, scalars)
    if clocks[e, at.NEXT_ARRIVAL_S] <= clocks[e, at.TIME_S]:
        arrive(e, state)
    before = clocks[e, at.TIME_S]
    if counters[e, at.RLP] + counters[e, at.PREFILLING] + counters[e, at.QUEUED] == 0:
        wait(e, state, scalars)
    find_oldest(e, state, counters, clocks)

    elapsed = seconds + clocks[e, at.TIME_S] - before
    good = counters[e, at.GOOD_TOKENS]
    if scalars[at.REWARD_ON_TIME] > 0.0:
        good = counters[e, at.ON_TIME_TOKENS]
    clocks[e, at.LAST_REWARD_GOODPUT] = (good - good_before) / scalars[at.REFERENCE_TOKENS]
    total_j = joules + elapsed * scalars[at.STATIC_W]
    clocks[e, at.LAST_REWARD_ENERGY] = -scalars[at.ENERGY_WEIGHT] * total_j / scalars[at.REFERENCE_TOKENS]
    reward = clocks[e, at.LAST_REWARD_GOODPUT] + clocks[e, at.LAST_REWARD_ENERGY]
    clocks[e, at.RETURN] += reward
    return reward


@inlined
def squash(x):
    """x / (1 + x)."""
    return x / (1.0 + x)


@inlined
def signed_squash(x):
    """0.5 + 0.5 x / (1 + |x|)."""
    return 0.5 + 0.5 * x / (1.0 + abs(x))


@inlined
def observe_env(e, counters, clocks, scalars, observations):
    """Write the observation of environment e, named in `serving_layout.STATE_NAMES`; descriptors stay."""
    rlp = counters[e, at.RLP]
    running = rlp + counters[e, at.PREFILLING]
    reference = scalars[at.REFERENCE_S]
    limit = scalars[at.CONTEXT_LIMIT]
    ttft = scalars[at.TTFT_S]
    observations[e, 0] = squash(counters[e, at.QUEUED] / 16.0)
    observations[e, 1] = squash((clocks[e, at.TIME_S] - clocks[e, at.HEAD_ARRIVAL_S]) / ttft)
    observations[e, 2] = rlp / 256.0
    observations[e, 3] = counters[e, at.PREFILLING] / 256.0
    observations[e, 4] = squash(counters[e, at.PREFILL_BACKLOG] / 2048.0)
    observations[e, 5] = running / scalars[at.MAX_RUNNING]
    # Without paging there is no end of pages, and the share is 0.
    observations[e, 6] = min(
        (counters[e, at.GROUP_SUM] + counters[e, at.PREFILL_PAGES]) / scalars[at.TOTAL_PAGES], 1.0
    )
    observations[e, 7] = squash(4.0 * counters[e, at.CONTEXT_SUM] / max(rlp, 1) / limit)
    observations[e, 8] = squash(4.0 * PAGE_TOKENS * counters[e, at.GROUP_MAX] / limit)
    observations[e, 9] = rlp / (rlp + scalars[at.ALPHA]) if rlp > 0 else 0.0
    observations[e, 10] = squash(clocks[e, at.LAST_TIME_S] / reference)
    observations[e, 11] = squash(clocks[e, at.LAST_FC_S] / reference)
    observations[e, 12] = squash(clocks[e, at.LAST_ATTENTION_S] / reference)
    observations[e, 13] = squash(clocks[e, at.LAST_DRAFT_S] / reference)
    observations[e, 14] = squash(clocks[e, at.LAST_PREFILL_S] / reference)
    observations[e, 15] = squash(clocks[e, at.LAST_COMMUNICATION_S] / reference)
    observations[e, 16] = counters[e, at.LAST_DECODED] / max(counters[e, at.LAST_N], 1)
    observations[e, 17] = counters[e, at.LAST_CHUNK] / 512.0
    feature = at.LAST_ACTION_FEATURE
    for k in range(4):
        last = counters[e, at.LAST_ACTION + k]
        for choice in range(at.NVEC[k]):
            observations[e, feature] = 1.0 if last == choice else 0.0
            feature += 1
    for unit in range(at.NUM_DRIFTING):
        observations[e, feature] = squash(max(np.log2(clocks[e, at.SEEN_DRIFT + unit]), 0.0))
        feature += 1
    for k in range(1, len(SPECULATION_LENGTHS)):
        observations[e, feature] = clocks[e, at.SEEN_TOKENS + k] / SPECULATION_LENGTHS[k]
        feature += 1
    observations[e, feature] = clocks[e, at.SEEN_ACCEPTED]
    pace = 16.0 * scalars[at.TPOT_S]
    observations[e, feature + 1] = signed_squash(clocks[e, at.SLACK_MEAN_S] / pace)
    observations[e, feature + 2] = signed_squash(clocks[e, at.SLACK_MIN_S] / pace)
    observations[e, feature + 3] = clocks[e, at.BEHIND]
    observations[e, feature + 4] = clocks[e, at.LOST]
    finished = counters[e, at.FINISHED]
    observations[e, feature + 5] = counters[e, at.ATTAINED] / finished if finished > 0 else 1.0
    elapsed = max(clocks[e, at.TIME_S], reference)
    observations[e, feature + 6] = squash(counters[e, at.ARRIVED] / elapsed * ttft / 16.0)


@lean
def keep_final(e, state, final, observations, final_observations):
    """Copy what an episode that ends and restarts in one step leaves behind."""
    for k in range(state.counters.shape[1]):
        final.counters[e, k] = state.counters[e, k]
    for k in range(state.clocks.shape[1]):
        final.clocks[e, k] = state.clocks[e, k]
    for request in range(state.moments.shape[1]):
        for k in range(state.moments.shape[2]):
            final.moments[e, request, k] = state.moments[e, request, k]
        for k in range(state.facts.shape[2]):
            final.facts[e, request, k] = state.facts[e, request, k]
    for k in range(observations.shape[1]):
        final_observations[e, k] = observations[e, k]


# --- the loops over environments -------------------------------------------------------------------------


@njit
def reset_batch(mask, state, tables, observations):
    """Reset the environments in `mask` to the (seed, episode) that their counters name."""
    for e in range(state.counters.shape[0]):
        if mask[e]:
            reset_env(e, state, tables)
            observe_env(e, state.counters, state.clocks, tables.scalars, observations)


@unlocked
def step_range(
    start,
    stop,
    actions,
    autoreset,
    max_steps,
    state,
    tables,
    observations,
    rewards,
    terminated,
    truncated,
    final,
    final_observations,
    busy,
    gains,
    limits,
):
    """Advance environments `start` to `stop` by one iteration; autoreset and `max_steps` as in `batch.step_batch`.

    An episode by requests terminates when each has finished or was refused; one by time is truncated at its
    horizon. `final` takes the last state of environments that reset in the same step.
    """
    # Unpacked once: reading a member of a tuple counts a reference, and does so for every environment.
    scalars = tables.scalars
    horizon = scalars[at.HORIZON_S]
    counters, clocks = state.counters, state.clocks
    requests, contexts, left = state.requests, state.contexts, state.left
    classes, keys, deadlines = state.classes, state.keys, state.deadlines
    fc_s, fc_j, bank_s = tables.fc_s, tables.fc_j, tables.bank_s
    attention, rounds, link = tables.attention, tables.rounds, tables.link
    moves, draft, thresholds = tables.moves, tables.draft, tables.acceptance
    for e in range(start, stop):
        rewards[e] = 0.0
        resets = autoreset == NEXT_STEP and counters[e, at.DONE] == 1
        if resets:
            terminated[e] = False
            truncated[e] = False
        elif counters[e, at.DONE] == 1:
            continue
        else:
            rewards[e] = advance_env(
                e,
                actions,
                state,
                counters,
                clocks,
                requests,
                contexts,
                left,
                classes,
                keys,
                deadlines,
                fc_s,
                fc_j,
                bank_s,
                attention,
                rounds,
                link,
                moves,
                draft,
                thresholds,
                scalars,
                busy,
                gains,
                limits,
            )
            over = counters[e, at.FINISHED] + counters[e, at.REJECTED] == counters[e, at.REQUESTS]
            terminated[e] = over and not np.isfinite(horizon)
            late = clocks[e, at.TIME_S] >= horizon
            late = late or (max_steps > 0 and counters[e, at.ITERATION] >= max_steps)
            truncated[e] = late and not terminated[e]
            if terminated[e] or truncated[e]:
                counters[e, at.DONE] = 1
                if autoreset == SAME_STEP:
                    observe_env(e, counters, clocks, scalars, observations)
                    keep_final(e, state, final, observations, final_observations)
                    resets = True
        if resets:
            counters[e, at.EPISODE] += 1
            reset_env(e, state, tables)
        observe_env(e, counters, clocks, scalars, observations)
