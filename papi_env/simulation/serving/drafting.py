"""Who drafts in an iteration, compiled: all requests, or those of classes whose drafts are accepted.

The others verify one token. What a mixed batch costs is in `parts` and `iteration`.
"""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inlined, lean
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.counting import groups_of, key_rows_of, near_context, pages_of
from papi_env.simulation.serving.terms import Attended, Decoding

# Iterations of which one drafts for all. chosen: 16, as many as moving averages look back; range 4-256.
TRIAL = 16
# Numbers of all classes stand side by side in one word. No more requests run than its parts have room for.
_PART_BITS = np.uint64(64 // at.MAX_CLASSES)
_PART = np.uint64(2 ** (64 // at.MAX_CLASSES) - 1)


@inlined
def drafts_kind(kind, undrafted):
    """Whether requests of this kind draft: `undrafted` has the bits of those that do not."""
    return (undrafted >> np.int64(kind)) & 1 == 0


@inlined
def in_class(kind, kinds, number):
    """A number in the part of a word that is the class's of a kind; such words are added up as numbers are."""
    return np.uint64(number) << (np.uint64(kinds[np.uint64(kind), at.OF_CLASS]) * _PART_BITS)


@inlined
def of_class(words, number):
    """The part of a word that is a class's."""
    return np.int64((words >> (np.uint64(number) * _PART_BITS)) & _PART)


@inlined
def decoding_by_class(e, state, kinds):
    """Decoding requests of each class, side by side in a word."""
    found = np.uint64(0)
    for i in range(state.counters[e, at.RLP]):
        found += in_class(state.classes[e, i], kinds, 1)
    return found


@inlined
def mean_excess(e, accepted, requests, clocks):
    """By how much decoding requests together exceed so many `accepted`, each with CLASS_ACCEPTED of its class.

    Classes that have never drafted are left out. Of requests that are all alike it is exactly 0. `requests` is what
    `decoding_by_class` found.
    """
    excess = 0.0
    for number in range(at.MAX_CLASSES):
        seen = clocks[e, at.CLASS_ACCEPTED + number]
        if seen > 0.0:
            excess += of_class(requests, number) * (seen - accepted)
    return excess


@lean
def choose_drafters(e, choice, state, kinds):
    """Write UNDRAFTED for a choice of `DRAFTED_FOR`, before `survey` asks for it.

    With `DRAFT_ACCEPTED` a request drafts where its class has had no fewer drafts accepted, of those that it had, than
    the decoding requests on average (moving averages, CLASS_ACCEPTED). Classes that have never drafted do, so that
    they are tried; the mean is that of the others. One iteration in `TRIAL` drafts for all: else a class whose first
    drafts failed would stay out for ever.

    Args:
        e, state: as elsewhere; kinds: float64 [kinds, NUM_KIND], see `tables.ServingTables`.
    """
    undrafted = np.int64(0)
    if choice == at.DRAFT_ACCEPTED and state.counters[e, at.ITERATION] % TRIAL != 0:
        requests = decoding_by_class(e, state, kinds)
        for number in range(at.MAX_CLASSES):
            accepted = state.clocks[e, at.CLASS_ACCEPTED + number]
            if accepted > 0.0 and mean_excess(e, accepted, requests, state.clocks) > 0.0:
                for kind in range(kinds.shape[0]):
                    if kinds[kind, at.OF_CLASS] == number:
                        undrafted |= np.int64(1) << np.int64(kind)
    state.counters[e, at.UNDRAFTED] = undrafted


@lean
def survey_mixed(e, tlp, state, scalars):
    """`requests.survey` where requests of kinds in UNDRAFTED verify a single token. Where all do, TLP is 1."""
    counters, contexts = state.counters, state.contexts
    rlp = counters[e, at.RLP]
    columns = np.int64(scalars[at.GROUP_COLUMNS])
    windows = scalars[at.WINDOW] > 0.0
    zero = np.int64(0)
    drafting, pages = zero, zero
    # Of all requests, and of those that draft.
    context_sum, group_sum, group_max, key_row_sum = zero, zero, zero, zero
    their_contexts, their_groups, their_most, their_key_rows = zero, zero, zero, zero
    near_sum, near_group_sum, near_group_max, near_key_row_sum = zero, zero, zero, zero
    their_near, their_near_groups, their_near_most, their_near_key_rows = zero, zero, zero, zero
    for i in range(rlp):
        drafts = np.int64(drafts_kind(state.classes[e, i], counters[e, at.UNDRAFTED]))
        verified = tlp if drafts > 0 else np.int64(1)
        context = np.int64(contexts[e, i]) + verified
        groups = groups_of(context)
        key_rows = key_rows_of(groups, columns)
        drafting += drafts
        pages += pages_of(context, scalars)
        context_sum += context
        group_sum += groups
        group_max = max(group_max, groups)
        key_row_sum += key_rows
        their_contexts += drafts * context
        their_groups += drafts * groups
        their_most = max(their_most, drafts * groups)
        their_key_rows += drafts * key_rows
        if windows:
            near = near_context(context, verified, scalars)
            groups = groups_of(near)
            key_rows = key_rows_of(groups, columns)
            near_sum += near
            near_group_sum += groups
            near_group_max = max(near_group_max, groups)
            near_key_row_sum += key_rows
            their_near += drafts * near
            their_near_groups += drafts * groups
            their_near_most = max(their_near_most, drafts * groups)
            their_near_key_rows += drafts * key_rows
    decoding = Decoding(
        rlp,
        tlp if drafting > 0 else np.int64(1),
        context_sum,
        group_sum,
        group_max,
        key_row_sum,
        key_rows_of(group_max, columns),
        near_sum,
        near_group_sum,
        near_group_max,
        near_key_row_sum,
        key_rows_of(near_group_max, columns),
        rlp - drafting if drafting > 0 else zero,
        Attended(
            their_contexts,
            their_groups,
            their_most,
            their_key_rows,
            key_rows_of(their_most, columns),
            their_near,
            their_near_groups,
            their_near_most,
            their_near_key_rows,
            key_rows_of(their_near_most, columns),
        ),
    )
    return decoding, pages + counters[e, at.PREFILL_PAGES]
