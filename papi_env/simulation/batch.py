"""The loops over environments: resolving actions, resets and autoresets, steps, and the costs of all actions.

Tables are unpacked before each loop, state is passed as whole arrays with an index.
"""

from __future__ import annotations

import numpy as np

from papi_env.simulation import layout as at
from papi_env.simulation.decode import advance_env, inlined, iteration_cost, njit, observe_env, reset_env
from papi_env.simulation.encode import encode_env, forget_stage, observe_stage, stage_cost, start_encode

# Autoreset, as the compiled step knows it.
DISABLED, NEXT_STEP, SAME_STEP = range(3)


@inlined
def chosen_unit(kernel_class, unit, allowed, defaults):
    """The unit that a choice means: itself where allowed, else the documented default."""
    if allowed[kernel_class, unit]:
        return unit
    return defaults[kernel_class]


@inlined
def resolve(e, actions, allowed, defaults):
    """Units of an iteration for row e of `actions` [num_envs, 1 or 7], and how many choices were invalid.

    One column: the unit of all FC kernels, attention on its default. The classes of a stage are ignored.
    """
    if actions.shape[1] == 1:
        unit = actions[e, 0]
        chosen = chosen_unit(at.QKV, unit, allowed, defaults)
        return chosen, defaults[at.ATTENTION], chosen, chosen, int(chosen != unit)
    qkv = chosen_unit(at.QKV, actions[e, 0], allowed, defaults)
    attention = chosen_unit(at.ATTENTION, actions[e, 1], allowed, defaults)
    projection = chosen_unit(at.PROJECTION, actions[e, 2], allowed, defaults)
    feed_forward = chosen_unit(at.FEED_FORWARD, actions[e, 3], allowed, defaults)
    invalid = (
        int(qkv != actions[e, 0])
        + int(attention != actions[e, 1])
        + int(projection != actions[e, 2])
        + int(feed_forward != actions[e, 3])
    )
    return qkv, attention, projection, feed_forward, invalid


@inlined
def resolve_stage(e, actions, allowed, defaults):
    """Units of a stage for row e of `actions` [num_envs, 7], and how many choices were invalid.

    The classes of an iteration are ignored.
    """
    global_unit = chosen_unit(at.REPMLP_FC1_FC2, actions[e, at.REPMLP_FC1_FC2], allowed, defaults)
    fc3 = chosen_unit(at.REPMLP_FC3, actions[e, at.REPMLP_FC3], allowed, defaults)
    ffn = chosen_unit(at.REPMLP_FFN, actions[e, at.REPMLP_FFN], allowed, defaults)
    invalid = (
        int(global_unit != actions[e, at.REPMLP_FC1_FC2])
        + int(fc3 != actions[e, at.REPMLP_FC3])
        + int(ffn != actions[e, at.REPMLP_FFN])
    )
    return global_unit, fc3, ffn, invalid


@njit
def reset_batch(mask, counters, clocks, contexts, remaining, keys, tables, observations):
    """Reset the environments in `mask` to the (seed, episode) that their counters name."""
    # Unpacked once: reading a member of a tuple counts a reference, and does so for every environment.
    population, schedule = tables.population, tables.schedule
    scalars = tables.scalars
    batches, features = tables.batches, tables.stage_features
    has_images = features.shape[0] > 0
    for e in range(counters.shape[0]):
        if mask[e]:
            reset_env(e, counters, clocks, contexts, remaining, keys, population, schedule, scalars)
            if has_images:
                start_encode(e, counters, batches)
                observe_stage(e, counters, clocks, features, scalars, observations)
            observe_env(e, counters, clocks, scalars, observations)


