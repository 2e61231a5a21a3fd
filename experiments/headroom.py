"""Where policies stand between random and the bound, per serving preset: `python -m experiments.headroom --help`.

Every policy plays every preset on the same seeds. Its position is (return - random's) / (bound - random's): 0 for
uniformly random valid choices, 1 for what no policy can exceed (`agents.serving.bounds`); the bound need not be within
reach. Printed: positions, the best scheduler's paired lead over PAPI's threshold, and presets in which there is
little to win, with what the machine was doing. Written to the run folder: run.json (what ran), results.csv (a row
per preset, policy and seed), summary.json, headroom.png. An interrupted run goes on with `--out` and the same
options.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import joblib
import numpy as np
import tyro
from gymnasium.vector import AutoresetMode
from rich.console import Console

from agents.registry import make_policy
from agents.serving.bounds import serving_bounds
from agents.serving.rules import fixed_name
from experiments.arena.entries import policy_digest
from experiments.arena.headroom_report import (
    BEST_FIXED,
    BEST_THRESHOLD,
    BOUND,
    FLOOR,
    REFERENCE,
    SCHEMA,
    collect,
    headroom_figure,
    print_report,
    summarize,
)
from experiments.common.command import exit_status, output
from experiments.common.runner import Columns, Job, RunFolder, run_jobs
from experiments.serve import serve, warm
from papi_env.envs.serving import JOINT_ACTIONS, ServingVectorEnv, build_serving_scenario
from papi_env.errors import ConfigurationError
from papi_env.scenario import SCENARIOS, Scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.workload.serving import SPECULATION_LENGTHS

# What is best of its kind is chosen on seeds of its own. chosen: four; they rank 72 actions of which the best
# differ by per cents.
SELECTION_SEEDS = tuple(range(2**61, 2**61 + 4))
DEFAULT_POLICIES = (
    "threshold",
    BEST_THRESHOLD,
    "threshold-prefill-spec2",
    BEST_FIXED,
    "heuristic",
    "profile-greedy",
    "oracle",
)


def _as_is(metavar: str) -> Any:
    """How an option's value is called in --help; what its absence means is said in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Show where policies stand between random and the bound, per serving preset."""

    presets: Annotated[tuple[str, ...], _as_is("NAME|FILE.toml ...")] = ()
    """Serving scenarios; a family such as "saturated" stands for all of its presets (default: all)."""
    policies: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = DEFAULT_POLICIES
    """Policies. On each preset best-fixed is one of the 72 fixed actions, and best-threshold PAPI's threshold with
    one of the four speculation lengths: that with the highest return on four other seeds."""
    seed: int = 0
    """First seed."""
    seeds: int = 8
    """How many seeds."""
    jobs: Annotated[int, _as_is("INT")] = 0
    """Processes; 0 uses all cores."""
    out: Annotated[Path | None, _as_is("DIR")] = None
    """Run folder (default: runs/headroom-TIME)."""


