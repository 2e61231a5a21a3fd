"""Sessions, compiled: conversations and lone requests come, turn by turn, and end well or badly.

Everything is drawn from keys of (seed, episode, session, turn), one session after the other as they come, so that
every policy meets the same ones and nothing grows with the length of an episode. For one environment of a batch, of a
scenario with classes of requests.
"""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inlined, inner, lean, seldom
from papi_env.simulation.draws import mix, request_key, request_row
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.counting import pages_of
from papi_env.simulation.serving.draws import next_arrival, row_of, uniform
from papi_env.workload.serving import SPECULATION_LENGTHS

_CLASS_STREAM = np.uint64(0xA24BAED4963EE407)
# Any odd constants, each of its own.
_TURN = np.uint64(0xC2B2AE3D27D4EB4F)
_GOES_ON = np.uint64(0x165667B19E3779F9)
_THINKS = np.uint64(0x27D4EB2F165667C5)
_WAITS = np.uint64(0x85EBCA77C2B2AE63)
_11 = np.uint64(11)
NOBODY = -1
LATEST = np.int64(2**63 - 1)  # after the bits of every time


@inlined
def bits_of(time_s):
    """Bits of a time that is not negative: in the order of times, and LLVM finds the least of them as vectors."""
    return np.float64(time_s).view(np.int64)


@inlined
def chance(key, stream):
    """Uniform in [0, 1), of a key's own for each stream."""
    return np.float64(mix(key ^ stream) >> _11) * 2.0**-53


@inlined
def drawn_class(key, cumulative):
    """Index of a request's class, or of its kind, from its key and the cumulative shares."""
    share = chance(key, _CLASS_STREAM)
    kind = 0
    while kind < cumulative.shape[0] - 1 and share >= cumulative[kind]:
        kind += 1
    return kind


@inlined
def session_key(e, session, counters):
    """Key of all draws of a session's first turn: that of a request without conversations."""
    return request_key(counters[e, at.SEED], counters[e, at.EPISODE], session)


@inlined
def key_of_turn(key, turn):
    """Key of all draws of a turn, from that of its session."""
    return mix(key ^ (np.uint64(turn) * _TURN)) if turn > 0 else key


@inlined
def turn_key(e, session, turn, counters):
    """Key of all draws of a turn."""
    return key_of_turn(session_key(e, session, counters), turn)


# --- what turns are ---------------------------------------------------------------------------------------


@inlined
def worth_of(kind, output, served, scalars):
    """What a request of so many output tokens is worth within its objectives."""
    weight = served.kinds[kind, at.WEIGHT]
    return weight * output if scalars[at.WORTH_BY_TOKENS] > 0.0 else weight


@inlined
def class_of(kind, served):
    """The number of a kind's class."""
    return np.int64(served.kinds[kind, at.OF_CLASS])


@inlined
def talks(kind, served):
    """Whether requests of a kind may be followed by others of the same conversation."""
    return served.kinds[kind, at.MOST_TURNS] > 1.0


@inlined
def follows(row, served):
    """The row of the turn that goes on from one of a trace; -1 where none does, or rows stand alone."""
    return np.int64(served.trace_turns[row, at.NEXT_ROW]) if row >= 0 and replays(served) else np.int64(-1)


@inlined
def replays(served):
    """Whether a trace has conversations."""
    return served.trace_turns.shape[0] > 0


@inner
def turn_lengths(key, kind, turn, row, served):
    """New prompt tokens of a turn, and its output tokens; `row` of a trace, or -1.

    New are those beyond all that was said before, of which a trace's turn may have less.
    """
    if row >= 0:
        return np.int64(served.trace_lengths[row, 0]), np.int64(served.trace_lengths[row, 1])
    part = at.FIRST_ROW if turn == 0 else at.LATER_ROW
    drawn = served.spans[kind, part] + request_row(key, served.spans[kind, part + 1])
    fresh = np.int64(served.service_lengths[drawn, 0])
    if turn == 0:
        fresh += np.int64(served.kinds[kind, at.PREFIX])
    return fresh, np.int64(served.service_lengths[drawn, 1])


@inner
def fits(tokens, output, scalars):
    """Whether the memory could hold a request of so many prompt and output tokens."""
    return pages_of(tokens + output + SPECULATION_LENGTHS[-1], scalars) <= scalars[at.TOTAL_PAGES]


