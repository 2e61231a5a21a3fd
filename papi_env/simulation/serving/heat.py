"""Stacks that warm up, compiled: what joules and idle time do to their temperature, and how slow it makes them.

All stacks of a kind work alike, so that there is one thermal node for those with the weights (0) and one for those
that attend (1). Within an iteration, and while the machine idles, power is constant, and the step is the exact
solution of the node's equation (see `workload.heat.Heat`): temperatures do not depend on how time is cut. What a
temperature changes, it changes from the next iteration on: iterations take milliseconds, warming up takes seconds.
"""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inlined, inner, lean, seldom
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.parts import attended_sums, decode_rows, drafting_contexts

# Rows of `heat_rows` after those of FC kernels by unit: the LM head by tokens, and a step of drafting by requests.
HEAD, DRAFT = 2, 3
NUM_ROWS = 4
# Thermal nodes.
WEIGHTS, KEYS = 0, 1
NUM_NODES = 2


@lean
def settled_c(power_w, scalars):
    """The temperature that a stack which draws so many watts comes to."""
    return scalars[at.AMBIENT_C] + scalars[at.HEAT_RESISTANCE] * power_w


@lean
def stepped_c(temperature_c, power_w, seconds, scalars):
    """A stack's temperature after so many seconds at constant power."""
    settled = settled_c(power_w, scalars)
    return settled + (temperature_c - settled) * np.exp(-seconds * scalars[at.HEAT_RATE])


@lean
def pass_node(e, node, joules, seconds, clocks, scalars):
    """So many seconds pass in which all stacks of a node take so many joules besides their idle power."""
    stacks = scalars[at.HEAT_STACKS + node]
    if stacks == 0.0 or seconds <= 0.0:
        return
    power_w = scalars[at.HEAT_IDLE_W + node] + joules / (stacks * seconds)
    now = stepped_c(clocks[e, at.HEAT + node], power_w, seconds, scalars)
    clocks[e, at.HEAT + node] = now
    if now > scalars[at.THROTTLE_AT_C]:
        clocks[e, at.THROTTLED + node] = 1.0
    elif now <= scalars[at.RELEASE_AT_C]:
        clocks[e, at.THROTTLED + node] = 0.0


@inlined
def start_stacks(e, clocks, scalars):
    """Stacks as they are after a long wait; nothing where they do not warm up."""
    if scalars[at.HEAT_RESISTANCE] > 0.0:
        for node in range(NUM_NODES):
            clocks[e, at.HEAT + node] = settled_c(scalars[at.HEAT_IDLE_W + node], scalars)
            clocks[e, at.THROTTLED + node] = 0.0


@inlined
def cool_stacks(e, seconds, clocks, scalars):
    """So many seconds pass without work; nothing where stacks do not warm up."""
    if scalars[at.HEAT_RESISTANCE] > 0.0:
        for node in range(NUM_NODES):
            pass_node(e, node, 0.0, seconds, clocks, scalars)


@lean
def hot_factor(e, node, clocks, scalars):
    """How many times as long as profiled PIM commands of a node's stacks take: by refreshes, and by their throttle."""
    factor = 1.0
    if clocks[e, at.HEAT + node] > scalars[at.REFRESH_AT_C]:
        factor = scalars[at.HEAT_REFRESH + node]
    if clocks[e, at.THROTTLED + node] > 0.0:
        factor *= scalars[at.THROTTLE]
    return factor


@inner
def stack_joules(decoding, chunk, ran, tables, scalars):
    """Joules that an iteration leaves in all stacks with weights, and in all that attend."""
    rows, terms = tables.heat_rows, tables.heat_terms
    rlp, tlp = decoding.rlp, decoding.tlp
    weights = rows[at.PU, ran.first_pu] + rows[at.FC_PIM, ran.first_pim]
    weights += rows[at.PU, ran.second_pu] + rows[at.FC_PIM, ran.second_pim]
    weights += rows[at.PU, ran.beside] + rows[HEAD, decode_rows(decoding) + chunk.ending]
    drafts = np.float64(tlp - 1 if rlp > 0 else 0)
    drafted = drafting_contexts(decoding) * terms[at.DRAFTED_CONTEXT]
    weights += drafts * (rows[DRAFT, rlp - decoding.single] + drafted)
    groups, contexts, one_groups, one_contexts = attended_sums(decoding, scalars)
    if scalars[at.ATTENTION_UNIT] == 0.0:
        groups, one_groups = contexts, one_contexts
    kv = groups * tables.heat_attention[ran.first, tlp] + one_groups * tables.heat_attention[ran.first, 1]
    prompt = chunk.pairs * terms[at.PAIR] + chunk.context * terms[at.CONTEXT] + chunk.rows * terms[at.ROW]
    keys = 0.0
    if scalars[at.HEAT_KV] == KEYS:
        keys += kv
    else:
        weights += kv
    if scalars[at.HEAT_PROMPT] == KEYS:
        keys += prompt
    else:
        weights += prompt
    return weights, keys


@seldom
def warm_stacks(e, decoding, chunk, cost, tables, clocks, scalars):
    """An iteration that was run warms the stacks of environment e.

    Args:
        decoding: `Decoding`; chunk: `PromptChunk`; cost: `Cost`.
        clocks, scalars: see `state`.
    """
    weights, keys = stack_joules(decoding, chunk, cost.ran, tables, scalars)
    pass_node(e, WEIGHTS, weights, cost.seconds, clocks, scalars)
    pass_node(e, KEYS, keys, cost.seconds, clocks, scalars)
