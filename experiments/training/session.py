"""A training in its run folder: in one session or several, with its picture and its table."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from agents.learned.checkpoint import recover
from experiments.common.command import can_go_on, say
from experiments.common.pools import Pool
from experiments.common.runner import RunFolder, source_digest, versions, writing
from experiments.common.workers import started
from experiments.training.callbacks import Bar, Boundary
from experiments.training.curves.data import YAxis
from experiments.training.evolution import Evolved
from experiments.training.expert.rounds import Expert
from experiments.training.interruption import Interruption
from experiments.training.learn import train
from experiments.training.options import PROGRAM, Config, resumed
from experiments.training.phased import Phased, train_in_phases
from experiments.training.plan import Training, learning_versions, resolve
from experiments.training.record import BEST, LAST, Record
from experiments.training.scores import scored

CURVES = "curves.png"
KINDS_IN_PHASES: Mapping[str, Callable[[Training, Record, Pool], Phased]] = {
    "evolution": Evolved,
    "expert-iteration": Expert,
}


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Train, or tune, in a run folder, whose path is returned.

    Args:
        config: what to train.
        command: recorded in run.json.
        console: for the result.
        progress: for everything else.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked, or training diverged.
        KeyboardInterrupt: the run was interrupted; it can go on.
    """
    kept = None
    if config.resume is not None:
        config, kept = resumed(config)
    with progress.status("reading scenarios"):
        training = resolve(config, kept)
    # Ray listens for signals too: before this does.
    with started(config.workers) as pool:
        folder = RunFolder.open(config.out, "train", training.describe())
        say(progress, f"run folder {folder.path}")
        _warn_of_changes(folder, progress)
        cores = max(config.threads, pool.size)
        with folder.session(command, cores) as session, Interruption().listening() as interruption:
            session["versions"] |= learning_versions()
            go_on = f"{shlex.join(PROGRAM)} --resume {folder.path}"
            with can_go_on(progress, go_on), _processor_time(pool, session):
                if config.tune:
                    from experiments.training.trials import tune  # needs Optuna

                    with writing(folder.path):
                        tune(training, folder, interruption, console, progress)
                else:
                    _train_in(training, folder, interruption, pool, session, console, progress)
    return folder.path


@contextmanager
def _processor_time(pool: Pool, session: dict[str, Any]) -> Iterator[None]:
    """Note the seconds of the processor in the session; not where other processes play, for theirs are unknown."""
    start = time.process_time()
    try:
        yield
    finally:
        if pool.size == 1:
            session["processor_s"] = round(time.process_time() - start, 2)


def _train_in(
    training: Training,
    folder: RunFolder,
    interruption: Interruption,
    pool: Pool,
    session: dict[str, Any],
    console: Console,
    progress: Console,
) -> None:
    for name in (BEST, LAST):
        recover(folder.path / name)
    terminal = progress.is_terminal
    bar = Progress(*Bar.columns(), console=progress, transient=True, disable=not terminal)
    kind = KINDS_IN_PHASES.get(training.config.algorithm)
    with bar if terminal else nullcontext():
        listener = Bar(bar, training.parameters.timesteps)
        boundary: Boundary | Phased = (
            train(training, folder.path, listener, interruption)
            if kind is None
            else train_in_phases(kind, training, folder.path, listener, interruption, pool)
        )
    session["steps"] = boundary.steps
    session["simulated_s"] = round(boundary.simulated_s, 3)
    with progress.status("drawing"):
        from experiments.training.curves.report import curves_figure  # pictures alone need it

        shown: YAxis = "regret" if "regret" in boundary.rows[-1] else "return"
        folder.write(CURVES, curves_figure([folder.path], y=shown))
    print_result(console, training, folder.path, boundary)


def _warn_of_changes(folder: RunFolder, progress: Console) -> None:
    """Say where code or versions are not those of the session before: going on is then not exact."""
    if not folder.sessions:
        return
    before: Mapping[str, Any] = folder.sessions[-1]
    now = {**versions(), **learning_versions()}
    changed = [
        f"{name} {before['versions'].get(name)} then, {found} now"
        for name, found in now.items()
        if name in before["versions"] and before["versions"][name] != found
    ]
    if before["source"]["digest"] != source_digest():
        changed.append("the source code of papi_env or agents")
    if changed:
        text = f"warning: going on with other software, so not bit for bit as one run: {'; '.join(changed)}"
        say(progress, text)


def print_result(console: Console, training: Training, folder: Path, boundary: Boundary | Phased) -> None:
    """The best and the last validation, what they took, and how to compare."""
    best = max(boundary.rows, key=lambda row: row["score"])
    title = f"{training.config.algorithm} on {training.config.env}, {len(training.settings)} setting(s)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("", "steps", scored(training.config.env), "regret / %", "simulated / s", "wall / s"):
        table.add_column(name, justify="right" if name else "left")
    for label, row in (("best", best), ("last", boundary.rows[-1])):
        regret = f"{100 * row['regret']:.3f}" if "regret" in row else "-"
        table.add_row(
            label,
            f"{row['steps']:,}",
            f"{row['score']:.6g}",
            regret,
            f"{row['simulated_s']:,.0f}",
            f"{row['wall_s']:,.1f}",
        )
    console.print(table)
    system = training.settings[0].system.name
    hint = f"python -m experiments.compare --env {training.config.env} --entries"
    hint += f" {system}/threshold {system}/{folder / BEST}"
    say(console, hint)
