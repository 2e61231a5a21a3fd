"""A network that sees requests, compiled: it weighs those who wait class by class, and adjusts profile-greedy.

Three small networks share what they read. The first makes a summary of each class; the summaries, by the share of
sessions that is of the class, are a summary of all. The second gives every class a query from its features, those of
the machine and the summary of all: what the engine scores each waiting request with. The third adjusts what
profile-greedy weighs and makes the further choices. So nothing depends on the order of requests or on the numbers of
classes.

Hidden units are x / (1 + |x|), which every processor rounds alike; outputs read them and, linearly, what they read.
"""

from __future__ import annotations

import numpy as np

from agents.serving.inside.compiled import inlined
from agents.serving.inside.memory import SCRATCH
from agents.serving.inside.slack import pressure
from agents.serving.inside.tuned import NUM_GREEDY, PACE, PROMPT_WORTH, greedy
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.state import COLUMN, SERVICE_COLUMN

# What is read of the machine, besides how much waits for how long, and of a class: columns of the observation.
MACHINE_COLUMNS = np.array(
    [
        COLUMN.queued,
        COLUMN.prefill_backlog,
        COLUMN.running_share,
        COLUMN.kv_use,
        COLUMN.mean_context,
        COLUMN.n_share_of_alpha,
        COLUMN.accepted,
        COLUMN.tpot_slack_mean,
        COLUMN.behind,
        COLUMN.arrival_rate,
        SERVICE_COLUMN.kept,
        SERVICE_COLUMN.at_risk,
    ]
)
# Where KV pages in use stand among what is read of the machine.
KV_USE = int(np.flatnonzero(COLUMN.kv_use == MACHINE_COLUMNS)[0])
_FIRST_DESCRIPTOR = at.NUM_STATE_FEATURES_V1 + len(at.DESCRIPTOR_NAMES)
CLASS_COLUMNS = np.array(
    [
        SERVICE_COLUMN.queued_0,
        SERVICE_COLUMN.slack_0,
        SERVICE_COLUMN.prompt_0,
        SERVICE_COLUMN.accepted_0,
        *(
            _FIRST_DESCRIPTOR + at.SERVICE_DESCRIPTOR_NAMES.index(f"{name}_0")
            for name in (
                "share",
                "worth",
                "ttft_objective",
                "tpot_objective",
                "output",
                "prefix",
                "goes_on",
                "think",
            )
        ),
    ]
)
SHARE = int(CLASS_COLUMNS[4])
NUM_MACHINE, NUM_CLASS = len(MACHINE_COLUMNS) + 1, len(CLASS_COLUMNS)
# Summaries, hidden units of the networks for queries and for adjustments, and outputs of the latter: log2 of factors on
# prompt_worth and pace; above 0 a class is dropped, turns are kept by class, drafts are for the accepted, victims are
# those with the least progress, else the latest, and where no class is dropped nobody is, else those who are late.
NUM_SUMMARY, NUM_HIDDEN, NUM_GLOBAL_HIDDEN, NUM_ADJUSTED = 6, 8, 4, 7
LOG_PROMPT_WORTH, LOG_PACE, DROPS_CLASS, KEEPS_CLASS, DRAFTS_ACCEPTED, LEAST_PROGRESS, DROPS_NOBODY = range(7)

