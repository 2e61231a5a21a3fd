"""The requests of a static batch, compiled: how they begin, and what tokens an iteration gives them.

Written once, for one environment of a batch, as `iteration` is.
"""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import COLUMNS_PER_ROW, GROUP_TOKENS
from papi_env.simulation.batch import state as at
from papi_env.simulation.compiled import inlined, inner, lean
from papi_env.simulation.draws import accepted_ahead, draw_ahead, request_key, request_row
from papi_env.simulation.vectors import byte, finder

# What a slot holds, in the width that a vector register takes 16 of; numba would widen it to int64.
_GROUP_TOKENS, _COLUMNS_PER_ROW = np.int32(GROUP_TOKENS), np.int32(COLUMNS_PER_ROW)
# Requests of an environment and their DRAM rows share a sum: the requests, 128 at most, take its lower 8 bits.
_PACKED_BITS = 8
_PACKED = np.int32(2**_PACKED_BITS)
find_left = finder(at.SLOTS)


@inlined
def scheduled_tlp(iteration, schedule):
    """The TLP register at an iteration."""
    tlp = schedule[0, 1]
    for k in range(1, schedule.shape[0]):
        if iteration >= schedule[k, 0]:
            tlp = schedule[k, 1]
    return tlp


@inlined
def key_rows_of(groups, group_columns):
    """DRAM rows that the keys of so many 16-token groups touch."""
    return (groups * group_columns + COLUMNS_PER_ROW - 1) // COLUMNS_PER_ROW


@lean
def survey(e, counters, contexts, scalars):
    """Sum up the contexts that the next iteration attends to: those there are, plus the tokens verified.

    Args:
        e: the environment; counters and contexts (int32 [num_envs, requests or more]) are of all.
    """
    tlp = counters[e, at.TLP]
    context_sum = 0
    group_sum = 0
    group_max = 0
    key_row_sum = 0
    group_columns = np.int64(scalars[at.GROUP_COLUMNS])
    for i in range(counters[e, at.RLP]):
        context = contexts[e, i] + tlp
        groups = (context + GROUP_TOKENS - 1) // GROUP_TOKENS
        context_sum += context
        group_sum += groups
        group_max = max(group_max, groups)
        key_row_sum += key_rows_of(groups, group_columns)
    counters[e, at.CONTEXT_SUM] = context_sum
    counters[e, at.GROUP_SUM] = group_sum
    counters[e, at.GROUP_MAX] = group_max
    counters[e, at.KEY_ROW_SUM] = key_row_sum
    counters[e, at.KEY_ROW_MAX] = key_rows_of(group_max, group_columns)
    survey_windows(counters[e], contexts[e], scalars)


@inner
def survey_windows(counters, contexts, scalars):
    """Sum up what is inside the windows of an environment's requests in the next iteration, if layers have any.

    Tokens verified together share a read of all that one of them sees.
    """
    if counters.shape[0] < at.NUM_WINDOW_COUNTERS:
        return
    tlp = counters[at.TLP]
    most = np.int64(scalars[at.WINDOW]) + tlp - 1
    group_columns = np.int64(scalars[at.GROUP_COLUMNS])
    context_sum = 0
    group_sum = 0
    group_max = 0
    key_row_sum = 0
    for i in range(counters[at.RLP]):
        context = min(contexts[i] + tlp, most)
        groups = (context + GROUP_TOKENS - 1) // GROUP_TOKENS
        context_sum += context
        group_sum += groups
        group_max = max(group_max, groups)
        key_row_sum += key_rows_of(groups, group_columns)
    counters[at.NEAR_CONTEXT_SUM] = context_sum
    counters[at.NEAR_GROUP_SUM] = group_sum
    counters[at.NEAR_GROUP_MAX] = group_max
    counters[at.NEAR_KEY_ROW_SUM] = key_row_sum
    counters[at.NEAR_KEY_ROW_MAX] = key_rows_of(group_max, group_columns)


