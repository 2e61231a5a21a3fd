"""The paper's published rows, simulated: `python -m experiments.reproduce --help`.

Prints every row of PAPI's published results beside what the simulator gives: under the reproduction
reading, whose few free constants are fitted on rows P1-P6 and E1 (role `calibration`), and uncalibrated under
every reading of the GPU's bandwidth and of a bank's rate. Written to the run folder: reproduction.json and
the paper's figures. `--refit` fits the constants again; `--explore` searches all that the paper leaves open.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import joblib
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from experiments.common.command import exit_status, output
from experiments.common.runner import RunFolder
from experiments.paper.calibration import (
    FIT_SEEDS,
    FITTED,
    FREE_CONSTANTS,
    READINGS,
    REPRODUCTION,
    Fit,
    fit,
    with_constants,
)
from experiments.paper.published import PUBLISHED, PublishedRow
from experiments.paper.readings import AVERAGES, BOUNDS, Setting, build_system
from experiments.paper.rows import Bench
from papi_env.errors import ConfigurationError
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS

MAX_SEED = 2**62


def _as_is(metavar: str) -> Any:
    """How an option's value is called in --help; what its absence means is said in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Reproduce the paper's published rows and figures.

    Prints a table and writes reproduction.json and the figures. Constants are fitted on rows P1-P6 and E1
    only; every other row is a validation.
    """

    seed: int = 0
    """First seed of the requests drawn."""
    seeds: int = 20
    """How many seeds."""
    refit: bool = False
    """Fit the free constants again and compare them with the stored ones."""
    explore: bool = False
    """Search everything that the paper leaves open for the settings closest to all rows."""
    samples: int = 4000
    """Settings that --explore tries."""
    jobs: Annotated[int, _as_is("INT")] = 0
    """Processes of --explore; 0 uses all cores."""
    out: Annotated[Path | None, _as_is("DIR")] = None
    """Run folder (default: runs/reproduce-TIME)."""


# --- rows ----------------------------------------------------------------------------------------------


def uncalibrated() -> dict[str, Setting]:
    """papi_env's own defaults under every reading of the GPU's bandwidth and a bank's rate."""
    return {
        f"{bandwidth}/{rate}": Setting(gpu_bandwidth=bandwidth, bank_rate=rate)
        for bandwidth, rate in product(GPU_BANDWIDTH_READINGS, BANK_RATE_READINGS)
    }


