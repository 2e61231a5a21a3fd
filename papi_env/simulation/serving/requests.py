"""Requests of continuous batching, compiled: they arrive, are admitted, begin to decode, are preempted, and leave.

For one environment of a batch; `loop` has the iterations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.simulation.compiled import inlined, inner, lean, njit, seldom
from papi_env.simulation.draws import request_key, request_row
from papi_env.simulation.frames import Layout
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.counting import (
    EMPTY,
    in_vectors,
    narrow,
    narrow_groups_of,
    narrow_key_rows_of,
    pages_are_groups,
    pages_in,
)
from papi_env.simulation.serving.counting import groups_of as groups_of
from papi_env.simulation.serving.counting import key_rows_of as key_rows_of
from papi_env.simulation.serving.counting import near_context as near_context
from papi_env.simulation.serving.counting import pages_of as pages_of
from papi_env.simulation.serving.drafting import survey_mixed
from papi_env.simulation.serving.draws import draw_arrivals
from papi_env.simulation.serving.heat import cool_stacks, start_stacks
from papi_env.simulation.serving.keeping import evict, held_pages, lose_pages, use_kept
from papi_env.simulation.serving.pages import start_pages
from papi_env.simulation.serving.queueing import close_queue, next_in_queue, survey_queue
from papi_env.simulation.serving.scoring import first_due
from papi_env.simulation.serving.sessions import (
    NOBODY,
    arrive_sessions,
    class_of,
    conclude,
    draw_session,
    drawn_class,
    note_end,
    start_lists,
    turn_key,
    turn_of,
)
from papi_env.simulation.serving.terms import NOTHING, Decoding
from papi_env.workload.serving import SPECULATION_LENGTHS

MISSED = -np.inf  # deadline of a request whose first token was late
UNBORN = np.inf  # deadline of a request without a first token


class ServingState(NamedTuple):
    """State of `E` environments, `S` slots for running requests and `R` requests an episode.

    Attributes:
        counters: int64 [E, NUM_COUNTERS]; clocks: float64 [E, NUM_CLOCKS], or CAUSE_J columns where joules by cause
            are not kept.
        moments: float64 [E, R, NUM_MOMENTS], or one column less where records are used again; facts: int32
            [E, R, NUM_FACTS]: the requests' records.
        requests: int32 [E, S], of the decoding requests first: which request. contexts, left, classes: int32 [E, T] of
            T slots, S or as many more as make whole vectors (`counting.in_vectors`): tokens held, output tokens left,
            class. keys: uint64 [E, T], of acceptance draws. deadlines: float64 [E, T], when the latest token is due.
        prefill: int32 [E, S], a ring of requests in prefill; preempted: int32 [E, S], a stack of requests.
        found: int32 [E, S], beside `prefill`: tokens that need no processing. free: int32 [E, 2 S + 2, 2], what free
            pages hold (see `pages`). Without a token budget or prefix caching S is 1 here, and nothing is written.
        more: int32 [E, R, NUM_MORE]; queue: int32 [E, Q], requests that wait and were never admitted, in order of
            arrival, from QUEUE_FRONT on. Beside it, so that who is sought among many is found in rows, queue_facts:
            int32 [E, Q, NUM_QUEUED]; queue_arrival_s and queue_until_s: float64 [E, Q], when they came, and when
            their senders give up waiting.
        places: int32 [E, NUM_PLACE, C] and place_s: float64 [E, NUM_PLACE_S, C], conversations; prefixes: int32
            [E, classes, NUM_PREFIX]; queries: float64 [E, classes, NUM_TRAITS], what a score weighs, see `scoring`.
            From `more` on all of one entry where there are no classes of requests.
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
    found: npt.NDArray[np.int32]
    free: npt.NDArray[np.int32]
    more: npt.NDArray[np.int32]
    queue: npt.NDArray[np.int32]
    queue_facts: npt.NDArray[np.int32]
    queue_arrival_s: npt.NDArray[np.float64]
    queue_until_s: npt.NDArray[np.float64]
    places: npt.NDArray[np.int32]
    place_s: npt.NDArray[np.float64]
    prefixes: npt.NDArray[np.int32]
    queries: npt.NDArray[np.float64]


