"""PAPI's threshold α for systems and models, under the readings of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from agents.batch.rules import calibrate_alpha
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS, get_system
from papi_env.workload.transformer import get_transformer


def calibrate(systems: Sequence[str], models: Sequence[str]) -> list[dict[str, str | float]]:
    """One row for each system, model, GPU-bandwidth and bank-rate reading."""
    rows: list[dict[str, str | float]] = []
    for system_name in systems:
        for model_name in models:
            model = get_transformer(model_name)
            for bandwidth in GPU_BANDWIDTH_READINGS:
                for rate in BANK_RATE_READINGS:
                    system = get_system(system_name).with_readings(bandwidth, rate)
                    alpha = calibrate_alpha(system, model)
                    rows.append(
                        {
                            "system": system_name,
                            "model": model_name,
                            "gpu_bandwidth": bandwidth,
                            "bank_rate": rate,
                            "alpha": alpha,
                        }
                    )
    return rows


def thresholds_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What `calibrate` found, a row for each system and model."""
    table = Table(title="α: FC kernels go to the PUs when RLP x TLP exceeds it")
    table.add_column("system", no_wrap=True)
    table.add_column("model", no_wrap=True)
    columns = [(bandwidth, rate) for bandwidth in GPU_BANDWIDTH_READINGS for rate in BANK_RATE_READINGS]
    for bandwidth, rate in columns:
        table.add_column(f"{bandwidth}\n{rate}", justify="right", no_wrap=True)
    for start in range(0, len(rows), len(columns)):
        part = rows[start : start + len(columns)]
        table.add_row(str(part[0]["system"]), str(part[0]["model"]), *(f"{row['alpha']:g}" for row in part))
    return table
