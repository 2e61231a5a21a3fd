"""An iteration of continuous batching, compiled: admission, preemption, prefill, decoding, rewards.

Written for one environment of a batch; the loops over environments are at the end. `serving_requests` has what
happens to single requests, `serving` what an iteration costs.
"""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import COLUMNS_PER_ROW
from papi_env.simulation.compiled import inlined, lean, njit, unlocked
from papi_env.simulation.draws import draft_draw
from papi_env.simulation.engine import NEXT_STEP, SAME_STEP
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.iteration import drift_factor, iteration
from papi_env.simulation.serving.observe import observe_env
from papi_env.simulation.serving.requests import (
    MISSED,
    UNBORN,
    admit,
    arrive,
    begin_decode,
    find_oldest,
    finish,
    first_deadline,
    pages_of,
    preempt_latest,
    reset_env,
    wait,
)
from papi_env.workload.serving import PAGE_TOKENS, SPECULATION_LENGTHS

# Weight of the newest observation in moving averages. chosen: 1/16, some tens of iterations; range 1/64-1/4.
NEWEST = 1.0 / 16.0


@inlined
def resolved(e, actions, counters, scalars):
    """What the four choices mean, and how many were invalid.

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
    return unit, overlap, admission, invalid


@inlined
def survey(e, tlp, rlp, contexts, group_columns):
    """Sums over decoding requests of what the iteration attends to: (context, groups, longest, chunks, longest)."""
    context_sum = 0
    group_sum = 0
    group_max = 0
    chunk_sum = 0
    for i in range(rlp):
        context = contexts[e, i] + tlp
        groups = (context + PAGE_TOKENS - 1) // PAGE_TOKENS
        context_sum += context
        group_sum += groups
        group_max = max(group_max, groups)
        chunk_sum += (groups * group_columns + COLUMNS_PER_ROW - 1) // COLUMNS_PER_ROW
    chunk_max = (group_max * group_columns + COLUMNS_PER_ROW - 1) // COLUMNS_PER_ROW
    return context_sum, group_sum, group_max, chunk_sum, chunk_max


@lean
def chunk_of_prompts(e, state, scalars):
    """The prompt tokens of this iteration, first come first served: (tokens, (query, key) pairs, tokens read)."""
    counters, facts = state.counters, state.facts
    room = np.int64(scalars[at.CHUNK])
    slots = state.requests.shape[1]
    done = counters[e, at.PREFILL_DONE]
    rows = 0
    pairs = 0
    read = 0
    k = 0
    while k < counters[e, at.PREFILLING] and rows < room:
        request = state.prefill[e, (counters[e, at.PREFILL_FRONT] + k) % slots]
        tokens = facts[e, request, at.INPUT] + facts[e, request, at.GENERATED]
        upto = min(tokens, done + room - rows)
        pairs += upto * (upto + 1) // 2 - done * (done + 1) // 2
        read += upto
        rows += upto - done
        done = 0
        k += 1
    return rows, pairs, read


@inlined
def decode_tokens(
    e,
    tlp,
    rlp,
    counters,
    clocks,
    requests,
    contexts,
    left,
    classes,
    keys,
    deadlines,
    gains,
    limits,
    state,
    thresholds,
    scalars,
):
    """Advance the first `rlp` slots by one iteration that has just ended; requests with all tokens leave.

    In passes over one or two arrays each, which the compiler turns into vector instructions.
    """
    now = clocks[e, at.TIME_S]
    tpot = scalars[at.TPOT_S]
    drafted = tlp - 1
    accepted = 0
    for i in range(rlp):
        gains[i] = 1
    # All draws, slot by slot within a draft position: a vector of them costs less than finding out which count.
    for draft in range(1, drafted + 1):
        for i in range(rlp):
            limits[i] = thresholds[classes[e, i], draft - 1]
        for i in range(rlp):
            passed = draft_draw(keys[e, i], contexts[e, i] + draft) < limits[i]
            gains[i] += np.int64(passed and gains[i] == draft)
    if drafted > 0:
        for i in range(rlp):
            accepted += gains[i] - 1
    decoded = 0
    leaving = 0
    for i in range(rlp):
        gain = min(gains[i], left[e, i])
        gains[i] = gain
        decoded += gain
        left[e, i] -= gain
        contexts[e, i] += gain
        leaving += int(left[e, i] == 0)
    if scalars[at.PREFILL_ON] == 0.0:
        # Prompts that arrive processed have their first token now; only those after it have a pace to keep.
        for i in range(rlp):
            if deadlines[e, i] == UNBORN:
                deadlines[e, i] = first_deadline(e, requests[e, i], state, scalars) + tpot * (gains[i] - 1)
            else:
                deadlines[e, i] += tpot * gains[i]
    else:
        for i in range(rlp):
            deadlines[e, i] += tpot * gains[i]
    on_time = 0
    for i in range(rlp):
        on_time += gains[i] * int(now <= deadlines[e, i])
    active = rlp
    if leaving > 0:
        i = 0
        while i < active:
            if left[e, i] > 0:
                i += 1
                continue
            finish(e, requests[e, i], state, scalars)
            # The last decoding request takes this place and is looked at in its turn.
            active -= 1
            requests[e, i] = requests[e, active]
            contexts[e, i] = contexts[e, active]
            left[e, i] = left[e, active]
            classes[e, i] = classes[e, active]
            keys[e, i] = keys[e, active]
            deadlines[e, i] = deadlines[e, active]
    context_sum = 0
    group_sum = 0
    group_max = 0
    for i in range(active):
        context = contexts[e, i]
        groups = (context + PAGE_TOKENS) // PAGE_TOKENS
        context_sum += context
        group_sum += groups
        group_max = max(group_max, groups)
    slack_sum = 0.0
    slack_min = np.inf
    behind = 0
    lost = 0
    for i in range(active):
        deadline = deadlines[e, i]
        if deadline == MISSED:
            lost += 1
        else:
            slack = deadline - now
            slack_sum += slack
            slack_min = min(slack_min, slack)
            behind += int(slack < 0.0)
    counters[e, at.RLP] = active
    counters[e, at.CONTEXT_SUM] = context_sum
    counters[e, at.GROUP_SUM] = group_sum
    counters[e, at.GROUP_MAX] = group_max
    counters[e, at.TOKENS] += decoded
    counters[e, at.ON_TIME_TOKENS] += on_time
    counters[e, at.LAST_DECODED] = decoded
    counters[e, at.DRAFTED] += drafted * rlp
    counters[e, at.ACCEPTED] += accepted
    in_time = active - lost
    clocks[e, at.SLACK_MEAN_S] = slack_sum / in_time if in_time > 0 else 0.0
    clocks[e, at.SLACK_MIN_S] = slack_min if in_time > 0 else 0.0
    clocks[e, at.BEHIND] = behind / active if active > 0 else 0.0
    clocks[e, at.LOST] = lost / active if active > 0 else 0.0
    if drafted > 0:
        seen_accepted = accepted / (drafted * rlp)
        old = clocks[e, at.SEEN_ACCEPTED]
        clocks[e, at.SEEN_ACCEPTED] = seen_accepted if old == 0.0 else old + NEWEST * (seen_accepted - old)
    gained = decoded / rlp
    k = 0
    while SPECULATION_LENGTHS[k] != tlp:
        k += 1
    old = clocks[e, at.SEEN_TOKENS + k]
    clocks[e, at.SEEN_TOKENS + k] = gained if old == 0.0 else old + NEWEST * (gained - old)


@lean
def prefill_tokens(e, rows, state, scalars):
    """Process `rows` prompt tokens of the ring; a request whose last one is done has produced a token."""
    counters, facts = state.counters, state.facts
    slots = state.requests.shape[1]
    counters[e, at.PREFILL_BACKLOG] -= rows
    counters[e, at.PREFILLED] += rows
    while rows > 0:
        front = counters[e, at.PREFILL_FRONT]
        request = state.prefill[e, front]
        tokens = facts[e, request, at.INPUT] + facts[e, request, at.GENERATED]
        part = min(rows, tokens - counters[e, at.PREFILL_DONE])
        rows -= part
        counters[e, at.PREFILL_DONE] += part
        if counters[e, at.PREFILL_DONE] < tokens:
            break
        counters[e, at.PREFILL_DONE] = 0
        counters[e, at.PREFILL_FRONT] = (front + 1) % slots
        counters[e, at.PREFILLING] -= 1
        counters[e, at.PREFILL_PAGES] -= pages_of(tokens + 1)
        generated = facts[e, request, at.GENERATED] + 1
        facts[e, request, at.GENERATED] = generated
        counters[e, at.TOKENS] += 1
        if np.isnan(state.moments[e, request, at.FIRST_TOKEN_S]):
            due = first_deadline(e, request, state, scalars)
        else:
            first = state.moments[e, request, at.FIRST_TOKEN_S]
            due = MISSED
            if first - state.moments[e, request, at.ARRIVAL_S] <= scalars[at.TTFT_S]:
                due = first + scalars[at.TPOT_S] * (generated - 1)
        if state.clocks[e, at.TIME_S] <= due:
            counters[e, at.ON_TIME_TOKENS] += 1
        if generated == facts[e, request, at.OUTPUT]:
            finish(e, request, state, scalars)
        else:
            begin_decode(e, request, tokens, generated, state, scalars)


@inlined
def advance_env(
    e,
    actions,
    state,
    counters,
    clocks,
    requests,
    contexts,
    left,
    classes,
    keys,
    deadlines,
    fc_seconds,
    fc_joules,
    bank_seconds,
    attention,
    rounds,
    link,
    moves,
    draft,
    thresholds,
    scalars,
    busy,
    gains,
    limits,
):
    """One iteration of environment e. Returns the reward. `busy` is scratch, float64 [NUM_RESOURCES]."""
    unit, overlap, admission, invalid = resolved(e, actions, counters, scalars)
    counters[e, at.INVALID] += invalid
    tlp = SPECULATION_LENGTHS[actions[e, at.SPECULATION]]
    good_before = counters[e, at.GOOD_TOKENS]
    if scalars[at.REWARD_ON_TIME] > 0.0:
        good_before = counters[e, at.ON_TIME_TOKENS]

    running = counters[e, at.RLP] + counters[e, at.PREFILLING]
    if admission != at.NONE and counters[e, at.QUEUED] > 0 and running < scalars[at.MAX_RUNNING]:
        admit(e, 1 if admission == at.ONE else requests.shape[1], state, scalars)
    group_columns = np.int64(scalars[at.GROUP_COLUMNS])
    context_sum, group_sum, group_max, chunk_sum, chunk_max = survey(
        e, tlp, counters[e, at.RLP], contexts, group_columns
    )
    pages = group_sum + counters[e, at.PREFILL_PAGES]
    while pages > scalars[at.TOTAL_PAGES] and counters[e, at.RLP] + counters[e, at.PREFILLING] > 1:
        preempt_latest(e, state, scalars)
        context_sum, group_sum, group_max, chunk_sum, chunk_max = survey(
            e, tlp, counters[e, at.RLP], contexts, group_columns
        )
        pages = group_sum + counters[e, at.PREFILL_PAGES]
    counters[e, at.PAGES_HIGH] = max(counters[e, at.PAGES_HIGH], pages)

    rlp = counters[e, at.RLP]
    rows = 0
    pairs = 0
    read = 0
    if counters[e, at.PREFILLING] > 0:
        rows, pairs, read = chunk_of_prompts(e, state, scalars)
    counters[e, at.ITERATION] += 1
    seconds = 0.0
    joules = 0.0
    fc_s = 0.0
    attention_s = 0.0
    draft_s = 0.0
    prompt_s = 0.0
    communication_s = 0.0
    pim_rows = 0
    busy[:] = 0.0
    if rlp + rows > 0:
        seed = counters[e, at.SEED]
        episode = counters[e, at.EPISODE]
        now = clocks[e, at.TIME_S]
        pu_factor = 1.0
        pim_factor = 1.0
        attention_factor = 1.0
        if scalars[at.DRIFT_PERIOD_S] > 0.0:
            pu_factor = drift_factor(seed, episode, 0, now, scalars)
            pim_factor = drift_factor(seed, episode, 1, now, scalars)
            attention_factor = drift_factor(seed, episode, 2, now, scalars)
        home = scalars[at.ATTENTION_UNIT]
        if home == 0.0:
            attention_factor = pu_factor
        elif home == 1.0:
            attention_factor = pim_factor
        (
            seconds,
            joules,
            fc_s,
            attention_s,
            draft_s,
            prompt_s,
            communication_s,
            switching_s,
            switches,
            mode,
            pim_rows,
        ) = iteration(
            rlp,
            tlp,
            context_sum,
            group_sum,
            group_max,
            chunk_sum,
            chunk_max,
            rows,
            pairs,
            read,
            unit,
            overlap,
            counters[e, at.LAST_FC],
            pu_factor,
            pim_factor,
            attention_factor,
            fc_seconds,
            fc_joules,
            bank_seconds,
            attention,
            rounds,
            link,
            moves,
            draft,
            scalars,
            busy,
        )
        counters[e, at.LAST_FC] = mode
        counters[e, at.SWITCHES] += switches
        clocks[e, at.SWITCHING_S] += switching_s
        if busy[at.BUSY_PU] > 0.0:
            clocks[e, at.SEEN_DRIFT] = pu_factor
        if busy[at.BUSY_FC_PIM] > 0.0:
            clocks[e, at.SEEN_DRIFT + 1] = pim_factor
        if busy[at.BUSY_ATTN] > 0.0:
            clocks[e, at.SEEN_DRIFT + 2] = attention_factor
    else:
        counters[e, at.STALLS] += 1
    computing = 0.0
    for k in range(at.NUM_RESOURCES):
        clocks[e, at.BUSY_S + k] += busy[k]
        clocks[e, at.LAST_BUSY_S + k] = busy[k]
        if k <= at.BUSY_ATTN:
            computing += busy[k]
    clocks[e, at.OVERLAPPED_S] += max(computing - seconds, 0.0)
    clocks[e, at.LAST_START_S] = clocks[e, at.TIME_S]
    clocks[e, at.TIME_S] += seconds
    clocks[e, at.DYNAMIC_J] += joules
    clocks[e, at.COMMUNICATION_S] += communication_s
    clocks[e, at.DRAFT_S] += draft_s
    clocks[e, at.PAGES_USED_TIME] += pages * seconds
    clocks[e, at.LAST_TIME_S] = seconds
    clocks[e, at.LAST_FC_S] = fc_s
    clocks[e, at.LAST_ATTENTION_S] = attention_s
    clocks[e, at.LAST_DRAFT_S] = draft_s
    clocks[e, at.LAST_PREFILL_S] = prompt_s
    clocks[e, at.LAST_COMMUNICATION_S] = communication_s
    clocks[e, at.LAST_DYNAMIC_J] = joules
    counters[e, at.LAST_ACTION + at.FC] = unit
    counters[e, at.LAST_ACTION + at.SPECULATION] = actions[e, at.SPECULATION]
    counters[e, at.LAST_ACTION + at.ADMISSION] = admission
    counters[e, at.LAST_ACTION + at.OVERLAP] = overlap
    counters[e, at.LAST_N] = rlp * tlp
    counters[e, at.LAST_CHUNK] = rows
    counters[e, at.LAST_DECODED] = 0
    counters[e, at.SPLIT_ROWS] = pim_rows
    if rlp > 0:
        decode_tokens(
            e,
            tlp,
            rlp,
            counters,
            clocks,
            requests,
            contexts,
            left,
            classes,
            keys,
            deadlines,
            gains,
            limits,
            state,
            thresholds,
            scalars,
        )
    if rows > 0:
        prefill_tokens(e, rows, state, scalars)
    if clocks[e, at.NEXT_ARRIVAL_S] <= clocks[e, at.TIME_S]:
        arrive(e, state)
    before = clocks[e, at.TIME_S]
    if counters[e, at.RLP] + counters[e, at.PREFILLING] + counters[e, at.QUEUED] == 0:
        wait(e, state, scalars)
    find_oldest(e, state, counters, clocks)

    elapsed = seconds + clocks[e, at.TIME_S] - before
    good = counters[e, at.GOOD_TOKENS]
    if scalars[at.REWARD_ON_TIME] > 0.0:
        good = counters[e, at.ON_TIME_TOKENS]
    clocks[e, at.LAST_REWARD_GOODPUT] = (good - good_before) / scalars[at.REFERENCE_TOKENS]
    total_j = joules + elapsed * scalars[at.STATIC_W]
    clocks[e, at.LAST_REWARD_ENERGY] = -scalars[at.ENERGY_WEIGHT] * total_j / scalars[at.REFERENCE_TOKENS]
    reward = clocks[e, at.LAST_REWARD_GOODPUT] + clocks[e, at.LAST_REWARD_ENERGY]
    clocks[e, at.RETURN] += reward
    return reward


@lean
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
    for k in range(observations.shape[1]):
        final_observations[e, k] = observations[e, k]


# --- the loops over environments -------------------------------------------------------------------------


@njit
def reset_batch(mask, state, tables, observations):
    """Reset the environments in `mask` to the (seed, episode) that their counters name."""
    for e in range(state.counters.shape[0]):
        if mask[e]:
            reset_env(e, state, tables)
            observe_env(e, state.counters, state.clocks, tables.scalars, observations)


@unlocked
def step_range(
    start,
    stop,
    actions,
    autoreset,
    max_steps,
    state,
    tables,
    observations,
    rewards,
    terminated,
    truncated,
    final,
    final_observations,
    busy,
    gains,
    limits,
):
    """Advance environments `start` to `stop` by one iteration; autoreset and `max_steps` as in `batch.step_batch`.

    An episode by requests terminates when each has finished or was refused; one by time is truncated at its
    horizon. `final` takes the last state of environments that reset in the same step.
    """
    # Unpacked once: reading a member of a tuple counts a reference, and does so for every environment.
    scalars = tables.scalars
    horizon = scalars[at.HORIZON_S]
    counters, clocks = state.counters, state.clocks
    requests, contexts, left = state.requests, state.contexts, state.left
    classes, keys, deadlines = state.classes, state.keys, state.deadlines
    fc_s, fc_j, bank_s = tables.fc_s, tables.fc_j, tables.bank_s
    attention, rounds, link = tables.attention, tables.rounds, tables.link
    moves, draft, thresholds = tables.moves, tables.draft, tables.acceptance
    for e in range(start, stop):
        rewards[e] = 0.0
        resets = autoreset == NEXT_STEP and counters[e, at.DONE] == 1
        if resets:
            terminated[e] = False
            truncated[e] = False
        elif counters[e, at.DONE] == 1:
            continue
        else:
            rewards[e] = advance_env(
                e,
                actions,
                state,
                counters,
                clocks,
                requests,
                contexts,
                left,
                classes,
                keys,
                deadlines,
                fc_s,
                fc_j,
                bank_s,
                attention,
                rounds,
                link,
                moves,
                draft,
                thresholds,
                scalars,
                busy,
                gains,
                limits,
            )
            over = counters[e, at.FINISHED] + counters[e, at.REJECTED] == counters[e, at.REQUESTS]
            terminated[e] = over and not np.isfinite(horizon)
            late = clocks[e, at.TIME_S] >= horizon
            late = late or (max_steps > 0 and counters[e, at.ITERATION] >= max_steps)
            truncated[e] = late and not terminated[e]
            if terminated[e] or truncated[e]:
                counters[e, at.DONE] = 1
                if autoreset == SAME_STEP:
                    observe_env(e, counters, clocks, scalars, observations)
                    keep_final(e, state, final, observations, final_observations)
                    resets = True
        if resets:
            counters[e, at.EPISODE] += 1
            reset_env(e, state, tables)
        observe_env(e, counters, clocks, scalars, observations)
