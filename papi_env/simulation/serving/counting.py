"""How tokens become KV pages, groups of the memory and rows of DRAM, compiled."""

from __future__ import annotations

import numpy as np

from papi_env.hardware.dram import COLUMNS_PER_ROW, GROUP_TOKENS
from papi_env.simulation.compiled import inlined
from papi_env.simulation.serving import state as at


@inlined
def pages_of(tokens, scalars):
    """KV pages that so many tokens take."""
    log2 = np.int64(scalars[at.PAGE_LOG2])
    return (tokens + (np.int64(1) << log2) - 1) >> log2


@inlined
def groups_of(tokens):
    """Groups in which the memory attends to so many tokens: what attention's time and energy are counted by."""
    return (tokens + GROUP_TOKENS - 1) // GROUP_TOKENS


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
