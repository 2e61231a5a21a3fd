"""What an iteration of continuous batching costs, compiled: units, link and banks shared by decode and prefill.

The look-ups are those of the static batch; this module adds what runs beside what. With nothing beside the
decode batch, the seconds are those of `decode.iteration_cost`.

How an iteration is put together (times of the whole model, n decode rows, c prompt rows of the chunk):

* FC on the PUs: decode and prompt rows share one read of the weights, FC(n + c); then decode attention on
  Attn-PIM runs beside prompt attention on the PUs.
* FC on FC-PIM: the decode chain, FC(n) and attention, runs beside the prompt's chain on the PUs. Both need
  the stacks' banks: FC-PIM's time, the PUs' reads and the mode switches between them add up (dual row
  buffers, NeuPIMs, ASPLOS 2024, let them coincide).
* split: some decode rows go to FC-PIM, the others and the prompt to the PUs, kernel by kernel; as many as
  the offline profile finds best.
* overlap: two half-batches take turns, so that one's attention runs beside the other's FC kernels (NeuPIMs'
  sub-batch interleaving). Each reads the weights for itself. The period is the longest of both FC parts, both
  attention parts, and either chain; the first FC kernel of all has nothing beside it.
* Drafting comes first, on the PUs. Whatever happens, an iteration lasts as long as the link is busy.
"""

from __future__ import annotations

import numpy as np

from papi_env.simulation.batch import state as layout
from papi_env.simulation.compiled import inlined, lean
from papi_env.simulation.draws import mix, request_key
from papi_env.simulation.serving import state as at

_DRIFT_STREAM = np.uint64(0xD1B54A32D192ED03)
_11 = np.uint64(11)


@inlined
def drift_level(key, knot):
    """Uniform in [0, 1), keyed by a unit's key and the number of the knot."""
    return np.float64(mix(key + np.uint64(knot) * _DRIFT_STREAM) >> _11) * 2.0**-53


@lean
def drift_factor(seed, episode, unit, time_s, scalars):
    """True over profiled time of a unit (0 PUs, 1 FC-PIM, 2 Attn-PIM) at a simulated time; 1 without drift.

    The logarithm is a smooth noise: a level at every multiple of the period, joined by smoothstep.
    """
    log_worst = scalars[at.DRIFT_LOG + unit]
    if log_worst == 0.0:
        return 1.0
    if scalars[at.DRIFT_PERIOD_S] == np.inf:
        return np.exp(log_worst)  # a look-ahead that holds the factor where it is
    position = time_s / scalars[at.DRIFT_PERIOD_S]
    knot = np.int64(position)
    x = position - knot
    x = x * x * (3.0 - 2.0 * x)
    key = request_key(seed, episode, unit) ^ _DRIFT_STREAM
    level = (1.0 - x) * drift_level(key, knot) + x * drift_level(key, knot + 1)
    return np.exp(log_worst * level)


@inlined
def attention_seconds(rlp, context_sum, group_sum, group_max, chunk_sum, chunk_max, row, rounds):
    """Profiled seconds of decode attention, as in `decode.iteration_cost`; sums may be shares of a batch's.

    `row` are the coefficients at this TLP, `rounds` [RLP, (pairs on the busiest channel, 1 / pairs if odd)].
    """
    now = rounds[rlp, layout.ROUNDS]
    of_one = rounds[1, layout.ROUNDS]
    busiest_groups = max(now * (group_sum / rlp), of_one * group_max)
    busiest_chunks = max(now * (chunk_sum / rlp), of_one * chunk_max)
    per_chunk = row[layout.PER_CHUNK_S] + row[layout.UNPAIRED_S] * rounds[rlp, layout.UNPAIRED]
    return max(
        row[layout.PER_GROUP_S] * busiest_groups
        + per_chunk * busiest_chunks
        + row[layout.PER_PAIR_S] * now
        + row[layout.PER_START_S],
        row[layout.PER_TOKEN_S] * context_sum,
    )


