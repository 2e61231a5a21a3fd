"""How an experiment of many jobs runs: resolved, played, written and reported, in a folder that it can go on in."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from experiments.common.command import can_go_on, say
from experiments.common.jobs import run_jobs
from experiments.common.options import Workers
from experiments.common.pools import OwnProcess
from experiments.common.runner import RunFolder
from experiments.common.study import Study
from experiments.common.workers import started


def conduct(
    study: Study, out: Path | None, workers: Workers, command: str, console: Console, progress: Console
) -> Path:
    """Run a study and write its folder, whose path is returned.

    Args:
        study: what to run.
        out: the folder, or None for a new one under runs/.
        workers: the processes.
        command: recorded in run.json.
        console: for the results.
        progress: for everything else.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    with started(workers) as pool:
        with progress.status("compiling (the first time takes longer)"):
            study.rehearse()
        folder = RunFolder.open(out, study.name, study.describe())
        say(progress, f"run folder {folder.path}")
        for line in study.remarks():
            say(progress, line)
        with folder.session(command, pool.size) as session:
            together, alone = study.jobs(), study.jobs_alone()
            start = time.perf_counter()
            with can_go_on(progress, f"the same command with --out {folder.path}"):
                reused = run_jobs(folder, together, pool, progress)
                # Alone on the machine, as far as that is in our hands.
                reused += run_jobs(folder, alone, OwnProcess(), progress)
            session["jobs_s"] = round(time.perf_counter() - start, 3)
            session["jobs"], session["jobs_reused"] = len(together) + len(alone), reused
            with progress.status("intervals and figures"):
                results = study.write(folder)
            session.update(study.recorded(results))
            folder.pack([*together, *alone])
    study.report(console, results, session)
    return folder.path
