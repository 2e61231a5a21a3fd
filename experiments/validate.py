"""Compare the hardware model with AttAcc's figures: `python -m experiments.validate --help`.

Prints one line of JSON; errors are fractions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from experiments.attacc.cycles import RevisionName, validate_cycles
from experiments.common.command import command_line
from experiments.common.options import Flag, words
from experiments.common.runner import write_whole
from papi_env.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Print one line of JSON with the model's relative errors against AttAcc's figures, as fractions."""

    cycles: Annotated[Path | None, words("FILE")] = None
    """Cycle-level rows: L,nhead,dhead,dbyte,pim_type,power_constraint,cycle."""
    grid: Annotated[Path | None, words("FILE")] = None
    """Rows with the output columns of AttAcc's simulator."""
    revision: RevisionName = "auto"
    """Revision of AttAcc's cycle-level model that --cycles is from; auto takes the better match."""
    fit: Annotated[bool, Flag] = False
    """Fit the constant of the attention model on --cycles, beside the value in use."""
    attacc_compatible: Annotated[bool, Flag] = False
    """Predict --grid by AttAcc's equations instead of papi_env's own model."""
    out: Annotated[Path | None, words("DIR")] = None
    """Folder for cycles.json or grid.json (default: nothing is written)."""


def validate(config: Config) -> dict[str, Any]:
    """The figures to print.

    Raises:
        ConfigurationError: options that do not go together.
        DataError: a file that is not as expected.
    """
    if config.cycles is not None and config.grid is None:
        if config.attacc_compatible:
            raise ConfigurationError("--attacc-compatible belongs to --grid, which is not given")
        return validate_cycles(config.cycles, config.revision, fit=config.fit)
    if config.grid is not None and config.cycles is None:
        if config.fit or config.revision != "auto":
            raise ConfigurationError("--fit and --revision belong to --cycles, which is not given")
        # Only this needs it.
        from experiments.attacc.validate_grid import validate_grid

        return validate_grid(config.grid, config.attacc_compatible)
    found = "both" if config.cycles is not None else "neither"
    raise ConfigurationError(f"--cycles and --grid: found {found}, expected one of them")


def _write(folder: Path, name: str, text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, text)
    except OSError as error:
        raise ConfigurationError(f"--out {folder}: cannot be written: {error.strerror}") from None


def run(config: Config, command: str, console: Console, progress: Console) -> None:
    """Print the figures, and write them where asked.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    text = json.dumps(validate(config), ensure_ascii=False, allow_nan=False)
    if config.out is not None:
        _write(config.out, "grid.json" if config.cycles is None else "cycles.json", text + "\n")
    # Not the console's own: a line stays a line.
    console.file.write(text + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for what cannot be used as asked."""
    return command_line("validate", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