@inner
def reset_env(e, state, instances):
    """Draw the instance of (seed, episode) for environment e and prefill it; `state` is of all environments."""
    counters, clocks, slots, keys, drafts, foreseen = state
    population, schedule, scalars = instances
    seed = counters[e, at.SEED]
    episode = counters[e, at.EPISODE]
    counters[e, at.EPISODE + 1 :] = 0
    clocks[e, :] = 0.0
    slots[e, :] = 0
    drafts[e, :] = at.NOTHING_DRAWN
    foreseen[e, :] = 0
    width = keys.shape[1]
    batch = int(scalars[at.BATCH])
    image_tokens = int(scalars[at.IMAGE_TOKENS])
    prefill_tokens = 0
    prefill_pairs = 0
    window = np.int64(scalars[at.WINDOW])
    outside_pairs = 0
    for i in range(batch):
        key = request_key(seed, episode, i)
        row = request_row(key, population.shape[0])
        length = population[row, 0] + image_tokens
        keys[e, i] = key
        slots[e, i] = length
        slots[e, width + i] = population[row, 1]
        prefill_tokens += length
        prefill_pairs += np.int64(length) * (np.int64(length) + 1) // 2
        outside = max(np.int64(length) - window, 0)
        outside_pairs += outside * (outside + 1) // 2
    counters[e, at.PREFILL_TOKENS] = prefill_tokens
    # The mean over layers: queries do not meet keys that have left their window.
    counters[e, at.PREFILL_PAIRS] = prefill_pairs - np.int64(scalars[at.WINDOW_SHARE] * outside_pairs)
    counters[e, at.RLP] = batch
    counters[e, at.TLP] = scheduled_tlp(0, schedule)
    counters[e, at.LAST_FC] = -1
    counters[e, at.STAGE] = -1
    counters[e, at.LAST_STAGE] = -1
    for k in range(at.NUM_CLASSES):
        counters[e, at.LAST_UNIT + k] = -1
    if counters.shape[1] > at.NUM_COUNTERS:
        counters[e, at.LAST_EXPERTS] = -1
        for k in range(at.NUM_TIMED - at.NUM_CLASSES):
            counters[e, at.LAST_STAGE_UNIT + k] = -1
    survey(e, counters, slots, scalars)


