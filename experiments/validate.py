"""Compare the models with AttAcc's figures, measured GPUs and real servers: `python -m experiments.validate --help`.

Prints one line of JSON; errors are fractions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from experiments.attacc.cycles import RevisionName, validate_cycles
from experiments.common.command import command_line, say
from experiments.common.options import Flag, words
from experiments.common.runner import RunFolder
from papi_env.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Print one line of JSON: the model's relative errors against AttAcc's or measured figures.

    Errors are fractions.
    """

    cycles: Annotated[Path | None, words("FILE")] = None
    """Cycle-level rows: L,nhead,dhead,dbyte,pim_type,power_constraint,cycle."""
    grid: Annotated[Path | None, words("FILE")] = None
    """Rows with the output columns of AttAcc's simulator."""
    gpu_kernels: Annotated[Path | None, words("FILE")] = None
    """Measured FC kernels: gpu,tp,n,heads,kv_heads,hidden,feed_forward,{qkv,projection,up,down}_us, or Vidur's."""
    allreduce: Annotated[Path | None, words("FILE")] = None
    """Measured all-reduces: gpu,gpus,bytes,min_us,median_us."""
    serving: Annotated[Path | None, words("RUN_FOLDER")] = None
    """A real vLLM run to replay: run.json, requests.csv and the measured tables if any, or a run folder of
    LLMServingSim."""
    moe: Annotated[Path | None, words("FILE")] = None
    """Measured blocks of experts, Qwen3-30B-A3B on an RTX PRO 6000: tokens,activated_experts,time_us."""
    revision: RevisionName = "auto"
    """Revision of AttAcc's cycle-level model that --cycles is from; auto takes the better match."""
    fit: Annotated[bool, Flag] = False
    """Fit the constant of the attention model on --cycles, beside the value in use."""
    gpu: Annotated[str | None, words("NAME")] = None
    """The GPU of --gpu-kernels, for a file that doesn't say it in a column or its path."""
    refit: Annotated[bool, Flag] = False
    """Fit the constants on --gpu-kernels, and show the errors on what the fit leaves out; or those on --moe."""
    published: Annotated[bool, Flag] = False
    """Compare whole iterations that servers published, from --gpu-kernels and --allreduce together."""
    attacc_compatible: Annotated[bool, Flag] = False
    """Predict --grid by AttAcc's equations instead of papi_env's own model."""
    out: Annotated[Path | None, words("DIR")] = None
    """Run folder, new or to go on in, for cycles.json, grid.json, gpu_kernels.json, allreduce.json, serving.json,
    moe.json or published.json, which `experiments.report` shows (default: none)."""


# Files to compare with, and which of them the other options are about.
FILES = ("cycles", "grid", "gpu_kernels", "allreduce", "serving", "moe")
OPTIONS = {
    "revision": ("cycles",),
    "fit": ("cycles",),
    "attacc_compatible": ("grid",),
    "gpu": ("gpu_kernels",),
    "refit": ("gpu_kernels", "moe"),
}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _given(config: Config) -> list[str]:
    return [name for name in FILES if getattr(config, name) is not None]


def validate(config: Config, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The figures to print; `tell` is told what else the user should know.

    Raises:
        ConfigurationError: options that do not go together.
        DataError: a file that is not as expected.
    """
    given = _given(config)
    if config.published:
        if given != ["gpu_kernels", "allreduce"] or config.gpu is not None or config.refit:
            raise ConfigurationError("--published needs --gpu-kernels and --allreduce, and nothing else")
        assert config.gpu_kernels is not None
        assert config.allreduce is not None
        from experiments.gpus.published import validate_published

        return validate_published(config.gpu_kernels, config.allreduce)
    if len(given) != 1:
        options = ", ".join(_option(name) for name in FILES)
        found = " and ".join(_option(name) for name in given) or "none"
        raise ConfigurationError(f"{options}: found {found}, expected one of them")
    for name, owners in OPTIONS.items():
        if getattr(config, name) != getattr(Config, name) and given[0] not in owners:
            known = " or ".join(map(_option, owners))
            raise ConfigurationError(f"{_option(name)} belongs to {known}, which is not given")
    # Each needs its own room only.
    if config.cycles is not None:
        return validate_cycles(config.cycles, config.revision, fit=config.fit)
    if config.grid is not None:
        from experiments.attacc.validate_grid import validate_grid

        return validate_grid(config.grid, config.attacc_compatible)
    if config.gpu_kernels is not None:
        from experiments.gpus.validate_kernels import validate_kernels

        return validate_kernels(config.gpu_kernels, config.gpu, refit=config.refit)
    if config.serving is not None:
        from experiments.replay.validate_serving import validate_serving

        return validate_serving(config.serving, tell)
    if config.moe is not None:
        from experiments.gpus.validate_moe import validate_moe

        return validate_moe(config.moe, refit=config.refit)
    assert config.allreduce is not None
    from experiments.gpus.validate_allreduce import validate_allreduce

    return validate_allreduce(config.allreduce)


def run(config: Config, command: str, console: Console, progress: Console) -> None:
    """Print the figures, and write them where asked.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    with progress.status("comparing"):
        found = validate(config, lambda text: say(progress, text))
    text = json.dumps(found, ensure_ascii=False, allow_nan=False) + "\n"
    if config.out is not None:
        # Only now, so that what cannot be compared leaves no folder that refuses the corrected command.
        asked = {
            name: str(value) if isinstance(value, Path) else value for name, value in vars(config).items()
        }
        folder = RunFolder.open(config.out, "validate", asked | {"out": None})
        with folder.session(command, 1):
            folder.write(f"{'published' if config.published else _given(config)[0]}.json", text)
    # Not the console's own: a line stays a line.
    console.file.write(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for what cannot be used as asked."""
    return command_line("validate", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
