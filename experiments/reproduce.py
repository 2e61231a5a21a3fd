"""The paper's published rows, simulated: `python -m experiments.reproduce --help`.

Prints every row of PAPI's published results beside what the simulator gives: under the reproduction
reading, whose few free constants are fitted on rows P1-P6 and E1 (role `calibration`), under the other readings
of `experiments.paper.reproduction`, and uncalibrated under every reading of the GPU's bandwidth and of a bank's
rate; and which orders and facts of the paper each reading holds. Written to the run folder: reproduction.json,
readings.json and the paper's figures. `--refit` fits the constants again; `--explore` searches all that the paper
leaves open.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.common.command import command_line, say
from experiments.common.options import ALL_CORES, OnWorkers, Out, Seed, check_counts
from experiments.common.runner import RunFolder
from experiments.common.study import json_text
from experiments.common.workers import started
from experiments.paper.calibration import FITS, REPRODUCTION, fit
from experiments.paper.readings import build_system
from experiments.paper.reproduction import Benches, compare_readings, reproduce
from experiments.paper.reproduction_report import (
    print_constants,
    print_facts,
    print_fit,
    print_readings,
    print_rows,
    print_uncalibrated,
)
from papi_env.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Reproduce the paper's published rows and figures.

    The reproduction reading has constants fitted on rows P1-P6 and E1; the others validate it.
    """

    seed: Seed = 0
    seeds: int = 20
    """How many seeds, of the requests drawn."""
    refit: bool = False
    """Fit the free constants again and compare them with the stored ones."""
    explore: bool = False
    """Search everything that the paper leaves open for the settings closest to all rows."""
    samples: int = 4000
    """Settings that --explore tries."""
    workers: OnWorkers = ALL_CORES
    """Of --explore."""
    out: Out = None


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Run and write the folder, whose path is returned.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    config.workers.check()
    seeds = check_counts(config.seed, config.seeds)
    if config.samples < 16:
        raise ConfigurationError(f"--samples is {config.samples}, expected at least 16")
    configuration = {
        "seeds": {"first": seeds[0], "count": len(seeds)},
        "reproduction": REPRODUCTION.as_dict(),
    }
    folder = RunFolder.open(config.out, "reproduce", configuration)
    say(progress, f"run folder {folder.path}")
    with started(config.workers) as pool, folder.session(command, pool.size) as session:
        with progress.status("rows"):
            benches = Benches(seeds)
            entries, compared = reproduce(benches), compare_readings(benches)
        folder.write("reproduction.json", json_text(entries))
        folder.write("readings.json", json_text(compared))
        print_rows(console, entries)
        print_readings(console, entries, compared)
        print_uncalibrated(console, entries)
        print_facts(console, entries)
        print_constants(console)
        if config.refit:
            refitted = {}
            for calibration in FITS:
                with progress.status(f"fitting {calibration.name}"):
                    found = fit(calibration)
                print_fit(console, calibration, found)
                setting = calibration.with_constants(found.constants)
                refitted[calibration.name] = {"constants": found.constants, "setting": setting.as_dict()}
            folder.write("refit.json", json_text(refitted))
        if config.explore:
            from experiments.paper.exploration_report import explore_and_report

            explore_and_report(folder, config.samples, config.seed, pool, console, progress)
        with progress.status("figures"):
            pictures = _figures(folder.path, entries)
        say(progress, f"{len(pictures)} figures" if pictures else "no figures")
    say(console, f"{folder.path}: done in {session['wall_s']:.0f} s")
    return folder.path


def _figures(folder: Path, entries: list[dict[str, Any]]) -> list[Path]:
    """Draw the paper's figures with the systems of the reproduction reading; requests end as they do."""
    # matplotlib takes a second to load: only where there is something to draw.
    from experiments.paper.figures import draw_all

    return draw_all(folder, entries, systems=partial(build_system, REPRODUCTION))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("reproduce", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
