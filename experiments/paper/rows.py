"""What the simulator gives for the rows that PAPI published, under a setting of everything left open.

A `Bench` prices recorded batches on the systems of a setting and averages them into rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from experiments.paper.published import NUMBER_ROWS, published_value
from experiments.paper.readings import Average, Batch, Setting, build_system
from experiments.paper.replay import (
    ATTENTION,
    COMMUNICATION,
    FC_PARTS,
    Trajectory,
    dynamic_joules,
    fc_units,
    iteration_seconds,
    record,
)
from papi_env.hardware import dram
from papi_env.hardware.system import System
from papi_env.hardware.table import CostTable
from papi_env.hardware.units import ATTN_PIM, FC_PIM, PU, ROOFLINE
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario, get_scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.tables import EngineTables, build_tables
from papi_env.simulation.prefill import Prefill
from papi_env.workload.requests import Lengths
from papi_env.workload.transformer import get_transformer

MODELS = ("llama-65b", "gpt3-66b", "gpt3-175b")
QA_MODELS = ("gpt3-175b",)
BATCH_SIZES = (4, 16, 64)
SPECULATION = (1, 2, 4)
LONG_SPECULATION = (1, 2, 4, 8)  # rows S and O2
MANY_BATCH_SIZES = (4, 8, 16, 32, 64, 128)  # row O2
CREATIVE, QA = "creative-writing", "general-qa"
LLAMA = "llama-65b"

PAPI, ATTACC, HBM_PIM, ATTACC_ONLY, PIM_ONLY = (
    "papi",
    "a100-attacc",
    "a100-hbm-pim",
    "attacc-only",
    "papi-pim-only",
)

# Which system records a batch does not matter: one whose tables are quick to make.
_RECORDED_ON = build_system(Setting(gpu_kernels=ROOFLINE), PAPI)


@lru_cache(maxsize=512)
def trajectory(
    dataset: str,
    batch_size: int,
    tlp: int,
    batch: Batch,
    acceptance: float,
    seeds: tuple[int, ...],
    prompt: int | None = None,
) -> Trajectory:
    """The recorded iterations of a batch; every model of the paper has the same context limit, so one serves all."""
    scenario = get_scenario(f"{dataset}/{LLAMA}").replace(
        system=_RECORDED_ON, batch_size=batch_size, speculation=tlp, acceptance_rate=acceptance
    )
    if batch == "fixed":
        mean = np.rint(scenario.population().lengths.mean(axis=0))
        lengths = Lengths(input=prompt or int(mean[0]), output=int(mean[1]))
        scenario = scenario.replace(lengths=lengths)
        seeds = seeds[:1] if acceptance == 1 else seeds
    return record(scenario, seeds)


@dataclass(frozen=True)
class Cost:
    """A batch on a system, summed over seeds: seconds (of decoding by part, see `replay.PARTS`), joules, tokens."""

    parts: FloatArray
    prefill_s: float
    joules: float
    tokens: int

    @property
    def fc_s(self) -> float:
        """Seconds of FC kernels in decoding."""
        return float(self.parts[FC_PARTS].sum())

    @property
    def attention_s(self) -> float:
        """Seconds of attention in decoding."""
        return float(self.parts[ATTENTION])

    @property
    def decode_s(self) -> float:
        """Seconds of decoding."""
        return float(self.parts.sum())

    @property
    def total_s(self) -> float:
        """Seconds from end to end."""
        return self.decode_s + self.prefill_s


Pairs = tuple[FloatArray, FloatArray]


class Bench:
    """Rows under one setting; whatever several rows need is priced once.

    Args:
        setting: readings and constants.
        seeds: of the requests drawn.
        prompt: tokens of every prompt where batches are `fixed`, instead of the data set's mean.
    """

    def __init__(self, setting: Setting, seeds: Sequence[int], prompt: int | None = None) -> None:
        self.setting, self.seeds, self.prompt = setting, tuple(seeds), prompt
        self._systems: dict[tuple[str, bool], System] = {}
        self._tables: dict[tuple[str, str, bool], tuple[EngineTables, Prefill, float]] = {}
        self._costs: dict[tuple[Any, ...], Cost] = {}

    def system(self, name: str, same_interconnect: bool = False) -> System:
        """A system of this setting; `same_interconnect` as it stands in the figures of rows P."""
        key = (name, same_interconnect and self.setting.outputs == "by-figure")
        if key not in self._systems:
            self._systems[key] = build_system(self.setting, name, same_interconnect=key[1])
        return self._systems[key]

    def tables(self, name: str, model: str) -> EngineTables:
        """The engine's tables of a system and a model; their batch size and speculation mean nothing."""
        return self._prepared(name, model)[0]

    def _prepared(
        self, name: str, model: str, same_interconnect: bool = False
    ) -> tuple[EngineTables, Prefill, float]:
        key = (name, model, same_interconnect and self.setting.outputs == "by-figure")
        if key not in self._tables:
            system = self.system(name, same_interconnect)
            scenario = _base_scenario(model).model_copy(update={"system": system})
            helper = system
            if self.setting.prefill == "gpu" and system.pu is None:
                helper = self.system(ATTACC)
            static_w = system.static_power_w
            prefill = Prefill(helper, scenario.decoding()[0])
            tables = build_tables(scenario, 0.0)
            if self.setting.heads == "per-stack":
                tables = _a_head_per_stack(tables, system, model)
            self._tables[key] = (tables, prefill, static_w)
        return self._tables[key]

    def trajectory(self, dataset: str, batch_size: int, tlp: int, batch: Batch | None = None) -> Trajectory:
        """The recorded iterations of a batch under this setting's acceptance."""
        acceptance = self.setting.acceptance if tlp > 1 else 1.0
        batch = batch or self.setting.batch
        return trajectory(dataset, batch_size, tlp, batch, acceptance, self.seeds, self.prompt)

    def cost(
        self,
        name: str,
        dataset: str,
        model: str,
        batch_size: int,
        tlp: int,
        batch: Batch | None = None,
        same_interconnect: bool = False,
    ) -> Cost:
        """A batch on a system: PAPI under its threshold, any other with FC kernels on its default unit."""
        batch = batch or self.setting.batch
        key = (name, dataset, model, batch_size, tlp, batch, same_interconnect)
        if key not in self._costs:
            tables, prefill, static_w = self._prepared(name, model, same_interconnect)
            path = self.trajectory(dataset, batch_size, tlp, batch)
            units = fc_units(tables, "threshold" if name == PAPI else "static")
            parts = iteration_seconds(tables, path, units).sum(axis=0)
            prefill_s = prefill_j = 0.0
            if self.setting.prefill != "excluded":
                seconds, joules = prefill.cost(path.prefill_tokens, path.prefill_pairs, path.batch)
                prefill_s, prefill_j = float(seconds.sum()), float(joules.sum())
            total_j = float(dynamic_joules(tables, path, units).sum()) + prefill_j
            if self.setting.static_power:
                total_j += static_w * (float(parts.sum()) + prefill_s)
            self._costs[key] = Cost(parts, prefill_s, total_j, int(path.tokens.sum()))
        return self._costs[key]

    # --- rows -----------------------------------------------------------------------------------

    def pairs(self, row: str) -> Pairs:
        """Numerators and denominators of a row's ratios, one of each for every configuration."""
        return _ROWS[row](self)

    def value(self, row: str, average: Average | None = None) -> float:
        """A row that is a number, under the setting's average or another."""
        above, below = self.pairs(row)
        average = average or self.setting.average
        if average == "sums":
            return float(above.sum() / below.sum())
        ratios = above / below
        return float(np.exp(np.log(ratios).mean()) if average == "geometric" else ratios.mean())

    def values(self, rows: Iterable[str] = NUMBER_ROWS) -> dict[str, float]:
        """Several rows."""
        return {row: self.value(row) for row in rows}

    def log_rms(self, rows: Iterable[str] = NUMBER_ROWS) -> float:
        """Root mean square of the logarithms of simulated over published values."""
        errors = [np.log(self.value(row) / published_value(row)) for row in rows]
        return float(np.sqrt(np.mean(np.square(errors))))

    def geometric_speed_up(self, rival: str, batch: Batch | None = None) -> float:
        """PAPI's speed-up over a rival in the geometric mean over all 36 cells, as many of each."""
        above, below = self.ratios("total_s", rival, PAPI, ALL_CELLS, batch)
        return float(np.exp(np.log(above / below).mean()))

    def ratios(
        self,
        measure: str,
        above: str,
        below: str,
        cells: Iterable[tuple[str, str, int, int]],
        batch: Batch | None = None,
        same_interconnect: bool = False,
    ) -> Pairs:
        """A measure of `Cost` on two systems over (dataset, model, batch size, speculation)."""
        cells = tuple(cells)
        values = [
            [float(getattr(self.cost(name, *cell, batch, same_interconnect), measure)) for cell in cells]
            for name in (above, below)
        ]
        return np.array(values[0]), np.array(values[1])

    def fc_seconds(self, name: str, fpus_per_bank: float | None = None) -> FloatArray:
        """Seconds of all FC kernels of a LLaMA-65B iteration on a system's default unit, by n = 0..1024.

        With `fpus_per_bank`, on its FC-PIM stacks with other FPUs: 0.5 are HBM-PIM's.
        """
        system = self.system(name)
        if fpus_per_bank is not None:
            assert system.fc_pim is not None
            other = system.fc_pim.model_copy(update={"fpus_per_bank": fpus_per_bank})
            table = CostTable(
                system.model_copy(update={"fc_pim": other}), get_transformer(LLAMA).fc_kernels()
            )
            return np.asarray(table.seconds[:, FC_PIM].sum(axis=0))
        tables = self.tables(name, LLAMA)
        unit = PU if system.pu is not None else FC_PIM
        return np.asarray(tables.fc[:, unit, :, at.COST_S].sum(axis=0))

    def fc_order(self) -> tuple[dict[str, Any], bool]:
        """Row O1: at which n the A100s become faster than AttAcc at FC kernels, and whether the order holds."""
        gpu, pim = self.fc_seconds(ATTACC), self.fc_seconds(ATTACC_ONLY)
        crossing = int(np.argmax(pim[1:] > gpu[1:])) + 1 if (pim[1:] > gpu[1:]).any() else None
        batches = (1, 2, 4, 8, 16, 32, 64, 128)
        facts = {
            "gpus_win_from_n": crossing,
            "attacc_over_a100s": {str(n): round(float(gpu[n] / pim[n]), 3) for n in batches},
        }
        return facts, bool(pim[8] < gpu[8] and (pim[16:129] > gpu[16:129]).all())

    def end_to_end_order(self) -> tuple[dict[str, Any], bool]:
        """Row O2: the parts of the order, with the speed-ups that decide them, and whether all hold."""
        rivals, batch = (ATTACC, HBM_PIM, ATTACC_ONLY), self.setting.order_batch
        many = [(CREATIVE, LLAMA, b, 1) for b in MANY_BATCH_SIZES]
        leads = {}
        for rival in rivals:
            above, below = self.ratios("total_s", rival, PAPI, many, batch)
            leads[rival] = above / below
        above, below = self.ratios("total_s", ATTACC, ATTACC_ONLY, many[:1], batch)
        attacc_only = float(above[0] / below[0])
        by_tlp = [(CREATIVE, LLAMA, 4, t) for t in LONG_SPECULATION]
        above, below = self.ratios("total_s", ATTACC, PAPI, by_tlp, batch)
        falls = above / below
        holds = {
            "attacc_only_beats_a100_attacc": attacc_only > 1,
            "papi_beats_all": all(bool((lead > 1).all()) for lead in leads.values()),
            "lead_falls_with_tlp": bool((np.diff(falls) < 0).all()),
        }
        facts: dict[str, Any] = {
            "attacc_only_over_a100_attacc": round(attacc_only, 3),
            "papi_leads_by_batch": {
                rival: dict(zip(map(str, MANY_BATCH_SIZES), np.round(lead, 3).tolist(), strict=True))
                for rival, lead in leads.items()
            },
            "papi_over_a100_attacc_by_tlp": dict(
                zip(map(str, LONG_SPECULATION), np.round(falls, 3).tolist(), strict=True)
            ),
            "parts": holds,
        }
        return facts, all(holds.values())


