"""How many times as fast a published trace may be played on Serving-v1: what its settings are relative to.

For each trace of `papi_env.workload.service_traces` and each model there: the largest time scale at which the best
tuned rule serves `service.ENOUGH` of the worth that fits the model's context. It is found as the capacity of presets
is (`experiments.capacity.service`), but for two things:

* Windows of a trace differ more than instances of a preset do, so there are more of them: `SEEDS` judge, and
  rules are searched on `TUNING_SEEDS`.
* Worth is added up over windows before it is divided, so that a window with many requests counts for as many.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import papi_env
from experiments.capacity.service import (
    ENOUGH,
    RESOLUTION,
    TOLERANCE,
    Measured,
    Question,
    largest,
    read_found,
    rounded_digits,
)
from experiments.capacity.service import TUNING_SEEDS as FIRST_TUNING
from experiments.common.runner import differences, listed
from experiments.splitting.definition import TRACES
from papi_env.errors import DataError
from papi_env.scenario import Scenario, class_scenario
from papi_env.simulation.serving.instance import serving_instance
from papi_env.simulation.serving.tables import build_serving_tables
from papi_env.workload.service_presets import TRACE_FAMILIES
from papi_env.workload.service_traces import MODELS, load_time_scales, trace_serving

# chosen: 32, four times those of presets, for what a window offers differs more (range 8-128); 8 to search on.
SEEDS = tuple(range(32))
TUNING_SEEDS = tuple(range(FIRST_TUNING[0], FIRST_TUNING[0] + 8))
# chosen: as the trace was recorded.
FIRST_SCALE = 1.0


def command() -> str:
    """How everything is measured anew."""
    files = " ".join(trace.published for trace in TRACES.values())
    return f"python -m experiments.presets --env papi_env/Serving-v1 --trace {files}"


def scenario_at(trace: str, path: str, traffic: str, model: str, time_scale: float) -> Scenario:
    """The scenario of a measurement: windows of the trace, whose requests are of the classes of a traffic."""
    serving = trace_serving(trace, path, traffic, model, time_scale)
    return class_scenario(f"{trace}/{model}", traffic, model, serving)


def fitting(scenario: Scenario, seeds: tuple[int, ...]) -> float:
    """Worth of the requests of episodes that are not refused as they come, whatever is done."""
    tables = build_serving_tables(scenario)
    instances = [serving_instance(tables, seed, 0) for seed in seeds]
    return float(sum(found.worth[~found.refused].sum() for found in instances))


def measure(
    trace: str,
    path: str,
    model: str,
    *,
    seeds: tuple[int, ...] = SEEDS,
    tuning_seeds: tuple[int, ...] = TUNING_SEEDS,
    resolution: float = RESOLUTION,
    say: Callable[[str], None] = lambda line: None,
) -> Measured[float]:
    """Find the largest time scale of a trace that a model's machine can carry; see the module's docstring.

    Args:
        trace, model: names in `service_traces`; path: of the trace's file.
        seeds, tuning_seeds, resolution: otherwise than for settings, for tests.
        say: is told of every time scale that was tried.

    Raises:
        DataError: the file cannot be read, or no time scale is right.
    """
    (traffic,) = {family.traffic for family in TRACE_FAMILIES.values() if family.trace == trace}
    answer = largest(
        Question(
            f"{trace}/{model}",
            "x as fast",
            lambda scale: scenario_at(trace, path, traffic, model, scale),
            lambda scenario, metrics: float(metrics["served"].sum()) / fitting(scenario, seeds),
            "served",
            seeds,
            tuning_seeds,
        ),
        FIRST_SCALE,
        resolution,
        say,
    )
    return answer.measured(answer.low, "time_scale")


def document(measured: Mapping[tuple[str, str], Measured[float]]) -> dict[str, Any]:
    """What the file holds: the time scales, how they were found, and with what."""
    return {
        "command": command(),
        "package": f"papi_env {papi_env.__version__}",
        "g": ENOUGH,
        "resolution": RESOLUTION,
        "seeds": [SEEDS[0], SEEDS[-1]],
        "tuning_seeds": [TUNING_SEEDS[0], TUNING_SEEDS[-1]],
        "measured": {"/".join(pair): rounded_digits(one.capacity) for pair, one in measured.items()},
        "found": {"/".join(pair): one.provenance() for pair, one in measured.items()},
    }


def read_document(path: Path) -> dict[str, Any]:
    """The file at `path` as `document` writes it.

    Raises:
        DataError: it cannot be read, or does not say of every time scale how it was found.
    """
    return read_found(path, load_time_scales(path), "time_scale")


def pairs() -> list[tuple[str, str]]:
    """Every trace on every model that it is measured on."""
    return [(trace, model) for trace in TRACES for model in MODELS]


def check_file(path: Path, measured: Mapping[tuple[str, str], Measured[float]]) -> None:
    """Raise DataError where the file at `path` says something else than was measured just now."""
    scales = load_time_scales(path)
    there, now = json.loads(path.read_text(encoding="utf-8")), document(measured)
    # A version alone makes no file old.
    empty = dict.fromkeys(("measured", "found", "package"))
    changes = list(differences({**there, **empty}, {**now, **empty}))
    for pair, one in measured.items():
        old = scales.get(pair, np.nan)
        if not abs(old - one.capacity) <= TOLERANCE * one.capacity:
            changes.append(f"measured.{'/'.join(pair)}: {old:g} there, {one.capacity:g} measured")
    if changes:
        raise DataError(f"{path}: out of date; write it again with {command()}. {listed(changes, most=5)}")
