"""PAPI's threshold α for systems and models, by its offline sweep: `python -m experiments.calibrate --help`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.common.command import command_line
from experiments.common.options import words
from experiments.common.runner import write_whole
from experiments.paper.thresholds import calibrate, thresholds_table
from papi_env.workload.transformer import PRESET_MODELS


@dataclass(frozen=True, kw_only=True)
class Config:
    """Print α for every system, model and reading."""

    systems: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("papi", "papi-h100")
    """Systems with both PUs and FC-PIM; elsewhere α is 0 (PUs only) or infinite (PIM only)."""
    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = tuple(PRESET_MODELS)
    """Models, by name."""
    out: Annotated[Path | None, words("DIR")] = None
    """Folder for alpha.json (default: nothing is written)."""


def run(config: Config, command: str, console: Console, progress: Console) -> None:
    """Print the table, and write it where asked."""
    with progress.status("calibrating"):
        rows = calibrate(config.systems, config.models)
    console.print(thresholds_table(rows))
    console.print(
        "Columns: GPU bandwidth (roofline: 1935 GB/s, hbm3: 3352 GB/s; an H100's is not in doubt) and bank rate\n"
        "(clocks per all-bank command: attacc-limit 6, attacc 4, papi 2)."
    )
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        write_whole(config.out / "alpha.json", json.dumps(rows, indent=1))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for what cannot be used as asked."""
    return command_line("calibrate", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
