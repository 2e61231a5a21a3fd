"""Kill commands at random moments and compare what they come to: `python -m experiments.kill --help`.

Small runs of `compare`, `sweep`, `train` (PPO, and expert iteration), `tune` and `leaderboard` are ended as by a power
cut (kill -9 of all their processes), go on with the same command, and are ended again; of others a single process that
runs jobs is killed, local ones and Ray's. A command that loses the processes of one job again and again says so and
ends: "given up", and it goes on too. Each comes to its end, and its results must be, bit for bit, those of a run in
peace, with no file of jobs left behind. Written to the run folder: summary.json, and under `runs` what was not the
same.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from experiments.common.command import command_line, say
from experiments.common.options import Out, words
from experiments.common.runner import RunFolder, make_folder, write_whole
from experiments.common.study import json_text
from experiments.common.workers import BACKENDS
from experiments.killing.processes import check_system
from experiments.killing.trials import TARGETS, Case, Tally, Trials
from experiments.killing.victims import INPUTS, VICTIMS
from papi_env.errors import ConfigurationError, DataError, lookup


@dataclass(frozen=True, kw_only=True)
class Config:
    """Kill commands at random moments, go on, and compare with runs in peace.

    python -m experiments.kill --kills 10 --only sweep train --backends local
    """

    kills: int = 68
    """How often, over all; spread evenly over commands, backends, and what is killed: all processes, or one worker."""
    only: Annotated[tuple[str, ...], words("|".join(VICTIMS) + " ...")] = ()
    """Commands to kill (default: all)."""
    backends: Annotated[tuple[str, ...], tyro.conf.arg(metavar="local|ray ...")] = ("local", "ray")
    """Where their jobs run."""
    seed: Annotated[int, tyro.conf.arg(metavar="INT")] = 0
    """Of the moments."""
    out: Out = None


def cases_of(config: Config) -> list[Case]:
    """What is killed.

    Raises:
        ConfigurationError: an unknown command or backend, or fewer than one kill.
    """
    if config.kills < 1:
        raise ConfigurationError(f"--kills is {config.kills}, expected at least 1")
    for backend in config.backends:
        lookup("backend", backend, BACKENDS)
    found = []
    for name in config.only or VICTIMS:
        victim = lookup("command to kill", name, VICTIMS)
        if not victim.parallel:
            found.append(Case(name, "local", "all"))
            continue
        found += [
            Case(name, b, target) for b in dict.fromkeys(config.backends) for target in ("all", "worker")
        ]
    return found


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Kill, compare, write the run folder, whose path is returned, and print.

    Raises:
        ConfigurationError: something cannot be used as asked.
        DataError: a result is not the same.
    """
    check_system()
    cases = cases_of(config)
    asked = {
        "kills": config.kills,
        "cases": [[c.name, c.backend, c.target] for c in cases],
        "seed": config.seed,
    }
    folder = RunFolder.open(config.out, "kill", asked)
    say(progress, f"run folder {folder.path}")
    tallies: list[tuple[Case, Tally]] = []
    with folder.session(command, 1):
        place = (folder.path / "runs").resolve()
        shutil.rmtree(place, ignore_errors=True)  # of a session that did not come to its end
        make_folder(place)
        for name, text in INPUTS.items():
            write_whole(place / name, text)
        trials = Trials(place, config.seed)
        for number, case in enumerate(cases):
            # The first cases have one more where they do not come out even.
            share = config.kills // len(cases) + (number < config.kills % len(cases))
            if share:
                tallies.append((case, trials.torn(case, share, lambda line: say(progress, line))))
                # What was counted stays, should a later case be interrupted.
                folder.write("summary.json", json_text(_summary(tallies)))
        wrong = [line for _, tally in tallies for line in tally.wrong]
        if not wrong:
            shutil.rmtree(place)
    console.print(_table(tallies))
    if wrong:
        raise DataError(f"{len(wrong)} of the results are not the same: {'; '.join(wrong[:3])}")
    say(console, f"{_summary(tallies)['kills']} kills: all results the same, nothing left behind")
    return folder.path


def _summary(tallies: Sequence[tuple[Case, Tally]]) -> dict[str, Any]:
    """What summary.json holds."""
    return {
        "kills": sum(tally.kills for _, tally in tallies),
        "wrong": sum(len(tally.wrong) for _, tally in tallies),
        "cases": [tally.plain(case) for case, tally in tallies],
    }


def _table(tallies: Sequence[tuple[Case, Tally]]) -> Table:
    table = Table(title="Killed and gone on", title_justify="left", box=None, pad_edge=False)
    for name in ("command", "jobs on", "killed"):
        table.add_column(name)
    for name in ("kills", "runs", "sessions", "given up", "wrong"):
        table.add_column(name, justify="right")
    for case, tally in tallies:
        counts = (tally.kills, tally.runs, tally.sessions, tally.given_up, len(tally.wrong))
        table.add_row(case.name, case.backend, TARGETS[case.target], *map(str, counts))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for results that are not the same, 130 if interrupted."""
    return command_line("kill", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
