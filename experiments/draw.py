"""Draw machines, their units, stacks and links: `python -m experiments.draw --help`.

Each registered system that is named, or the system of a scenario's file, as a picture `machine-NAME.png`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.common.command import command_line, say
from experiments.common.options import words
from experiments.drawing.machine import figure
from papi_env.errors import ConfigurationError
from papi_env.hardware.system import System, get_system
from papi_env.scenario import load_scenario


@dataclass(frozen=True, kw_only=True)
class Config:
    """Draw machines.

    python -m experiments.draw papi attacc-only my.toml
    """

    systems: Annotated[tyro.conf.Positional[tuple[str, ...]], words("NAME|FILE.toml ...")] = ("papi",)
    """Registered systems, or files of scenarios (default: papi)."""
    out: Annotated[Path, words("FOLDER")] = Path("runs/draw")
    """Where the pictures go (default: runs/draw)."""


def run(config: Config, command: str, console: Console, progress: Console) -> list[Path]:
    """Draw, and say what was written.

    Raises:
        ConfigurationError, DataError: an unknown name, or a file that is no scenario.
    """
    systems = [_system(name) for name in dict.fromkeys(config.systems)]
    if config.out.exists() and not config.out.is_dir():
        raise ConfigurationError(f"--out {config.out}: is a file, expected a folder")
    config.out.mkdir(parents=True, exist_ok=True)
    paths = []
    for system in systems:
        path = config.out / f"machine-{system.name.replace('/', '-')}.png"
        path.write_bytes(figure(system))
        say(console, f"wrote {path}")
        paths.append(path)
    return paths


def _system(name: str) -> System:
    return load_scenario(name).system if name.endswith(".toml") else get_system(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("draw", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
