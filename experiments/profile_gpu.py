"""Times of a model's FC kernels, measured on a CUDA GPU: `python -m experiments.profile_gpu --help`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.common.command import command_line, say
from experiments.common.options import words
from experiments.common.runner import write_whole
from experiments.gpus.cuda import find_cuda
from experiments.gpus.profile import ROWS, Plan, conditions, file_text, measure
from papi_env.errors import ConfigurationError
from papi_env.workload.transformer import get_transformer


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure FC kernels in FP16 and write lines of outputs,inputs,rows,seconds."""

    models: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("llama-65b",)
    """Models, by name."""
    tensor_parallel: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")] = (6,)
    """Numbers of GPUs that share a kernel; one GPU's share is measured."""
    rows: Annotated[tuple[int, ...], words("INT ...")] = ROWS
    """Input vectors (default: 33 numbers from 1 to 4096)."""
    repeats: Annotated[int, tyro.conf.arg(metavar="INT")] = 20
    """Spans of launches that the median is taken over."""
    warmup: Annotated[int, tyro.conf.arg(metavar="INT")] = 5
    """Rounds of launches before each kernel's first span."""
    device: Annotated[str, tyro.conf.arg(metavar="cuda[:N]")] = "cuda"
    """The GPU."""
    out: Annotated[Path | None, words("FILE")] = None
    """File to write, whole or not at all (default: it is printed)."""


def check_out(out: Path) -> None:
    """Raise ConfigurationError where a file could not be written: measuring takes minutes."""
    if out.is_dir():
        raise ConfigurationError(f"--out is {str(out)!r}, a directory; expected a file")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise ConfigurationError(f"--out {out}: found no folder {out.parent} that can be written to")


def run(config: Config, command: str, console: Console, progress: Console) -> None:
    """Measure, and write or print the file.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked, or there is no GPU.
    """
    plan = Plan(
        models=[get_transformer(name) for name in config.models],
        tensor_parallel=config.tensor_parallel,
        rows=config.rows,
        repeats=config.repeats,
        warmup=config.warmup,
    )
    if config.out is not None:
        check_out(config.out)
    gpu = find_cuda(config.device)
    found = measure(gpu, plan, lambda line: say(progress, line))
    date = {"date": datetime.now(UTC).isoformat(timespec="seconds")}
    text = file_text(
        found, gpu.provenance() | date | conditions(plan, command), config.out or Path("measurements")
    )
    if config.out is None:
        console.file.write(text)
        return
    try:
        write_whole(config.out, text)
    except OSError as error:
        raise ConfigurationError(f"--out {config.out}: cannot be written: {error.strerror}") from None
    say(progress, f"{config.out}: {len(found)} kernels")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for what cannot be used as asked."""
    return command_line("profile_gpu", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
