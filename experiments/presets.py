"""Measure what the serving presets are relative to, and write it: `python -m experiments.presets --help`.

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
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from gymnasium.vector import AutoresetMode
from rich.console import Console
from rich.table import Table

import papi_env
from agents.evaluate import evaluate
from agents.registry import make_policy
from experiments.common.command import exit_status, output
from experiments.common.runner import differences, write_whole
from papi_env.envs.serving import ServingVectorEnv
from papi_env.errors import DataError, lookup
from papi_env.scenario import Scenario
from papi_env.simulation.serving.measures import latencies
from papi_env.workload.presets import (
    MEASUREMENTS,
    MODELS,
    TRAFFIC,
    Measurement,
    load_measurements,
    serving_presets,
    traffic_table,
)
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


@dataclass(frozen=True, kw_only=True)
class Config:
    """Measure capacity and unloaded latency under papi/threshold, write them, and print the presets they give."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = MEASUREMENTS
    """What to write (default: the file that the presets are read from)."""
    check: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write nothing; measure, and fail where the file says something else."""


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


def check(path: Path, found: Mapping[str, Any]) -> None:
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
        more = f" (and {len(changes) - 5} more)" if len(changes) > 5 else ""
        raise DataError(
            f"{path}: out of date; write it again with python -m experiments.presets. "
            f"{'; '.join(changes[:5])}{more}"
        )


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


def run(config: Config, console: Console, progress: Console) -> None:
    """Measure, then write or compare, then print.

    Raises:
        DataError: with `check`, a file that says something else or that cannot be read.
    """
    measured = {}
    for traffic in TRAFFIC:
        for model in MODELS:
            with progress.status(f"{traffic}/{model}"):
                measured[traffic, model] = measure(traffic, model)
    found = document(measured)
    if config.check:
        check(config.out, found)
    else:
        write_whole(config.out, json.dumps(found, indent=1) + "\n")
    console.print(measurements_table(measured))
    console.print()
    console.print(presets_table(measured))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for a file that is not as measured, 130 if interrupted."""
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.presets")
    return exit_status(lambda: run(config, output(), Console(stderr=True)))


if __name__ == "__main__":
    sys.exit(main())
