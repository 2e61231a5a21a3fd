"""Search designs over fields of a scenario, and find the best: `python -m experiments.sweep --help`.

A file says what is tried: scenarios, fields of them by dotted paths (system.fc_pim.fpus_per_bank) with values or
ranges, a search (grid, random, or Optuna's NSGA-II), schedulers, and the objectives. Every design plays the same
instances. A design that breaks a limit (area, power, capacity, or one of the file) is a row with the reason.

Written to the run folder: run.json, parts/*.parquet (a row per design, scenario, policy and seed), summary.json,
front.csv, pareto.png. An interrupted run goes on with `--out` and the same file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Annotated

import polars as pl
import tyro
from rich.console import Console

from experiments.arena.entries import known_systems, parse_all, stay_at_home
from experiments.arena.play import Cell, rehearse
from experiments.arena.settings import refusal, resolve_scenarios, serving_scenarios
from experiments.common.command import can_go_on, command_line, say
from experiments.common.options import ALL_CORES, OnWorkers, Out, check_counts
from experiments.common.parts import finish, part_of, scan
from experiments.common.pools import Pool
from experiments.common.runner import RunFolder, canonical, digest
from experiments.common.study import json_text
from experiments.common.workers import started
from experiments.splitting.definition import SERVING, Setting
from experiments.sweeping.definition import Sweep, load_sweep
from experiments.sweeping.designs import PROXIES, check_path, check_values
from experiments.sweeping.fronts import best_designs, scores_of, summarize
from experiments.sweeping.play import Plan, columns, describe, job, known_measures, plan_of
from experiments.sweeping.report import print_report
from experiments.sweeping.search import batches
from papi_env.envs.registration import ENV_IDS
from papi_env.errors import ConfigurationError, lookup, unknown_name
from papi_env.scenario import Scenario

# chosen: what a job and a part hold at most. A killed run loses the jobs that were playing, seconds each; a part of
# some ten MB is all that is in memory.
JOB_DESIGNS, PART_DESIGNS, PART_ROWS = 16, 1024, 1 << 16


@dataclass(frozen=True, kw_only=True)
class Config:
    """Search designs over fields of a scenario.

    python -m experiments.sweep experiments/sweeps/pim_design.toml
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE.toml")]
    """What is tried: see README."""
    workers: OnWorkers = ALL_CORES
    out: Out = None


def resolve(sweep: Sweep, where: str) -> tuple[list[Scenario], Plan]:
    """Look up and check everything that a sweep names.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    lookup("problem", sweep.env, dict.fromkeys(ENV_IDS))
    check_counts(sweep.seed, sweep.seeds)
    for kind, names, known in (
        ("objective", [one.measure for one in sweep.objectives], known_measures(sweep.env)),
        ("limit", list(sweep.limits), tuple(PROXIES)),
    ):
        for name in names:
            if name not in known:
                raise unknown_name(kind, name, known)
    if sweep.prices is None and "cost" in (*(one.measure for one in sweep.objectives), *sweep.limits):
        raise ConfigurationError(f"{where}: cost is asked for, but there are no prices to add up")
    for path in sweep.paths:
        check_path(path, where)
    if sweep.env == SERVING:
        scenarios = serving_scenarios(sweep.scenarios)
    else:
        scenarios = [scenario for scenario, _ in resolve_scenarios(sweep.scenarios)]
        if any(scenario.serving is not None for scenario in scenarios):
            raise ConfigurationError(f"{where}: a scenario serves requests; env = {SERVING!r} alone plays it")
    plan = plan_of(sweep, scenarios)
    for base in plan.bases:
        for axis in sweep.axes:
            check_values(base, axis, where)
    entries = parse_all(sweep.policies, (), known_systems(scenarios))
    stay_at_home(entries, scenarios, "designs are of the scenarios' own systems")
    cells = [
        Cell(entry, Setting(one.name, one), plan.seeds, refusal=refusal(one))
        for one in scenarios
        for entry in entries
    ]
    rehearse(sweep.env, cells)
    return scenarios, plan


def text_paths(sweep: Sweep) -> list[bool]:
    """Which paths hold texts, tables or truths, not numbers alone."""
    found: list[bool] = []
    for axis in sweep.axes:
        listed = axis.listed() if axis.values is not None else [(0.0,)]
        found += [
            any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in of)
            for of in zip(*listed, strict=True)
        ]
    return found


def play_all(
    sweep: Sweep, plan: Plan, known: str, folder: RunFolder, pool: Pool, progress: Console
) -> tuple[int, int]:
    """Play all designs, part by part; returns how many jobs there were, and how many had a result already."""
    schema = columns(plan, text_paths(sweep))
    most = max(1, min(PART_DESIGNS, PART_ROWS // plan.rows))
    search, first, number, jobs, reused = batches(sweep, most), 0, 0, 0, 0
    batch = next(search, None)
    while batch:
        # As many in a job whatever the cores: a run may go on with others.
        size = min(JOB_DESIGNS, ceil(len(batch) / 16))
        best = partial(best_designs, sweep)
        asked = [job(plan, known, first + k, batch[k : k + size], best) for k in range(0, len(batch), size)]
        rows, there = part_of(folder, number, asked, schema, pool, progress)
        jobs, reused = jobs + len(asked), reused + there
        scores = scores_of(rows, sweep, range(first, first + len(batch))) if sweep.search == "nsga2" else []
        first, number = first + len(batch), number + 1
        if not progress.is_terminal:
            say(progress, f"{first} of {sweep.size} designs")
        try:
            batch = search.send(scores)
        except StopIteration:
            break
    finish(folder, number)
    return jobs, reused


def write(folder: RunFolder, sweep: Sweep) -> dict[str, object]:
    """Write summary.json, front.csv and pareto.png from the parts; returns what summary.json holds."""
    # Pictures alone need matplotlib.
    from experiments.sweeping.figure import figure

    summary, designs = summarize(scan(folder.path), sweep)
    fronts = [
        pl.DataFrame(summary["schedulers"][name]["front"], schema=found.schema).select(
            pl.lit(name).alias("scheduler"), pl.all()
        )
        for name, found in designs.items()
    ]
    folder.write("summary.json", json_text(summary))
    folder.write("front.csv", pl.concat(fronts).write_csv())
    folder.write("pareto.png", figure(summary, designs, sweep))
    return summary


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Run a sweep and write its folder, whose path is returned.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    sweep = load_sweep(config.file)
    with started(config.workers) as pool:
        with progress.status("reading scenarios, compiling (the first time takes longer)"):
            scenarios, plan = resolve(sweep, str(config.file))
        described = describe(plan, scenarios)
        # A folder goes on after a change of code, as others do: what it moves is played again.
        asked = {
            "sweep": sweep.model_dump(mode="json"),
            **{k: v for k, v in described.items() if k != "code"},
        }
        folder = RunFolder.open(config.out, "sweep", asked)
        say(progress, f"run folder {folder.path}")
        with folder.session(command, pool.size) as session:
            with can_go_on(progress, f"the same command with --out {folder.path}"):
                known = digest(canonical(described))
                jobs, reused = play_all(sweep, plan, known, folder, pool, progress)
                session["jobs"], session["jobs_reused"] = jobs, reused
            with progress.status("fronts and figures"):
                summary = write(folder, sweep)
    print_report(console, summary, sweep)
    say(
        console,
        f"{session['wall_s']:.0f} s, {session['jobs_reused']} of {session['jobs']} jobs were there already",
    )
    return folder.path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("sweep", Config, run, arguments, watched=True)


if __name__ == "__main__":
    sys.exit(main())
