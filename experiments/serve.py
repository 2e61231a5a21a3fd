"""Serve a preset or replay a trace under named policies: `python -m experiments.serve --help`.

Every policy serves the same requests. Printed: what became of the requests, rates, latencies, energy and use of
the machine, and how long the replay took. Written to the run folder: run.json (what ran), results.csv (a row per
policy and seed), summary.json; with --gantt gantt.png, the work of every unit in a window; with --trace-json
trace.json, the same for a trace viewer (Perfetto, chrome://tracing).

A trace is a CSV file with Azure's columns TIMESTAMP,ContextTokens,GeneratedTokens; its requests keep their own
times and lengths, and a replay ends when all of them are served. Those that can never be are rejected as they
arrive, counted, and shown with the reason.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import tyro
from gymnasium.vector import AutoresetMode
from rich.console import Console
from rich.table import Table

from agents.evaluate import evaluate
from agents.registry import make_policy
from experiments.arena.gantt import Recorder, check_window, gantt_figure, trace_events
from experiments.common.command import exit_status, output
from experiments.common.runner import RunFolder, file_digest
from papi_env.envs.serving import ServingVectorEnv, build_serving_scenario
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.tables import build_serving_tables

DEFAULT_PRESET = "saturated/llama-65b"
MAX_SEED = 2**62
# What becomes of a request that is never served, beside being cut off by the end of the episode.
REJECTED = ("rejected_context", "rejected_kv")
# What is printed: column of the results, what it is called, factor, digits after the point.
ROWS: tuple[tuple[str, str, float, int], ...] = (
    ("arrived", "requests", 1, 1),
    ("finished", "  finished", 1, 1),
    ("attained", "  of them within objectives", 1, 1),
    ("rejected_context", "  rejected: beyond the context", 1, 1),
    ("rejected_kv", "  rejected: beyond all KV pages", 1, 1),
    ("unfinished", "  cut off by the end", 1, 1),
    ("time_s", "simulated time (s)", 1, 1),
    ("iterations", "iterations", 1, 0),
    ("throughput", "throughput (tokens/s)", 1, 1),
    ("goodput", "goodput (tokens/s)", 1, 1),
    ("attainment", "attainment (%)", 100, 1),
    *((f"ttft_p{q}_s", f"TTFT p{q} (s)", 1.0, 3) for q in (50, 90, 99)),
    *((f"tpot_p{q}_s", f"TPOT p{q} (ms)", 1e3, 1) for q in (50, 90, 99)),
    *((f"e2e_p{q}_s", f"end to end p{q} (s)", 1.0, 2) for q in (50, 90, 99)),
    ("j_per_token", "energy (J/token)", 1, 3),
    *((f"utilisation_{resource}", f"busy: {resource} (%)", 100.0, 1) for resource in at.RESOURCES),
    ("overlap", "overlap (%)", 100, 1),
    ("idle_share", "idle (%)", 100, 1),
    ("kv_high_water", "KV pages, most (%)", 100, 1),
    ("kv_mean", "KV pages, mean (%)", 100, 1),
    ("preemptions", "preemptions", 1, 1),
    ("accepted_share", "drafts accepted (%)", 100, 1),
    ("return", "return", 1, 1),
)


def _as_is(metavar: str) -> Any:
    """How an option's value is called in --help; what its absence means is said in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Serve a preset or replay a trace under named policies."""

    preset: Annotated[str, tyro.conf.arg(metavar="NAME|FILE.toml")] = DEFAULT_PRESET
    """A serving scenario: system, model, objectives, and without --trace the requests."""
    policies: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ("threshold", "heuristic")
    """Policies, in the order of the table and the picture."""
    model: Annotated[str | None, _as_is("NAME")] = None
    """Take the preset of the same family on this model."""
    trace: Annotated[Path | None, _as_is("FILE")] = None
    """A CSV file whose requests replace the preset's, with their times and lengths."""
    time_scale: float = 1.0
    """Requests of --trace arrive this many times as fast."""
    start: Annotated[float | None, _as_is("SECONDS")] = None
    """Start --trace here, in seconds after --time-scale (default: at its start, or with --window anywhere)."""
    window: Annotated[float | None, _as_is("SECONDS")] = None
    """Length of the window of --trace, in seconds after --time-scale (default: to its end)."""
    gantt: Annotated[tuple[float, float] | None, _as_is("FROM TO")] = None
    """Draw this window of the first seed, in simulated seconds."""
    trace_json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write the window of --gantt (default: the whole episode) for a trace viewer."""
    seed: int = 0
    """First seed."""
    seeds: int = 1
    """How many seeds; the table shows means."""
    out: Annotated[Path | None, _as_is("DIR")] = None
    """Run folder (default: runs/serve-TIME)."""


def marked(policy: str) -> str:
    """The policy's name, with a star where it is privileged; raises ConfigurationError for an unknown one."""
    return policy + "*" * make_policy(policy).privileged


