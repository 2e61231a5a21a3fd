"""A step of continuous batching, compiled: admission, preemption, an iteration and what it yields, rewards.

Written for one environment of a batch; the loops over environments are at the end. `requests` has what happens to
single requests, `iteration` what an iteration costs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.kernel import FloatArray
from papi_env.simulation.compiled import inlined, inner, njit, seldom, unlocked
from papi_env.simulation.engine import NEXT_STEP, SAME_STEP
from papi_env.simulation.frames import Layout
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.budget import schedule
from papi_env.simulation.serving.drafting import choose_drafters
from papi_env.simulation.serving.drift import drift_factor
from papi_env.simulation.serving.heat import hot_factor, warm_stacks
from papi_env.simulation.serving.iteration import charge_causes, iteration
from papi_env.simulation.serving.keeping import NO_PLACE, evict
from papi_env.simulation.serving.observe import observe_env, observe_service
from papi_env.simulation.serving.parts import decode_rows, outside_windows
from papi_env.simulation.serving.queueing import abandon, shed, survey_queue
from papi_env.simulation.serving.requests import (
    admit,
    admit_chosen,
    arrive,
    find_oldest,
    preempt,
    reset_env,
    state_at,
    survey,
    wait,
)
from papi_env.simulation.serving.tables import tables_at
from papi_env.simulation.serving.terms import (
    Cost,
    Placement,
    PromptChunk,
    Ran,
    Slowdowns,
)
from papi_env.simulation.serving.tokens import (
    decode_tokens,
    prefill_tokens,
)
from papi_env.workload.serving import SPECULATION_LENGTHS


class Outcome(NamedTuple):
    """What a step writes besides the state.

    Attributes:
        observations, final_observations: float32 [E, features]; rewards: float64 [E].
        terminated, truncated: bool [E].
    """

    observations: npt.NDArray[np.float32]
    rewards: FloatArray
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    final_observations: npt.NDArray[np.float32]


class Scratch(NamedTuple):
    """What the step of one environment leaves behind for nobody.

    No frame: with this as one, too, LLVM takes twice as long for a step, and makes twice as much of it.

    Attributes:
        busy: float64 [NUM_RESOURCES], seconds of the iteration in which each resource is busy.
        gains: int64 [T], tokens that each decoding request gains; limits: uint64 [T], of its draw; seeds: uint64 [T],
            of the draw of its latest token. gained: int32 [T], tokens that it had left to gain.
    """

    busy: FloatArray
    gains: npt.NDArray[np.int64]
    limits: npt.NDArray[np.uint64]
    seeds: npt.NDArray[np.uint64]
    gained: npt.NDArray[np.int32]


OUTCOME = Layout(
    Outcome, {"observations": 2, "rewards": 1, "terminated": 1, "truncated": 1, "final_observations": 2}
)
outcome_at = OUTCOME.opener()


class Given(NamedTuple):
    """Copies of what a step gives, for a caller who keeps it; arrays without rows where nobody does.

    Attributes:
        observations: float32 [E, features]; counters: int64 [E, columns]; clocks: float64 [E, columns].
        counter_columns, clock_columns: int64, which columns of the state those are.
    """

    observations: npt.NDArray[np.float32]
    counters: npt.NDArray[np.int64]
    clocks: FloatArray
    counter_columns: npt.NDArray[np.int64]
    clock_columns: npt.NDArray[np.int64]


# --- before the iteration -------------------------------------------------------------------------------


@inlined
def resolved(e, actions, counters, scalars):
    """What the four choices mean, (`Placement`, admission), and how many were invalid.

    A unit that the system lacks becomes its only one (split: likewise), overlap is off where attention has no
    stacks of its own, and where nothing runs one request is admitted at least.
    """
    unit = actions[e, at.FC]
    overlap = actions[e, at.OVERLAP]
    admission = actions[e, at.ADMISSION]
    invalid = 0
    only = np.int64(scalars[at.ONLY_UNIT])
    if only >= 0 and unit != only:
        unit = only
        invalid += 1
    if overlap == 1 and scalars[at.ATTENTION_UNIT] != 2.0:
        overlap = 0
        invalid += 1
    running = counters[e, at.RLP] + counters[e, at.PREFILLING]
    if admission == at.NONE and running == 0 and counters[e, at.QUEUED] > 0:
        admission = at.ONE
        invalid += 1
    return Placement(unit, overlap, counters[e, at.LAST_FC]), admission, invalid


@inlined
def pages_beside(e, state, served, pages, scalars):
    """KV pages in use with those of kept turns and prefixes; what is kept is evicted as far as it must be."""
    counters = state.counters
    if scalars[at.SERVICE] == 0.0:
        return pages
    while pages + counters[e, at.KEPT_PAGES] + counters[e, at.SHARED_PAGES] > scalars[at.TOTAL_PAGES]:
        if evict(e, NO_PLACE, state, served) == 0:
            break
    return pages + counters[e, at.KEPT_PAGES] + counters[e, at.SHARED_PAGES]


@inlined
def fitted(e, tlp, state, served, scalars):
    """`Decoding` and pages once kept pages are evicted, then requests preempted, until the others fit; one stays."""
    counters = state.counters
    decoding, pages = survey(e, tlp, state, scalars)
    pages = pages_beside(e, state, served, pages, scalars)
    while pages > scalars[at.TOTAL_PAGES] and counters[e, at.RLP] + counters[e, at.PREFILLING] > 1:
        preempt(e, state, served, scalars)
        decoding, pages = survey(e, tlp, state, scalars)
        pages = pages_beside(e, state, served, pages, scalars)
    counters[e, at.PAGES_HIGH] = max(counters[e, at.PAGES_HIGH], pages)
    return decoding, pages


@inner
def chunk_of_prompts(e, state, scalars):
    """The `PromptChunk` of this iteration, first come first served."""
    counters, facts = state.counters, state.facts
    room = np.int64(scalars[at.CHUNK])
    slots = state.requests.shape[1]
    done = counters[e, at.PREFILL_DONE]
    finds = scalars[at.SERVICE] > 0.0
    rows = np.int64(0)
    pairs = np.int64(0)
    read = np.int64(0)
    ending = np.int64(0)
    k = 0
    while k < counters[e, at.PREFILLING] and rows < room:
        request = state.prefill[e, (counters[e, at.PREFILL_FRONT] + k) % slots]
        tokens = facts[e, request, at.INPUT] + facts[e, request, at.GENERATED]
        upto = min(tokens, done + room - rows)
        far_pairs, far = outside_windows(done, upto, scalars)
        pairs += upto * (upto + 1) // 2 - done * (done + 1) // 2 - far_pairs
        read += upto - far
        rows += upto - done
        ending += np.int64(upto == tokens)
        k += 1
        done = np.int64(0)
        if finds:
            done = np.int64(state.found[e, (counters[e, at.PREFILL_FRONT] + k) % slots])
    return PromptChunk(rows, pairs, read, ending, np.int64(k))


@inlined
def slowdowns(e, counters, clocks, scalars):
    """The `Slowdowns` of this moment."""
    pu = 1.0
    fc_pim = 1.0
    attention = 1.0
    if scalars[at.DRIFT_PERIOD_S] > 0.0:
        seed = counters[e, at.SEED]
        episode = counters[e, at.EPISODE]
        now = clocks[e, at.TIME_S]
        pu = drift_factor(seed, episode, 0, now, scalars)
        fc_pim = drift_factor(seed, episode, 1, now, scalars)
        attention = drift_factor(seed, episode, 2, now, scalars)
    if scalars[at.HEAT_RESISTANCE] > 0.0:
        fc_pim *= hot_factor(e, 0, clocks, scalars)
        attention *= hot_factor(e, 1, clocks, scalars)
    home = scalars[at.ATTENTION_UNIT]
    if home == 0.0:
        attention = pu
    elif home == 1.0:
        attention = fc_pim
    return Slowdowns(pu, fc_pim, attention)


# --- the iteration --------------------------------------------------------------------------------------


@inlined
def run(e, decoding, chunk, placement, state, look, busy):
    """The `Cost` of the iteration, of nothing where there is nothing to do; notes what a scheduler learns of units."""
    counters, clocks = state.counters, state.clocks
    busy[:] = 0.0
    if decoding.rlp + chunk.rows == 0:
        counters[e, at.STALLS] += 1
        none = np.int64(0)
        ran = Ran(none, none, none, none, none, none, none, none)
        return Cost(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, none, placement.last_mode, none, ran)
    if look.grid.shape[0] > 0:
        most = look.scalars[at.MEASURED_MIXED] if chunk.rows > 0 else look.scalars[at.MEASURED_ALONE]
        beyond = decoding.rlp > most or decode_rows(decoding) + chunk.rows > look.scalars[at.MEASURED_ROWS]
        counters[e, at.BEYOND] += int(beyond)
    slow = slowdowns(e, counters, clocks, look.scalars)
    cost = iteration(decoding, chunk, placement, slow, look, busy)
    if busy[at.BUSY_PU] > 0.0:
        clocks[e, at.SEEN_DRIFT] = slow.pu
    if busy[at.BUSY_FC_PIM] > 0.0:
        clocks[e, at.SEEN_DRIFT + 1] = slow.fc_pim
    if busy[at.BUSY_ATTN] > 0.0:
        clocks[e, at.SEEN_DRIFT + 2] = slow.attention
    return cost


@inlined
def account(e, cost, pages, busy, counters, clocks):
    """Enter an iteration into the books; time passes."""
    computing = 0.0
    for k in range(at.NUM_RESOURCES):
        clocks[e, at.BUSY_S + k] += busy[k]
        clocks[e, at.LAST_BUSY_S + k] = busy[k]
        if k <= at.BUSY_ATTN:
            computing += busy[k]
    counters[e, at.ITERATION] += 1
    counters[e, at.LAST_FC] = cost.mode
    counters[e, at.SWITCHES] += cost.switches
    counters[e, at.SPLIT_ROWS] = cost.pim_rows
    clocks[e, at.SWITCHING_S] += cost.switching_s
    if cost.switches > 0:
        clocks[e, at.LAST_SWITCH_S] = clocks[e, at.TIME_S]
    clocks[e, at.OVERLAPPED_S] += max(computing - cost.seconds, 0.0)
    clocks[e, at.LAST_START_S] = clocks[e, at.TIME_S]
    clocks[e, at.TIME_S] += cost.seconds
    clocks[e, at.DYNAMIC_J] += cost.joules
    clocks[e, at.COMMUNICATION_S] += cost.communication_s
    clocks[e, at.DRAFT_S] += cost.draft_s
    clocks[e, at.PAGES_USED_TIME] += pages * cost.seconds
    clocks[e, at.LAST_TIME_S] = cost.seconds
    clocks[e, at.LAST_FC_S] = cost.fc_s
    clocks[e, at.LAST_ATTENTION_S] = cost.attention_s
    clocks[e, at.LAST_DRAFT_S] = cost.draft_s
    clocks[e, at.LAST_PREFILL_S] = cost.prompt_s
    clocks[e, at.LAST_COMMUNICATION_S] = cost.communication_s
    clocks[e, at.LAST_DYNAMIC_J] = cost.joules


# --- one environment --------------------------------------------------------------------------------------


@inlined
def good_so_far(e, counters, clocks, scalars):
    """What the reward counts, so far: tokens, or with classes worth that was served less a share of what was lost."""
    if scalars[at.SERVICE] > 0.0:
        return clocks[e, at.SERVED] - scalars[at.CHARGE] * clocks[e, at.LOST_WORTH]
    if scalars[at.REWARD_ON_TIME] > 0.0:
        return np.float64(counters[e, at.ON_TIME_TOKENS])
    return np.float64(counters[e, at.GOOD_TOKENS])


@inlined
def reward(e, good, joules, clocks, scalars):
    """The reward of a step that yields so many good tokens for so many joules."""
    clocks[e, at.LAST_REWARD_GOODPUT] = good / scalars[at.REFERENCE_TOKENS]
    clocks[e, at.LAST_REWARD_ENERGY] = -scalars[at.ENERGY_WEIGHT] * joules / scalars[at.REFERENCE_TOKENS]
    total = clocks[e, at.LAST_REWARD_GOODPUT] + clocks[e, at.LAST_REWARD_ENERGY]
    clocks[e, at.RETURN] += total
    return total


@inlined
def choose_service(e, actions, counters):
    """Note what was chosen of who is served; where an action says nothing about it, what Serving-v0 does."""
    for k in range(at.ORDER, at.PACING + 1):
        choice = actions[e, k] if actions.shape[1] > k else 0
        counters[e, at.LAST_SERVICE + k - at.ORDER] = choice


@inlined
def advance_env(e, actions, state, tables, scratch):
    """One iteration of environment e. Returns the reward."""
    counters, clocks, scalars = state.counters, state.clocks, tables.scalars
    placement, admission, invalid = resolved(e, actions, counters, scalars)
    tlp = SPECULATION_LENGTHS[actions[e, at.SPECULATION]]
    good_before = good_so_far(e, counters, clocks, scalars)
    began = clocks[e, at.TIME_S]
    counters[e, at.INVALID] += invalid
    running = counters[e, at.RLP] + counters[e, at.PREFILLING]
    most = 0 if admission == at.NONE else 1 if admission == at.ONE else state.requests.shape[1]
    if scalars[at.TOKEN_BUDGET] > 0.0:
        decoding, chunk, pages = schedule(e, tlp, most, state, scalars)
    elif scalars[at.SERVICE] > 0.0:
        choose_service(e, actions, counters)
        shed(e, counters[e, at.LAST_SERVICE + at.SHEDDING - at.ORDER], state, tables, scalars)
        if most > 0 and counters[e, at.QUEUED] > 0:
            order = counters[e, at.LAST_SERVICE]
            admit_chosen(e, most, order, state, tables, scalars)
        drafted_for = counters[e, at.LAST_SERVICE + at.DRAFTED_FOR - at.ORDER]
        choose_drafters(e, drafted_for, state, tables.kinds)
        decoding, pages = fitted(e, tlp, state, tables, scalars)
        chunk = chunk_of_prompts(e, state, scalars)
    else:
        if most > 0 and counters[e, at.QUEUED] > 0 and running < scalars[at.MAX_RUNNING]:
            admit(e, most, state, tables, scalars)
        decoding, pages = fitted(e, tlp, state, tables, scalars)
        chunk = chunk_of_prompts(e, state, scalars)

    cost = run(e, decoding, chunk, placement, state, tables, scratch.busy)
    account(e, cost, pages, scratch.busy, counters, clocks)
    if clocks.shape[1] == at.NUM_CLOCKS:
        charge_causes(e, decoding, chunk, cost.ran, tables, clocks)
    if scalars[at.HEAT_RESISTANCE] > 0.0:
        warm_stacks(e, decoding, chunk, cost, tables, clocks, scalars)
    counters[e, at.LAST_ACTION + at.FC] = placement.unit
    counters[e, at.LAST_ACTION + at.SPECULATION] = actions[e, at.SPECULATION]
    counters[e, at.LAST_ACTION + at.ADMISSION] = admission
    counters[e, at.LAST_ACTION + at.OVERLAP] = placement.overlap
    counters[e, at.LAST_N] = decode_rows(decoding)
    counters[e, at.LAST_CHUNK] = chunk.rows
    counters[e, at.LAST_DECODED] = 0

    if decoding.rlp > 0:
        decode_tokens(e, decoding, state, tables.acceptance, tables, scalars, scratch)
    if chunk.rows > 0:
        prefill_tokens(e, chunk.rows, state, tables, scalars)
    if clocks[e, at.NEXT_ARRIVAL_S] <= clocks[e, at.TIME_S]:
        arrive(e, state, tables, scalars)
    if scalars[at.SERVICE] > 0.0:
        abandon(e, state, tables, scalars)
    before = clocks[e, at.TIME_S]
    if counters[e, at.RLP] + counters[e, at.PREFILLING] + counters[e, at.QUEUED] == 0:
        wait(e, state, tables, scalars)
    find_oldest(e, state, counters, clocks, scalars)
    if scalars[at.SERVICE] > 0.0:
        survey_queue(e, state, tables, scalars)
    clocks[e, at.ELAPSED_S] = clocks[e, at.TIME_S] - began
    elapsed = cost.seconds + clocks[e, at.TIME_S] - before
    joules = cost.joules + elapsed * scalars[at.STATIC_W]
    return reward(e, good_so_far(e, counters, clocks, scalars) - good_before, joules, clocks, scalars)


@inlined
def ends(e, max_steps, counters, clocks, scalars, outcome):
    """Judge and note whether the episode of environment e has ended with the iteration that it just had."""
    horizon = scalars[at.HORIZON_S]
    if scalars[at.SERVICE] > 0.0:
        left = counters[e, at.RLP] + counters[e, at.PREFILLING] + counters[e, at.QUEUED]
        over = left == 0 and not np.isfinite(clocks[e, at.NEXT_ARRIVAL_S])
    else:
        over = counters[e, at.FINISHED] + counters[e, at.REJECTED] == counters[e, at.REQUESTS]
    terminated = over and not np.isfinite(horizon)
    late = clocks[e, at.TIME_S] >= horizon
    late = late or (max_steps > 0 and counters[e, at.ITERATION] >= max_steps)
    outcome.terminated[e] = terminated
    outcome.truncated[e] = late and not terminated
    if terminated or late:
        counters[e, at.DONE] = 1
    return terminated or late


@seldom
def keep_final(e, state, final, observations, final_observations):
    """Copy what an episode that ends and restarts in one step leaves behind."""
    for k in range(state.counters.shape[1]):
        final.counters[e, k] = state.counters[e, k]
    for k in range(state.clocks.shape[1]):
        final.clocks[e, k] = state.clocks[e, k]
    for request in range(state.moments.shape[1]):
        for k in range(state.moments.shape[2]):
            final.moments[e, request, k] = state.moments[e, request, k]
        for k in range(state.facts.shape[2]):
            final.facts[e, request, k] = state.facts[e, request, k]
    for request in range(state.more.shape[1]):
        for k in range(state.more.shape[2]):
            final.more[e, request, k] = state.more[e, request, k]
    for k in range(observations.shape[1]):
        final_observations[e, k] = observations[e, k]


@inlined
def show(e, state, tables, observations):
    """Write the observation of environment e."""
    observe_env(e, state.counters, state.clocks, tables.scalars, observations)
    if tables.scalars[at.SERVICE] > 0.0:
        observe_service(e, state, tables.kinds, tables.scalars, observations)


@inlined
def hand_over(e, state, observations, given):
    """Copy what a step gives of environment e, while its rows are in the nearest cache."""
    for k in range(observations.shape[1]):
        given.observations[e, k] = observations[e, k]
    # Columns as unsigned numbers: numba asks of others whether they count from the end.
    for k in range(given.counter_columns.shape[0]):
        given.counters[e, k] = state.counters[e, np.uint64(given.counter_columns[k])]
    for k in range(given.clock_columns.shape[0]):
        given.clocks[e, k] = state.clocks[e, np.uint64(given.clock_columns[k])]


@inlined
def step_env(e, iterations, actions, endings, state, tables, outcome, final, scratch):
    """`step_range` of one environment; `endings` are its autoreset and most steps."""
    autoreset, max_steps = endings
    counters = state.counters
    outcome.rewards[e] = 0.0
    resets = autoreset == NEXT_STEP and counters[e, at.DONE] == 1
    if resets:
        outcome.terminated[e] = False
        outcome.truncated[e] = False
    elif counters[e, at.DONE] == 1:
        return
    else:
        for _ in range(iterations):
            outcome.rewards[e] += advance_env(e, actions, state, tables, scratch)
            if ends(e, max_steps, counters, state.clocks, tables.scalars, outcome):
                break
        if counters[e, at.DONE] == 1 and autoreset == SAME_STEP:
            show(e, state, tables, outcome.observations)
            keep_final(e, state, final, outcome.observations, outcome.final_observations)
            resets = True
    if resets:
        counters[e, at.EPISODE] += 1
        reset_env(e, state, tables)
    show(e, state, tables, outcome.observations)


# --- the loops over environments -------------------------------------------------------------------------


@njit
def reset_batch(mask, state_frame, table_frame, outcome_frame):
    """Reset the environments in `mask` to the (seed, episode) that their counters name; frames as of `step_range`."""
    state, tables = state_at(state_frame), tables_at(table_frame)
    observations = outcome_at(outcome_frame).observations
    for e in range(state.counters.shape[0]):
        if mask[e]:
            reset_env(e, state, tables)
            show(e, state, tables, observations)


@unlocked
def step_range(
    start,
    stop,
    iterations,
    actions,
    autoreset,
    max_steps,
    state_frame,
    table_frame,
    outcome_frame,
    final_frame,
    scratch_parts,
    given_parts,
):
    """Advance environments `start` to `stop` by so many iterations, or to the end of their episode.

    Autoreset and `max_steps` are as in `batch.step_batch`. Of several iterations with the same actions rewards add up,
    and the last is observed.

    An episode by requests terminates when each has finished or was refused; one by time is truncated at its
    horizon. Frames are addresses of those (see `simulation.frames`); `final_frame` is of the last state of environments
    that reset in the same step. `given_parts` is a plain tuple of `Given`, whose type numba finds sooner.
    """
    state, final = state_at(state_frame), state_at(final_frame)
    tables = tables_at(table_frame)
    outcome, scratch = outcome_at(outcome_frame), Scratch(*scratch_parts)
    given, endings = Given(*given_parts), (autoreset, max_steps)
    for e in range(start, stop):
        step_env(e, iterations, actions, endings, state, tables, outcome, final, scratch)
        if given.observations.shape[0] > 0:
            hand_over(e, state, outcome.observations, given)
