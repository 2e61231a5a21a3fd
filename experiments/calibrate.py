"""PAPI's threshold α by its offline sweep, for systems and models, under the readings of the paper.

python -m experiments.calibrate
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.table import Table

from agents.batch.rules import calibrate_alpha
from experiments.common.command import exit_status, output
from experiments.common.runner import write_whole
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS, get_system
from papi_env.workload.transformer import TRANSFORMERS, get_transformer


@dataclass(frozen=True)
class Arguments:
    """Print α for every system, model and reading."""

    systems: tuple[str, ...] = ("papi", "papi-h100")
    """Systems with both PUs and FC-PIM; elsewhere α is 0 (PUs only) or infinite (PIM only)."""

    models: tuple[str, ...] = tuple(TRANSFORMERS)
    """Models, by name."""

    out: Path | None = None
    """Folder for `alpha.json`; nothing is written without it."""


def calibrate(arguments: Arguments) -> list[dict[str, str | float]]:
    """One row for each system, model, GPU-bandwidth and bank-rate reading."""
    rows: list[dict[str, str | float]] = []
    for system_name in arguments.systems:
        for model_name in arguments.models:
            model = get_transformer(model_name)
            for bandwidth in GPU_BANDWIDTH_READINGS:
                for rate in BANK_RATE_READINGS:
                    system = get_system(system_name).with_readings(bandwidth, rate)
                    alpha = calibrate_alpha(system, model)
                    rows.append(
                        {
                            "system": system_name,
                            "model": model_name,
                            "gpu_bandwidth": bandwidth,
                            "bank_rate": rate,
                            "alpha": alpha,
                        }
                    )
    return rows


def run(arguments: Arguments) -> None:
    """Print the table, and write it where asked."""
    rows = calibrate(arguments)
    table = Table(title="α: FC kernels go to the PUs when RLP x TLP exceeds it")
    table.add_column("system", no_wrap=True)
    table.add_column("model", no_wrap=True)
    columns = [(bandwidth, rate) for bandwidth in GPU_BANDWIDTH_READINGS for rate in BANK_RATE_READINGS]
    for bandwidth, rate in columns:
        table.add_column(f"{bandwidth}\n{rate}", justify="right", no_wrap=True)
    for start in range(0, len(rows), len(columns)):
        part = rows[start : start + len(columns)]
        table.add_row(str(part[0]["system"]), str(part[0]["model"]), *(f"{row['alpha']:g}" for row in part))
    console = output()
    console.print(table)
    console.print(
        "Columns: GPU bandwidth (roofline: 1935 GB/s, hbm3: 3352 GB/s; an H100's is not in doubt) and bank rate\n"
        "(clocks per all-bank command: attacc-limit 6, attacc 4, papi 2)."
    )
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.out / "alpha.json", json.dumps(rows, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for what cannot be used as asked."""
    parsed = tyro.cli(Arguments, args=arguments, prog="python -m experiments.calibrate")
    return exit_status(lambda: run(parsed))


if __name__ == "__main__":
    sys.exit(main())
