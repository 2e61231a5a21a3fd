"""What an iteration of continuous batching yields once its time has passed, compiled: tokens and prompts done."""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inlined, inner, lean
from papi_env.simulation.draws import seeded_draw, token_seed, token_step
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.counting import (
    DRAWN_AT_ONCE,
    EMPTY,
    in_vectors,
    narrow,
    narrow_groups_of,
    pages_are_groups,
    pages_in,
)
from papi_env.simulation.serving.drafting import drafts_kind, in_class, of_class
from papi_env.simulation.serving.pages import NOBODY, give_back
from papi_env.simulation.serving.requests import (
    MISSED,
    UNBORN,
    begin_decode,
    close_gaps,
    finish,
    first_deadline,
    groups_of,
    leave_slot,
    pages_of,
    tpot_of,
    ttft_of,
)
from papi_env.workload.serving import SPECULATION_LENGTHS

# Weight of the newest observation in moving averages. chosen: 1/16, some tens of iterations; range 1/64-1/4.
NEWEST = 1.0 / 16.0


@inlined
def passes(seed, draft, limit):
    """Whether the draft so many tokens after that of `seed` is accepted."""
    # Signed, for which all processors have an instruction; neither has a sign.
    return np.int64(seeded_draw(seed + token_step(draft))) < np.int64(limit)


@inlined
def go_further(gained, draft, first, second):
    """What is gained once a draft and the one after it are known; they count where all before them were accepted."""
    first = first & (gained == draft)
    return gained + np.int64(first) + np.int64(first & second)


@inlined
def accept_drafts(e, rlp, drafted, state, thresholds, scratch):
    """Tokens that each of the first `rlp` slots gains, into `gains`: one, and its drafts up to the first refused.

    Requests of kinds in UNDRAFTED have no drafts. Returns whether all are of one kind.
    """
    contexts, classes, keys, left = state.contexts, state.classes, state.keys, state.left
    gains, limits, seeds = scratch.gains, scratch.limits, scratch.seeds
    undrafted = state.counters[e, at.UNDRAFTED]
    # Of empty slots, whose draws nobody counts, no more than fill a vector: draws take long.
    slots = in_vectors(rlp, DRAWN_AT_ONCE)
    if drafted == 0 or undrafted == 0:
        for i in range(slots):
            gains[i] = 1
    else:
        # Who does not draft begins with none, so that no draft of theirs counts; their one token comes in the end.
        for i in range(slots):
            gains[i] = np.int64(drafts_kind(classes[e, i], undrafted))
    if drafted == 0:
        return False
    others = np.int32(0)
    kind = classes[e, 0]
    for i in range(slots):
        seeds[i] = token_seed(keys[e, i], contexts[e, i])
    for i in range(in_vectors(rlp)):
        others = narrow(others | (narrow(classes[e, i] ^ kind) if left[e, i] > 0 else np.int32(0)))
    # All draws, slot by slot within draft positions: a vector of them costs less than finding out which count.
    if others == 0:
        limit_of = thresholds[np.uint64(kind)]
        for i in range(slots):
            gains[i] = go_further(gains[i], 1, passes(seeds[i], 1, limit_of[0]), False)
        # Two positions at a time, so that seeds and gains are read half as often.
        for draft in range(2, drafted + 1, 2):
            limit = limit_of[draft - 1]
            next_limit = limit_of[draft] if draft < drafted else np.uint64(0)
            for i in range(slots):
                one, two = passes(seeds[i], draft, limit), passes(seeds[i], draft + 1, next_limit)
                gains[i] = go_further(gains[i], draft, one, two)
    else:
        for draft in range(1, drafted + 1):
            for i in range(slots):
                limits[i] = thresholds[np.uint64(classes[e, i]), draft - 1]
            for i in range(slots):
                gains[i] = go_further(gains[i], draft, passes(seeds[i], draft, limits[i]), False)
    if undrafted != 0:
        for i in range(slots):
            gains[i] = max(gains[i], 1)
    return others == 0


