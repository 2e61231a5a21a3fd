"""How much sooner a comparison is done with two processes, here and on Ray: `python -m experiments.scaling --help`.

The same `experiments.compare` runs in new processes with one and with two processes for its jobs, on local cores and on
a Ray of this machine; its results must be the same bit for bit. A first run compiles and is not counted. Written to the
run folder: run.json and summary.json. Other work on the machine spoils what is measured.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import joblib
import tyro
from rich.console import Console
from rich.table import Table

from experiments.common.command import command_line, say
from experiments.common.options import Out
from experiments.common.runner import RunFolder
from experiments.common.study import json_text
from experiments.common.workers import BACKENDS
from experiments.speed.scaled import SEEDS, Timed, plain, scaled, timed
from papi_env.errors import ConfigurationError, lookup
from papi_env.simulation.processor import processor

PROCESSES = (1, 2)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Time the same comparison with one and two processes, here and on Ray.

    python -m experiments.scaling
    """

    backends: Annotated[tuple[str, ...], tyro.conf.arg(metavar="local|ray ...")] = ("local", "ray")
    """Where the processes are."""
    seeds: Annotated[int, tyro.conf.arg(metavar="INT")] = SEEDS
    """Of each setting of the comparison, as many as take some twenty seconds of a core."""
    repeats: Annotated[int, tyro.conf.arg(metavar="INT")] = 3
    """Runs of each kind, of which the medians are shown."""
    out: Out = None


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Measure, write the run folder, whose path is returned, and print.

    Raises:
        ConfigurationError: it cannot be done as asked.
        DataError: a run failed, or found something else.
    """
    backends = tuple(dict.fromkeys(config.backends))
    for backend in backends:
        lookup("backend", backend, BACKENDS)
    if config.seeds < 1 or config.repeats < 1 or not backends:
        raise ConfigurationError(
            f"--seeds is {config.seeds} and --repeats {config.repeats}, expected at least 1 of each, and a backend"
        )
    if joblib.cpu_count() < max(PROCESSES):
        raise ConfigurationError(f"found {joblib.cpu_count()} core, expected at least {max(PROCESSES)}")
    if "ray" in backends and importlib.util.find_spec("ray") is None:
        raise ConfigurationError(
            "ray is not installed: pip install 'papi-env[ray]', or --backends local leaves it out"
        )
    asked = {"backends": list(backends), "seeds": config.seeds, "repeats": config.repeats}
    folder = RunFolder.open(config.out, "scaling", asked)
    say(progress, f"run folder {folder.path}")
    with folder.session(command, max(PROCESSES)):
        kinds = [(backend, processes) for backend in backends for processes in PROCESSES]
        say(progress, "a run to compile, which is not counted")
        timed(backends[0], 1, 1)
        runs: list[tuple[str, int, Timed]] = []
        # Each kind in turn: what slows the machine for a while slows all of them.
        for k in range(config.repeats):
            for backend, processes in kinds:
                one = timed(backend, processes, config.seeds)
                runs.append((backend, processes, one))
                say(
                    progress,
                    f"{k + 1} of {config.repeats}: {backend}, {processes}: jobs {one.jobs_s:.1f} s, "
                    f"command {one.command_s:.1f} s",
                )
        summary = plain(scaled(runs), config.seeds, config.repeats, processor())
        folder.write("summary.json", json_text(summary))
    console.print(_table(summary))
    say(console, f"Medians of {config.repeats} on {summary['processor']}; all results the same bit for bit")
    return folder.path


def _table(summary: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("backend")
    for name in ("processes", "jobs (s)", "over one", "command (s)", "over one"):
        table.add_column(name, justify="right")
    for row in summary["rows"]:
        table.add_row(
            row["backend"],
            str(row["processes"]),
            f"{row['jobs_s']:.1f}",
            f"{row['jobs_over_one']:.2f}",
            f"{row['command_s']:.1f}",
            f"{row['command_over_one']:.2f}",
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command_line("scaling", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
