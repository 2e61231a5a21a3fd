"""RepMLP before and after Locality Injection: `python -m experiments.reparameterize --help`.

For each network: parameters and multiply-accumulates in both forms, and how far the output moves (this alone
needs torch); kernels, bytes, rows and arithmetic intensity by stage, time and energy by unit in both forms, the
unit that is best, what merging gains, and what PAPI's threshold makes of the kernels. Then the policies of
`experiments.compare` on the scenario `vision-stream`, on the same machine. Written to the run folder: run.json,
networks.csv, kernels.csv, stages.csv, rules.csv, summary.json, two pictures, and vision-stream/, a run folder of
`experiments.compare`. An interrupted run goes on with `--out` and the same options.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import joblib
import polars as pl
import tyro
from rich.console import Console

from experiments.arena.comparison import Comparison, Readings, readings_of
from experiments.arena.entries import default_entries
from experiments.arena.settings import grid, resolve_scenarios
from experiments.common.command import exit_status, output
from experiments.common.options import check_counts as check_seeds
from experiments.common.runner import Job, RunFolder, run_jobs
from experiments.common.study import conduct
from experiments.splitting.definition import KERNELS
from experiments.vision.data import (
    SCENARIO,
    Network,
    Row,
    check_counts,
    find_system,
    kernel_rows,
    network_row,
    output_difference,
    rule_row,
    stage_rows,
    tabulate,
)
from experiments.vision.report import print_tables
from papi_env.errors import ConfigurationError, DataError
from papi_env.hardware.system import System
from papi_env.workload.vision.network import REPMLPNETS

# chosen: 2000 logits to find the largest difference among (range: any); more images take as much longer.
DIFFERENCE_IMAGES = 2


def _as_is(metavar: str) -> Any:
    """How an option's value is called in --help; what its absence means is said in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Config:
    """RepMLP before and after Locality Injection: output, kernels, time and energy by unit, and policies.

    Prints what merging changes and gains by network and stage, what PAPI's threshold makes of the kernels, and
    the policies of experiments.compare on vision-stream. Writes run.json, networks.csv, kernels.csv, stages.csv,
    rules.csv, summary.json, threshold.png, units.png and vision-stream/.
    """

    networks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = tuple(REPMLPNETS)
    """Registered networks."""
    images: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (1, 2, 4, 8, 16, 32, 64)
    """Images encoded together; the smallest and the largest number are printed, all are written."""
    system: Annotated[str | None, _as_is("NAME")] = None
    """The machine, with PUs and FC-PIM (default: vision-stream's own, papi-1gpu-near)."""
    gpu_bandwidth: Annotated[Literal["roofline", "hbm3"] | None, _as_is("roofline|hbm3")] = None
    """Reading of an A100's memory bandwidth: 1935 or 3352 GB/s (default: as the system says)."""
    bank_rate: Annotated[
        Literal["attacc-limit", "attacc", "papi"] | None, _as_is("attacc-limit|attacc|papi")
    ] = None
    """Reading of a PIM bank's rate: a command every 6, 4 or 2 clocks (default: as the system says)."""
    float64: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure the output's difference in float64 too, which takes three times as long."""
    seed: int = 0
    """First seed of vision-stream, and the seed of weights and images for the output's difference."""
    seeds: int = 50
    """How many seeds of vision-stream."""
    jobs: Annotated[int, _as_is("INT")] = 0
    """Processes; 0 uses all cores."""
    out: Annotated[Path | None, _as_is("DIR")] = None
    """Run folder (default: runs/reparameterize-TIME)."""


def stream_arguments(config: Config, system: System) -> list[str]:
    """The options of `experiments.compare` that play its policies on `vision-stream` and this machine."""
    entries, baseline = _entries(system)
    arguments = ["--env", KERNELS, "--scenarios", SCENARIO, "--entries", *entries, "--baseline", baseline]
    for option in ("gpu_bandwidth", "bank_rate", "seed", "seeds", "jobs"):
        if (value := getattr(config, option)) is not None:
            arguments += [f"--{option.replace('_', '-')}", str(value)]
    return arguments