STATE = Layout(
    ServingState,
    {name: 2 for name in ServingState._fields}
    | dict.fromkeys(
        ("moments", "facts", "free", "more", "queue_facts", "places", "place_s", "prefixes", "queries"), 3
    ),
)
state_at = STATE.opener()


@lean
def survey_windows(contexts, tlp, scalars):
    """`survey` of what is inside the windows of layers that have any, in the order of `Decoding`; zeros without."""
    context_sum = np.int64(0)
    group_sum = np.int64(0)
    group_max = np.int64(0)
    key_row_sum = np.int64(0)
    columns = np.int64(scalars[at.GROUP_COLUMNS])
    if scalars[at.WINDOW] > 0.0:
        for context in contexts:
            near = near_context(np.int64(context) + tlp, tlp, scalars)
            groups = groups_of(near)
            context_sum += near
            group_sum += groups
            group_max = max(group_max, groups)
            key_row_sum += key_rows_of(groups, columns)
    return context_sum, group_sum, group_max, key_row_sum, key_rows_of(group_max, columns)


@inlined
def survey(e, tlp, state, scalars):
    """What decoding attends to, as `Decoding`, and the KV pages in use: of decoding requests and reserved ones.

    Requests of kinds in UNDRAFTED verify a single token, all others `tlp`.
    """
    counters, contexts = state.counters, state.contexts
    rlp = counters[e, at.RLP]
    if tlp > 1 and counters[e, at.UNDRAFTED] != 0:
        return survey_mixed(e, tlp, state, scalars)
    columns = np.int64(scalars[at.GROUP_COLUMNS])
    # `tables` refuses scenarios whose counts would not fit into 32 bits.
    wide, verified = narrow(columns), narrow(tlp)
    context_sum, group_sum, longest, key_row_sum = np.int32(0), np.int32(0), np.int32(0), np.int32(0)
    slots = in_vectors(rlp)
    for i in range(slots):
        context_sum = narrow(context_sum + contexts[e, i])
        groups = narrow_groups_of(narrow(contexts[e, i] + verified))
        group_sum = narrow(group_sum + groups)
        longest = max(longest, groups)
        key_row_sum = narrow(key_row_sum + narrow_key_rows_of(groups, wide))
    pages = np.int64(group_sum) if pages_are_groups(scalars) else pages_in(contexts[e, :rlp], tlp, scalars)
    group_max = np.int64(longest)
    key_row_max = key_rows_of(group_max, columns)
    near = survey_windows(contexts[e, :rlp], tlp, scalars)
    decoding = Decoding(
        rlp,
        tlp,
        context_sum - EMPTY * (slots - rlp) + rlp * tlp,
        np.int64(group_sum),
        group_max,
        np.int64(key_row_sum),
        key_row_max,
        near[0],
        near[1],
        near[2],
        near[3],
        near[4],
        np.int64(0),
        NOTHING,
    )
    return decoding, pages + counters[e, at.PREFILL_PAGES]


# --- requests come, are admitted, begin to decode, and leave -------------------------------------------


@inner
def arrive(e, state, served, scalars):
    """Move requests whose arrival has passed into the queue; refused ones are counted as they come."""
    if scalars[at.SERVICE] > 0.0:
        arrive_sessions(e, state, served, scalars)
    else:
        arrive_drawn(e, state)


