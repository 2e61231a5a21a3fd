"""Show and check the pinned training, validation and test splits: `python -m experiments.splits --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from experiments.common.command import exit_status, output
from experiments.splitting.definition import PROBLEM_IDS, SHIFTS, SPLIT_NAMES, TRACES, define
from experiments.splitting.splits import PINS, Split, load_split, write_pins
from papi_env.errors import lookup


@dataclass(frozen=True, kw_only=True)
class Config:
    """Show the training, validation and test splits, and check that they are as pinned."""

    env: Annotated[str | None, tyro.conf.arg(metavar="ID", help_behavior_hint="")] = None
    """A problem (default: all)."""
    traces: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...", help_behavior_hint="")] = ()
    """Files of published traces; each is recognised by its content."""
    settings: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List every setting."""
    pin: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write what the splits are now, in the place of what was pinned. Contents of traces that are not given stay."""


def run(config: Config, console: Console) -> None:
    """Pin, or check and print.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked, or is not as it was pinned.
    """
    if config.env is not None:
        lookup("problem", config.env, dict.fromkeys(PROBLEM_IDS))
    if config.pin:
        write_pins(config.traces)
        console.print(f"wrote {PINS}", markup=False, highlight=False, soft_wrap=True)
    for env_id in PROBLEM_IDS if config.env is None else (config.env,):
        _print(console, [load_split(env_id, name, config.traces) for name in SPLIT_NAMES], config.settings)


def _print(console: Console, splits: Sequence[Split], every: bool) -> None:
    console.print(splits[0].env_id, style="bold", highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("split", "settings", "hash", "first seed", "by what is new in them"):
        table.add_column(name, justify="right" if name in ("settings", "first seed") else "left")
    for split in splits:
        all_of_it = [setting.shift for setting in define(split.env_id)[split.name]]
        counts = {shift: all_of_it.count(shift) for shift in SHIFTS if shift in all_of_it}
        table.add_row(
            split.name,
            str(len(split.settings) + len(split.skipped)),
            split.sha256,
            f"{split.seeds.start:,}",
            ", ".join(f"{shift} {count}" for shift, count in counts.items()),
        )
    console.print(table)
    for split in splits:
        held: dict[str, list[str]] = {}
        for (kind, _), label in split.held_out.items():
            if kind != "serving":
                held.setdefault(kind, []).append(label)
        if held:
            text = "; ".join(f"{kind} {', '.join(dict.fromkeys(labels))}" for kind, labels in held.items())
            console.print(f"held out for {split.name}: {text}", markup=False, highlight=False)
        for name, trace in split.skipped.items():
            missing = f"skipped in {split.name}: {name} needs --traces {TRACES[trace].published}"
            console.print(missing, markup=False, highlight=False, soft_wrap=True)
        for setting in split.settings if every else ():
            line = f"{split.name}: {setting.name} [{setting.shift}]"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.splits")
    return exit_status(lambda: run(config, output()))


if __name__ == "__main__":
    sys.exit(main())
