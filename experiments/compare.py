"""Compare entries on the same instances: `python -m experiments.compare --help`.

An entry is a policy on a system, such as papi/threshold; a learned policy is named by its folder, as in
papi/runs/mine/best (papi//tmp/mine/best where the folder's path is absolute). Every entry plays every scenario at
every batch size and speculation length on the same seeds. Printed: end-to-end speed-up over a100-attacc/static,
tokens per second, joules per token, and regret against the oracle of the same system; in Kernels-v0 also
regret by kernel class. Image streams (--env papi_env/Kernels-v0 --scenario vision-stream) are compared on their
own system, in images per second. Serving presets (--env papi_env/Serving-v0) are compared by goodput, as a ratio to
that of papi/threshold, with attainment, latencies and joules per token (`experiments.arena.compare_serving`).

Written to the run folder: run.json (what ran), results.csv (a row per instance), summary.json, compare.png. An
interrupted run goes on with `--out` and the same options.
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

from experiments.arena import compare_serving
from experiments.arena.compare_serving_report import print_report as print_serving_report
from experiments.arena.entries import (
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
from experiments.arena.report import print_report
from experiments.arena.results import BASELINE, Results, collect, populations, readings
from experiments.common.command import exit_status, output
from experiments.common.runner import Job, RunFolder, run_jobs
from experiments.headroom import play as play_serving
from experiments.splitting.definition import KERNELS, SERVING
from experiments.splitting.parts import trace_paths
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
    "papi/learned",
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
    "learned",
    "oracle",
)
SEEDS = 50
MAX_SEED = 2**62


def _as_is(metavar: str) -> Any:
    """How an option's value is called in --help; what its absence means is said in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Compare entries (system/policy) on the same instances.

    Prints speed-up over a100-attacc/static, tokens/s, J/token and regret with 95 % intervals, and writes
    run.json, results.csv, summary.json and compare.png. Repeat a command with --out to go on where it
    was interrupted. Scenarios with images need --env papi_env/Kernels-v0. With --env papi_env/Serving-v0, serving
    presets are compared by goodput, attainment, latencies and J/token:

    python -m experiments.compare --env papi_env/Kernels-v0 --scenario vision-stream

    python -m experiments.compare --env papi_env/Serving-v0 --entries papi/threshold papi/heuristic papi/FOLDER
    """

    entries: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SYSTEM/POLICY ...")] = DEFAULT_ENTRIES
    """Policies on systems, in the order of the table. Where nothing decodes and in Serving-v0, the default is rules
    and oracle on the scenario's own system."""
    baseline: Annotated[str | None, _as_is("SYSTEM/POLICY")] = None
    """What speed-up and goodput are measured against (default: a100-attacc/static; on the scenario's own system,
    static where nothing decodes, and threshold in Serving-v0)."""
    policy: Annotated[tuple[str, ...], _as_is("MODULE:CLASS ...")] = ()
    """Policies of your own; each adds the entry papi/MODULE:CLASS (on the own system where that is the default)."""
    scenario: Annotated[tuple[str, ...], _as_is("NAME|FILE.toml ...")] = ()
    """Presets by name, or .toml files (default: the paper's three models on its two datasets). In Serving-v0 also a
    family such as "saturated" (default: saturated, bursty and drifting on llama-65b)."""
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
    env: Literal["papi_env/Decode-v0", "papi_env/Kernels-v0", "papi_env/Serving-v0"] = "papi_env/Decode-v0"
    """The problem to play. Serving-v0 takes requests and batches from its scenarios, without the options for them."""
    gpu_bandwidth: Annotated[Literal["roofline", "hbm3"] | None, _as_is("roofline|hbm3")] = None
    """Reading of an A100's memory bandwidth: 1935 or 3352 GB/s (default: as the systems say)."""
    bank_rate: Annotated[
        Literal["attacc-limit", "attacc", "papi"] | None, _as_is("attacc-limit|attacc|papi")
    ] = None
    """Reading of a PIM bank's rate: a command every 6, 4 or 2 clocks (default: as the systems say)."""
    constants: Literal["plain", "reproduction"] = "plain"
    """The registered systems as they are, or with what `experiments.reproduce` fitted to published rows."""
    energy_weight: Annotated[float | None, _as_is("FLOAT")] = None
    """Seconds (tokens in Serving-v0) that a joule counts for in the reward (default: as the scenario says)."""
    switch_s: Annotated[float | None, _as_is("SECONDS")] = None
    """Seconds of a mode switch (default: as the scenario says, else the problem)."""
    seed: int = 0
    """First seed."""
    seeds: Annotated[int | None, _as_is("INT")] = None
    """How many seeds (default: 50, in Serving-v0 8)."""
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
            "traces": {path: trace_digest(setting) for setting in self.grid for path in trace_paths(setting)},
            "policy_sources": {
                name: source for name in sorted(policies) if (source := policy_digest(name)) is not None
            },
        }


