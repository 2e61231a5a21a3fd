"""The dynamics of decoding a static batch, compiled: what an iteration costs, and what it changes.

Written once, for one environment of a batch; Decode-v0 and Kernels-v0 differ only in how an action
names the units. No fast-math and no shared writes: environment i of a batch follows, bit for bit,
the path of a single environment with its seed.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from papi_env.hardware.dram import COLUMNS_PER_ROW, GROUP_TOKENS
from papi_env.simulation import layout as at
from papi_env.simulation.draws import accepted_drafts, request_key, request_row

njit = nb.njit(cache=True, error_model="numpy")
# For helpers of the hot loop: a call passes each array as a dozen words, more work than the helper does.
inlined = nb.njit(cache=True, error_model="numpy", forceinline=True)


@inlined
def iteration_cost(
    rlp,
    tlp,
    context_sum,
    group_sum,
    group_max,
    chunk_sum,
    chunk_max,
    last_fc,
    qkv,
    attention,
    projection,
    feed_forward,
    fc_table,
    attention_table,
    rounds_table,
    link_table,
    moves_table,
    scalars,
):
    """Cost of one iteration with the given units.

    Returns:
        (seconds, dynamic joules, communication s, switching s, seconds of QKV, attention, projection and
        feed-forward, mode switches). The first is the sum of the next six times and the scenario's overhead.
    """
    n = rlp * tlp
    qkv_s = fc_table[0, qkv, n, at.COST_S]
    projection_s = fc_table[1, projection, n, at.COST_S]
    feed_forward_s = fc_table[2, feed_forward, n, at.COST_S]
    joules = (
        fc_table[0, qkv, n, at.COST_J]
        + fc_table[1, projection, n, at.COST_J]
        + fc_table[2, feed_forward, n, at.COST_J]
    )

    # The same formulas as `hardware.costs.busiest_channel` and `AttentionCoefficients.clocks`, tabulated.
    rounds = rounds_table[attention, rlp, at.ROUNDS]
    of_one = rounds_table[attention, 1, at.ROUNDS]
    busiest_groups = max(rounds * (group_sum / rlp), of_one * group_max)
    busiest_chunks = max(rounds * (chunk_sum / rlp), of_one * chunk_max)
    per_chunk = (
        attention_table[attention, tlp, at.PER_CHUNK_S]
        + attention_table[attention, tlp, at.UNPAIRED_S] * rounds_table[attention, rlp, at.UNPAIRED]
    )
    attention_s = max(
        attention_table[attention, tlp, at.PER_GROUP_S] * busiest_groups
        + per_chunk * busiest_chunks
        + attention_table[attention, tlp, at.PER_PAIR_S] * rounds
        + attention_table[attention, tlp, at.PER_START_S],
        attention_table[attention, tlp, at.PER_TOKEN_S] * context_sum,
    )
    joules += (
        attention_table[attention, tlp, at.PER_GROUP_J] * group_sum
        + attention_table[attention, tlp, at.PER_TOKEN_J] * context_sum
    )

    # KV caches read over the link stream behind the computation; what exceeds it is communication.
    communication_s = max(
        attention_table[attention, tlp, at.LINK_PER_TOKEN_S] * context_sum - attention_s, 0.0
    )
    communication_s += link_table[attention, n, at.COST_S] + moves_table[n, at.COMBINE_S]
    joules += link_table[attention, n, at.COST_J] + moves_table[n, at.COMBINE_J]

    # Crossings between PUs and FC-PIM: within each layer, from layer to layer, from the last iteration.
    layers = int(scalars[at.LAYERS])
    crossings = layers * (int(qkv != projection) + int(projection != feed_forward))
    crossings += (layers - 1) * int(feed_forward != qkv)
    crossings += int(last_fc >= 0 and last_fc != qkv)
    switching_s = 0.0
    if scalars[at.SWITCH_S] > 0.0:
        switching_s = crossings * scalars[at.SWITCH_S]
        communication_s += crossings * moves_table[n, at.CROSSING_S]
        joules += crossings * moves_table[n, at.CROSSING_J]

    seconds = communication_s + switching_s + qkv_s + attention_s + projection_s + feed_forward_s
    seconds += scalars[at.OVERHEAD_S]
    return (
        seconds,
        joules,
        communication_s,
        switching_s,
        qkv_s,
        attention_s,
        projection_s,
        feed_forward_s,
        crossings,
    )


@inlined
def scheduled_tlp(iteration, schedule):
    """The TLP register at an iteration."""
    tlp = schedule[0, 1]
    for k in range(1, schedule.shape[0]):
        if iteration >= schedule[k, 0]:
            tlp = schedule[k, 1]
    return tlp


@inlined
def chunks_of(groups, group_columns):
    """DRAM rows that the keys of so many 16-token groups touch."""
    return (groups * group_columns + COLUMNS_PER_ROW - 1) // COLUMNS_PER_ROW


@njit
def survey(e, counters, contexts, scalars):
    """Sum up the contexts that the next iteration attends to: those there are, plus the tokens verified."""
    rlp = counters[e, at.RLP]
    tlp = counters[e, at.TLP]
    context_sum = 0
    group_sum = 0
    group_max = 0
    chunk_sum = 0
    group_columns = np.int64(scalars[at.GROUP_COLUMNS])
    for i in range(rlp):
        context = contexts[e, i] + tlp
        groups = (context + GROUP_TOKENS - 1) // GROUP_TOKENS
        context_sum += context
        group_sum += groups
        group_max = max(group_max, groups)
        chunk_sum += chunks_of(groups, group_columns)
    counters[e, at.CONTEXT_SUM] = context_sum
    counters[e, at.GROUP_SUM] = group_sum
    counters[e, at.GROUP_MAX] = group_max
    counters[e, at.CHUNK_SUM] = chunk_sum
    counters[e, at.CHUNK_MAX] = chunks_of(group_max, group_columns)


@njit
def reset_env(e, counters, clocks, contexts, remaining, keys, population, schedule, scalars):
    """Draw the instance of (seed, episode) for environment e and prefill it."""
    seed = counters[e, at.SEED]
    episode = counters[e, at.EPISODE]
    counters[e, 2:] = 0
    clocks[e, :] = 0.0
    batch = int(scalars[at.BATCH])
    image_tokens = int(scalars[at.IMAGE_TOKENS])
    prefill_tokens = 0
    prefill_pairs = 0
    for i in range(batch):
        key = request_key(seed, episode, i)
        row = request_row(key, population.shape[0])
        length = population[row, 0] + image_tokens
        keys[e, i] = key
        contexts[e, i] = length
        remaining[e, i] = population[row, 1]
        prefill_tokens += length
        prefill_pairs += np.int64(length) * (np.int64(length) + 1) // 2
    counters[e, at.PREFILL_TOKENS] = prefill_tokens
    counters[e, at.PREFILL_PAIRS] = prefill_pairs
    counters[e, at.RLP] = batch
    counters[e, at.TLP] = scheduled_tlp(0, schedule)
    counters[e, at.LAST_FC] = -1
    counters[e, at.STAGE] = -1
    counters[e, at.LAST_STAGE] = -1
    for k in range(at.NUM_TIMED):
        counters[e, at.LAST_UNIT + k] = -1
    survey(e, counters, contexts, scalars)


@inlined
def decode_tokens(e, counters, contexts, remaining, keys, schedule, scalars):
    """Advance every active request by one iteration; finished ones leave, their places are filled."""
    tlp = counters[e, at.TLP]
    rlp = counters[e, at.RLP]
    threshold = np.uint64(scalars[at.ACCEPTANCE])
    always = scalars[at.ACCEPTANCE] >= 2.0**53
    counters[e, at.ITERATION] += 1
    next_tlp = scheduled_tlp(counters[e, at.ITERATION], schedule)
    decoded = 0
    context_sum = 0
    group_sum = 0
    group_max = 0
    chunk_sum = 0
    group_columns = np.int64(scalars[at.GROUP_COLUMNS])
    i = 0
    active = rlp
    while i < active:
        advance = tlp
        if tlp > 1 and not always:
            advance = 1 + accepted_drafts(keys[e, i], contexts[e, i], tlp - 1, threshold)
        advance = min(advance, remaining[e, i])
        decoded += advance
        left = remaining[e, i] - advance
        if left == 0:
            # The last active request takes this place and is advanced in its turn.
            active -= 1
            contexts[e, i] = contexts[e, active]
            remaining[e, i] = remaining[e, active]
            keys[e, i] = keys[e, active]
            continue
        remaining[e, i] = left
        contexts[e, i] += advance
        context = contexts[e, i] + next_tlp
        groups = (context + GROUP_TOKENS - 1) // GROUP_TOKENS
        context_sum += context
        group_sum += groups
        group_max = max(group_max, groups)
        chunk_sum += chunks_of(groups, group_columns)
        i += 1
    counters[e, at.LAST_N] = rlp * tlp
    counters[e, at.LAST_FINISHED] = rlp - active
    counters[e, at.LAST_DECODED] = decoded
    counters[e, at.DECODED] += decoded
    counters[e, at.RLP] = active
    counters[e, at.TLP] = next_tlp
    counters[e, at.CONTEXT_SUM] = context_sum
    counters[e, at.GROUP_SUM] = group_sum
    counters[e, at.GROUP_MAX] = group_max
    counters[e, at.CHUNK_SUM] = chunk_sum
    counters[e, at.CHUNK_MAX] = chunks_of(group_max, group_columns)


@inlined
def advance_env(
    e,
    qkv,
    attention,
    projection,
    feed_forward,
    counters,
    clocks,
    contexts,
    remaining,
    keys,
    fc_table,
    attention_table,
    rounds_table,
    link_table,
    moves_table,
    schedule,
    scalars,
):
    """One iteration of environment e on the given units. Returns the reward."""
    cost = iteration_cost(
        counters[e, at.RLP],
        counters[e, at.TLP],
        counters[e, at.CONTEXT_SUM],
        counters[e, at.GROUP_SUM],
        counters[e, at.GROUP_MAX],
        counters[e, at.CHUNK_SUM],
        counters[e, at.CHUNK_MAX],
        counters[e, at.LAST_FC],
        qkv,
        attention,
        projection,
        feed_forward,
        fc_table,
        attention_table,
        rounds_table,
        link_table,
        moves_table,
        scalars,
    )
    (
        seconds,
        joules,
        communication_s,
        switching_s,
        qkv_s,
        attention_s,
        projection_s,
        feed_forward_s,
        crossings,
    ) = cost
    clocks[e, at.TIME_S] += seconds
    clocks[e, at.DYNAMIC_J] += joules
    clocks[e, at.COMMUNICATION_S] += communication_s
    clocks[e, at.SWITCHING_S] += switching_s
    clocks[e, at.BUSY_S + qkv] += qkv_s
    clocks[e, at.BUSY_S + attention] += attention_s
    clocks[e, at.BUSY_S + projection] += projection_s
    clocks[e, at.BUSY_S + feed_forward] += feed_forward_s
    clocks[e, at.CLASS_S + at.QKV] += qkv_s
    clocks[e, at.CLASS_S + at.ATTENTION] += attention_s
    clocks[e, at.CLASS_S + at.PROJECTION] += projection_s
    clocks[e, at.CLASS_S + at.FEED_FORWARD] += feed_forward_s
    clocks[e, at.LAST_TIME_S] = seconds
    clocks[e, at.LAST_DYNAMIC_J] = joules
    clocks[e, at.LAST_COMMUNICATION_S] = communication_s
    clocks[e, at.LAST_SWITCHING_S] = switching_s
    clocks[e, at.LAST_CLASS_S + at.QKV] = qkv_s
    clocks[e, at.LAST_CLASS_S + at.ATTENTION] = attention_s
    clocks[e, at.LAST_CLASS_S + at.PROJECTION] = projection_s
    clocks[e, at.LAST_CLASS_S + at.FEED_FORWARD] = feed_forward_s
    counters[e, at.SWITCHES] += crossings
    counters[e, at.LAST_FC] = feed_forward
    counters[e, at.LAST_UNIT + at.QKV] = qkv
    counters[e, at.LAST_UNIT + at.ATTENTION] = attention
    counters[e, at.LAST_UNIT + at.PROJECTION] = projection
    counters[e, at.LAST_UNIT + at.FEED_FORWARD] = feed_forward
    if qkv == projection and projection == feed_forward:
        clocks[e, at.SEEN_FC_S + qkv] = qkv_s + projection_s + feed_forward_s
        counters[e, at.SEEN_N + qkv] = counters[e, at.RLP] * counters[e, at.TLP]
    total_j = joules + seconds * scalars[at.STATIC_W]
    reference = scalars[at.REFERENCE]
    clocks[e, at.LAST_REWARD_TIME] = -seconds / reference
    clocks[e, at.LAST_REWARD_ENERGY] = -scalars[at.ENERGY_WEIGHT] * total_j / reference
    reward = clocks[e, at.LAST_REWARD_TIME] + clocks[e, at.LAST_REWARD_ENERGY]
    clocks[e, at.RETURN] += reward
    decode_tokens(e, counters, contexts, remaining, keys, schedule, scalars)
    return reward


@inlined
def observe_env(e, counters, clocks, scalars, observations):
    """Write the observation of environment e, named in `layout.OBSERVATION_NAMES`; descriptors are there for good."""
    rlp = counters[e, at.RLP]
    n = rlp * counters[e, at.TLP]
    observations[e, 0] = rlp / 128.0
    observations[e, 1] = counters[e, at.TLP] / 8.0
    observations[e, 2] = n / 1024.0
    # An infinite α (no PUs) gives 0; n = 0 occurs only after the last iteration.
    observations[e, 3] = n / (n + scalars[at.ALPHA]) if n > 0 else 0.0
    observations[e, 4] = scalars[at.BATCH] / 128.0
    observations[e, 5] = 1.0 - rlp / max(scalars[at.BATCH], 1.0)
    mean_context = 4.0 * counters[e, at.CONTEXT_SUM] / max(rlp, 1) / scalars[at.CONTEXT_LIMIT]
    observations[e, 6] = mean_context / (1.0 + mean_context)
    longest = 4.0 * GROUP_TOKENS * counters[e, at.GROUP_MAX] / scalars[at.CONTEXT_LIMIT]
    observations[e, 7] = longest / (1.0 + longest)
    observations[e, 8] = counters[e, at.ITERATION] / (counters[e, at.ITERATION] + 256.0)
    observations[e, 9] = counters[e, at.LAST_FINISHED] / max(scalars[at.BATCH], 1.0)
    observations[e, 10] = counters[e, at.LAST_DECODED] / max(counters[e, at.LAST_N], 1)
    observations[e, 11] = clocks[e, at.LAST_TIME_S] / (clocks[e, at.LAST_TIME_S] + scalars[at.REFERENCE])
    observations[e, 12] = clocks[e, at.LAST_COMMUNICATION_S] / (
        clocks[e, at.LAST_COMMUNICATION_S] + scalars[at.REFERENCE]
    )
    for k in range(at.NUM_CLASSES):
        x = clocks[e, at.LAST_CLASS_S + k]
        observations[e, at.LAST_CLASS_FEATURE + k] = x / (x + scalars[at.REFERENCE])
        for u in range(at.NUM_UNITS):
            observations[e, at.LAST_UNIT_FEATURE + at.NUM_UNITS * k + u] = (
                1.0 if counters[e, at.LAST_UNIT + k] == u else 0.0
            )
    for u in range(2):
        x = clocks[e, at.SEEN_FC_S + u]
        observations[e, at.SEEN_FEATURE + u] = x / (x + scalars[at.REFERENCE])
        observations[e, at.SEEN_FEATURE + 2 + u] = counters[e, at.SEEN_N + u] / 1024.0
