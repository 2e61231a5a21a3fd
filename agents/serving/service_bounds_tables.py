"""Compiled parts of `agents.serving.service_bounds`: least times with contexts, and shortest ways through a turn."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.kernel import FloatArray
from papi_env.simulation.compiled import njit
from papi_env.simulation.draws import accepted_prefix
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.instance import ServingInstance
from papi_env.simulation.serving.iteration import iteration
from papi_env.simulation.serving.requests import groups_of, key_rows_of, near_context
from papi_env.simulation.serving.sessions import turn_key
from papi_env.simulation.serving.tables import ServingTables, framed
from papi_env.simulation.serving.terms import (
    NOTHING,
    Decoding,
    Placement,
    PromptChunk,
    Slowdowns,
)
from papi_env.workload.serving import SPECULATION_LENGTHS

_LENGTHS = len(SPECULATION_LENGTHS)
# chosen: steps of the table along the tokens of all contexts, and between the prompt tokens of its rows, of which each
# is at most so much more than the one before. More and smaller ones tighten the bound.
CONTEXT_STEPS = 12
PROMPT_RATIO = 1.03


class Least(NamedTuple):
    """The least time of an iteration.

    Attributes:
        seconds: float64 [max_running + 1, 4, prompts, CONTEXT_STEPS], with at least so many requests' contexts and
            prompt tokens as the place says; infinite where there can be none.
        prompt: int64 [prompts], the most prompt tokens that a place stands for; tokens: float64
            [max_running + 1, CONTEXT_STEPS], the most tokens of all contexts.
    """

    seconds: FloatArray
    prompt: npt.NDArray[np.int64]
    tokens: FloatArray


def prompt_steps(chunk: int) -> npt.NDArray[np.int64]:
    """Where steps along the prompt tokens of an iteration begin: 0 alone, `chunk` alone, coarser downwards from it."""
    starts = [chunk]
    while starts[-1] > 1:
        starts.append(min(int(starts[-1] / PROMPT_RATIO), starts[-1] - 1))
    return np.array([0, *starts[::-1]] if chunk else [0], dtype=np.int64)


def least_seconds(chunk: int, shortest: int, tables: ServingTables) -> Least:
    """Tabulate the iterations of a scenario.

    Args:
        chunk: prompt tokens of an iteration at most; 0 without prefill.
        shortest: tokens of the shortest prompt.
        tables: of the scenario.
    """
    scalars = tables.scalars
    running, limit = int(scalars[at.MAX_RUNNING]), float(scalars[at.CONTEXT_LIMIT])
    only = int(scalars[at.ONLY_UNIT])
    units = np.array([only] if only >= 0 else [at.PU, at.FC_PIM, at.SPLIT])
    starts = prompt_steps(chunk)
    pages = scalars[at.TOTAL_PAGES] * 2.0 ** scalars[at.PAGE_LOG2]
    # As measured, attention need not grow with contexts beyond what was measured: the first step is all there is.
    steps = 1 if len(tables.grid) else CONTEXT_STEPS
    edges = np.linspace(0.0, min(pages, running * limit), steps + 1)
    most = np.minimum(edges[None, 1:], np.arange(running + 1)[:, None] * limit)
    seconds = _least(starts, edges[:-1], most, shortest, units, framed(tables))
    return Least(seconds, np.append(starts[1:] - 1, chunk), most)


@njit
def _least(prompts: Any, tokens: Any, most: Any, shortest: Any, units: Any, look: Any) -> Any:
    running = most.shape[0] - 1
    least = np.full((running + 1, _LENGTHS, len(prompts), len(tokens)), np.inf)
    busy = np.zeros(at.NUM_RESOURCES)
    overlaps = 2 if look.scalars[at.ATTENTION_UNIT] == 2.0 else 1
    columns = np.int64(look.scalars[at.GROUP_COLUMNS])
    undrifted = Slowdowns(1.0, 1.0, 1.0)
    nothing, one = np.int64(0), np.int64(1)
    no_mode = np.int64(-1)
    for k in range(_LENGTHS):
        tlp = SPECULATION_LENGTHS[k]
        # What each request attends to at least.
        context = np.int64(shortest + tlp)
        groups = groups_of(context)
        key_rows = key_rows_of(groups, columns)
        near, near_groups, near_key_rows = nothing, nothing, nothing
        if look.scalars[at.WINDOW] > 0.0:
            near = near_context(context, tlp, look.scalars)
            near_groups = groups_of(near)
            near_key_rows = key_rows_of(near_groups, columns)
        for rlp in range(running + 1):
            some = min(rlp, 1)
            for j in range(len(tokens)):
                if tokens[j] > most[rlp, j] or (rlp == 0 and j > 0):
                    continue
                # All contexts together have so many tokens at least, and the longest no fewer than the mean.
                whole = max(np.int64(tokens[j]) + rlp * tlp, rlp * context)
                group_sum = max(groups_of(whole), rlp * groups)
                key_row_sum = max(key_rows_of(group_sum, columns), rlp * key_rows)
                longest = (group_sum + rlp - 1) // max(rlp, 1)
                decoding = Decoding(
                    np.int64(rlp),
                    tlp,
                    whole if rlp > 0 else nothing,
                    group_sum if rlp > 0 else nothing,
                    longest if rlp > 0 else nothing,
                    key_row_sum if rlp > 0 else nothing,
                    key_rows_of(longest, columns) if rlp > 0 else nothing,
                    rlp * near,
                    rlp * near_groups,
                    some * near_groups,
                    rlp * near_key_rows,
                    some * near_key_rows,
                    nothing,
                    NOTHING,
                )
                for p in range(len(prompts)):
                    if rlp + prompts[p] == 0:
                        continue
                    for unit in units:
                        for overlap in range(overlaps):
                            cost = iteration(
                                decoding,
                                PromptChunk(prompts[p], nothing, nothing, nothing, one),
                                Placement(unit, overlap, no_mode),
                                undrifted,
                                look,
                                busy,
                            )
                            least[rlp, k, p, j] = min(least[rlp, k, p, j], cost.seconds)
    return least


class Prices(NamedTuple):
    """What things cost in an iteration, in seconds; `again_s` at least of a request that is computed again.

    Attributes:
        prompt: a prompt token; again_s: float64 [prices].
        token: a token of a context; part: taking part; float64 [prices, 4], at a speculation length.
    """

    prompt: FloatArray
    token: FloatArray
    part: FloatArray
    again_s: FloatArray


def decode_work(
    instance: ServingInstance, seed: int, episode: int, prices: Prices, tables: ServingTables
) -> FloatArray:
    """The cheapest way to decode each request, given which of its drafts pass: seconds [requests, prices]."""
    counters = np.zeros((1, at.NUM_COUNTERS), dtype=np.int64)
    counters[0, at.SEED], counters[0, at.EPISODE] = seed, episode
    shared = (tables.kinds[instance.kind, at.SHARED] * 2.0 ** tables.scalars[at.PAGE_LOG2]).astype(np.int64)
    prefill = bool(tables.scalars[at.PREFILL_ON])
    found: FloatArray = _work(counters, instance, shared, tables.acceptance, tuple(prices), prefill)
    return found


@njit
def _work(counters: Any, instance: Any, shared: Any, thresholds: Any, price_parts: Any, prefill: Any) -> Any:
    prices = Prices(*price_parts)
    count = len(prices.prompt)
    found = np.zeros((len(instance.prompt), count))
    # By output tokens left.
    work = np.zeros((instance.output.max() + 1 if len(instance.output) else 1, count))
    for i in range(len(instance.prompt)):
        key = turn_key(0, instance.session[i], instance.turn[i], counters)
        prompt = instance.prompt[i]
        # Tokens held = tokens seen by the draws: the prompt, and what was generated without the first token if that
        # came from the prompt.
        total = instance.output[i] - 1 if prefill else instance.output[i]
        for left in range(1, total + 1):
            held = prompt + total - left
            own = np.float64(max(held - shared[i], 0))
            accepted = accepted_prefix(key, held, SPECULATION_LENGTHS[-1] - 1, instance.kind[i], thresholds)
            for p in range(count):
                work[left, p] = np.inf
            for k in range(_LENGTHS):
                advance = min(1 + min(accepted, SPECULATION_LENGTHS[k] - 1), left)
                for p in range(count):
                    cost = prices.part[p, k] + prices.token[p, k] * own
                    work[left, p] = min(work[left, p], cost + work[left - advance, p])
            if prefill:
                # Preempted and computed again, but for what its class shares, which yields a token.
                for p in range(count):
                    cost = max(prices.prompt[p] * (own + 1.0), prices.again_s[p])
                    work[left, p] = min(work[left, p], cost + work[left - 1, p])
        for p in range(count):
            found[i, p] = work[total, p]
    return found