@inner
def turns_of(first, kind, row, served, scalars):
    """Turns of a session, and what all of them are worth.

    It ends by chance or as in the trace, at the most turns of its class, or before a turn that does not fit into
    context or memory. `first` is the key of its first turn, `row` that turn's in a trace, or -1.
    """
    replayed = row >= 0 and replays(served)
    context = np.int64(0)
    turns = np.int64(0)
    worth = 0.0
    while True:
        key = key_of_turn(first, turns)
        fresh, output = turn_lengths(key, kind, turns, row, served)
        prompt = context + fresh
        if turns > 0 and (prompt + output > scalars[at.CONTEXT_LIMIT] or not fits(prompt, output, scalars)):
            break
        worth += worth_of(kind, output, served, scalars)
        turns += 1
        context = prompt + output
        row = follows(row, served)
        if turns >= served.kinds[kind, at.MOST_TURNS]:
            break
        if row < 0 and (replayed or chance(key, _GOES_ON) >= served.kinds[kind, at.GOES_ON]):
            break
    return turns, worth


@seldom
def turn_row(e, session, turn, counters, served):
    """The row of the trace of a session's turn, -1 where its lengths are drawn."""
    if served.trace_lengths.shape[0] == 0 or (turn > 0 and not replays(served)):
        return np.int64(-1)
    row = row_of(counters[e, at.SEED], counters[e, at.EPISODE], session, served.arrivals)
    for _ in range(turn):
        row = follows(row, served)
    return row


@seldom
def worth_between(e, session, kind, first, turns, counters, served, scalars):
    """What turns `first` to the last of `turns`, none of them a session's first, are worth."""
    worth = 0.0
    row = turn_row(e, session, first, counters, served)
    own = session_key(e, session, counters)
    for turn in range(first, turns):
        _, output = turn_lengths(key_of_turn(own, turn), kind, turn, row, served)
        row = follows(row, served)
        worth += worth_of(kind, output, served, scalars)
    return worth


@lean
def think_s(key, kind, served):
    """Seconds from the end of a turn to the next one, lognormal (Box and Muller, 1958)."""
    sigma = served.kinds[kind, at.THINK_SIGMA]
    normal = 0.0
    if sigma > 0.0:
        stream = mix(key ^ _THINKS)
        normal = np.sqrt(-2.0 * np.log(uniform(stream, 1))) * np.cos(2.0 * np.pi * uniform(stream, 2))
    return np.exp(served.kinds[kind, at.THINK_MU] + sigma * normal)


@inlined
def patience_of(key, kind, served):
    """Seconds that the sender of a request waits to be admitted, infinite where for ever."""
    low, high = served.kinds[kind, at.PATIENCE_S], served.kinds[kind, at.LONGEST_S]
    if not np.isfinite(low):
        return np.inf
    return low + chance(key, _WAITS) * (high - low)


# --- places and records -------------------------------------------------------------------------------------


@seldom
def start_lists(e, state):
    """No record and no place has been in use yet."""
    counters, places = state.counters, state.places
    for place in range(places.shape[2]):
        places[e, at.NUMBER, place] = NOBODY
        places[e, at.PAGES, place] = 0
        places[e, at.TOLD, place] = NOBODY
        state.place_s[e, at.RETURN_S, place] = np.inf
    for number in range(state.prefixes.shape[1]):
        state.prefixes[e, number, at.USERS] = 0
        state.prefixes[e, number, at.PREFIX_PAGES] = 0
    counters[e, at.FREE_RECORD] = NOBODY
    counters[e, at.FREE_PLACE] = NOBODY


@inlined
def reuses_records(state):
    """Whether a request's record is another's once it is over; else there is one for each."""
    return state.facts.shape[1] == state.requests.shape[1] + state.queue.shape[1] + 1


@inlined
def note_end(e, request, state):
    """A request is over now, which nobody asks of records that are used again."""
    if state.moments.shape[2] > at.FINISH_S:
        state.moments[e, request, at.FINISH_S] = state.clocks[e, at.TIME_S]


@inner
def free_record(e, request, state):
    """A request is over."""
    if reuses_records(state):
        state.facts[e, request, at.INPUT] = state.counters[e, at.FREE_RECORD]
        state.counters[e, at.FREE_RECORD] = request


