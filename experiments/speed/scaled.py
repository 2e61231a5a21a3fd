"""How much sooner a whole command is done with more processes: `experiments.compare` in new processes, timed.

`experiments.speed.jobs` measures jobs alone, in processes that are there already.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments.common.runner import ROOT, file_digest, read_record
from experiments.speed.processes import environment
from papi_env.errors import DataError

# Whose jobs are played. chosen: with SEEDS some twenty seconds of a core, as experiments/RESULTS.md has it (range
# 10-300): processes start in a few.
COMPARE = (
    "--scenarios creative-writing/llama-65b general-qa/llama-65b --batch-sizes 16 64 --speculation 1 2 4"
)
SEEDS = 384
# What must be the same whoever played the jobs.
RESULTS = ("results.csv", "summary.json")


@dataclass(frozen=True)
class Timed:
    """A run of the command.

    Attributes:
        jobs_s: from when the first job is handed out to the last result; processes of its own start within.
        command_s: of the command, from its start to its end.
        results: digests of what it found.
    """

    jobs_s: float
    command_s: float
    results: tuple[str, ...]


@dataclass(frozen=True)
class Scaled:
    """Medians over runs with so many processes; `*_over_one` is how much sooner it is done than with one.

    Attributes:
        backend: where the processes are.
        processes: how many.
        jobs_s, command_s: see `Timed`.
        jobs_over_one, command_over_one: one process's median over this one.
    """

    backend: str
    processes: int
    jobs_s: float
    jobs_over_one: float
    command_s: float
    command_over_one: float


def timed(backend: str, processes: int, seeds: int) -> Timed:
    """Run the command once.

    Raises:
        DataError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options = [*COMPARE.split(), "--seeds", str(seeds), "--backend", backend, "--jobs", str(processes)]
        command = [sys.executable, "-m", "experiments.compare", *options, "--out", str(out)]
        start = time.perf_counter()
        done = subprocess.run(command, env=environment({}), cwd=ROOT, capture_output=True, text=True)
        command_s = time.perf_counter() - start
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise DataError(
                f"{backend}, {processes} processes: ended with {done.returncode}, and said: {last}"
            )
        session = read_record(out / "run.json")["sessions"][-1]
        return Timed(session["jobs_s"], command_s, tuple(file_digest(out / name) for name in RESULTS))


def scaled(runs: Sequence[tuple[str, int, Timed]]) -> list[Scaled]:
    """Medians by backend and number of processes, one process of the same backend first.

    Raises:
        DataError: a run found something else than the others.
    """
    if len({one.results for _, _, one in runs}) > 1:
        raise DataError(f"{' and '.join(RESULTS)} are not the same in all {len(runs)} runs")
    groups: dict[tuple[str, int], list[Timed]] = {}
    for backend, processes, one in runs:
        groups.setdefault((backend, processes), []).append(one)
    jobs = {key: median(one.jobs_s for one in found) for key, found in groups.items()}
    whole = {key: median(one.command_s for one in found) for key, found in groups.items()}
    return [
        Scaled(
            *key,
            jobs_s=jobs[key],
            jobs_over_one=jobs[key[0], 1] / jobs[key],
            command_s=whole[key],
            command_over_one=whole[key[0], 1] / whole[key],
        )
        for key in groups
    ]


def plain(found: Sequence[Scaled], seeds: int, repeats: int, processor: str) -> dict[str, Any]:
    """What summary.json holds."""
    return {
        "command": f"experiments.compare {COMPARE} --seeds {seeds}",
        "processor": processor,
        "repeats": repeats,
        "rows": [asdict(one) for one in found],
    }
