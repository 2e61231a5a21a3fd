"""Every published row, simulated: what reproduction.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from experiments.paper.calibration import REPRODUCTION
from experiments.paper.published import PUBLISHED, PublishedRow
from experiments.paper.readings import AVERAGES, Setting
from experiments.paper.rows import Bench
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS


def uncalibrated() -> dict[str, Setting]:
    """papi_env's own defaults under every reading of the GPU's bandwidth and a bank's rate."""
    return {
        f"{bandwidth}/{rate}": Setting(gpu_bandwidth=bandwidth, bank_rate=rate)
        for bandwidth, rate in product(GPU_BANDWIDTH_READINGS, BANK_RATE_READINGS)
    }


def reproduce(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """One entry for every published row, as reproduction.json holds it.

    `simulated`, `ratio` and `readings` are of the reproduction reading with its average; `averages` has the
    others; `uncalibrated` has every GPU-bandwidth and bank-rate reading without fitted constants. For an
    order, `simulated` holds the facts that decide it and `holds` says whether it is true.
    """
    benches = {name: Bench(setting, seeds) for name, setting in uncalibrated().items()}
    calibrated = Bench(REPRODUCTION, seeds)
    readings = {"name": "reproduction", "calibrated": True, **REPRODUCTION.as_dict()}
    entries = []
    for row in PUBLISHED.values():
        entry: dict[str, Any] = {
            "row": row.row,
            "quantity": row.full_quantity,
            "source": row.source,
            "paper": row.paper,
        }
        if isinstance(row.paper, str):
            facts, holds = _order(calibrated, row.row)
            entry |= {
                "simulated": facts,
                "ratio": None,
                "role": row.role,
                "holds": holds,
                "readings": readings,
            }
            entry["uncalibrated"] = [
                {"readings": name, "simulated": facts, "holds": holds}
                for name, bench in benches.items()
                for facts, holds in [_order(bench, row.row)]
            ]
        else:
            value = calibrated.value(row.row)
            entry |= {"simulated": value, "ratio": value / row.paper, "role": row.role, "readings": readings}
            entry["averages"] = _averages(calibrated, row)
            entry["uncalibrated"] = [
                {"readings": name, "averages": _averages(bench, row)} for name, bench in benches.items()
            ]
        entries.append(entry)
    return entries


def _order(bench: Bench, row: str) -> tuple[dict[str, Any], bool]:
    return bench.fc_order() if row == "O1" else bench.end_to_end_order()


def _averages(bench: Bench, row: PublishedRow) -> dict[str, dict[str, float]]:
    assert not isinstance(row.paper, str)
    values = {average: bench.value(row.row, average) for average in AVERAGES}
    return {average: {"simulated": value, "ratio": value / row.paper} for average, value in values.items()}


def within(entries: Sequence[Mapping[str, Any]], group: str, limit: float) -> tuple[int, int]:
    """How many rows of a group come within `limit` of the paper, and how many there are."""
    rows = [entry for entry in entries if entry["row"].startswith(group) and entry["ratio"] is not None]
    return sum(abs(entry["ratio"] - 1) <= limit for entry in rows), len(rows)
