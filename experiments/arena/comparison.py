"""Entries on the same instances, as a study: what is played against which references, and what is made of it.

Static batches and image encodes are compared by speed-up and regret (`summaries.speedup`), serving presets by goodput
(`summaries.goodput`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console

from experiments.arena.entries import (
    BASELINES,
    REFERENCE,
    Entry,
    default_entries,
    known_systems,
    parse,
    parse_all,
    policy_digest,
)
from experiments.arena.frame import Match
from experiments.arena.play import Cell, rehearse
from experiments.arena.settings import has_experts, refusal, trace_digest
from experiments.arena.summaries import goodput, speedup
from experiments.arena.tables import goodput as goodput_table
from experiments.arena.tables import speedup as speedup_table
from experiments.common.problems import SERVED
from experiments.common.runner import RunFolder
from experiments.common.study import json_text
from experiments.splitting.definition import KERNELS, Setting
from experiments.splitting.parts import trace_paths
from papi_env.envs.registration import SERVING_V1
from papi_env.errors import ConfigurationError, unknown_name
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS, SYSTEMS, System
from papi_env.scenario import Scenario


@dataclass(frozen=True)
class Readings:
    """How the paper's ambiguous figures are read, for all systems; None: as each system says.

    Attributes:
        gpu_bandwidth, bank_rate: see `System.with_readings`.
        constants: the registered systems as they are, or with what `experiments.reproduce` fitted.
    """

    gpu_bandwidth: str | None = None
    bank_rate: str | None = None
    constants: Literal["plain", "reproduction"] = "plain"

    def of(self, system: System) -> System:
        """A system under these readings. Raises ConfigurationError: fitted constants are of registered ones."""
        if self.constants == "reproduction":
            system = _reproduction(system)
        return system.with_readings(self.gpu_bandwidth, self.bank_rate)


def _reproduction(system: System) -> System:
    # Here, because it takes the engine along, and few comparisons need it.
    from experiments.paper.calibration import REPRODUCTION
    from experiments.paper.readings import build_system

    if SYSTEMS.get(system.name) != system:
        raise ConfigurationError(
            f"System {system.name!r} is a scenario's own; fitted constants are those of registered systems: "
            f"{', '.join(sorted(SYSTEMS))}"
        )
    return build_system(REPRODUCTION, system.name)


def plan(
    entries: Sequence[Entry],
    references: Sequence[Entry],
    scenarios: Sequence[Scenario],
    seeds: tuple[int, ...] = (0,),
    readings: Readings | None = None,
) -> list[Cell]:
    """Every entry, then every reference, on every scenario.

    An entry's system is the scenario's own if that has the name, else the registered one; readings
    apply to all of them.

    Raises:
        ConfigurationError: an unknown system, or one that has no fitted constants.
    """
    known, readings = known_systems(scenarios), readings or Readings()
    cells = []
    for entry in (*entries, *references):
        if entry.system not in known:
            raise unknown_name("system", entry.system, known)
        for scenario in scenarios:
            own = scenario.system.name == entry.system
            system = readings.of(scenario.system if own else known[entry.system])
            setting = Setting(scenario.name, scenario.replace(system=system))
            reference = entry not in entries
            cells.append(Cell(entry, setting, seeds, reference=reference, refusal=refusal(setting.scenario)))
    return cells


class Comparison(Match):
    """Entries on scenarios with everything looked up.

    Args:
        problem: id of the environment.
        scenarios: what is played, with batch sizes and speculation lengths.
        entries: as written, `default` for the default ones; those that name no system play on papi, or on the first
            scenario's own where nothing decodes, where experts are dispatched, and in serving.
        baseline: what speed-up and goodput are measured against; None: the default one.
        seeds: of the instances.
        readings: of the paper's ambiguous figures.

    Raises:
        ConfigurationError: an entry cannot be used, or none fits any scenario.
    """

    name = "compare"

    def __init__(
        self,
        problem: str,
        scenarios: Sequence[Scenario],
        entries: Sequence[str],
        baseline: str | None,
        seeds: tuple[int, ...],
        readings: Readings | None = None,
    ) -> None:
        self.problem, self.scenarios, self.seeds = problem, tuple(scenarios), seeds
        self.readings = readings or Readings()
        self.serving = problem in SERVED
        # Where no scenario decodes, systems of six GPUs are no measure.
        images = all(scenario.model is None for scenario in scenarios)
        experts = problem == KERNELS and all(map(has_experts, scenarios))
        served = "serving-v1" if problem == SERVING_V1 else "serving"
        kind = served if self.serving else "images" if images else "experts" if experts else "decode"
        own = {scenario.system.name: scenario.system for scenario in scenarios}
        home = "papi" if kind == "decode" else scenarios[0].system.name
        known = known_systems(scenarios)
        self.entries = parse_all(entries, default_entries(f"compare {kind}", own), known, home)
        usual = BASELINES[0] if kind == "decode" else f"{home}/{REFERENCE if self.serving else 'static'}"
        self.baseline = parse(baseline or usual, known, home)
        measures = [self.baseline]
        if not self.serving:
            measures += [entry.oracle for entry in (self.baseline, *self.entries)]
        references = [entry for entry in dict.fromkeys(measures) if entry not in self.entries]
        self.cells = tuple(plan(self.entries, references, self.scenarios, seeds, self.readings))
        if all(cell.refusal for cell in self.cells if not cell.reference):
            raise ConfigurationError(f"No scenario fits any entry's system. {self.cells[0].refusal}")

    def describe(self) -> dict[str, Any]:
        """See `Study`."""
        systems = {cell.entry.system: cell.scenario.system for cell in reversed(self.cells)}
        policies = {cell.entry.policy for cell in self.cells}
        return {
            "problem": self.problem,
            "entries": [entry.label for entry in self.entries],
            "references": [e.label for e in dict.fromkeys(c.entry for c in self.cells if c.reference)],
            "baseline": self.baseline.label,
            "seeds": {"first": self.seeds[0], "count": len(self.seeds)},
            "readings": vars(self.readings),
            # A scenario's own system stands for its name there; `systems` are those of the first scenario.
            "systems": {name: system.model_dump(mode="json") for name, system in systems.items()},
            "settings": [scenario.model_dump(mode="json") for scenario in self.scenarios],
            "traces": {path: trace_digest(s) for s in self.scenarios for path in trace_paths(s)},
            "policy_sources": {
                name: source for name in sorted(policies) if (source := policy_digest(name)) is not None
            },
        }

    def rehearse(self) -> None:
        """See `Study`."""
        rehearse(self.problem, self.cells)

    def write(self, folder: RunFolder) -> dict[str, Any]:
        """Write results.csv, summary.json and compare.png; returns what summary.json holds."""
        # Pictures alone need matplotlib.
        from experiments.arena.figures import goodput as goodput_figure
        from experiments.arena.figures import speedup as speedup_figure

        systems = {cell.entry: cell.scenario.system for cell in self.cells}
        summary: dict[str, Any] = {
            "baseline": self.baseline.label,
            "problem": self.problem,
            # Where a name means the scenario's own system although another one is registered under it.
            "own_systems": {
                s.name: s.system.name
                for s in self.scenarios
                if SYSTEMS.get(s.system.name, s.system) != s.system
            },
            "readings": readings_of(list(systems.values())),
            "constants": self.readings.constants,
        }
        frame = self.collect(folder)
        if self.serving:
            served = goodput.Results(frame, self.baseline.label, self.problem)
            table, summary = served.frame, summary | goodput.summarize(served, self.scenarios)
        else:
            results = speedup.Results(frame, self.baseline.label, self.problem == KERNELS)
            table, summary = results.frame, summary | speedup.summarize(results, self.scenarios)
        figure = goodput_figure.figure if self.serving else speedup_figure.figure
        folder.write("results.csv", table.write_csv())
        folder.write("summary.json", json_text(summary))
        folder.write("compare.png", figure(summary))
        return summary

    def report(self, console: Console, results: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        """Print the tables and what must be known to read them."""
        table = goodput_table if self.serving else speedup_table
        table.print_report(console, results, session)


def readings_of(systems: Sequence[System]) -> dict[str, list[str]]:
    """The readings of PAPI's ambiguous figures that the systems use, in words."""
    bandwidths, cadences = [], []
    for system in systems:
        if system.pu is not None:
            rate = system.pu.memory_bandwidth
            name = next((key for key, value in GPU_BANDWIDTH_READINGS.items() if value == rate), "own")
            known = f" ({name})" if system.pu.name == "A100" else ""
            bandwidths.append(f"{system.pu.name} {rate / 1e9:.0f} GB/s{known}")
        for unit in (system.fc_pim, system.attn_pim):
            if unit is not None:
                clocks = unit.cadence_clocks
                name = next((key for key, value in BANK_RATE_READINGS.items() if value == clocks), "own")
                cadences.append(f"a command every {clocks:g} clocks ({name})")
    return {
        "gpu_bandwidth": list(dict.fromkeys(bandwidths)),
        "bank_rate": list(dict.fromkeys(cadences)),
    }