@inlined
def gain_tokens(e, rlp, state, gains, gained):
    """Add what is gained, no more than is left, to contexts, and note it in `gained`.

    Returns tokens, drafts accepted, and requests that now have all their tokens.
    """
    contexts, left = state.contexts, state.left
    decoded, accepted, leaving = np.int32(0), np.int32(0), np.int32(0)
    slots = in_vectors(rlp)
    for i in range(slots):
        gain = min(narrow(gains[i]), left[e, i])
        # What a request that has fewer left cannot use was accepted, too.
        accepted = narrow(accepted + (narrow(gains[i] - 1) if left[e, i] > 0 else np.int32(0)))
        rest = narrow(left[e, i] - gain)
        gained[i] = gain
        left[e, i] = rest
        contexts[e, i] += gain
        decoded = narrow(decoded + gain)
        leaving = narrow(leaving + narrow(rest == 0))
    # Empty slots have none left, and gain none.
    return np.int64(decoded), np.int64(accepted), np.int64(leaving) - (slots - rlp)


@inlined
def keep_pace(e, rlp, state, gained, served, scalars):
    """Move deadlines on by what was gained. Returns the tokens that came in time."""
    deadlines = state.deadlines
    now = state.clocks[e, at.TIME_S]
    tpot = scalars[at.TPOT_S]
    slots = in_vectors(rlp)
    if scalars[at.PREFILL_ON] == 0.0:
        # Prompts that arrive processed have their first token now; only those after it have a pace to keep.
        for i in range(rlp):
            pace = tpot_of(state.classes[e, i], served, scalars)
            if deadlines[e, i] == UNBORN:
                due = first_deadline(e, state.requests[e, i], state, served, scalars)
                deadlines[e, i] = due + pace * (gained[i] - 1)
            else:
                deadlines[e, i] += pace * gained[i]
    elif scalars[at.SERVICE] > 0.0 and scalars[at.ONE_PACE] == 0.0:
        kinds, classes = served.kinds, state.classes
        for i in range(slots):
            deadlines[e, i] += kinds[classes[e, i], at.KIND_TPOT_S] * gained[i]
    else:
        for i in range(slots):
            deadlines[e, i] += tpot * gained[i]
    on_time = 0
    for i in range(slots):
        on_time += gained[i] * int(now <= deadlines[e, i])
    return on_time


@inlined
def sum_up(e, state, scalars):
    """Note contexts, pages and slack of the requests that go on decoding."""
    counters, clocks, contexts, deadlines = state.counters, state.clocks, state.contexts, state.deadlines
    active = counters[e, at.RLP]
    now = clocks[e, at.TIME_S]
    context_sum, groups, longest = np.int32(0), np.int32(0), np.int32(0)
    slots = in_vectors(active)
    for i in range(slots):
        context = contexts[e, i]
        context_sum = narrow(context_sum + context)
        groups = narrow(groups + narrow_groups_of(narrow(context + np.int32(1))))
        longest = max(longest, context)
    pages = np.int64(groups) if pages_are_groups(scalars) else pages_in(contexts[e, :active], 1, scalars)
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
    counters[e, at.CONTEXT_SUM] = context_sum - EMPTY * (slots - active)
    counters[e, at.PAGE_SUM] = pages
    counters[e, at.GROUP_MAX] = groups_of(np.int64(longest) + 1) if active > 0 else np.int64(0)
    in_time = active - lost
    clocks[e, at.SLACK_MEAN_S] = slack_sum / in_time if in_time > 0 else 0.0
    clocks[e, at.SLACK_MIN_S] = slack_min if in_time > 0 else 0.0
    clocks[e, at.BEHIND] = behind / active if active > 0 else 0.0
    clocks[e, at.LOST] = lost / active if active > 0 else 0.0


@inlined
def average_in(e, clock, seen, clocks):
    """Let a moving average, 0 before the first, follow what was seen."""
    old = clocks[e, clock]
    clocks[e, clock] = seen if old == 0.0 else old + NEWEST * (seen - old)


@lean
def note_accepted(e, drafted, state, gains, kinds, scalars):
    """Let CLASS_ACCEPTED follow what each class of requests has accepted, of so many drafts each.

    For `decode_tokens` with classes, once `gains` are drawn.
    """
    counters, clocks, requests = state.counters, state.clocks, state.classes
    drafters, accepted = np.uint64(0), np.uint64(0)
    for i in range(counters[e, at.RLP]):
        kind = requests[e, i]
        own = in_class(kind, kinds, drafts_kind(kind, counters[e, at.UNDRAFTED]))
        drafters += own
        accepted += own * np.uint64(gains[i] - 1)
    for number in range(np.int64(scalars[at.NUM_CLASSES])):
        theirs = of_class(drafters, number)
        if theirs > 0:
            average_in(e, at.CLASS_ACCEPTED + number, of_class(accepted, number) / (drafted * theirs), clocks)


