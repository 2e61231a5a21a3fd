"""The tuned rules, compiled: profile-greedy and the heuristic, a decision for one environment."""

from __future__ import annotations

import numpy as np

from agents.serving.inside.compiled import inlined, inner, unlocked
from agents.serving.inside.memory import coming_chunk, expected_gain
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.iteration import apart_from_units, halved, placed
from papi_env.simulation.serving.profiled import (
    coming_decoding,
    coming_prompts,
    profile,
    seen_mode,
    seen_slowdowns,
)
from papi_env.simulation.serving.seen import see
from papi_env.simulation.serving.terms import Placement
from papi_env.workload.serving import SPECULATION_LENGTHS, WATERMARK

# Columns of profile-greedy's parameters: those of `GreedyParameters`, and what a prompt token is worth to the scenario.
PROMPT_WORTH, PACE, TIME_WORTH, GREEDY_SLACK, GREEDY_URGENT, PROMPT_WEIGHT = range(6)
NUM_GREEDY = 6
# Column of the options that profile-greedy compares, after those of a joint action: 0 for the one preferred most.
RANK = len(at.NVEC)
# Of the heuristic's: those of `Parameters`, and the acceptance where it is not to be estimated, else NaN.
PIM_ALONE, SPLIT_ALONE, PIM_BESIDE, SPLIT_BESIDE, SMALL_CHUNK, DRIFT, ROWS, GAIN = range(8)
ROWS_BESIDE, OVERLAP_TOKENS, ADMIT_SLACK, ADMIT_BACKLOG, URGENT, KV_LIMIT, ACCEPTANCE = range(8, 15)
NUM_HEURISTIC = 15


@inlined
def admits(seen, slack, urgent, scalars):
    """Whether to admit: decoding requests keep their pace, or a waiting one is urgent."""
    keeps_pace = seen.slack_s >= slack * scalars[at.TPOT_S]
    return keeps_pace or (seen.queued > 0 and seen.oldest_wait_s >= urgent * scalars[at.TTFT_S])


@inlined
def useful_rate(e, cost, gained, credit, seen, p, scalars):
    """Useful tokens of an iteration by its profiled cost, the price of being slower than the objective included."""
    price = scalars[at.ENERGY_WEIGHT]
    worth = cost.seconds
    if price > 0.0:
        worth = price * (cost.joules + p[e, TIME_WORTH] * scalars[at.STATIC_W] * cost.seconds)
    worth = worth * max(cost.seconds / gained / (p[e, PACE] * scalars[at.TPOT_S]), 1.0)
    return (seen.rlp * gained + credit) / max(worth, 1e-12)


@inner
def greedy(e, admitting, seen, known, policy, look, actions, busy):
    """Unit, speculation and overlap of the most useful tokens per profiled cost; all are admitted, or none.

    Options lie side by side by speculation and, of one speculation, by overlap: what units share is worked out once.
    Of equally good ones that with the lowest rank is taken.
    """
    p, options, scalars = policy.parameters, policy.options, look.scalars
    has_room = seen.running_share < 1.0 and seen.kv_use < 1.0 - WATERMARK
    chunk = coming_chunk(seen, admitting and has_room, known.prompt, scalars)
    credit = p[e, PROMPT_WORTH] * p[e, PROMPT_WEIGHT] * chunk
    actions[e, at.ADMISSION] = at.ALL if admitting else at.NONE
    count = options.shape[0]
    best = 0
    if seen.rlp + chunk == 0:
        # Nothing runs: the preferred one.
        while options[best, RANK] > 0:
            best += 1
        count = 0
    most = -np.inf
    slow, mode = seen_slowdowns(seen), seen_mode(seen)
    coming = coming_prompts(chunk, known.prompt, scalars)
    k = 0
    while k < count:
        speculation = options[k, at.SPECULATION]
        decoding = coming_decoding(SPECULATION_LENGTHS[speculation], seen, scalars)
        gained = expected_gain(known.acceptance, decoding.tlp)
        apart = apart_from_units(decoding, coming, slow, look)
        while k < count and options[k, at.SPECULATION] == speculation:
            overlap = options[k, at.OVERLAP]
            halves = halved(overlap, decoding, slow, look)
            while (
                k < count and options[k, at.OVERLAP] == overlap and options[k, at.SPECULATION] == speculation
            ):
                placement = Placement(options[k, at.FC], overlap, mode)
                cost = placed(decoding, coming, apart, halves, placement, slow, look, busy)
                rate = useful_rate(e, cost, gained, credit, seen, p, scalars)
                if rate > most or (rate == most and options[k, RANK] < options[best, RANK]):
                    best = k
                    most = rate
                k += 1
    for choice in (at.FC, at.SPECULATION, at.OVERLAP):
        actions[e, choice] = options[best, choice]


@inlined
def longest_worth(e, rlp, limit, acceptance, p):
    """Index of the longest speculation within the limit on rows whose every doubling gains enough."""
    length = 0
    tokens = 1.0
    for k in range(1, len(SPECULATION_LENGTHS)):
        t = SPECULATION_LENGTHS[k]
        gained = expected_gain(acceptance, t)
        if not (rlp * t <= limit and gained >= p[e, GAIN] * tokens):
            break
        length = k
        tokens = gained
    return length


@inlined
def heuristic(e, seen, known, policy, look, actions):
    """All four choices by thresholds."""
    p, scalars, rlp = policy.parameters, look.scalars, seen.rlp
    alpha = min(max(scalars[at.ALPHA], 1.0), 1.0 * look.fc_s.shape[1])
    room = seen.backlog < p[e, ADMIT_BACKLOG] and seen.kv_use < p[e, KV_LIMIT]
    admitting = room and admits(seen, p[e, ADMIT_SLACK], p[e, URGENT], scalars)

    beside = coming_chunk(seen, admitting, known.prompt, scalars) > p[e, SMALL_CHUNK]
    limit = (p[e, ROWS_BESIDE] if beside else p[e, ROWS]) * alpha
    length = longest_worth(e, rlp, limit, known.acceptance, p)
    n = rlp * SPECULATION_LENGTHS[length]
    alpha = alpha * (seen.drift_pu / seen.drift_fc_pim) ** p[e, DRIFT]
    pim = (p[e, PIM_BESIDE] if beside else p[e, PIM_ALONE]) * alpha
    split = (p[e, SPLIT_BESIDE] if beside else p[e, SPLIT_ALONE]) * alpha
    unit = at.PU
    if n <= pim:
        unit = at.FC_PIM
    elif n <= split:
        unit = at.SPLIT
    actions[e, at.FC] = unit
    actions[e, at.SPECULATION] = length
    actions[e, at.ADMISSION] = at.ALL if admitting else at.NONE
    overlaps = rlp > 1 and rlp * seen.mean_context >= p[e, OVERLAP_TOKENS]
    actions[e, at.OVERLAP] = 1 if overlaps else 0


@unlocked
def profile_all(options, observations, given, look, out):
    """Seconds and joules of every option, into [num_envs, options] each, from the profile.

    `given` are the prompt tokens of the coming iteration and of a request on average, [num_envs]; `out` is scratch of
    an iteration, seconds and joules.
    """
    chunk, prompt = given
    busy, seconds, joules = out
    for e in range(observations.shape[0]):
        seen = see(e, observations, look.scalars)
        for k in range(options.shape[0]):
            if seen.rlp + chunk[e] > 0:
                expected = profile(options, k, seen, chunk[e], prompt[e], look, busy)
                seconds[e, k] = expected.seconds
                joules[e, k] = expected.joules
