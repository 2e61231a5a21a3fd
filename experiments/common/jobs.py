"""The jobs of a run: a pool runs those that have no result yet, and each result is stored as soon as it is there."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console

from experiments.common.pools import Call, Pool
from experiments.common.progress import JobsView, Plain
from experiments.common.runner import Columns, Job, RunFolder, listed
from papi_env.errors import DataError
from papi_env.hardware.unused import kept_quiet, warn_once


def run_jobs(folder: RunFolder, jobs: Sequence[Job], pool: Pool, console: Console) -> int:
    """Run the jobs that have no result yet, in any order, with a progress bar.

    Args:
        folder: where results are stored, each as soon as it is there.
        jobs: what to run.
        pool: of processes.
        console: for the progress bar.

    Returns:
        How many jobs had a result already.

    Raises:
        DataError: the folder cannot be written to, or the processes that ran a job died; see `Pool.run`.
    """
    todo, damaged = [], folder.damaged
    for job in jobs:
        if not folder.has(job):
            todo.append(job)
            continue
        try:
            folder.result(job)
        except DataError as error:
            todo.append(job)
            damaged.append(f"{error}: {job.label} is run again")
    if damaged:
        console.print(f"warning: {listed(damaged)}", markup=False, highlight=False, soft_wrap=True)
        damaged.clear()
    reused = len(jobs) - len(todo)
    if not todo:
        return reused
    with JobsView(console, len(jobs), reused, _news(folder, jobs)) as view:
        calls = [Call(job.label, _run_one, (job.function, job.arguments)) for job in todo]
        for number, (text, unused) in pool.run(calls):
            job = todo[number]
            folder.keep(job, text)
            for message in unused:
                warn_once(message)
            view.ended(job.label)
    return reused


def _news(folder: RunFolder, jobs: Sequence[Job]) -> Callable[[], Iterator[Plain]]:
    """Scores of the jobs that have ended since it was last called."""
    left = [job for job in jobs if job.scores is not None]

    def news() -> Iterator[Plain]:
        ended = [job for job in left if folder.has(job)]
        left[:] = [job for job in left if job not in ended]
        for job in ended:
            if job.scores is not None:
                with suppress(DataError):  # of a run that did not end well, which is run again
                    yield from job.scores(folder.result(job))

    return news


def _run_one(function: Callable[..., Columns], arguments: tuple[Any, ...]) -> tuple[bytes, list[str]]:
    """A job's CSV text, and the units that it found never chosen: the command says so once, not each process."""
    with kept_quiet() as unused:
        text = _csv(function(*arguments)).encode()
    return text, unused


def _csv(columns: Columns) -> str:
    """Columns as CSV text; numbers in the shortest form that reads back the same, None as nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
