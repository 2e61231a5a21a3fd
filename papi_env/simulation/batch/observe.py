"""What a scheduler of a static batch sees, compiled; the features are declared in `state.STATE_FEATURES`."""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import GROUP_TOKENS
from papi_env.simulation.batch import state as at
from papi_env.simulation.compiled import inlined

MAX_ROWS = at.MAX_BATCH * at.MAX_SPECULATION


@inlined
def squash(x):
    """x / (1 + x), in float32 as it is observed."""
    x = np.float32(x)
    return x / np.float32(x + np.float32(1.0))


@inlined
def share(x, of):
    """x / of, in float32."""
    return np.float32(x) / np.float32(of)


@inlined
def observe_batch(counters, scalars, observations):
    """Write the features that change only with RLP and TLP."""
    rlp, tlp = counters[at.RLP], counters[at.TLP]
    n, batch = rlp * tlp, scalars[at.BATCH]
    observations[at.COLUMN.rlp] = rlp / at.MAX_BATCH
    observations[at.COLUMN.tlp] = tlp / at.MAX_SPECULATION
    observations[at.COLUMN.n] = n / MAX_ROWS
    # An infinite α (no PUs) gives 0; n = 0 occurs only after the last iteration.
    observations[at.COLUMN.n_share_of_alpha] = n / (n + scalars[at.ALPHA]) if n > 0 else 0.0
    observations[at.COLUMN.batch_size] = batch / at.MAX_BATCH
    observations[at.COLUMN.finished] = 1.0 - rlp / max(batch, 1.0)


@inlined
def observe_env(counters, clocks, scalars, per_reference, observations):
    """Write the other features of `state.STATE_FEATURES`; descriptors are there for good."""
    limit = scalars[at.CONTEXT_LIMIT]
    held = 4.0 * counters[at.CONTEXT_SUM]
    longest = 4.0 * GROUP_TOKENS * counters[at.GROUP_MAX]
    observations[at.COLUMN.mean_context] = share(held, held + max(counters[at.RLP], 1) * limit)
    observations[at.COLUMN.longest_context] = share(longest, longest + limit)
    observations[at.COLUMN.iteration] = share(counters[at.ITERATION], counters[at.ITERATION] + 256)
    observations[at.COLUMN.last_finished] = share(counters[at.LAST_FINISHED], max(scalars[at.BATCH], 1.0))
    observations[at.COLUMN.last_decoded] = share(counters[at.LAST_DECODED], max(counters[at.LAST_N], 1))
    observations[at.COLUMN.last_time] = squash(clocks[at.LAST_TIME_S] * per_reference)
    observations[at.COLUMN.last_communication] = squash(clocks[at.LAST_COMMUNICATION_S] * per_reference)
    for k in range(at.NUM_CLASSES * at.NUM_UNITS):
        observations[at.LAST_UNIT_FEATURE + k] = 0.0
    for k in range(at.NUM_CLASSES):
        observations[at.LAST_CLASS_FEATURE + k] = squash(clocks[at.LAST_CLASS_S + k] * per_reference)
        unit = counters[at.LAST_UNIT + k]
        if unit >= 0:
            observations[at.LAST_UNIT_FEATURE + at.NUM_UNITS * k + unit] = 1.0
    for u in range(2):
        observations[at.SEEN_FEATURE + u] = squash(clocks[at.SEEN_FC_S + u] * per_reference)
        observations[at.SEEN_N_FEATURE + u] = counters[at.SEEN_N + u] / MAX_ROWS


@inlined
def observe_experts(counters, clocks, features, per_reference, observations):
    """Write `state.EXPERT_STATE_FEATURES`, if they are observed; descriptors are there for good."""
    if observations.shape[0] <= at.EXPERT_FEATURE:
        return
    n = counters[at.RLP] * counters[at.TLP]
    for k in range(at.NUM_EXPERT_SHAPE):
        observations[at.EXPERT_FEATURE + k] = features[n, k]
    observations[at.COLUMN.last_time_experts] = squash(clocks[at.LAST_EXPERTS_S] * per_reference)
    for k in range(at.SPLIT + 1):
        observations[at.LAST_EXPERTS_FEATURE + k] = 1.0 if counters[at.LAST_EXPERTS] == k else 0.0


@inlined
def hand_over(e, counters, clocks, images, experts, observations, handed):
    """Copy what a step gives of environment e to arrays that its caller keeps.

    Best one environment late: what was written last still is on its way to the nearest cache.

    Args:
        counters, clocks, observations: of all environments.
        handed: observations, counters (`state.HANDED_COUNTERS`) and clocks (`HANDED_CLOCKS`) to write, or None.
    """
    if handed is None:
        return
    own_observations, own_counters, own_clocks = handed
    for k in range(own_observations.shape[1]):
        own_observations[e, k] = observations[e, k]
    for k in range(at.NUM_HANDED_COUNTERS):
        own_counters[e, k] = counters[e, at.RLP + k]
    for k in range(at.NUM_HANDED_CLOCKS):
        own_clocks[e, k] = clocks[e, at.RETURN - 1 + k]
    own_clocks[e, 0] = clocks[e, at.TIME_S]
    if own_counters.shape[1] > at.NUM_HANDED_COUNTERS:
        for k in range(at.NUM_HANDED_STAGE_COUNTERS):
            own_counters[e, at.NUM_HANDED_COUNTERS + k] = counters[e, at.STAGE + k]
    if experts is not None:
        for k in range(at.NUM_EXPERT_CLOCKS - at.EXPERTS_S):
            own_clocks[e, at.NUM_HANDED_CLOCKS + k] = clocks[e, at.EXPERTS_S + k]
