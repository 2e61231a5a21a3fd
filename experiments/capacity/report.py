"""Measurements, and the presets that they give, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from experiments.capacity.measure import POLICY, SYSTEM
from experiments.capacity.service import ENOUGH
from papi_env.workload.presets import Measurement, serving_presets
from papi_env.workload.service_presets import Capacity, held_out, service_presets


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


def capacities_table(found: Mapping[str, Any]) -> Table:
    """Capacities of machines that serve classes of requests, and under which rule, of a `service.document`."""
    title = f"Most load of which the best tuned rule serves {ENOUGH:.0%} in time"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("traffic/model", no_wrap=True)
    for name in ("sessions/s", "G", "worth", "dynamic J", "tried", "requests"):
        table.add_column(name, justify="right")
    table.add_column("rule")
    for key, capacity in found["measured"].items():
        how = found["found"][key]
        table.add_row(
            key,
            f"{capacity['sessions_per_s']:g}",
            f"{how['g']:.3f}",
            f"{capacity['worth']:.4g}",
            f"{capacity['dynamic_j']:.4g}",
            str(how["combinations"]),
            str(how["simulated_requests"]),
            how["rule"],
        )
    return table


def time_scales_table(found: Mapping[str, Any]) -> Table:
    """How many times as fast traces may be played, and under which rule, of a `time_scales.document`."""
    title = f"Most times as fast that the best tuned rule serves {ENOUGH:.0%} of what fits in time"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("trace/model", no_wrap=True)
    for name in ("time scale", "G", "tried", "requests"):
        table.add_column(name, justify="right")
    table.add_column("rule")
    for key, scale in found["measured"].items():
        how = found["found"][key]
        counts = str(how["combinations"]), str(how["simulated_requests"])
        table.add_row(key, f"{scale:g}", f"{how['g']:.3f}", *counts, how["rule"])
    return table


def service_table(capacities: Mapping[tuple[str, str], Capacity]) -> Table:
    """The presets of Serving-v1 that these capacities give."""
    table = Table(title="Presets of Serving-v1", title_justify="left", box=None, pad_edge=False)
    table.add_column("preset", no_wrap=True)
    for name in ("sessions/s", "worth/J", "episode / s", "held out"):
        table.add_column(name, justify="right")
    for name, preset in service_presets(capacities).items():
        serving = preset.serving
        table.add_row(
            name,
            f"{serving.arrivals.rate_per_s:g}",
            f"{preset.energy_weight:g}",
            f"{serving.horizon_s:g}",
            "yes" if held_out(name) else "",
        )
    return table
