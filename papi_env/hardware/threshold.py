"""PAPI's offline sweep: the threshold with the least total time, for any measure of a kernel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from papi_env.hardware.system import System
from papi_env.kernel import FloatArray


def least_time_threshold(
    system: System, measure: npt.NDArray[np.int64] | FloatArray, pu_s: FloatArray, pim_s: FloatArray
) -> float:
    """The threshold with the least total time over a sweep, where what measures above it runs on the PUs.

    PAPI's offline sweep for any measure: each kernel is timed on both units, by itself, without mode
    switches. 0 where only PUs run FC kernels, infinite where only PIM does.

    Args:
        system: whose units were timed.
        measure: of each kernel of the sweep, above 0; any shape.
        pu_s, pim_s: its seconds on the PUs and on FC-PIM, the same shape.
    """
    if not system.can_run("fc-pim", "fc"):
        return 0.0
    if not system.can_run("pu", "fc"):
        return float("inf")
    values, index = np.unique(measure.ravel(), return_inverse=True)
    # Kernels of one measure go together, whichever way the rule sends them.
    pu, pim = (np.bincount(index, weights=part.ravel()) for part in (pu_s, pim_s))
    below = np.concatenate([[0.0], np.cumsum(pim)])
    above = np.concatenate([np.cumsum(pu[::-1])[::-1], [0.0]])
    return float(np.concatenate([[0.0], values])[np.argmin(below + above)])
