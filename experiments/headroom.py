"""Where policies stand between random and the bound, per serving preset: `python -m experiments.headroom --help`.

Every policy plays every preset on the same seeds. Its position is (return - random's) / (bound - random's): 0 for
uniformly random valid choices, 1 for what no policy can exceed (`agents.serving.bounds`); the bound need not be within
reach. Printed: positions, the best scheduler's paired lead over PAPI's threshold, and presets in which there is
little to win, with what the machine was doing. Written to the run folder: run.json (what ran), results.csv (a row
per preset, policy and seed), summary.json, headroom.png. An interrupted run goes on with `--out` and the same
options.

With `--env papi_env/Serving-v1` the figure of merit is G, the worth served within objectives over the worth offered:
printed are G of every policy, the best rule of each preset and the ratio of G to it, and the mean of that ratio over
presets at capacity and above; see `experiments.arena.service_headroom`. `--ablate` shows what each of the further
choices is worth alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from experiments.arena.entries import (
    BOUND,
    FLOOR,
    REFERENCE,
    Entry,
    check_policy,
    default_policies,
    known_systems,
    parse_all,
    policy_digest,
    stay_at_home,
)
from experiments.arena.frame import Match
from experiments.arena.play import SELECTION_SEEDS, Cell, rehearse
from experiments.arena.service_headroom import ChoicesAlone, ServiceHeadroom
from experiments.arena.settings import as_settings, serving_families, serving_presets, serving_scenarios
from experiments.arena.summaries import headroom as summaries
from experiments.arena.tables.headroom import print_report
from experiments.common.command import command_line
from experiments.common.conduct import conduct
from experiments.common.options import (
    ALL_CORES,
    DEFAULT,
    Entries,
    Flag,
    OnWorkers,
    Out,
    Scenarios,
    Seed,
    Spelling,
    check_counts,
    words,
)
from experiments.common.runner import RunFolder
from experiments.common.study import json_text
from experiments.splitting.definition import SERVING
from papi_env.envs.registration import SERVING_V1
from papi_env.errors import ConfigurationError, lookup

SPELLINGS = (Spelling("--presets", "--scenarios"), Spelling("--policies", "--entries"))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Show where policies stand between random and the bound, per serving preset."""

    scenarios: Scenarios = ()
    """Serving scenarios; a family such as "saturated" stands for all of its presets (default: all)."""
    env: Annotated[str, words(f"{SERVING}|{SERVING_V1}")] = SERVING
    """The problem that plays them."""
    entries: Entries = (DEFAULT,)
    """Policies: registered ones, classes of your own as MODULE:CLASS, folders of learned ones; `default` (the default)
    stands for the policies that the project comes with. On each preset best-fixed is one of the 72 fixed actions, and
    best-threshold PAPI's threshold with one of the four speculation lengths: that with the highest return on four
    other seeds. Random choice and the threshold are always there."""
    seed: Seed = 0
    seeds: Annotated[int, words("INT", "How many seeds (default: 8).")] = 8
    slow_seeds: Annotated[int | None, words("INT")] = None
    """In Serving-v1, seeds that planners play, the first ones (default: as others)."""
    ablate: Annotated[bool, Flag] = False
    """In Serving-v1, play best-greedy, and it with each of the further choices as in Serving-v0."""
    workers: OnWorkers = ALL_CORES
    out: Out = None


class Headroom(Match):
    """Entries, and the bound, on serving presets.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """

    name, problem = "headroom", SERVING

    def __init__(self, config: Config) -> None:
        self.seeds = check_counts(config.seed, config.seeds, SELECTION_SEEDS[0])
        self.scenarios = serving_scenarios(config.scenarios or serving_presets())
        if not config.entries:
            raise ConfigurationError("No entries: name at least one in --entries")
        asked = (FLOOR, REFERENCE, *config.entries)
        entries = parse_all(asked, default_policies(self.name), known_systems(self.scenarios))
        self.entries = [entry for entry in entries if entry.policy != BOUND]
        stay_at_home(
            self.entries, self.scenarios, "random choice and the bound are of the presets' own system"
        )
        for entry in self.entries:
            check_policy(entry.policy, SERVING)
        settings = as_settings(self.scenarios)
        self.cells = [
            Cell(entry, setting, self.seeds, reference=entry.label == BOUND)
            for entry in (*self.entries, Entry.of(BOUND))
            for setting in settings
        ]

    def describe(self) -> dict[str, Any]:
        """See `Study`."""
        return {
            "scenarios": [scenario.model_dump(mode="json") for scenario in self.scenarios],
            "policies": [entry.label for entry in self.entries],
            "seeds": {"first": self.seeds[0], "count": len(self.seeds)},
            "policy_sources": {
                entry.policy: source
                for entry in self.entries
                if (source := policy_digest(entry.policy)) is not None
            },
        }

    def rehearse(self) -> None:
        """See `Study`."""
        rehearse(self.problem, self.cells)

    def write(self, folder: RunFolder) -> dict[str, Any]:
        """Write results.csv, summary.json and headroom.png; returns what summary.json holds."""
        # Pictures alone need matplotlib.
        from experiments.arena.figures.headroom import figure

        frame = summaries.as_written(self.collect(folder))
        privileged = {entry.label for entry in self.entries if entry.privileged}
        presets = [scenario.name for scenario in self.scenarios]
        summary = summaries.summarize(frame, presets, [entry.label for entry in self.entries], privileged)
        folder.write("results.csv", frame.write_csv())
        folder.write("summary.json", json_text(summary))
        folder.write("headroom.png", figure(summary))
        return summary

    def report(self, console: Console, results: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        """Print positions and leads."""
        print_report(console, results)


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Play, write the run folder, whose path is returned, and print; see `conduct`."""
    with progress.status("reading scenarios"):
        study = resolve(config)
    return conduct(study, config.out, config.workers, command, console, progress)


def resolve(config: Config) -> Match:
    """The study that `config` asks for.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    lookup("problem with serving", config.env, dict.fromkeys((SERVING, SERVING_V1)))
    if config.env == SERVING:
        if config.ablate or config.slow_seeds is not None:
            option = "--ablate" if config.ablate else "--slow-seeds"
            raise ConfigurationError(f"{option} belongs to {SERVING_V1}, which --env chooses")
        return Headroom(config)
    seeds = check_counts(config.seed, config.seeds, SELECTION_SEEDS[0])
    scenarios = serving_scenarios(config.scenarios or serving_families(SERVING_V1), env=SERVING_V1)
    if config.ablate:
        return ChoicesAlone(scenarios, seeds)
    return ServiceHeadroom(scenarios, config.entries, seeds, config.slow_seeds)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("headroom", Config, run, arguments, SPELLINGS, watched=True)


if __name__ == "__main__":
    sys.exit(main())
