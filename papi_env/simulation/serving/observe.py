"""What a scheduler sees, compiled; what each feature is stands in `serving.state`.

Those are `STATE_FEATURES`, and with classes of requests `SERVICE_FEATURES` besides.
"""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import GROUP_TOKENS
from papi_env.simulation.compiled import exposed, inlined
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.state import COLUMN, SERVICE_COLUMN
from papi_env.workload.serving import SPECULATION_LENGTHS

# Features that say what was chosen, in Serving-v0 and beyond it.
_CHOSEN = sum(at.NVEC)
_CHOSEN_V1 = sum(at.NVEC_V1) - _CHOSEN
# Times of the last iteration, clocks and features in the same order.
_TIMES = at.LAST_COMMUNICATION_S - at.LAST_TIME_S + 1


@inlined
def squash(x):
    """x / (1 + x)."""
    return x / (1.0 + x)


@inlined
def signed_squash(x):
    """0.5 + 0.5 x / (1 + |x|)."""
    return 0.5 + 0.5 * x / (1.0 + abs(x))


@inlined
def note_choice(e, first, count, choice, observations):
    """Of `count` features from `first` on, all 0, that of a choice is 1; none before the first, or of a reference's."""
    # What is written is chosen, not whether: a branch would be guessed wrong.
    seen = 0 <= choice < count
    observations[e, np.uint64(first + (choice if seen else 0))] = 1.0 if seen else 0.0


@exposed
def observe_env(e, counters, clocks, scalars, observations):
    """Write the observation of environment e, all of `serving.state.STATE_FEATURES`; descriptors stay."""
    rlp = counters[e, at.RLP]
    running = rlp + counters[e, at.PREFILLING]
    reference = scalars[at.REFERENCE_S]
    limit = scalars[at.CONTEXT_LIMIT]
    ttft = scalars[at.TTFT_S]
    observations[e, COLUMN.queued] = squash(counters[e, at.QUEUED] / 16.0)
    observations[e, COLUMN.oldest_wait] = squash((clocks[e, at.TIME_S] - clocks[e, at.HEAD_ARRIVAL_S]) / ttft)
    # Of more than a preset's requests, and longer chunks, no more than all is seen.
    observations[e, COLUMN.rlp] = min(rlp / 256.0, 1.0)
    observations[e, COLUMN.prefilling] = min(counters[e, at.PREFILLING] / 256.0, 1.0)
    observations[e, COLUMN.prefill_backlog] = squash(counters[e, at.PREFILL_BACKLOG] / 2048.0)
    observations[e, COLUMN.running_share] = running / scalars[at.MAX_RUNNING]
    if scalars[at.SERVICE] == 0.0:  # else with prefixes, see `observe_service`
        # Without paging there is no end of pages, and the share is 0.
        observations[e, COLUMN.kv_use] = min(
            (counters[e, at.PAGE_SUM] + counters[e, at.PREFILL_PAGES]) / scalars[at.TOTAL_PAGES], 1.0
        )
    observations[e, COLUMN.mean_context] = squash(4.0 * counters[e, at.CONTEXT_SUM] / max(rlp, 1) / limit)
    observations[e, COLUMN.longest_context] = squash(4.0 * GROUP_TOKENS * counters[e, at.GROUP_MAX] / limit)
    observations[e, COLUMN.n_share_of_alpha] = rlp / (rlp + scalars[at.ALPHA]) if rlp > 0 else 0.0
    for k in range(_TIMES):
        observations[e, COLUMN.last_time + k] = squash(clocks[e, at.LAST_TIME_S + k] / reference)
    observations[e, COLUMN.last_decoded] = counters[e, at.LAST_DECODED] / max(counters[e, at.LAST_N], 1)
    observations[e, COLUMN.last_chunk] = min(counters[e, at.LAST_CHUNK] / 512.0, 1.0)
    for feature in range(COLUMN.last_fc_pu, COLUMN.last_fc_pu + _CHOSEN):
        observations[e, feature] = 0.0
    feature = COLUMN.last_fc_pu
    for k in range(len(at.NVEC)):
        note_choice(e, feature, at.NVEC[k], counters[e, at.LAST_ACTION + k], observations)
        feature += at.NVEC[k]
    for unit in range(at.NUM_DRIFTING):
        seen = clocks[e, at.SEEN_DRIFT + unit]
        observations[e, COLUMN.drift_pu + unit] = squash(np.log2(seen)) if seen > 1.0 else 0.0
    for k in range(1, len(SPECULATION_LENGTHS)):
        gained = clocks[e, at.SEEN_TOKENS + k] / SPECULATION_LENGTHS[k]
        observations[e, COLUMN.tokens_at_2 + k - 1] = gained
    observations[e, COLUMN.accepted] = clocks[e, at.SEEN_ACCEPTED]
    pace = 16.0 * scalars[at.TPOT_S]
    observations[e, COLUMN.tpot_slack_mean] = signed_squash(clocks[e, at.SLACK_MEAN_S] / pace)
    observations[e, COLUMN.tpot_slack_min] = signed_squash(clocks[e, at.SLACK_MIN_S] / pace)
    observations[e, COLUMN.behind] = clocks[e, at.BEHIND]
    observations[e, COLUMN.lost] = clocks[e, at.LOST]
    finished = counters[e, at.FINISHED]
    observations[e, COLUMN.attainment] = counters[e, at.ATTAINED] / finished if finished > 0 else 1.0
    elapsed = max(clocks[e, at.TIME_S], reference)
    observations[e, COLUMN.arrival_rate] = squash(counters[e, at.ARRIVED] / elapsed * ttft / 16.0)


