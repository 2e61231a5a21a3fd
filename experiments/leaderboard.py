"""Rank policies on the test split of a problem: `python -m experiments.leaderboard --help`.

Every entry plays every setting of the split on the same seeds: rules, learned policies (one folder for each training
run), floors and references. Scores are positions between uniformly random choice (0) and a ceiling (1): the bound in
Serving-v0, the clairvoyant optimum in Decode-v0, the one-step oracle in Kernels-v0. Printed: interquartile means
with bootstrap intervals over training runs and instances, paired differences to the baseline, the probability of
improvement over it, failures, training cost, tuning budget and decision latency; then positions by what is new in a
setting. A policy that was trained on what the split holds out is refused.

What a claim rests on comes last: relative differences of mean returns between challengers (`--claims`, by default the
learned entries) and others (`--against`), by group of settings; see `experiments.arena.summaries.claims`.
`--slow-seeds` lets look-aheads, which take milliseconds to decide, play the first few instances alone, and `--families`
ranks on a part of the split.

Written to the run folder: run.json, results.csv (a row for each entry, training run, setting and seed), summary.json,
leaderboard.png, and claims.png where something is claimed. An interrupted run goes on with `--out` and the same
options.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from rich.console import Console

from agents.registry import is_slow
from experiments.arena.contestants import as_rule, enter, resolve_claims, shortages
from experiments.arena.entries import (
    BOUND,
    CEILINGS,
    FLOOR,
    Entry,
    check_labels,
    default_policies,
    known_systems,
    parse,
    policy_digest,
    stay_at_home,
)
from experiments.arena.frame import Match
from experiments.arena.latency import time_decisions
from experiments.arena.play import Cell, attempt
from experiments.arena.summaries import claims, ranking
from experiments.arena.tables import claims as claims_table
from experiments.arena.tables import ranking as ranking_table
from experiments.common.command import command_line
from experiments.common.conduct import conduct
from experiments.common.options import (
    ALL_CORES,
    DEFAULT,
    Entries,
    Env,
    OnWorkers,
    Out,
    Spelling,
    Traces,
    words,
)
from experiments.common.runner import Job, RunFolder
from experiments.common.study import json_text
from experiments.splitting.splits import load_split
from papi_env.envs.registration import SERVING, SERVING_V1
from papi_env.errors import ConfigurationError

SPELLINGS = (
    Spelling("--policies", "--entries"),
    Spelling("--learned", "--entries", adds=True),
    Spelling("--traces", "--trace"),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rank policies on the test split of a problem.

    python -m experiments.leaderboard --entries default runs/ppo-0 wide=runs/wide-0
    """

    env: Env = SERVING
    """The problem."""
    split: Literal["test", "validation"] = "test"
    """Which settings; to compare before everything is decided, validation."""
    families: Annotated[tuple[str, ...], words("NAME ...")] = ()
    """Families of settings, the part of a name before the slash, such as overload (default: all)."""
    trace: Traces = ()
    entries: Entries = (DEFAULT,)
    """Registered policies, classes of your own as MODULE:CLASS, and folders of training runs, of policies or of
    experiments.distill; of these, those with one label, else one algorithm, are runs of one entry. `default` (the
    default) stands for the rules and references of the problem; random choice is always there."""
    baseline: Annotated[str, words("NAME")] = "threshold"
    """What differences and the probability of improvement are against (default: threshold)."""
    claims: Annotated[tuple[str, ...], words("ENTRY ...")] = ()
    """Challengers, whose mean returns relative to others' are reported (default: every learned entry)."""
    against: Annotated[tuple[str, ...], words("NAME ...")] = ()
    """Entries or policies that challengers are compared with (default: the strongest rules and the references of the
    problem, of those in the table)."""
    seeds: Annotated[int, words("INT", "Instances of every setting (default: 16).")] = 16
    slow_seeds: Annotated[int | None, words("INT")] = None
    """Instances of every setting, the first ones, that search, clairvoyant, portfolio and planners play, and of which
    the bound of Serving-v1 is known (default: as others). Positions are on those of which the ceiling is known."""
    latency: bool = True
    """Time decisions, when everything else is done."""
    workers: OnWorkers = ALL_CORES
    out: Out = None


