"""Every published row, simulated: what reproduction.json and readings.json hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.paper.calibration import BEST, REPRODUCTION, UNFITTED
from experiments.paper.facts import Fact, fact
from experiments.paper.published import PUBLISHED, PublishedRow
from experiments.paper.readings import AVERAGES, Setting
from experiments.paper.rows import ATTACC, ATTACC_ONLY, HBM_PIM, PIM_ONLY, Bench
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS

RIVALS = (ATTACC, HBM_PIM, ATTACC_ONLY, PIM_ONLY)


@dataclass(frozen=True)
class Reading:
    """One account of the paper, by name: its setting, and in a few words what it is."""

    name: str
    setting: Setting
    description: str


# The candidates for papi_env's defaults; the first is what the registered systems are.
CANDIDATES = (
    Reading("A", Setting(), "papi_env's default: 3352 GB/s, 4 clocks"),
    Reading("B", Setting(bank_rate="attacc-limit"), "3352 GB/s, 6 clocks"),
    Reading("C", Setting(gpu_bandwidth="roofline", bank_rate="attacc-limit"), "1935 GB/s, 6 clocks"),
)
READINGS = (
    Reading("reproduction", REPRODUCTION, "AttAcc's simulator, three constants fitted on P1-P6 and E1"),
    Reading("unfitted", UNFITTED, "one rule of combining outputs, nothing fitted"),
    Reading("best fitted", BEST, "as unfitted, constants fitted on all rows that are numbers"),
    *CANDIDATES,
)


def uncalibrated() -> dict[str, Setting]:
    """papi_env's own defaults under every reading of the GPU's bandwidth and a bank's rate."""
    return {
        f"{bandwidth}/{rate}": Setting(gpu_bandwidth=bandwidth, bank_rate=rate)
        for bandwidth in GPU_BANDWIDTH_READINGS
        for rate in BANK_RATE_READINGS
    }


class Benches:
    """A bench for every reading and every uncalibrated setting, equal settings sharing one.

    Args:
        seeds: of the requests drawn.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        made: dict[Setting, Bench] = {}

        def bench(setting: Setting) -> Bench:
            if setting not in made:
                made[setting] = Bench(setting, seeds)
            return made[setting]

        self.readings = {reading.name: bench(reading.setting) for reading in READINGS}
        self.uncalibrated = {name: bench(setting) for name, setting in uncalibrated().items()}
        self._facts: dict[tuple[Setting, str], Fact] = {}

    def fact(self, bench: Bench, row: str) -> Fact:
        """What decides a row O or F and whether it holds, found once."""
        key = (bench.setting, row)
        if key not in self._facts:
            self._facts[key] = fact(bench, row)
        return self._facts[key]


def reproduce(benches: Benches) -> list[dict[str, Any]]:
    """One entry for every published row, as reproduction.json holds it.

    `simulated`, `ratio` and `readings` are of the reproduction reading with its average; `averages` has the
    others; `by_reading` has all of `READINGS`; `uncalibrated` has every GPU-bandwidth and bank-rate reading
    without fitted constants, but for facts. For an order or a fact, `simulated` holds what decides it and `holds` says
    whether it is true.
    """
    calibrated = benches.readings["reproduction"]
    readings = {"name": "reproduction", "calibrated": True, **REPRODUCTION.as_dict()}
    entries = []
    for row in PUBLISHED.values():
        entry: dict[str, Any] = {
            "row": row.row,
            "quantity": row.full_quantity,
            "source": row.source,
            "paper": row.paper,
            "role": row.role,
            "readings": readings,
        }
        if isinstance(row.paper, str):
            found = {name: _fact(benches, bench, row.row) for name, bench in benches.readings.items()}
            entry |= {**found["reproduction"], "ratio": None, "by_reading": found}
            if row.group == "O":
                entry["uncalibrated"] = [
                    {"readings": name, **_fact(benches, bench, row.row)}
                    for name, bench in benches.uncalibrated.items()
                ]
        else:
            value = calibrated.value(row.row)
            entry |= {"simulated": value, "ratio": value / row.paper}
            entry["by_reading"] = {
                name: {"simulated": bench.value(row.row), "ratio": bench.value(row.row) / row.paper}
                for name, bench in benches.readings.items()
            }
            entry["averages"] = _averages(calibrated, row)
            entry["uncalibrated"] = [
                {"readings": name, "averages": _averages(bench, row)}
                for name, bench in benches.uncalibrated.items()
            ]
        entries.append(entry)
    return entries


def compare_readings(benches: Benches) -> list[dict[str, Any]]:
    """One entry for every reading, as readings.json holds it.

    `log_rms` is over the rows that are numbers; `speed_ups` are PAPI's in the geometric mean over 36 cells,
    all under RLP as it decays; `holds` names the orders and facts that hold.
    """
    facts = [row.row for row in PUBLISHED.values() if isinstance(row.paper, str)]
    return [
        {
            "reading": reading.name,
            "description": reading.description,
            "departures": reading.setting.departures(),
            "setting": reading.setting.as_dict(),
            "log_rms": bench.log_rms(),
            "speed_ups": {rival: bench.geometric_speed_up(rival, "decaying") for rival in RIVALS},
            "holds": [row for row in facts if benches.fact(bench, row)[1]],
        }
        for reading in READINGS
        for bench in [benches.readings[reading.name]]
    ]


def _fact(benches: Benches, bench: Bench, row: str) -> dict[str, Any]:
    facts, holds = benches.fact(bench, row)
    return {"simulated": facts, "holds": holds}


def _averages(bench: Bench, row: PublishedRow) -> dict[str, dict[str, float]]:
    assert not isinstance(row.paper, str)
    values = {average: bench.value(row.row, average) for average in AVERAGES}
    return {average: {"simulated": value, "ratio": value / row.paper} for average, value in values.items()}


def within(entries: Sequence[Mapping[str, Any]], group: str, limit: float) -> tuple[int, int]:
    """How many rows of a group come within `limit` of the paper, and how many there are."""
    rows = [entry for entry in entries if entry["row"].startswith(group) and entry["ratio"] is not None]
    return sum(abs(entry["ratio"] - 1) <= limit for entry in rows), len(rows)
