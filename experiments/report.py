"""From finished jobs to rows, from rows to a summary, from the summary to what is printed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console
from rich.table import Table

from agents.registry import make_policy
from experiments.entries import Cell, Entry
from experiments.runner import Job, RunFolder
from experiments.statistics import (
    ENOUGH_SEEDS,
    Estimate,
    geometric_mean,
    mean_estimate,
    ratio_estimate,
    regret_percent,
)
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS, System
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario
from papi_env.simulation.engine import METRIC_NAMES

BASELINE = Entry("a100-attacc", "static")

_INTEGERS = ("seed", "tokens", "iterations", "switches", "invalid_actions")
_RAW = ("seed", "alpha", *METRIC_NAMES)
_RAW_SCHEMA = {name: pl.Int64 if name in _INTEGERS else pl.Float64 for name in _RAW}
# Derived from an instance's metrics and, for the last two, from its references.
_DERIVED = ("tokens_per_s", "joules_per_token", "dynamic_joules_per_token", "speedup", "regret_percent")
_SCENARIOS_ABREAST = 6


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
        workload = cell.scenario.workload
        static_w = cell.scenario.system.static_power_w
        parts.append(
            rows.select(
                pl.lit(str(cell.entry)).alias("entry"),
                pl.lit(cell.entry.system).alias("system"),
                pl.lit(cell.entry.policy).alias("policy"),
                pl.lit(privileged[cell.entry.policy]).alias("privileged"),
                pl.lit(cell.reference).alias("reference"),
                pl.lit(cell.scenario.name).alias("scenario"),
                pl.lit(cell.scenario.model.name).alias("model"),
                pl.lit(workload.batch_size).alias("batch_size"),
                pl.lit(workload.speculation).alias("speculation"),
                *_RAW,
                (pl.col("tokens") / pl.col("total_s")).alias("tokens_per_s"),
                (pl.col("total_j") / pl.col("tokens")).alias("joules_per_token"),
                ((pl.col("total_j") - static_w * pl.col("total_s")) / pl.col("tokens")).alias(
                    "dynamic_joules_per_token"
                ),
                pl.lit(cell.refusal or None, dtype=pl.String).alias("note"),
            )
        )
    return pl.concat(parts)


class Results:
    """Rows of a run as arrays, entry by entry, with what is measured against the references.

    Attributes:
        frame: one row per entry, setting and seed, entry by entry; what results.csv holds.
        entries: in the order given, references last.
        settings: (scenario, batch size, speculation length) of each stratum.
        seeds: played in every stratum.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        keys = frame.select("entry", "system", "policy", "privileged", "reference").unique(
            maintain_order=True
        )
        self.entries = [
            Entry(system, policy) for system, policy in keys.select("system", "policy").iter_rows()
        ]
        self.privileged = dict(zip(self.entries, keys["privileged"], strict=True))
        self.reference = dict(zip(self.entries, keys["reference"], strict=True))
        strata = frame.select("scenario", "batch_size", "speculation").unique(maintain_order=True)
        self.settings: list[tuple[str, int, int]] = list(strata.iter_rows())
        self.scenarios = list(dict.fromkeys(scenario for scenario, _, _ in self.settings))
        self.seeds: list[int] = frame["seed"].unique(maintain_order=True).to_list()
        self.frame = frame
        speedup = np.concatenate([self._against(e, BASELINE, "total_s") for e in self.entries])
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
        return [f"{scenario}, batch {batch}: {note}" for scenario, batch, note in rows.iter_rows()]

    def summarise(self, entry: Entry, scenario: str | None = None) -> dict[str, Any]:
        """Figures of an entry over the instances of a scenario, or of all, as plain data."""
        kept = self.strata(entry, scenario)
        # A ratio needs both: the baseline may not fit where the entry does.
        paired = kept & self.strata(BASELINE)
        gains = {
            name: _plain(ratio_estimate(self.of(BASELINE, column)[paired], self.of(entry, column)[paired]))
            for name, column in (("speedup", "total_s"), ("energy_gain", "total_j"))
        }
        means = {
            name: _number(geometric_mean(self.of(entry, name)[kept]))
            for name in ("tokens_per_s", "joules_per_token", "dynamic_joules_per_token")
        }
        return {
            "settings": int(kept.sum()),
            "settings_with_baseline": int(paired.sum()),
            "instances": int(kept.sum()) * len(self.seeds),
            **gains,
            **means,
            "regret_percent": _plain(mean_estimate(self.of(entry, "regret_percent")[kept])),
            "invalid_actions": int(self.of(entry, "invalid_actions")[kept].sum()),
        }

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
    """The requests of each scenario, and how many of them exceed the model's context."""
    found = {}
    for scenario in scenarios:
        population = scenario.population()
        mean_input, mean_output = population.means
        beyond = int((population.lengths.sum(axis=1) > scenario.model.context_limit).sum())
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


