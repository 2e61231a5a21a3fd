"""Compare entries on the same instances: `python -m experiments.compare --help`.

An entry is a policy on a system, such as papi/threshold. Every entry plays every scenario at every batch
size and speculation length on the same seeds. Printed: end-to-end speed-up over a100-attacc/static,
tokens per second, joules per token, and regret against the oracle of the same system; in Kernels-v0 also
regret by kernel class. Image streams (--env papi_env/Kernels-v0 --scenario vision-stream) are compared on their
own system, in images per second. Written to the run
folder: run.json (what ran), results.csv (a row per instance), summary.json, compare.png. An interrupted
run goes on with `--out` and the same options.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import joblib
import tyro
from rich.console import Console

from experiments.command import exit_status, output
from experiments.entries import (
    Cell,
    Entry,
    job_spec,
    known_systems,
    plan,
    play,
    policy_digest,
    rehearse,
    resolve_scenarios,
    settings,
    trace_digest,
)
from experiments.report import print_report
from experiments.results import BASELINE, Results, collect, populations, readings
from experiments.runner import Job, RunFolder, run_jobs
from papi_env.errors import ConfigurationError
from papi_env.hardware.system import SYSTEMS
from papi_env.scenario import PAPER_SCENARIOS, Scenario
from papi_env.workload.requests import Lengths

DEFAULT_ENTRIES = (
    "a100-attacc/static",
    "a100-hbm-pim/static",
    "attacc-only/static",
    "papi/static-pu",
    "papi/static-fc-pim",
    "papi/random",
    "papi/threshold-initial",
    "papi/threshold",
    "papi/adaptive",
    "papi/oracle",
)
# On the scenario's own system, where nothing decodes.
IMAGE_POLICIES = (
    "static-pu",
    "static-fc-pim",
    "random",
    "threshold",
    "threshold-intensity",
    "adaptive",
    "oracle",
)
MAX_SEED = 2**62


def _as_is(metavar: str) -> Any:
    """How an option's value is called in --help; what its absence means is said in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Compare entries (system/policy) on the same instances.

    Prints speed-up over a100-attacc/static, tokens/s, J/token and regret with 95 % intervals, and writes
    run.json, results.csv, summary.json and compare.png. Repeat a command with --out to go on where it
    was interrupted. Scenarios with images need --env papi_env/Kernels-v0:

    python -m experiments.compare --env papi_env/Kernels-v0 --scenario vision-stream
    """

    entries: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SYSTEM/POLICY ...")] = DEFAULT_ENTRIES
    """Policies on systems, in the order of the table. Where nothing decodes, the default is rules and oracle on
    the scenario's own system."""
    baseline: Annotated[str | None, _as_is("SYSTEM/POLICY")] = None
    """What speed-up is measured against (default: a100-attacc/static, or static on the scenario's own system
    where nothing decodes)."""
    policy: Annotated[tuple[str, ...], _as_is("MODULE:CLASS ...")] = ()
    """Policies of your own; each adds the entry papi/MODULE:CLASS (where nothing decodes, on the own system)."""
    scenario: Annotated[tuple[str, ...], _as_is("NAME|FILE.toml ...")] = ()
    """Presets by name, or .toml files (default: the paper's three models on its two datasets)."""
    requests: Annotated[Path | None, _as_is("FILE")] = None
    """A CSV file of request lengths that replaces those of the scenarios."""
    input_column: Annotated[str | None, _as_is("NAME")] = None
    """Column of input tokens in --requests (default: recognised by the header)."""
    output_column: Annotated[str | None, _as_is("NAME")] = None
    """Column of output tokens in --requests."""
    category_column: Annotated[str | None, _as_is("NAME")] = None
    """Column of categories in --requests."""
    categories: Annotated[tuple[str, ...], _as_is("NAME ...")] = ()
    """Categories of --requests to keep (default: all)."""
    beyond_context: Annotated[
        Literal["refuse", "truncate", "extrapolate"] | None, _as_is("refuse|truncate|extrapolate")
    ] = None
    """Leave out requests beyond the model's context, cut their output, or keep them (default: the scenario's)."""
    batch_sizes: Annotated[tuple[int, ...], _as_is("INT ...")] = ()
    """Batch sizes (default: 4 16 64 for presets; a .toml scenario keeps its own)."""
    speculation: Annotated[tuple[int, ...], _as_is("INT ...")] = ()
    """Speculation lengths (default: 1 2 4 for presets; a .toml scenario keeps its own)."""
    acceptance_rate: Annotated[float | None, _as_is("FLOAT")] = None
    """Chance that a drafted token is accepted, 0 to 1 (default: as the scenario says)."""
    env: Literal["papi_env/Decode-v0", "papi_env/Kernels-v0"] = "papi_env/Decode-v0"
    """The problem to play."""
    gpu_bandwidth: Annotated[Literal["roofline", "hbm3"] | None, _as_is("roofline|hbm3")] = None
    """Reading of an A100's memory bandwidth: 1935 or 3352 GB/s (default: as the systems say)."""
    bank_rate: Annotated[
        Literal["attacc-limit", "attacc", "papi"] | None, _as_is("attacc-limit|attacc|papi")
    ] = None
    """Reading of a PIM bank's rate: a command every 6, 4 or 2 clocks (default: as the systems say)."""
    constants: Literal["plain", "reproduction"] = "plain"
    """The registered systems as they are, or with what `experiments.reproduce` fitted to published rows."""
    energy_weight: Annotated[float | None, _as_is("FLOAT")] = None
    """Seconds that a joule counts for in the reward (default: as the scenario says)."""
    switch_s: Annotated[float | None, _as_is("SECONDS")] = None
    """Seconds of a mode switch (default: as the scenario says, else the problem)."""
    seed: int = 0
    """First seed."""
    seeds: int = 50
    """How many seeds."""
    jobs: Annotated[int, _as_is("INT")] = 0
    """Processes; 0 uses all cores."""
    out: Annotated[Path | None, _as_is("DIR")] = None
    """Run folder (default: runs/compare-TIME)."""


