"""Measurements, and the presets that they give, as tables."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from experiments.capacity.measure import POLICY, SYSTEM
from papi_env.workload.presets import Measurement, serving_presets


def presets_table(measured: Mapping[tuple[str, str], Measurement]) -> Table:
    """The presets that these measurements give."""
    table = Table(title="Serving presets", title_justify="left", box=None, pad_edge=False)
    table.add_column("preset")
    for name in ("requests/s", "TTFT / s", "TPOT / ms", "tokens/J", "episode / s"):
        table.add_column(name, justify="right")
    for name, preset in serving_presets(measured).items():
        serving = preset.serving
        table.add_row(
            name,
            f"{serving.arrivals.rate_per_s:g}",
            f"{serving.objectives.ttft_s:g}",
            f"{1e3 * serving.objectives.tpot_s:g}",
            f"{preset.energy_weight:g}",
            f"{serving.horizon_s:g}",
        )
    return table


def measurements_table(measured: Mapping[tuple[str, str], Measurement]) -> Table:
    """What was measured."""
    table = Table(title=f"Under {SYSTEM}/{POLICY}", title_justify="left", box=None, pad_edge=False)
    table.add_column("traffic/model")
    for name in ("requests/s", "tokens", "dynamic J/token", "static W", "TTFT / ms", "TPOT / ms"):
        table.add_column(name, justify="right")
    for key, m in measured.items():
        values = (m.capacity_rps, m.output_tokens, m.dynamic_j_per_token, m.static_w)
        table.add_row(
            "/".join(key),
            *(f"{value:.4g}" for value in values),
            f"{1e3 * m.ttft_s:.4g}",
            f"{1e3 * m.tpot_s:.4g}",
        )
    return table
