"""Training settings of Serving-v0 that differ from one another in everything a preset fixes.

A policy that has met six families of load on two models knows those; what a held-out family asks of it lies outside.
These settings draw lengths, load, burstiness, objectives, request classes, price of energy and drift at random
(domain randomisation: Tobin et al., IROS 2017), so that presets it never met lie between settings that it did. They
are drawn once, from a fixed seed, and pinned with the rest of the split; none has a held-out part.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from papi_env.scenario import Scenario, get_scenario
from papi_env.workload.arrivals import Arrivals
from papi_env.workload.presets import (
    ASSISTANT,
    TRAFFIC,
    Measurement,
    load_measurements,
    preset_name,
    rounded,
)
from papi_env.workload.requests import Lengths
from papi_env.workload.serving import Drift, Objectives, Speculation
from papi_env.workload.transformer import get_transformer

# chosen: enough for every effect to meet most others on each model (range 4-64; each costs a part of a training step).
VARIATIONS = 24
_SEED = 20251101
# Ranges are chosen: prompts and outputs from a line to nearly the context of the smaller models, load from less than
# half the capacity of PAPI's scheduler to more than a preset's highest, objectives from a third to half as much again
# as most presets'.
_INPUTS, _OUTPUTS, _MOST_TOKENS = (30, 1700), (20, 700), 1950
_LOADS = (0.4, 1.5)
_TTFT_MULTIPLES, _TPOT_MULTIPLES = (6.0, 30.0), (4.0, 14.0)
_REQUESTS = (250, 600)
_SHAPES = (0.2, 1.0)
_ENERGY_SHARES = (0.05, 0.5)
_WORST_DRIFT = (1.2, 2.0)
_DRIFT_PERIODS_S = (8.0, 40.0)


def varied(models: tuple[str, ...]) -> Iterator[tuple[str, Scenario]]:
    """Names and scenarios: `varied-01/llama-65b`, ..., `VARIATIONS` of each model."""
    measured = load_measurements()
    for m, model in enumerate(models):
        for number in range(1, VARIATIONS + 1):
            rng = np.random.default_rng([_SEED, m, number])
            name = preset_name(f"varied-{number:02d}", model)
            yield name, _drawn(name, model, measured, rng)


def _drawn(
    name: str, model: str, measured: dict[tuple[str, str], Measurement], rng: np.random.Generator
) -> Scenario:
    base = get_scenario(preset_name("saturated", model))
    usual = measured["conversation", model]
    longest = _MOST_TOKENS
    inputs = int(_log_uniform(rng, *_INPUTS))
    outputs = int(min(_log_uniform(rng, *_OUTPUTS), longest - inputs))
    rate = rounded(rng.uniform(*_LOADS) * _capacity_rps(model, measured, inputs, outputs))
    bursty = rng.random() < 0.4
    drifts, priced = rng.random() < 0.4, rng.random() < 0.3
    kinds = list(ASSISTANT)
    classes = dict(ASSISTANT) if rng.random() < 0.4 else {kinds[rng.integers(len(kinds))]: 1.0}
    # A prompt alone on the machine takes a time in proportion to its length, from a share of a chunk on.
    usual_inputs = float(_mean_lengths(TRAFFIC["conversation"].lengths, model)[0])
    ttft_s = usual.ttft_s * max(inputs / usual_inputs, 0.15)
    joules = usual.dynamic_j_per_token + usual.static_w / (rate * outputs)
    horizon_s = rounded(rng.integers(*_REQUESTS) / rate, 2)
    scenario = base.replace(
        energy_weight=rounded(rng.uniform(*_ENERGY_SHARES) / joules) if priced else 0.0,
        serving={
            "arrivals": Arrivals(
                process="gamma" if bursty else "poisson",
                rate_per_s=rate,
                shape=rounded(rng.uniform(*_SHAPES)) if bursty else None,
                profile="day" if bursty else None,
                **({"period_s": horizon_s} if bursty else {}),
            ).model_dump(),
            "lengths": Lengths(input=inputs, output=outputs).model_dump(),
            "objectives": Objectives(
                ttft_s=rounded(rng.uniform(*_TTFT_MULTIPLES) * ttft_s),
                tpot_s=rounded(rng.uniform(*_TPOT_MULTIPLES) * usual.tpot_s),
            ).model_dump(),
            "speculation": Speculation(classes=classes).model_dump(),
            "drift": _drift(rng).model_dump() if drifts else None,
            "horizon_s": horizon_s,
        },
    )
    description = f"{model} serves {inputs} input and {outputs} output tokens; drawn at random for training"
    return scenario.model_copy(update={"name": name, "description": description})


def _drift(rng: np.random.Generator) -> Drift:
    period = rounded(_log_uniform(rng, *_DRIFT_PERIODS_S))
    return Drift(
        period_s=period,
        **{unit: rounded(rng.uniform(*_WORST_DRIFT)) for unit in ("pu", "fc_pim", "attn_pim")},
    )


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@lru_cache(maxsize=64)
def _mean_lengths(lengths: Lengths, model: str) -> np.ndarray:
    """Mean input and output tokens of the requests that the model takes."""
    limit = get_transformer(model).context_limit
    return np.asarray(lengths.population(limit, "refuse").lengths.mean(axis=0))


def _capacity_rps(
    model: str, measured: dict[tuple[str, str], Measurement], inputs: int, outputs: int
) -> float:
    """Requests a second that PAPI's scheduler completes, roughly: seconds linear in both lengths.

    Fitted to the traffics that were measured, in relative error; it only centres the range of loads.
    """
    rows = []
    for name, traffic in TRAFFIC.items():
        rows.append(_mean_lengths(traffic.lengths, model) * measured[name, model].capacity_rps)
    seconds, *_ = np.linalg.lstsq(np.array(rows), np.ones(len(rows)), rcond=None)
    per_request = float(np.maximum(seconds, 1e-6) @ (inputs, outputs))
    return 1.0 / per_request
