"""What is shipped, as a table, and how to train it anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agents.learned.shipped import SHIPPED
from experiments.common.command import say
from experiments.training.pretrained.record import Entry


def show(console: Console, folder: Path, problems: Mapping[str, Entry]) -> None:
    """Print what is shipped, and how to train it anew."""
    table = Table(box=None, pad_edge=False)
    for name in (
        "environment",
        "algorithm",
        "bytes",
        "runs",
        "mean score",
        "95 % of new runs",
        "seed",
        "score",
    ):
        table.add_column(name, justify="left" if name in ("environment", "algorithm") else "right")
    for env_id, entry in problems.items():
        files = (folder / SHIPPED[env_id]).iterdir()
        table.add_row(
            env_id.removeprefix("papi_env/"),
            entry.algorithm,
            f"{sum(path.stat().st_size for path in files):,}",
            str(len(entry.runs)),
            f"{entry.mean:.6g}",
            f"[{entry.interval[0]:.6g}, {entry.interval[1]:.6g}]".replace("[", r"\["),
            str(entry.shipped_seed),
            f"{entry.shipped_score:.6g}",
        )
    console.print(table)
    console.print("Seed and score are the shipped policy's, which is the best run's.", highlight=False)
    for env_id, entry in problems.items():
        say(console, f"{env_id}: {entry.command} --seed {entry.shipped_seed}")