@seldom
def arrive_drawn(e, state):
    """`arrive` where all requests of an episode were drawn at its start."""
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
def find_oldest(e, state, counters, clocks, scalars):
    """Note when the request arrived that would be admitted next, in order of arrival."""
    if counters[e, at.PREEMPTED] > 0:
        request = state.preempted[e, counters[e, at.PREEMPTED] - 1]
        clocks[e, at.HEAD_ARRIVAL_S] = state.moments[e, request, at.ARRIVAL_S]
    elif scalars[at.SERVICE] > 0.0 and counters[e, at.QUEUED] > 0:
        clocks[e, at.HEAD_ARRIVAL_S] = state.queue_arrival_s[e, counters[e, at.QUEUE_FRONT]]
    elif scalars[at.SERVICE] == 0.0 and counters[e, at.HEAD] < counters[e, at.ARRIVED]:
        clocks[e, at.HEAD_ARRIVAL_S] = state.moments[e, counters[e, at.HEAD], at.ARRIVAL_S]
    else:
        clocks[e, at.HEAD_ARRIVAL_S] = clocks[e, at.TIME_S]


@inlined
def ttft_of(kind, served, scalars):
    """Objective of a kind for the first token, in seconds."""
    return served.kinds[kind, at.KIND_TTFT_S] if scalars[at.SERVICE] > 0.0 else scalars[at.TTFT_S]


@inlined
def tpot_of(kind, served, scalars):
    """Objective of a kind for each further token, in seconds."""
    return served.kinds[kind, at.KIND_TPOT_S] if scalars[at.SERVICE] > 0.0 else scalars[at.TPOT_S]


@inner
def finish(e, request, state, served, scalars):
    """A request has all its tokens: judge it by its objectives."""
    counters, moments, facts = state.counters, state.moments, state.facts
    now = state.clocks[e, at.TIME_S]
    note_end(e, request, state)
    output = facts[e, request, at.OUTPUT]
    facts[e, request, at.GENERATED] = output
    first = moments[e, request, at.FIRST_TOKEN_S]
    kind = facts[e, request, at.CLASS]
    attained = first - moments[e, request, at.ARRIVAL_S] <= ttft_of(kind, served, scalars)
    attained = attained and now - first <= tpot_of(kind, served, scalars) * (output - 1)
    facts[e, request, at.STATUS] = at.ATTAINED_STATUS if attained else at.LATE
    counters[e, at.FINISHED] += 1
    counters[e, at.FINISHED_TOKENS] += output
    if attained:
        counters[e, at.ATTAINED] += 1
        counters[e, at.GOOD_TOKENS] += output
    if scalars[at.SERVICE] > 0.0:
        conclude(e, request, attained, state, served, scalars)


@inner
def first_deadline(e, request, state, served, scalars):
    """Note the first token; when it was due: now if in time, else the request is lost."""
    now = state.clocks[e, at.TIME_S]
    state.moments[e, request, at.FIRST_TOKEN_S] = now
    ttft_s = ttft_of(state.facts[e, request, at.CLASS], served, scalars)
    if now - state.moments[e, request, at.ARRIVAL_S] <= ttft_s:
        return now
    return MISSED


@inlined
def acceptance_key(e, request, state, scalars):
    """The key of the draws that decide which drafts of a request pass."""
    counters = state.counters
    if scalars[at.SERVICE] > 0.0:
        return turn_key(e, state.more[e, request, at.SESSION], turn_of(e, request, state), counters)
    return request_key(counters[e, at.SEED], counters[e, at.EPISODE], request)


@inner
def begin_decode(e, request, context, generated, state, served, scalars):
    """Put a request that holds `context` tokens and has produced `generated` into a slot."""
    counters = state.counters
    i = counters[e, at.RLP]
    state.requests[e, i] = request
    state.contexts[e, i] = context
    state.left[e, i] = state.facts[e, request, at.OUTPUT] - generated
    state.classes[e, i] = state.facts[e, request, at.CLASS]
    state.keys[e, i] = acceptance_key(e, request, state, scalars)
    kind = state.facts[e, request, at.CLASS]
    first = state.moments[e, request, at.FIRST_TOKEN_S]
    if np.isnan(first):
        state.deadlines[e, i] = UNBORN
    elif first - state.moments[e, request, at.ARRIVAL_S] <= ttft_of(kind, served, scalars):
        state.deadlines[e, i] = first + tpot_of(kind, served, scalars) * (generated - 1)
    else:
        state.deadlines[e, i] = MISSED
    counters[e, at.RLP] = i + 1
    counters[e, at.CONTEXT_SUM] += context
    counters[e, at.PAGE_SUM] += pages_of(context + 1, scalars)
    counters[e, at.GROUP_MAX] = max(counters[e, at.GROUP_MAX], groups_of(context + 1))