@seldom
def free_place(e, place, state):
    """A conversation is over, and keeps nothing."""
    state.places[e, at.NUMBER, place] = NOBODY
    state.places[e, at.TOLD, place] = state.counters[e, at.FREE_PLACE]
    state.place_s[e, at.RETURN_S, place] = np.inf
    state.counters[e, at.FREE_PLACE] = place
    state.counters[e, at.OPEN] -= 1


@seldom
def release_kept(e, place, state, served):
    """Give the pages back that a conversation keeps. Returns how many."""
    counters, places = state.counters, state.places
    pages = np.int64(places[e, at.PAGES, place])
    if pages > 0:
        kind = places[e, at.KIND, place]
        places[e, at.PAGES, place] = 0
        counters[e, at.KEPT_PAGES] -= pages
        leave_prefix(e, kind, state, served)
        if places[e, at.NEXT_TURN, place] == places[e, at.TURNS, place]:
            free_place(e, place, state)
    return pages


@inlined
def leave_prefix(e, kind, state, served):
    """One less uses the prefix of a class, whose pages stay until they are needed."""
    if served.kinds[kind, at.SHARED] > 0.0:
        state.prefixes[e, class_of(kind, served), at.USERS] -= 1


@seldom
def take_place(e, state, served):
    """A free place for a conversation, or -1.

    Where none is left, the conversation that is over and whose pages were kept longest gives its own up.
    """
    counters, places = state.counters, state.places
    used = counters[e, at.PLACES_USED]
    if counters[e, at.FREE_PLACE] == NOBODY and used < places.shape[2]:
        counters[e, at.PLACES_USED] = used + 1
        counters[e, at.OPEN] += 1
        return used
    if counters[e, at.FREE_PLACE] == NOBODY:
        oldest = NOBODY
        for place in range(places.shape[2]):
            if places[e, at.NEXT_TURN, place] == places[e, at.TURNS, place] and (
                oldest == NOBODY or state.place_s[e, at.DONE_S, place] < state.place_s[e, at.DONE_S, oldest]
            ):
                oldest = place
        if oldest == NOBODY:
            return np.int64(NOBODY)
        counters[e, at.EVICTIONS] += 1
        release_kept(e, oldest, state, served)
    place = counters[e, at.FREE_PLACE]
    counters[e, at.FREE_PLACE] = places[e, at.TOLD, place]
    counters[e, at.OPEN] += 1
    return place


# --- requests come ------------------------------------------------------------------------------------------


@inlined
def turn_of(e, request, state):
    """Which turn of its conversation a request is that waits or runs; 0 of one that stands alone."""
    place = state.more[e, request, at.PLACE]
    return np.int64(state.places[e, at.NEXT_TURN, place]) if place >= 0 else np.int64(0)


@inlined
def waiting(e, counters):
    """Requests that wait and were never admitted."""
    return counters[e, at.QUEUED] - counters[e, at.PREEMPTED]


@inner
def record(e, arrival_s, kind, prompt, output, place, session, state):
    """Write the record of a request that comes, and return it; -1 where refused ones leave none."""
    counters, facts, more = state.counters, state.facts, state.more
    request = counters[e, at.FREE_RECORD]
    if request == NOBODY:
        # There are as many as can wait and run.
        request = min(counters[e, at.RECORDS_USED], facts.shape[1] - 1)
        counters[e, at.RECORDS_USED] = request + 1
    else:
        counters[e, at.FREE_RECORD] = facts[e, request, at.INPUT]
    for k in range(state.moments.shape[2]):
        state.moments[e, request, k] = np.nan
    state.moments[e, request, at.ARRIVAL_S] = arrival_s
    facts[e, request, at.INPUT] = prompt
    facts[e, request, at.OUTPUT] = output
    facts[e, request, at.GENERATED] = 0
    facts[e, request, at.PREEMPTED_TIMES] = 0
    facts[e, request, at.CLASS] = kind
    facts[e, request, at.STATUS] = at.WAITING
    more[e, request, at.SESSION] = session
    more[e, request, at.PLACE] = place
    more[e, request, at.KEPT] = 0
    more[e, request, at.RANK] = NOBODY
    return request


