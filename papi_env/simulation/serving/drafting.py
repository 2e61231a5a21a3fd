"""Who drafts in an iteration, compiled: all requests, or those of classes whose drafts are accepted."""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inlined, lean
from papi_env.simulation.serving import state as at


@inlined
def drafts_kind(kind, undrafted):
    """Whether requests of this kind draft: `undrafted` has the bits of those that do not."""
    return (undrafted >> np.int64(kind)) & 1 == 0


@inlined
def mean_excess(e, accepted, state, kinds):
    """By how much all decoding requests together exceed so many `accepted`, each with CLASS_ACCEPTED of its class.

    Classes that have never drafted are left out. Of requests that are all alike it is exactly 0.
    """
    clocks = state.clocks
    excess = 0.0
    for i in range(state.counters[e, at.RLP]):
        number = np.int64(kinds[state.classes[e, i], at.OF_CLASS])
        seen = clocks[e, at.CLASS_ACCEPTED + number]
        if seen > 0.0:
            excess += seen - accepted
    return excess


@lean
def choose_drafters(e, choice, state, kinds):
    """Write UNDRAFTED for a choice of `DRAFTED_FOR`, before `survey` asks for it.

    With `DRAFT_ACCEPTED` a request drafts where its class has had no fewer drafts accepted, of those that it had, than
    the decoding requests on average (moving averages, CLASS_ACCEPTED). Classes that have never drafted do, so that
    they are tried; the mean is that of the others.

    Args:
        e, state: as elsewhere; kinds: float64 [kinds, NUM_KIND], see `tables.ServingTables`.
    """
    undrafted = np.int64(0)
    if choice == at.DRAFT_ACCEPTED:
        for number in range(at.MAX_CLASSES):
            accepted = state.clocks[e, at.CLASS_ACCEPTED + number]
            if accepted > 0.0 and mean_excess(e, accepted, state, kinds) > 0.0:
                for kind in range(kinds.shape[0]):
                    if kinds[kind, at.OF_CLASS] == number:
                        undrafted |= np.int64(1) << np.int64(kind)
    state.counters[e, at.UNDRAFTED] = undrafted