@inlined
def next_waiting(e, state):
    """The request that is admitted next: preempted ones first, then in order of arrival; -1 where none waits."""
    counters = state.counters
    stack = counters[e, at.PREEMPTED]
    if stack > 0:
        return np.int64(state.preempted[e, stack - 1])
    if counters[e, at.HEAD] < counters[e, at.ARRIVED]:
        return np.int64(counters[e, at.HEAD])
    return np.int64(-1)


@inlined
def be_admitted(e, request, state):
    """A request waits no more."""
    state.counters[e, at.QUEUED] -= 1
    state.facts[e, request, at.STATUS] = at.RUNNING
    if np.isnan(state.moments[e, request, at.ADMITTED_S]):
        state.moments[e, request, at.ADMITTED_S] = state.clocks[e, at.TIME_S]


@inner
def leave_queue(e, request, state):
    """`next_waiting` waits no more."""
    counters, facts = state.counters, state.facts
    if counters[e, at.PREEMPTED] > 0:
        counters[e, at.PREEMPTED] -= 1
    else:
        head = counters[e, at.HEAD] + 1
        while head < counters[e, at.ARRIVED] and facts[e, head, at.STATUS] != at.WAITING:
            head += 1
        counters[e, at.HEAD] = head
    be_admitted(e, request, state)


@inlined
def prompt_tokens(e, request, state):
    """Tokens of a request to process before it decodes: its prompt, and what it had produced when preempted."""
    return state.facts[e, request, at.INPUT] + state.facts[e, request, at.GENERATED]


@inner
def begin(e, request, found, state, served, scalars):
    """An admitted request has its prompt processed, but for the tokens found; or decodes if prompts come processed."""
    counters = state.counters
    slots = state.requests.shape[1]
    tokens = prompt_tokens(e, request, state)
    if scalars[at.PREFILL_ON] > 0.0:
        place = (counters[e, at.PREFILL_FRONT] + counters[e, at.PREFILLING]) % slots
        state.prefill[e, place] = request
        if scalars[at.SERVICE] > 0.0:
            state.found[e, place] = found
            if counters[e, at.PREFILLING] == 0:
                counters[e, at.PREFILL_DONE] = found
        counters[e, at.PREFILLING] += 1
        counters[e, at.PREFILL_BACKLOG] += tokens - found
        counters[e, at.PREFILL_PAGES] += pages_of(tokens + 1, scalars)
    else:
        begin_decode(e, request, tokens, state.facts[e, request, at.GENERATED], state, served, scalars)


@inner
def admit(e, most, state, served, scalars):
    """Admit up to `most` requests, preempted ones first, then in order of arrival, while slots and pages last."""
    counters = state.counters
    admitted = 0
    while admitted < most:
        running = counters[e, at.RLP] + counters[e, at.PREFILLING]
        if running >= scalars[at.MAX_RUNNING]:
            break
        request = next_waiting(e, state)
        if request < 0:
            break
        need = pages_of(prompt_tokens(e, request, state) + 1, scalars)
        used = counters[e, at.PAGE_SUM] + counters[e, at.PREFILL_PAGES]
        if running > 0 and used + need + scalars[at.WATERMARK_PAGES] > scalars[at.TOTAL_PAGES]:
            break
        leave_queue(e, request, state)
        begin(e, request, np.int64(0), state, served, scalars)
        admitted += 1
    return admitted


