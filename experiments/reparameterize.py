"""RepMLP before and after Locality Injection: `python -m experiments.reparameterize --help`.

For each network: parameters and multiply-accumulates in both forms, and how far the output moves (this alone
needs torch); kernels, bytes, rows and arithmetic intensity by stage, time and energy by unit in both forms, the
unit that is best, what merging gains, and what PAPI's threshold makes of the kernels. Then the policies of
`experiments.compare` on the scenario `vision-stream`, on the same machine. Written to the run folder: run.json,
networks.csv, kernels.csv, stages.csv, rules.csv, summary.json, two pictures, and vision-stream/, a run folder of
`experiments.compare`. An interrupted run goes on with `--out` and the same options.

With `--train digits` a small network (or that of `--network FILE.toml`) is trained on scikit-learn's digits, merged,
compared before and after on held-out images, exported, and a stream of such images dispatched, all in one run folder:
see `experiments.vision.end_to_end`. With `--explore` machines, networks and batches are searched for those in which
the choice of a unit matters: explored.csv, see `experiments.vision.explore`.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import joblib
import polars as pl
import tyro
from rich.console import Console

from experiments.arena.comparison import Comparison, Readings
from experiments.arena.entries import default_entries
from experiments.arena.settings import grid, resolve_scenarios
from experiments.common.command import can_go_on, command_line, say
from experiments.common.conduct import conduct
from experiments.common.jobs import run_jobs
from experiments.common.options import ALL_CORES, Flag, OnWorkers, Out, Spelling, check_counts, words
from experiments.common.runner import RunFolder
from experiments.common.study import json_text
from experiments.common.workers import started
from experiments.splitting.definition import KERNELS
from experiments.vision.data import SCENARIO, check_image_counts, find_system, tabulate
from experiments.vision.end_to_end import (
    EPOCHS,
    SCENARIO_FILE,
    STREAM,
    print_course,
    resolve,
    train_merge_export,
)
from experiments.vision.end_to_end import SYSTEM as TRAIN_SYSTEM
from experiments.vision.explore import explored_rows, print_explored
from experiments.vision.report import print_tables
from experiments.vision.results import difference_jobs, named, write_results
from papi_env.errors import ConfigurationError
from papi_env.hardware.system import System
from papi_env.workload.vision.network import REPMLPNETS, RepMLPNet

# One network is as good as several.
SPELLINGS = (Spelling("--network", "--networks"),)


@dataclass(frozen=True, kw_only=True)
class Config:
    """RepMLP before and after Locality Injection: output, kernels, time and energy by unit, and policies.

    Plays the policies of experiments.compare on vision-stream too, in the folder vision-stream/.
    """

    networks: Annotated[tuple[str, ...], words("NAME|FILE.toml ...")] = tuple(REPMLPNETS)
    """Registered networks, or files of one's own (default: all registered; with --train one for the digits)."""
    train: Annotated[Literal["digits"] | None, words("digits")] = None
    """Train a network, merge it, export it and dispatch its images: from training to schedule."""
    epochs: int = EPOCHS
    """Of training."""
    explore: Annotated[bool, Flag] = False
    """Search machines, networks and batches for those in which the choice of a unit matters, and print the gains."""
    images: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (1, 2, 4, 8, 16, 32, 64)
    """Images encoded together; the smallest and the largest number are printed, all are written."""
    system: Annotated[str | None, words("NAME")] = None
    """The machine, with PUs and FC-PIM (default: vision-stream's own, papi-1gpu-near; with --train papi-edge)."""
    gpu_bandwidth: Annotated[Literal["roofline", "hbm3"] | None, words("roofline|hbm3")] = None
    """Reading of an A100's memory bandwidth: 1935 or 3352 GB/s (default: as the system says)."""
    bank_rate: Annotated[
        Literal["attacc-limit", "attacc", "papi"] | None, words("attacc-limit|attacc|papi")
    ] = None
    """Reading of a PIM bank's rate: a command every 6, 4 or 2 clocks (default: as the system says)."""
    float64: Annotated[bool, Flag] = False
    """Measure the output's difference in float64 too, which takes three times as long."""
    seed: Annotated[int, tyro.conf.arg(metavar="INT")] = 0
    """First seed of vision-stream, and the seed of training, or of weights and images for the output's difference."""
    seeds: int = 50
    """How many seeds of vision-stream."""
    workers: OnWorkers = ALL_CORES
    out: Out = None


