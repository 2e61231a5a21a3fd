"""Measure what the serving presets are relative to, and write it: `python -m experiments.presets --help`.

For each traffic and model of `papi_env.workload.presets`: how many requests PAPI's machine serves in a second under
PAPI's scheduler as published, and how fast one is alone. `experiments.capacity.measure` says how. With
`--env papi_env/Serving-v1` for each of `papi_env.workload.service_presets`: the largest load of which the best tuned
rule serves 95 % of the worth within its objectives; `experiments.capacity.service` says how. With the published traces
in `--trace` besides: how many times as fast each may be played there instead; `experiments.capacity.time_scales` says
how. Nothing depends on the date or on the machine that this runs on; `--check` measures again and compares, `--stored`
measures nothing. With `--out DIR` what was found, and every load that was tried, stands in a run folder for
`experiments.report`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from experiments.capacity import files, service, time_scales
from experiments.capacity.measure import check_file, document, measure
from experiments.capacity.report import (
    capacities_table,
    measurements_table,
    presets_table,
    service_table,
    time_scales_table,
)
from experiments.common.command import command_line, say
from experiments.common.options import ALL_CORES, Flag, OnWorkers, Spelling, Traces, words
from experiments.common.pools import Call, Pool
from experiments.common.progress import JobsView
from experiments.common.runner import RunFolder, write_whole
from experiments.common.study import json_text
from experiments.common.workers import started
from experiments.splitting.definition import TRACES
from experiments.splitting.splits import recognised
from papi_env.envs.registration import SERVING, SERVING_V1
from papi_env.errors import ConfigurationError, lookup
from papi_env.files import JSON_BYTES, read_json
from papi_env.workload.presets import MEASUREMENTS, MODELS, TRAFFIC, load_measurements
from papi_env.workload.service_presets import CAPACITIES, Capacity, load_capacities
from papi_env.workload.service_traces import TIME_SCALES

SPELLINGS = (Spelling("--traces", "--trace"),)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure what the presets of a serving problem are relative to, and print the presets they give."""

    env: Annotated[str, words(f"{SERVING}|{SERVING_V1}")] = SERVING
    """The problem whose presets are meant: capacity and unloaded latency under papi/threshold for Serving-v0, capacity
    of the best tuned rule for Serving-v1."""
    only: Annotated[tuple[str, ...], words("TRAFFIC[/MODEL] ...")] = ()
    """Of Serving-v1 these alone; what the file says of others stays (default: all)."""
    trace: Traces = ()
    """Of Serving-v1 the time scales of the published traces instead: all of them."""
    file: Annotated[Path | None, words("FILE")] = None
    """What to write (default: the file that the presets are read from)."""
    check: Annotated[bool, Flag] = False
    """Do not write the file; measure, and fail where it says something else."""
    stored: Annotated[bool, Flag] = False
    """Measure nothing; show what the file says."""
    workers: OnWorkers = ALL_CORES
    out: Annotated[Path | None, words("DIR")] = None
    """Run folder, new or to go on in, for what was found (default: none). A name that ends with .json is that of
    --file, which earlier versions called --out."""


def run(config: Config, command: str, console: Console, progress: Console) -> None:
    """Measure, then write or compare, then print.

    Raises:
        ConfigurationError: an unknown problem, traffic or model, or options that do not go together.
        DataError: with `check`, a file that says something else or that cannot be read.
    """
    if config.out is not None and config.out.suffix == ".json":
        if config.file is not None:
            raise ConfigurationError(f"--out is {config.out} beside --file, expected a run folder")
        config = replace(config, file=config.out, out=None)
    lookup("problem with serving", config.env, dict.fromkeys((SERVING, SERVING_V1)))
    if config.only and config.env != SERVING_V1:
        raise ConfigurationError(f"--only belongs to {SERVING_V1}; all of {SERVING} is measured together")
    if config.trace and (config.env != SERVING_V1 or config.only):
        other = "--only excludes it" if config.only else f"{SERVING} has its time scales by hand"
        raise ConfigurationError(
            f"--trace belongs to {SERVING_V1}, whose traces are measured together; {other}"
        )
    if config.stored and (config.check or config.only or config.trace):
        other = "--check" if config.check else "--only" if config.only else "--trace"
        raise ConfigurationError(f"--stored measures nothing, so that there is no {other}")
    traces = _traces(config)
    with ExitStack() as stack:
        pool = None if config.stored else stack.enter_context(started(config.workers))
        folder = None
        if config.out is not None:
            asked = {
                "env": config.env,
                "only": list(config.only),
                "check": config.check,
                "stored": config.stored,
            }
            if traces:
                asked["traces"] = sorted(traces)
            file = None if config.file is None else str(config.file)
            folder = RunFolder.open(config.out, "presets", asked | {"file": file})
            stack.enter_context(folder.session(command, 1 if pool is None else pool.size))
        found: dict[str, Mapping[str, Any]] = {}
        if pool is not None and traces:
            found[files.TIME_SCALES] = _time_scales(config, traces, pool, console, progress)
        else:
            of_problem = _service if config.env == SERVING_V1 else _serving
            found[files.PRESETS] = of_problem(config, pool, console, progress)
        if pool is None and config.env == SERVING_V1 and config.file is None:
            found[files.TIME_SCALES] = stored = time_scales.read_document(TIME_SCALES)
            console.print()
            console.print(time_scales_table(stored))
        if folder is not None:
            for name, content in found.items():
                folder.write(name, json_text(content))


