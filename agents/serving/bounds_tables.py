"""Compiled parts of `agents.serving.bounds`: the least time of every kind of iteration, and shortest decode paths."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from papi_env.kernel import FloatArray
from papi_env.simulation.compiled import njit
from papi_env.simulation.draws import accepted_prefix, request_key
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.iteration import iteration
from papi_env.simulation.serving.requests import groups_of, key_rows_of, near_context
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


def least_seconds(max_running: int, chunk: int, shortest: int, tables: ServingTables) -> FloatArray:
    """The least seconds of an iteration, [max_running + 1, 4, chunk + 1]; infinite where nothing happens.

    Args:
        max_running: requests that may decode together.
        chunk: prompt tokens of an iteration at most; 0 without prefill.
        shortest: tokens of the shortest prompt.
        tables: of the scenario.
    """
    only = int(tables.scalars[at.ONLY_UNIT])
    units = np.array([only] if only >= 0 else [at.PU, at.FC_PIM, at.SPLIT])
    found: FloatArray = _least(max_running, chunk, shortest, units, framed(tables))
    return found


@njit
def _least(max_running: Any, chunk: Any, shortest: Any, units: Any, look: Any) -> Any:
    least = np.full((max_running + 1, _LENGTHS, chunk + 1), np.inf)
    busy = np.zeros(at.NUM_RESOURCES)
    overlaps = 2 if look.scalars[at.ATTENTION_UNIT] == 2.0 else 1
    columns = np.int64(look.scalars[at.GROUP_COLUMNS])
    undrifted = Slowdowns(1.0, 1.0, 1.0)
    nothing, one = np.int64(0), np.int64(1)
    no_mode = np.int64(-1)
    for k in range(_LENGTHS):
        tlp = SPECULATION_LENGTHS[k]
        # What each request attends to at least.
        context = shortest + tlp
        groups = groups_of(context)
        key_rows = key_rows_of(groups, columns)
        near, near_groups, near_key_rows = nothing, nothing, nothing
        if look.scalars[at.WINDOW] > 0.0:
            near = near_context(np.int64(context), tlp, look.scalars)
            near_groups = groups_of(near)
            near_key_rows = key_rows_of(near_groups, columns)
        for rlp in range(max_running + 1):
            longest = min(rlp, 1)
            decoding = Decoding(
                rlp,
                tlp,
                rlp * context,
                rlp * groups,
                longest * groups,
                rlp * key_rows,
                longest * key_rows,
                rlp * near,
                rlp * near_groups,
                longest * near_groups,
                rlp * near_key_rows,
                longest * near_key_rows,
                nothing,
                NOTHING,
            )
            for prompt in range(chunk + 1):
                if rlp + prompt == 0:
                    continue
                for unit in units:
                    for overlap in range(overlaps):
                        cost = iteration(
                            decoding,
                            PromptChunk(prompt, nothing, nothing, nothing, one),
                            Placement(unit, overlap, no_mode),
                            undrifted,
                            look,
                            busy,
                        )
                        least[rlp, k, prompt] = min(least[rlp, k, prompt], cost.seconds)
    return least


@njit
def _paths(
    seed: Any,
    episode: Any,
    requests: Any,
    facts: Any,
    thresholds: Any,
    prices: Any,
    again: Any,
    least_again: Any,
    prefill: Any,
) -> Any:
    kinds = len(prices)
    found = np.zeros((len(requests), kinds, 3))
    most = 0
    for i in range(len(requests)):
        most = max(most, facts[i, at.OUTPUT])
    # By output tokens left: seconds to the end, and without the last iteration.
    whole = np.zeros((most + 1, kinds))
    rest = np.zeros((most + 1, kinds))
    for i in range(len(requests)):
        key = request_key(seed, episode, requests[i])
        kind = facts[i, at.CLASS]
        prompt = facts[i, at.INPUT]
        output = facts[i, at.OUTPUT]
        # Tokens held = tokens seen by the draws: the prompt, and what was generated without the first token
        # if that came from the prompt.
        total = output - 1 if prefill else output
        for left in range(1, total + 1):
            held = prompt + total - left
            accepted = accepted_prefix(key, held, SPECULATION_LENGTHS[-1] - 1, kind, thresholds)
            for p in range(kinds):
                whole[left, p] = np.inf
                rest[left, p] = np.inf
            for k in range(_LENGTHS):
                advance = min(1 + min(accepted, SPECULATION_LENGTHS[k] - 1), left)
                for p in range(kinds):
                    whole[left, p] = min(whole[left, p], prices[p, k] + whole[left - advance, p])
                    after = 0.0 if advance == left else prices[p, k] + rest[left - advance, p]
                    rest[left, p] = min(rest[left, p], after)
            if prefill:
                # Preempted and computed again, which yields a token.
                for p in range(kinds):
                    cost = max(again[p] * (held + 1), least_again[p])
                    whole[left, p] = min(whole[left, p], cost + whole[left - 1, p])
                    after = 0.0 if left == 1 else cost + rest[left - 1, p]
                    rest[left, p] = min(rest[left, p], after)
        for p in range(kinds):
            found[i, p, 0] = whole[total, p]
            found[i, p, 1] = whole[total, p]
            found[i, p, 2] = rest[total, p]
        if not prefill:
            # After the first token, which comes with an iteration that may gain more.
            accepted = accepted_prefix(key, prompt, SPECULATION_LENGTHS[-1] - 1, kind, thresholds)
            for p in range(kinds):
                found[i, p, 1] = np.inf
            for k in range(_LENGTHS):
                advance = min(1 + min(accepted, SPECULATION_LENGTHS[k] - 1), total)
                for p in range(kinds):
                    found[i, p, 1] = min(found[i, p, 1], whole[total - advance, p])
    return found


def decode_paths(
    seed: int,
    episode: int,
    requests: npt.NDArray[np.int64],
    facts: npt.NDArray[np.int64],
    thresholds: npt.NDArray[np.uint64],
    prices: FloatArray,
    again: FloatArray,
    least_again: FloatArray,
    prefill: bool,
) -> FloatArray:
    """The cheapest ways to decode each request, given which of its drafts pass: [requests, prices, 3].

    The last axis: all decode iterations; those after the iteration of the first token; all but the last one.

    Args:
        seed, episode: of the instance.
        requests: int64 [n], their numbers in it; facts: int64 [n, NUM_FACTS], their records.
        thresholds: of acceptance, by class and draft.
        prices: [prices, 4], seconds of one iteration at each speculation length.
        again, least_again: [prices], seconds per token, and at least, of computing a request again.
        prefill: whether the prompt yields the first token.
    """
    found: FloatArray = _paths(
        seed, episode, requests, facts, thresholds, prices, again, least_again, prefill
    )
    return found