# Columns of the parameters: profile-greedy's, of which prompt_worth and pace are what was adjusted last; those two as
# they are to be adjusted; the objectives of classes as in `slack`; and weights.
BASE = NUM_GREEDY
CLASS_TTFT_S = BASE + 2
# What a plan adds to the scores of each class; 0 where nobody plans.
CLASS_MORE = CLASS_TTFT_S + at.MAX_CLASSES
SUMMARY = CLASS_MORE + at.MAX_CLASSES
# Scratch: how much waits and the summary, then the hidden units of the third network.
HIDDEN = SCRATCH + 1 + NUM_SUMMARY
_SUMMARY_ROW = NUM_CLASS + 1
QUERY = SUMMARY + NUM_SUMMARY * _SUMMARY_ROW
NUM_READ = NUM_MACHINE + NUM_SUMMARY
# Weights of a hidden unit: of the class, of machine and summary, and its constant.
_QUERY_ROW = NUM_CLASS + NUM_READ + 1
QUERY_OUT = QUERY + NUM_HIDDEN * _QUERY_ROW
# Of an output: of what is read, of hidden units, and its constant.
_QUERY_OUT_ROW = NUM_CLASS + NUM_READ + NUM_HIDDEN + 1
ADJUST = QUERY_OUT + at.NUM_TRAITS * _QUERY_OUT_ROW
_ADJUST_ROW = NUM_READ + 1
ADJUST_OUT = ADJUST + NUM_GLOBAL_HIDDEN * _ADJUST_ROW
_ADJUST_OUT_ROW = NUM_READ + NUM_GLOBAL_HIDDEN + 1
# Where the constant of a query's output stands in its row.
_CONSTANT = NUM_CLASS + NUM_READ + NUM_HIDDEN
NUM_NETWORK = ADJUST_OUT + NUM_ADJUSTED * _ADJUST_OUT_ROW
# Columns of the constants of outputs, of queries by trait and of what is adjusted: what is added there is added always.
TRAIT_CONSTANTS = tuple(QUERY_OUT + k * _QUERY_OUT_ROW + _CONSTANT for k in range(at.NUM_TRAITS))
ADJUST_CONSTANTS = tuple(ADJUST_OUT + (k + 1) * _ADJUST_OUT_ROW - 1 for k in range(NUM_ADJUSTED))
ADJUSTED_NAMES = (
    "prompt_worth",
    "pace",
    "drops a class",
    "keeps by class",
    "drafts for the accepted",
    "victim of least progress",
    "drops nobody",
)
NUM_WEIGHTS = NUM_NETWORK - SUMMARY
# The weights as tensors, in their order: [units, inputs + 1], the last of a row a constant. Outputs read what hidden
# units read and these.
TENSORS = (
    ("summary", (NUM_SUMMARY, _SUMMARY_ROW)),
    ("query.hidden", (NUM_HIDDEN, _QUERY_ROW)),
    ("query.output", (at.NUM_TRAITS, _QUERY_OUT_ROW)),
    ("adjust.hidden", (NUM_GLOBAL_HIDDEN, _ADJUST_ROW)),
    ("adjust.output", (NUM_ADJUSTED, _ADJUST_OUT_ROW)),
)


@inlined
def soft(x):
    """A hidden unit."""
    return x / (1.0 + abs(x))


@inlined
def summarise(e, seen, known, policy, observations, scalars):
    """Note how much waits for how long, and the summary of all classes, in the policy's scratch."""
    p, memory = policy.parameters, policy.memory
    pressing = pressure(e, seen, known.prompt, p, CLASS_TTFT_S, observations, scalars)
    memory[e, SCRATCH] = pressing / (1.0 + pressing)
    for j in range(NUM_SUMMARY):
        memory[e, SCRATCH + 1 + j] = 0.0
    for c in range(at.MAX_CLASSES):
        share = np.float64(observations[e, SHARE + c])
        if share > 0.0:
            for j in range(NUM_SUMMARY):
                w = SUMMARY + j * _SUMMARY_ROW
                total = p[e, w + NUM_CLASS]
                for i in range(NUM_CLASS):
                    total += p[e, w + i] * observations[e, CLASS_COLUMNS[i] + c]
                memory[e, SCRATCH + 1 + j] += share * soft(total)


@inlined
def read(e, w, p, observations, memory):
    """The sum of machine and summary by weights from column `w` on."""
    total = 0.0
    for i in range(NUM_MACHINE - 1):
        total += p[e, w + i] * observations[e, MACHINE_COLUMNS[i]]
    for j in range(NUM_SUMMARY + 1):
        total += p[e, w + NUM_MACHINE - 1 + j] * memory[e, SCRATCH + j]
    return total


