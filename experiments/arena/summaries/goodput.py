"""Serving presets: goodput, its ratio to the baseline's, and means of everything measured.

Goodput is output tokens per simulated second of requests that met both latency objectives, of an episode by itself,
then the mean over seeds. The ratio to the baseline's goodput is one of means over the same seeds, because an episode
can end without any good token; over several scenarios it is their geometric mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from experiments.arena.estimators.seeds import known_mean, plain, ratio_of_means
from experiments.arena.measures import measures
from experiments.arena.summaries.energy import shares_of_energy
from experiments.common.statistics import (
    mean_estimate,
)
from experiments.splitting.definition import SERVING
from papi_env.envs.registration import SERVING_V1
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario

# What entries are compared by, of problems that are not compared by goodput: G, the worth served in time over the worth
# offered.
FIGURES = {SERVING_V1: "g"}


def as_written(frame: pl.DataFrame, problem: str = SERVING) -> pl.DataFrame:
    """The frame as results.csv has it: what is not known, such as a latency of no request, is null."""
    return frame.select(
        *("entry", "system", "policy", "privileged", "reference", "scenario", "model", "seed"),
        pl.col(measures(problem)).cast(pl.Float64).fill_nan(None),
        "note",
    )


class Results:
    """Rows of a run as arrays, entry by entry.

    Attributes:
        frame: what results.csv holds, see `as_written`.
        entries: in the order given, the baseline last where it was not asked for.
        scenarios, seeds: played by every entry.
        baseline: what goodput is measured against.
        figure: the measure that is compared: goodput, or see `FIGURES`.
    """

    def __init__(self, frame: pl.DataFrame, baseline: str, problem: str = SERVING) -> None:
        frame = as_written(frame, problem)
        self.frame, self.baseline = frame, baseline
        self.figure, self._measures = FIGURES.get(problem, "goodput"), measures(problem)
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
        goodput, base = self.of(entry, self.figure), self.of(self.baseline, self.figure)
        asked = np.array([scenario in (None, name) for name in self.scenarios])
        kept = asked & ~np.isnan(goodput).any(axis=1)
        # A ratio needs both: the baseline may not fit where the entry does, or may serve nothing in time.
        paired = kept & (base.mean(axis=1) > 0)
        return {
            "scenarios": int(kept.sum()),
            "scenarios_with_ratio": int(paired.sum()),
            self.figure: plain(mean_estimate(goodput[kept])),
            "ratio": plain(ratio_of_means(goodput[paired], base[paired])),
            "energy_by_cause": shares_of_energy(lambda name: self.of(entry, name)[kept]),
            "means": {name: known_mean(self.of(entry, name)[kept]) for name in self._measures},
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


def summarize(results: Results, scenarios: Sequence[Scenario]) -> dict[str, Any]:
    """What summary.json holds of instances, objectives and entries."""
    return {
        **({} if results.figure == "goodput" else {"figure": results.figure}),
        "scenarios": results.scenarios,
        "instances": len(results.scenarios) * len(results.seeds),
        "seeds": results.seeds,
        "objectives": {
            scenario.name: scenario.serving.objectives.model_dump(mode="json")
            for scenario in scenarios
            if scenario.serving is not None
        },
        "entries": results.summary(),
    }
