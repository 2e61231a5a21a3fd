"""Measure what the serving presets are relative to, and write it: `python -m experiments.presets --help`.

For each traffic and model of `papi_env.workload.presets`: how many requests PAPI's machine serves in a second under
PAPI's scheduler as published, and how fast one is alone. `experiments.capacity.measure` says how. Nothing depends on
the date or on the machine that this runs on; `--check` measures again and compares.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from experiments.capacity.measure import check_file, document, measure
from experiments.capacity.report import measurements_table, presets_table
from experiments.common.command import command_line
from experiments.common.options import Flag, Spelling, words
from experiments.common.runner import write_whole
from experiments.common.study import json_text
from papi_env.workload.presets import MEASUREMENTS, MODELS, TRAFFIC

SPELLINGS = (Spelling("--out", "--file"),)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure capacity and unloaded latency under papi/threshold, and print the presets they give."""

    file: Annotated[Path, words("FILE")] = MEASUREMENTS
    """What to write (default: the file that the presets are read from)."""
    check: Annotated[bool, Flag] = False
    """Write nothing; measure, and fail where the file says something else."""


def run(config: Config, command: str, console: Console, progress: Console) -> None:
    """Measure, then write or compare, then print.

    Raises:
        DataError: with `check`, a file that says something else or that cannot be read.
    """
    measured = {}
    for traffic in TRAFFIC:
        for model in MODELS:
            with progress.status(f"{traffic}/{model}"):
                measured[traffic, model] = measure(traffic, model)
    found = document(measured)
    if config.check:
        check_file(config.file, found)
    else:
        write_whole(config.file, json_text(found))
    console.print(measurements_table(measured))
    console.print()
    console.print(presets_table(measured))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for a file that is not as measured, 130 if interrupted."""
    return command_line("presets", Config, run, arguments, SPELLINGS)


if __name__ == "__main__":
    sys.exit(main())
