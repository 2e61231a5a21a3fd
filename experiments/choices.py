"""What trained policies of serving choose: `python -m experiments.choices RUN_FOLDER ... --help`.

Plays the best policies of runs of `experiments.train` on what they were validated on, once with the most likely option
of every choice, as comparisons play them, and once with options drawn from the policy's distribution, as training does.
Prints what either earns and the share of each option. Where the two earn differently, what was trained is not what is
played.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from experiments.common.command import command_line, say
from experiments.common.options import words
from experiments.training.choices import chosen
from experiments.training.curves.data import read_curve
from experiments.training.record import BEST, LAST
from experiments.training.scores import scored


@dataclass(frozen=True, kw_only=True)
class Config:
    """What trained policies of serving choose, and whether drawn choices earn the same.

    python -m experiments.choices runs/ppo-0 runs/ppo-1
    """

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], words("FOLDER ...")]
    """Training runs of experiments.train."""
    checkpoint: Literal["best", "last"] = "best"
    """Which of its policies."""


def run(config: Config, command: str, console: Console, progress: Console) -> None:
    """Play and print.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    name = {"best": BEST, "last": LAST}[config.checkpoint]
    for folder in config.runs:
        algorithm, _, validation = read_curve(folder)
        with progress.status(f"playing {folder}"):
            found = [chosen(Path(folder) / name, validation, drawn) for drawn in (False, True)]
        table = Table(title=f"{folder}: {algorithm}", title_justify="left", box=None, pad_edge=False)
        for column in ("percent of choices", "most likely", "drawn"):
            table.add_column(column)
        scores = (f"{one.score:.4f}" for one in found)
        table.add_row(scored(validation.env_id), *scores)
        for word in found[0].shares:
            table.add_row(word, *(_listed(one.shares[word]) for one in found))
        console.print(table)
        say(console, "")


def _listed(shares: dict[str, float]) -> str:
    """Options from 1 % on, the most frequent first."""
    order = sorted(shares, key=lambda option: -shares[option])
    return ", ".join(f"{option} {100 * shares[option]:.0f}" for option in order if shares[option] >= 0.005)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("choices", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
