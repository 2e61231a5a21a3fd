"""From finished jobs to rows, and from rows to a summary as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from agents.registry import make_policy
from experiments.arena.entries import Cell, Entry
from experiments.common.runner import Job, RunFolder
from experiments.common.statistics import (
    Estimate,
    geometric_mean,
    mean_estimate,
    ratio_estimate,
    regret_percent,
)
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS, System
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario
from papi_env.simulation.batch.engine import METRIC_NAMES

BASELINE = Entry("a100-attacc", "static")

_INTEGERS = ("seed", "tokens", "iterations", "switches", "invalid_actions", "stages", "images")
# What regret is split into, and how a table calls it.
REGRET_PARTS = {
    "qkv": "QKV",
    "attention": "attention",
    "projection": "proj.",
    "feed_forward": "feed-fwd",
    "repmlp_fc1_fc2": "FC1, FC2",
    "repmlp_fc3": "FC3",
    "repmlp_ffn": "FFN",
    "convolution": "conv.",
    "communication": "links",
    "switching": "switches",
}
_RAW = ("seed", "alpha", *METRIC_NAMES)
_RAW_SCHEMA = {name: pl.Int64 if name in _INTEGERS else pl.Float64 for name in _RAW}
# Derived from an instance's metrics and, for the last two, from its references.
_DERIVED = (
    "tokens_per_s",
    "joules_per_token",
    "dynamic_joules_per_token",
    "images_per_s",
    "joules_per_image",
    "speedup",
    "regret_percent",
)


def collect(
    folder: RunFolder, cells: Sequence[Cell], jobs: Mapping[int, Job], seeds: Sequence[int]
) -> pl.DataFrame:
    """One row per cell and seed, in the order of the cells; `jobs` by index of their cell.

    Cells that do not fit have rows too, with the reason in `note` and no numbers.
    """
    privileged = {name: make_policy(name).privileged for name in {cell.entry.policy for cell in cells}}
    parts = []
    for i, cell in enumerate(cells):
        if i in jobs:
            rows = pl.read_csv(folder.job_path(jobs[i]), schema=_RAW_SCHEMA)
        else:
            rows = pl.DataFrame({"seed": list(seeds)}, schema={"seed": pl.Int64})
            rows = rows.with_columns(pl.lit(None, dtype=_RAW_SCHEMA[name]).alias(name) for name in _RAW[1:])
        scenario, workload = cell.scenario, cell.scenario.workload
        batch, speculation = (None, None) if workload is None else (workload.batch_size, workload.speculation)
        if scenario.model is not None:
            model = scenario.model.name
        else:
            assert scenario.images is not None
            model = scenario.images.network.name
        static_w = scenario.system.static_power_w
        # Nothing decoded, or nothing encoded, has no rate.
        tokens, images = (pl.when(pl.col(name) > 0).then(pl.col(name)) for name in ("tokens", "images"))
        parts.append(
            rows.select(
                pl.lit(str(cell.entry)).alias("entry"),
                pl.lit(cell.entry.system).alias("system"),
                pl.lit(cell.entry.policy).alias("policy"),
                pl.lit(privileged[cell.entry.policy]).alias("privileged"),
                pl.lit(cell.reference).alias("reference"),
                pl.lit(scenario.name).alias("scenario"),
                pl.lit(model).alias("model"),
                pl.lit(batch, dtype=pl.Int64).alias("batch_size"),
                pl.lit(speculation, dtype=pl.Int64).alias("speculation"),
                *_RAW,
                (tokens / pl.col("total_s")).alias("tokens_per_s"),
                (pl.col("total_j") / tokens).alias("joules_per_token"),
                ((pl.col("total_j") - static_w * pl.col("total_s")) / tokens).alias(
                    "dynamic_joules_per_token"
                ),
                (images / pl.col("total_s")).alias("images_per_s"),
                (pl.col("total_j") / images).alias("joules_per_image"),
                pl.lit(cell.refusal or None, dtype=pl.String).alias("note"),
            )
        )
    return pl.concat(parts)


class Results:
    """Rows of a run as arrays, entry by entry, with what is measured against the references.

    Attributes:
        frame: one row per entry, setting and seed, entry by entry; what results.csv holds.
        entries: in the order given, references last.
        settings: (scenario, batch size, speculation length) of each stratum; None where nothing decodes.
        seeds: played in every stratum.
        baseline: what speed-up is measured against.
        by_class: whether summaries split regret by kernel class.
    """

    def __init__(self, frame: pl.DataFrame, baseline: Entry = BASELINE, by_class: bool = False) -> None:
        self.baseline, self.by_class = baseline, by_class
        keys = frame.select("entry", "system", "policy", "privileged", "reference").unique(
            maintain_order=True
        )
        self.entries = [
            Entry(system, policy) for system, policy in keys.select("system", "policy").iter_rows()
        ]
        self.privileged = dict(zip(self.entries, keys["privileged"], strict=True))
        self.reference = dict(zip(self.entries, keys["reference"], strict=True))
        strata = frame.select("scenario", "batch_size", "speculation").unique(maintain_order=True)
        self.settings: list[tuple[str, int | None, int | None]] = list(strata.iter_rows())
        self.scenarios = list(dict.fromkeys(scenario for scenario, _, _ in self.settings))
        self.seeds: list[int] = frame["seed"].unique(maintain_order=True).to_list()
        self.frame = frame
        speedup = np.concatenate([self._against(e, baseline, "total_s") for e in self.entries])
        regret = np.concatenate(
            [regret_percent(self.of(e, "return"), self.of(e.oracle, "return")) for e in self.entries]
        )
        self.frame = frame.with_columns(
            pl.Series("speedup", speedup.ravel(), nan_to_null=True),
            pl.Series("regret_percent", regret.ravel(), nan_to_null=True),
        ).select(*(name for name in frame.columns if name not in (*_DERIVED, "note")), *_DERIVED, "note")

    def of(self, entry: Entry, column: str) -> FloatArray:
        """A column of an entry's rows, float64 [settings, seeds]; NaN where the setting does not fit."""
        rows = len(self.settings) * len(self.seeds)
        start = self.entries.index(entry) * rows
        values = self.frame[column].slice(start, rows).cast(pl.Float64).to_numpy()
        return values.reshape(len(self.settings), len(self.seeds))

    def _against(self, entry: Entry, reference: Entry, column: str) -> FloatArray:
        return self.of(reference, column) / self.of(entry, column)

    def strata(self, entry: Entry, scenario: str | None = None) -> npt.NDArray[np.bool_]:
        """Bool [settings]: those of the scenario, or all, that the entry fits."""
        asked = np.array([scenario in (None, name) for name, _, _ in self.settings])
        fits = ~np.isnan(self.of(entry, "total_s")).any(axis=1)
        return np.asarray(asked & fits)

    def notes(self, entry: Entry) -> list[str]:
        """Why an entry does not fit some settings: each with its sizes."""
        rows = self.frame.filter((pl.col("entry") == str(entry)) & pl.col("note").is_not_null())
        rows = rows.select("scenario", "batch_size", "note").unique(maintain_order=True)
        return [
            f"{scenario}: {note}" if batch is None else f"{scenario}, batch {batch}: {note}"
            for scenario, batch, note in rows.iter_rows()
        ]

    def summarise(self, entry: Entry, scenario: str | None = None) -> dict[str, Any]:
        """Figures of an entry over the instances of a scenario, or of all, as plain data."""
        kept = self.strata(entry, scenario)
        # A ratio needs both: the baseline may not fit where the entry does.
        paired = kept & self.strata(self.baseline)
        gains = {
            name: _plain(
                ratio_estimate(self.of(self.baseline, column)[paired], self.of(entry, column)[paired])
            )
            for name, column in (("speedup", "total_s"), ("energy_gain", "total_j"))
        }
        means = {name: _number(geometric_mean(self.of(entry, name)[kept])) for name in _DERIVED[:-2]}
        split = {"regret_by_class": self.regret_by_class(entry, kept)} if self.by_class else {}
        return {
            "settings": int(kept.sum()),
            "settings_with_baseline": int(paired.sum()),
            "instances": int(kept.sum()) * len(self.seeds),
            **gains,
            **means,
            "regret_percent": _plain(mean_estimate(self.of(entry, "regret_percent")[kept])),
            **split,
            "invalid_actions": int(self.of(entry, "invalid_actions")[kept].sum()),
        }

    def regret_by_class(self, entry: Entry, kept: npt.NDArray[np.bool_]) -> dict[str, float | None]:
        """Seconds above the oracle's by kernel class, links and switches, in % of the oracle's time without prefill.

        Means over instances. Their sum is the regret where energy weighs nothing; a part can be negative.
        """
        total = self.of(entry.oracle, "time_s")[kept]
        parts = {}
        for part in REGRET_PARTS:
            above = self.of(entry, f"{part}_s")[kept] - self.of(entry.oracle, f"{part}_s")[kept]
            parts[part] = _number(float((100 * above / total).mean())) if above.size else None
        return parts

    def summary(self) -> list[dict[str, Any]]:
        """Every entry's figures, overall and by scenario."""
        return [
            {
                "entry": str(entry),
                "system": entry.system,
                "policy": entry.policy,
                "privileged": self.privileged[entry],
                "reference": self.reference[entry],
                **self.summarise(entry),
                "does_not_fit": self.notes(entry),
                "by_scenario": {name: self.summarise(entry, name) for name in self.scenarios},
            }
            for entry in self.entries
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


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {
        "value": _number(estimate.value),
        "low": _number(estimate.low),
        "high": _number(estimate.high),
    }


def readings(systems: Sequence[System]) -> dict[str, list[str]]:
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
