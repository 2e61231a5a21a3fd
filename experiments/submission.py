"""Check a policy before it enters the leaderboard: `python -m experiments.submission --help`.

Looks at what the rules of the leaderboard ask (experiments/README.md): its files load without executing anything, and
say how it was trained, on the pinned training and validation splits; it met nothing that is held out; it repeats
itself; it plays the settings of the test split. A line for each; the exit status is 0 where nothing speaks against it,
else 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console

from experiments.arena.submissions import Finding, check
from experiments.common.command import command_line, say
from experiments.common.options import Env, Traces, words
from experiments.splitting.splits import load_split
from papi_env.envs.registration import SERVING
from papi_env.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Config:
    """Check policies before they enter the leaderboard.

    python -m experiments.submission runs/ppo-0 runs/ppo-1 --env papi_env/Serving-v0
    """

    folders: Annotated[tyro.conf.Positional[tuple[str, ...]], words("FOLDER ...")]
    """Of training runs, of policies or of experiments.distill."""
    env: Env = SERVING
    """The problem."""
    trace: Traces = ()
    settings: Annotated[
        int | None, words("INT", "Settings that are played, the first ones (default: all).")
    ] = None
    seeds: Annotated[int, words("INT", "Instances of every setting (default: 1).")] = 1


def run(config: Config, command: str, console: Console, progress: Console) -> bool:
    """Check, and print what was found; returns whether nothing speaks against any of them.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    if config.settings is not None and config.settings < 1:
        raise ConfigurationError(f"--settings is {config.settings}, expected at least 1")
    with progress.status("reading the split"):
        split = load_split(config.env, "test", config.trace)
    if not 1 <= config.seeds <= len(split.seeds):
        raise ConfigurationError(f"--seeds is {config.seeds}, expected 1 to {len(split.seeds)}")
    fine = True

    def tell(finding: Finding) -> None:
        say(
            console, f"  {'yes' if finding.passed else 'NO '} {finding.what}: {finding.wrong or finding.said}"
        )

    for folder in config.folders:
        say(console, folder)
        passed = check(folder, split, config.settings, config.seeds, tell)
        say(console, "  may stand in the leaderboard" if passed else "  may not stand in the leaderboard")
        fine &= passed
    return fine


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 where something speaks against a policy, 2 for what cannot be
    used as asked, 130 if interrupted.
    """
    fine: list[bool] = []
    status = command_line("submission", Config, lambda *asked: fine.append(run(*asked)), arguments)
    return status or (0 if all(fine) else 1)


if __name__ == "__main__":
    sys.exit(main())
