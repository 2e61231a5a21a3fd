"""An experiment of many jobs: what is played, written and reported; `experiments.common.conduct` runs it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rich.console import Console

from experiments.common.runner import Job, RunFolder


class Study(ABC):
    """An experiment with everything looked up: what is played, and what is made of it.

    `conduct` calls its methods in the order in which they stand here.
    """

    # Of the command; run folders are called by it.
    name: ClassVar[str]

    @abstractmethod
    def describe(self) -> Mapping[str, Any]:
        """Everything as plain data; a run folder goes on only if all of it is the same."""

    @abstractmethod
    def rehearse(self) -> None:
        """Fail now on what cannot work, and compile. Raises ConfigurationError."""

    def remarks(self) -> Sequence[str]:
        """Lines to print before the work starts."""
        return ()

    @abstractmethod
    def jobs(self) -> Sequence[Job]:
        """What runs over all cores, in any order."""

    def jobs_alone(self) -> Sequence[Job]:
        """What runs afterwards, one at a time: timings."""
        return ()

    @abstractmethod
    def write(self, folder: RunFolder) -> Any:
        """Write results from finished jobs; returns what `report` prints."""

    def recorded(self, results: Any) -> Mapping[str, Any]:
        """What the session's entry in run.json says besides, of what `write` returned."""
        return {}

    @abstractmethod
    def report(self, console: Console, results: Any, session: Mapping[str, Any]) -> None:
        """Print; `session` is the entry of run.json, with `cores`, `wall_s` and `jobs_reused`."""


def json_text(data: Any, indent: int | None = 1) -> str:
    """Plain data as the project's result files hold it; NaN is refused."""
    return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