def stream_arguments(config: Config, system: System, scenario: str = SCENARIO) -> list[str]:
    """The options of `experiments.compare` that play its policies on a scenario and this machine."""
    entries, baseline = _entries(system)
    arguments = ["--env", KERNELS, "--scenarios", scenario, "--entries", *entries, "--baseline", baseline]
    values = {name: getattr(config, name) for name in ("gpu_bandwidth", "bank_rate", "seed", "seeds")}
    for option, value in (values | asdict(config.workers)).items():
        if value is not None:
            arguments += [f"--{option.replace('_', '-')}", str(value)]
    return arguments


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Measure, write the run folder, whose path is returned, and print.

    Args:
        config: what to measure.
        command: recorded in run.json.
        console: for the tables.
        progress: for everything else.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    config.workers.check()
    check_image_counts(config.images)
    if config.explore:
        return _explore(config, command, console, progress)
    if config.train is not None:
        return _train(config, command, console, progress)
    if not config.networks or len(set(config.networks)) < len(config.networks):
        raise ConfigurationError(f"--networks is {config.networks}, expected different networks")
    system = find_system(config.system, config.gpu_bandwidth, config.bank_rate)
    with progress.status("tabulating"):
        networks = [tabulate(name, system) for name in config.networks]
        # A mistake in its options shows before anything is written.
        comparison = _comparison(config, system)
    nets = [network.net for network in networks]
    names = [net.name for net in nets]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"--networks: two are called {max(names, key=names.count)!r}")
    jobs = difference_jobs(nets, config.seed, config.float64)
    folder = RunFolder.open(config.out, "reparameterize", _describe(config, nets, system))
    say(progress, f"run folder {folder.path}")
    with started(config.workers) as pool, folder.session(command, pool.size) as session:
        if not jobs:
            message = (
                "torch is not installed: outputs are not compared; pip install 'papi-env[learn]' brings it"
            )
            say(progress, message)
        with can_go_on(progress, f"the same command with --out {folder.path}"):
            session["jobs"], session["jobs_reused"] = len(jobs), run_jobs(folder, jobs, pool, progress)
        with progress.status("stages and pictures"):
            results = write_results(folder, networks, config.images, jobs)
        print_tables(console, results)
        console.print(f"Policies on {SCENARIO}", style="bold", markup=False, highlight=False)
        compared = _play(config, comparison, system, SCENARIO, folder.path / SCENARIO, console, progress)
        kept = {name: value for name, value in results.items() if name not in ("kernels", "stages")}
        encodes = [row for row in results["stages"] if row["stage"] == "all"]
        summary = {**kept, "encodes": encodes, "stream": compared}
        folder.write("summary.json", json_text(summary))
        folder.pack(jobs)
    return folder.path


def _entries(system: System) -> tuple[list[str], str]:
    """The policies of `experiments.compare` on this machine, and what they are measured against."""
    return default_entries("compare images", {system.name: system}), f"{system.name}/static"


def _comparison(config: Config, system: System, scenario: str = SCENARIO) -> Comparison:
    """What `stream_arguments` plays."""
    seeds = check_counts(config.seed, config.seeds)
    readings = Readings(config.gpu_bandwidth, config.bank_rate)
    scenarios = grid(resolve_scenarios([scenario]), (), ())
    return Comparison(KERNELS, scenarios, *_entries(system), seeds, readings)


def _play(
    config: Config,
    comparison: Comparison,
    system: System,
    scenario: str,
    out: Path,
    console: Console,
    progress: Console,
) -> Any:
    """Play policies in a run folder of `experiments.compare`, print its tables, and return its summary."""
    stream = [*stream_arguments(config, system, scenario), "--out", str(out)]
    as_command = f"python -m experiments.compare {shlex.join(stream)}"
    path = conduct(comparison, out, config.workers, as_command, console, progress)
    return json.loads((path / "summary.json").read_text(encoding="utf-8"))


def _train(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Train, merge, export and dispatch, in a run folder, whose path is returned."""
    check_counts(config.seed, config.seeds)
    system = find_system(config.system or TRAIN_SYSTEM, config.gpu_bandwidth, config.bank_rate)
    named_networks = () if config.networks == tuple(REPMLPNETS) else config.networks
    course = resolve(named_networks, system, config.epochs, config.seed, config.images)
    described = _describe(config, [course.net], system) | {"train": config.train, "epochs": config.epochs}
    folder = RunFolder.open(config.out, "reparameterize", described)
    say(progress, f"run folder {folder.path}")
    with folder.session(command, joblib.cpu_count()):
        results = train_merge_export(course, folder, progress)
        print_course(console, results)
        title = f"Policies on a stream of {'/'.join(map(str, STREAM['batch_sizes']))} images at a time"
        console.print(title, style="bold", markup=False, highlight=False)
        scenario = str(folder.path / SCENARIO_FILE)
        comparison = _comparison(config, system, scenario)
        stream = _play(config, comparison, system, scenario, folder.path / "stream", console, progress)
        folder.write("summary.json", json_text({**results, "stream": stream}))
    return folder.path


def _explore(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Search and print, in a run folder, whose path is returned."""
    folder = RunFolder.open(config.out, "reparameterize", {"explore": True, "images": list(config.images)})
    say(progress, f"run folder {folder.path}")
    with folder.session(command, 1), progress.status("searching"):
        rows = list(explored_rows(config.images))
        folder.write("explored.csv", pl.DataFrame(rows).write_csv())
    print_explored(console, rows)
    return folder.path


def _describe(config: Config, networks: Sequence[RepMLPNet], system: System) -> dict[str, Any]:
    """The resolved configuration as plain data; a run folder goes on only if all of it is the same."""
    return {
        "networks": [named(net) for net in networks],
        "images": list(config.images),
        "float64": config.float64,
        "seeds": {"first": config.seed, "count": config.seeds},
        "system": system.model_dump(mode="json"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("reparameterize", Config, run, arguments, SPELLINGS)


if __name__ == "__main__":
    sys.exit(main())