def resolve(config: Config) -> Scenario:
    """The scenario that `config` names.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    if config.seeds < 1 or config.seed < 0 or config.seed + config.seeds > MAX_SEED:
        raise ConfigurationError(
            f"--seed is {config.seed} and --seeds {config.seeds}, expected a first seed from 0 and at least one"
        )
    if not config.policies or len(set(config.policies)) < len(config.policies):
        raise ConfigurationError(f"--policies are {config.policies}, expected different ones, at least one")
    name = config.preset
    if config.model is not None:
        family, slash, _ = name.partition("/")
        if not slash or name.endswith(".toml"):
            raise ConfigurationError(f"--model belongs to a preset such as {DEFAULT_PRESET}, not to {name!r}")
        name = f"{family}/{config.model}"
    scenario = build_serving_scenario(name)
    if config.trace is None:
        if config.time_scale != 1 or config.start is not None or config.window is not None:
            raise ConfigurationError(
                "--time-scale, --start and --window belong to --trace, which is not given"
            )
        return scenario
    return replay_scenario(scenario, config.trace, config.time_scale, config.start, config.window)


def replay_scenario(
    scenario: Scenario,
    trace: Path,
    time_scale: float = 1.0,
    start_s: float | None = None,
    window_s: float | None = None,
) -> Scenario:
    """`scenario` with the requests of a trace, until all of them are served.

    Args:
        scenario: with a serving part.
        trace: a CSV file (see `papi_env.workload.traces.read_trace`).
        time_scale: how many times as fast the requests arrive.
        start_s, window_s: which of them, in seconds after scaling; a window without a start is drawn by episode.

    Raises:
        DataError: the trace cannot be read. ConfigurationError: it has no such window.
    """
    if start_s is not None and window_s is None:
        window_s = 1e9  # longer than any trace: a window at a given start may outlast it
    arrivals = {"process": "trace", "trace": str(trace), "time_scale": time_scale}
    replaced = scenario.replace(
        serving={
            "arrivals": {**arrivals, "start_s": start_s, "window_s": window_s},
            "lengths": {"trace": str(trace)},
            "requests": 1,
        }
    )
    assert replaced.serving is not None
    return replaced.replace(serving={"requests": len(replaced.serving.arrivals.read())})


def rejections(engine: ServingEngine) -> dict[str, npt.NDArray[Any]]:
    """Requests refused on arrival by reason, int64 [num_envs] by the names in `REJECTED`.

    One that is too long for both counts as beyond the context.
    """
    scenario = engine.scenario
    assert scenario.model is not None
    assert scenario.serving is not None
    limit = np.inf if scenario.serving.beyond_context == "extrapolate" else scenario.model.context_limit
    counts = np.zeros((len(REJECTED), engine.num_envs), dtype=np.int64)
    for e in range(engine.num_envs):
        records = engine.records(e)
        refused = records["status"] == at.REFUSED
        beyond = refused & (records["input"] + records["output"] > limit)
        counts[:, e] = beyond.sum(), (refused & ~beyond).sum()
    return dict(zip(REJECTED, counts, strict=True))


def serve(
    scenario: Scenario, name: str, seeds: Sequence[int], recorder: Recorder | None = None
) -> tuple[dict[str, npt.NDArray[Any]], float]:
    """Serve one episode per seed.

    Args:
        scenario: with a serving part.
        name: of the policy.
        seeds: of the episodes.
        recorder: looks on at the first of them.

    Returns:
        Metrics [len(seeds)] by name (those of `simulation.serving_metrics` and `REJECTED`), and wall seconds of
        the replay without compilation.
    """
    policy = make_policy(name)
    env = ServingVectorEnv(scenario, num_envs=len(seeds), autoreset_mode=AutoresetMode.DISABLED)
    warm(env)
    start = time.perf_counter()
    metrics = dict(evaluate(policy, env, seeds, recorder))
    wall_s = time.perf_counter() - start
    return metrics | rejections(env.engine), wall_s


def warm(env: ServingVectorEnv) -> None:
    """Have the first step compiled before the clock starts."""
    env.reset(seed=0)
    env.step(np.zeros((env.num_envs, len(at.NVEC)), dtype=np.int64))


def results_table(
    results: Mapping[str, Mapping[str, npt.NDArray[Any]]], wall_s: Mapping[str, float]
) -> Table:
    """Means over the seeds, a column per policy."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for policy in results:
        table.add_column(policy, justify="right")
    for column, label, factor, digits in ROWS:
        cells = []
        for metrics in results.values():
            known = metrics[column][~np.isnan(metrics[column].astype(float))]
            cells.append(f"{factor * known.mean():.{digits}f}" if len(known) else "-")
        table.add_row(label, *cells)
    table.add_row("wall time of the replay (s)", *(f"{wall_s[policy]:.2f}" for policy in results))
    return table


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Serve, write the run folder, whose path is returned, and print.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    scenario = resolve(config)
    seeds = range(config.seed, config.seed + config.seeds)
    marks = {name: marked(name) for name in config.policies}
    build_serving_tables(scenario)  # says now what cannot be served at all
    recorders = {}
    if config.gantt is not None or config.trace_json:
        start, end = (0.0, np.inf) if config.gantt is None else config.gantt
        recorders = {
            name: Recorder(f"{scenario.system.name}/{mark}", start, end) for name, mark in marks.items()
        }
    described = {key: value for key, value in asdict(config).items() if key not in ("out", "trace")}
    described["scenario"] = scenario.model_dump(mode="json")
    if config.trace is not None:
        described["trace_digest"] = file_digest(config.trace)
    folder = RunFolder.open(config.out, "serve", json.loads(json.dumps(described, default=str)))
    progress.print(f"run folder {folder.path}", markup=False, highlight=False)
    results: dict[str, dict[str, npt.NDArray[Any]]] = {}
    wall_s = {}
    with folder.session(command, 1) as session:
        for name in config.policies:
            with progress.status(name):
                results[marks[name]], wall_s[marks[name]] = serve(scenario, name, seeds, recorders.get(name))
        session["replay_wall_s"] = {name: round(seconds, 3) for name, seconds in wall_s.items()}
        _write(folder, config, scenario, results, list(recorders.values()))
    console.print(_heading(scenario, config), markup=False, highlight=False)
    console.print(results_table(results, wall_s))
    if any(mark.endswith("*") for mark in results):
        console.print("* privileged: reads what no scheduler can see", markup=False)
    return folder.path


