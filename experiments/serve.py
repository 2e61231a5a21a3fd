"""Serve a preset or replay a trace under named policies: `python -m experiments.serve --help`.

Every policy serves the same requests. Printed: what became of the requests, rates, latencies, energy and use of
the machine, and how long the replay took. Written to the run folder: run.json (what ran), results.csv (a row per
policy and seed), summary.json; with --gantt gantt.png, the work of every unit in a window; with --trace-json
trace.json, the same for a trace viewer (Perfetto, chrome://tracing). With --export FILE a row for each request
(columns: `experiments.arena.requests.COLUMNS`), which is itself a trace that can be replayed.

Scenarios that say whom they serve, such as overload/llama-65b, are played on Serving-v1: --gantt then draws every
request as well, coloured by class, and --export has its class, session and turn.

A trace is a file of any form that `papi_env.workload.traces` reads: Azure, BurstGPT, Mooncake, Vidur, splitwise-sim,
LLMServingSim, results of vLLM's benchmark, ShareGPT, or any CSV, JSON lines or Parquet by column names. Its requests
keep their own times and lengths, and a replay ends when all of them are served. Those that can never be are rejected
as they arrive, counted, and shown with the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
from rich.console import Console

from experiments.arena.comparison import plan
from experiments.arena.entries import (
    BOUND,
    Entry,
    check_policy,
    default_policies,
    known_systems,
    parse_all,
    policy_digest,
)
from experiments.arena.frame import Match
from experiments.arena.gantt import Recorder, check_window, gantt_figure, trace_events
from experiments.arena.play import play, rehearse, timed_play
from experiments.arena.requests import Ledger, both, check_export, export
from experiments.arena.settings import problem_named, replay_scenario, serving_scenarios
from experiments.arena.summaries.served import as_written, summarize
from experiments.arena.tables.served import heading, print_report
from experiments.common.command import command_line
from experiments.common.conduct import conduct
from experiments.common.options import (
    DEFAULT,
    Entries,
    Flag,
    Out,
    Reading,
    Scenarios,
    Seed,
    Spelling,
    Traces,
    Workers,
    check_counts,
    reading,
    words,
)
from experiments.common.problems import problem_of
from experiments.common.runner import Job, RunFolder, file_digest
from experiments.common.study import json_text
from experiments.splitting.definition import SERVING
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario
from papi_env.simulation.serving.tables import build_serving_tables

DEFAULT_PRESET = "saturated/llama-65b"
# Fields of the configuration that run.json leaves out or has by other names.
SAID_OTHERWISE = (
    "out",
    "trace",
    "scenarios",
    "entries",
    "export",
    *(field.name for field in fields(Reading)),
)
SPELLINGS = (Spelling("--preset", "--scenarios"), Spelling("--policies", "--entries"))


@dataclass(frozen=True, kw_only=True)
class Config(Reading):
    """Serve a preset or replay a trace under named policies."""

    scenarios: Scenarios = ()
    """A serving scenario: system, model, objectives, and without --trace the requests (default:
    saturated/llama-65b)."""
    entries: Entries = (DEFAULT,)
    """Policies, in the order of the table and the picture: registered ones, classes of your own as MODULE:CLASS,
    folders of learned ones; SYSTEM/ before one chooses another machine. `default` (the default) stands for threshold
    and heuristic."""
    model: Annotated[str | None, words("NAME")] = None
    """Take the preset of the same family on this model."""
    trace: Traces = ()
    """Here one, whose requests replace the preset's, with their times and lengths."""
    time_scale: Annotated[float, words("FLOAT")] = 1.0
    """Requests of --trace arrive this many times as fast (default: 1)."""
    start: Annotated[float | None, words("SECONDS")] = None
    """Start --trace here, in seconds after --time-scale (default: at its start, or with --window anywhere)."""
    window: Annotated[float | None, words("SECONDS")] = None
    """Length of the window of --trace, in seconds after --time-scale (default: to its end)."""
    conversations: Annotated[bool, Flag] = False
    """Rows of --trace whose hashes show that they go on from earlier ones, as Mooncake's traces have them, are turns of
    conversations; for scenarios all of whose classes have conversations, such as agents/llama-3.1-70b."""
    gantt: Annotated[tuple[float, float] | None, words("FROM TO")] = None
    """Draw this window of the first seed, in simulated seconds."""
    trace_json: Annotated[bool, Flag] = False
    """Write the window of --gantt (default: the whole episode) for a trace viewer."""
    export: Annotated[Path | None, words("FILE.parquet|FILE.csv")] = None
    """Write a row for each request, policy and seed: lengths, class, status and moments, in seconds. In the run folder
    `experiments.report` shows them."""
    seed: Seed = 0
    seeds: Annotated[int, words("INT", "How many seeds; the table shows means (default: 1).")] = 1
    out: Out = None


