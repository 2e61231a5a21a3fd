"""Conversations in a trace, found by the hashes of its prompts' blocks.

The prompt of a turn begins with the whole prompt of the turn before, so its first blocks have the same hashes. The
last block of a prompt is seldom full: what the next turn adds changes its hash. So a row goes on from an earlier one
if its hashes begin with those of all *full* blocks of that row, of which there is at least one, and its prompt is
longer. Of several it goes on from the one with the longest prompt in common, of those from the latest. What goes on
from a row that another went on from before (a branch, such as an answer asked for again) is a session of its own.

Prompts that have nothing but a template in common, and of which one is hardly longer than that, look like turns too:
hashes cannot tell the two apart.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError, DataError
from papi_env.workload.lengths import MAX_TOKENS, whole_number
from papi_env.workload.traces.trace import Trace

# Mooncake (Qin et al., FAST 2025), README of its traces: a hash is of a block of 512 tokens and of all before it.
BLOCK_TOKENS = 512
# Turns of a conversation at most. chosen: more than conversations in public logs have but for one in a thousand; range
# 8-256.
MOST_TURNS = 64


class Sessions(NamedTuple):
    """To which conversation every row of a trace belongs; all arrays are read-only, in the order of the rows.

    Attributes:
        session: int64 [N], numbered from 0 by their first rows.
        turn: int32 [N], from 0.
        shared: int32 [N], tokens at the start of the prompt that are those of the turn before, as far as hashes show
            it: whole blocks, or the whole prompt before where its last hash is the same too. 0 for first turns. The
            answer in between has no hash; whether it is in the prompt, lengths alone can tell.
        previous: int64 [N], the row of the turn before, -1 for first turns.
    """

    session: npt.NDArray[np.int64]
    turn: npt.NDArray[np.int32]
    shared: npt.NDArray[np.int32]
    previous: npt.NDArray[np.int64]

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return int(self.session.max()) + 1


def sessions_of(trace: Trace, block_tokens: int = BLOCK_TOKENS) -> Sessions:
    """The conversations of a trace.

    Args:
        trace: with `hash_ids`, as Mooncake's traces have them.
        block_tokens: tokens that a hash stands for.

    Raises:
        ConfigurationError: the trace has no hashes, or blocks cannot have that size.
        DataError: a row has other than a hash for each block of its prompt; the last may be absent where it is not
            full.
    """
    size = whole_number("block_tokens", block_tokens, 1, MAX_TOKENS)
    if trace.hash_ids is None:
        raise ConfigurationError(
            f"{trace.path}: has no hashes of prompts (read as {trace.format!r}), expected a column hash_ids as in "
            "Mooncake's traces"
        )
    count = len(trace)
    full = trace.input_lengths // size
    for row, ids in enumerate(trace.hash_ids):
        tokens, least = int(trace.input_lengths[row]), int(full[row])
        most = -(-tokens // size)
        if not least <= len(ids) <= most:
            expected = f"{most}" if least == most else f"{least} or {most}"
            raise DataError(
                f"{trace.path}: request {row}: field 'hash_ids': found {len(ids)} hashes for a prompt of {tokens} "
                f"tokens, expected {expected}, one for each block of {size}"
            )
    session = np.zeros(count, dtype=np.int64)
    turn = np.zeros(count, dtype=np.int32)
    shared = np.zeros(count, dtype=np.int32)
    previous = np.full(count, -1, dtype=np.int64)
    # Prompts as paths in a tree of blocks: where a hash leads from a node, and the last turns that end at a node.
    leads: dict[tuple[int, int], int] = {}
    open_rows: dict[int, list[int]] = {}
    sessions = 0
    for row, ids in enumerate(trace.hash_ids):
        node, found_at = 0, -1
        for hashed in ids.tolist():
            node = leads.get((node, hashed), -1)
            if node < 0:
                break
            if any(trace.input_lengths[r] < trace.input_lengths[row] for r in open_rows.get(node, ())):
                found_at = node
        if found_at >= 0:
            rows = open_rows[found_at]
            before = max(r for r in rows if trace.input_lengths[r] < trace.input_lengths[row])
            rows.remove(before)
            session[row], turn[row], previous[row] = session[before], turn[before] + 1, before
            same = _in_common(trace.hash_ids[before], ids)
            shared[row] = min(same * size, int(trace.input_lengths[before]))
        else:
            session[row] = sessions
            sessions += 1
        if full[row]:
            node = 0
            for hashed in ids[: full[row]].tolist():
                node = leads.setdefault((node, hashed), len(leads) + 1)
            open_rows.setdefault(node, []).append(row)
    for array in (session, turn, shared, previous):
        array.setflags(write=False)
    return Sessions(session, turn, shared, previous)


class Turns(NamedTuple):
    """The conversations of a part of a trace, as they are played; all arrays are read-only.

    Attributes:
        sessions: how many there are.
        rows: int64 [N], rows of the trace: those of first turns in their order, then all others.
        following: int32 [N], the index in `rows` of the turn that goes on from each, -1 where none does.
        found: int32 [N], tokens of its prompt that are in the context of the turn before it and its answer; 0 for first
            turns.
        gap_s: float64 [N], seconds since the turn before it came.
    """

    sessions: int
    rows: npt.NDArray[np.int64]
    following: npt.NDArray[np.int32]
    found: npt.NDArray[np.int32]
    gap_s: npt.NDArray[np.float64]


@lru_cache(maxsize=8)
def turns_of_part(trace: Trace, first: int, end: int, block_tokens: int = BLOCK_TOKENS) -> Turns:
    """The conversations among rows `first` to `end` of a trace that has times.

    What goes on from a row before the part begins a conversation there, and so does every `MOST_TURNS`th turn. An
    answer has no hash: it is taken to be in the next prompt where that is as long as both.

    Raises as `sessions_of`.
    """
    found = sessions_of(trace, block_tokens)
    assert trace.timestamps_s is not None
    here = np.arange(first, end)
    previous = found.previous[first:end].copy()
    begins = previous < first
    turn = np.zeros(len(here), dtype=np.int64)
    for k in np.flatnonzero(~begins).tolist():
        before = turn[previous[k] - first] + 1
        begins[k] = before == MOST_TURNS
        turn[k] = 0 if begins[k] else before
    rows = np.concatenate([here[begins], here[~begins]])
    place = np.empty(len(here), dtype=np.int64)
    place[rows - first] = np.arange(len(rows))
    following = np.full(len(rows), -1, dtype=np.int32)
    tokens, gap_s = np.zeros(len(rows), dtype=np.int32), np.zeros(len(rows))
    later = here[~begins]
    before = found.previous[later]
    at = place[later - first]
    following[place[before - first]] = at
    context = trace.input_lengths[before] + trace.output_lengths[before]
    whole = trace.input_lengths[later] >= context
    tokens[at] = np.where(whole, context, found.shared[later])
    gap_s[at] = trace.timestamps_s[later] - trace.timestamps_s[before]
    for array in (rows, following, tokens, gap_s):
        array.setflags(write=False)
    return Turns(int(begins.sum()), rows, following, tokens, gap_s)


def _in_common(before: npt.NDArray[np.int64], after: npt.NDArray[np.int64]) -> int:
    """With how many equal hashes the two begin."""
    most = min(len(before), len(after))
    differ = np.flatnonzero(before[:most] != after[:most])
    return int(differ[0]) if len(differ) else most