@inlined
def advance_slot(gain, slot, lacking, slots, ahead, group_columns, held, packed, group_sum, group_max):
    """Give the request in a slot its tokens, and add up what the next iteration attends to.

    Args:
        slot, lacking: where in `slots` stands what the request holds, and what it lacks.
        ahead: tokens verified in the next iteration.
        held, packed, group_sum, group_max: int32, so far: tokens of all requests, finished ones too; of those that
            go on, DRAM rows and number (see `_PACKED`), 16-token groups, and the most of those.
    """
    left = np.int32(slots[lacking] - gain)
    context = np.int32(slots[slot] + gain)
    slots[lacking] = left
    slots[slot] = context
    held = np.int32(held + context)
    goes_on = left > 0
    context = np.int32(context + ahead) if goes_on else np.int32(0)
    groups = np.int32(np.int32(context + np.int32(_GROUP_TOKENS - 1)) // _GROUP_TOKENS)
    columns = np.int32(np.int32(groups * group_columns) + np.int32(_COLUMNS_PER_ROW - 1))
    key_rows = np.int32(columns // _COLUMNS_PER_ROW)
    packed = np.int32(packed + np.int32(np.int32(key_rows * _PACKED) + np.int32(goes_on)))
    return held, packed, np.int32(group_sum + groups), max(group_max, groups)


@inlined
def decode_tokens(e, state, schedule, scalars):
    """Advance every active request of environment e by one iteration; finished ones leave, the others close up."""
    all_counters, _, slots, keys, drafts, all_foreseen = state
    counters, foreseen = all_counters[e], all_foreseen[e]
    rlp, tlp = counters[at.RLP], counters[at.TLP]
    iteration = counters[at.ITERATION] + 1
    next_tlp = scheduled_tlp(iteration, schedule)
    counters[at.TLP] = next_tlp
    counters[at.ITERATION] = iteration
    if foreseen.shape[0] > 0 and foreseen[at.PENDING] + tlp <= foreseen[at.FORESEEN]:
        decode_foreseen(rlp, tlp, next_tlp, counters, foreseen, scalars)
    else:
        decode_slots(rlp, tlp, next_tlp, counters, slots[e], keys[e], drafts[e], foreseen, scalars)


@inlined
def decode_foreseen(rlp, tlp, next_tlp, counters, foreseen, scalars):
    """Count the tokens of an iteration in which nobody ends, and leave them to the slots for later."""
    pending = np.int64(foreseen[at.PENDING]) + tlp
    groups = byte(foreseen, 4 * at.GROUPS_BEGUN + (pending & (GROUP_TOKENS - 1)))
    key_rows = byte(foreseen, 4 * at.ROWS_BEGUN + pending)
    for offset in range(pending + 1, pending + next_tlp):
        groups += byte(foreseen, 4 * at.GROUPS_BEGUN + (offset & (GROUP_TOKENS - 1)))
        key_rows += byte(foreseen, 4 * at.ROWS_BEGUN + offset)
    foreseen[at.PENDING] = pending
    group_max = (foreseen[at.LONGEST] + pending + next_tlp + GROUP_TOKENS - 1) // GROUP_TOKENS
    counters[at.DECODED] += rlp * tlp
    counters[at.CONTEXT_SUM] += rlp * next_tlp
    counters[at.GROUP_SUM] += groups
    counters[at.GROUP_MAX] = group_max
    counters[at.KEY_ROW_SUM] += key_rows
    counters[at.KEY_ROW_MAX] = key_rows_of(group_max, np.int64(scalars[at.GROUP_COLUMNS]))
    counters[at.LAST_FINISHED] = 0
    counters[at.LAST_DECODED] = rlp * tlp


@inlined
def count_begin(foreseen, first, offset):
    """Count what begins with the token at an offset; its byte is in a number behind `first`."""
    word = np.uint64(first + (offset >> 2))
    foreseen[word] = np.int32(foreseen[word] + (np.int32(1) << np.int32((offset & 3) * 8)))


@inlined
def foresee(requests, slots, width, foreseen, group_columns):
    """Work out which groups and DRAM rows begin with each of the coming tokens of so many requests.

    Where no draft is drawn, how many requests decode and what they hold depends on no action: until one of them ends,
    an iteration adds to sums alone (`decode_foreseen`), and nothing of a slot is read.

    Args:
        requests: those that decode, in the first slots; width: where in `slots` stands what they lack.
        foreseen: of the environment, written; see `state`.
    """
    for k in range(at.GROUPS_BEGUN, at.NUM_FORESEEN):
        foreseen[k] = 0
    # An iteration looks ahead by the tokens of the next one.
    limit = np.int64(at.ROWS_AHEAD - at.MAX_SPECULATION)
    longest = np.int64(0)
    for i in range(requests):
        slot = np.uint64(i)
        context = np.int64(slots[slot])
        limit = min(limit, np.int64(slots[width + slot]) - 1)
        longest = max(longest, context)
        count_begin(foreseen, at.GROUPS_BEGUN, -context & (GROUP_TOKENS - 1))
        full = key_rows_of((context + GROUP_TOKENS - 1) // GROUP_TOKENS, group_columns)
        # So many groups fit into the rows that there are.
        begins = full * COLUMNS_PER_ROW // group_columns * GROUP_TOKENS - context
        while begins < at.ROWS_AHEAD:
            count_begin(foreseen, at.ROWS_BEGUN, begins)
            full += 1
            begins = full * COLUMNS_PER_ROW // group_columns * GROUP_TOKENS - context
    foreseen[at.PENDING] = 0
    foreseen[at.FORESEEN] = limit
    foreseen[at.LONGEST] = longest


@lean
def settle(slots, foreseen):
    """Give all slots the tokens that they lack; the next iteration looks at them again, for they may be written."""
    width = slots.shape[1] // 2
    for e in range(slots.shape[0]):
        pending = foreseen[e, at.PENDING]
        if pending > 0:
            for slot in range(width):
                # Whoever lacks none has ended.
                if slots[e, width + slot] > 0:
                    slots[e, slot] += pending
                    slots[e, width + slot] -= pending
        foreseen[e, at.PENDING] = 0
        foreseen[e, at.FORESEEN] = 0


@inlined
def decode_slots(rlp, tlp, next_tlp, counters, slots, keys, drafts, foreseen, scalars):
    """Advance the requests in an environment's slots by one iteration, and by what they are behind."""
    ahead = np.int32(next_tlp)
    drawn = drafts.shape[0] > 0 and tlp > 1
    foresees = foreseen.shape[0] > 0
    verified = np.int32(tlp + foreseen[at.PENDING]) if foresees else np.int32(tlp)
    # Ones in the places of the drafts; by how many tokens a context may be behind what is drawn of it.
    drafted, within = np.uint32((1 << (tlp - 1)) - 1), np.uint32(at.DRAWN - (tlp - 1))
    group_columns = np.int32(scalars[at.GROUP_COLUMNS])
    width = np.uint64(keys.shape[0])
    held = np.int32(0)
    packed = np.int32(0)
    group_sum = np.int32(0)
    group_max = np.int32(0)
    for begin in range(0, rlp, at.SLOTS):
        first = np.uint64(begin)
        if drawn:
            keep_drawn(rlp - begin, first, slots, keys, drafts, within, scalars)
            for k in range(at.SLOTS):
                slot = first + np.uint64(k)
                lacking = width + slot
                # Below 32 where a request decodes, which tells LLVM that 32 bits suffice.
                behind = np.uint32(np.uint32(slots[slot]) - drafts[slot]) & np.uint32(at.DRAWN - 1)
                coming = np.uint32(drafts[lacking] >> np.uint32(behind))
                gain = min(np.int32(1 + accepted_ahead(coming, drafted)), slots[lacking])
                held, packed, group_sum, group_max = advance_slot(
                    gain, slot, lacking, slots, ahead, group_columns, held, packed, group_sum, group_max
                )
        else:
            for k in range(at.SLOTS):
                slot = first + np.uint64(k)
                lacking = width + slot
                gain = min(verified, slots[lacking])
                held, packed, group_sum, group_max = advance_slot(
                    gain, slot, lacking, slots, ahead, group_columns, held, packed, group_sum, group_max
                )
    active, key_row_sum = (
        np.int64(packed & (_PACKED - 1)),
        np.int64(packed >> _PACKED_BITS),
    )
    decoded = held - (counters[at.CONTEXT_SUM] - rlp * tlp)
    context_sum = held + active * next_tlp
    if active < rlp:
        context_sum = close_up(rlp, slots, keys, drafts) + active * next_tlp
    if foresees:
        foresee(active, slots, width, foreseen, np.int64(group_columns))
    counters[at.RLP] = active
    counters[at.DECODED] += decoded
    counters[at.CONTEXT_SUM] = context_sum
    counters[at.GROUP_SUM] = group_sum
    counters[at.GROUP_MAX] = group_max
    counters[at.KEY_ROW_SUM] = key_row_sum
    counters[at.KEY_ROW_MAX] = key_rows_of(np.int64(group_max), np.int64(group_columns))
    survey_windows(counters, slots, scalars)
    counters[at.LAST_FINISHED] = rlp - active
    counters[at.LAST_DECODED] = decoded


@inlined
def keep_drawn(requests, first, slots, keys, drafts, within, scalars):
    """Draw for those of 16 slots whose contexts have left, or soon leave, the drafts that are drawn.

    Args:
        requests: of these slots, so many decode.
        first: the first of them, uint64.
        slots, keys, drafts: of the environment; for the last, which are written, see `DecodeEngine._no_drafts`.
        within: tokens that a context may be ahead of where its drafts begin.
    """
    left = find_left(slots, first, drafts, first, within) & ((1 << min(requests, at.SLOTS)) - 1)
    if left > 0:
        threshold = np.uint64(scalars[at.ACCEPTANCE])
        for k in range(min(requests, at.SLOTS)):
            if left & (1 << k):
                slot = first + np.uint64(k)
                drafts[slot] = np.uint32(slots[slot])
                drafts[np.uint64(keys.shape[0]) + slot] = draw_ahead(keys[slot], slots[slot], threshold)


@inner
def close_up(rlp, slots, keys, drafts):
    """Move the requests that go on to the first slots, and empty the others. Returns the tokens that they hold."""
    width = np.uint64(keys.shape[0])
    to = np.uint64(0)
    held = 0
    for i in range(rlp):
        slot = np.uint64(i)
        context, left = slots[slot], slots[width + slot]
        slots[slot] = 0
        slots[width + slot] = 0
        if left > 0:
            slots[to] = context
            slots[width + to] = left
            # Where nothing is drawn, nobody reads the keys.
            if drafts.shape[0] > 0:
                keys[to] = keys[slot]
                drafts[to] = drafts[slot]
                drafts[width + to] = drafts[width + slot]
            held += context
            to += np.uint64(1)
    return held