def _interval(estimate: Mapping[str, float | None], digits: int) -> str:
    """`value [low, high]`, without the brackets where there is no interval."""
    # Adding 0 turns a rounded -1e-12 from "-0.0" into "0.0".
    value, low, high = (
        None if (x := estimate[key]) is None else f"{round(x, digits) + 0.0:.{digits}f}"
        for key in ("value", "low", "high")
    )
    if value is None:
        return "-"
    return value if low is None or high is None else f"{value} [{low}, {high}]"


def _significant(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


def _shown(summary: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in summary if not row["reference"]]


def _best(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The fastest entry that a machine could run, among those that fit every setting that any fits."""
    most = max((row["settings_with_baseline"] for row in rows), default=0)
    fair = [row for row in rows if not row["privileged"] and row["settings_with_baseline"] == most > 0]
    return max(fair, key=lambda row: row["speedup"]["value"])["entry"] if fair else None


def _name(row: Mapping[str, Any], best: str | None) -> str:
    marks = ("*" if row["privileged"] else "") + ("†" if row["does_not_fit"] else "")
    name = row["entry"].replace("[", r"\[") + marks
    return f"[bold]{name}[/]" if row["entry"] == best else name


def main_table(summary: Sequence[Mapping[str, Any]]) -> Table:
    """Speed-up, tokens/s, J/token and regret of the entries asked for."""
    rows = _shown(summary)
    best = _best(rows)
    invalid = any(row["invalid_actions"] for row in rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("entry", overflow="fold")
    for name in ("speed-up [95 %]", "tokens/s", "J/token", "regret % [95 %]"):
        table.add_column(name.replace("[", r"\["), justify="right", no_wrap=True)
    if invalid:
        table.add_column("invalid", justify="right")
    for row in rows:
        figures = [
            _interval(row["speedup"], 2),
            _significant(row["tokens_per_s"]),
            _significant(row["joules_per_token"]),
            _interval(row["regret_percent"], 1),
        ]
        if not row["settings"]:
            figures[0] = "does not fit"
        if invalid:
            figures.append(str(row["invalid_actions"]))
        cells = [text.replace("[", r"\[") for text in figures]
        if row["entry"] == best:
            cells = [f"[bold]{text}[/]" for text in cells]
        table.add_row(_name(row, best), *cells)
    return table


def scenario_tables(summary: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Speed-up by scenario, a few scenarios abreast."""
    rows = _shown(summary)
    scenarios = list(rows[0]["by_scenario"]) if rows else []
    tables = []
    for start in range(0, len(scenarios), _SCENARIOS_ABREAST):
        abreast = scenarios[start : start + _SCENARIOS_ABREAST]
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("speed-up", overflow="fold", vertical="bottom")
        for name in abreast:
            table.add_column(_narrow(name), justify="right", vertical="bottom")
        bests = [_best([{**row, **row["by_scenario"][name]} for row in rows]) for name in abreast]
        for row in rows:
            cells = []
            for name, best in zip(abreast, bests, strict=True):
                value = row["by_scenario"][name]["speedup"]["value"]
                text = "no fit" if value is None else f"{value:.2f}"
                cells.append(f"[bold]{text}[/]" if row["entry"] == best else text)
            table.add_row(_name(row, None), *cells)
        tables.append(table)
    return tables


def _narrow(name: str) -> str:
    """A scenario's name on lines of at most about ten characters."""
    return "\n".join(
        line
        for part in name.split("/")
        for line in textwrap.wrap(part.replace("_", "_ "), 10, break_on_hyphens=True)
    ).replace("_ ", "_")


def legend(summary: Mapping[str, Any], wall_s: float, reused: int) -> list[str]:
    """What one must know to read the tables, a line each."""
    rows = _shown(summary["entries"])
    instances = summary["instances"]
    lines = [
        f"Speed-up: end-to-end time of {summary['baseline']} / the entry's, prefill included; geometric means "
        f"over {instances} instances ({summary['settings']} settings x {len(summary['seeds'])} seeds), "
        "paired 95 % bootstrap intervals over seeds. Regret: decoding cost above the oracle of the same system.",
    ]
    if len(summary["seeds"]) < ENOUGH_SEEDS:
        lines.append(
            f"Fewer than {ENOUGH_SEEDS} seeds are too few for a 95 % interval: these hold less often."
        )
    if any(row["privileged"] for row in rows):
        lines.append("* privileged: reads true costs or lengths, which no scheduler can see.")
    for row in rows:
        if row["does_not_fit"]:
            more = len(row["does_not_fit"]) - 1
            also = f" (and {more} more, in summary.json)" if more else ""
            lines.append(
                f"† {row['entry']} does not fit everywhere: {row['does_not_fit'][0]}{also} Its row covers "
                f"{row['settings']} of {summary['settings']} settings."
            )
    baseline = next(row for row in summary["entries"] if row["entry"] == summary["baseline"])
    if baseline["does_not_fit"]:
        lines.append(
            f"The baseline does not fit {summary['settings'] - baseline['settings']} of {summary['settings']} "
            f"settings, which have no speed-up: {baseline['does_not_fit'][0]}"
        )
    for name, system in summary["own_systems"].items():
        lines.append(f"In {name}, {system} is the scenario's own system, not the registered one.")
    for field, said in (
        ("left_out", "left out"),
        ("truncated", "cut to it"),
        ("extrapolated", "extrapolated"),
    ):
        shares = {
            name: requests[field] / (requests["requests"] + requests["left_out"])
            for name, requests in summary["requests"].items()
        }
        worst = max(shares, key=lambda name: shares[name])
        if shares[worst] > 0:
            lines.append(
                f"Requests beyond the model's context are {said}: {100 * shares[worst]:.2g} % in {worst}"
                + (", no more in others." if len(shares) > 1 else ".")
            )
    for system, models in summary["alpha"].items():
        found = ", ".join(f"{model} {'/'.join(f'{a:g}' for a in values)}" for model, values in models.items())
        lines.append(f"α of {system}: {found}.")
    used = [*summary["readings"]["gpu_bandwidth"], *summary["readings"]["bank_rate"]]
    rates = "/".join(f"{rate:g}" for rate in summary["acceptance_rates"])
    if summary["constants"] != "plain":
        used.append("constants of experiments.reproduce")
    lines.append(f"Readings: {', '.join(used)}. Acceptance rate {rates}. {summary['problem']}.")
    again = f", {reused} jobs taken from earlier sessions" if reused else ""
    lines.append(f"{wall_s:.1f} s on {summary['cores']} cores{again}.")
    return lines


def print_report(console: Console, summary: Mapping[str, Any], wall_s: float, reused: int) -> None:
    """Both tables and the legend."""
    console.print(main_table(summary["entries"]), "")
    if len(summary["scenarios"]) > 1:
        for table in scenario_tables(summary["entries"]):
            console.print(table, "")
    for line in legend(summary, wall_s, reused):
        console.print(line, style="dim", markup=False, highlight=False)
