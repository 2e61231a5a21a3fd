"""What a scheduler of a static batch sees, compiled; the features are declared in `state.STATE_FEATURES`."""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import GROUP_TOKENS
from papi_env.simulation.batch import state as at
from papi_env.simulation.compiled import inlined, lean
from papi_env.simulation.vectors import mover, squasher

MAX_ROWS = at.MAX_BATCH * at.MAX_SPECULATION
move_features = mover(at.TEMPLATE)
move_four = mover(4)
move_iteration, move_stage_clocks = mover(at.NUM_HANDED_ITERATION), mover(at.NUM_HANDED_STAGE_CLOCKS)
# The last step's seconds, those of communication and of each class, as neighbours.
squash_times = squasher(
    tuple(
        column - at.LAST_TIME_S
        for column in (
            at.LAST_TIME_S,
            at.LAST_COMMUNICATION_S,
            *range(at.LAST_CLASS_S, at.LAST_CLASS_S + at.NUM_CLASSES),
        )
    )
)


@inlined
def squash(x):
    """x / (1 + x), in float32 as it is observed."""
    x = np.float32(x)
    return x / np.float32(x + np.float32(1.0))


@inlined
def share(x, of):
    """x / of, in float32."""
    return np.float32(x) / np.float32(of)


@lean
def write_templates(fixed, scalars, experts, templates):
    """Write what observations begin as: all that depends on nothing else than RLP and TLP.

    Args:
        fixed: float32 [features], the descriptors, 0 elsewhere.
        scalars: of the scenario; experts: `lookups.ExpertLookups`, or None.
        templates: float32 [TLP = 0.., RLP = 0.., TEMPLATE_WIDTH], written up to the batch's requests.
    """
    batch = scalars[at.BATCH]
    for tlp in range(templates.shape[0]):
        for rlp in range(int(batch) + 1):
            observations = templates[tlp, rlp, : fixed.shape[0]]
            n = rlp * tlp
            for k in range(fixed.shape[0]):
                observations[k] = fixed[k]
            observations[at.COLUMN.rlp] = rlp / at.MAX_BATCH
            observations[at.COLUMN.tlp] = tlp / at.MAX_SPECULATION
            observations[at.COLUMN.n] = n / MAX_ROWS
            # An infinite α (no PUs) gives 0; n = 0 occurs only after the last iteration.
            observations[at.COLUMN.n_share_of_alpha] = n / (n + scalars[at.ALPHA]) if n > 0 else 0.0
            observations[at.COLUMN.batch_size] = batch / at.MAX_BATCH
            observations[at.COLUMN.finished] = 1.0 - rlp / max(batch, 1.0)
            if experts is not None and observations.shape[0] > at.EXPERT_FEATURE:
                for k in range(at.NUM_EXPERT_SHAPE):
                    observations[at.EXPERT_FEATURE + k] = experts[1][n, k]


@inlined
def begin(tlp, rlp, templates, observations):
    """Begin an observation, of more than two cache lines, with what its template holds."""
    first = (np.uint64(tlp) * np.uint64(at.TEMPLATE_ROWS) + np.uint64(rlp)) * np.uint64(at.TEMPLATE_WIDTH)
    move_features(templates, first, observations, np.uint64(0))
    move_features(templates, first + np.uint64(at.TEMPLATE), observations, np.uint64(at.TEMPLATE))
    # The last vector over what is left: parts that two of them hold are the same.
    last = np.uint64(observations.shape[0] - at.TEMPLATE)
    for part in range(2 * at.TEMPLATE, observations.shape[0] - at.TEMPLATE, at.TEMPLATE):
        move_features(templates, first + np.uint64(part), observations, np.uint64(part))
    move_features(templates, first + last, observations, last)


@inlined
def begin_again(tlp, rlp, templates, observations):
    """`begin` where an earlier observation stands, of a model without experts: no more than what changes."""
    first = (np.uint64(tlp) * np.uint64(at.TEMPLATE_ROWS) + np.uint64(rlp)) * np.uint64(at.TEMPLATE_WIDTH)
    for part in range(0, at.NUM_STATE_FEATURES - at.TEMPLATE, at.TEMPLATE):
        move_features(templates, first + np.uint64(part), observations, np.uint64(part))
    last = np.uint64(at.NUM_STATE_FEATURES - at.TEMPLATE)
    move_features(templates, first + last, observations, last)


