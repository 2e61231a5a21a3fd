"""Who works in an iteration under a token budget, compiled: the order of vLLM's scheduler (engine v1, `schedule`).

1. Requests that run, in the order of their admission: each that decodes takes its tokens, a prompt that is partly done
   what is left of the budget. Each takes the KV pages that its tokens of this iteration need. Where there are too few,
   the request admitted last loses all of its own, waits before all others, and will be computed again.
2. Unless that happened, requests that wait, preempted ones first, while budget and places last. A prompt is admitted
   only where all of it would fit into the free pages (vLLM's `scheduler_reserve_full_isl`), but takes those of its
   chunk alone. With prefix caching a preempted request finds pages that nobody has taken yet (`pages`).

So at most one prompt is partly done between iterations, and it is the request admitted last. Decoding requests stand
in the order of their admission (`requests.close_gaps`). Speculation takes tokens of the budget like decoding, and
decode rows are never cut: where they take all of it, prompts get none.
"""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inlined, seldom
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.pages import NOBODY, find_pages, give_back, settle_pages
from papi_env.simulation.serving.parts import decode_rows, outside_windows
from papi_env.simulation.serving.requests import (
    empty_slots,
    leave_queue,
    next_waiting,
    pages_of,
    prompt_tokens,
    survey,
)
from papi_env.simulation.serving.terms import PromptChunk


@inlined
def release(e, request, tokens, state, scalars):
    """A preempted request gives its pages back, whose content stays: the partly filled one, then the full ones."""
    if scalars[at.PREFIX_CACHING] > 0.0:
        full = tokens >> np.int64(scalars[at.PAGE_LOG2])
        give_back(e, NOBODY, pages_of(tokens, scalars) - full, state)
        give_back(e, request, full, state)


@seldom
def preempt_last(e, state, scalars):
    """Preempt the request admitted last."""
    counters, facts = state.counters, state.facts
    if counters[e, at.PREFILLING] > 0:
        request = state.prefill[e, counters[e, at.PREFILL_FRONT]]
        held = counters[e, at.PREFILL_DONE]
        counters[e, at.PREFILLING] = 0
        counters[e, at.PREFILL_BACKLOG] = 0
        counters[e, at.PREFILL_PAGES] = 0
        counters[e, at.PREFILL_DONE] = 0
    else:
        i = counters[e, at.RLP] - 1
        request = state.requests[e, i]
        held = state.contexts[e, i]
        facts[e, request, at.GENERATED] = facts[e, request, at.OUTPUT] - state.left[e, i]
        counters[e, at.CONTEXT_SUM] -= held
        counters[e, at.PAGE_SUM] -= pages_of(held + 1, scalars)
        empty_slots(e, i, i + 1, state)
        counters[e, at.RLP] = i
    counters[e, at.RECOMPUTED] += held
    release(e, request, held, state, scalars)
    facts[e, request, at.STATUS] = at.WAITING
    facts[e, request, at.PREEMPTED_TIMES] += 1
    state.preempted[e, counters[e, at.PREEMPTED]] = request
    counters[e, at.PREEMPTED] += 1
    counters[e, at.QUEUED] += 1
    counters[e, at.PREEMPTIONS] += 1


@seldom
def admit_one(e, request, whole, room, state, scalars):
    """Admit a waiting request, which processes up to `room` tokens. Returns tokens found, tokens processed."""
    counters = state.counters
    slots = state.requests.shape[1]
    found = np.int64(0)
    if scalars[at.PREFIX_CACHING] > 0.0 and state.facts[e, request, at.PREEMPTED_TIMES] > 0:
        # One token at least is processed, for what it yields.
        log2 = np.int64(scalars[at.PAGE_LOG2])
        found = np.int64(find_pages(e, request, (whole - 1) >> log2, state)) << log2
        counters[e, at.FOUND_TOKENS] += found
        counters[e, at.RECOMPUTED] -= found
    leave_queue(e, request, state)
    place = (counters[e, at.PREFILL_FRONT] + counters[e, at.PREFILLING]) % slots
    state.prefill[e, place] = request
    state.found[e, place] = found
    if counters[e, at.PREFILLING] == 0:
        counters[e, at.PREFILL_DONE] = found
    part = min(whole - found, room)
    counters[e, at.PREFILLING] += 1
    counters[e, at.PREFILL_BACKLOG] += whole - found
    counters[e, at.PREFILL_PAGES] += pages_of(found + part, scalars)
    return found, part


@inlined
def met(done, part, scalars):
    """(query, key) pairs of so many tokens after those that are done, and tokens read for them."""
    far_pairs, far = outside_windows(done, done + part, scalars)
    return part * done + part * (part + 1) // 2 - far_pairs, done + part - far


@seldom
def schedule(e, tlp, most, state, scalars):
    """Decide who works. Returns `Decoding`, `PromptChunk`, and the KV pages in use.

    Args:
        e: the environment; tlp: tokens verified of each request that decodes.
        most: waiting requests that may be admitted.
        state: `ServingState`; scalars: as everywhere.
    """
    counters = state.counters
    total = np.int64(scalars[at.TOTAL_PAGES])
    caching = scalars[at.PREFIX_CACHING] > 0.0
    before = counters[e, at.PREEMPTIONS]
    while True:
        decoding, held = survey(e, tlp, state, scalars)
        room = max(np.int64(scalars[at.TOKEN_BUDGET]) - decode_rows(decoding), 0)
        rows = np.int64(0)
        more = np.int64(0)
        if counters[e, at.PREFILLING] > 0:
            rows = min(counters[e, at.PREFILL_BACKLOG], room)
            more = pages_of(counters[e, at.PREFILL_DONE] + rows, scalars) - counters[e, at.PREFILL_PAGES]
        running = counters[e, at.RLP] + counters[e, at.PREFILLING]
        if held + more <= total or running <= 1:
            break
        preempt_last(e, state, scalars)
    counters[e, at.PREFILL_PAGES] += more
    held += more
    room -= rows
    pairs = np.int64(0)
    read = np.int64(0)
    ending = np.int64(0)
    prompts = np.int64(rows > 0)
    if rows > 0:
        done = counters[e, at.PREFILL_DONE]
        pairs, read = met(done, rows, scalars)
        ending = np.int64(rows == counters[e, at.PREFILL_BACKLOG])
    if caching:
        settle_pages(e, held, total, state)
    admitted = 0
    while admitted < most and room > 0 and counters[e, at.PREEMPTIONS] == before:
        if counters[e, at.RLP] + counters[e, at.PREFILLING] >= scalars[at.MAX_RUNNING]:
            break
        request = next_waiting(e, state)
        if request < 0:
            break
        whole = prompt_tokens(e, request, state)
        if held + pages_of(whole, scalars) > total:
            break
        found, part = admit_one(e, request, whole, room, state, scalars)
        held += pages_of(found + part, scalars)
        if caching:
            settle_pages(e, held, total, state)
        room -= part
        rows += part
        more_pairs, more_read = met(found, part, scalars)
        pairs += more_pairs
        read += more_read
        ending += np.int64(found + part == whole)
        prompts += 1
        admitted += 1
    counters[e, at.PAGES_HIGH] = max(counters[e, at.PAGES_HIGH], held)
    return decoding, PromptChunk(rows, pairs, read, ending, prompts), held
