"""How tokens become KV pages, groups of the memory and rows of DRAM, compiled."""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import COLUMNS_PER_ROW, GROUP_TOKENS
from papi_env.simulation.compiled import inlined
from papi_env.simulation.serving import state as at

# Slots of decoding requests that are looked at together: rows of slots are a multiple of these. Those behind the
# decoding requests hold EMPTY tokens, which take no groups with up to 16 more, and have none left.
# chosen: 16 numbers of 32 bits, two vectors of AVX2 and one of AVX-512 (range 8-32).
SLOTS_AT_ONCE = 16
# Of which drafts are drawn together. chosen: 8 draws of 64 bits, as many vectors (range 4-16).
DRAWN_AT_ONCE = 8
EMPTY = -GROUP_TOKENS
# Both are powers of two.
_GROUP_REST, _GROUP_LOG2 = np.int32(GROUP_TOKENS - 1), np.int32(GROUP_TOKENS.bit_length() - 1)
_ROW_REST, _ROW_LOG2 = np.int32(COLUMNS_PER_ROW - 1), np.int32(COLUMNS_PER_ROW.bit_length() - 1)


@inlined
def pages_of(tokens, scalars):
    """KV pages that so many tokens take."""
    log2 = np.int64(scalars[at.PAGE_LOG2])
    return (tokens + (np.int64(1) << log2) - 1) >> log2


@inlined
def pages_are_groups(scalars):
    """Whether a KV page has as many tokens as a group, so that who counts the one has counted the other."""
    return scalars[at.PAGE_LOG2] == np.float64(_GROUP_LOG2)


@inlined
def pages_in(contexts, more, scalars):
    """KV pages that contexts take once each has so many tokens more."""
    pages = np.int64(0)
    for i in range(contexts.shape[0]):
        pages += pages_of(contexts[i] + more, scalars)
    return pages


@inlined
def groups_of(tokens):
    """Groups in which the memory attends to so many tokens: what attention's time and energy are counted by."""
    return (tokens + GROUP_TOKENS - 1) // GROUP_TOKENS


@inlined
def in_vectors(slots, at_once=SLOTS_AT_ONCE):
    """The slots that are looked at where so many decode: whole vectors, with empty ones at the end."""
    return ((slots + at_once - 1) // at_once) * at_once


@inlined
def narrow(number):
    """A number as an int32, which it fits into: a processor adds up twice as many of these at once as of int64.

    numba's sums and products of them are int64, so each is narrowed again.
    """
    return np.int32(number)


@inlined
def narrow_groups_of(tokens):
    """`groups_of` with int32."""
    return narrow(narrow(tokens + _GROUP_REST) >> _GROUP_LOG2)


@inlined
def narrow_key_rows_of(groups, group_columns):
    """`key_rows_of` with int32; columns of a whole context fit into one, see `tables`."""
    return narrow(narrow(narrow(groups * group_columns) + _ROW_REST) >> _ROW_LOG2)


@inlined
def key_rows_of(groups, group_columns):
    """DRAM rows of keys in so many groups of one request, each of which takes `group_columns` columns."""
    return (groups * group_columns + COLUMNS_PER_ROW - 1) // COLUMNS_PER_ROW


@inlined
def near_context(context, tlp, scalars):
    """Of so many tokens, those that are read in layers with windows.

    Tokens verified together share a read of all that one of them sees.
    """
    return min(context, np.int64(scalars[at.WINDOW]) + tlp - 1)