def reproduce(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One entry for every published row, as reproduction.json holds it.

    `simulated`, `ratio` and `readings` are of the reproduction reading with its average; `averages` has the
    others; `uncalibrated` has every GPU-bandwidth and bank-rate reading without fitted constants. For an
    order, `simulated` holds the facts that decide it and `holds` says whether it is true.
    """
    benches = {name: Bench(setting, seeds) for name, setting in uncalibrated().items()}
    calibrated = Bench(REPRODUCTION, seeds)
    readings = {"name": "reproduction", "calibrated": True, **REPRODUCTION.as_dict()}
    entries = []
    for row in PUBLISHED.values():
        entry: dict[str, Any] = {
            "row": row.row,
            "quantity": row.full_quantity,
            "source": row.source,
            "paper": row.paper,
        }
        if isinstance(row.paper, str):
            facts, holds = _order(calibrated, row.row)
            entry |= {
                "simulated": facts,
                "ratio": None,
                "role": row.role,
                "holds": holds,
                "readings": readings,
            }
            entry["uncalibrated"] = [
                {"readings": name, "simulated": facts, "holds": holds}
                for name, bench in benches.items()
                for facts, holds in [_order(bench, row.row)]
            ]
        else:
            value = calibrated.value(row.row)
            entry |= {"simulated": value, "ratio": value / row.paper, "role": row.role, "readings": readings}
            entry["averages"] = _averages(calibrated, row)
            entry["uncalibrated"] = [
                {"readings": name, "averages": _averages(bench, row)} for name, bench in benches.items()
            ]
        entries.append(entry)
    return entries


def _order(bench: Bench, row: str) -> tuple[dict[str, Any], bool]:
    return bench.fc_order() if row == "O1" else bench.end_to_end_order()


def _averages(bench: Bench, row: PublishedRow) -> dict[str, dict[str, float]]:
    assert not isinstance(row.paper, str)
    values = {average: bench.value(row.row, average) for average in AVERAGES}
    return {average: {"simulated": value, "ratio": value / row.paper} for average, value in values.items()}


def within(entries: Sequence[Mapping[str, Any]], group: str, limit: float) -> tuple[int, int]:
    """How many rows of a group come within `limit` of the paper, and how many there are."""
    rows = [entry for entry in entries if entry["row"].startswith(group) and entry["ratio"] is not None]
    return sum(abs(entry["ratio"] - 1) <= limit for entry in rows), len(rows)


# --- tables --------------------------------------------------------------------------------------------


def print_rows(console: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    """The rows under the reproduction reading, then uncalibrated."""
    other = "geometric" if REPRODUCTION.average == "arithmetic" else "arithmetic"
    table = Table(
        title="PAPI's published rows, simulated", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    table.add_column("row", no_wrap=True)
    table.add_column("quantity")
    for name in ("paper", "simulated", "ratio", other):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("role", no_wrap=True)
    table.add_column("default", justify="right", no_wrap=True)
    for entry, following in zip(entries, [*entries[1:], None], strict=True):
        default = entry["uncalibrated"][0]
        if isinstance(entry["paper"], str):
            cells = ["order", _truth(entry["holds"]), "", "", entry["role"], _truth(default["holds"])]
        else:
            cells = [
                f"{entry['paper']:.3g}",
                f"{entry['simulated']:.3f}",
                f"{entry['ratio']:.2f}",
                f"{entry['averages'][other]['simulated']:.3f}",
                entry["role"],
                f"{default['averages']['arithmetic']['simulated']:.3f}",
            ]
        last = following is not None and following["row"][0] != entry["row"][0]
        table.add_row(entry["row"], PUBLISHED[entry["row"]].quantity, *cells, end_section=last)
    console.print(table)
    console.print(
        "simulated: the reproduction reading, constants fitted on the rows of role calibration;\n"
        f"{REPRODUCTION.average} mean over configurations, and the {other} one beside it. default: papi_env\n"
        "as it ships, nothing fitted (1935 GB/s, 6 clocks, arithmetic mean).",
        markup=False,
        highlight=False,
    )
    counts = [f"{group} {'{} of {}'.format(*within(entries, group, 0.15))}" for group in "ENSP"]
    console.print(
        f"within 15 %: {', '.join(counts)}; within 10 %: P {'{} of {}'.format(*within(entries, 'P', 0.10))}",
        markup=False,
        highlight=False,
    )
    print_uncalibrated(console, entries)
    print_orders(console, entries)


def print_uncalibrated(console: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    """The rows under both readings of the GPU's bandwidth and all of a bank's rate, nothing fitted."""
    title = "Uncalibrated, by GPU bandwidth and bank rate: arithmetic / geometric mean"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("row", no_wrap=True)
    table.add_column("paper", justify="right", no_wrap=True)
    for name in uncalibrated():
        table.add_column(name.replace("/", "\n"), justify="right", no_wrap=True)
    for entry in entries:
        cells = []
        for item in entry["uncalibrated"]:
            if "averages" in item:
                means = item["averages"]
                cells.append(f"{means['arithmetic']['simulated']:.2f}/{means['geometric']['simulated']:.2f}")
            else:
                cells.append(_truth(item["holds"]))
        paper = "order" if isinstance(entry["paper"], str) else f"{entry['paper']:.3g}"
        table.add_row(entry["row"], paper, *cells)
    console.print(table)


def print_orders(console: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    """What decides the orders, under the reproduction reading."""
    for entry in entries:
        if isinstance(entry["paper"], str):
            console.print(f"{entry['row']} {_truth(entry['holds'])}:", highlight=False)
            for key, value in entry["simulated"].items():
                console.print(f"   {key}: {_plain(value)}", markup=False, highlight=False)


def _truth(holds: bool) -> str:
    return "holds" if holds else "fails"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_settings(console: Console) -> None:
    """The constants with their bounds, and the readings that differ from papi_env's defaults."""
    table = Table(title="Free constants, fitted on rows P1-P6 and E1", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("constant", no_wrap=True)
    table.add_column("fitted", justify="right", no_wrap=True)
    table.add_column("bounds", justify="right", no_wrap=True)
    table.add_column("bounded by")
    for name, fields in FREE_CONSTANTS.items():
        bound = BOUNDS[fields[0]]
        ends = {bound.low: " (at it)", bound.high: " (at it)"}
        limits = f"{_us(bound.low)}..{_us(bound.high)}{ends.get(FITTED[name], '')}"
        table.add_row(name, _us(FITTED[name]), limits, bound.source)
    console.print(table)
    console.print(
        f"The reproduction reading, where it is not papi_env's default: {departures(REPRODUCTION)}.\n"
        f"Rows E, N and S are of a {REPRODUCTION.batch} batch, rows P of a {REPRODUCTION.pim_batch} one, row O2 of a "
        f"{REPRODUCTION.order_batch} one:\n"
        "all requests of the mean length (fixed), or ending as their lengths say (decaying).",
        markup=False,
        highlight=False,
    )


def departures(setting: Setting) -> str:
    """Where a setting differs from papi_env's defaults."""
    defaults = Setting().as_dict()
    return ", ".join(
        f"{name} {_us(value) if name in BOUNDS else value}"
        for name, value in setting.as_dict().items()
        if value != defaults[name]
    )


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} us"


def print_fit(console: Console, found: Fit) -> None:
    """What a fit arrived at beside the stored constants."""
    title = f"Refit on P1-P6 and E1: {found.evaluations} settings, {len(FIT_SEEDS)} seeds"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    for name in ("constant", "bounds", "start", "arrived at", "stored", "difference"):
        table.add_column(name, justify="left" if name == "constant" else "right", no_wrap=True)
    for name, value in found.constants.items():
        bound = BOUNDS[FREE_CONSTANTS[name][0]]
        table.add_row(
            name,
            f"{_us(bound.low)}..{_us(bound.high)}",
            _us(found.start[name]),
            _us(value),
            _us(FITTED[name]),
            f"{value / FITTED[name] - 1:+.2%}" if FITTED[name] else f"{value - FITTED[name]:+.2g} s",
        )
    console.print(table)
    console.print(
        f"sum of squared log errors: {found.start_loss:.4f} at the start, {found.loss:.4f} now",
        highlight=False,
    )


# --- the command ---------------------------------------------------------------------------------------


def check(config: Config) -> tuple[int, ...]:
    """The seeds that the options name.

    Raises:
        ConfigurationError: an option is out of range.
    """
    if config.seeds < 1 or config.seed < 0 or config.seed + config.seeds > MAX_SEED:
        raise ConfigurationError(
            f"--seed is {config.seed} and --seeds {config.seeds}, expected a first seed from 0 and at least one"
        )
    if config.jobs < 0:
        raise ConfigurationError(
            f"--jobs is {config.jobs}, expected a number of processes, or 0 for all cores"
        )
    if config.samples < 16:
        raise ConfigurationError(f"--samples is {config.samples}, expected at least 16")
    return tuple(range(config.seed, config.seed + config.seeds))


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Run and write the folder, whose path is returned.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    seeds = check(config)
    cores = config.jobs or joblib.cpu_count()
    configuration = {
        "seeds": {"first": seeds[0], "count": len(seeds)},
        "reproduction": REPRODUCTION.as_dict(),
    }
    folder = RunFolder.open(config.out, "reproduce", configuration)
    progress.print(f"run folder {folder.path}", markup=False, highlight=False)
    with folder.session(command, cores) as session:
        with progress.status("rows"):
            entries = reproduce(seeds)
        folder.write("reproduction.json", _json(entries))
        print_rows(console, entries)
        print_settings(console)
        if config.refit:
            with progress.status("fitting"):
                found = fit(READINGS)
            print_fit(console, found)
            fitted = with_constants(READINGS, found.constants)
            folder.write("refit.json", _json({"constants": found.constants, "setting": fitted.as_dict()}))
        if config.explore:
            from experiments.paper.exploration_report import explore_and_report

            explore_and_report(folder, config.samples, config.seed, cores, console, progress)
        with progress.status("figures"):
            pictures = _figures(folder.path, entries)
        progress.print(f"{len(pictures)} figures" if pictures else "no figures", highlight=False)
    console.print(f"{folder.path}: done in {session['wall_s']:.0f} s", markup=False, highlight=False)
    return folder.path


def _figures(folder: Path, entries: list[dict[str, Any]]) -> list[Path]:
    """Draw the paper's figures with the systems of the reproduction reading; requests end as they do."""
    # matplotlib takes a second to load: only where there is something to draw.
    from experiments.paper.figures import draw_all

    return draw_all(folder, entries, systems=partial(build_system, REPRODUCTION))


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.reproduce")
    command = f"python -m experiments.reproduce {shlex.join(arguments)}".strip()
    return exit_status(lambda: run(config, command, output(), Console(stderr=True)))


if __name__ == "__main__":
    sys.exit(main())
