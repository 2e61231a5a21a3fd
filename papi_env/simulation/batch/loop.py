"""The loops over environments: resolving actions, resets and autoresets, steps, and the costs of all actions.

What belongs together goes together, as a tuple in the order of the named tuple beside it; `step_batch` and
`step_threads`, which Python calls in every step, put them together.

    state       `engine.DecodeState`: counters, clocks, slots, keys; then the engine's drafts, see `tokens.keep_drawn`,
                and what it foresees, see `tokens.foresee`
    lookups     `lookups.Lookups`: fc, other
    instances   `lookups.Instances`: population, schedule, scalars
    images      `lookups.ImageLookups`, or None where the scenario has none
    experts     `lookups.ExpertLookups`, or None where its model has none
    results     `engine.Results`: templates, observations, rewards, terminated, truncated, and the last state of ended
                episodes
    handed      `engine.Handed`: arrays that the caller keeps, or None
"""

from __future__ import annotations

import numba as nb
import numpy as np

from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.encode import (
    encode_env,
    forget_stage,
    observe_stage,
    stage_cost,
    start_encode,
)
from papi_env.simulation.batch.iteration import (
    ahead_of,
    charge_iteration,
    drawn_routing,
    iteration_cost,
    resolve,
)
from papi_env.simulation.batch.lookups import ImageLookups
from papi_env.simulation.batch.observe import begin, begin_again, hand_over, observe_env, observe_experts
from papi_env.simulation.batch.tokens import decode_tokens, reset_env
from papi_env.simulation.compiled import inlined, lean, parallel
from papi_env.simulation.engine import NEXT_STEP, SAME_STEP
from papi_env.simulation.vectors import alone

# chosen: with 8 or 16 the check takes as long, with 1 half as long again.
_PARTS = 4


@inlined
def resolve_stage(e, actions, units):
    """Units of a stage for row e of `actions` [num_envs, 7], and how many choices were invalid.

    The classes of an iteration are ignored.
    """
    global_unit = units[at.REPMLP_FC1_FC2, np.uint64(actions[e, at.REPMLP_FC1_FC2])]
    fc3 = units[at.REPMLP_FC3, np.uint64(actions[e, at.REPMLP_FC3])]
    ffn = units[at.REPMLP_FFN, np.uint64(actions[e, at.REPMLP_FFN])]
    invalid = (
        int(global_unit != actions[e, at.REPMLP_FC1_FC2])
        + int(fc3 != actions[e, at.REPMLP_FC3])
        + int(ffn != actions[e, at.REPMLP_FFN])
    )
    return global_unit, fc3, ffn, invalid


@inlined
def start_episode(e, state, instances, images):
    """Reset an environment to the (seed, episode) that its counters name."""
    reset_env(e, state, instances)
    if images is not None:
        start_encode(state[0][e], ImageLookups(*images).batches)


@inlined
def observe(counters, clocks, scalars, per_reference, images, experts, templates, observations):
    """Write the whole observation of an environment, which nothing else than its counters and clocks decides."""
    begin(counters[at.TLP], counters[at.RLP], templates, observations)
    finish(counters, clocks, scalars, per_reference, images, experts, observations)


@inlined
def observe_again(counters, clocks, scalars, per_reference, images, experts, templates, observations):
    """`observe` where an earlier observation of the scenario stands: no descriptors, which never change."""
    if experts is None:
        begin_again(counters[at.TLP], counters[at.RLP], templates, observations)
    else:
        begin(counters[at.TLP], counters[at.RLP], templates, observations)
    finish(counters, clocks, scalars, per_reference, images, experts, observations)


@inlined
def finish(counters, clocks, scalars, per_reference, images, experts, observations):
    """Write what templates lack of an environment's observation."""
    observe_env(counters, clocks, scalars, per_reference, observations)
    if images is not None:
        observe_stage(counters, clocks, ImageLookups(*images).features, scalars, observations)
    if experts is not None:
        observe_experts(counters, clocks, per_reference, observations)


@lean
def observe_all(state, instances, images, experts, templates, observations):
    """Write the observations of all environments; arguments as of `reset_batch`."""
    counters, clocks = state[:2]
    _, _, scalars = instances
    per_reference = 1.0 / scalars[at.REFERENCE]
    for e in range(counters.shape[0]):
        observe(counters[e], clocks[e], scalars, per_reference, images, experts, templates, observations[e])


