"""Commands that are killed: small ones, of a few seconds, and what of their results must be the same."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.common.runner import digest, file_digest

DESIGNS = "designs.toml"
# Files that victims read, which are written beside the run folders.
INPUTS: Mapping[str, str] = {
    DESIGNS: """
scenarios = ["creative-writing/llama-65b"]
seeds = 8
search = "nsga2"
designs = 96
population = 24
[[schedulers]]
name = "threshold"
policies = ["threshold"]
[[schedulers]]
name = "best"
policies = ["threshold", "oracle"]
[[objectives]]
measure = "tokens_per_s"
goal = "max"
[[objectives]]
measure = "j_per_token"
goal = "min"
[[axes]]
paths = "system.fc_pim.fpus_per_bank"
values = [1, 2, 4]
[[axes]]
paths = "system.fc_pim.stack.banks_per_die"
low = 48
high = 96
whole = true
"""
}
# Columns that say how long something took.
_TIMES = ("wall_s",)


@dataclass(frozen=True)
class Victim:
    """A command.

    Attributes:
        arguments: without run folder and processes; INPUT/ stands for the folder of `INPUTS`.
        results: patterns of the files that must be the same, in the run folder.
        mark: a file of the run folder that shows that work has begun.
        resume: the option that goes on in a run folder, in place of `arguments`; None where the same command does.
        parallel: whether it takes --jobs and --backend.
        command: the one that it is, where that is not its name.
    """

    arguments: str
    results: tuple[str, ...]
    mark: str = "run.json"
    resume: str | None = None
    parallel: bool = True
    command: str = ""


VICTIMS: Mapping[str, Victim] = {
    "compare": Victim(
        "--scenarios creative-writing/llama-65b --batch-sizes 16 64 --speculation 1 2 4 --seeds 60",
        ("results.csv", "summary.json", "compare.png"),
    ),
    "sweep": Victim(
        f"INPUT/{DESIGNS}",
        ("parts/*.parquet", "summary.json", "front.csv", "pareto.png"),
    ),
    "train": Victim(
        "--timesteps 24576 --validations 12 --episodes 4 --no-tensorboard",
        ("best/*", "last/*", "evaluations.csv"),
        resume="--resume",
        parallel=False,
    ),
    "expert-iteration": Victim(
        "--algorithm expert-iteration --env papi_env/Serving-v1 --scenarios chats/llama-65b bursts/llama-65b "
        "--timesteps 1500000 --validations 6 --episodes 1 --no-tensorboard "
        "--hyper checks=8 looks=16 horizon_s=2.0 updates=50",
        ("best/*", "last/*", "evaluations.csv", "rounds.csv"),
        resume="--resume",
        command="train",
    ),
    "tune": Victim(
        "profile-greedy --families tight-objectives saturated --seeds 2 --final-seeds 2 --horizon-s 8 --trials 72 "
        "--family-trials 24",
        ("profile-greedy/parameters.json", "profile-greedy/trials.csv"),
        mark="profile-greedy/default.journal",
    ),
    "leaderboard": Victim(
        "--env papi_env/Kernels-v0 --split validation --entries static --seeds 4 --no-latency",
        ("results.csv", "summary.json", "leaderboard.png"),
    ),
}


def command(name: str, inputs: Path, out: Path, options: tuple[str, ...]) -> list[str]:
    """The arguments of python that run or go on with a victim in a folder."""
    victim = VICTIMS[name]
    module = ["-m", f"experiments.{victim.command or name}"]
    if victim.resume is not None and (out / victim.mark).exists():
        return [*module, victim.resume, str(out), *options]
    arguments = [argument.replace("INPUT/", f"{inputs}/") for argument in victim.arguments.split()]
    return [*module, *arguments, *options, "--out", str(out)]


def results_of(name: str, out: Path) -> dict[str, str]:
    """A digest of each file that must be the same, by its path in the run folder; without times."""
    found = {}
    for pattern in VICTIMS[name].results:
        for path in sorted(out.glob(pattern)):
            found[path.relative_to(out).as_posix()] = _digest(path)
    return found


def _digest(path: Path) -> str:
    if path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return digest(json.dumps([{k: v for k, v in row.items() if k not in _TIMES} for row in rows]))
    return file_digest(path)


def left_behind(out: Path) -> list[str]:
    """Files of jobs, and files that were being written, in the folder of a finished run: there should be none."""
    found = [path for path in out.rglob(".*") if path.is_file()] + list(out.glob("jobs/*"))
    return [path.relative_to(out).as_posix() for path in found]