@lru_cache(maxsize=16)
def _base_scenario(model: str) -> Scenario:
    # Batch 1, so that the capacity check of the tables never stands in the way of the rows.
    return get_scenario(f"{CREATIVE}/{model}").replace(batch_size=1)


def _a_head_per_stack(tables: EngineTables, system: System, model: str) -> EngineTables:
    """The tables where the busiest Attn-PIM stack has whole heads, with all their requests (PAPI, section 6.4)."""
    assert system.attn_pim is not None
    heads = math.ceil(get_transformer(model).attention_kernel().kv_heads / system.attn_pim.stacks)
    # [RLP, TLP]
    pairs = np.ceil(heads * np.arange(tables.shares.shape[1]) / dram.CHANNELS)[:, None]
    shares = tables.shares.copy()
    shares[ATTN_PIM, ..., at.SHARE] = shares[ATTN_PIM, ..., at.PAIRS] = pairs
    shares[ATTN_PIM, ..., at.SHARE_OF_ONE] = math.ceil(heads / dram.CHANNELS)
    shares[ATTN_PIM, ..., at.UNPAIRED] = pairs % 2 / np.maximum(pairs, 1)
    return tables._replace(shares=shares)


def _grid(dataset: str, models: Iterable[str]) -> list[tuple[str, str, int, int]]:
    return [(dataset, m, b, t) for m in models for b in BATCH_SIZES for t in SPECULATION]