@inlined
def move_in_queue(e, k, to, state):
    """What place k of the queue holds, in another one too."""
    state.queue[e, to] = state.queue[e, k]
    state.queue_facts[e, to, at.QUEUED_KIND] = state.queue_facts[e, k, at.QUEUED_KIND]
    state.queue_facts[e, to, at.QUEUED_PROMPT] = state.queue_facts[e, k, at.QUEUED_PROMPT]
    state.queue_arrival_s[e, to] = state.queue_arrival_s[e, k]
    state.queue_until_s[e, to] = state.queue_until_s[e, k]


@inlined
def queue_end(e, state):
    """The place behind the last of those who wait; where the row is at its end, they move to its beginning."""
    counters = state.counters
    count = waiting(e, counters)
    front = counters[e, at.QUEUE_FRONT]
    if count == 0 or front + count >= state.queue.shape[1]:
        for k in range(count):
            move_in_queue(e, front + k, k, state)
        counters[e, at.QUEUE_FRONT] = front = np.int64(0)
    return front + count


@inner
def join_queue(e, request, key, state, served):
    """A request waits from its arrival on, as long as its sender does."""
    counters, clocks = state.counters, state.clocks
    kind = state.facts[e, request, at.CLASS]
    arrival_s = state.moments[e, request, at.ARRIVAL_S]
    until = arrival_s + patience_of(key, kind, served)
    clocks[e, at.NEXT_LEAVE_S] = min(clocks[e, at.NEXT_LEAVE_S], until)
    position = queue_end(e, state)
    state.queue[e, position] = request
    state.queue_facts[e, position, at.QUEUED_KIND] = kind
    state.queue_facts[e, position, at.QUEUED_PROMPT] = state.facts[e, request, at.INPUT]
    state.queue_arrival_s[e, position] = arrival_s
    state.queue_until_s[e, position] = until
    counters[e, at.QUEUED] += 1
    counters[e, at.CLASS_QUEUED + class_of(kind, served)] += 1


@seldom
def lose(e, kind, output, session, turn, turns, state, served, scalars):
    """A turn is not served in time, if `output` is not negative, and those after it up to `turns` never come."""
    counters, clocks = state.counters, state.clocks
    number = class_of(kind, served)
    if output >= 0:
        clocks[e, at.LOST_WORTH] += worth_of(kind, output, served, scalars)
        counters[e, at.CLASS_LOST + number] += 1
    if turn + 1 < turns:
        clocks[e, at.LOST_WORTH] += worth_between(
            e, session, kind, turn + 1, turns, counters, served, scalars
        )
        counters[e, at.CLASS_LOST + number] += turns - turn - 1
        counters[e, at.CUT] += turns - turn - 1


@seldom
def refuse(e, arrival_s, kind, prompt, output, place, turn, turns, session, state, served, scalars):
    """A request is sent away as it comes, and with it its conversation."""
    state.counters[e, at.REJECTED] += 1
    lose(e, kind, output, session, turn, turns, state, served, scalars)
    if not reuses_records(state):
        request = record(e, arrival_s, kind, prompt, output, place, session, state)
        state.facts[e, request, at.STATUS] = at.REFUSED
    if place >= 0:
        end_conversation(e, place, state, served)


@seldom
def end_conversation(e, place, state, served):
    """Nothing of a conversation comes any more; what it kept is given back."""
    state.places[e, at.NEXT_TURN, place] = state.places[e, at.TURNS, place]
    if state.places[e, at.PAGES, place] > 0:
        release_kept(e, place, state, served)
    else:
        free_place(e, place, state)


@inner
def session_after(e, session, arrival_s, state, served):
    """When a session comes, and its operational time; `arrival_s` is when the one before it does.

    Its row of the trace is drawn again as it comes.
    """
    counters = state.counters
    time, _, operational = next_arrival(
        counters[e, at.SEED],
        counters[e, at.EPISODE],
        session,
        state.clocks[e, at.OPERATIONAL_S],
        arrival_s,
        served.arrivals,
    )
    return time, operational


@seldom
def draw_session(e, state, served):
    """Note when the first session comes."""
    clocks = state.clocks
    time, operational = session_after(e, np.int64(0), 0.0, state, served)
    clocks[e, at.NEXT_SESSION_S] = time
    clocks[e, at.OPERATIONAL_S] = operational


