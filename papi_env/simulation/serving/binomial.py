"""Means over routings of what experts cost, compiled: the tokens of an expert are binomial."""

from __future__ import annotations

import numpy as np

from papi_env.kernel import FloatArray
from papi_env.simulation.compiled import njit

# Chances at the ends of a binomial law that are left out; chosen: far below what a double holds of their sum.
_NOTHING = 1e-20


@njit
def mean_sums(chance: FloatArray, count: FloatArray, columns: FloatArray) -> FloatArray:
    """Mean sums over experts of what each costs, float64 [rows, columns], by rows that are routed.

    Args:
        chance: that a row goes to an expert, float64 [kinds]; count: experts of each kind.
        columns: what one expert costs by its own rows, float64 [rows, columns]; 0 without any.
    """
    # Binomial laws of one row more follow from those before; only their middles are kept up.
    rows = columns.shape[0] - 1
    kinds = chance.shape[0]
    laws = np.zeros((kinds, rows + 2))
    laws[:, 0] = 1.0
    low = np.zeros(kinds, dtype=np.int64)
    high = np.zeros(kinds, dtype=np.int64)
    load = np.zeros(rows + 2)
    means = np.zeros((rows + 1, columns.shape[1]))
    for n in range(1, rows + 1):
        first = rows
        last = 0
        for kind in range(kinds):
            p = chance[kind]
            law = laws[kind]
            high[kind] += 1
            for j in range(high[kind], low[kind], -1):
                law[j] = (1.0 - p) * law[j] + p * law[j - 1]
            law[low[kind]] *= 1.0 - p
            while low[kind] < high[kind] and law[low[kind]] < _NOTHING:
                law[low[kind]] = 0.0
                low[kind] += 1
            while high[kind] > low[kind] and law[high[kind]] < _NOTHING:
                law[high[kind]] = 0.0
                high[kind] -= 1
            first = min(first, low[kind])
            last = max(last, high[kind])
            for j in range(low[kind], high[kind] + 1):
                load[j] += count[kind] * law[j]
        for j in range(first, last + 1):
            for c in range(columns.shape[1]):
                means[n, c] += load[j] * columns[j, c]
            load[j] = 0.0
    return means
