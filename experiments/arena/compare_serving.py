"""The part of `experiments.compare` that is particular to Serving-v0: its scenarios, and what is made of episodes.

Entries are compared by goodput: output tokens per simulated second of requests that met both latency objectives, of
an episode by itself, then the mean over seeds. The ratio to the baseline's goodput is one of means over the same
seeds, because an episode can end without any good token; over several scenarios it is their geometric mean. Tables
and picture are in `experiments.arena.compare_serving_report`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from agents.registry import make_policy
from experiments.arena.compare_serving_report import figure
from experiments.arena.entries import Cell, Entry, resolve_scenarios, serving_preset_names
from experiments.arena.headroom_report import SCHEMA
from experiments.common.runner import Job, RunFolder
from experiments.common.statistics import (
    Estimate,
    bootstrap_means,
    geometric_mean,
    interval_levels,
    mean_estimate,
)
from experiments.serve import REJECTED
from experiments.splitting.definition import SERVING
from papi_env.envs.serving import build_serving_scenario
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario
from papi_env.simulation.serving.measures import METRIC_NAMES

SCENARIOS = ("saturated/llama-65b", "bursty/llama-65b", "drifting/llama-65b")
# On the scenario's own system; the first is what goodput is measured against.
POLICIES = (
    "threshold",
    "threshold-spec2",
    "threshold-prefill-spec2",
    "adaptive-spec2",
    "heuristic",
    "profile-greedy",
    "learned",
    "random",
    "oracle",
)
BASELINE = POLICIES[0]
SEEDS = 8
# Options of the command line that say what a static batch is made of; a serving scenario says that itself.
BATCH_OPTIONS = (
    "requests",
    "input_column",
    "output_column",
    "category_column",
    "categories",
    "beyond_context",
    "batch_sizes",
    "speculation",
    "acceptance_rate",
)
MEASURES = (*METRIC_NAMES, *REJECTED)


def serving_grid(options: Mapping[str, Any]) -> list[Scenario]:
    """The scenarios that the command line asks for.

    Args:
        options: of `experiments.compare`, by field: `scenario`, `energy_weight`, `switch_s`, and `BATCH_OPTIONS`.

    Raises:
        ConfigurationError, DataError: an option of static batches is given, or a scenario cannot be used.
    """
    given = [f"--{name.replace('_', '-')}" for name in BATCH_OPTIONS if options[name] not in (None, ())]
    if given:
        raise ConfigurationError(
            f"{', '.join(given)}: not used with {SERVING}, where the scenario says what is requested (a .toml file "
            "takes other arrivals, lengths and acceptance rates) and policies choose batches and speculation"
        )
    names = serving_preset_names(options["scenario"] or SCENARIOS)
    scenarios = resolve_scenarios(names, energy_weight=options["energy_weight"], switch_s=options["switch_s"])
    return [build_serving_scenario(scenario) for scenario, _ in scenarios]


def collect(
    folder: RunFolder, cells: Sequence[Cell], jobs: Mapping[int, Job], seeds: Sequence[int]
) -> pl.DataFrame:
    """One row per cell and seed, in the order of the cells; `jobs`, of `headroom.play`, by index of their cell.

    What is not known, such as a latency of no request, is null. Cells that do not fit have rows too, with the reason
    in `note` and no numbers.
    """
    privileged = {name: make_policy(name).privileged for name in {cell.entry.policy for cell in cells}}
    parts = []
    for i, cell in enumerate(cells):
        if i in jobs:
            rows = pl.read_csv(folder.job_path(jobs[i]), schema=SCHEMA)
        else:
            rows = pl.DataFrame({"seed": list(seeds)}).with_columns(
                pl.lit(None, dtype=pl.Float64).alias(name) for name in MEASURES
            )
        assert cell.scenario.model is not None
        parts.append(
            rows.select(
                pl.lit(str(cell.entry)).alias("entry"),
                pl.lit(cell.entry.system).alias("system"),
                pl.lit(cell.entry.policy).alias("policy"),
                pl.lit(privileged[cell.entry.policy]).alias("privileged"),
                pl.lit(cell.reference).alias("reference"),
                pl.lit(cell.scenario.name).alias("scenario"),
                pl.lit(cell.scenario.model.name).alias("model"),
                pl.col("seed").cast(pl.Int64),
                pl.col(MEASURES).fill_nan(None),
                pl.lit(cell.refusal or None, dtype=pl.String).alias("note"),
            )
        )
    return pl.concat(parts)


def ratio_of_means(numerators: FloatArray, denominators: FloatArray) -> Estimate:
    """Geometric mean over strata of the ratio of two means over seeds, with its paired 95 % interval.

    Args:
        numerators, denominators: [strata, seeds], 0 or more, played on the same seeds; in every stratum some
            denominator is above 0.

    Returns:
        NaN for an end that is not bounded: too many resamples have nothing but zeros below the line. Those that have
        zeros above it as well have no ratio, and are left out.
    """
    if not numerators.size:
        return Estimate(float("nan"), float("nan"), float("nan"))
    seeds = numerators.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = geometric_mean(numerators.mean(axis=1) / denominators.mean(axis=1))
        if seeds < 2:
            return Estimate(value, float("nan"), float("nan"))
        logs = [
            np.log(bootstrap_means(above[None]) / bootstrap_means(below[None]))
            for above, below in zip(numerators, denominators, strict=True)
        ]
        low, high = np.nanquantile(np.exp(np.mean(logs, axis=0)), interval_levels(seeds))
    # Where all seeds agree, rounding must not leave the value outside.
    low, high = min(float(low), value), max(float(high), value)
    return Estimate(value, low, high if math.isfinite(high) else float("nan"))


class Results:
    """Rows of a run as arrays, entry by entry.

    Attributes:
        frame: what results.csv holds, as `collect` gives it.
        entries: in the order given, the baseline last where it was not asked for.
        scenarios, seeds: played by every entry.
        baseline: what goodput is measured against.
    """

    def __init__(self, frame: pl.DataFrame, baseline: Entry) -> None:
        self.frame, self.baseline = frame, str(baseline)
        self.entries: list[str] = frame["entry"].unique(maintain_order=True).to_list()
        self.scenarios: list[str] = frame["scenario"].unique(maintain_order=True).to_list()
        self.seeds: list[int] = frame["seed"].unique(maintain_order=True).to_list()
        self._rows = {
            str(entry): rows
            for (entry,), rows in frame.partition_by("entry", as_dict=True, maintain_order=True).items()
        }

    def of(self, entry: str, column: str) -> FloatArray:
        """A column of an entry's rows, float64 [scenarios, seeds]; NaN for what is not known or does not fit."""
        values = self._rows[entry][column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return values.reshape(len(self.scenarios), len(self.seeds))

    def summarise(self, entry: str, scenario: str | None = None) -> dict[str, Any]:
        """Figures of an entry over the instances of a scenario, or of all, as plain data."""
        goodput, base = self.of(entry, "goodput"), self.of(self.baseline, "goodput")
        asked = np.array([scenario in (None, name) for name in self.scenarios])
        kept = asked & ~np.isnan(goodput).any(axis=1)
        # A ratio needs both: the baseline may not fit where the entry does, or may serve nothing in time.
        paired = kept & (base.mean(axis=1) > 0)
        return {
            "scenarios": int(kept.sum()),
            "scenarios_with_ratio": int(paired.sum()),
            "goodput": _plain(mean_estimate(goodput[kept])),
            "ratio": _plain(ratio_of_means(goodput[paired], base[paired])),
            "means": {name: _known_mean(self.of(entry, name)[kept]) for name in MEASURES},
        }

    def notes(self, entry: str) -> list[str]:
        """Why an entry does not fit some scenarios: each with its sizes."""
        rows = self._rows[entry].filter(pl.col("note").is_not_null())
        found = rows.select("scenario", "note").unique(maintain_order=True)
        return [f"{scenario}: {note}" for scenario, note in found.iter_rows()]

    def summary(self) -> list[dict[str, Any]]:
        """Every entry's figures, overall and by scenario."""
        keys = ("entry", "system", "policy", "privileged", "reference")
        return [
            {
                **self._rows[entry].select(keys).row(0, named=True),
                **self.summarise(entry),
                "does_not_fit": self.notes(entry),
                "by_scenario": {name: self.summarise(entry, name) for name in self.scenarios},
            }
            for entry in self.entries
        ]


def write(
    folder: RunFolder,
    cells: Sequence[Cell],
    jobs: Mapping[int, Job],
    seeds: Sequence[int],
    baseline: Entry,
    known: Mapping[str, Any],
) -> dict[str, Any]:
    """Write results.csv, summary.json and compare.png from finished jobs; returns what summary.json holds.

    Args:
        folder, cells, jobs, seeds: see `collect`.
        baseline: what goodput is measured against.
        known: of the summary, what does not depend on the problem.
    """
    results = Results(collect(folder, cells, jobs, seeds), baseline)
    scenarios = {cell.scenario.name: cell.scenario for cell in cells}
    summary = {
        **known,
        "scenarios": results.scenarios,
        "instances": len(results.scenarios) * len(results.seeds),
        "seeds": results.seeds,
        "objectives": {
            name: scenario.serving.objectives.model_dump(mode="json")
            for name, scenario in scenarios.items()
            if scenario.serving is not None
        },
        "entries": results.summary(),
    }
    folder.write("results.csv", results.frame.write_csv())
    folder.write("summary.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    folder.write("compare.png", figure(summary))
    return summary


def _plain(estimate: Estimate) -> dict[str, float | None]:
    """An estimate as plain data, None for NaN."""
    return {name: None if math.isnan(x) else x for name, x in vars(estimate).items()}


def _known_mean(values: FloatArray) -> float | None:
    """Mean of what is known, or None."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