def resolve(config: Config) -> Scenario:
    """The scenario that `config` names.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    names = config.scenarios or (DEFAULT_PRESET,)
    if config.model is not None:
        for name in names:
            if "/" not in name or name.endswith(".toml"):
                raise ConfigurationError(
                    f"--model belongs to a preset such as {DEFAULT_PRESET}, not to {name!r}"
                )
        names = tuple(f"{name.partition('/')[0]}/{config.model}" for name in names)
    scenario, *others = serving_scenarios(names, env=problem_named(names[0]))
    if others or len(config.trace) > 1:
        option, given = ("--trace", config.trace) if len(config.trace) > 1 else ("--scenarios", names)
        shown = ", ".join(map(str, given))
        raise ConfigurationError(f"{option}: {shown} are several, expected one, whose requests are served")
    how = reading(config)
    if not config.trace:
        if how:
            name = next(iter(how)).replace("_", "-")
            raise ConfigurationError(f"--{name} belongs to --trace, which is not given")
        if config.time_scale != 1 or config.start is not None or config.window is not None:
            raise ConfigurationError(
                "--time-scale, --start and --window belong to --trace, which is not given"
            )
        if config.conversations:
            raise ConfigurationError("--conversations belongs to --trace, which is not given")
        return scenario
    return replay_scenario(
        scenario, config.trace[0], config.time_scale, config.start, config.window, how, config.conversations
    )


class Serving(Match):
    """Entries that serve the same requests, one after the other, because they are timed.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """

    name = "serve"
    function = staticmethod(timed_play)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.seeds = check_counts(config.seed, config.seeds)
        if config.export is not None:
            check_export(config.export, config.out)
        self.scenario = scenario = resolve(config)
        self.problem = problem_of(scenario)
        view = self.name if self.problem == SERVING else "serve serving-v1"
        self.entries = parse_all(config.entries, default_policies(view), known_systems([scenario]))
        for entry in self.entries:
            check_policy(entry.policy, self.problem)
            if entry.policy == BOUND:
                raise ConfigurationError(f"Entry {entry.label!r}: a bound serves no requests")
        build_serving_tables(scenario)  # says now what cannot be served at all
        home = scenario.system.name
        placed = [Entry(e.label, e.policies, e.system or home) for e in self.entries]
        self.cells = plan(placed, (), [scenario], self.seeds)
        refused = next((cell for cell in self.cells if cell.refusal), None)
        if refused is not None:
            raise ConfigurationError(f"Entry {refused.entry.label!r}: {refused.refusal}")
        self.recorders: list[Recorder] = []
        if config.gantt is not None or config.trace_json:
            start, end = (0.0, np.inf) if config.gantt is None else config.gantt
            self.recorders = [
                Recorder(f"{cell.entry.system}/{cell.policy}{cell.entry.marks}", start, end)
                for cell in self.cells
            ]

    def describe(self) -> dict[str, Any]:
        """See `Study`."""
        # Under the names that they had in earlier versions, whose runs go on too.
        asked = {key: value for key, value in asdict(self.config).items() if key not in SAID_OTHERWISE}
        if not asked["conversations"]:
            del asked["conversations"]
        return {
            **asked,
            **reading(self.config),
            "preset": (self.config.scenarios or (DEFAULT_PRESET,))[0],
            "policies": [entry.label for entry in self.entries],
            "scenario": self.scenario.model_dump(mode="json"),
            "policy_sources": {
                entry.policy: source
                for entry in self.entries
                if (source := policy_digest(entry.policy)) is not None
            },
            **({"trace_digest": file_digest(self.config.trace[0])} if self.config.trace else {}),
        }

    def remarks(self) -> list[str]:
        """What the trace was read as, and what was left out of it."""
        if not self.config.trace:
            return []
        assert self.scenario.serving is not None
        trace = self.scenario.serving.arrivals.read()
        skipped = f"; left out {trace.skipped} rows without tokens" if trace.skipped else ""
        note = f"; {trace.note}" if trace.note else ""
        return [f"{trace.path.name}: {len(trace)} requests, format {trace.format}{skipped}{note}"]

    def rehearse(self) -> None:
        """See `Study`."""
        rehearse(self.problem, self.cells)

    def jobs(self) -> list[Job]:
        """None together."""
        return []

    def jobs_alone(self) -> list[Job]:
        """One for each policy."""
        return list(self.played.values())

    def write(self, folder: RunFolder) -> dict[str, Any]:
        """Write results.csv, summary.json and what shows the window; returns what is printed."""
        frame = as_written(self.collect(folder), self.problem)
        folder.write("results.csv", frame.write_csv())
        summary = summarize(frame, self.scenario.name, self.problem)
        if self.classes:
            # In their order, which a record of the scenario does not keep.
            summary["classes"] = list(self.classes)
        folder.write("summary.json", json_text(summary))
        self._look_on()
        if self.config.gantt is not None:
            for recorder in self.recorders:
                check_window(recorder)
            folder.write("gantt.png", gantt_figure(self.recorders, self._heading()))
        if self.config.trace_json:
            folder.write("trace.json", json_text(trace_events(self.recorders), indent=None))
        return {"frame": frame, "wall_s": self._wall_s(folder)}

    def _look_on(self) -> None:
        """Play once more, with those who look on and are not timed, and export what became of the requests."""
        if not self.recorders and self.config.export is None:
            return
        tables = []
        for k, cell in enumerate(self.cells):
            assert cell.policy is not None
            ledger = Ledger(cell.entry.label, cell.seeds)
            watch = both(self.recorders[k], ledger) if self.recorders else ledger
            play(self.problem, cell.scenario, cell.policy, cell.seeds, watch)
            if self.recorders:
                self.recorders[k].conclude()
            tables.append(ledger.frame() if self.config.export is not None else None)
        if self.config.export is not None:
            export(pl.concat(table for table in tables if table is not None), self.config.export)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of requests; none where all are alike."""
        service = None if self.scenario.serving is None else self.scenario.serving.service
        return () if service is None else tuple(service.classes)

    def _wall_s(self, folder: RunFolder) -> dict[str, float]:
        """Seconds of each entry's replay."""
        return {
            cell.entry.label + cell.entry.marks: pl.read_csv(folder.result(job))["wall_s"][0]
            for cell, job in zip(self.cells, self.played.values(), strict=True)
        }

    def recorded(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """How long the replays took."""
        return {"replay_wall_s": {name: round(wall_s, 3) for name, wall_s in results["wall_s"].items()}}

    def report(self, console: Console, results: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        """Print means over the seeds."""
        print_report(console, self._heading(), results["frame"], results["wall_s"], self.classes)

    def _heading(self) -> str:
        config = self.config
        what = f"{config.trace[0].name}, {config.time_scale:g} x as fast" if config.trace else None
        return heading(self.scenario, self.seeds, what)


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Serve, write the run folder, whose path is returned, and print; see `conduct`."""
    with progress.status("reading scenarios and requests"):
        study = Serving(config)
    return conduct(study, config.out, Workers(jobs=1), command, console, progress)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("serve", Config, run, arguments, SPELLINGS)


if __name__ == "__main__":
    sys.exit(main())
