"""PAPI's threshold and its kin, and fixed actions, compiled: a decision for one environment."""

from __future__ import annotations

import numpy as np

from agents.serving.inside.compiled import inlined
from agents.serving.inside.memory import AGE, chunk_tokens
from papi_env.simulation.serving import state as at
from papi_env.workload.serving import SPECULATION_LENGTHS

# Columns of the parameters: of a threshold and its kin, and what `adaptive` has besides. Those of a fixed action are
# its four choices.
LENGTH, PATIENCE, MARGIN = 0, 1, 2


@inlined
def fc_seconds(unit, rows, look):
    """Profiled seconds of all FC kernels with so many rows on the PUs (0) or FC-PIM (1)."""
    return look.fc_s[unit, min(rows, look.fc_s.shape[1] - 1)]


@inlined
def with_fc_on(e, unit, length, actions):
    """FC kernels on `unit` and one speculation length; whoever fits is admitted, nothing overlaps."""
    actions[e, at.FC] = unit
    actions[e, at.SPECULATION] = length
    actions[e, at.ADMISSION] = at.ALL
    actions[e, at.OVERLAP] = 0


@inlined
def fixed(e, parameters, actions):
    """The four choices that the parameters are."""
    for k in range(at.ORDER):
        actions[e, k] = np.int64(parameters[e, k])


@inlined
def threshold(e, seen, parameters, look, actions):
    """PAPI's rule: the PUs where RLP x TLP exceeds α."""
    length = np.int64(parameters[e, LENGTH])
    n = seen.rlp * SPECULATION_LENGTHS[length]
    with_fc_on(e, at.PU if n > look.scalars[at.ALPHA] else at.FC_PIM, length, actions)


@inlined
def prefill_threshold(e, seen, parameters, look, actions):
    """Where a prompt chunk comes: decode rows in its kernel, or beside it on FC-PIM, whichever takes less."""
    scalars = look.scalars
    length = np.int64(parameters[e, LENGTH])
    n = seen.rlp * SPECULATION_LENGTHS[length]
    # Prompt lengths of the queue are not observed, so a queue counts as a full chunk.
    full = np.int64(chunk_tokens(scalars))
    chunk = full if seen.queued > 0 else min(seen.backlog, full)
    if chunk > 0:
        on_pim = fc_seconds(at.FC_PIM, n, look)
        if scalars[at.DUAL_BUFFERS] == 0.0:
            switching = scalars[at.SWITCHES_PER_SPLIT] * scalars[at.SWITCH_S]
            on_pim = on_pim + look.bank_s[chunk] + switching
        together = fc_seconds(at.PU, n + chunk, look)
        beside = max(fc_seconds(at.PU, chunk, look), on_pim)
        unit = at.FC_PIM if beside < together else at.PU
    else:
        unit = at.PU if n > scalars[at.ALPHA] else at.FC_PIM
    with_fc_on(e, unit, length, actions)


@inlined
def adaptive(e, seen, policy, look, actions):
    """Where corrected times cross; a unit that was long unused is tried again where it may be the better one."""
    parameters, memory = policy.parameters, policy.memory
    length = np.int64(parameters[e, LENGTH])
    n = seen.rlp * SPECULATION_LENGTHS[length]
    if seen.on_pu > 0.0 or seen.on_split > 0.0 or seen.last_chunk > 0:
        memory[e, AGE + at.PU] = 0.0
    if seen.on_pim > 0.0 or seen.on_split > 0.0:
        memory[e, AGE + at.FC_PIM] = 0.0
    on_pu = fc_seconds(at.PU, n, look) * seen.drift_pu
    on_pim = fc_seconds(at.FC_PIM, n, look) * seen.drift_fc_pim
    best, best_s, other_s = at.FC_PIM, on_pim, on_pu
    if on_pu < on_pim:
        best, best_s, other_s = at.PU, on_pu, on_pim
    other = 1 - best
    near = other_s <= (1.0 + parameters[e, MARGIN]) * best_s
    unit = other if near and memory[e, AGE + other] > parameters[e, PATIENCE] else best
    memory[e, AGE + at.PU] += 1.0
    memory[e, AGE + at.FC_PIM] += 1.0
    with_fc_on(e, unit, length, actions)


@inlined
def mend(e, seen, scalars, actions):
    """Make of an action what the environment would make of it, so that none counts as invalid."""
    only = np.int64(scalars[at.ONLY_UNIT])
    if only >= 0:
        actions[e, at.FC] = only
    if scalars[at.ATTENTION_UNIT] != 2.0:
        actions[e, at.OVERLAP] = 0
    if seen.rlp + seen.prefilling == 0 and actions[e, at.ADMISSION] == at.NONE and seen.queued > 0:
        actions[e, at.ADMISSION] = at.ONE
