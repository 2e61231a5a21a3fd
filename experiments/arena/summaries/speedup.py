"""Static batches and image encodes: speed-up, energy gain, rates, and regret against the oracle of the same system."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from experiments.arena.entries import (
    ORACLE,
    Entry,
)
from experiments.arena.estimators.seeds import number, plain
from experiments.arena.measures import EXPERT_NAMES, REGRET_PARTS, measures
from experiments.arena.summaries.energy import shares_of_energy
from experiments.common.statistics import (
    geometric_mean,
    mean_estimate,
    ratio_estimate,
    regret_percent,
)
from experiments.splitting.definition import DECODE
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario

# Derived from an instance's metrics.
_DERIVED = (
    "tokens_per_s",
    "joules_per_token",
    "dynamic_joules_per_token",
    "images_per_s",
    "joules_per_image",
)


def derived(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with what follows from an instance's own measures, in the order of results.csv."""
    # Nothing decoded, or nothing encoded, has no rate.
    tokens, images = (pl.when(pl.col(name) > 0).then(pl.col(name)) for name in ("tokens", "images"))
    total_s, total_j = pl.col("total_s"), pl.col("total_j")
    return frame.select(
        *("entry", "system", "policy", "privileged", "reference", "scenario", "model", "batch_size"),
        *("speculation", "seed", *measures(DECODE)),
        *(name for name in EXPERT_NAMES if name in frame.columns),
        (tokens / total_s).alias("tokens_per_s"),
        (total_j / tokens).alias("joules_per_token"),
        ((total_j - pl.col("static_w") * total_s) / tokens).alias("dynamic_joules_per_token"),
        (images / total_s).alias("images_per_s"),
        (total_j / images).alias("joules_per_image"),
        "note",
    )


