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
* Drafting comes first, on the PUs, and the LM head of tokens that are yielded last, as a kernel of its own.
* Some requests may draft while others verify a single token: FC kernels have the rows of both, attention the work of
  both (`parts.mixed_attention`), each half-batch its half of both, and only those that draft are drafted for.
* Layers with sliding windows attend to what is inside them, the others to whole contexts: times and joules of
  attention are the mean over layers of either kind.
* On PUs with measured tables attention of decode rows and prompts is one kernel (`measured`).
* Whatever happens, an iteration lasts as long as the link is busy.
"""

from __future__ import annotations

import numpy as np

from papi_env.simulation.batch import state as layout
from papi_env.simulation.compiled import inlined, lean, seldom
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.measured import measured_attention
from papi_env.simulation.serving.parts import (
    attended_sums,
    attention_seconds,
    decode_joules,
    decode_rows,
    drafters_of,
    drafting,
    drafting_contexts,
    heading,
    mixed_attention,
    near_attention,
    no_chunk,
    of_layers,
    prompt_attention,
    rows_of,
    unevenness,
)
from papi_env.simulation.serving.splitting import chosen_split, shared_seconds
from papi_env.simulation.serving.terms import (
    Apart,
    BesideCost,
    Busy,
    Cost,
    Half,
    HalfCost,
    Halves,
    Ran,
)

# --- the parts of an iteration ------------------------------------------------------------------------------


@inlined
def half_attention(requests, decoding, slow, look):
    """Seconds of decode attention of so many of the decoding requests."""
    if requests == 0:
        return 0.0
    if decoding.single > 0:
        return slow.attention * mixed_attention(requests, decoding, look)
    attention_s = slow.attention * attention_seconds(
        requests,
        decoding,
        look.attention[requests, decoding.tlp],
        look.shares[requests, decoding.tlp],
    )
    if look.grid.shape[0] > 0:
        attention_s = slow.attention * measured_attention(decoding, no_chunk(), look)
    elif look.scalars[at.UNEVEN] > 0.0 and look.scalars[at.ATTENTION_UNIT] == 0.0:
        attention_s *= unevenness(decoding, look.scalars)
    if look.scalars[at.WINDOW] > 0.0:
        near_s = slow.attention * near_attention(requests, decoding, look)
        attention_s = of_layers(attention_s, near_s, look.scalars)
    return attention_s


@inlined
def half_batch(half, prompt_rows, unit, decoding, slow, look):
    """`HalfCost` of a `Half` of the decoding requests, with prompt rows in the same kernels."""
    zero = np.int64(0)
    rows = rows_of(half.requests, half.drafters, decoding.tlp)
    if rows + prompt_rows == 0:
        return HalfCost(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, zero, zero, zero)
    fc_s = look.fc_s
    if unit == at.PU:
        pim_rows = zero
    elif unit == at.FC_PIM:
        pim_rows = rows + prompt_rows
    else:
        pim_rows = chosen_split(rows, prompt_rows, look)
    pu_rows = rows + prompt_rows - pim_rows
    # Unsigned as in `shared_seconds`.
    decoded, all_rows = np.uint64(rows), np.uint64(rows + prompt_rows)
    on_pu, on_pim = np.uint64(pu_rows), np.uint64(pim_rows)
    transfer_s = 0.0
    transfer_j = 0.0
    if half.requests > 0:
        transfer_s = look.link[decoded, layout.COST_S]
        transfer_j = look.link[decoded, layout.COST_J]
    pim_s = fc_s[at.FC_PIM, on_pim] * slow.fc_pim
    return HalfCost(
        shared_seconds(pu_rows, pim_rows, slow.pu, slow.fc_pim, fc_s, look.bank_s, look.scalars),
        fc_s[at.PU, on_pu] * slow.pu,
        pim_s,
        look.bank_s[on_pu] * slow.pu + pim_s,
        look.fc_j[at.PU, on_pu] + look.fc_j[at.FC_PIM, on_pim],
        look.moves[all_rows, layout.COMBINE_S],
        look.moves[all_rows, layout.COMBINE_J],
        half.attention_s,
        transfer_s,
        transfer_j,
        pu_rows,
        pim_rows,
        min(pim_rows, rows),
    )


@inlined
def prompt_beside(rows, slow, look):
    """`BesideCost` of so many prompt rows."""
    if rows == 0:
        return BesideCost(0.0, 0.0, 0.0, 0.0)
    return BesideCost(
        look.fc_s[at.PU, rows] * slow.pu,
        look.fc_j[at.PU, rows] + look.moves[rows, layout.COMBINE_J],
        look.moves[rows, layout.COMBINE_S],
        look.bank_s[rows] * slow.pu,
    )


@inlined
def busy_seconds(one, two, prompt_s, prompt_read_s, prompts_on_pim, home):
    """`Busy` of both half-batches and the prompt's attention, where `home` runs attention.

    `prompt_read_s` are the seconds in which the PUs read the prompt's keys and values from the stacks.
    """
    pu_s = one.pu_s + two.pu_s
    pim_s = one.pim_s + two.pim_s
    banks_s = one.banks_s + two.banks_s
    attention_s = one.attention_s + two.attention_s
    separate_s = 0.0
    if home == 0.0:
        pu_s += attention_s
        banks_s += attention_s
    elif home == 2.0:
        separate_s = attention_s
    else:
        pim_s += attention_s
        banks_s += attention_s
    if home == 0.0 or not prompts_on_pim:
        pu_s += prompt_s
        banks_s += prompt_read_s
    elif home == 2.0:
        separate_s += prompt_s
    else:
        pim_s += prompt_s
        banks_s += prompt_s
    return Busy(pu_s, pim_s, separate_s, banks_s)


@inlined
def turns_seconds(one, two, prompt_rows, prompt_s, prompts_on_pim, layers):
    """Seconds in which two half-batches take turns, `prompt_rows` of a prompt with the first."""
    fc_first = one.fc_s + one.combine_s
    fc_second = two.fc_s + two.combine_s
    attention_first = one.attention_s + one.transfer_s
    attention_second = two.attention_s + two.transfer_s
    if prompt_rows > 0:
        # The prompt's attention occupies the PUs like an FC kernel of the first half, or Attn-PIM.
        if prompts_on_pim:
            attention_first += prompt_s
        else:
            fc_first += prompt_s
    seconds = max(
        max(fc_first + fc_second, attention_first + attention_second),
        max(fc_first + attention_first, fc_second + attention_second),
    )
    return seconds + fc_first / layers


@inlined
def batch_seconds(one, prompt_rows, prompt_s, hidden):
    """Seconds of the whole batch at once, `prompt_rows` of a prompt in it.

    `hidden`: decode attention runs beside the prompt's, as on units of their own.
    """
    fc = one.fc_s + one.combine_s
    attention = one.attention_s + one.transfer_s
    if prompt_rows == 0:
        return fc + attention
    if hidden:
        return fc + max(attention, prompt_s)
    return fc + attention + prompt_s


@inlined
def mode_changes(last_mode, mode, drafted, no_pus):
    """How often the stacks change mode before the iteration's FC kernels, which find them in `mode`.

    From what the last iteration left, and from the PUs' mode after drafting there.
    """
    start = at.PU if drafted and not no_pus else mode
    return int(last_mode >= 0 and last_mode != start) + int(start != mode)


# --- the whole ----------------------------------------------------------------------------------------------


@inlined
def apart_from_units(decoding, chunk, slow, look):
    """`Apart`: what an iteration takes wherever its FC kernels run, and however its batch is divided."""
    draft_s, draft_j = drafting(decoding, slow, look)
    prompt = prompt_attention(chunk, decoding, slow, look)
    head_s, head_j = heading(decode_rows(decoding) + chunk.ending, slow, look)
    return Apart(draft_s, draft_j, head_s, head_j, prompt)


@inlined
def halved(overlap, decoding, slow, look):
    """`Halves` of the decode batch: all of it and none, or where they may take turns two."""
    rlp = decoding.rlp
    first = rlp
    if overlap and rlp > 1 and look.scalars[at.ATTENTION_UNIT] == 2.0:
        first = rlp - rlp // 2
    drafters = drafters_of(first, decoding)
    return Halves(
        Half(first, drafters, half_attention(first, decoding, slow, look)),
        Half(
            rlp - first,
            rlp - decoding.single - drafters,
            half_attention(rlp - first, decoding, slow, look),
        ),
        decode_joules(first, decoding, look),
    )


@lean
def iteration(decoding, chunk, placement, slow, look, busy):
    """`Cost` of one iteration.

    Args:
        decoding: `Decoding`; chunk: `PromptChunk`; placement: `Placement`; slow: `Slowdowns`; look: the tables.
        busy: float64 [NUM_RESOURCES], written: seconds that each resource is busy.
    """
    apart = apart_from_units(decoding, chunk, slow, look)
    halves = halved(placement.overlap, decoding, slow, look)
    return placed(decoding, chunk, apart, halves, placement, slow, look, busy)


@inlined
def placed(decoding, chunk, apart, halves, placement, slow, look, busy):
    """`iteration` from its parts, so that who compares units works these out once.

    Args:
        apart: `Apart`; halves: `Halves` by the overlap of the placement; others as in `iteration`.
    """
    # Sums keep their order, on which the last bit depends.
    scalars = look.scalars
    rlp = decoding.rlp
    n = decode_rows(decoding)
    unit = placement.unit
    dual = scalars[at.DUAL_BUFFERS] > 0.0
    switch_s = scalars[at.SWITCH_S]
    on_pim = scalars[at.PREFILL_UNIT] == at.FC_PIM  # prompts on PIM: FC-PIM, and where the KV caches are
    no_pus = scalars[at.ONLY_UNIT] == at.FC_PIM
    home = scalars[at.ATTENTION_UNIT]
    separate = home == 2.0

    draft_s, head_s, prompt = apart.draft_s, apart.head_s, apart.prompt
    # Decode rows in one batch or two halves; the prompt goes with the first, or beside.
    first = halves.first.requests
    beside_rows = chunk.rows if unit == at.FC_PIM and not on_pim else 0
    with_first = chunk.rows - beside_rows
    one = half_batch(halves.first, with_first, unit, decoding, slow, look)
    two = half_batch(halves.second, 0, unit, decoding, slow, look)
    beside = prompt_beside(beside_rows, slow, look)

    joules = apart.draft_j + apart.head_j + prompt.attention_j + prompt.write_j
    joules += one.fc_j
    joules += one.combine_j
    joules += one.transfer_j
    joules += two.fc_j
    joules += two.combine_j
    joules += two.transfer_j
    joules += halves.attention_j
    joules += beside.joules
    link_s = prompt.link_s + one.transfer_s + two.transfer_s
    communication_s = one.combine_s + one.transfer_s + two.combine_s + two.transfer_s + beside.combine_s

    # Times that PUs and FC-PIM share the banks, and change their mode around each kernel.
    shared = int(one.pu_rows > 0 and one.pim_rows > 0) + int(two.pu_rows > 0 and two.pim_rows > 0)
    shared += int(beside_rows > 0 and n > 0)
    changes_within = 0 if dual else shared * int(scalars[at.SWITCHES_PER_SPLIT])
    read_s = scalars[at.PREFILL_TOKEN_MEMORY_S] * chunk.context * slow.pu
    units = busy_seconds(one, two, prompt.seconds, read_s, on_pim, home)
    pu_busy = units.pu_s + beside.seconds
    banks_busy = units.banks_s + changes_within * switch_s + beside.banks_s
    if first < rlp:
        core = turns_seconds(one, two, with_first, prompt.seconds, on_pim, scalars[at.LAYERS])
    else:
        core = batch_seconds(one, with_first, prompt.seconds, separate and not on_pim)
    if beside_rows > 0:
        # Where attention runs on the PUs too, they do one after the other.
        core = max(core, beside.seconds + beside.combine_s + prompt.seconds, pu_busy)
        if n > 0 and not dual:
            core = max(core, banks_busy)

    on_pus = one.pu_rows + two.pu_rows > 0
    mode = at.FC_PIM if one.pim_rows + two.pim_rows > 0 and not on_pus and (shared == 0 or dual) else at.PU
    changes = 0
    if switch_s > 0.0 and not dual:
        changes = mode_changes(placement.last_mode, mode, draft_s > 0.0, no_pus)
        crossing_s = look.moves[n + chunk.rows, layout.CROSSING_S]
        core += changes * (switch_s + crossing_s)
        communication_s += changes * crossing_s
        joules += changes * look.moves[n + chunk.rows, layout.CROSSING_J]

    # Halves communicate at the same time, on links of their own, and what a full link delays was counted as it moved:
    # of the time that passes, all at most.
    communication_s = min(communication_s + max(link_s - core, 0.0), max(core, link_s))
    seconds = max(core, link_s) + draft_s + head_s + scalars[at.OVERHEAD_S] + scalars[at.DECISION_S]
    pim_busy = units.pim_s
    banks_busy += draft_s + head_s
    if no_pus:
        pim_busy += draft_s + head_s
    else:
        pu_busy += draft_s + head_s
    busy[at.BUSY_PU] = pu_busy
    busy[at.BUSY_FC_PIM] = pim_busy
    busy[at.BUSY_ATTN] = units.attention_s
    busy[at.BUSY_LINK] = link_s
    # With dual row buffers reads and PIM work coincide, and the banks are busy for the longer of the two.
    busy[at.BUSY_BANKS] = min(banks_busy, max(pu_busy, pim_busy)) if dual else banks_busy
    return Cost(
        seconds,
        joules,
        one.fc_s + two.fc_s + beside.seconds + head_s,
        one.attention_s + two.attention_s,
        draft_s,
        prompt.seconds,
        communication_s,
        (changes + changes_within) * switch_s,
        changes + changes_within,
        mode,
        one.decode_on_pim + two.decode_on_pim,
        Ran(
            first,
            rlp - first,
            one.pu_rows,
            one.pim_rows,
            two.pu_rows,
            two.pim_rows,
            beside_rows,
            np.int64(changes) if switch_s > 0.0 and not dual else np.int64(0),
        ),
    )


# --- what was run -------------------------------------------------------------------------------------------


@seldom
def charge_causes(e, decoding, chunk, ran, tables, clocks):
    """Charge environment e, whose clocks have columns for them, with the joules of an iteration by cause.

    Their sum is the `Cost`'s, but for rounding. For iterations that are run; `iteration`, which also says what one
    would cost, has no part in it.

    Args:
        e, decoding, chunk, tables, clocks: as elsewhere.
        ran: `Ran`.
    """
    rlp, tlp = decoding.rlp, decoding.tlp
    attention = tables.attention_causes[ran.first, tlp]
    scalars, terms = tables.scalars, tables.term_causes
    context_sum = of_layers(decoding.context_sum, decoding.near_context_sum, scalars)
    groups, contexts, single_groups, single_contexts = attended_sums(decoding, scalars)
    by_token = scalars[at.ATTENTION_UNIT] == 0.0
    attended = contexts if by_token else groups
    drafts = np.float64(tlp - 1 if rlp > 0 else 0)
    tokens = drafts * drafting_contexts(decoding)
    drafters = rlp - decoding.single
    rows = decode_rows(decoding)
    first_rows = rows_of(ran.first, drafters_of(ran.first, decoding), tlp)
    for k in range(at.NUM_CAUSES):
        joules = tables.fc_causes[at.PU, ran.first_pu, k] + tables.fc_causes[at.FC_PIM, ran.first_pim, k]
        joules += tables.fc_causes[at.PU, ran.second_pu, k] + tables.fc_causes[at.FC_PIM, ran.second_pim, k]
        joules += tables.fc_causes[at.PU, ran.beside, k]
        if k != at.LINK:
            joules += attended * attention[k]
        joules += chunk.pairs * terms[at.PAIR, k] + chunk.context * terms[at.CONTEXT, k]
        joules += chunk.rows * terms[at.ROW, k]
        joules += drafts * tables.draft_causes[drafters, k] + tokens * terms[at.DRAFTED_CONTEXT, k]
        if tables.head.shape[0] > 0:
            joules += tables.head[rows + chunk.ending, 2 + k]
        clocks[e, at.CAUSE_J + k] += joules
    if decoding.single > 0:
        attended = single_contexts if by_token else single_groups
        for k in range(at.NUM_CAUSES):
            if k != at.LINK:
                clocks[e, at.CAUSE_J + k] += attended * tables.attention_causes[ran.first, 1, k]
    link, moves = tables.link, tables.moves
    moved = moves[ran.first_pu + ran.first_pim, layout.COMBINE_J]
    moved += moves[ran.second_pu + ran.second_pim, layout.COMBINE_J]
    moved += moves[ran.beside, layout.COMBINE_J]
    # A link's joules are in proportion to bytes, and those of no rows are none.
    moved += link[first_rows, layout.COST_J] + link[rows - first_rows, layout.COST_J]
    moved += ran.crossings * moves[rows + chunk.rows, layout.CROSSING_J]
    moved += context_sum * attention[at.LINK]
    clocks[e, at.CAUSE_J + at.LINK] += moved
