"""What is measured of an episode, said once: a problem declares its measures, and everything else lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy.typing as npt

State = TypeVar("State")


@dataclass(frozen=True)
class Measure(Generic[State]):
    """One metric of an episode.

    Attributes:
        name: as in `info["metrics"]` and in result files; a unit of measurement ends it (`time_s`, `total_j`).
        value: array [num_envs], from what the engine holds of its episodes.
        words: what it is.
        whole: every episode has a whole number of it.
    """

    name: str
    value: Callable[[State], npt.NDArray[Any]]
    words: str = ""
    whole: bool = False


def names(measures: Iterable[Measure[Any]]) -> tuple[str, ...]:
    """Their names, in order."""
    return tuple(measure.name for measure in measures)


def evaluate(measures: Sequence[Measure[State]], state: State) -> dict[str, npt.NDArray[Any]]:
    """Every measure of the episodes in `state`, arrays [num_envs] by name."""
    return {measure.name: measure.value(state) for measure in measures}