@inlined
def read_class(e, c, w, p, observations, memory):
    """The sum of class c, machine and summary by weights from column `w` on."""
    total = read(e, w + NUM_CLASS, p, observations, memory)
    for i in range(NUM_CLASS):
        total += p[e, w + i] * observations[e, CLASS_COLUMNS[i] + c]
    return total


@inlined
def query_classes(e, policy, observations, queries):
    """Write the query of each class that the scenario has."""
    p = policy.parameters
    for c in range(at.MAX_CLASSES):
        if observations[e, SHARE + c] > 0.0:
            for k in range(at.NUM_TRAITS):
                w = QUERY_OUT + k * _QUERY_OUT_ROW
                queries[e, c, k] = read_class(e, c, w, p, observations, policy.memory) + p[e, w + _CONSTANT]
            queries[e, c, at.CONSTANT] += p[e, CLASS_MORE + c]
            for h in range(NUM_HIDDEN):
                w = QUERY + h * _QUERY_ROW
                total = read_class(e, c, w, p, observations, policy.memory) + p[e, w + NUM_CLASS + NUM_READ]
                unit = soft(total)
                for k in range(at.NUM_TRAITS):
                    queries[e, c, k] += unit * p[e, QUERY_OUT + k * _QUERY_OUT_ROW + NUM_CLASS + NUM_READ + h]


@inlined
def adjusted(e, k, policy, observations):
    """Output k of the third network, of what is read and the hidden units in scratch."""
    p = policy.parameters
    w = ADJUST_OUT + k * _ADJUST_OUT_ROW
    total = read(e, w, p, observations, policy.memory) + p[e, w + NUM_READ + NUM_GLOBAL_HIDDEN]
    for h in range(NUM_GLOBAL_HIDDEN):
        total += p[e, w + NUM_READ + h] * policy.memory[e, HIDDEN + h]
    return total


@inlined
def network(e, seen, known, policy, observations, look, actions, queries, busy):
    """Queries by class, and everything else that an action has."""
    p, memory, scalars = policy.parameters, policy.memory, look.scalars
    summarise(e, seen, known, policy, observations, scalars)
    if seen.queued > 0:
        query_classes(e, policy, observations, queries)
    for h in range(NUM_GLOBAL_HIDDEN):
        w = ADJUST + h * _ADJUST_ROW
        memory[e, HIDDEN + h] = soft(read(e, w, p, observations, memory) + p[e, w + NUM_READ])
    # The weights of the coming choice of kernels stand in scratch columns of the parameters.
    p[e, PROMPT_WORTH] = p[e, BASE] * 2.0 ** min(
        max(adjusted(e, LOG_PROMPT_WORTH, policy, observations), -4.0), 4.0
    )
    p[e, PACE] = p[e, BASE + 1] * 2.0 ** min(max(adjusted(e, LOG_PACE, policy, observations), -4.0), 4.0)
    greedy(e, True, seen, known, policy, look, actions, busy)
    actions[e, at.ORDER] = at.BY_SCORE
    shedding = at.SHED_LATE
    if adjusted(e, DROPS_CLASS, policy, observations) > 0.0:
        shedding = at.SHED_CLASS
    elif adjusted(e, DROPS_NOBODY, policy, observations) > 0.0:
        shedding = at.SHED_NONE
    actions[e, at.SHEDDING] = shedding
    progress = adjusted(e, LEAST_PROGRESS, policy, observations) > 0.0
    actions[e, at.VICTIM] = at.VICTIM_PROGRESS if progress else at.VICTIM_LATEST
    actions[e, at.KEEPING] = (
        at.KEEP_CLASS if adjusted(e, KEEPS_CLASS, policy, observations) > 0.0 else at.KEEP_ALL
    )
    actions[e, at.EVICTION] = at.EVICT_RETURN
    accepted = adjusted(e, DRAFTS_ACCEPTED, policy, observations) > 0.0
    actions[e, at.DRAFTED_FOR] = at.DRAFT_ACCEPTED if accepted else at.DRAFT_ALL
    actions[e, at.PACING] = at.BY_CHUNK