@inner
def makes_room(e, request, running, state, served, scalars):
    """Whether there are pages for a waiting request, once kept ones have been evicted for it as far as need be."""
    kind = state.facts[e, request, at.CLASS]
    place = np.int64(state.more[e, request, at.PLACE])
    need = pages_of(prompt_tokens(e, request, state) + 1, scalars)
    if place >= 0 and state.places[e, at.PAGES, place] > 0:
        # Its own pages become those of the running request.
        need -= np.int64(state.places[e, at.PAGES, place]) + np.int64(served.kinds[kind, at.SHARED])
    elif state.prefixes[e, class_of(kind, served), at.PREFIX_PAGES] > 0:
        need -= np.int64(served.kinds[kind, at.SHARED])
    spare = scalars[at.WATERMARK_PAGES] if running > 0 else 0.0
    while held_pages(e, state, scalars) + need + spare > scalars[at.TOTAL_PAGES]:
        pages = evict(e, place, state, served)
        if pages == 0:
            return running == 0
        if place < 0 and state.prefixes[e, class_of(kind, served), at.PREFIX_PAGES] == 0:
            # The prefix that it had counted on is gone.
            need = pages_of(prompt_tokens(e, request, state) + 1, scalars)
    return True


@inner
def admit_chosen(e, most, order, state, served, scalars):
    """`admit` in a chosen order, preempted requests first; kept pages make room.

    By chunk, no further request is admitted once the prompts of those that were fill the coming chunk: who would only
    wait on goes on being ordered and shed.
    """
    counters = state.counters
    paced = counters[e, at.LAST_SERVICE + at.PACING - at.ORDER] == at.BY_CHUNK
    admitted = 0
    while admitted < most and counters[e, at.QUEUED] > 0:
        if paced and counters[e, at.PREFILL_BACKLOG] >= scalars[at.CHUNK]:
            break
        running = counters[e, at.RLP] + counters[e, at.PREFILLING]
        if running >= scalars[at.MAX_RUNNING]:
            break
        stack = counters[e, at.PREEMPTED]
        position = np.int64(NOBODY)
        if stack > 0:
            request = np.int64(state.preempted[e, stack - 1])
        else:
            position = next_in_queue(e, order, state, served, scalars)
            if position == NOBODY:
                break
            request = np.int64(state.queue[e, position])
        if not makes_room(e, request, running, state, served, scalars):
            break
        if stack > 0:
            counters[e, at.PREEMPTED] -= 1
        else:
            close_queue(e, position, state)
            counters[e, at.CLASS_QUEUED + class_of(state.facts[e, request, at.CLASS], served)] -= 1
        be_admitted(e, request, state)
        if state.more[e, request, at.RANK] == NOBODY:
            state.more[e, request, at.RANK] = counters[e, at.ADMISSIONS]
            counters[e, at.ADMISSIONS] += 1
        found = use_kept(e, request, state, served, scalars)
        begin(e, request, found, state, served, scalars)
        admitted += 1
    return admitted


@seldom
def take_back(e, victim, state, served, scalars):
    """Take the KV pages of a decoding request, or of the last in prefill (-1); it will be computed again, and first."""
    counters, facts = state.counters, state.facts
    slots = state.requests.shape[1]
    if victim < 0:
        place = (counters[e, at.PREFILL_FRONT] + counters[e, at.PREFILLING] - 1) % slots
        request = state.prefill[e, place]
        tokens = prompt_tokens(e, request, state)
        found = np.int64(state.found[e, place]) if scalars[at.SERVICE] > 0.0 else np.int64(0)
        counters[e, at.PREFILLING] -= 1
        counters[e, at.PREFILL_BACKLOG] -= tokens - found
        counters[e, at.PREFILL_PAGES] -= pages_of(tokens + 1, scalars)
        if counters[e, at.PREFILLING] == 0:
            counters[e, at.PREFILL_BACKLOG] = 0
            counters[e, at.RECOMPUTED] += counters[e, at.PREFILL_DONE] - found
            counters[e, at.PREFILL_DONE] = 0
    else:
        request = state.requests[e, victim]
        facts[e, request, at.GENERATED] = facts[e, request, at.OUTPUT] - state.left[e, victim]
        if scalars[at.PREFILL_ON] > 0.0:
            counters[e, at.RECOMPUTED] += state.contexts[e, victim]
        counters[e, at.CONTEXT_SUM] -= state.contexts[e, victim]
        counters[e, at.PAGE_SUM] -= pages_of(state.contexts[e, victim] + 1, scalars)
        leave_slot(e, victim, state)
    if scalars[at.SERVICE] > 0.0:
        lose_pages(e, request, state, served)
    facts[e, request, at.STATUS] = at.WAITING
    facts[e, request, at.PREEMPTED_TIMES] += 1
    state.preempted[e, counters[e, at.PREEMPTED]] = request
    counters[e, at.PREEMPTED] += 1
    counters[e, at.QUEUED] += 1
    counters[e, at.PREEMPTIONS] += 1