def _speed_up(rival: str, cells: Sequence[tuple[str, str, int, int]]) -> Any:
    return lambda bench: bench.ratios("total_s", rival, PAPI, cells)


def _efficiency(rival: str, cells: Sequence[tuple[str, str, int, int]]) -> Any:
    return lambda bench: bench.ratios("joules", rival, PAPI, cells)


def _decode(cells: Sequence[tuple[str, str, int, int]]) -> Any:
    return lambda bench: bench.ratios("decode_s", ATTACC_ONLY, PIM_ONLY, cells, bench.setting.pim_batch, True)


def _breakdown(part: str) -> Any:
    def pairs(bench: Bench) -> Pairs:
        cell = (CREATIVE, LLAMA, 4, 4, bench.setting.pim_batch, True)
        attacc, papi = bench.cost(ATTACC_ONLY, *cell), bench.cost(PIM_ONLY, *cell)
        if part == "communication":
            above, below = papi.parts[COMMUNICATION], papi.decode_s
        elif part == "fc":
            above, below = attacc.fc_s, papi.fc_s
        else:
            above, below = attacc.attention_s, papi.attention_s
        return np.array([float(above)]), np.array([float(below)])

    return pairs


_CREATIVE_CELLS, _QA_CELLS = _grid(CREATIVE, MODELS), _grid(QA, QA_MODELS)
# All settings of the end-to-end evaluation (PAPI, section 7.2).
ALL_CELLS = (*_CREATIVE_CELLS, *_QA_CELLS)
_LONG_CELLS = [(CREATIVE, LLAMA, 4, t) for t in LONG_SPECULATION]
_ROWS: Mapping[str, Any] = {
    "E1": _speed_up(ATTACC, _CREATIVE_CELLS),
    "E2": _speed_up(HBM_PIM, _CREATIVE_CELLS),
    "E3": _speed_up(ATTACC_ONLY, _CREATIVE_CELLS),
    "E4": _speed_up(ATTACC, _QA_CELLS),
    "E5": _speed_up(HBM_PIM, _QA_CELLS),
    "E6": _speed_up(ATTACC_ONLY, _QA_CELLS),
    "N1": _efficiency(ATTACC, _CREATIVE_CELLS),
    "N2": _efficiency(ATTACC, _QA_CELLS),
    "N3": _efficiency(ATTACC_ONLY, _CREATIVE_CELLS),
    "N4": _efficiency(ATTACC_ONLY, _QA_CELLS),
    "S1": _speed_up(ATTACC, _LONG_CELLS),
    "S2": _speed_up(ATTACC_ONLY, _LONG_CELLS),
    "P1": _decode(_CREATIVE_CELLS),
    "P2": _decode([(CREATIVE, m, 4, 1) for m in MODELS]),
    "P3": _decode([(CREATIVE, m, 64, 4) for m in MODELS]),
    "P4": _breakdown("fc"),
    "P5": _breakdown("attention"),
    "P6": _breakdown("communication"),
}