@dataclass(frozen=True)
class Comparison:
    """A configuration with everything looked up: what will be played."""

    config: Config
    entries: tuple[Entry, ...]
    grid: tuple[Scenario, ...]
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    baseline: Entry

    def describe(self) -> dict[str, Any]:
        """The resolved configuration as plain data; a run folder goes on only if all of it is the same."""
        asked = asdict(self.config)
        readings_asked = {name: asked[name] for name in ("gpu_bandwidth", "bank_rate", "constants")}
        systems = {cell.entry.system: cell.scenario.system for cell in reversed(self.cells)}
        policies = {cell.entry.policy for cell in self.cells}
        return {
            "problem": self.config.env,
            "entries": [str(entry) for entry in self.entries],
            "references": [str(e) for e in dict.fromkeys(c.entry for c in self.cells if c.reference)],
            "baseline": str(self.baseline),
            "seeds": {"first": self.seeds[0], "count": len(self.seeds)},
            "readings": readings_asked,
            # A scenario's own system stands for its name there; `systems` are those of the first scenario.
            "systems": {name: system.model_dump(mode="json") for name, system in systems.items()},
            "settings": [scenario.model_dump(mode="json") for scenario in self.grid],
            "traces": {
                str(scenario.workload.lengths.trace): trace_digest(scenario)
                for scenario in self.grid
                if scenario.workload is not None and scenario.workload.lengths.trace is not None
            },
            "policy_sources": {name: policy_digest(name) for name in sorted(policies) if ":" in name},
        }


def resolve(config: Config) -> Comparison:
    """Look up and check everything that `config` names.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    if config.seeds < 1 or config.seed < 0 or config.seed + config.seeds > MAX_SEED:
        raise ConfigurationError(
            f"--seed is {config.seed} and --seeds {config.seeds}, expected a first seed from 0 and at least one"
        )
    if config.jobs < 0:
        raise ConfigurationError(
            f"--jobs is {config.jobs}, expected a number of processes, or 0 for all cores"
        )
    scenarios = resolve_scenarios(
        _scenario_names(config),
        _requests(config),
        config.beyond_context,
        config.acceptance_rate,
        config.energy_weight,
        config.switch_s,
    )
    for option in ("batch_sizes", "speculation"):
        values = getattr(config, option)
        if len(set(values)) < len(values):
            raise ConfigurationError(f"--{option.replace('_', '-')} names a value twice: {values}")
    grid = settings(scenarios, config.batch_sizes, config.speculation)
    entries = _entries(config, grid)
    baseline = _baseline(config, grid)
    references = [
        e for e in dict.fromkeys((baseline, *(e.oracle for e in (baseline, *entries)))) if e not in entries
    ]
    cells = plan(entries, references, grid, config.gpu_bandwidth, config.bank_rate, config.constants)
    if all(cell.refusal for cell in cells if not cell.reference):
        raise ConfigurationError(f"No scenario fits any entry's system. {cells[0].refusal}")
    seeds = tuple(range(config.seed, config.seed + config.seeds))
    return Comparison(config, entries, tuple(grid), tuple(cells), seeds, baseline)


def _scenario_names(config: Config) -> tuple[str, ...]:
    if config.scenario:
        return config.scenario
    # A dataset's lengths do not matter where a file replaces them: each model once.
    return PAPER_SCENARIOS if config.requests is None else PAPER_SCENARIOS[:3]


def _requests(config: Config) -> Lengths | None:
    columns = (config.input_column, config.output_column, config.category_column)
    if config.requests is None:
        if config.categories or any(column is not None for column in columns):
            raise ConfigurationError("Columns and categories belong to --requests, which is not given")
        return None
    return Lengths(
        trace=str(config.requests),
        input_column=config.input_column,
        output_column=config.output_column,
        category_column=config.category_column,
        categories=config.categories or None,
    )


def _entries(config: Config, grid: Sequence[Scenario]) -> tuple[Entry, ...]:
    """The entries asked for; a scenario's own system joins the default ones, lest it be left out silently."""
    names = [*config.entries]
    images_alone = _images_alone(grid)
    if config.entries == DEFAULT_ENTRIES and images_alone:
        own = dict.fromkeys(scenario.system.name for scenario in grid)
        names = [f"{name}/{policy}" for name in own for policy in IMAGE_POLICIES]
    elif config.entries == DEFAULT_ENTRIES:
        for name, system in known_systems(grid).items():
            if name not in SYSTEMS:
                choice = system.can_run("pu", "fc") and system.can_run("fc-pim", "fc")
                policies = ("threshold", "adaptive", "oracle") if choice else ("static",)
                names += [f"{name}/{policy}" for policy in policies]
    home = grid[0].system.name if images_alone else "papi"
    names += [f"{home}/{policy}" for policy in config.policy]
    for policy in config.policy:
        if ":" not in policy:
            raise ConfigurationError(
                f"--policy {policy!r}: expected module:Class; registered ones go to --entries"
            )
    entries = tuple(dict.fromkeys(Entry.parse(name) for name in names))
    if not entries:
        raise ConfigurationError("No entries: name at least one in --entries or --policy")
    return entries


