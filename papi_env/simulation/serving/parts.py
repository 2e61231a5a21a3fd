"""What an iteration is put together from besides FC kernels, compiled: attention, drafting, and the LM head."""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import GROUP_TOKENS
from papi_env.simulation.attention import Share, Work, attention_time
from papi_env.simulation.batch import state as layout
from papi_env.simulation.compiled import exposed, inlined, seldom
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.measured import measured_attention
from papi_env.simulation.serving.terms import Attended, Decoding, PromptChunk, PromptCost


@exposed
def of_layers(whole, near, scalars):
    """The mean of a quantity over layers that attend to everything and those with windows."""
    return whole + scalars[at.WINDOW_SHARE] * (near - whole)


@inlined
def inside_windows(decoding):
    """`Decoding` as the layers with windows see it."""
    zero = np.int64(0)
    drafting = decoding.drafting
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
        decoding.single,
        Attended(
            drafting.near_context_sum,
            drafting.near_group_sum,
            drafting.near_group_max,
            drafting.near_key_row_sum,
            drafting.near_key_row_max,
            zero,
            zero,
            zero,
            zero,
            zero,
        ),
    )


@inlined
def rows_of(requests, drafters, tlp):
    """Rows of so many decoding requests: `tlp` of each of those that draft, one of each of the others."""
    return requests + drafters * (tlp - 1)


@inlined
def decode_rows(decoding):
    """Rows of all decoding requests."""
    return rows_of(decoding.rlp, decoding.rlp - decoding.single, decoding.tlp)