@inner
def begin_session(e, state, served, scalars):
    """The next session comes: its first turn waits, or is refused."""
    counters, clocks, places = state.counters, state.clocks, state.places
    session = counters[e, at.SESSIONS]
    arrival_s = clocks[e, at.NEXT_SESSION_S]
    # Before anything is written, so that keys have parts in common and lengths far away are waited for meanwhile.
    next_s, operational = session_after(e, session + 1, arrival_s, state, served)
    row = turn_row(e, session, np.int64(0), counters, served)
    refused = row >= 0 and served.trace_refused[row]
    key = session_key(e, session, counters)
    kind = drawn_class(key, served.class_shares)
    prompt, output = turn_lengths(key, kind, 0, row, served)
    turns, worth = turns_of(key, kind, row, served, scalars)
    clocks[e, at.OFFERED] += worth
    counters[e, at.CLASS_OFFERED + class_of(kind, served)] += turns
    counters[e, at.ARRIVED] += 1
    place = np.int64(NOBODY)
    refused = refused or not fits(prompt, output, scalars) or waiting(e, counters) == state.queue.shape[1]
    if not refused and talks(kind, served):
        place = take_place(e, state, served)
        refused = place == NOBODY
    if refused:
        refuse(e, arrival_s, kind, prompt, output, place, 0, turns, session, state, served, scalars)
    else:
        if place >= 0:
            places[e, at.NUMBER, place] = session
            places[e, at.NEXT_TURN, place] = 0
            places[e, at.TURNS, place] = turns
            places[e, at.TOLD, place] = 0
            places[e, at.PAGES, place] = 0
            places[e, at.KIND, place] = kind
            state.place_s[e, at.RETURN_S, place] = np.inf
            state.place_s[e, at.DONE_S, place] = arrival_s
        request = record(e, arrival_s, kind, prompt, output, place, session, state)
        join_queue(e, request, key, state, served)
    counters[e, at.SESSIONS] = session + 1
    clocks[e, at.NEXT_SESSION_S] = next_s
    clocks[e, at.OPERATIONAL_S] = operational


@seldom
def find_return(e, state):
    """Note when the next conversation goes on; returns its place, or -1."""
    returns = state.place_s[e, at.RETURN_S, : state.counters[e, at.PLACES_USED]]
    soonest = LATEST
    for place in range(returns.shape[0]):
        soonest = min(soonest, bits_of(returns[place]))
    first = 0
    while first < returns.shape[0] - 1 and bits_of(returns[first]) != soonest:
        first += 1
    state.clocks[e, at.NEXT_RETURN_S] = returns[first]
    return np.int64(first if returns[first] < np.inf else NOBODY)


@seldom
def go_on(e, state, served, scalars):
    """The conversation that is due goes on: its next turn waits, or is refused."""
    counters, places = state.counters, state.places
    place = find_return(e, state)
    arrival_s = state.place_s[e, at.RETURN_S, place]
    state.place_s[e, at.RETURN_S, place] = np.inf
    session = np.int64(places[e, at.NUMBER, place])
    turn = np.int64(places[e, at.NEXT_TURN, place])
    turns = np.int64(places[e, at.TURNS, place])
    kind = np.int64(places[e, at.KIND, place])
    key = turn_key(e, session, turn, counters)
    row = turn_row(e, session, turn, counters, served)
    fresh, output = turn_lengths(key, kind, turn, row, served)
    prompt = places[e, at.TOLD, place] + fresh
    if row >= 0:
        # What is found in kept pages is no more than the two prompts have in common.
        places[e, at.TOLD, place] = min(
            np.int64(places[e, at.TOLD, place]), np.int64(served.trace_turns[row, at.LEFT_BEFORE])
        )
    counters[e, at.ARRIVED] += 1
    if waiting(e, counters) == state.queue.shape[1]:
        refuse(e, arrival_s, kind, prompt, output, place, turn, turns, session, state, served, scalars)
    else:
        request = record(e, arrival_s, kind, prompt, output, place, session, state)
        join_queue(e, request, key, state, served)
    find_return(e, state)


@inner
def arrive_sessions(e, state, served, scalars):
    """All sessions and turns that are due join the queue, in the order of their arrival."""
    clocks = state.clocks
    now = clocks[e, at.TIME_S]
    while min(clocks[e, at.NEXT_SESSION_S], clocks[e, at.NEXT_RETURN_S]) <= now:
        if clocks[e, at.NEXT_SESSION_S] <= clocks[e, at.NEXT_RETURN_S]:
            begin_session(e, state, served, scalars)
        else:
            go_on(e, state, served, scalars)
    clocks[e, at.NEXT_ARRIVAL_S] = min(clocks[e, at.NEXT_SESSION_S], clocks[e, at.NEXT_RETURN_S])


