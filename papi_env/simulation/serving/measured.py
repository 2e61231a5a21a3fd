"""Attention of GPUs as measured, compiled: what `tables.pack_grid` packed, looked up between its points.

One flat array: the lengths of four axes, the axes, and the seconds of all layers at every point, in that order. Axes:
prompt tokens of an iteration, tokens behind them (earlier ones of the same prompt), decoding requests, and the context
of each. Seconds are linear between points along every axis, and on from the last two beyond an axis' end.
"""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import GROUP_TOKENS
from papi_env.simulation.compiled import inlined, inner
from papi_env.simulation.serving import state as at

NUM_AXES = 4


@inlined
def bracket(grid, start, length, x):
    """The position before `x` on an axis, and how far `x` is on the way to the next; no less than its first point."""
    low = 0
    high = length - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if grid[start + middle] <= x:
            low = middle
        else:
            high = middle
    if length == 1:
        return 0, 0.0
    first = grid[start + low]
    return low, max((x - first) / (grid[start + low + 1] - first), 0.0)


@inner
def grid_seconds(grid, prompt, behind, decoding, context):
    """Seconds of attention of all layers."""
    n0 = np.int64(grid[0])
    n1 = np.int64(grid[1])
    n2 = np.int64(grid[2])
    n3 = np.int64(grid[3])
    start = NUM_AXES
    i0, w0 = bracket(grid, start, n0, prompt)
    start += n0
    i1, w1 = bracket(grid, start, n1, behind)
    start += n1
    i2, w2 = bracket(grid, start, n2, decoding)
    start += n2
    i3, w3 = bracket(grid, start, n3, context)
    start += n3
    seconds = 0.0
    for k in range(1 << NUM_AXES):
        b0 = k & 1
        b1 = (k >> 1) & 1
        b2 = (k >> 2) & 1
        b3 = k >> 3
        weight = w0 if b0 else 1.0 - w0
        weight *= w1 if b1 else 1.0 - w1
        weight *= w2 if b2 else 1.0 - w2
        weight *= w3 if b3 else 1.0 - w3
        if weight != 0.0:
            place = (((i0 + b0) * n1 + i1 + b1) * n2 + i2 + b2) * n3 + i3 + b3
            seconds += weight * grid[start + place]
    return seconds


@inner
def measured_attention(decoding, chunk, look):
    """Seconds of attention of the decoding requests and a chunk of prompts, `PromptChunk`, in one kernel.

    Several prompts count as so many of equal length, with their (query, key) pairs: the first beside the decoding
    requests, each further one as it would take alone. Contexts count with their mean, and with a share of what it
    would take if all were as long as the longest (`Serving.uneven_contexts`).
    """
    prompt = 0.0
    behind = 0.0
    others_s = 0.0
    if chunk.rows > 0:
        prompt = chunk.rows / chunk.prompts
        behind = max(chunk.pairs / chunk.rows - 0.5 * (prompt + 1.0), 0.0)
        if chunk.prompts > 1:
            others_s = (chunk.prompts - 1) * grid_seconds(look.grid, prompt, behind, 0.0, 0.0)
    rlp = np.float64(decoding.rlp)
    if decoding.rlp == 0:
        return others_s + grid_seconds(look.grid, prompt, behind, rlp, 0.0)
    mean = decoding.context_sum / rlp
    seconds = grid_seconds(look.grid, prompt, behind, rlp, mean)
    uneven = look.scalars[at.UNEVEN]
    if uneven > 0.0:
        longest = np.float64(decoding.group_max * GROUP_TOKENS)
        seconds += uneven * (grid_seconds(look.grid, prompt, behind, rlp, longest) - seconds)
    return others_s + seconds