@inlined
def leave_pages(e, tokens, state, scalars):
    """A request that is done gives its pages back, whose content nobody asks for."""
    if scalars[at.PREFIX_CACHING] > 0.0:
        give_back(e, NOBODY, pages_of(tokens, scalars), state)


@inlined
def decode_tokens(e, decoding, state, thresholds, served, scalars, scratch):
    """Advance the requests of an iteration that has just ended; those with all tokens leave.

    In passes over one or two arrays each, which the compiler turns into vector instructions.
    """
    counters, clocks, left, gains = state.counters, state.clocks, state.left, scratch.gains
    rlp, tlp, single = decoding.rlp, decoding.tlp, decoding.single
    drafters = rlp - single
    drafted = tlp - 1
    alike = accept_drafts(e, rlp, drafted, state, thresholds, scratch)
    decoded, accepted, leaving = gain_tokens(e, rlp, state, gains, scratch.gained)
    if alike and drafters > 0 and scalars[at.SERVICE] > 0.0:
        number = np.int64(served.kinds[state.classes[e, 0], at.OF_CLASS])
        average_in(e, at.CLASS_ACCEPTED + number, accepted / (drafted * drafters), clocks)
    elif drafted > 0 and scalars[at.SERVICE] > 0.0:
        note_accepted(e, drafted, state, gains, served.kinds, scalars)
    on_time = keep_pace(e, rlp, state, scratch.gained, served, scalars)
    if leaving > 0 and scalars[at.TOKEN_BUDGET] > 0.0:
        for i in range(rlp):
            if left[e, i] == 0:
                leave_pages(e, state.contexts[e, i], state, scalars)
                finish(e, state.requests[e, i], state, served, scalars)
        close_gaps(e, state)
    elif leaving > 0:
        i = 0
        while i < counters[e, at.RLP]:
            if left[e, i] > 0:
                i += 1
                continue
            finish(e, state.requests[e, i], state, served, scalars)
            # The last decoding request takes this place and is looked at in its turn.
            leave_slot(e, i, state)
    sum_up(e, state, scalars)
    counters[e, at.TOKENS] += decoded
    counters[e, at.ON_TIME_TOKENS] += on_time
    counters[e, at.LAST_DECODED] = decoded
    counters[e, at.DRAFTED] += drafted * drafters
    counters[e, at.ACCEPTED] += accepted
    if drafted > 0:
        average_in(e, at.SEEN_ACCEPTED, accepted / (drafted * drafters), clocks)
    k = 0
    while SPECULATION_LENGTHS[k] != tlp:
        k += 1
    # Those that verify a single token gain it.
    average_in(e, at.SEEN_TOKENS + k, (decoded - single) / drafters, clocks)
    if single > 0:
        average_in(e, at.SEEN_TOKENS, 1.0, clocks)


@inner
def prefill_tokens(e, rows, state, served, scalars):
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
        if scalars[at.TOKEN_BUDGET] > 0.0:
            counters[e, at.PREFILL_PAGES] -= pages_of(tokens, scalars)
            if counters[e, at.PREFILLING] > 0:
                counters[e, at.PREFILL_DONE] = state.found[e, counters[e, at.PREFILL_FRONT]]
        else:
            counters[e, at.PREFILL_PAGES] -= pages_of(tokens + 1, scalars)
            if scalars[at.SERVICE] > 0.0 and counters[e, at.PREFILLING] > 0:
                counters[e, at.PREFILL_DONE] = state.found[e, counters[e, at.PREFILL_FRONT]]
        generated = facts[e, request, at.GENERATED] + 1
        facts[e, request, at.GENERATED] = generated
        counters[e, at.TOKENS] += 1
        if np.isnan(state.moments[e, request, at.FIRST_TOKEN_S]):
            due = first_deadline(e, request, state, served, scalars)
        else:
            first = state.moments[e, request, at.FIRST_TOKEN_S]
            due = MISSED
            kind = facts[e, request, at.CLASS]
            if first - state.moments[e, request, at.ARRIVAL_S] <= ttft_of(kind, served, scalars):
                due = first + tpot_of(kind, served, scalars) * (generated - 1)
        if state.clocks[e, at.TIME_S] <= due:
            counters[e, at.ON_TIME_TOKENS] += 1
        if generated == facts[e, request, at.OUTPUT]:
            if scalars[at.TOKEN_BUDGET] > 0.0:
                leave_pages(e, tokens, state, scalars)
            finish(e, request, state, served, scalars)
        else:
            begin_decode(e, request, tokens, generated, state, served, scalars)
