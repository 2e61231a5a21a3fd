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
from experiments.speed.instructions import INSTRUCTIONS, check_processor, environment, running
from experiments.speed.parts import Findings, usable_cores
from experiments.speed.processes import measure_processes
from experiments.speed.replay import replayed
from experiments.speed.report import print_tables
from experiments.speed.summary import Asked, measure_part, one_line, rows_csv, summarise
from experiments.speed.targets import PARTS
from papi_env.errors import ConfigurationError, lookup

# A core that the process had for less of the time is one that others used too.
QUIET = 0.9


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure steps per second beside CartPole, in the same run and on one pinned core.

    Prints the ratios that the project promises. Takes five to six minutes on a core of its own.
    """

    only: Annotated[tuple[str, ...], words("PART ...")] = ()
    """Parts to measure: single, batch, adapter, inside, threads, jobs, replay, sweeps, grid, startup, ppo, target
    (default: all)."""
    processes: Annotated[int, tyro.conf.arg(metavar="INT")] = 1
    """Measure in so many new processes, one after the other; figures are medians over them."""
    instructions: Annotated[str, tyro.conf.arg(metavar="|".join(INSTRUCTIONS))] = "native"
    """Instruction set of compiled code and of numpy, which CartPole runs on; another than native in new processes."""
    threads: Annotated[int, tyro.conf.arg(metavar="INT")] = 2
    """Threads of the part of that name, at most as many as there are cores."""
    trace: Annotated[Path | None, words("FILE")] = None
    """Requests of the part replay, in any form that `experiments.serve` reads (default: an hour generated with the rate
    and lengths of Azure's conversation trace)."""
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
        ConfigurationError: something cannot be used as asked.
        DataError: a trace that cannot be read, or a process that failed.
    """
    names, asked = _checked(config)
    configuration = {"parts": names, "quick": config.quick, **asked.recorded(), "processes": config.processes}
    configuration |= {"instructions": config.instructions}
    folder = RunFolder.open(config.out, "throughput", configuration)
    say(progress, f"run folder {folder.path}")
    start = time.perf_counter()
    with folder.session(command, 1), progress.status("starting") as status:

        def tell(text: str) -> None:
            status.update(text)
            if not progress.is_terminal:
                say(progress, f"{time.perf_counter() - start:5.0f} s  {text}")

        found, core, instructions = Findings(), None, None
        if config.processes > 1 or config.instructions != "native":
            found, each = measure_processes(
                asked.options(names), config.processes, environment(config.instructions), tell
            )
            core, instructions = each[0]["core"], each[0]["instructions"]
            folder.write("processes.json", json_text(each))
        else:
            for name in names:
                used = measure_part(found, name, asked, tell)
                core = core if used is None else used
                # What is there stays, should a later part be interrupted.
                folder.write("rows.csv", rows_csv(found.rows))
        summary = summarise(found, names, config.quick, core, instructions or running())
        folder.write("rows.csv", rows_csv(found.rows))
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


def _checked(config: Config) -> tuple[list[str], Asked]:
    """The parts to measure, and what is asked of them.

    Raises:
        ConfigurationError: something cannot be used as asked.
    """
    for name in config.only:
        lookup("part", name, PARTS)
    if config.processes < 1:
        raise ConfigurationError(f"--processes is {config.processes}, expected at least 1")
    if not 2 <= config.threads <= max(usable_cores(), 2):
        raise ConfigurationError(
            f"--threads is {config.threads}, expected 2 to the cores that this process may use, {usable_cores()}"
        )
    environment(config.instructions)
    check_processor()
    if config.trace is not None:
        replayed(config.trace, 1)
    names = [name for name in PARTS if not config.only or name in config.only]
    return names, Asked(quick=config.quick, threads=config.threads, trace=config.trace)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("throughput", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
