"""The policies that come with the project: `python -m experiments.pretrained --help`.

Where they are from, and whether training anew gives the like. `agents/pretrained` holds a checkpoint for each problem
(see `agents.learned.shipped`) and `training.json`: for each problem the command that trained several runs, the same
but for `--seed`; the best validation score of each; the 95 % prediction interval for the score of one more run; and
which of them is shipped. `experiments.training.pretrained.record` says what is in it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Annotated

from rich.console import Console

from agents.learned.shipped import FOLDER, SHIPPED
from experiments.common.command import command_line
from experiments.common.options import words
from experiments.common.runner import RUNS
from experiments.training.pretrained.record import RECORD, check_files, read_record
from experiments.training.pretrained.report import show
from papi_env.errors import ConfigurationError, lookup

DEFAULT_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Config:
    """Show the policies that come with the project, check them by training anew, or replace them.

    python -m experiments.pretrained --check papi_env/Decode-v0
    """

    check: Annotated[str | None, words("ID")] = None
    """Train one more run of this problem: status 0 if its best score lies in the recorded interval, else 1."""
    seed: Annotated[int | None, words("INT")] = None
    """Of that run, none of those recorded (default: 1000)."""
    out: Annotated[Path | None, words("DIR")] = None
    """Its run folder (default: runs/pretrained-TIME); an interrupted one goes on."""
    ship: Annotated[tuple[Path, ...], words("FOLDER ...")] = ()
    """Training runs alike but for the seed: ship the best one's policy, and record all of them."""
    folder: Annotated[Path | None, words("DIR")] = None
    """Where the policies are (default: agents/pretrained)."""


def run(config: Config, command: str, console: Console, progress: Console) -> bool:
    """Do what is asked; returns False if a checked run lies outside of its interval.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
        KeyboardInterrupt: a check was interrupted; it can go on.
    """
    folder = FOLDER if config.folder is None else config.folder
    if config.check is None and (config.seed, config.out) != (None, None):
        raise ConfigurationError("--seed and --out belong to --check, which is not given")
    if config.ship and config.check is not None:
        raise ConfigurationError("--ship and --check exclude each other, expected one of them")
    if config.ship:
        env_id, entry = _with_torch().ship(config.ship, folder)
        show(console, folder, {env_id: entry})
        return True
    if config.check is not None:
        lookup("problem", config.check, SHIPPED)
    record = read_record(folder)
    for env_id, entry in record.problems.items():
        check_files(folder, env_id, entry)
    if config.check is None:
        show(console, folder, record.problems)
        for env_id in SHIPPED:
            if env_id not in record.problems:
                console.print(f"{env_id}: no policy comes with the project", highlight=False)
        return True
    if config.check not in record.problems:
        raise ConfigurationError(f"{folder / RECORD}: records no training of {config.check}")
    out = config.out or RUNS / f"pretrained-{datetime.now():%Y%m%d-%H%M%S}"
    seed = DEFAULT_SEED if config.seed is None else config.seed
    entry = record.problems[config.check]
    return bool(_with_torch().check(config.check, entry, seed, out, command, console, progress))


def _with_torch() -> ModuleType:
    """What ships and checks. It needs torch, and what only prints a table goes without."""
    try:
        from experiments.training.pretrained import runs
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--ship and --check need the extra `learn` (pip install -e '.[learn]'): {error}"
        ) from None
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 for a run outside of its interval, 2 for what cannot be used
    as asked, 130 if interrupted.
    """
    inside: list[bool] = []
    status = command_line("pretrained", Config, lambda *asked: inside.append(run(*asked)), arguments)
    return status or (0 if all(inside) else 1)


if __name__ == "__main__":
    sys.exit(main())
