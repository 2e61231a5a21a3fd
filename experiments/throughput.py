"""Steps per second beside CartPole in the same run: `python -m experiments.throughput --help`.

Everything is measured on one pinned core in rounds that alternate with the reference; reported are medians over
rounds with quartiles (see `experiments.speed.measure`). What the named ratios mean is in `experiments.speed.targets`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.common.command import command_line, say
from experiments.common.options import Flag, Out, words
from experiments.common.runner import RunFolder
from experiments.common.study import json_text
from experiments.speed.parts import Findings
from experiments.speed.report import print_tables
from experiments.speed.summary import measure_part, one_line, rows_csv, summarise
from experiments.speed.targets import PARTS
from papi_env.errors import lookup

# A core that the process had for less of the time is one that others used too.
QUIET = 0.9


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure steps per second beside CartPole, in the same run and on one pinned core.

    Prints the ratios that the project promises. Takes five to six minutes on a core of its own.
    """

    only: Annotated[tuple[str, ...], words("PART ...")] = ()
    """Parts to measure: single, batch, adapter, inside, threads, jobs, sweeps, grid, startup, ppo, target (default:
    all)."""
    quick: Annotated[bool, Flag] = False
    """Try every path in seconds, at sizes so small that the figures mean nothing."""
    json: Annotated[bool, Flag] = False
    """Print one line of JSON, with the ratios by name, instead of tables."""
    out: Annotated[
        Out, tyro.conf.arg(help="Run folder, new or to measure again (default: runs/COMMAND-TIME).")
    ] = None


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Measure and write the run folder, whose path is returned.

    Args:
        config: what to measure.
        command: recorded in run.json.
        console: for the tables, or the line.
        progress: for everything else.

    Raises:
        ConfigurationError: a part that there is not, or a folder that cannot be used.
    """
    for name in config.only:
        lookup("part", name, PARTS)
    names = [name for name in PARTS if not config.only or name in config.only]
    configuration = {"parts": names, "quick": config.quick}
    folder = RunFolder.open(config.out, "throughput", configuration)
    say(progress, f"run folder {folder.path}")
    start = time.perf_counter()
    with folder.session(command, 1), progress.status("starting") as status:

        def tell(text: str) -> None:
            status.update(text)
            if not progress.is_terminal:
                say(progress, f"{time.perf_counter() - start:5.0f} s  {text}")

        found, core = Findings(), None
        for name in names:
            used = measure_part(found, name, config.quick, tell)
            core = core if used is None else used
            # What is there stays, should a later part be interrupted.
            folder.write("rows.csv", rows_csv(found.rows))
        summary = summarise(found, names, config.quick, core)
        # Only here, and nothing that is timed is slower for it.
        from experiments.speed.figure import throughput_figure

        folder.write("summary.json", json_text(summary))
        folder.write("throughput.png", throughput_figure(summary))
    if config.json:
        # Not the console's own: a line stays a line.
        console.file.write(one_line(summary, folder.path) + "\n")
    else:
        print_tables(console, summary)
    if config.quick:
        say(progress, "--quick: sizes are so small that the figures mean nothing")
    elif summary["cpu_share"] is not None and summary["cpu_share"] < QUIET:
        busy = f"the core was shared: the process had it {summary['cpu_share']:.0%} of the time at worst"
        say(progress, f"{busy}; ratios hold better than rates")
    return folder.path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("throughput", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
