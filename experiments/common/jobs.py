"""The jobs of a run: a pool runs those that have no result yet, and each result is stored as soon as it is there."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.common.pools import Call, Pool
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
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bars:
        bar = bars.add_task("starting", total=len(jobs), completed=reused)
        calls = [Call(job.label, _run_one, (job.function, job.arguments)) for job in todo]
        for done, (number, (text, unused)) in enumerate(pool.run(calls), start=reused + 1):
            job = todo[number]
            folder.keep(job, text)
            for message in unused:
                warn_once(message)
            bars.update(bar, completed=done, description=job.label)
            # A log gets a line for every tenth of the work.
            if not console.is_terminal and 10 * done // len(jobs) > 10 * (done - 1) // len(jobs):
                console.print(f"{done} of {len(jobs)} jobs", markup=False, highlight=False)
    return reused


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