@njit
def step_batch(
    actions,
    autoreset,
    max_steps,
    counters,
    clocks,
    contexts,
    remaining,
    keys,
    tables,
    observations,
    rewards,
    terminated,
    truncated,
    final_counters,
    final_clocks,
    final_observations,
):
    """Advance every environment by one step: an iteration, or a stage of an encode.

    `max_steps` truncates an episode (0: never). With NEXT_STEP, an environment that had ended ignores its
    action and returns its reset; with SAME_STEP it resets at once and its last state is copied into the
    `final_` arrays; with DISABLED it idles until it is reset.
    """
    # Unpacked once: reading a member of a tuple counts a reference, and does so for every environment.
    fc_table, attention_table, rounds_table = tables.fc, tables.attention, tables.rounds
    link_table, moves_table = tables.attention_link, tables.moves
    population, schedule = tables.population, tables.schedule
    allowed, defaults = tables.allowed, tables.defaults
    scalars = tables.scalars
    stages, stage_moves, blocks = tables.stages, tables.stage_moves, tables.blocks
    batches, features = tables.batches, tables.stage_features
    has_images = features.shape[0] > 0
    for e in range(counters.shape[0]):
        rewards[e] = 0.0
        resets = autoreset == NEXT_STEP and counters[e, at.DONE] == 1
        if resets:
            terminated[e] = False
            truncated[e] = False
        elif counters[e, at.DONE] == 1:
            continue
        else:
            if has_images and counters[e, at.STAGE] >= 0:
                global_unit, fc3, ffn, invalid = resolve_stage(e, actions, allowed, defaults)
                counters[e, at.INVALID] += invalid
                rewards[e] = encode_env(
                    e, global_unit, fc3, ffn, counters, clocks, stages, stage_moves, blocks, batches, scalars
                )
            else:
                qkv, attention, projection, feed_forward, invalid = resolve(e, actions, allowed, defaults)
                counters[e, at.INVALID] += invalid
                rewards[e] = advance_env(
                    e,
                    qkv,
                    attention,
                    projection,
                    feed_forward,
                    counters,
                    clocks,
                    contexts,
                    remaining,
                    keys,
                    fc_table,
                    attention_table,
                    rounds_table,
                    link_table,
                    moves_table,
                    schedule,
                    scalars,
                )
                if has_images:
                    forget_stage(e, counters, clocks)
            terminated[e] = counters[e, at.RLP] == 0 and counters[e, at.STAGE] < 0
            steps = counters[e, at.ITERATION] + counters[e, at.STAGES_RUN]
            truncated[e] = not terminated[e] and max_steps > 0 and steps >= max_steps
            if terminated[e] or truncated[e]:
                counters[e, at.DONE] = 1
                if autoreset == SAME_STEP:
                    observe_env(e, counters, clocks, scalars, observations)
                    if has_images:
                        observe_stage(e, counters, clocks, features, scalars, observations)
                    final_counters[e] = counters[e]
                    final_clocks[e] = clocks[e]
                    final_observations[e] = observations[e]
                    resets = True
        if resets:
            counters[e, at.EPISODE] += 1
            reset_env(e, counters, clocks, contexts, remaining, keys, population, schedule, scalars)
            if has_images:
                start_encode(e, counters, batches)
        observe_env(e, counters, clocks, scalars, observations)
        if has_images:
            observe_stage(e, counters, clocks, features, scalars, observations)


@njit
def joint_costs(joint_actions, counters, tables, seconds, joules):
    """True cost of the next step for every environment and joint action; writes [num_envs, actions].

    Invalid joint actions and finished environments take infinite seconds (and no joules, lest a weight of
    zero make a NaN), so that no minimum picks them.
    """
    fc_table, attention_table, rounds_table = tables.fc, tables.attention, tables.rounds
    link_table, moves_table = tables.attention_link, tables.moves
    stages, stage_moves, blocks = tables.stages, tables.stage_moves, tables.blocks
    allowed, defaults, scalars = tables.allowed, tables.defaults, tables.scalars
    for e in range(counters.shape[0]):
        for a in range(joint_actions.shape[0]):
            seconds[e, a] = np.inf
            joules[e, a] = 0.0
            if counters[e, at.STAGE] >= 0:
                global_unit, fc3, ffn, invalid = resolve_stage(a, joint_actions, allowed, defaults)
                if invalid > 0:
                    continue
                of_stage = stage_cost(
                    counters[e, at.STAGE],
                    counters[e, at.IMAGES],
                    counters[e, at.LAST_FC],
                    global_unit,
                    fc3,
                    ffn,
                    stages,
                    stage_moves,
                    blocks,
                    scalars,
                )
                seconds[e, a] = of_stage[0]
                joules[e, a] = of_stage[1] + of_stage[0] * scalars[at.STATIC_W]
                continue
            qkv, attention, projection, feed_forward, invalid = resolve(a, joint_actions, allowed, defaults)
            if invalid > 0 or counters[e, at.RLP] == 0:
                continue
            cost = iteration_cost(
                counters[e, at.RLP],
                counters[e, at.TLP],
                counters[e, at.CONTEXT_SUM],
                counters[e, at.GROUP_SUM],
                counters[e, at.GROUP_MAX],
                counters[e, at.CHUNK_SUM],
                counters[e, at.CHUNK_MAX],
                counters[e, at.LAST_FC],
                qkv,
                attention,
                projection,
                feed_forward,
                fc_table,
                attention_table,
                rounds_table,
                link_table,
                moves_table,
                scalars,
            )
            seconds[e, a] = cost[0]
            joules[e, a] = cost[1] + cost[0] * scalars[at.STATIC_W]