def _heading(scenario: Scenario, config: Config) -> str:
    assert scenario.serving is not None
    objectives = scenario.serving.objectives
    what = f"{config.trace.name}, {config.time_scale:g} x as fast" if config.trace else scenario.name
    count = f"mean of {config.seeds} seeds" if config.seeds > 1 else f"seed {config.seed}"
    model = scenario.model.name if scenario.model else ""
    return (
        f"{what} on {scenario.system.name}, {model}: TTFT {objectives.ttft_s:g} s, "
        f"TPOT {1e3 * objectives.tpot_s:g} ms; {count}"
    )


def _write(
    folder: RunFolder,
    config: Config,
    scenario: Scenario,
    results: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    recorders: Sequence[Recorder],
) -> None:
    frames = [
        pl.DataFrame(
            {
                "policy": [policy] * config.seeds,
                "seed": range(config.seed, config.seed + config.seeds),
                **metrics,
            }
        )
        for policy, metrics in results.items()
    ]
    folder.write("results.csv", pl.concat(frames).write_csv())
    summary = {
        "scenario": scenario.name,
        "seeds": [config.seed, config.seed + config.seeds - 1],
        "policies": {
            policy: {name: _mean(values) for name, values in metrics.items()}
            for policy, metrics in results.items()
        },
    }
    folder.write("summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    if config.gantt is not None:
        for recorder in recorders:
            check_window(recorder)
        folder.write("gantt.png", gantt_figure(recorders, _heading(scenario, config)))
    if config.trace_json:
        folder.write("trace.json", json.dumps(trace_events(recorders), allow_nan=False) + "\n")


def _mean(values: npt.NDArray[Any]) -> float | None:
    """Mean of what is known, or None."""
    known = values[~np.isnan(values.astype(float))]
    return float(known.mean()) if len(known) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.serve")
    command = f"python -m experiments.serve {shlex.join(arguments)}".strip()
    return exit_status(lambda: run(config, command, output(), Console(stderr=True)))


if __name__ == "__main__":
    sys.exit(main())
