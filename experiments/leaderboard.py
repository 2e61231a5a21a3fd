"""Rank policies on the test split of a problem: `python -m experiments.leaderboard --help`.

Every entry plays every setting of the split on the same seeds: rules, learned policies (one folder for each training
run), floors and references. Scores are positions between uniformly random choice (0) and a ceiling (1): the bound in
Serving-v0, the clairvoyant optimum in Decode-v0, the one-step oracle in Kernels-v0. Printed: interquartile means
with bootstrap intervals over training runs and instances, paired differences to the baseline, the probability of
improvement over it, failures, training cost, tuning budget and decision latency; then positions by what is new in a
setting. A policy that was trained on what the split holds out is refused.

What a claim rests on comes last: relative differences of mean returns between challengers (`--claims`, by default the
learned entries) and others (`--against`), by group of settings; see `experiments.arena.leaderboard_claims`.
`--slow-seeds` lets look-aheads, which take milliseconds to decide, play the first few instances alone.

Written to the run folder: run.json, results.csv (a row for each entry, training run, setting and seed), summary.json,
leaderboard.png, and claims.png where something is claimed. An interrupted run goes on with `--out` and the same
options.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import joblib
import numpy as np
import tyro
from gymnasium.vector import AutoresetMode
from rich.console import Console

from agents.evaluate import evaluate
from agents.registry import make_policy
from agents.serving.bounds import serving_bounds
from experiments.arena.entries import policy_digest, trace_digest
from experiments.arena.latency import decision_latency
from experiments.arena.leaderboard_claims import (
    Claims,
    claims_figure,
    print_claims,
    resolve_claims,
    summarize_claims,
)
from experiments.arena.leaderboard_entries import (
    BOUND,
    CEILINGS,
    DEFAULT_POLICIES,
    FLOOR,
    Contender,
    is_slow,
    learned,
    rules,
    shortages,
)
from experiments.arena.leaderboard_report import collect, leaderboard_figure, print_report, summarize
from experiments.common.command import exit_status, output
from experiments.common.problems import vector_class
from experiments.common.runner import Columns, Job, RunFolder, run_jobs
from experiments.headroom import CHOSEN
from experiments.splitting.definition import Setting
from experiments.splitting.splits import Split, load_split
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rank policies on the test split of a problem.

    python -m experiments.leaderboard --env papi_env/Serving-v0 --learned runs/ppo-0 runs/ppo-1 runs/ppo-2
    """

    env: Annotated[str, tyro.conf.arg(metavar="ID")] = "papi_env/Serving-v0"
    """The problem."""
    split: Literal["test", "validation"] = "test"
    """Which settings; to compare before everything is decided, validation."""
    traces: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...", help_behavior_hint="")] = ()
    """Files of published traces; settings that need others are left out, and named."""
    policies: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Rules and references (default: those of the problem; random choice is always there)."""
    learned: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="FOLDER|LABEL=FOLDER ...", help_behavior_hint="")
    ] = ()
    """Training runs, policies, or runs of experiments.distill; those with one label, else one algorithm, are runs of
    one entry."""
    baseline: Annotated[str, tyro.conf.arg(metavar="NAME")] = "threshold"
    """What differences and the probability of improvement are against."""
    claims: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ENTRY ...", help_behavior_hint="")] = ()
    """Challengers, whose mean returns relative to others' are reported (default: every learned entry)."""
    against: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Entries or policies that challengers are compared with (default: the strongest rules and the references of the
    problem, of those in the table)."""
    seeds: int = 16
    """Instances of every setting."""
    slow_seeds: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Instances of every setting, the first ones, that search, clairvoyant and portfolio play (default: as others)."""
    latency: bool = True
    """Time decisions, when everything else is done."""
    jobs: Annotated[int, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = 0
    """Processes; 0 uses all cores."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Run folder (default: runs/leaderboard-TIME)."""


@dataclass(frozen=True)
class Contest:
    """A configuration with everything looked up.

    Attributes:
        contenders: entries in the order of the table.
        references: what is played besides: the ceiling, and baseline, challengers and comparators that are no entries.
        seeds: of the instances of every setting.
        claims: who is compared with whom.
    """

    config: Config
    split: Split
    contenders: tuple[Contender, ...]
    references: tuple[str, ...]
    seeds: tuple[int, ...]
    claims: Claims

    def plays(self) -> dict[str, str]:
        """Every policy to play, once, by its name."""
        names = [policy for entry in self.contenders for policy in entry.policies if policy is not None]
        return {name: name for name in (*names, *self.references)}

    def seeds_of(self, policy: str) -> tuple[int, ...]:
        """Seeds of the instances that a policy plays."""
        return self.seeds[: self.config.slow_seeds] if is_slow(policy) else self.seeds

    def describe(self) -> dict[str, Any]:
        """Everything as plain data; a run folder goes on only if all of it is the same."""
        names = self.plays()
        fewer = {name: len(self.seeds_of(name)) for name in names}
        fewer = {name: count for name, count in fewer.items() if count < len(self.seeds)}
        return {
            "split": self.split.describe(),
            "settings": [setting.name for setting in self.split.settings],
            "entries": {entry.label: list(entry.policies) for entry in self.contenders},
            "references": list(self.references),
            "baseline": self.config.baseline,
            "seeds": {
                "first": self.seeds[0],
                "count": len(self.seeds),
                **({"fewer": fewer} if fewer else {}),
            },
            "traces": dict(self.split.traces),
            "policy_sources": {n: policy_digest(n) for n in names if ":" in n or "/" in n},
        }


def resolve(config: Config) -> Contest:
    """Look up and check everything that `config` names.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked, or a policy has met what is held out.
    """
    split = load_split(config.env, config.split, config.traces)
    if not 1 <= config.seeds <= len(split.seeds):
        raise ConfigurationError(f"--seeds is {config.seeds}, expected 1 to {len(split.seeds)}")
    if config.slow_seeds is not None and not 1 <= config.slow_seeds <= config.seeds:
        raise ConfigurationError(
            f"--slow-seeds is {config.slow_seeds}, expected 1 to {config.seeds} (--seeds)"
        )
    if config.jobs < 0:
        raise ConfigurationError(
            f"--jobs is {config.jobs}, expected a number of processes, or 0 for all cores"
        )
    names = dict.fromkeys((FLOOR, *(config.policies or DEFAULT_POLICIES[config.env])))
    contenders = (*rules([name for name in names if name != BOUND], split), *learned(config.learned, split))
    labels = [entry.label for entry in contenders]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice:
        raise ConfigurationError(
            f"Two entries are called {twice[0]!r}; give a learned one another LABEL=FOLDER"
        )
    rules([config.baseline], split)
    references = [name for name in (CEILINGS[config.env], config.baseline) if name not in labels]
    claims = resolve_claims(config.claims, config.against, contenders, references, split)
    references += [name for name in (*claims.challengers, *claims.against) if name not in labels]
    seeds = tuple(split.seeds[: config.seeds])
    return Contest(config, split, contenders, tuple(dict.fromkeys(references)), seeds, claims)


def play(env_id: str, scenario: Scenario, policy: str, seeds: tuple[int, ...]) -> Columns:
    """Columns of a policy's episodes on a scenario, or of the bound's, by the names in `SCHEMA`.

    Whatever keeps a policy from playing is its failure and stands in `note`: it gets no returns.
    """
    empty: dict[str, list[Any]] = {
        "seed": list(seeds),
        "played": [policy] * len(seeds),
        "return": [None] * len(seeds),
        "note": [None] * len(seeds),
    }
    if policy == BOUND:
        engine = ServingEngine(scenario, len(seeds))
        engine.counters[:, at.SEED] = seeds
        engine.reset()
        return {**empty, "return": serving_bounds(engine)["episode_return"].tolist()}
    try:
        played = CHOSEN[policy](scenario) if policy in CHOSEN else policy
        env = vector_class(env_id)(scenario, num_envs=len(seeds), autoreset_mode=AutoresetMode.DISABLED)
        returns = evaluate(make_policy(played), env, seeds)["return"]
    except Exception as error:  # a contestant's own code may raise anything
        return {**empty, "note": [f"{type(error).__name__}: {error}"] * len(seeds)}
    if not np.isfinite(returns).all():
        return {**empty, "note": ["returns that are not finite"] * len(seeds)}
    return {**empty, "played": [played] * len(seeds), "return": returns.tolist()}


def time_decisions(env_id: str, scenario: Scenario, policy: str) -> Columns:
    """Seconds of a decision, `single_s` and `batched_s` (one row); None where it could not be timed."""
    try:
        played = CHOSEN[policy](scenario) if policy in CHOSEN else policy
        latency = decision_latency(make_policy(played), env_id, scenario)
    except Exception:  # its failure shows where it plays
        return {"single_s": [None], "batched_s": [None]}
    return {"single_s": [latency.single_s], "batched_s": [latency.batched_s]}


def plan(contest: Contest) -> dict[tuple[str, str], Job]:
    """The jobs, by policy and setting."""

    def job(policy: str, setting: Setting) -> Job:
        spec = {
            "problem": contest.split.env_id,
            "scenario": setting.scenario.model_dump(mode="json"),
            "trace": trace_digest(setting.scenario),
            "policy": policy,
            "policy_source": policy_digest(policy),
            "seeds": list(contest.seeds_of(policy)),
        }
        arguments = (contest.split.env_id, setting.scenario, policy, contest.seeds_of(policy))
        return Job(f"{policy} · {setting.name}", spec, play, arguments)

    return {
        (policy, setting.name): job(policy, setting)
        for policy in contest.plays()
        for setting in contest.split.settings
    }


def plan_latency(contest: Contest) -> dict[str, Job]:
    """The jobs that time decisions, by policy: on the first setting, of the first run of each entry."""
    if not contest.config.latency:
        return {}
    scenario = contest.split.settings[0].scenario
    jobs = {}
    for entry in contest.contenders:
        for policy in [name for name in entry.policies if name is not None][:1]:
            spec = {
                "latency": contest.split.env_id,
                "scenario": scenario.model_dump(mode="json"),
                "policy": policy,
                "policy_source": policy_digest(policy),
            }
            jobs[policy] = Job(
                f"timing {policy}", spec, time_decisions, (contest.split.env_id, scenario, policy)
            )
    return jobs


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Play, write the run folder, whose path is returned, and print.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    with progress.status("reading splits and policies"):
        contest = resolve(config)
    cores = config.jobs or joblib.cpu_count()
    folder = RunFolder.open(config.out, "leaderboard", contest.describe())
    progress.print(f"run folder {folder.path}", markup=False, highlight=False, soft_wrap=True)
    for name, trace in contest.split.skipped.items():
        line = f"left out: {name} needs the trace {trace} in --traces"
        progress.print(line, markup=False, highlight=False, soft_wrap=True)
    with folder.session(command, cores) as session:
        jobs, timing = plan(contest), plan_latency(contest)
        try:
            reused = run_jobs(folder, list(jobs.values()), cores, progress)
            # Alone on the machine, as far as that is in our hands.
            reused += run_jobs(folder, list(timing.values()), 1, progress)
        except KeyboardInterrupt:
            message = f"interrupted; the same command with --out {folder.path} goes on"
            progress.print(message, markup=False, highlight=False, soft_wrap=True)
            raise
        session["jobs"], session["jobs_reused"] = len(jobs) + len(timing), reused
        with progress.status("intervals and figure"):
            frame = collect(folder, contest.contenders, contest.references, contest.split.settings, jobs)
            latencies = {policy: _latency(folder, job) for policy, job in timing.items()}
            summary = summarize(
                frame,
                contest.contenders,
                contest.split.settings,
                len(contest.seeds),
                CEILINGS[config.env],
                config.baseline,
                latencies,
            )
            summary["split"] = contest.split.describe()
            summary["left_out"] = dict(contest.split.skipped)
            summary["shortages"] = shortages(contest.contenders)
            summary["claims"] = summarize_claims(
                frame,
                contest.claims,
                contest.contenders,
                contest.split.settings,
                len(contest.seeds),
                config.env,
            )
            folder.write("results.csv", frame.write_csv())
            folder.write(
                "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            )
            folder.write("leaderboard.png", leaderboard_figure(summary))
            if contest.claims.challengers:
                folder.write("claims.png", claims_figure(summary["claims"]))
            else:  # nor one of other claims, from before
                (folder.path / "claims.png").unlink(missing_ok=True)
    print_report(console, summary)
    print_claims(console, summary["claims"])
    return folder.path


def _latency(folder: RunFolder, job: Job) -> Mapping[str, float | None]:
    text = folder.job_path(job).read_text(encoding="utf-8").splitlines()
    names, values = (line.split(",") for line in text)
    return {name: float(value) if value else None for name, value in zip(names, values, strict=True)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.leaderboard")
    command = f"python -m experiments.leaderboard {shlex.join(arguments)}".strip()
    return exit_status(lambda: run(config, command, output(), Console(stderr=True)))


if __name__ == "__main__":
    sys.exit(main())
