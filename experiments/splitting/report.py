"""The splits of a problem as a table, with what is held out and what is skipped."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from experiments.common.command import say
from experiments.splitting.definition import SHIFTS, TRACES, define
from experiments.splitting.splits import Split


def print_splits(console: Console, splits: Sequence[Split], every: bool) -> None:
    """Print the splits of one problem; `every` lists their settings."""
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
            # Broken at the width of the console, unlike the lines below.
            console.print(f"held out for {split.name}: {text}", markup=False, highlight=False)
        for name, trace in split.skipped.items():
            say(console, f"skipped in {split.name}: {name} needs --trace {TRACES[trace].published}")
        for setting in split.settings if every else ():
            say(console, f"{split.name}: {setting.name} [{setting.shift}]")