def resolve(config: Config) -> Comparison:
    """Look up and check everything that `config` names.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    serving = config.env == SERVING
    count = (compare_serving.SEEDS if serving else SEEDS) if config.seeds is None else config.seeds
    if count < 1 or config.seed < 0 or config.seed + count > MAX_SEED:
        raise ConfigurationError(
            f"--seed is {config.seed} and --seeds {count}, expected a first seed from 0 and at least one"
        )
    if config.jobs < 0:
        raise ConfigurationError(
            f"--jobs is {config.jobs}, expected a number of processes, or 0 for all cores"
        )
    grid = compare_serving.serving_grid(vars(config)) if serving else _grid(config)
    entries = _entries(config, grid)
    baseline = _baseline(config, grid)
    measures = [baseline] if serving else [baseline, *(e.oracle for e in (baseline, *entries))]
    references = [entry for entry in dict.fromkeys(measures) if entry not in entries]
    cells = plan(entries, references, grid, config.gpu_bandwidth, config.bank_rate, config.constants)
    if all(cell.refusal for cell in cells if not cell.reference):
        raise ConfigurationError(f"No scenario fits any entry's system. {cells[0].refusal}")
    seeds = tuple(range(config.seed, config.seed + count))
    return Comparison(config, entries, tuple(grid), tuple(cells), seeds, baseline)


def _grid(config: Config) -> list[Scenario]:
    """The settings of static batches and image encodes."""
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
    for scenario, _ in scenarios:
        if scenario.serving is not None:
            raise ConfigurationError(
                f"Scenario {scenario.name!r} serves requests as they arrive; --env {SERVING} alone plays it"
            )
    return settings(scenarios, config.batch_sizes, config.speculation)


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
    serving, images_alone = config.env == SERVING, _images_alone(grid)
    if config.entries == DEFAULT_ENTRIES and (serving or images_alone):
        own = dict.fromkeys(scenario.system.name for scenario in grid)
        defaults = compare_serving.POLICIES if serving else IMAGE_POLICIES
        names = [f"{name}/{policy}" for name in own for policy in defaults]
    elif config.entries == DEFAULT_ENTRIES:
        for name, system in known_systems(grid).items():
            if name not in SYSTEMS:
                choice = system.can_run("pu", "fc") and system.can_run("fc-pim", "fc")
                policies = ("threshold", "adaptive", "oracle") if choice else ("static",)
                names += [f"{name}/{policy}" for policy in policies]
    home = grid[0].system.name if serving or images_alone else "papi"
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
    if config.env == SERVING:
        return Entry(grid[0].system.name, compare_serving.BASELINE)
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
        jobs = {i: _job(comparison, cell) for i, cell in enumerate(comparison.cells) if not cell.refusal}
        try:
            reused = run_jobs(folder, list(jobs.values()), cores, progress)
        except KeyboardInterrupt:
            message = f"interrupted; the same command with --out {folder.path} goes on"
            progress.print(message, markup=False, highlight=False)
            raise
        session["jobs"], session["jobs_reused"] = len(jobs), reused
        with progress.status("intervals and figure"):
            summary = _write(folder, comparison, jobs, cores)
    report = print_serving_report if config.env == SERVING else print_report
    report(console, summary, session["wall_s"], reused)
    return folder.path


def _job(comparison: Comparison, cell: Cell) -> Job:
    """What plays a cell on all seeds."""
    env, seeds = comparison.config.env, comparison.seeds
    spec = job_spec(env, cell, seeds)
    if env == SERVING:
        return Job(cell.label, spec, play_serving, (cell.scenario, cell.entry.policy, seeds))
    return Job(cell.label, spec, play, (env, cell.scenario, cell.entry.policy, seeds))


def _write(folder: RunFolder, comparison: Comparison, jobs: dict[int, Job], cores: int) -> dict[str, Any]:
    systems = {cell.entry: cell.scenario.system for cell in comparison.cells}
    known = {
        "baseline": str(comparison.baseline),
        "problem": comparison.config.env,
        # Where a name means the scenario's own system although another one is registered under it.
        "own_systems": {
            s.name: s.system.name for s in comparison.grid if SYSTEMS.get(s.system.name, s.system) != s.system
        },
        "readings": readings(list(systems.values())),
        "constants": comparison.config.constants,
        "cores": cores,
    }
    if comparison.config.env == SERVING:
        return compare_serving.write(
            folder, comparison.cells, jobs, comparison.seeds, comparison.baseline, known
        )
    # Only the process that reports needs it.
    from experiments.common.plots import compare_figure

    by_class = comparison.config.env == KERNELS
    frame = collect(folder, comparison.cells, jobs, comparison.seeds)
    results = Results(frame, comparison.baseline, by_class)
    folder.write("results.csv", results.frame.write_csv())
    summary = {
        **known,
        "scenarios": results.scenarios,
        "settings": len(results.settings),
        "instances": len(results.settings) * len(results.seeds),
        "seeds": results.seeds,
        "requests": populations(comparison.grid),
        "alpha": results.alphas(),
        "acceptance_rates": sorted(
            {s.workload.acceptance_rate for s in comparison.grid if s.workload is not None}
        ),
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
