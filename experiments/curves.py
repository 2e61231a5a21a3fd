"""Draw learning curves of training runs: `python -m experiments.curves RUN_FOLDER ... --help`.

Reads what `experiments.train` wrote: run.json and evaluations.csv. Runs of one algorithm, or with one LABEL, are a
group: thin lines for the runs, a thick one for their interquartile mean, a band around it. Horizontal lines are what
policies that were not trained earn on the very validation instances, which are played here. All runs must have been
validated on the same instances.

Written to the run folder: run.json, curves.csv (a row for every validation of every run), summary.json, curves.png. The
same command with `--out` draws anew with what has come since, and plays nothing twice. `curves_figure` in
`experiments.training.curves.report` is the picture alone, for other programs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.common.command import command_line
from experiments.common.conduct import conduct
from experiments.common.options import ALL_CORES, OnWorkers, Out, Spelling, words
from experiments.training.curves.data import XAxis, YAxis
from experiments.training.curves.report import Band
from experiments.training.curves.study import Curves

SPELLINGS = (Spelling("--references", "--entries"),)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Draw learning curves of training runs.

    python -m experiments.curves runs/ppo-0 runs/ppo-1 wide=runs/wide-0 --entries threshold heuristic
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        words("FOLDER|LABEL=FOLDER ..."),
    ] = ()
    """Training runs; those with one label, else one algorithm, are a group."""
    x: XAxis = "steps"
    """Environment steps, or seconds of training with its validations."""
    y: YAxis = "return"
    """Validation return, or regret against the oracle where the problem has one."""
    band: Band = "bootstrap"
    """Shaded around a group's curve: its 95 % bootstrap interval, or from the lowest to the highest run."""
    y_limits: Annotated[tuple[float, float] | None, words("LOW HIGH")] = None
    """Ends of the y axis in the picture (default: everything is shown)."""
    entries: Annotated[tuple[str, ...], tyro.conf.arg(metavar="POLICY ...")] = ("threshold",)
    """Policies to play on the validation instances; in Serving-v0 also bound, best-threshold and best-fixed."""
    workers: OnWorkers = ALL_CORES
    out: Out = None


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Play the references, write the run folder, whose path is returned, and print.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    with progress.status("reading runs"):
        study = Curves(config.runs, config.entries, config.x, config.y, config.band, config.y_limits)
    return conduct(study, config.out, config.workers, command, console, progress)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("curves", Config, run, arguments, SPELLINGS)


if __name__ == "__main__":
    sys.exit(main())
