"""Compare the hardware model with AttAcc's figures and measured GPUs: `python -m experiments.validate --help`.

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
    """Print one line of JSON with the model's relative errors against AttAcc's or measured figures, as fractions."""

    cycles: Annotated[Path | None, _optional("FILE")] = None
    """Cycle-level rows: L,nhead,dhead,dbyte,pim_type,power_constraint,cycle."""
    grid: Annotated[Path | None, _optional("FILE")] = None
    """Rows with the output columns of AttAcc's simulator."""
    gpu_kernels: Annotated[Path | None, _optional("FILE")] = None
    """Measured FC kernels: gpu,tp,n,heads,kv_heads,hidden,feed_forward,qkv_us,projection_us,up_us,down_us, or Vidur's
    mlp.csv."""
    allreduce: Annotated[Path | None, _optional("FILE")] = None
    """Measured all-reduces: gpu,gpus,bytes,min_us,median_us."""
    revision: RevisionName = "auto"
    """Revision of AttAcc's cycle-level model that --cycles is from; auto takes the better match."""
    fit: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fit the constant of the attention model on --cycles, beside the value in use."""
    gpu: Annotated[str | None, _optional("NAME")] = None
    """The GPU of --gpu-kernels, for a file that doesn't say it in a column or its path."""
    refit: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fit the constants of the GPUs on --gpu-kernels, and show the errors on what the fit leaves out."""
    attacc_compatible: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Predict --grid by AttAcc's equations instead of papi_env's own model."""
    out: Annotated[Path | None, _optional("DIR")] = None
    """Folder for cycles.json, grid.json, gpu_kernels.json or allreduce.json (default: nothing is written)."""


# Files to compare with, and which of them the other options are about.
FILES = ("cycles", "grid", "gpu_kernels", "allreduce")
OPTIONS = {
    "revision": "cycles",
    "fit": "cycles",
    "attacc_compatible": "grid",
    "gpu": "gpu_kernels",
    "refit": "gpu_kernels",
}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _given(arguments: Arguments) -> list[str]:
    return [name for name in FILES if getattr(arguments, name) is not None]


def validate(arguments: Arguments) -> dict[str, Any]:
    """The figures to print.

    Raises:
        ConfigurationError: options that do not go together.
        DataError: a file that is not as expected.
    """
    given = _given(arguments)
    if len(given) != 1:
        options = ", ".join(_option(name) for name in FILES)
        found = " and ".join(_option(name) for name in given) or "none"
        raise ConfigurationError(f"{options}: found {found}, expected one of them")
    for name, owner in OPTIONS.items():
        if getattr(arguments, name) != getattr(Arguments, name) and owner != given[0]:
            raise ConfigurationError(f"{_option(name)} belongs to {_option(owner)}, which is not given")
    # Each needs its own room only.
    if arguments.cycles is not None:
        return validate_cycles(arguments.cycles, arguments.revision, fit=arguments.fit)
    if arguments.grid is not None:
        from experiments.attacc.validate_grid import validate_grid

        return validate_grid(arguments.grid, arguments.attacc_compatible)
    if arguments.gpu_kernels is not None:
        from experiments.gpus.validate_kernels import validate_kernels

        return validate_kernels(arguments.gpu_kernels, arguments.gpu, refit=arguments.refit)
    assert arguments.allreduce is not None
    from experiments.gpus.validate_allreduce import validate_allreduce

    return validate_allreduce(arguments.allreduce)


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
            _write(parsed.out, f"{_given(parsed)[0]}.json", text + "\n")
        print(text)

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