class Results:
    """Rows of a run as arrays, entry by entry, with what is measured against the references.

    Attributes:
        frame: one row per entry, setting and seed, entry by entry; what results.csv holds.
        entries: labels in the order given, references last; with their keys in the frame.
        settings: (scenario, batch size, speculation length) of each stratum; None where nothing decodes.
        seeds: played in every stratum.
        baseline: what speed-up is measured against.
        by_class: whether summaries split regret by kernel class.
    """

    def __init__(self, frame: pl.DataFrame, baseline: str, by_class: bool = False) -> None:
        self.baseline, self.by_class = baseline, by_class
        self.frame = frame = derived(frame)
        keys = frame.select("entry", "system", "policy", "privileged", "reference")
        self.entries = {row["entry"]: row for row in keys.unique(maintain_order=True).to_dicts()}
        self._at = {entry: i for i, entry in enumerate(self.entries)}
        strata = frame.select("scenario", "batch_size", "speculation").unique(maintain_order=True)
        self.settings: list[tuple[str, int | None, int | None]] = list(strata.iter_rows())
        self.scenarios = list(dict.fromkeys(scenario for scenario, _, _ in self.settings))
        self.seeds: list[int] = frame["seed"].unique(maintain_order=True).to_list()
        total = self.of(baseline, "total_s")
        speedup = np.concatenate([total / self.of(entry, "total_s") for entry in self.entries])
        regret = np.concatenate(
            [regret_percent(self.of(e, "return"), self.of(self._oracle(e), "return")) for e in self.entries]
        )
        self.frame = frame.with_columns(
            pl.Series("speedup", speedup.ravel(), nan_to_null=True),
            pl.Series("regret_percent", regret.ravel(), nan_to_null=True),
        ).select(*(name for name in frame.columns if name != "note"), "speedup", "regret_percent", "note")

    def _oracle(self, entry: str) -> str:
        """The entry that this one's regret is measured against."""
        return Entry.of(ORACLE, self.entries[entry]["system"]).label

    def of(self, entry: str, column: str) -> FloatArray:
        """A column of an entry's rows, float64 [settings, seeds]; NaN where the setting does not fit."""
        rows = len(self.settings) * len(self.seeds)
        start = self._at[entry] * rows
        values = self.frame[column].slice(start, rows).cast(pl.Float64).to_numpy()
        return values.reshape(len(self.settings), len(self.seeds))

    def strata(self, entry: str, scenario: str | None = None) -> npt.NDArray[np.bool_]:
        """Bool [settings]: those of the scenario, or all, that the entry fits."""
        asked = np.array([scenario in (None, name) for name, _, _ in self.settings])
        fits = ~np.isnan(self.of(entry, "total_s")).any(axis=1)
        return np.asarray(asked & fits)

    def notes(self, entry: str) -> list[str]:
        """Why an entry does not fit some settings: each with its sizes."""
        rows = self.frame.filter((pl.col("entry") == entry) & pl.col("note").is_not_null())
        rows = rows.select("scenario", "batch_size", "note").unique(maintain_order=True)
        return [
            f"{scenario}: {note}" if batch is None else f"{scenario}, batch {batch}: {note}"
            for scenario, batch, note in rows.iter_rows()
        ]

    def summarise(self, entry: str, scenario: str | None = None) -> dict[str, Any]:
        """Figures of an entry over the instances of a scenario, or of all, as plain data."""
        kept = self.strata(entry, scenario)
        # A ratio needs both: the baseline may not fit where the entry does.
        paired = kept & self.strata(self.baseline)
        gains = {
            name: plain(
                ratio_estimate(self.of(self.baseline, column)[paired], self.of(entry, column)[paired])
            )
            for name, column in (("speedup", "total_s"), ("energy_gain", "total_j"))
        }
        means = {name: number(geometric_mean(self.of(entry, name)[kept])) for name in _DERIVED}
        split = {"regret_by_class": self.regret_by_class(entry, kept)} if self.by_class else {}
        return {
            "settings": int(kept.sum()),
            "settings_with_baseline": int(paired.sum()),
            "instances": int(kept.sum()) * len(self.seeds),
            **gains,
            **means,
            "energy_by_cause": shares_of_energy(lambda name: self.of(entry, name)[kept]),
            "regret_percent": plain(mean_estimate(self.of(entry, "regret_percent")[kept])),
            **split,
            "invalid_actions": int(self.of(entry, "invalid_actions")[kept].sum()),
        }

    def regret_by_class(self, entry: str, kept: npt.NDArray[np.bool_]) -> dict[str, float | None]:
        """Seconds above the oracle's by kernel class, links and switches, in % of the oracle's time without prefill.

        Means over instances. Their sum is the regret where energy weighs nothing; a part can be negative.
        """
        total = self.of(self._oracle(entry), "time_s")[kept]
        parts = {}
        for part in (part for part in REGRET_PARTS if f"{part}_s" in self.frame.columns):
            above = self.of(entry, f"{part}_s")[kept] - self.of(self._oracle(entry), f"{part}_s")[kept]
            parts[part] = number(float((100 * above / total).mean())) if above.size else None
        return parts

    def summary(self) -> list[dict[str, Any]]:
        """Every entry's figures, overall and by scenario."""
        return [
            {
                **keys,
                **self.summarise(entry),
                "does_not_fit": self.notes(entry),
                "by_scenario": {name: self.summarise(entry, name) for name in self.scenarios},
            }
            for entry, keys in self.entries.items()
        ]

    def alphas(self) -> dict[str, dict[str, list[float]]]:
        """PAPI's thresholds by system and model, where the system has a choice (several if scenarios differ)."""
        found: dict[str, dict[str, list[float]]] = {}
        rows = self.frame.select("system", "model", "alpha").drop_nulls().unique(maintain_order=True)
        for system, model, alpha in rows.iter_rows():
            if 0 < alpha < math.inf:
                found.setdefault(system, {}).setdefault(model, []).append(alpha)
        return found


def populations(scenarios: Sequence[Scenario]) -> dict[str, dict[str, Any]]:
    """The requests of each scenario that decodes, and how many of them exceed the model's context."""
    found = {}
    for scenario in scenarios:
        if scenario.model is None:
            continue
        population = scenario.population()
        mean_input, mean_output = population.means
        limit = scenario.model.context_limit - scenario.image_tokens
        beyond = int((population.lengths.sum(axis=1) > limit).sum())
        found[scenario.name] = {
            "source": population.source,
            "requests": len(population),
            "left_out": population.excluded,
            "truncated": population.truncated,
            "extrapolated": beyond,
            "mean_input": mean_input,
            "mean_output": mean_output,
        }
    return found


def summarize(results: Results, scenarios: Sequence[Scenario]) -> dict[str, Any]:
    """What summary.json holds of instances, requests and entries."""
    return {
        "scenarios": results.scenarios,
        "settings": len(results.settings),
        "instances": len(results.settings) * len(results.seeds),
        "seeds": results.seeds,
        "requests": populations(scenarios),
        "alpha": results.alphas(),
        "acceptance_rates": sorted({s.workload.acceptance_rate for s in scenarios if s.workload is not None}),
        "entries": results.summary(),
    }