@inlined
def give(e, counters, clocks, scalars, per_reference, images, experts, results, handed):
    """Write what is observed of environment e after a step, and what `info` says to arrays that its caller keeps."""
    templates, observations = results[:2]
    c, t = counters[e], clocks[e]
    if handed is None:
        observe_again(c, t, scalars, per_reference, images, experts, templates, observations[e])
    else:
        own_observations, _, _, _, own_counters, own_clocks = handed
        observe(c, t, scalars, per_reference, images, experts, templates, own_observations[e])
        hand_over(c, t, images, experts, own_counters[e], own_clocks[e])


@inlined
def over(counters, images):
    """Whether nothing is left of an environment's episode."""
    ended = counters[at.RLP] == 0
    if images is not None:
        ended = ended and counters[at.STAGE] < 0
    return ended


@inlined
def conclude(e, reward, ended, late, results, handed):
    """Write the reward of environment e, and whether its episode ended or was cut off, to whoever keeps it."""
    if handed is None:
        _, _, rewards, terminated, truncated = results[:5]
    else:
        _, rewards, terminated, truncated, _, _ = handed
    rewards[e] = reward
    terminated[e] = ended
    truncated[e] = late


@inlined
def copy_row(source, target):
    """Copy a row; an assignment of arrays would need numba's run-time, see `compiled`."""
    for k in range(source.shape[0]):
        target[k] = source[k]


@lean
def reset_batch(mask, state, instances, images, experts, templates, observations):
    """Reset the environments in `mask` to the (seed, episode) that their counters name."""
    counters, clocks = state[:2]
    _, _, scalars = instances
    per_reference = 1.0 / scalars[at.REFERENCE]
    for e in range(counters.shape[0]):
        if mask[e]:
            start_episode(e, state, instances, images)
            observe(
                counters[e], clocks[e], scalars, per_reference, images, experts, templates, observations[e]
            )


