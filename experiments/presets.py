"""Measure what the serving presets are relative to, and write it: `python -m experiments.presets --help`.

For each traffic and model of `papi_env.workload.presets`: how many requests PAPI's machine serves in a second under
PAPI's scheduler as published, and how fast one is alone. `experiments.capacity.measure` says how. With
`--env papi_env/Serving-v1` for each of `papi_env.workload.service_presets`: the largest load of which the best tuned
rule serves 95 % of the worth within its objectives; `experiments.capacity.service` says how. Nothing depends on the
date or on the machine that this runs on; `--check` measures again and compares.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from experiments.capacity import service
from experiments.capacity.measure import check_file, document, measure
from experiments.capacity.report import capacities_table, measurements_table, presets_table, service_table
from experiments.common.command import command_line, say
from experiments.common.options import Flag, Spelling, words
from experiments.common.runner import write_whole
from experiments.common.study import json_text
from papi_env.envs.registration import SERVING, SERVING_V1
from papi_env.errors import ConfigurationError, lookup
from papi_env.files import JSON_BYTES, read_json
from papi_env.workload.presets import MEASUREMENTS, MODELS, TRAFFIC
from papi_env.workload.service_presets import CAPACITIES

SPELLINGS = (Spelling("--out", "--file"),)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure what the presets of a serving problem are relative to, and print the presets they give."""

    env: Annotated[str, words(f"{SERVING}|{SERVING_V1}")] = SERVING
    """The problem whose presets are meant: capacity and unloaded latency under papi/threshold for Serving-v0, capacity
    of the best tuned rule for Serving-v1."""
    only: Annotated[tuple[str, ...], words("TRAFFIC[/MODEL] ...")] = ()
    """Of Serving-v1 these alone; what the file says of others stays (default: all)."""
    file: Annotated[Path | None, words("FILE")] = None
    """What to write (default: the file that the presets are read from)."""
    check: Annotated[bool, Flag] = False
    """Write nothing; measure, and fail where the file says something else."""


def run(config: Config, command: str, console: Console, progress: Console) -> None:
    """Measure, then write or compare, then print.

    Raises:
        ConfigurationError: an unknown problem, traffic or model.
        DataError: with `check`, a file that says something else or that cannot be read.
    """
    lookup("problem with serving", config.env, dict.fromkeys((SERVING, SERVING_V1)))
    if config.env == SERVING_V1:
        _service(config, console, progress)
        return
    if config.only:
        raise ConfigurationError(f"--only belongs to {SERVING_V1}; all of {SERVING} is measured together")
    file = MEASUREMENTS if config.file is None else config.file
    measured = {}
    for traffic in TRAFFIC:
        for model in MODELS:
            with progress.status(f"{traffic}/{model}"):
                measured[traffic, model] = measure(traffic, model)
    found = document(measured)
    if config.check:
        check_file(file, found)
    else:
        write_whole(file, json_text(found))
    console.print(measurements_table(measured))
    console.print()
    console.print(presets_table(measured))


def _service(config: Config, console: Console, progress: Console) -> None:
    """Measure for Serving-v1; the file is written after every traffic and model, so that little is lost."""
    file = CAPACITIES if config.file is None else config.file
    measured: dict[tuple[str, str], service.Measured] = {}
    for traffic, model in service.pairs(config.only):
        start = time.perf_counter()
        measured[traffic, model] = service.measure(traffic, model, say=lambda line: say(progress, line))
        say(progress, f"{traffic}/{model}: {time.perf_counter() - start:.0f} s")
        if not config.check:
            kept = read_json(file, JSON_BYTES) if file.exists() else None
            write_whole(file, json_text(service.document(measured, kept)))
    if config.check:
        service.check_file(file, measured)
    console.print(capacities_table(measured))
    console.print()
    console.print(service_table({key: one.capacity for key, one in measured.items()}))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for a file that is not as measured, 130 if interrupted."""
    return command_line("presets", Config, run, arguments, SPELLINGS)


if __name__ == "__main__":
    sys.exit(main())