class Contest(Match):
    """Entries on the settings of a split, with everything looked up.

    Attributes:
        entries: in the order of the table.
        references: what is played besides: the ceiling, and baseline, challengers and comparators that are no entries.
        seeds: of the instances of every setting.
        claims: who is compared with whom.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked, or a policy has met what is held out.
    """

    name = "leaderboard"
    # A contestant that cannot play has failed, and the others go on.
    function = staticmethod(attempt)

    def __init__(self, config: Config) -> None:
        self.config, self.problem = config, config.env
        self.split = split = load_split(config.env, config.split, config.trace).of_families(config.families)
        if not 1 <= config.seeds <= len(split.seeds):
            raise ConfigurationError(f"--seeds is {config.seeds}, expected 1 to {len(split.seeds)}")
        if config.slow_seeds is not None and not 1 <= config.slow_seeds <= config.seeds:
            raise ConfigurationError(
                f"--slow-seeds is {config.slow_seeds}, expected 1 to {config.seeds} (--seeds)"
            )
        self.seeds = tuple(split.seeds[: config.seeds])
        self.entries = self._entries()
        labels = [entry.label for entry in self.entries]
        references = [name for name in (CEILINGS[self.problem], config.baseline) if name not in labels]
        self.claims = resolve_claims(config.claims, config.against, self.entries, references, split)
        references += [
            name for name in (*self.claims.challengers, *self.claims.against) if name not in labels
        ]
        self.references = tuple(dict.fromkeys(references))
        self.cells = [
            Cell(entry, setting, self.seeds_of(policy), run, entry.label in self.references)
            for entry in (*self.entries, *map(Entry.of, self.references))
            for run, policy in enumerate(entry.policies)
            for setting in split.settings
        ]

    def _entries(self) -> tuple[Entry, ...]:
        """The entries asked for, the floor first."""
        default = default_policies(
            f"leaderboard {self.problem.partition('/')[2].removesuffix('-v0').lower()}"
        )
        names = [
            name for asked in self.config.entries for name in (default if asked == DEFAULT else (asked,))
        ]
        scenarios = [setting.scenario for setting in self.split.settings]
        known = known_systems(scenarios)
        parsed = [parse(name, known) for name in dict.fromkeys((FLOOR, *names)) if name != BOUND]
        stay_at_home(parsed, scenarios, "a split says what its settings play on")
        entries = enter(parsed, self.split)
        check_labels(entries)
        if self.config.baseline not in {entry.label for entry in entries}:
            as_rule(Entry.of(self.config.baseline), self.split)
        return entries

    def seeds_of(self, policy: str | None) -> tuple[int, ...]:
        """Seeds of the instances that a policy plays."""
        # The bound of Serving-v1 searches prices for a second or two.
        searches = policy == BOUND and self.problem == SERVING_V1
        slow = searches or (policy is not None and is_slow(policy))
        return self.seeds[: self.config.slow_seeds] if slow else self.seeds

    def describe(self) -> dict[str, Any]:
        """See `Study`."""
        names = [name for entry in self.entries for name in entry.policies if name is not None]
        names = list(dict.fromkeys((*names, *self.references)))
        fewer = {name: len(self.seeds_of(name)) for name in names}
        fewer = {name: count for name, count in fewer.items() if count < len(self.seeds)}
        seeds = {"first": self.seeds[0], "count": len(self.seeds)}
        return {
            "split": self.split.describe(),
            "settings": [setting.name for setting in self.split.settings],
            "entries": {entry.label: list(entry.policies) for entry in self.entries},
            "references": list(self.references),
            "baseline": self.config.baseline,
            "seeds": {**seeds, "fewer": fewer} if fewer else seeds,
            "traces": dict(self.split.traces),
            "policy_sources": {n: policy_digest(n) for n in names if ":" in n or "/" in n},
        }

    def rehearse(self) -> None:
        """Nothing: who cannot play has failed, and is shown so."""

    def remarks(self) -> list[str]:
        """Settings that are left out."""
        return [
            f"left out: {name} needs the trace {trace} in --trace"
            for name, trace in self.split.skipped.items()
        ]

    @cached_property
    def timings(self) -> dict[str, Job]:
        """The jobs that time decisions, by policy: on the first setting, of the first run of each entry."""
        if not self.config.latency:
            return {}
        scenario = self.split.settings[0].scenario
        first = (next((name for name in entry.policies if name is not None), None) for entry in self.entries)
        jobs = {}
        for policy in [name for name in first if name is not None]:
            spec = {
                "latency": self.problem,
                "scenario": scenario.model_dump(mode="json"),
                "policy": policy,
                "policy_source": policy_digest(policy),
            }
            arguments = (self.problem, scenario, policy)
            jobs[policy] = Job(f"timing {policy}", spec, time_decisions, arguments)
        return jobs

    def jobs_alone(self) -> list[Job]:
        """See `timings`."""
        return list(self.timings.values())

    def write(self, folder: RunFolder) -> dict[str, Any]:
        """Write results.csv, summary.json and the pictures; returns what summary.json holds."""
        # Pictures alone need matplotlib.
        from experiments.arena.figures import claims as claims_figure
        from experiments.arena.figures import ranking as ranking_figure

        frame = self.collect(folder)
        settings, count = self.split.settings, len(self.seeds)
        latencies = {
            policy: pl.read_csv(folder.result(job)).cast(pl.Float64).row(0, named=True)
            for policy, job in self.timings.items()
        }
        ceiling, baseline = CEILINGS[self.problem], self.config.baseline
        summary = {
            **ranking.summarize(frame, self.entries, settings, count, ceiling, baseline, latencies),
            "split": self.split.describe(),
            "left_out": dict(self.split.skipped),
            "shortages": shortages(self.entries),
            "claims": claims.summarize(frame, self.claims, self.entries, settings, count, self.problem),
        }
        folder.write("results.csv", frame.select(ranking.COLUMNS).write_csv())
        folder.write("summary.json", json_text(summary))
        folder.write("leaderboard.png", ranking_figure.figure(summary))
        if self.claims.challengers:
            folder.write("claims.png", claims_figure.figure(summary["claims"]))
        else:  # nor one of other claims, from before
            (folder.path / "claims.png").unlink(missing_ok=True)
        return summary

    def report(self, console: Console, results: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        """Print the ranking, then claims."""
        ranking_table.print_report(console, results)
        claims_table.print_report(console, results["claims"])


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Play, write the run folder, whose path is returned, and print; see `conduct`."""
    with progress.status("reading splits and policies"):
        contest = Contest(config)
    return conduct(contest, config.out, config.workers, command, console, progress)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("leaderboard", Config, run, arguments, SPELLINGS, watched=True)


if __name__ == "__main__":
    sys.exit(main())
