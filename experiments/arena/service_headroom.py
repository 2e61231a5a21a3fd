"""Headroom of Serving-v1: rules, planners and the bound on presets with classes, and what each choice is worth alone.

Rules are PAPI's threshold as published and with its best fixed rest, the best of all fixed actions, profile-greedy with
every order and shedding and with the best of everything, and those that are tuned. A planner tries what it might do on
copies of the machine: the fair one on futures that it imagines, the clairvoyant one, planner-star, on the true one. The
best of a kind is chosen on each preset by its return on seeds of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from agents.registry import is_slow
from agents.serving.choices import CHOICE_NAMES, SEPARATOR, WORDS
from experiments.arena.entries import (
    BEST_GREEDY,
    BOUND,
    FLOOR,
    Entry,
    check_policy,
    default_policies,
    known_systems,
    parse_all,
    policy_digest,
    stay_at_home,
)
from experiments.arena.frame import Match
from experiments.arena.play import Cell, rehearse
from experiments.arena.settings import as_settings
from experiments.arena.summaries import service as summaries
from experiments.arena.tables.service import print_report
from experiments.common.runner import RunFolder
from experiments.common.study import json_text
from papi_env.envs.registration import SERVING_V1
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario
from papi_env.workload.service_presets import FAMILIES, MODELS


class _Study(Match):
    """What both have: cells of entries on presets, a frame, and a report."""

    name, problem = "headroom", SERVING_V1
    scenarios: Sequence[Scenario]
    entries: Sequence[Entry]
    seeds: tuple[int, ...]

    def describe(self) -> dict[str, Any]:
        """See `Study`."""
        return {
            "problem": self.problem,
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

    def report(self, console: Console, results: Mapping[str, Any], session: Mapping[str, Any]) -> None:
        """Print G, leads, or what choices are worth."""
        print_report(console, results)


class ServiceHeadroom(_Study):
    """Entries, and the bound, on presets with classes.

    Args:
        scenarios: with classes of requests.
        entries: as written.
        seeds: of the instances.
        slow_seeds: how many of them planners play; None: all.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        entries: Sequence[str],
        seeds: tuple[int, ...],
        slow_seeds: int | None,
    ) -> None:
        if slow_seeds is not None and not 1 <= slow_seeds <= len(seeds):
            raise ConfigurationError(f"--slow-seeds is {slow_seeds}, expected 1 to {len(seeds)} (--seeds)")
        if not scenarios:
            raise ConfigurationError(
                "No presets: none has been measured (python -m experiments.presets --env papi_env/Serving-v1)"
            )
        if not entries:
            raise ConfigurationError("No entries: name at least one in --entries")
        self.scenarios, self.seeds = scenarios, seeds
        asked = (FLOOR, *entries)
        parsed = parse_all(asked, default_policies("headroom serving-v1"), known_systems(scenarios))
        self.entries = [entry for entry in parsed if entry.policy != BOUND]
        stay_at_home(self.entries, scenarios, "random choice and the bound are of the presets' own system")
        for entry in self.entries:
            check_policy(entry.policy, SERVING_V1)
        self.planners = {entry.label for entry in self.entries if is_slow(entry.policy)}
        if all(e.label in self.planners or e.privileged or e.label == FLOOR for e in self.entries):
            raise ConfigurationError(
                "No rule among the entries, which others are compared with; name one in --entries"
            )
        fewer = seeds[:slow_seeds]
        self.cells = [
            Cell(
                entry,
                setting,
                fewer if entry.label in self.planners else seeds,
                reference=entry.label == BOUND,
            )
            for entry in (*self.entries, Entry.of(BOUND))
            for setting in as_settings(scenarios)
        ]

    def describe(self) -> dict[str, Any]:
        """See `Study`."""
        slow = {cell.entry.label: len(cell.seeds) for cell in self.cells if cell.entry.label in self.planners}
        return {**super().describe(), "slow_seeds": slow}

    def write(self, folder: RunFolder) -> dict[str, Any]:
        """Write results.csv, summary.json and headroom.png; returns what summary.json holds."""
        # Pictures alone need matplotlib.
        from experiments.arena.figures.service import figure

        frame = summaries.as_written(self.collect(folder))
        privileged = {entry.label for entry in self.entries if entry.privileged}
        loads = {scenario.name: load_of(scenario.name) for scenario in self.scenarios}
        labels = [entry.label for entry in self.entries]
        summary = summaries.summarize(frame, loads, labels, privileged, self.planners)
        folder.write("results.csv", frame.write_csv())
        folder.write("summary.json", json_text(summary))
        folder.write("headroom.png", figure(summary))
        return summary


class ChoicesAlone(_Study):
    """The best profile-greedy, and it with one of the further choices at a time as in Serving-v0.

    Args:
        scenarios: with classes of requests.
        seeds: of the instances.
    """

    def __init__(self, scenarios: Sequence[Scenario], seeds: tuple[int, ...]) -> None:
        self.scenarios, self.seeds = scenarios, seeds
        self.variants = {name: f"{BEST_GREEDY}{SEPARATOR}{WORDS[name][0]}" for name in CHOICE_NAMES}
        self.entries = [Entry.of(policy) for policy in (BEST_GREEDY, *self.variants.values())]
        # All of a preset one after the other, for they share its search.
        self.cells = [
            Cell(entry, setting, seeds) for setting in as_settings(scenarios) for entry in self.entries
        ]

    def write(self, folder: RunFolder) -> dict[str, Any]:
        """Write results.csv, summary.json and alone.png; returns what summary.json holds."""
        # Pictures alone need matplotlib.
        from experiments.arena.figures.service import alone_figure

        frame = summaries.as_written(self.collect(folder))
        presets = [scenario.name for scenario in self.scenarios]
        summary = {
            "seeds": list(self.seeds),
            "alone": summaries.alone(frame, presets, BEST_GREEDY, self.variants),
        }
        folder.write("results.csv", frame.write_csv())
        folder.write("summary.json", json_text(summary))
        folder.write("alone.png", alone_figure(summary))
        return summary


def load_of(preset: str) -> float:
    """The load of a preset relative to capacity; NaN for a scenario that is none."""
    name, _, model = preset.partition("/")
    return FAMILIES[name].load if name in FAMILIES and model in MODELS else math.nan