def _images_alone(grid: Sequence[Scenario]) -> bool:
    """Whether no scenario decodes: systems of six GPUs are no measure for those, then."""
    return all(scenario.model is None for scenario in grid)


def _baseline(config: Config, grid: Sequence[Scenario]) -> Entry:
    if config.baseline is not None:
        return Entry.parse(config.baseline)
    return Entry(grid[0].system.name, "static") if _images_alone(grid) else BASELINE


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Run a comparison and write its folder, whose path is returned.

    Args:
        config: what to compare.
        command: recorded in run.json.
        console: for the tables.
        progress: for everything else.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    with progress.status("reading scenarios"):
        comparison = resolve(config)
    with progress.status("compiling (the first time takes longer)"):
        rehearse(config.env, comparison.cells)
    cores = config.jobs or joblib.cpu_count()
    folder = RunFolder.open(config.out, "compare", comparison.describe())
    progress.print(f"run folder {folder.path}", markup=False, highlight=False)
    with folder.session(command, cores) as session:
        jobs = {
            i: Job(
                cell.label,
                job_spec(config.env, cell, comparison.seeds),
                play,
                (config.env, cell.scenario, cell.entry.policy, comparison.seeds),
            )
            for i, cell in enumerate(comparison.cells)
            if not cell.refusal
        }
        try:
            reused = run_jobs(folder, list(jobs.values()), cores, progress)
        except KeyboardInterrupt:
            message = f"interrupted; the same command with --out {folder.path} goes on"
            progress.print(message, markup=False, highlight=False)
            raise
        session["jobs"], session["jobs_reused"] = len(jobs), reused
        with progress.status("intervals and figure"):
            summary = _write(folder, comparison, jobs, cores)
    print_report(console, summary, session["wall_s"], reused)
    return folder.path


def _write(folder: RunFolder, comparison: Comparison, jobs: dict[int, Job], cores: int) -> dict[str, Any]:
    # Only the process that reports needs it.
    from experiments.plots import compare_figure

    by_class = comparison.config.env == "papi_env/Kernels-v0"
    frame = collect(folder, comparison.cells, jobs, comparison.seeds)
    results = Results(frame, comparison.baseline, by_class)
    folder.write("results.csv", results.frame.write_csv())
    systems = {cell.entry: cell.scenario.system for cell in comparison.cells}
    summary = {
        "baseline": str(comparison.baseline),
        "problem": comparison.config.env,
        "scenarios": results.scenarios,
        "settings": len(results.settings),
        "instances": len(results.settings) * len(results.seeds),
        "seeds": results.seeds,
        "requests": populations(comparison.grid),
        # Where a name means the scenario's own system although another one is registered under it.
        "own_systems": {
            s.name: s.system.name for s in comparison.grid if SYSTEMS.get(s.system.name, s.system) != s.system
        },
        "alpha": results.alphas(),
        "readings": readings(list(systems.values())),
        "constants": comparison.config.constants,
        "acceptance_rates": sorted(
            {s.workload.acceptance_rate for s in comparison.grid if s.workload is not None}
        ),
        "cores": cores,
        "entries": results.summary(),
    }
    folder.write("summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    folder.write("compare.png", compare_figure(summary))
    return summary


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.compare")
    command = f"python -m experiments.compare {shlex.join(arguments)}".strip()
    return exit_status(lambda: run(config, command, output(), Console(stderr=True)))


if __name__ == "__main__":
    sys.exit(main())
