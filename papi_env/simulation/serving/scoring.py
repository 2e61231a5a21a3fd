"""What a scheduler knows of a request that waits, compiled: its work, its worth, when it is due, and a score of these.

A policy that scores requests writes a query for each class, float64 [E, classes, NUM_TRAITS], before an iteration; the
score of a request is its class's query times what it is like, as attention scores keys. By score those with the most
are admitted first, and those below 0 are held while anything runs.
"""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inlined, seldom
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.counting import pages_of
from papi_env.simulation.serving.keeping import found_tokens
from papi_env.simulation.serving.sessions import class_of


@inlined
def work_left(kind, tokens, served, scalars):
    """Profiled seconds of the prompt tokens to process, and of the output that is usual in a request's class."""
    decoding = served.kinds[np.uint64(kind), at.MEAN_OUTPUT] * scalars[at.DECODE_TOKEN_S]
    return tokens * scalars[at.PROMPT_TOKEN_S] + decoding


@inlined
def density(kind, tokens, served, scalars):
    """What a request is usually worth in its class over its work."""
    row = served.kinds[np.uint64(kind)]
    worth = row[at.WEIGHT] * (row[at.MEAN_OUTPUT] if scalars[at.WORTH_BY_TOKENS] > 0.0 else 1.0)
    return worth / max(work_left(kind, tokens, served, scalars), 1e-12)


@inlined
def true_density(e, request, space, state, served, scalars):
    """What a request is worth over its work, or over its tokens times how long memory keeps them, by its true output.

    Privileged: nobody knows how long an answer will be.
    """
    row = served.kinds[state.facts[e, request, at.CLASS]]
    output = np.float64(state.facts[e, request, at.OUTPUT])
    worth = row[at.WEIGHT] * (output if scalars[at.WORTH_BY_TOKENS] > 0.0 else 1.0)
    tokens = np.float64(state.facts[e, request, at.INPUT])
    if space:
        # The prompt is kept as long as the answer takes, a token of the answer half as long on average.
        return worth / (output * (tokens + output / 2.0))
    tokens -= found_tokens(e, request, state, served, scalars)
    return worth / max(tokens * scalars[at.PROMPT_TOKEN_S] + output * scalars[at.DECODE_TOKEN_S], 1e-12)


@inlined
def first_due(e, request, state, served):
    """When the first token of a request is due."""
    kind = state.facts[e, request, at.CLASS]
    return state.moments[e, request, at.ARRIVAL_S] + served.kinds[kind, at.KIND_TTFT_S]


@inlined
def hopeless(now, tokens, due, scalars):
    """Whether a first token after so many prompt tokens is late even at the fastest that the profile knows."""
    return now + tokens * scalars[at.PROMPT_TOKEN_S] > due


@seldom
def score(e, request, state, served, scalars):
    """How much a request is wanted by the query of its class. Traits are in -1 to 1, most of them x / (1 + x) of x:

    * constant: 1 for every request. hopeless: 1 where its first token cannot come in time any more.
    * slack: of its first-token objective, what the fastest prefill would leave, in objectives.
    * waited: since its arrival, in objectives. prompt: tokens to process, over 2048.
    * worth: usual in its class, over its work by the profile, in mean requests per mean first-token objective.
    * found: share of its prompt in kept pages. need: pages that it and the usual answer of its class would take, over
      those that no running request holds.
    """
    query = state.queries[e, class_of(state.facts[e, request, at.CLASS], served)]
    kind = served.kinds[state.facts[e, request, at.CLASS]]
    now = state.clocks[e, at.TIME_S]
    within_s = kind[at.KIND_TTFT_S]
    found = found_tokens(e, request, state, served, scalars)
    tokens = np.float64(state.facts[e, request, at.INPUT] - found)
    left_s = first_due(e, request, state, served) - now
    left_s -= (state.counters[e, at.PREFILL_BACKLOG] + tokens) * scalars[at.PROMPT_TOKEN_S]
    slack = left_s / within_s
    waited = (now - state.moments[e, request, at.ARRIVAL_S]) / within_s
    length = tokens / 2048.0
    worth = (
        density(state.facts[e, request, at.CLASS], tokens, served, scalars)
        * scalars[at.TTFT_S]
        / scalars[at.REFERENCE_TOKENS]
    )
    running = (
        state.counters[e, at.PAGE_SUM]
        + state.counters[e, at.PREFILL_PAGES]
        + state.counters[e, at.SHARED_PAGES]
    )
    whole = state.facts[e, request, at.INPUT] + np.int64(kind[at.MEAN_OUTPUT])
    need = pages_of(whole, scalars) / max(scalars[at.TOTAL_PAGES] - running, 1.0)
    total = query[at.CONSTANT]
    total += query[at.SLACK] * (slack / (1.0 + abs(slack)))
    total += query[at.WAITED] * (waited / (1.0 + waited))
    total += query[at.PROMPT] * (length / (1.0 + length))
    total += query[at.WORTH] * (worth / (1.0 + worth))
    total += query[at.FOUND] * (found / max(tokens + found, 1.0))
    total += query[at.NEED] * (need / (1.0 + need))
    total += query[at.HOPELESS] * (1.0 if left_s < 0.0 else 0.0)
    return total
