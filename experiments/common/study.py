"""How an experiment of many jobs runs: resolved, played, written and reported, in a folder that it can go on in."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import joblib
from rich.console import Console

from experiments.common.command import can_go_on, say
from experiments.common.runner import Job, RunFolder, run_jobs


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
    def write(self, folder: RunFolder, cores: int) -> Any:
        """Write results from finished jobs; returns what `report` prints."""

    def recorded(self, results: Any) -> Mapping[str, Any]:
        """What the session's entry in run.json says besides, of what `write` returned."""
        return {}

    @abstractmethod
    def report(self, console: Console, results: Any, session: Mapping[str, Any]) -> None:
        """Print; `session` is the entry of run.json, with `wall_s` and `jobs_reused`."""


def conduct(
    study: Study, out: Path | None, jobs: int, command: str, console: Console, progress: Console
) -> Path:
    """Run a study and write its folder, whose path is returned.

    Args:
        study: what to run.
        out: the folder, or None for a new one under runs/.
        jobs: processes; 0 for all cores.
        command: recorded in run.json.
        console: for the results.
        progress: for everything else.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    with progress.status("compiling (the first time takes longer)"):
        study.rehearse()
    cores = jobs or joblib.cpu_count()
    folder = RunFolder.open(out, study.name, study.describe())
    say(progress, f"run folder {folder.path}")
    for line in study.remarks():
        say(progress, line)
    with folder.session(command, cores) as session:
        together, alone = study.jobs(), study.jobs_alone()
        with can_go_on(progress, f"the same command with --out {folder.path}"):
            reused = run_jobs(folder, together, cores, progress)
            # Alone on the machine, as far as that is in our hands.
            reused += run_jobs(folder, alone, 1, progress)
        session["jobs"], session["jobs_reused"] = len(together) + len(alone), reused
        with progress.status("intervals and figures"):
            results = study.write(folder, cores)
        session.update(study.recorded(results))
    study.report(console, results, session)
    return folder.path


def json_text(data: Any, indent: int | None = 1) -> str:
    """Plain data as the project's result files hold it; NaN is refused."""
    return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
