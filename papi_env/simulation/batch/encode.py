"""The dynamics of encoding images, compiled: what a stage costs on given units, and what comes after it.

A step is a stage. Its kernels run in the order embedding, then in each unit of the network FC1 and FC2, the
local perceptron (training form), FC3, FFN. Wherever consecutive kernels are on different units the stacks
change mode; activations cross where the data flow does: the pooled channels to FC1, the scales from FC2 back
to FC3's output, the map to the local perceptron and FC3 from where the unit began, their sum to one place,
the result to FFN, and the stage's input to the embedding.
"""

from __future__ import annotations

import numpy as np

from papi_env.simulation.batch import state as at
from papi_env.simulation.compiled import inlined, inner, lean
from papi_env.simulation.draws import mix, request_key

_IMAGES = np.uint64(0x2545F4914F6CDD1D)
_32 = np.uint64(32)


@lean
def drawn_images(seed, episode, encode, batches):
    """Images of an encode: evenly one of `batches`, keyed by (seed, episode, encode)."""
    high = mix(request_key(seed, episode, encode) ^ _IMAGES) >> _32
    return batches[np.int64((high * np.uint64(batches.shape[0])) >> _32)]


@inner
def start_encode(counters, batches):
    """Let the next encode of an environment wait with its first stage."""
    counters[at.STAGE] = 0
    counters[at.IMAGES] = drawn_images(counters[at.SEED], counters[at.EPISODE], counters[at.ENCODE], batches)


@inlined
def unit_crossings(before, global_unit, fc3, ffn, convolution, merged):
    """Crossings in one unit of the network that takes its map from `before`: (switches, pooled, maps)."""
    switches = int(before != global_unit) + int(fc3 != ffn)
    pooled = int(before != global_unit) + int(global_unit != fc3)
    maps = int(before != fc3) + int(fc3 != ffn)
    if merged:
        switches += int(global_unit != fc3)
    else:
        switches += int(global_unit != convolution) + int(convolution != fc3)
        maps += int(before != convolution) + int(convolution != fc3)
    return switches, pooled, maps


@lean
def stage_cost(stage, images, last_fc, global_unit, fc3, ffn, stages, stage_moves, blocks, scalars):
    """Cost of one stage with FC1 and FC2, FC3, and FFN on the given units.

    Returns:
        (seconds, dynamic joules, communication s, switching s, seconds of FC1 and FC2, FC3, FFN and
        convolutions, mode switches, joules of links). The first is the sum of the next six times.
    """
    convolution = int(scalars[at.CONVOLUTION_UNIT])
    global_s = stages[stage, 0, global_unit, images, at.COST_S]
    fc3_s = stages[stage, 1, fc3, images, at.COST_S]
    ffn_s = stages[stage, 2, ffn, images, at.COST_S]
    convolution_s = stages[stage, 3, convolution, images, at.COST_S]
    joules = (
        stages[stage, 0, global_unit, images, at.COST_J]
        + stages[stage, 1, fc3, images, at.COST_J]
        + stages[stage, 2, ffn, images, at.COST_J]
        + stages[stage, 3, convolution, images, at.COST_J]
    )
    communication_s = stage_moves[stage, images, at.STAGE_COMBINE_S]
    moved_j = stage_moves[stage, images, at.STAGE_COMBINE_J]
    joules += moved_j

    merged = scalars[at.MERGED] > 0.0
    entered = int(last_fc >= 0 and last_fc != convolution)
    first = unit_crossings(convolution, global_unit, fc3, ffn, convolution, merged)
    later = unit_crossings(ffn, global_unit, fc3, ffn, convolution, merged)
    units = blocks[stage]
    switches = entered + first[0] + (units - 1) * later[0]
    switching_s = 0.0
    if scalars[at.SWITCH_S] > 0.0:
        pooled = first[1] + (units - 1) * later[1]
        maps = first[2] + (units - 1) * later[2]
        switching_s = switches * scalars[at.SWITCH_S]
        communication_s += (
            entered * stage_moves[stage, images, at.INPUT_S]
            + pooled * stage_moves[stage, images, at.POOLED_S]
            + maps * stage_moves[stage, images, at.MAP_S]
        )
        crossing_j = (
            entered * stage_moves[stage, images, at.INPUT_J]
            + pooled * stage_moves[stage, images, at.POOLED_J]
            + maps * stage_moves[stage, images, at.MAP_J]
        )
        joules += crossing_j
        moved_j += crossing_j

    seconds = communication_s + switching_s + global_s + fc3_s + ffn_s + convolution_s
    return (
        seconds,
        joules,
        communication_s,
        switching_s,
        global_s,
        fc3_s,
        ffn_s,
        convolution_s,
        switches,
        moved_j,
    )


@inlined
def charge_stage_causes(stage, images, global_unit, fc3, ffn, moved_j, clocks, stages, scalars):
    """Charge an environment with the joules of a stage by cause, if its clocks have columns for them."""
    if clocks.shape[0] < at.NUM_CLOCKS:
        return
    convolution = int(scalars[at.CONVOLUTION_UNIT])
    for k in range(at.LINK):
        clocks[at.CAUSE_J + k] += (
            stages[stage, 0, global_unit, images, at.COST_CAUSES + k]
            + stages[stage, 1, fc3, images, at.COST_CAUSES + k]
            + stages[stage, 2, ffn, images, at.COST_CAUSES + k]
            + stages[stage, 3, convolution, images, at.COST_CAUSES + k]
        )
    clocks[at.CAUSE_J + at.LINK] += moved_j


