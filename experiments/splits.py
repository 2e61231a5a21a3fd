"""Show and check the pinned training, validation and test splits: `python -m experiments.splits --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from rich.console import Console

from experiments.common.command import command_line, say
from experiments.common.options import Flag, OneEnv, Spelling, Traces
from experiments.splitting.definition import PROBLEM_IDS, SPLIT_NAMES
from experiments.splitting.report import print_splits
from experiments.splitting.splits import PINS, load_split, write_pins
from papi_env.errors import lookup

SPELLINGS = (Spelling("--traces", "--trace"),)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Show the training, validation and test splits, and check that they are as pinned."""

    env: OneEnv = None
    """A problem (default: all)."""
    trace: Traces = ()
    settings: Annotated[bool, Flag] = False
    """List every setting."""
    pin: Annotated[bool, Flag] = False
    """Write what the splits are now, in the place of what was pinned. Contents of traces that are not given stay."""


def run(config: Config, command: str, console: Console, progress: Console) -> None:
    """Pin, or check and print.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked, or is not as it was pinned.
    """
    if config.env is not None:
        lookup("problem", config.env, dict.fromkeys(PROBLEM_IDS))
    if config.pin:
        write_pins(config.trace)
        say(console, f"wrote {PINS}")
    for env_id in PROBLEM_IDS if config.env is None else (config.env,):
        print_splits(
            console, [load_split(env_id, name, config.trace) for name in SPLIT_NAMES], config.settings
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("splits", Config, run, arguments, SPELLINGS)


if __name__ == "__main__":
    sys.exit(main())