# --- requests are over ------------------------------------------------------------------------------------------


@seldom
def give_up(e, request, status, state, served, scalars):
    """A request that waits is not served: its sender left, or it is dropped; and with it its conversation."""
    counters, places = state.counters, state.places
    kind = np.int64(state.facts[e, request, at.CLASS])
    turn = turn_of(e, request, state)
    place = np.int64(state.more[e, request, at.PLACE])
    turns = np.int64(places[e, at.TURNS, place]) if place >= 0 else np.int64(1)
    output = np.int64(state.facts[e, request, at.OUTPUT])
    lose(e, kind, output, state.more[e, request, at.SESSION], turn, turns, state, served, scalars)
    counters[e, at.CLASS_QUEUED + class_of(kind, served)] -= 1
    counters[e, at.QUEUED] -= 1
    counters[e, at.ABANDONED if status == at.LEFT else at.SHED] += 1
    state.facts[e, request, at.STATUS] = status
    note_end(e, request, state)
    if place >= 0:
        end_conversation(e, place, state, served)
    free_record(e, request, state)


@inner
def conclude(e, request, attained, state, served, scalars):
    """A request has all its tokens: its worth is served or lost, and its conversation may go on and keep its pages."""
    counters, clocks = state.counters, state.clocks
    kind = np.int64(state.facts[e, request, at.CLASS])
    output = np.int64(state.facts[e, request, at.OUTPUT])
    place = np.int64(state.more[e, request, at.PLACE])
    if attained:
        clocks[e, at.SERVED] += worth_of(kind, output, served, scalars)
        counters[e, at.CLASS_ATTAINED + class_of(kind, served)] += 1
    else:
        lose(e, kind, output, np.int64(0), np.int64(0), np.int64(1), state, served, scalars)
    counters[e, at.SHARED_PAGES] += np.int64(served.kinds[kind, at.SHARED])
    keeps = False
    if place >= 0:
        choice = counters[e, at.LAST_SERVICE + at.KEEPING - at.ORDER]
        keeps = choice == at.KEEP_ALL or (choice == at.KEEP_CLASS and served.kinds[kind, at.RETURNS] > 0.0)
        rest(e, place, request, keeps, state, served, scalars)
    if not keeps:
        leave_prefix(e, kind, state, served)
    free_record(e, request, state)


@seldom
def rest(e, place, request, keeps, state, served, scalars):
    """A conversation's turn is done; note when the next one comes, if one does, and what is kept until then."""
    counters, clocks, places = state.counters, state.clocks, state.places
    now = clocks[e, at.TIME_S]
    kind = np.int64(places[e, at.KIND, place])
    turn = np.int64(places[e, at.NEXT_TURN, place])
    context = np.int64(state.facts[e, request, at.INPUT]) + np.int64(state.facts[e, request, at.OUTPUT])
    places[e, at.NEXT_TURN, place] = turn + 1
    places[e, at.TOLD, place] = context
    state.place_s[e, at.DONE_S, place] = now
    over = turn + 1 == places[e, at.TURNS, place]
    if not over:
        session = np.int64(places[e, at.NUMBER, place])
        row = turn_row(e, session, turn + 1, counters, served)
        if row >= 0:
            returns = max(now, state.moments[e, request, at.ARRIVAL_S] + served.trace_gaps[row])
        else:
            returns = now + think_s(turn_key(e, session, turn, counters), kind, served)
        state.place_s[e, at.RETURN_S, place] = returns
        clocks[e, at.NEXT_RETURN_S] = min(clocks[e, at.NEXT_RETURN_S], returns)
        clocks[e, at.NEXT_ARRIVAL_S] = min(clocks[e, at.NEXT_ARRIVAL_S], returns)
    if keeps:
        pages = pages_of(context, scalars) - np.int64(served.kinds[kind, at.SHARED])
        places[e, at.PAGES, place] = pages
        counters[e, at.KEPT_PAGES] += pages
        if pages == 0:  # a prefix alone: there is nothing to keep of its own
            leave_prefix(e, kind, state, served)
    if over and places[e, at.PAGES, place] == 0:
        free_place(e, place, state)
