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

import tyro

from experiments.attacc.cycles import RevisionName, validate_cycles
from experiments.common.command import exit_status
from experiments.common.runner import write_whole
from papi_env.errors import ConfigurationError


def _optional(metavar: str) -> Any:
    """How an option's value is called in --help; what its absence means is said in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Print one line of JSON with the model's relative errors against AttAcc's figures, as fractions."""

    cycles: Annotated[Path | None, _optional("FILE")] = None
    """Cycle-level rows: L,nhead,dhead,dbyte,pim_type,power_constraint,cycle."""
    grid: Annotated[Path | None, _optional("FILE")] = None
    """Rows with the output columns of AttAcc's simulator."""
    revision: RevisionName = "auto"
    """Revision of AttAcc's cycle-level model that --cycles is from; auto takes the better match."""
    fit: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fit the constant of the attention model on --cycles, beside the value in use."""
    attacc_compatible: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Predict --grid by AttAcc's equations instead of papi_env's own model."""
    out: Annotated[Path | None, _optional("DIR")] = None
    """Folder for cycles.json or grid.json (default: nothing is written)."""


def validate(arguments: Arguments) -> dict[str, Any]:
    """The figures to print.

    Raises:
        ConfigurationError: options that do not go together.
        DataError: a file that is not as expected.
    """
    if arguments.cycles is not None and arguments.grid is None:
        if arguments.attacc_compatible:
            raise ConfigurationError("--attacc-compatible belongs to --grid, which is not given")
        return validate_cycles(arguments.cycles, arguments.revision, fit=arguments.fit)
    if arguments.grid is not None and arguments.cycles is None:
        if arguments.fit or arguments.revision != "auto":
            raise ConfigurationError("--fit and --revision belong to --cycles, which is not given")
        # Only this needs it.
        from experiments.attacc.validate_grid import validate_grid

        return validate_grid(arguments.grid, arguments.attacc_compatible)
    found = "both" if arguments.cycles is not None else "neither"
    raise ConfigurationError(f"--cycles and --grid: found {found}, expected one of them")


def _write(folder: Path, name: str, text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, text)
    except OSError as error:
        raise ConfigurationError(f"--out {folder}: cannot be written: {error.strerror}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for what cannot be used as asked."""
    parsed = tyro.cli(Arguments, args=arguments, prog="python -m experiments.validate")

    def run() -> None:
        text = json.dumps(validate(parsed), ensure_ascii=False, allow_nan=False)
        if parsed.out is not None:
            _write(parsed.out, "grid.json" if parsed.cycles is None else "cycles.json", text + "\n")
        print(text)

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