@inlined
def drafters_of(first, decoding):
    """How many of the first half-batch, of so many requests, draft: half of those that do, if it is not all."""
    drafters = decoding.rlp - decoding.single
    return drafters - (drafters // 2 if first < decoding.rlp else 0)


@exposed
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
        per_key_row(row, shares),
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
def per_key_row(row, shares):
    """Seconds of a key row, with its part of the moves of a last pair without a partner."""
    return row[layout.PER_KEY_ROW_S] + row[layout.UNPAIRED_S] * shares[layout.UNPAIRED]


@inlined
def mixed_seconds(requests, decoding, look):
    """`attention_seconds` of so many of the decoding requests where some verify a single token.

    Every pair of a head and a request reads its keys and values once; its commands and its arithmetic follow its own
    tokens. Pairs lie as in a batch of as many requests and are dealt by the time that they take, so that channels
    come near the mean, and the busiest has no less than any one request needs. What a channel does once is that of
    requests that draft. On PUs each request takes the longer of its reads and its arithmetic. A half-batch is as mixed
    as the whole.
    """
    rlp, single = decoding.rlp, decoding.single
    many, many_shares = look.attention[requests, decoding.tlp], look.shares[requests, decoding.tlp]
    one, one_shares = look.attention[requests, 1], look.shares[requests, 1]
    whole, theirs = decoding, decoding.drafting
    # Groups and key rows are counted in seconds from here on.
    many_group, one_group = many[layout.PER_GROUP_S], one[layout.PER_GROUP_S]
    many_row, one_row = per_key_row(many, many_shares), per_key_row(one, one_shares)
    many_share, one_share = many_shares[layout.SHARE] / rlp, one_shares[layout.SHARE] / rlp
    groups = many_share * many_group * theirs.group_sum
    groups += one_share * one_group * (whole.group_sum - theirs.group_sum)
    key_rows = many_share * many_row * theirs.key_row_sum
    key_rows += one_share * one_row * (whole.key_row_sum - theirs.key_row_sum)
    pairs = (rlp - single) * many[layout.PER_PAIR_S] * many_shares[layout.PAIRS]
    pairs += single * one[layout.PER_PAIR_S] * one_shares[layout.PAIRS]
    tokens = many[layout.PER_TOKEN_S] * theirs.context_sum
    tokens += one[layout.PER_TOKEN_S] * (whole.context_sum - theirs.context_sum)
    many_of_one, one_of_one = many_shares[layout.SHARE_OF_ONE], one_shares[layout.SHARE_OF_ONE]
    # The longest of all may draft: then it takes more than with one token.
    longest = Share(
        max(many_of_one * many_group * theirs.group_max, one_of_one * one_group * whole.group_max),
        max(many_of_one * many_row * theirs.key_row_max, one_of_one * one_row * whole.key_row_max),
    )
    start = max(many[layout.PER_START_S], one[layout.PER_START_S])
    work = Work(1.0, 1.0, 1.0, start, 1.0)
    share = requests / rlp
    return attention_time(work, 1.0, 1.0, pairs / rlp, Share(groups, key_rows), longest, share * tokens)


@inlined
def drafting_contexts(decoding):
    """Tokens of the contexts of all requests that draft."""
    return decoding.drafting.context_sum if decoding.single > 0 else decoding.context_sum


@inlined
def drafting(decoding, slow, look):
    """Seconds and joules of drafting, one token after the other: on the PUs, or on FC-PIM where there are none."""
    if decoding.tlp <= 1 or decoding.rlp == 0:
        return 0.0, 0.0
    scalars = look.scalars
    steps = decoding.tlp - 1
    requests = decoding.rlp - decoding.single
    contexts = drafting_contexts(decoding)
    seconds = steps * (look.draft[requests, 0] + scalars[at.DRAFT_CONTEXT_S] * contexts)
    joules = steps * (look.draft[requests, 1] + scalars[at.DRAFT_CONTEXT_J] * contexts)
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


@seldom
def near_attention(requests, decoding, look):
    """Profiled seconds of decode attention of so many of the decoding requests, if all layers had windows."""
    near = inside_windows(decoding)
    row, shares = look.attention[requests, decoding.tlp], look.shares[requests, decoding.tlp]
    seconds = attention_seconds(requests, near, row, shares)
    if look.scalars[at.UNEVEN] > 0.0 and look.scalars[at.ATTENTION_UNIT] == 0.0:
        seconds *= unevenness(near, look.scalars)
    return seconds


@seldom
def mixed_attention(requests, decoding, look):
    """Profiled seconds of decode attention of so many of the decoding requests where some verify a single token.

    In one function, as large as it is, so that it stays out of the way of iterations in which all verify as many.
    """
    scalars = look.scalars
    uneven = scalars[at.UNEVEN] > 0.0 and scalars[at.ATTENTION_UNIT] == 0.0
    if look.grid.shape[0] > 0:
        seconds = measured_attention(decoding, no_chunk(), look)
    else:
        seconds = mixed_seconds(requests, decoding, look)
        if uneven:
            seconds *= unevenness(decoding, scalars)
    if scalars[at.WINDOW] > 0.0:
        near = inside_windows(decoding)
        near_s = mixed_seconds(requests, near, look)
        if uneven:
            near_s *= unevenness(near, scalars)
        seconds = of_layers(seconds, near_s, scalars)
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
def attended_sums(decoding, scalars):
    """Groups and tokens that are attended to, the mean over layers.

    First those of requests that verify `tlp` tokens, then those of the others.
    """
    group_sum = of_layers(decoding.group_sum, decoding.near_group_sum, scalars)
    context_sum = of_layers(decoding.context_sum, decoding.near_context_sum, scalars)
    if decoding.single == 0:
        return group_sum, context_sum, 0.0, 0.0
    theirs = decoding.drafting
    groups = of_layers(theirs.group_sum, theirs.near_group_sum, scalars)
    contexts = of_layers(theirs.context_sum, theirs.near_context_sum, scalars)
    return groups, contexts, group_sum - groups, context_sum - contexts


@inlined
def decode_joules(requests, decoding, look):
    """Joules of decode attention, so many requests at a time."""
    if decoding.rlp == 0:
        return 0.0
    groups, contexts, single_groups, single_contexts = attended_sums(decoding, look.scalars)
    row = look.attention[requests, decoding.tlp]
    joules = row[layout.PER_GROUP_J] * groups + row[layout.PER_TOKEN_J] * contexts
    if decoding.single > 0:
        one = look.attention[requests, 1]
        joules += one[layout.PER_GROUP_J] * single_groups + one[layout.PER_TOKEN_J] * single_contexts
    return joules