def resolve(config: Config) -> tuple[list[Scenario], tuple[str, ...]]:
    """The scenarios and the policies that `config` names; random and the threshold are always among these.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    if config.seeds < 1 or config.seed < 0 or config.seed + config.seeds > SELECTION_SEEDS[0]:
        raise ConfigurationError(
            f"--seed is {config.seed} and --seeds {config.seeds}, expected a first seed from 0 and at least one"
        )
    if config.jobs < 0:
        raise ConfigurationError(
            f"--jobs is {config.jobs}, expected a number of processes, or 0 for all cores"
        )
    serving = [name for name, scenario in SCENARIOS.items() if scenario.serving is not None]
    names: list[str] = []
    for asked in config.presets or serving:
        family = [name for name in serving if name.startswith(f"{asked}/")]
        names += family or [asked]
    scenarios = [build_serving_scenario(name) for name in dict.fromkeys(names)]
    policies = tuple(dict.fromkeys((FLOOR, REFERENCE, *config.policies)))
    for policy in policies:
        if policy not in CHOSEN:
            make_policy(policy)
    return scenarios, policies


def play(scenario: Scenario, policy: str, seeds: tuple[int, ...]) -> Columns:
    """Columns of a policy's episodes on a scenario, or of the bound's, by the names in `SCHEMA`."""
    names = [name for name in SCHEMA if name not in ("seed", "played")]
    if policy == BOUND:
        engine = ServingEngine(scenario, len(seeds))
        engine.counters[:, at.SEED] = seeds
        engine.reset()
        found = serving_bounds(engine)
        values = {"return": found["episode_return"], **found}
        return {
            "seed": list(seeds),
            "played": [policy] * len(seeds),
            **{name: values.get(name, np.full(len(seeds), np.nan)).tolist() for name in names},
        }
    played = CHOSEN[policy](scenario) if policy in CHOSEN else policy
    metrics, _ = serve(scenario, played, seeds)
    return {
        "seed": list(seeds),
        "played": [played] * len(seeds),
        **{name: metrics[name].tolist() for name in names},
    }


def best_fixed(scenario: Scenario, seeds: Sequence[int] = SELECTION_SEEDS) -> str:
    """The name of the fixed joint action with the highest mean return on `seeds`, all tried at once."""
    count = len(JOINT_ACTIONS)
    engine = ServingEngine(scenario, count * len(seeds))
    engine.counters[:, at.SEED] = np.repeat(seeds, count)
    engine.actions[:] = np.tile(JOINT_ACTIONS, (len(seeds), 1))
    engine.reset()
    while (engine.counters[:, at.DONE] == 0).any():
        engine.step()
    returns = engine.clocks[:, at.RETURN].reshape(len(seeds), count).mean(axis=0)
    scalars = engine.tables.scalars
    has = np.ones(count, dtype=np.bool_)
    # Where the machine lacks a unit or stacks for attention, an action that names them is another one's double.
    if scalars[at.ONLY_UNIT] >= 0:
        has &= JOINT_ACTIONS[:, at.FC] == scalars[at.ONLY_UNIT]
    if scalars[at.ATTENTION_UNIT] != 2:
        has &= JOINT_ACTIONS[:, at.OVERLAP] == 0
    return fixed_name(JOINT_ACTIONS[int(np.argmax(np.where(has, returns, -np.inf)))])


def best_threshold(scenario: Scenario, seeds: Sequence[int] = SELECTION_SEEDS) -> str:
    """The name of PAPI's threshold with the speculation length of the highest mean return on `seeds`."""
    names = (REFERENCE, *(f"{REFERENCE}-spec{length}" for length in SPECULATION_LENGTHS[1:]))
    returns = [serve(scenario, name, seeds)[0]["return"].mean() for name in names]
    return names[int(np.argmax(returns))]


# Names that stand for the best of a kind.
CHOSEN = {BEST_FIXED: best_fixed, BEST_THRESHOLD: best_threshold}


def describe(
    scenarios: Sequence[Scenario], policies: Sequence[str], seeds: Sequence[int]
) -> Mapping[str, Any]:
    """The resolved configuration as plain data; a run folder goes on only if all of it is the same."""
    return {
        "scenarios": [scenario.model_dump(mode="json") for scenario in scenarios],
        "policies": list(policies),
        "seeds": {"first": seeds[0], "count": len(seeds)},
        "policy_sources": {name: policy_digest(name) for name in policies if ":" in name},
    }


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Play, write the run folder, whose path is returned, and print.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    scenarios, policies = resolve(config)
    seeds = tuple(range(config.seed, config.seed + config.seeds))
    with progress.status("compiling (the first time takes longer)"):
        warm(ServingVectorEnv(scenarios[0], autoreset_mode=AutoresetMode.DISABLED))
    cores = config.jobs or joblib.cpu_count()
    folder = RunFolder.open(config.out, "headroom", describe(scenarios, policies, seeds))
    progress.print(f"run folder {folder.path}", markup=False, highlight=False)
    with folder.session(command, cores) as session:
        jobs = {
            (scenario.name, policy): Job(
                f"{scenario.name} · {policy}",
                {"scenario": scenario.model_dump(mode="json"), "policy": policy, "seeds": list(seeds)},
                play,
                (scenario, policy, seeds),
            )
            for policy in (*policies, BOUND)
            for scenario in scenarios
        }
        try:
            reused = run_jobs(folder, list(jobs.values()), cores, progress)
        except KeyboardInterrupt:
            message = f"interrupted; the same command with --out {folder.path} goes on"
            progress.print(message, markup=False, highlight=False)
            raise
        session["jobs"], session["jobs_reused"] = len(jobs), reused
        frame = collect(folder, jobs)
        privileged = {p for p in policies if p not in CHOSEN and make_policy(p).privileged}
        summary = summarize(frame, [scenario.name for scenario in scenarios], policies, privileged)
        folder.write("results.csv", frame.write_csv())
        folder.write(
            "summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        )
        folder.write("headroom.png", headroom_figure(summary))
    print_report(console, summary)
    return folder.path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.headroom")
    command = f"python -m experiments.headroom {shlex.join(arguments)}".strip()
    return exit_status(lambda: run(config, command, output(), Console(stderr=True)))


if __name__ == "__main__":
    sys.exit(main())