@lean
def within(actions, limit):
    """Whether all numbers of an array are below a limit; as unsigned ones, for which negative ones are too large.

    Args:
        actions: int64 [numbers]; limit: uint64.
    """
    # Parts side by side: memory that is far away is asked for in as many places at a time.
    part = np.uint64(actions.shape[0] // _PARTS)
    outside = False
    for i in range(part):
        for k in range(_PARTS):
            outside |= np.uint64(actions[i + np.uint64(k) * part]) >= limit
    for i in range(part * np.uint64(_PARTS), np.uint64(actions.shape[0])):
        outside |= np.uint64(actions[i]) >= limit
    return not outside


@inlined
def step_range(envs, endings, actions, state, lookups, units, instances, images, experts, results, handed):
    """Advance the environments from the first of `envs` up to the second by one step each; see `step_batch`.

    Returns how many episodes ended.
    """
    start, stop = envs
    autoreset, max_steps = endings
    counters, clocks = state[:2]
    _, schedule, scalars = instances
    templates = results[0]
    final_counters, final_clocks, final_observations = results[5:]
    per_reference = 1.0 / scalars[at.REFERENCE]
    ends = 0
    e = np.uint64(start)
    for i in range(start, stop):
        # One environment late: a vector of what was just written in pieces waits until it is in the nearest cache.
        if i > start:
            give(e, counters, clocks, scalars, per_reference, images, experts, results, handed)
        e = np.uint64(alone(i))
        c, t = counters[e], clocks[e]
        if c[at.DONE] == 1:
            # Where nothing starts them again, they stay ended.
            stays = autoreset != NEXT_STEP
            ends += int(stays)
            ended = over(c, images)
            conclude(e, 0.0, stays and ended, stays and not ended, results, handed)
            if not stays:
                c[at.EPISODE] += 1
                start_episode(e, state, instances, images)
            continue
        encodes = False
        reward = 0.0
        if images is not None:
            encodes = c[at.STAGE] >= 0
            if encodes:
                global_unit, fc3, ffn, invalid = resolve_stage(e, actions, units)
                c[at.INVALID] += invalid
                reward = encode_env(global_unit, fc3, ffn, c, t, ImageLookups(*images), scalars)
        if not encodes:
            chosen, invalid = resolve(e, actions, units, experts)
            c[at.INVALID] += invalid
            reward = charge_iteration(chosen, c, t, lookups, scalars, experts, per_reference)
            decode_tokens(e, state, schedule, scalars)
            if images is not None:
                forget_stage(c, t)
        steps = c[at.ITERATION]
        ended = over(c, images)
        if images is not None:
            steps += c[at.STAGES_RUN]
        late = not ended and max_steps > 0 and steps >= max_steps
        conclude(e, reward, ended, late, results, handed)
        if ended or late:
            ends += 1
            c[at.DONE] = 1
            if autoreset == SAME_STEP:
                final = final_observations[e]
                observe(c, t, scalars, per_reference, images, experts, templates, final)
                copy_row(c, final_counters[e])
                copy_row(t, final_clocks[e])
                c[at.EPISODE] += 1
                start_episode(e, state, instances, images)
    give(e, counters, clocks, scalars, per_reference, images, experts, results, handed)
    return ends


@lean
def step_batch(
    autoreset, max_steps, threads, actions, state, lookups, units, instances, images, experts, results, handed
):
    """Advance every environment by one step: an iteration, or a stage of an encode.

    Args:
        autoreset, max_steps: `max_steps` truncates an episode (0: never). With NEXT_STEP, an environment
            that had ended ignores its action and returns its reset; with SAME_STEP it resets at once and its last
            state is copied into the final arrays; with DISABLED it idles until it is reset.
        threads: of `step_threads`, among which it shares the environments.
        actions: see `resolve`; units: `lookups.resolved_units`.
        state, lookups, instances, images, experts, results, handed: see the module.

    Returns:
        how many episodes ended, among them those that idle since (DISABLED).
    """
    stop, endings = actions.shape[0], (autoreset, max_steps)
    return step_range(
        (0, stop),
        endings,
        actions,
        state,
        lookups,
        units,
        instances,
        images,
        experts,
        results,
        handed,
    )


@parallel
def step_threads(
    autoreset, max_steps, threads, actions, state, lookups, units, instances, images, experts, results, handed
):
    """`step_batch` with so many threads, each with its share of the environments."""
    num_envs = actions.shape[0]
    ends = 0
    for thread in nb.prange(threads):
        envs = num_envs * thread // threads, num_envs * (thread + 1) // threads
        endings = autoreset, max_steps
        ends += step_range(
            envs, endings, actions, state, lookups, units, instances, images, experts, results, handed
        )
    return ends


@lean
def joint_costs(joint_actions, counters, lookups, units, scalars, images, experts, seconds, joules):
    """True cost of the next step for every environment and joint action; writes [num_envs, actions].

    Invalid joint actions and finished environments take infinite seconds (and no joules, lest a weight of
    zero make a NaN), so that no minimum picks them.
    """
    for e in range(counters.shape[0]):
        c = counters[e]
        routing = drawn_routing(c, experts)
        for a in range(joint_actions.shape[0]):
            seconds[e, a] = np.inf
            joules[e, a] = 0.0
            if images is not None and c[at.STAGE] >= 0:
                global_unit, fc3, ffn, invalid = resolve_stage(a, joint_actions, units)
                if invalid > 0:
                    continue
                stages, moves, _, blocks, _ = images
                of_stage = stage_cost(
                    c[at.STAGE],
                    c[at.IMAGES],
                    c[at.LAST_FC],
                    global_unit,
                    fc3,
                    ffn,
                    stages,
                    moves,
                    blocks,
                    scalars,
                )
                seconds[e, a] = of_stage[0]
                joules[e, a] = of_stage[1] + of_stage[0] * scalars[at.STATIC_W]
                continue
            chosen, invalid = resolve(a, joint_actions, units, experts)
            if invalid > 0 or c[at.RLP] == 0:
                continue
            cost = iteration_cost(ahead_of(c), chosen, lookups, scalars, experts, routing)
            seconds[e, a] = cost.seconds
            joules[e, a] = cost.joules + cost.seconds * scalars[at.STATIC_W]