@inlined
def shared_seconds(pu_rows, pim_rows, pu_factor, pim_factor, fc_s, bank_s, scalars):
    """Seconds of FC kernels whose rows are divided between PUs and FC-PIM, kernel by kernel.

    Without dual row buffers a stack serves one of them at a time: FC-PIM's work, the PUs' reads and the mode
    switches add up on the banks, and only the PUs' arithmetic beyond their reads is hidden.
    """
    pu = fc_s[at.PU, pu_rows] * pu_factor
    pim = fc_s[at.FC_PIM, pim_rows] * pim_factor
    if pu_rows == 0 or pim_rows == 0:
        return pu + pim
    if scalars[at.DUAL_BUFFERS] > 0.0:
        return max(pu, pim)
    switching = scalars[at.SWITCHES_PER_SPLIT] * scalars[at.SWITCH_S]
    return max(pu, pim + bank_s[pu_rows] * pu_factor + switching)


@inlined
def split_rows(decode_rows, prompt_rows, fc_s, bank_s, scalars):
    """How many of the decode rows the offline profile sends to FC-PIM when a kernel is split.

    More rows on FC-PIM lengthen its side and shorten the PUs', so the best is where they cross, or an end. FC-PIM
    takes rows by the slot: those that fill the slot at the crossing cost it nothing, and save the PUs a read.
    """
    switching = 0.0
    dual = scalars[at.DUAL_BUFFERS] > 0.0
    if not dual:
        switching = scalars[at.SWITCHES_PER_SPLIT] * scalars[at.SWITCH_S]
    low = 0
    high = decode_rows
    while low < high:
        middle = (low + high) // 2
        pu_rows = decode_rows - middle + prompt_rows
        pim = fc_s[at.FC_PIM, middle]
        if not dual:
            pim += bank_s[pu_rows] + switching
        if pim < fc_s[at.PU, pu_rows]:
            low = middle + 1
        else:
            high = middle
    best = 0
    least = shared_seconds(decode_rows + prompt_rows, 0, 1.0, 1.0, fc_s, bank_s, scalars)
    full = low
    while full < decode_rows and fc_s[at.FC_PIM, full + 1] == fc_s[at.FC_PIM, low]:
        full += 1
    for k in (max(low - 1, 0), low, full, decode_rows):
        seconds = shared_seconds(decode_rows - k + prompt_rows, k, 1.0, 1.0, fc_s, bank_s, scalars)
        if seconds < least:
            best = k
            least = seconds
    return best