@inner
def encode_env(global_unit, fc3, ffn, counters, clocks, lookups, scalars):
    """Run the coming stage of an environment on the given units; `lookups.ImageLookups`. Returns the reward."""
    stages, batches = lookups.stages, lookups.batches
    stage, images = counters[at.STAGE], counters[at.IMAGES]
    (
        seconds,
        joules,
        communication_s,
        switching_s,
        global_s,
        fc3_s,
        ffn_s,
        convolution_s,
        switches,
        moved_j,
    ) = stage_cost(
        stage,
        images,
        counters[at.LAST_FC],
        global_unit,
        fc3,
        ffn,
        stages,
        lookups.moves,
        lookups.blocks,
        scalars,
    )
    clocks[at.TIME_S] += seconds
    clocks[at.DYNAMIC_J] += joules
    clocks[at.COMMUNICATION_S] += communication_s
    clocks[at.SWITCHING_S] += switching_s
    clocks[at.LAST_TIME_S] = seconds
    clocks[at.LAST_DYNAMIC_J] = joules
    clocks[at.LAST_COMMUNICATION_S] = communication_s
    clocks[at.LAST_SWITCHING_S] = switching_s
    charge(at.REPMLP_FC1_FC2, global_unit, global_s, counters, clocks)
    charge(at.REPMLP_FC3, fc3, fc3_s, counters, clocks)
    charge(at.REPMLP_FFN, ffn, ffn_s, counters, clocks)
    charge(
        at.CONVOLUTION,
        int(scalars[at.CONVOLUTION_UNIT]),
        convolution_s,
        counters,
        clocks,
    )
    charge_stage_causes(stage, images, global_unit, fc3, ffn, moved_j, clocks, stages, scalars)
    counters[at.SWITCHES] += switches
    counters[at.LAST_FC] = ffn
    counters[at.STAGES_RUN] += 1
    counters[at.LAST_STAGE] = stage
    counters[at.LAST_IMAGES] = images
    total_j = joules + seconds * scalars[at.STATIC_W]
    reference = scalars[at.REFERENCE]
    clocks[at.LAST_REWARD_TIME] = -seconds / reference
    clocks[at.LAST_REWARD_ENERGY] = -scalars[at.ENERGY_WEIGHT] * total_j / reference
    reward = clocks[at.LAST_REWARD_TIME] + clocks[at.LAST_REWARD_ENERGY]
    clocks[at.RETURN] += reward
    if stage + 1 < stages.shape[0]:
        counters[at.STAGE] = stage + 1
        return reward
    counters[at.ENCODE] += 1
    counters[at.ENCODED] += images
    if counters[at.ENCODE] < scalars[at.ENCODES]:
        start_encode(counters, batches)
    else:
        counters[at.STAGE] = -1
        counters[at.IMAGES] = 0
    return reward


@inlined
def charge(kernel_class, unit, seconds, counters, clocks):
    """Book the seconds of a class of a stage to its unit."""
    clocks[at.BUSY_S + unit] += seconds
    k = kernel_class - at.NUM_CLASSES
    clocks[at.STAGE_CLASS_S + k] += seconds
    clocks[at.LAST_STAGE_CLASS_S + k] = seconds
    counters[at.LAST_STAGE_UNIT + k] = unit


@inner
def forget_stage(counters, clocks):
    """After the last encode an iteration is the last step: no stage's times are."""
    counters[at.LAST_STAGE] = -1
    for k in range(at.NUM_TIMED - at.NUM_CLASSES):
        clocks[at.LAST_STAGE_CLASS_S + k] = 0.0


@inner
def observe_stage(counters, clocks, features, scalars, observations):
    """Write the features that Kernels-v0 appends (`state.STAGE_STATE_FEATURES`); descriptors are there."""
    stage, images = counters[at.STAGE], counters[at.IMAGES]
    for k in range(at.MAX_STAGES):
        observations[at.STAGE_FEATURE + k] = 1.0 if stage == k else 0.0
    observations[at.IMAGES_FEATURE] = images / at.MAX_IMAGES
    observations[at.COLUMN.encodes_left] = 1.0 - counters[at.ENCODE] / scalars[at.ENCODES]
    for k in range(2 * at.NUM_STAGE_CLASSES):
        observations[at.SHAPE_FEATURE + k] = features[stage, images, k] if stage >= 0 else 0.0
    for k in range(at.NUM_STAGE_CLASSES):
        x = clocks[at.LAST_STAGE_CLASS_S + k]
        observations[at.LAST_STAGE_TIME_FEATURE + k] = x / (x + scalars[at.REFERENCE])
        for u in range(at.NUM_UNITS):
            observations[at.LAST_STAGE_UNIT_FEATURE + at.NUM_UNITS * k + u] = (
                1.0 if counters[at.LAST_STAGE_UNIT + k] == u else 0.0
            )
