"""What a scheduler of Serving-v0 sees, compiled; the features are named in `serving.state.STATE_NAMES`."""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import GROUP_TOKENS
from papi_env.simulation.compiled import inlined
from papi_env.simulation.serving import state as at
from papi_env.workload.serving import SPECULATION_LENGTHS


@inlined
def squash(x):
    """x / (1 + x)."""
    return x / (1.0 + x)


@inlined
def signed_squash(x):
    """0.5 + 0.5 x / (1 + |x|)."""
    return 0.5 + 0.5 * x / (1.0 + abs(x))


@inlined
def observe_env(e, counters, clocks, scalars, observations):
    """Write the observation of environment e, named in `serving.state.STATE_NAMES`; descriptors stay."""
    rlp = counters[e, at.RLP]
    running = rlp + counters[e, at.PREFILLING]
    reference = scalars[at.REFERENCE_S]
    limit = scalars[at.CONTEXT_LIMIT]
    ttft = scalars[at.TTFT_S]
    observations[e, 0] = squash(counters[e, at.QUEUED] / 16.0)
    observations[e, 1] = squash((clocks[e, at.TIME_S] - clocks[e, at.HEAD_ARRIVAL_S]) / ttft)
    observations[e, 2] = rlp / 256.0
    observations[e, 3] = counters[e, at.PREFILLING] / 256.0
    observations[e, 4] = squash(counters[e, at.PREFILL_BACKLOG] / 2048.0)
    observations[e, 5] = running / scalars[at.MAX_RUNNING]
    # Without paging there is no end of pages, and the share is 0.
    observations[e, 6] = min(
        (counters[e, at.PAGE_SUM] + counters[e, at.PREFILL_PAGES]) / scalars[at.TOTAL_PAGES], 1.0
    )
    observations[e, 7] = squash(4.0 * counters[e, at.CONTEXT_SUM] / max(rlp, 1) / limit)
    observations[e, 8] = squash(4.0 * GROUP_TOKENS * counters[e, at.GROUP_MAX] / limit)
    observations[e, 9] = rlp / (rlp + scalars[at.ALPHA]) if rlp > 0 else 0.0
    observations[e, 10] = squash(clocks[e, at.LAST_TIME_S] / reference)
    observations[e, 11] = squash(clocks[e, at.LAST_FC_S] / reference)
    observations[e, 12] = squash(clocks[e, at.LAST_ATTENTION_S] / reference)
    observations[e, 13] = squash(clocks[e, at.LAST_DRAFT_S] / reference)
    observations[e, 14] = squash(clocks[e, at.LAST_PREFILL_S] / reference)
    observations[e, 15] = squash(clocks[e, at.LAST_COMMUNICATION_S] / reference)
    observations[e, 16] = counters[e, at.LAST_DECODED] / max(counters[e, at.LAST_N], 1)
    observations[e, 17] = counters[e, at.LAST_CHUNK] / 512.0
    feature = at.LAST_ACTION_FEATURE
    for k in range(4):
        last = counters[e, at.LAST_ACTION + k]
        for choice in range(at.NVEC[k]):
            observations[e, feature] = 1.0 if last == choice else 0.0
            feature += 1
    for unit in range(at.NUM_DRIFTING):
        observations[e, feature] = squash(max(np.log2(clocks[e, at.SEEN_DRIFT + unit]), 0.0))
        feature += 1
    for k in range(1, len(SPECULATION_LENGTHS)):
        observations[e, feature] = clocks[e, at.SEEN_TOKENS + k] / SPECULATION_LENGTHS[k]
        feature += 1
    observations[e, feature] = clocks[e, at.SEEN_ACCEPTED]
    pace = 16.0 * scalars[at.TPOT_S]
    observations[e, feature + 1] = signed_squash(clocks[e, at.SLACK_MEAN_S] / pace)
    observations[e, feature + 2] = signed_squash(clocks[e, at.SLACK_MIN_S] / pace)
    observations[e, feature + 3] = clocks[e, at.BEHIND]
    observations[e, feature + 4] = clocks[e, at.LOST]
    finished = counters[e, at.FINISHED]
    observations[e, feature + 5] = counters[e, at.ATTAINED] / finished if finished > 0 else 1.0
    elapsed = max(clocks[e, at.TIME_S], reference)
    observations[e, feature + 6] = squash(counters[e, at.ARRIVED] / elapsed * ttft / 16.0)