def difference_jobs(config: Config) -> list[Job]:
    """A job for each network and precision whose output's difference is measured; none without torch."""
    if importlib.util.find_spec("torch") is None:
        return []
    from importlib.metadata import version

    return [
        Job(
            f"{name} · output in {dtype}",
            {"call": call, "torch": version("torch")},
            output_difference,
            call,
        )
        for dtype in ("float32", "float64")[: 1 + config.float64]
        for name in config.networks
        for call in [(name, dtype, DIFFERENCE_IMAGES, config.seed)]
    ]


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
    check_counts(config.images)
    if not config.networks or len(set(config.networks)) < len(config.networks):
        raise ConfigurationError(f"--networks is {config.networks}, expected different networks")
    system = find_system(config.system, config.gpu_bandwidth, config.bank_rate)
    with progress.status("tabulating"):
        networks = [tabulate(name, system) for name in config.networks]
        # A mistake in its options shows before anything is written.
        comparison = _comparison(config, system)
    cores = config.jobs or joblib.cpu_count()
    jobs = difference_jobs(config)
    folder = RunFolder.open(config.out, "reparameterize", _describe(config, system))
    progress.print(f"run folder {folder.path}", markup=False, highlight=False)
    with folder.session(command, cores) as session:
        if not jobs:
            message = (
                "torch is not installed: outputs are not compared; pip install 'papi-env[learn]' brings it"
            )
            progress.print(message, markup=False, highlight=False)
        try:
            session["jobs"], session["jobs_reused"] = len(jobs), run_jobs(folder, jobs, cores, progress)
        except KeyboardInterrupt:
            message = f"interrupted; the same command with --out {folder.path} goes on"
            progress.print(message, markup=False, highlight=False)
            raise
        with progress.status("stages and pictures"):
            results = _write(folder, config, networks, jobs)
        print_tables(console, results)
        console.print(f"Policies on {SCENARIO}", style="bold", markup=False, highlight=False)
        stream = [*stream_arguments(config, system), "--out", str(folder.path / SCENARIO)]
        as_command = f"python -m experiments.compare {shlex.join(stream)}"
        path = conduct(comparison, folder.path / SCENARIO, config.jobs, as_command, console, progress)
        compared = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        kept = {name: value for name, value in results.items() if name not in ("kernels", "stages")}
        encodes = [row for row in results["stages"] if row["stage"] == "all"]
        summary = {**kept, "encodes": encodes, "stream": compared}
        folder.write(
            "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        )
    return folder.path


def _entries(system: System) -> tuple[list[str], str]:
    """The policies of `experiments.compare` on this machine, and what they are measured against."""
    return default_entries("compare images", {system.name: system}), f"{system.name}/static"


def _comparison(config: Config, system: System) -> Comparison:
    """What `stream_arguments` plays."""
    seeds = check_seeds(config.seed, config.seeds, config.jobs)
    readings = Readings(config.gpu_bandwidth, config.bank_rate)
    scenarios = grid(resolve_scenarios([SCENARIO]), (), ())
    return Comparison(KERNELS, scenarios, *_entries(system), seeds, readings)


def _describe(config: Config, system: System) -> dict[str, Any]:
    """The resolved configuration as plain data; a run folder goes on only if all of it is the same."""
    return {
        "networks": list(config.networks),
        "images": list(config.images),
        "float64": config.float64,
        "seeds": {"first": config.seed, "count": config.seeds},
        "system": system.model_dump(mode="json"),
    }


def _write(
    folder: RunFolder, config: Config, networks: Sequence[Network], jobs: Sequence[Job]
) -> dict[str, Any]:
    # Only the process that reports needs it.
    from experiments.vision.figures import threshold_figure, units_figure

    differences = _differences(folder, jobs)
    rows: dict[str, list[Row]] = {
        "networks": [network_row(network) | differences.get(network.net.name, {}) for network in networks],
        "kernels": [row for network in networks for row in kernel_rows(network, config.images)],
        "stages": [row for network in networks for row in stage_rows(network, config.images)],
        "rules": [rule_row(network) for network in networks],
    }
    for name, table in rows.items():
        folder.write(f"{name}.csv", pl.DataFrame(table, infer_schema_length=None).write_csv())
    folder.write("threshold.png", threshold_figure(rows["kernels"], rows["rules"]))
    folder.write("units.png", units_figure(rows["kernels"]))
    system = networks[0].scenarios["deploy"].system
    return {
        "system": system.name,
        "readings": readings_of([system]),
        "static_w": system.static_power_w,
        "mode_switch_s": system.mode_switch_s,
        "images": sorted(config.images),
        **rows,
    }


def _differences(folder: RunFolder, jobs: Sequence[Job]) -> dict[str, Row]:
    """Relative differences by network, then by `difference_DTYPE`."""
    found: dict[str, Row] = {}
    for job in jobs:
        path = folder.job_path(job)
        try:
            ((name, dtype, value),) = pl.read_csv(path).rows()
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise DataError(f"{path}: not a job's result ({error}); delete it and run again") from None
        found.setdefault(name, {})[f"difference_{dtype}"] = value
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.reparameterize")
    command = f"python -m experiments.reparameterize {shlex.join(arguments)}".strip()
    return exit_status(lambda: run(config, command, output(), Console(stderr=True)))


if __name__ == "__main__":
    sys.exit(main())
