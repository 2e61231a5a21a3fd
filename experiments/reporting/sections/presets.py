"""Of `experiments.presets`: what the serving presets are relative to, by traffic and model, and the loads tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.capacity.files import PRESETS, TIME_SCALES
from experiments.reporting import charts
from experiments.reporting.content import Column, Part, Picture, Table
from experiments.reporting.folder import Run
from papi_env.envs.registration import SERVING_V1

_PAIR = (Column("traffic"), Column("model"))
_MEASURED = {
    "capacity_rps": Column("capacity", "requests/s"),
    "output_tokens": Column("output", "tokens/request"),
    "dynamic_j_per_token": Column("dynamic energy", "J/token"),
    "static_w": Column("static power", "W"),
    "ttft_s": Column("TTFT alone", "s"),
    "tpot_s": Column("TPOT alone", "ms", 1e3),
}


def parts(run: Run) -> list[Part]:
    """Tables of a measurement; of Serving-v1 also a picture of the loads that were tried, and time scales of traces."""
    found: list[Part] = []
    # Of a run that measured time scales there are these alone.
    if run.has(PRESETS) or not run.has(TIME_SCALES):
        measured = run.json(PRESETS)
        found += (
            _capacities(measured) if run.configuration["env"] == SERVING_V1 else [_measurements(measured)]
        )
    if run.has(TIME_SCALES):
        found.append(_time_scales(run.json(TIME_SCALES)))
    return found


def _measurements(found: Mapping[str, Any]) -> Table:
    rows = [[*_pair(key), *(values[name] for name in _MEASURED)] for key, values in found["measured"].items()]
    about = f"Under {found['entry']}: a full machine, and each request alone on it."
    return Table("Measurements", [*_PAIR, *_MEASURED.values()], rows, about)


def _capacities(found: Mapping[str, Any]) -> list[Part]:
    columns = [
        *_PAIR,
        Column("capacity", "sessions/s"),
        Column("G there", "%", 100, 3),
        Column("next load tried", "sessions/s"),
        Column("G beyond", "%", 100, 3),
        Column("worth of a session"),
        Column("dynamic energy", "J/session"),
        Column("loads tried"),
        Column("rules tried"),
        Column("simulated requests"),
        Column("rule"),
    ]
    rows = [
        [
            *_pair(key),
            capacity["sessions_per_s"],
            how["g"],
            how["beyond"]["sessions_per_s"],
            how["beyond"]["g"],
            capacity["worth"],
            capacity["dynamic_j"],
            len(how["rates"]),
            how["combinations"],
            how["simulated_requests"],
            how["rule"],
        ]
        for key, capacity, how in (
            (key, capacity, found["found"][key]) for key, capacity in found["measured"].items()
        )
    ]
    tried = [[*_pair(key), rate, g] for key in found["measured"] for rate, g in found["found"][key]["rates"]]
    enough, apart = f"{found['g']:.0%}", f"{found['resolution']:.0%}"
    about = (
        f"The largest load at which the best tuned rule has a G of {enough}, found by bisection to {apart}; G: the "
        "worth served within objectives over the worth offered."
    )
    return [
        Table("Capacities", columns, rows, about),
        _course(tried, found["g"]),
        Table(
            "Loads tried",
            [*_PAIR, Column("load", "sessions/s"), Column("G", "%", 100, 2)],
            tried,
            "Under the best rule that was found at each load.",
        ),
    ]


def _time_scales(found: Mapping[str, Any]) -> Table:
    rows = []
    for key, scale in found["measured"].items():
        how = found["found"][key]
        beyond = how["beyond"]
        rows.append(
            [
                *_pair(key),
                scale,
                how["g"],
                beyond["time_scale"],
                beyond["g"],
                how["combinations"],
                how["rule"],
            ]
        )
    columns = [
        Column("trace"),
        Column("model"),
        Column("time scale", "×"),
        Column("G there", "%", 100, 3),
        Column("next one tried", "×"),
        Column("G beyond", "%", 100, 3),
        Column("rules tried"),
        Column("rule"),
    ]
    about = (
        f"How many times as fast the best tuned rule can carry a trace with a G of {found['g']:.0%}, of the worth that "
        "fits the model's context."
    )
    return Table("Time scales of traces", columns, rows, about)


def _course(tried: list[list[Any]], enough: float) -> Picture:
    """G over the load, a line for each traffic and model."""
    series: dict[str, tuple[list[float], list[float], list[str]]] = {}
    for traffic, model, rate, g in tried:
        loads, values, words = series.setdefault(f"{traffic}/{model}", ([], [], []))
        loads.append(rate)
        values.append(100 * g)
        words.append(f"{rate:g} sessions/s")
    drawn = charts.points(
        series,
        charts.axis("sessions a second (logarithmic)", type="log"),
        charts.axis("G of the best rule (%)", rangemode="normal"),
        lines=True,
    )
    return Picture("G by load", drawn, f"A capacity is the last load with {enough:.0%}.", 520)


def _pair(key: str) -> tuple[str, str]:
    traffic, _, model = key.partition("/")
    return traffic, model
