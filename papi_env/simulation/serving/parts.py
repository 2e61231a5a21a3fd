"""What an iteration is put together from besides FC kernels, compiled: attention, drafting, and the LM head."""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import GROUP_TOKENS
from papi_env.simulation.attention import Share, Work, attention_time
from papi_env.simulation.batch import state as layout
from papi_env.simulation.compiled import inlined, lean
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.measured import measured_attention
from papi_env.simulation.serving.terms import Decoding, PromptChunk, PromptCost


@inlined
def of_layers(whole, near, scalars):
    """The mean of a quantity over layers that attend to everything and those with windows."""
    return whole + scalars[at.WINDOW_SHARE] * (near - whole)


@inlined
def inside_windows(decoding):
    """`Decoding` as the layers with windows see it."""
    zero = np.int64(0)
    return Decoding(
        decoding.rlp,
        decoding.tlp,
        decoding.near_context_sum,
        decoding.near_group_sum,
        decoding.near_group_max,
        decoding.near_key_row_sum,
        decoding.near_key_row_max,
        zero,
        zero,
        zero,
        zero,
        zero,
    )


@inlined
def outside_windows(done, upto, scalars):
    """What the tokens of a prompt after `done` do not meet, the mean over layers: (query, key) pairs, and tokens read.

    Queries meet no keys that have left their window.
    """
    window = np.int64(scalars[at.WINDOW])
    if window == 0:
        return np.int64(0), np.int64(0)
    before = max(done - window, 0)
    after = max(upto - window, 0)
    pairs = (after * (after + 1) - before * (before + 1)) // 2
    share = scalars[at.WINDOW_SHARE]
    return np.int64(share * pairs), np.int64(share * max(done + 1 - window, 0))


@inlined
def attention_seconds(requests, decoding, row, shares):
    """Profiled seconds of decode attention of so many of the decoding requests, as in `decode.iteration_cost`.

    They attend to their share of the batch's sums, and one of them to the longest context. `row` and
    `shares` are the coefficients and the shares of so many at this TLP.
    """
    share = requests / decoding.rlp
    context_sum = share * decoding.context_sum
    group_sum = share * decoding.group_sum
    key_row_sum = share * decoding.key_row_sum
    work = Work(
        row[layout.PER_GROUP_S],
        row[layout.PER_KEY_ROW_S] + row[layout.UNPAIRED_S] * shares[layout.UNPAIRED],
        row[layout.PER_PAIR_S],
        row[layout.PER_START_S],
        row[layout.PER_TOKEN_S],
    )
    mean = Share(group_sum / requests, key_row_sum / requests)
    longest = Share(decoding.group_max, decoding.key_row_max)
    now = shares[layout.SHARE]
    of_one = shares[layout.SHARE_OF_ONE]
    return attention_time(work, now, of_one, shares[layout.PAIRS], mean, longest, context_sum)


@inlined
def drafting(decoding, slow, look):
    """Seconds and joules of drafting, one token after the other: on the PUs, or on FC-PIM where there are none."""
    if decoding.tlp <= 1 or decoding.rlp == 0:
        return 0.0, 0.0
    scalars = look.scalars
    steps = decoding.tlp - 1
    seconds = steps * (look.draft[decoding.rlp, 0] + scalars[at.DRAFT_CONTEXT_S] * decoding.context_sum)
    joules = steps * (look.draft[decoding.rlp, 1] + scalars[at.DRAFT_CONTEXT_J] * decoding.context_sum)
    return seconds * (slow.fc_pim if scalars[at.ONLY_UNIT] == at.FC_PIM else slow.pu), joules


@inlined
def no_chunk():
    """`PromptChunk` of nothing."""
    zero = np.int64(0)
    return PromptChunk(zero, zero, zero, zero, zero)


@inlined
def heading(tokens, slow, look):
    """Seconds and joules of the LM head and the sampler for so many tokens; on FC-PIM where there are no PUs."""
    if look.head.shape[0] == 0:
        return 0.0, 0.0
    seconds = look.head[tokens, 0] * (slow.fc_pim if look.scalars[at.ONLY_UNIT] == at.FC_PIM else slow.pu)
    return seconds, look.head[tokens, 1]


@inlined
def unevenness(decoding, scalars):
    """How many times as long as on their mean the PUs attend to contexts that are not all as long as the longest."""
    longest = np.float64(decoding.group_max * GROUP_TOKENS)
    return 1.0 + scalars[at.UNEVEN] * max(longest * decoding.rlp / decoding.context_sum - 1.0, 0.0)


@lean
def near_attention(requests, decoding, look):
    """Profiled seconds of decode attention of so many of the decoding requests, if all layers had windows."""
    near = inside_windows(decoding)
    row, shares = look.attention[requests, decoding.tlp], look.shares[requests, decoding.tlp]
    seconds = attention_seconds(requests, near, row, shares)
    if look.scalars[at.UNEVEN] > 0.0 and look.scalars[at.ATTENTION_UNIT] == 0.0:
        seconds *= unevenness(near, look.scalars)
    return seconds


@inlined
def prompt_attention(chunk, decoding, slow, look):
    """`PromptCost` of a chunk. Where prompts run on PIM, it is the KV caches' unit that attends to them.

    As measured, what the chunk adds to the attention of the decoding requests, which runs in the same kernel.
    """
    if chunk.rows == 0:
        return PromptCost(0.0, 0.0, 0.0, 0.0)
    scalars = look.scalars
    compute = scalars[at.PREFILL_PAIR_COMPUTE_S] * chunk.pairs
    memory = scalars[at.PREFILL_TOKEN_MEMORY_S] * chunk.context
    seconds = max(compute, memory) * slow.pu
    seconds += (
        scalars[at.PREFILL_PAIR_S] * chunk.pairs + scalars[at.PREFILL_TOKEN_S] * chunk.rows
    ) * slow.attention
    if look.grid.shape[0] > 0:
        together = measured_attention(decoding, chunk, look)
        seconds = slow.pu * max(together - measured_attention(decoding, no_chunk(), look), 0.0)
    return PromptCost(
        seconds,
        scalars[at.PREFILL_PAIR_J] * chunk.pairs + scalars[at.PREFILL_TOKEN_J] * chunk.context,
        scalars[at.KV_LINK_S_PER_TOKEN] * chunk.rows,
        (scalars[at.KV_LINK_J_PER_TOKEN] + scalars[at.PREFILL_ROW_J]) * chunk.rows,
    )


@inlined
def decode_joules(decoding, row, scalars):
    """Joules of decode attention; `row` is that of as many requests as attend at a time."""
    if decoding.rlp == 0:
        return 0.0
    group_sum = of_layers(decoding.group_sum, decoding.near_group_sum, scalars)
    context_sum = of_layers(decoding.context_sum, decoding.near_context_sum, scalars)
    return row[layout.PER_GROUP_J] * group_sum + row[layout.PER_TOKEN_J] * context_sum