@inlined
def observe_env(counters, clocks, scalars, per_reference, observations):
    """Write the features of `state.STATE_FEATURES` that templates lack."""
    limit = scalars[at.CONTEXT_LIMIT]
    held = 4.0 * counters[at.CONTEXT_SUM]
    longest = 4.0 * GROUP_TOKENS * counters[at.GROUP_MAX]
    observations[at.COLUMN.mean_context] = share(held, held + max(counters[at.RLP], 1) * limit)
    observations[at.COLUMN.longest_context] = share(longest, longest + limit)
    observations[at.COLUMN.iteration] = share(counters[at.ITERATION], counters[at.ITERATION] + 256)
    observations[at.COLUMN.last_finished] = share(counters[at.LAST_FINISHED], max(scalars[at.BATCH], 1.0))
    observations[at.COLUMN.last_decoded] = share(counters[at.LAST_DECODED], max(counters[at.LAST_N], 1))
    squash_times(clocks, at.LAST_TIME_S, per_reference, observations, at.COLUMN.last_time)
    # Where templates have zeros, but for those that the vector above was written over. An iteration names all of them.
    observations[at.LAST_UNIT_FEATURE] = 0.0
    observations[at.LAST_UNIT_FEATURE + 1] = 0.0
    if counters[at.LAST_UNIT] >= 0:
        for k in range(at.NUM_CLASSES):
            place = np.uint64(at.LAST_UNIT_FEATURE + at.NUM_UNITS * k)
            observations[place + np.uint64(counters[at.LAST_UNIT + k])] = 1.0
    for u in range(2):
        observations[at.SEEN_FEATURE + u] = squash(clocks[at.SEEN_FC_S + u] * per_reference)
        observations[at.SEEN_N_FEATURE + u] = counters[at.SEEN_N + u] / MAX_ROWS


@inlined
def observe_experts(counters, clocks, per_reference, observations):
    """Write the features of `state.EXPERT_STATE_FEATURES` that templates lack, if they are observed."""
    if observations.shape[0] <= at.EXPERT_FEATURE:
        return
    observations[at.COLUMN.last_time_experts] = squash(clocks[at.LAST_EXPERTS_S] * per_reference)
    for k in range(at.SPLIT + 1):
        observations[at.LAST_EXPERTS_FEATURE + k] = 1.0 if counters[at.LAST_EXPERTS] == k else 0.0


@inlined
def hand_over(counters, clocks, images, experts, own_counters, own_clocks):
    """Copy what `info` says of an environment to rows that its caller keeps.

    Args:
        counters, clocks: of the environment.
        own_counters: `state.HANDED_COUNTERS`, then those of stages; own_clocks: `HANDED_CLOCKS`, then those of stages
            and of experts.
    """
    # One by one, as they were written: a vector over them would wait until they have left the store buffer.
    for k in range(at.NUM_HANDED_COUNTERS):
        own_counters[k] = counters[at.RLP + k]
    move_iteration(clocks, at.LAST_TIME_S, own_clocks, 0)
    own_clocks[at.NUM_HANDED_ITERATION] = clocks[at.LAST_REWARD_TIME]
    own_clocks[at.NUM_HANDED_ITERATION + 1] = clocks[at.LAST_REWARD_ENERGY]
    own_clocks[at.NUM_HANDED_ITERATION + 2] = clocks[at.TIME_S]
    handed = at.NUM_HANDED_CLOCKS
    if own_counters.shape[0] > at.NUM_HANDED_COUNTERS:
        if images is not None:
            move_four(counters, at.STAGE, own_counters, at.NUM_HANDED_COUNTERS)
            move_stage_clocks(clocks, at.LAST_STAGE_CLASS_S, own_clocks, handed)
        else:
            # What a reset wrote is known; the lines that it stands in are not asked for.
            own_counters[at.NUM_HANDED_COUNTERS] = -1
            for k in range(1, at.NUM_HANDED_STAGE_COUNTERS):
                own_counters[at.NUM_HANDED_COUNTERS + k] = 0
            for k in range(at.NUM_HANDED_STAGE_CLOCKS):
                own_clocks[handed + k] = 0.0
        handed += at.NUM_HANDED_STAGE_CLOCKS
    if experts is not None:
        for k in range(at.NUM_EXPERT_CLOCKS - at.EXPERTS_S):
            own_clocks[handed + k] = clocks[at.EXPERTS_S + k]