@lean
def iteration(
    rlp,
    tlp,
    context_sum,
    group_sum,
    group_max,
    chunk_sum,
    chunk_max,
    prompt_rows,
    prompt_pairs,
    prompt_context,
    unit,
    overlap,
    last_mode,
    pu_factor,
    pim_factor,
    attention_factor,
    fc_s,
    fc_j,
    bank_s,
    attention,
    rounds,
    link_table,
    moves_table,
    draft_table,
    scalars,
    busy,
):
    """Cost of one iteration.

    Args:
        rlp, tlp: requests decoding and tokens verified of each; the sums are over their contexts with those.
        prompt_rows, prompt_pairs, prompt_context: of the chunk: tokens, (query, key) pairs, tokens read.
        unit: `PU`, `FC_PIM` or `SPLIT`, valid for the system; overlap: whether two half-batches take turns.
        last_mode: the mode that the stacks are in (PU, FC_PIM or -1).
        pu_factor, pim_factor, attention_factor: true over profiled time.
        busy: float64 [NUM_RESOURCES], written: seconds that each resource is busy.

    Returns:
        (seconds, dynamic J, FC s, attention s, draft s, prompt s, communication s, switching s, mode switches,
        mode afterwards, decode rows on FC-PIM).
    """
    n = rlp * tlp
    dual = scalars[at.DUAL_BUFFERS] > 0.0
    switch_s = scalars[at.SWITCH_S]
    on_pim = scalars[at.PREFILL_UNIT] == at.FC_PIM  # prompts on PIM: FC-PIM, and where the KV caches are
    no_pus = scalars[at.ONLY_UNIT] == at.FC_PIM
    home = scalars[at.ATTENTION_UNIT]
    separate = home == 2.0
    joules = 0.0
    link_s = 0.0

    # --- drafting, one token after the other ---
    draft_s = 0.0
    if tlp > 1 and rlp > 0:
        steps = tlp - 1
        draft_s = steps * (draft_table[rlp, 0] + scalars[at.DRAFT_CONTEXT_S] * context_sum)
        joules += steps * (draft_table[rlp, 1] + scalars[at.DRAFT_CONTEXT_J] * context_sum)
        draft_s *= pim_factor if no_pus else pu_factor

    # --- the prompt's attention, and its keys and values on their way home ---
    prompt_s = 0.0
    if prompt_rows > 0:
        compute = scalars[at.PREFILL_PAIR_COMPUTE_S] * prompt_pairs
        memory = scalars[at.PREFILL_TOKEN_MEMORY_S] * prompt_context
        prompt_s = max(compute, memory) * pu_factor
        prompt_s += (
            scalars[at.PREFILL_PAIR_S] * prompt_pairs + scalars[at.PREFILL_TOKEN_S] * prompt_rows
        ) * attention_factor
        joules += scalars[at.PREFILL_PAIR_J] * prompt_pairs + scalars[at.PREFILL_TOKEN_J] * prompt_context
        link_s += scalars[at.KV_LINK_S_PER_TOKEN] * prompt_rows
        joules += (scalars[at.KV_LINK_J_PER_TOKEN] + scalars[at.PREFILL_ROW_J]) * prompt_rows

    # --- decode rows in one batch or two halves; the prompt goes with the first, or beside ---
    first = rlp
    if overlap and rlp > 1 and separate:
        first = rlp - rlp // 2
    beside = prompt_rows if unit == at.FC_PIM and not on_pim else 0
    with_first = prompt_rows - beside
    row = attention[tlp]
    fc_total = 0.0
    attention_total = 0.0
    communication_s = 0.0
    pu_busy = 0.0
    pim_busy = 0.0
    bank_busy = 0.0
    rows_on_pim = 0
    any_on_pu = False
    any_on_pim = False
    fc_first = 0.0
    fc_second = 0.0
    attention_first = 0.0
    attention_second = 0.0
    shared = 0  # times that PUs and FC-PIM share the banks
    for half in range(2):
        requests = first if half == 0 else rlp - first
        prompt = with_first if half == 0 else 0
        rows = requests * tlp
        if rows + prompt == 0:
            continue
        pu_rows = 0
        pim_rows = 0
        if unit == at.PU:
            pu_rows = rows + prompt
        elif unit == at.FC_PIM:
            pim_rows = rows + prompt
        else:
            pim_rows = split_rows(rows, prompt, fc_s, bank_s, scalars)
            pu_rows = rows - pim_rows + prompt
        fc = shared_seconds(pu_rows, pim_rows, pu_factor, pim_factor, fc_s, bank_s, scalars)
        joules += fc_j[at.PU, pu_rows] + fc_j[at.FC_PIM, pim_rows]
        pu_busy += fc_s[at.PU, pu_rows] * pu_factor
        pim_busy += fc_s[at.FC_PIM, pim_rows] * pim_factor
        bank_busy += bank_s[pu_rows] * pu_factor + fc_s[at.FC_PIM, pim_rows] * pim_factor
        rows_on_pim += min(pim_rows, rows)
        any_on_pu = any_on_pu or pu_rows > 0
        any_on_pim = any_on_pim or pim_rows > 0
        shared += int(pu_rows > 0 and pim_rows > 0)
        combine = moves_table[rows + prompt, layout.COMBINE_S]
        joules += moves_table[rows + prompt, layout.COMBINE_J]
        communication_s += combine
        attend = 0.0
        if requests > 0:
            share = requests / rlp
            attend = attention_factor * attention_seconds(
                requests,
                share * context_sum,
                share * group_sum,
                group_max,
                share * chunk_sum,
                chunk_max,
                row,
                rounds,
            )
            attention_total += attend
            transfer = link_table[rows, layout.COST_S]
            joules += link_table[rows, layout.COST_J]
            link_s += transfer
            communication_s += transfer
            attend += transfer
        fc_total += fc
        if half == 0:
            fc_first = fc + combine
            attention_first = attend
        else:
            fc_second = fc + combine
            attention_second = attend
    if rlp > 0:
        joules += row[layout.PER_GROUP_J] * group_sum + row[layout.PER_TOKEN_J] * context_sum

    attention_busy = 0.0
    if home == 0.0:
        pu_busy += attention_total
        bank_busy += attention_total
    elif separate:
        attention_busy = attention_total
    else:
        pim_busy += attention_total
        bank_busy += attention_total
    if home == 0.0 or not on_pim:
        pu_busy += prompt_s
        bank_busy += scalars[at.PREFILL_TOKEN_MEMORY_S] * prompt_context * pu_factor
    elif separate:
        attention_busy += prompt_s
    else:
        pim_busy += prompt_s
        bank_busy += prompt_s

    # --- what runs beside what ---
    shared += int(beside > 0 and n > 0)
    changes_within = 0 if dual else shared * int(scalars[at.SWITCHES_PER_SPLIT])
    bank_busy += changes_within * switch_s
    if first < rlp:
        if with_first > 0:
            # The prompt's attention occupies the PUs like an FC kernel of the first half, or Attn-PIM.
            if on_pim:
                attention_first += prompt_s
            else:
                fc_first += prompt_s
        core = max(
            max(fc_first + fc_second, attention_first + attention_second),
            max(fc_first + attention_first, fc_second + attention_second),
        )
        core += fc_first / scalars[at.LAYERS]
    elif with_first == 0:
        core = fc_first + attention_first
    elif separate and not on_pim:
        core = fc_first + max(attention_first, prompt_s)
    else:
        core = fc_first + attention_first + prompt_s
    if beside > 0:
        alone = fc_s[at.PU, beside] * pu_factor
        combine = moves_table[beside, layout.COMBINE_S]
        joules += fc_j[at.PU, beside] + moves_table[beside, layout.COMBINE_J]
        communication_s += combine
        fc_total += alone
        pu_busy += alone
        bank_busy += bank_s[beside] * pu_factor
        # Where attention runs on the PUs too, they do one after the other.
        core = max(core, alone + combine + prompt_s, pu_busy)
        if n > 0 and not dual:
            core = max(core, bank_busy)

    # --- changes of the stacks' mode between iterations, and after drafting on the PUs ---
    mode = at.FC_PIM if any_on_pim and not any_on_pu and (shared == 0 or dual) else at.PU
    changes = 0
    if switch_s > 0.0 and not dual:
        start = at.PU if draft_s > 0.0 and not no_pus else mode
        changes = int(last_mode >= 0 and last_mode != start) + int(start != mode)
        crossing_s = moves_table[n + prompt_rows, layout.CROSSING_S]
        core += changes * (switch_s + crossing_s)
        communication_s += changes * crossing_s
        joules += changes * moves_table[n + prompt_rows, layout.CROSSING_J]

    communication_s += max(link_s - core, 0.0)
    seconds = max(core, link_s) + draft_s + scalars[at.OVERHEAD_S] + scalars[at.DECISION_S]
    bank_busy += draft_s
    if no_pus:
        pim_busy += draft_s
    else:
        pu_busy += draft_s
    busy[at.BUSY_PU] = pu_busy
    busy[at.BUSY_FC_PIM] = pim_busy
    busy[at.BUSY_ATTN] = attention_busy
    busy[at.BUSY_LINK] = link_s
    # With dual row buffers reads and PIM work coincide, and the banks are busy for the longer of the two.
    busy[at.BUSY_BANKS] = min(bank_busy, max(pu_busy, pim_busy)) if dual else bank_busy
    return (
        seconds,
        joules,
        fc_total,
        attention_total,
        draft_s,
        prompt_s,
        communication_s,
        (changes + changes_within) * switch_s,
        changes + changes_within,
        mode,
        rows_on_pim,
    )
