"""Measuring parts by their names, and what is written of them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from experiments.speed import crowded, inside, jobs, parts, replay, runs
from experiments.speed.measure import pinned
from experiments.speed.parts import QUICK, Effort, Findings, Ratio, Row, Say
from experiments.speed.targets import PARTS, TARGETS, UNPINNED
from papi_env.simulation.processor import processor


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of the parts: sizes that mean nothing, threads of the part of that name, the trace of replay."""

    quick: bool = False
    threads: int = 2
    trace: Path | None = None

    def recorded(self) -> dict[str, Any]:
        """For the record of a run; what changes nothing is not in it."""
        trace = {} if self.trace is None else {"trace": str(self.trace)}
        return trace | ({} if self.threads == 2 else {"threads": self.threads})

    def options(self, names: Sequence[str]) -> list[str]:
        """The command's options that ask another process for the same."""
        trace = [] if self.trace is None else ["--trace", str(self.trace.resolve())]
        quick = ["--quick"] if self.quick else []
        return ["--only", *names, "--threads", str(self.threads), *trace, *quick]


def measure_part(found: Findings, name: str, asked: Asked, say: Say) -> int | None:
    """Add what a part finds; returns the core that it was pinned to, None for none."""
    with nullcontext() if name in UNPINNED else pinned() as core:
        _part(name, asked)(found, QUICK if asked.quick else Effort(), say)
    return core


def _part(name: str, asked: Asked) -> Callable[[Findings, Effort, Say], None]:
    if name == "threads":
        return partial(parts.threads, count=asked.threads)
    if name == "replay":
        return partial(replay.replay, trace=asked.trace)
    if name not in ("ppo", "target"):
        elsewhere = {"inside": inside, "crowded": crowded, "jobs": jobs, "grid": runs, "startup": runs}
        module = elsewhere.get(name, parts)
        measured: Callable[[Findings, Effort, Say], None] = getattr(module, name)
        return measured
    # Only these need torch.
    from experiments.speed import ppo

    training = ppo.QUICK_TRAINING if asked.quick else ppo.Training()
    train = getattr(ppo, name)
    return lambda found, effort, say: train(found, training, say)


def summarise(
    found: Findings,
    names: Sequence[str],
    quick: bool,
    core: int | None,
    instructions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What summary.json holds: ratios by name with their targets, then rows and learning curves.

    `instructions` is `experiments.speed.instructions.running` where it was measured.
    """
    ratios = dict(found.ratios)
    for target in TARGETS:
        if target.name not in ratios:
            measured = target.part in names
            ratios[target.name] = Ratio(
                None, note="not found" if measured else f"part {target.part!r} not run"
            )
    known = {target.name: target for target in TARGETS}
    entries = {}
    for name in (*known, *(name for name in ratios if name not in known)):
        ratio = ratios[name]
        entries[name] = asdict(ratio)
        if name in known:
            target = known[name]
            reached = None if quick or ratio.value is None else target.reached(ratio.value)
            entries[name] |= {
                "what": target.what,
                "must": target.must,
                "goal": target.goal,
                "reached": reached,
            }
    shares = [row.cpu_share for row in found.rows if row.cpu_share is not None]
    return {
        "quick": quick,
        "parts": [name for name in PARTS if name in names],
        "core": core,
        "processor": processor(),
        "instructions": None if instructions is None else dict(instructions),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "cpu_share": min(shares) if shares else None,
        "ratios": entries,
        "rows": [asdict(row) for row in found.rows],
        "curves": found.curves,
    }


def one_line(summary: Mapping[str, Any], folder: Path) -> str:
    """The line of `--json`: ratios by name, null where there is none, then their quartiles and notes."""
    entries = summary["ratios"]
    line = {name: entry["value"] for name, entry in entries.items()}
    line |= {
        "quartiles": {name: [entry["low"], entry["high"]] for name, entry in entries.items()},
        "at_least": [name for name, entry in entries.items() if entry["at_least"]],
        "reached": {target.name: entries[target.name]["reached"] for target in TARGETS},
        "notes": {name: entry["note"] for name, entry in entries.items() if entry["note"]},
        **{
            name: summary[name]
            for name in (
                "quick",
                "parts",
                "core",
                "processor",
                "instructions",
                "load",
                "cpu_share",
            )
        },
        "folder": str(folder),
    }
    return json.dumps(line, ensure_ascii=False, allow_nan=False)


def rows_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Row)]
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    return text.getvalue()
