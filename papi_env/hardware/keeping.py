"""Tables of a machine are worked out once: environments of one machine and model share them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from papi_env.hardware.system import System

P = ParamSpec("P")
R = TypeVar("R")


def kept_by_machine(
    most: int,
) -> Callable[[Callable[Concatenate[System, P], R]], Callable[Concatenate[System, P], R]]:
    """A decorator of functions of a system and further hashable arguments: the last results are kept.

    Arrays in a result (one array, or a tuple of them) are made read-only, for all callers share them. Nothing is kept
    of systems whose kernels stand in a file: that can be written anew.

    Args:
        most: results to keep.
    """

    def keep(function: Callable[Concatenate[System, P], R]) -> Callable[Concatenate[System, P], R]:
        cached: Any = lru_cache(maxsize=most)(function)

        @wraps(function)
        def kept(system: System, *args: P.args, **kwargs: P.kwargs) -> R:
            from_file = system.pu is not None and system.pu.kernel_file is not None
            found: R = function(system, *args, **kwargs) if from_file else cached(system, *args, **kwargs)
            for array in found if isinstance(found, tuple) else (found,):
                if isinstance(array, np.ndarray):
                    array.flags.writeable = False
            return found

        return kept

    return keep