@inner
def latest(e, state):
    """Whom to preempt if it is the request admitted last: a slot, or -1 for the last in prefill."""
    if state.counters[e, at.PREFILLING] > 0:
        return np.int64(-1)
    victim = np.int64(0)
    for i in range(state.counters[e, at.RLP]):
        if state.requests[e, i] > state.requests[e, victim]:
            victim = np.int64(i)
    return victim


@inlined
def reluctance(e, request, left, deadline, choice, state):
    """How much speaks against preempting a request: its rank reversed, its progress, or its lack of slack."""
    if choice == at.VICTIM_LATEST:
        return -np.float64(state.more[e, request, at.RANK])
    if choice == at.VICTIM_PROGRESS:
        return np.float64(state.facts[e, request, at.OUTPUT] - left)
    # One that is late already has nothing to lose.
    return -np.inf if deadline == MISSED else state.clocks[e, at.TIME_S] - deadline


@inner
def chosen_victim(e, choice, state, served, scalars):
    """Whom to preempt by a rule: a slot, or -1 for the last in prefill."""
    counters = state.counters
    victim = np.int64(-1)
    least = np.inf
    if counters[e, at.PREFILLING] > 0:
        if choice == at.VICTIM_LATEST:
            return victim
        place = (counters[e, at.PREFILL_FRONT] + counters[e, at.PREFILLING] - 1) % state.requests.shape[1]
        request = state.prefill[e, place]
        left = state.facts[e, request, at.OUTPUT] - state.facts[e, request, at.GENERATED]
        first = state.moments[e, request, at.FIRST_TOKEN_S]
        due = first_due(e, request, state, served)
        if first <= due:
            tpot_s = tpot_of(state.facts[e, request, at.CLASS], served, scalars)
            due = first + tpot_s * (state.facts[e, request, at.GENERATED] - 1)
        elif first > due:
            due = MISSED
        least = reluctance(e, request, left, due, choice, state)
    for i in range(counters[e, at.RLP]):
        value = reluctance(e, state.requests[e, i], state.left[e, i], state.deadlines[e, i], choice, state)
        if value < least:
            least = value
            victim = np.int64(i)
    return victim


@seldom
def preempt(e, state, served, scalars):
    """Preempt one request: that admitted last, or with classes the one that was chosen."""
    if scalars[at.SERVICE] > 0.0:
        choice = state.counters[e, at.LAST_SERVICE + at.VICTIM - at.ORDER]
        victim = chosen_victim(e, choice, state, served, scalars)
    else:
        victim = latest(e, state)
    take_back(e, victim, state, served, scalars)


@inlined
def move_slot(e, source, target, state):
    """What slot `source` holds, in slot `target` too."""
    state.requests[e, target] = state.requests[e, source]
    state.contexts[e, target] = state.contexts[e, source]
    state.left[e, target] = state.left[e, source]
    state.classes[e, target] = state.classes[e, source]
    state.keys[e, target] = state.keys[e, source]
    state.deadlines[e, target] = state.deadlines[e, source]