@inlined
def share(part, whole):
    """Part of a whole, from 0 to 1; 0 of nothing."""
    return min(max(part / whole, 0.0), 1.0) if whole > 0.0 else 0.0


@inlined
def observe_classes(e, counters, clocks, kinds, observations):
    """Write what is seen of each class's queue; those that the scenario lacks stay 0."""
    seen = -1
    for kind in range(kinds.shape[0]):
        c = np.int64(kinds[kind, at.OF_CLASS])
        if c == seen:  # kinds of one class stand together, and have its objectives
            continue
        seen = c
        waiting = counters[e, at.CLASS_QUEUED + c]
        slack = clocks[e, at.CLASS_SLACK_S + c] / kinds[kind, at.KIND_TTFT_S] if waiting > 0 else 1.0
        prompt = clocks[e, at.CLASS_PROMPT + c] if waiting > 0 else 0.0
        observations[e, SERVICE_COLUMN.queued_0 + c] = squash(waiting / 16.0)
        observations[e, SERVICE_COLUMN.slack_0 + c] = signed_squash(slack)
        observations[e, SERVICE_COLUMN.prompt_0 + c] = squash(prompt / 2048.0)
        observations[e, SERVICE_COLUMN.accepted_0 + c] = min(max(clocks[e, at.CLASS_ACCEPTED + c], 0.0), 1.0)


@inlined
def observe_service(e, state, kinds, scalars, observations):
    """Write what is seen of classes and conversations: `serving.state.SERVICE_FEATURES`, and pages with prefixes."""
    counters, clocks = state.counters, state.clocks
    observe_classes(e, counters, clocks, kinds, observations)
    pages = scalars[at.TOTAL_PAGES]
    kept = counters[e, at.KEPT_PAGES]
    # A prefix counts once for all who use it.
    held = counters[e, at.PAGE_SUM] + counters[e, at.PREFILL_PAGES] + counters[e, at.SHARED_PAGES]
    observations[e, COLUMN.kv_use] = share(held, pages)
    observations[e, SERVICE_COLUMN.kept] = share(kept, pages)
    wanted = 0.0
    prefixes = 0
    for number in range(at.MAX_CLASSES):
        wanted += counters[e, at.CLASS_QUEUED + number] * clocks[e, at.CLASS_PROMPT + number]
        prefixes += state.prefixes[e, number, at.PREFIX_PAGES]
    # Tokens as pages: a power of two, so that the sum is the same as of quotients.
    wanted /= np.int64(1) << np.int64(scalars[at.PAGE_LOG2])
    observations[e, SERVICE_COLUMN.at_risk] = share(held + kept + wanted - pages, kept)
    observations[e, SERVICE_COLUMN.shared] = share(prefixes, pages)
    observations[e, SERVICE_COLUMN.open] = squash(counters[e, at.OPEN] / 64.0)
    age = clocks[e, at.TIME_S] - clocks[e, at.LAST_SWITCH_S]
    observations[e, SERVICE_COLUMN.mode_age] = squash(age / (64.0 * scalars[at.REFERENCE_S]))
    served = clocks[e, at.SERVED]
    judged = served + clocks[e, at.LOST_WORTH]
    observations[e, SERVICE_COLUMN.served] = share(served, judged) if judged > 0.0 else 1.0
    for k in range(2 if scalars[at.HEAT_RESISTANCE] > 0.0 else 0):
        observations[e, SERVICE_COLUMN.heat_weights + k] = share(clocks[e, at.HEAT + k], 125.0)
    for feature in range(SERVICE_COLUMN.last_order_arrival, SERVICE_COLUMN.last_order_arrival + _CHOSEN_V1):
        observations[e, feature] = 0.0
    feature = SERVICE_COLUMN.last_order_arrival
    for k in range(len(at.NVEC), len(at.NVEC_V1)):
        choice = counters[e, at.LAST_SERVICE + k - len(at.NVEC)]
        note_choice(e, feature, at.NVEC_V1[k], choice, observations)
        feature += at.NVEC_V1[k]
