"""Capacity and unloaded latency under PAPI's scheduler.

Two things are measured under PAPI's scheduler as published (one token at a time, everybody admitted, halves never
overlapped), for each traffic and model of `papi_env.workload.presets`:

* Capacity: `BACKLOG` requests are there at time 0. Counted are the requests that finish after the first `RAMP`
  have, and before the last one is admitted: in between the machine is as full as it ever is, and its queue is
  never empty. Their number over that time is the capacity; the mean over the seeds is kept.
* Unloaded latency: `ALONE` requests, each alone on the machine; mean time to first token, and mean over requests
  of the time per further token.

Energy is that of the capacity runs from the first request to the last. Nothing depends on the date or on the
machine that this runs on; `--check` measures again and compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

import papi_env
from agents.evaluate import evaluate
from agents.registry import make_policy
from experiments.common.runner import differences, listed
from papi_env.envs.serving import ServingVectorEnv
from papi_env.errors import DataError, lookup
from papi_env.scenario import Scenario
from papi_env.simulation.serving.measures import latencies
from papi_env.workload.presets import TRAFFIC, Measurement, load_measurements, traffic_table
from papi_env.workload.serving import MAX_RUNNING

SYSTEM, POLICY = "papi", "threshold"
# chosen: sixteen full machines of requests, of which the first four are the ramp; a quarter more or less of either
# moves the capacity by less than 1 %, as does half the ramp or twice the backlog.
BACKLOG, RAMP = 16 * MAX_RUNNING, 4 * MAX_RUNNING
CAPACITY_SEEDS = (0, 1, 2, 3)
# chosen: the standard error of the mean latencies is then below 3 % of them for every traffic.
ALONE = 512
# Digits written, and how far another machine's may be away: its libraries may round otherwise.
WRITTEN_DIGITS = 6
TOLERANCE = 1e-5


def serving_scenario(traffic: str, model: str, serving: Mapping[str, Any]) -> Scenario:
    """The scenario of a measurement: all requests at time 0, and objectives that all meet."""
    requests = lookup("traffic", traffic, TRAFFIC)
    return Scenario.model_validate(
        {
            "name": f"{traffic}/{model}",
            "system": SYSTEM,
            "model": model,
            "serving": {
                "arrivals": {"process": "together"},
                "lengths": requests.lengths.model_dump(),
                "objectives": {"ttft_s": 1e6, "tpot_s": 1e6},
                "speculation": {"classes": dict(requests.classes)},
                **serving,
            },
        }
    )


def played(scenario: Scenario, seeds: Sequence[int]) -> tuple[ServingVectorEnv, dict[str, Any]]:
    """The environment after an episode per seed under PAPI's scheduler, and the metrics."""
    env = ServingVectorEnv(scenario, num_envs=len(seeds), autoreset_mode=AutoresetMode.DISABLED)
    return env, evaluate(make_policy(POLICY), env, seeds)


def measure_capacity(
    traffic: str,
    model: str,
    seeds: Sequence[int] = CAPACITY_SEEDS,
    *,
    backlog: int = BACKLOG,
    ramp: int = RAMP,
    max_running: int = MAX_RUNNING,
) -> tuple[float, float]:
    """(requests per second, dynamic J per output token); see the module's docstring."""
    env, metrics = played(
        serving_scenario(traffic, model, {"requests": backlog, "max_running": max_running}), seeds
    )
    rates = []
    for e in range(len(seeds)):
        records = env.engine.records(e)
        finished = np.sort(records["finish_s"])
        start, end = finished[ramp - 1], records["admitted_s"].max()
        rates.append(np.count_nonzero((finished > start) & (finished <= end)) / (end - start))
    return float(np.mean(rates)), float(metrics["dynamic_j"].sum() / metrics["tokens"].sum())


def measure_unloaded(traffic: str, model: str, alone: int = ALONE) -> tuple[float, float]:
    """Mean seconds (to the first token, per further token) of requests alone on the machine."""
    env, _ = played(serving_scenario(traffic, model, {"requests": 1, "max_running": 1}), range(alone))
    state = env.engine.state
    seconds = [latencies(state.moments[e], state.facts[e]) for e in range(alone)]
    ttft, tpot = (np.concatenate([each[name] for each in seconds]) for name in ("ttft", "tpot"))
    return float(ttft.mean()), float(np.nanmean(tpot))


def measure(traffic: str, model: str) -> Measurement:
    """Everything that presets of this traffic on this model need, to the digits written."""
    capacity, joules = measure_capacity(traffic, model)
    ttft_s, tpot_s = measure_unloaded(traffic, model)
    scenario = serving_scenario(traffic, model, {"requests": 1})
    assert scenario.serving is not None
    assert scenario.model is not None
    population = TRAFFIC[traffic].lengths.population(
        scenario.model.context_limit, scenario.serving.beyond_context
    )
    values = (
        capacity,
        float(population.lengths[:, 1].mean()),
        joules,
        scenario.system.static_power_w,
        ttft_s,
        tpot_s,
    )
    return Measurement(*(float(f"{value:.{WRITTEN_DIGITS}g}") for value in values))


def document(measured: Mapping[tuple[str, str], Measurement]) -> dict[str, Any]:
    """What the file holds: the measurements with all that they depend on but the code."""
    return {
        "command": "python -m experiments.presets",
        "package": f"papi_env {papi_env.__version__}",
        "entry": f"{SYSTEM}/{POLICY}",
        "capacity": {
            "backlog_requests": BACKLOG,
            "ramp_requests": RAMP,
            "max_running": MAX_RUNNING,
            "seeds": list(CAPACITY_SEEDS),
        },
        "unloaded": {"requests": ALONE, "seeds": [0, ALONE - 1]},
        "traffic": traffic_table(),
        "measured": {"/".join(key): values._asdict() for key, values in measured.items()},
    }


def check_file(path: Path, found: Mapping[str, Any]) -> None:
    """Raise DataError where the file at `path` holds something else than was found just now."""
    load_measurements(path)
    there = json.loads(path.read_text(encoding="utf-8"))
    # A version alone makes no file old.
    changes = [
        line
        for line in differences(
            {**there, "measured": None, "package": None}, {**found, "measured": None, "package": None}
        )
    ]
    for key in sorted({*there["measured"], *found["measured"]}):
        old, new = there["measured"].get(key, {}), found["measured"].get(key, {})
        for name in Measurement._fields:
            a, b = old.get(name, np.nan), new.get(name, np.nan)
            if not abs(a - b) <= TOLERANCE * abs(b):
                changes.append(f"measured.{key}.{name}: {a:g} there, {b:g} measured")
    if changes:
        raise DataError(
            f"{path}: out of date; write it again with python -m experiments.presets. "
            f"{listed(changes, most=5)}"
        )