@inlined
def empty_slots(e, first, end, state):
    """Nobody decodes in some slots."""
    for i in range(first, end):
        state.contexts[e, i] = EMPTY
        state.left[e, i] = 0


@inlined
def leave_slot(e, i, state):
    """Empty slot i: the last decoding request takes it."""
    last = state.counters[e, at.RLP] - 1
    move_slot(e, last, i, state)
    empty_slots(e, last, last + 1, state)
    state.counters[e, at.RLP] = last


@seldom
def close_gaps(e, state):
    """Empty the slots of decoding requests that have all their tokens; the others keep their order."""
    kept = 0
    for i in range(state.counters[e, at.RLP]):
        if state.left[e, i] > 0:
            if kept < i:
                move_slot(e, i, kept, state)
            kept += 1
    empty_slots(e, kept, state.counters[e, at.RLP], state)
    state.counters[e, at.RLP] = kept


# --- resets --------------------------------------------------------------------------------------------


@njit
def reset_env(e, state, tables):
    """Draw the instance of (seed, episode): arrivals, lengths, classes. Time starts at the first arrival."""
    counters, clocks, moments, facts = state.counters, state.clocks, state.moments, state.facts
    scalars = tables.scalars
    counters[e, 2:] = 0
    clocks[e, :] = 0.0
    moments[e, :, :] = np.nan
    facts[e, :, :] = 0
    empty_slots(e, 0, state.contexts.shape[1], state)
    if scalars[at.SERVICE] > 0.0:
        start_lists(e, state)
        clocks[e, at.NEXT_RETURN_S] = np.inf
        clocks[e, at.NEXT_LEAVE_S] = np.inf
        draw_session(e, state, tables)
    else:
        draw_requests(e, state, tables)
    counters[e, at.LAST_FC] = -1
    for k in range(4):
        counters[e, at.LAST_ACTION + k] = -1
    for unit in range(at.NUM_DRIFTING):
        clocks[e, at.SEEN_DRIFT + unit] = 1.0
    start_stacks(e, clocks, scalars)
    if scalars[at.PREFIX_CACHING] > 0.0:
        start_pages(e, state, np.int64(scalars[at.TOTAL_PAGES]))
    arrive(e, state, tables, scalars)
    wait(e, state, tables, scalars)
    find_oldest(e, state, counters, clocks, scalars)
    if scalars[at.SERVICE] > 0.0:
        survey_queue(e, state, tables, scalars)


@seldom
def draw_requests(e, state, tables):
    """Draw all requests of an episode: arrivals, lengths, classes."""
    counters, moments, facts = state.counters, state.moments, state.facts
    scalars = tables.scalars
    seed = counters[e, at.SEED]
    episode = counters[e, at.EPISODE]
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
        if pages_of(length + output + SPECULATION_LENGTHS[-1], scalars) > scalars[at.TOTAL_PAGES]:
            refused = True
        facts[e, i, at.INPUT] = length
        facts[e, i, at.OUTPUT] = output
        facts[e, i, at.CLASS] = drawn_class(key, tables.class_shares)
        facts[e, i, at.STATUS] = at.REFUSED if refused else at.FUTURE
    counters[e, at.REQUESTS] = counters[e, at.RECORDS_USED] = count


@inner
def wait(e, state, served, scalars):
    """While nothing runs and nothing waits, time passes to the next arrival, or to the end of the episode."""
    counters, clocks = state.counters, state.clocks
    horizon = scalars[at.HORIZON_S]
    while counters[e, at.RLP] + counters[e, at.PREFILLING] + counters[e, at.QUEUED] == 0:
        until = min(clocks[e, at.NEXT_ARRIVAL_S], horizon)
        if not np.isfinite(until) or until <= clocks[e, at.TIME_S]:
            break
        cool_stacks(e, until - clocks[e, at.TIME_S], clocks, scalars)
        clocks[e, at.IDLE_S] += until - clocks[e, at.TIME_S]
        clocks[e, at.TIME_S] = until
        arrive(e, state, served, scalars)
