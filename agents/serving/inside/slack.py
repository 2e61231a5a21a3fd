"""The slack-aware rule's own choices, compiled: whom to serve, by how much waits for how long."""

from __future__ import annotations

import numpy as np

from agents.serving.inside.compiled import inlined
from agents.serving.inside.tuned import GREEDY_SLACK, GREEDY_URGENT, NUM_GREEDY
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.seen import ALMOST_ONE
from papi_env.simulation.serving.state import SERVICE_COLUMN
from papi_env.workload.serving import SPECULATION_LENGTHS

# Columns of the parameters after profile-greedy's: those of `SlackParameters`, of which the last four are options.
CALM, DROP_CLASS, KV_LIMIT, KEEP_UNTIL, DRAFTED_ROWS, KV_DROP = range(NUM_GREEDY, NUM_GREEDY + 6)
CALM_ORDER, CALM_SHEDDING, CROWDED_ORDER, CROWDED_VICTIM = range(NUM_GREEDY + 6, NUM_GREEDY + 10)
# And the first-token objective of each class, 0 of those that a scenario lacks.
CLASS_TTFT_S = NUM_GREEDY + 10
NUM_SLACK = CLASS_TTFT_S + at.MAX_CLASSES
# How the features of a class are scaled.
_FULL = {feature.name: float(feature.scale.full) for feature in at.SERVICE_FEATURES}
_QUEUED, _PROMPT, _SLACK = _FULL["queued_0"], _FULL["prompt_0"], _FULL["slack_0"]


@inlined
def _open(e, column, observations):
    """A feature on an open scale, in units of what becomes 1/2."""
    x = min(np.float64(observations[e, column]), ALMOST_ONE)
    return x / (1.0 - x)


@inlined
def waiting_of(e, c, observations):
    """Requests of class c that wait."""
    return np.rint(_QUEUED * _open(e, SERVICE_COLUMN.queued_0 + c, observations))


@inlined
def slack_of(e, c, observations):
    """What the head of class c has left of its first-token objective, in objectives; less than 0 once it is late."""
    z = 2.0 * np.float64(observations[e, SERVICE_COLUMN.slack_0 + c]) - 1.0
    return _SLACK * z / max(1.0 - abs(z), 1.0 - ALMOST_ONE)


@inlined
def tokens_of(e, c, prompt, observations):
    """Prompt tokens of class c that wait: the head's, and `prompt` for each of the others."""
    waiting = waiting_of(e, c, observations)
    head = np.rint(_PROMPT * _open(e, SERVICE_COLUMN.prompt_0 + c, observations))
    return head + (waiting - 1.0) * prompt if waiting > 0.0 else 0.0


@inlined
def pressure(e, seen, prompt, parameters, objectives, observations, scalars):
    """How long prompts take on the profile that have to be processed within an objective, over that objective.

    The largest over classes that wait; prompts of a class come before those of a class that has longer. More than 1:
    someone will be late even if the machine does nothing else. First-token objectives stand in the
    parameters, from column `objectives` on.
    """
    most = 0.0
    for c in range(at.MAX_CLASSES):
        within_s = parameters[e, objectives + c]
        if within_s > 0.0 and waiting_of(e, c, observations) > 0.0:
            tokens = 1.0 * seen.backlog
            for other in range(at.MAX_CLASSES):
                if parameters[e, objectives + other] <= within_s:
                    tokens += tokens_of(e, other, prompt, observations)
            most = max(most, scalars[at.PROMPT_TOKEN_S] * tokens / within_s)
    return most


@inlined
def admits_by_class(e, seen, policy, observations, scalars):
    """Whether to admit: there is room, and decoding requests keep their pace or the head of a class is urgent."""
    p = policy.parameters
    if seen.kv_use >= p[e, KV_LIMIT]:
        return False
    if seen.slack_s >= p[e, GREEDY_SLACK] * scalars[at.TPOT_S]:
        return True
    for c in range(at.MAX_CLASSES):
        if waiting_of(e, c, observations) > 0.0 and slack_of(e, c, observations) <= 1.0 - p[e, GREEDY_URGENT]:
            return True
    return False


@inlined
def slack_aware(e, seen, known, policy, observations, look, actions):
    """Who is served, in one way while all can be met and in another once not all can."""
    p, scalars = policy.parameters, look.scalars
    pressing = pressure(e, seen, known.prompt, p, CLASS_TTFT_S, observations, scalars)
    short = seen.kv_use > p[e, KV_DROP]
    crowded = pressing > p[e, CALM] or short
    order, shedding = np.int64(p[e, CALM_ORDER]), np.int64(p[e, CALM_SHEDDING])
    if crowded:
        order = np.int64(p[e, CROWDED_ORDER])
        shedding = np.int64(at.SHED_CLASS if pressing > p[e, DROP_CLASS] or short else at.SHED_LATE)
    actions[e, at.ORDER] = order
    actions[e, at.SHEDDING] = shedding
    actions[e, at.VICTIM] = np.int64(p[e, CROWDED_VICTIM])
    used = seen.kv_use + np.float64(observations[e, SERVICE_COLUMN.kept])
    actions[e, at.KEEPING] = at.KEEP_CLASS if used > p[e, KEEP_UNTIL] else at.KEEP_ALL
    actions[e, at.EVICTION] = at.EVICT_RETURN
    rows = seen.rlp * SPECULATION_LENGTHS[actions[e, at.SPECULATION]]
    many = rows > p[e, DRAFTED_ROWS] * scalars[at.ALPHA]
    actions[e, at.DRAFTED_FOR] = at.DRAFT_ACCEPTED if many else at.DRAFT_ALL
    actions[e, at.PACING] = at.BY_CHUNK
