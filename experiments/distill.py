"""Distil a policy into a decision tree: `python -m experiments.distill --help`.

The tree imitates what the policy prefers where the tree itself goes (DAgger), heeds settings by what the policy gains
there, and has the fewest leaves that keep the asked share of what the policy gained over PAPI's threshold. Printed:
what is kept, on instances that neither growing nor choosing the tree met; bytes; decision times, compiled and as
called; and the rule, in physical units, beside PAPI's. Written to the run folder:

* policy/: tree.json, which `experiments.compare` plays as papi/FOLDER and any runtime can read, and tree.onnx;
* teacher.onnx: the learned policy itself, where its network has no state;
* rule.txt, summary.json, run.json.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.common.command import command_line, say
from experiments.common.options import OneEnv, Out, Scenarios
from experiments.common.runner import RunFolder
from experiments.common.study import json_text
from experiments.distilling import lesson as lessons
from experiments.distilling.distil import distil
from experiments.distilling.files import RULE
from experiments.distilling.lesson import Growth, Lesson
from experiments.distilling.report import print_report


@dataclass(frozen=True, kw_only=True)
class Config:
    """Distil a policy into a decision tree that is small enough to read and to compile.

    python -m experiments.distill --policy runs/train-20250101-120000/best
    """

    policy: Annotated[str, tyro.conf.arg(metavar="FOLDER|NAME")]
    """A learned policy's folder, or a registered policy."""
    env: OneEnv = None
    """The problem of a registered policy (a learned one says its own)."""
    scenarios: Scenarios = ()
    """What to play (default: what the policy was trained on, else the problem's own)."""
    leaves: int = Growth.leaves
    """Leaves at most."""
    keep: float = Growth.keep
    """Share of the gain over --baseline that a smaller tree must keep, with the low end of its 95 % interval."""
    baseline: Annotated[str, tyro.conf.arg(metavar="NAME")] = "threshold"
    """What the gain is over."""
    rounds: int = Growth.rounds
    """Trees grown, one after the other, each with the samples of all before; the best is kept."""
    # A pupil that may tends to repeat itself instead of finding the reason (de Haan, Jayaraman and Levine, NeurIPS
    # 2019).
    own_actions: bool = Growth.own_actions
    """Let the tree read what it did itself in the last step: a reason where changing units costs, else a habit."""
    seeds: int = Growth.seeds
    """Episodes of each scenario: to grow with in each round, to choose with, and to report."""
    samples: int = Growth.samples
    """Samples kept of each round."""
    seed: int = Growth.seed
    """Of everything drawn."""
    out: Out = None


def resolve(config: Config) -> Lesson:
    """Look up and check everything that `config` names.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    growth = Growth(**{field.name: getattr(config, field.name) for field in fields(Growth)})
    return lessons.resolve(config.policy, config.env, config.scenarios, config.baseline, growth)


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Distil, write the run folder, whose path is returned, and print.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    lesson = resolve(config)
    folder = RunFolder.open(config.out, "distill", lesson.describe())
    say(progress, f"run folder {folder.path}")
    with folder.session(command, 1):
        summary, rule = distil(lesson, folder, command, progress)
        folder.write("summary.json", json_text(summary))
        folder.write(RULE, rule + "\n")
    print_report(console, summary, rule)
    return folder.path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("distill", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
