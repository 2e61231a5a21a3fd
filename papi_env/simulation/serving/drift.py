"""How far the units of a machine are from their offline profile, compiled."""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import inlined, lean
from papi_env.simulation.draws import mix, request_key
from papi_env.simulation.serving import state as at

_DRIFT_STREAM = np.uint64(0xD1B54A32D192ED03)
_11 = np.uint64(11)


@inlined
def drift_level(key, knot):
    """Uniform in [0, 1), keyed by a unit's key and the number of the knot."""
    return np.float64(mix(key + np.uint64(knot) * _DRIFT_STREAM) >> _11) * 2.0**-53


@lean
def drift_factor(seed, episode, unit, time_s, scalars):
    """True over profiled time of a unit (0 PUs, 1 FC-PIM, 2 Attn-PIM) at a simulated time; 1 without drift.

    The logarithm is a smooth noise: a level at every multiple of the period, joined by smoothstep.
    """
    log_worst = scalars[at.DRIFT_LOG + unit]
    if log_worst == 0.0:
        return 1.0
    if scalars[at.DRIFT_PERIOD_S] == np.inf:
        return np.exp(log_worst)  # a look-ahead that holds the factor where it is
    position = time_s / scalars[at.DRIFT_PERIOD_S]
    knot = np.int64(position)
    x = position - knot
    x = x * x * (3.0 - 2.0 * x)
    key = request_key(seed, episode, unit) ^ _DRIFT_STREAM
    level = (1.0 - x) * drift_level(key, knot) + x * drift_level(key, knot + 1)
    return np.exp(log_worst * level)