def _traces(config: Config) -> dict[str, Path]:
    """The files of the published traces by name; none where time scales are not asked for."""
    if not config.trace:
        return {}
    found = recognised(config.trace)
    missing = [name for name in TRACES if name not in found]
    if missing:
        raise ConfigurationError(
            f"--trace: found no {TRACES[missing[0]].published}, expected all traces, which are measured together"
        )
    return found


def _serving(config: Config, pool: Pool | None, console: Console, progress: Console) -> Mapping[str, Any]:
    """Measure for Serving-v0; all is written together. Returns what the file holds, or would."""
    file = MEASUREMENTS if config.file is None else config.file
    if pool is None:
        measured = load_measurements(file)
        found = read_json(file, JSON_BYTES)
    else:
        pairs = [(traffic, model) for traffic in TRAFFIC for model in MODELS]
        calls = [Call("/".join(pair), measure, pair) for pair in pairs]
        results = {}
        with JobsView(progress, len(pairs), 0) as view:
            for number, one in pool.run(calls):
                results[number] = one
                view.ended(calls[number].label)
        measured = {pair: results[number] for number, pair in enumerate(pairs)}
        found = document(measured)
        if config.check:
            check_file(file, found)
        else:
            write_whole(file, json_text(found))
    console.print(measurements_table(measured))
    console.print()
    console.print(presets_table(measured))
    return found


def _service(config: Config, pool: Pool | None, console: Console, progress: Console) -> Mapping[str, Any]:
    """Measure for Serving-v1; the file is written after every traffic and model, so that little is lost.

    Returns what the file holds of them, or would.
    """
    file = CAPACITIES if config.file is None else config.file
    if pool is None:
        capacities, found = load_capacities(file), service.read_document(file)
    else:
        measured = _measured(config, file, pool, progress)
        capacities = {pair: one.capacity for pair, one in measured.items()}
        found = service.document(measured)
    console.print(capacities_table(found))
    console.print()
    console.print(service_table(capacities))
    return found


def _measured(
    config: Config, file: Path, pool: Pool, progress: Console
) -> Mapping[tuple[str, str], service.Measured[Capacity]]:
    """What is asked, measured, and written or compared."""
    pairs = service.pairs(config.only)
    found: dict[tuple[str, str], service.Measured[Capacity]] = {}
    calls = [Call("/".join(pair), _measure_and_tell, pair) for pair in pairs]
    with progress.status(f"{len(pairs)} traffics on models"):
        for number, (one, lines) in pool.run(calls):
            found[pairs[number]] = one
            for line in lines:
                say(progress, line)
            if not config.check:
                kept = read_json(file, JSON_BYTES) if file.exists() else None
                write_whole(file, json_text(service.document(found, kept)))
    measured = {pair: found[pair] for pair in pairs}
    if config.check:
        service.check_file(file, measured)
    return measured


def _time_scales(
    config: Config, traces: Mapping[str, Path], pool: Pool, console: Console, progress: Console
) -> Mapping[str, Any]:
    """Measure the time scales of traces for Serving-v1; all are written together. Returns what the file holds."""
    file = TIME_SCALES if config.file is None else config.file
    pairs = time_scales.pairs()
    found: dict[tuple[str, str], service.Measured[float]] = {}
    calls = [
        Call("/".join(pair), _scale_and_tell, (pair[0], str(traces[pair[0]]), pair[1])) for pair in pairs
    ]
    with progress.status(f"{len(pairs)} traces on models"):
        for number, (one, lines) in pool.run(calls):
            found[pairs[number]] = one
            for line in lines:
                say(progress, line)
    measured = {pair: found[pair] for pair in pairs}
    document = time_scales.document(measured)
    if config.check:
        time_scales.check_file(file, measured)
    else:
        write_whole(file, json_text(document))
    console.print(time_scales_table(document))
    return document


def _scale_and_tell(trace: str, path: str, model: str) -> tuple[service.Measured[float], list[str]]:
    """What was measured, and what was said of it meanwhile, wherever that was."""
    lines: list[str] = []
    return time_scales.measure(trace, path, model, say=lines.append), lines


def _measure_and_tell(traffic: str, model: str) -> tuple[service.Measured[Capacity], list[str]]:
    """What was measured, and what was said of it meanwhile, wherever that was."""
    lines: list[str] = []
    start = time.perf_counter()
    measured = service.measure(traffic, model, say=lines.append)
    return measured, [*lines, f"{traffic}/{model}: {time.perf_counter() - start:.0f} s"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for a file that is not as measured, 130 if interrupted."""
    return command_line("presets", Config, run, arguments, watched=True)


if __name__ == "__main__":
    sys.exit(main())
