"""Arrays that callers keep, in memory that is used again once nobody has them any more.

A batch's observations are a megabyte. Fresh memory of that size comes from the system page by page, or does not, as
`malloc` sees fit: some processes take 300 page faults in every step, which then takes half as long again, others none.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import getrefcount
from typing import Any

import numpy as np
import numpy.typing as npt

from papi_env.simulation.engine import CACHE_LINE, Handed

# chosen: a loop holds the last step's and this one's at a time (range: 2 on; more are for callers who keep a few).
_MOST_KEPT = 4
# chosen: smaller ones `malloc` has at hand (range: below the 128 KiB from which it may ask the system).
_SMALL_BYTES = 64 * 1024


def _unused(kept: Sequence[tuple[bytearray, int]], references: int) -> tuple[bytearray, int] | None:
    """The first of what is kept whose memory has so few references, or None."""
    for memory, start in kept:
        if getrefcount(memory) == references:
            return memory, start
    return None


# References to memory that no array is made over, as they are counted there.
_UNUSED = next(count for count in range(1, 10) if _unused([(bytearray(1), 0)], count) is not None)


class Shelf:
    """Arrays of one shape and type; what is in one when it is taken means nothing."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._bytes = int(np.prod(shape)) * self._dtype.itemsize
        self._kept: list[tuple[bytearray, int]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._shape, self._dtype)

    def take(self) -> npt.NDArray[Any]:
        """An array that nobody else has, nor a view of it."""
        if self._bytes < _SMALL_BYTES:
            return np.empty(self._shape, self._dtype)
        # An array over memory has it, and views have the array.
        found = _unused(self._kept, _UNUSED)
        if found is not None:
            return np.ndarray(self._shape, self._dtype, *found)
        memory = bytearray(self._bytes + CACHE_LINE)
        start = -np.frombuffer(memory, dtype=np.uint8).ctypes.data % CACHE_LINE
        if len(self._kept) < _MOST_KEPT:
            self._kept.append((memory, start))
        return np.ndarray(self._shape, self._dtype, memory, start)


class Shelves:
    """What a step of so many environments gives, `Handed`, with so many columns of counters and clocks."""

    def __init__(self, num_envs: int, features: int, counters: int, clocks: int) -> None:
        self._observations = Shelf((num_envs, features), np.float32)
        self._rewards = Shelf((num_envs,), np.float64)
        self._ends = Shelf((num_envs,), np.bool_)
        self._counters = Shelf((num_envs, counters), np.int64)
        self._clocks = Shelf((num_envs, clocks), np.float64)

    def take(self) -> Handed:
        """Arrays that nobody else has."""
        return Handed(
            self._observations.take(),
            self._rewards.take(),
            self._ends.take(),
            self._ends.take(),
            self._counters.take(),
            self._clocks.take(),
        )
