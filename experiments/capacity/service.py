"""Capacity of machines that serve classes of requests: what the presets of Serving-v1 are relative to.

For each traffic and model of `papi_env.workload.service_presets`: the largest rate of Poisson sessions at which the
best tuned rule has G, the worth served within objectives over the worth offered, of `ENOUGH` or more.

* At every rate that is tried the rule is tuned: `experiments.tuning.combinations` searches profile-greedy with the sets
  of parameters that its tuning starts from, and all options of the further choices, by coordinates on
  `TUNING_SEEDS`. The first search starts from the usual sets, later ones from what was best at the rates before.
* Its G is the mean over `SEEDS`, which are others. Where the best rule so far, at first an untuned one, has enough,
  nothing is searched.
* The rate is doubled or halved until it is between two whose answers differ, then bisected on a logarithmic scale until
  they are within `RESOLUTION`; the lower is the capacity.

Nothing depends on what is stored of tuned rules, on the date, or on the machine that this runs on; a mean over episodes
need not fall with every increase of the rate, which the resolution covers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

import papi_env
from experiments.common.runner import differences, listed
from experiments.tuning.combinations import Combination, Search, greedies, played
from papi_env.errors import DataError, describe_validation, lookup
from papi_env.files import JSON_BYTES, read_json
from papi_env.scenario import Scenario, class_scenario
from papi_env.workload.arrivals import Arrivals
from papi_env.workload.service_presets import (
    HORIZON_S,
    TRAFFIC,
    Capacity,
    load_capacities,
    traffic_serving,
)

T = TypeVar("T")

COMMAND = "python -m experiments.presets --env papi_env/Serving-v1"
# The issue of what a machine can carry: nearly all of what is asked, in time. chosen: 95 %, range 90-99 %.
ENOUGH = 0.95
SEEDS = tuple(range(8))
# Far from those that presets are played on. chosen: two; they rank combinations that differ by per cents.
TUNING_SEEDS = tuple(range(2**61, 2**61 + 2))
# Of a search. chosen: two, for every rate goes on from what the rates before found.
ROUNDS = 2
# Of the rate. chosen: 4 %, about what eight seeds tell apart; range 1-10 %.
RESOLUTION = 0.04
# chosen: what the slowest traffic can just carry, since rates that are too low take no search.
FIRST_RATE = 0.5
# Beyond these no machine of the project goes.
RATES = (1 / 64, 1024.0)
# Digits written, and how far what another machine's libraries round otherwise may be away.
WRITTEN_DIGITS = 6
TOLERANCE = 1e-4


@dataclass
class Measured(Generic[T]):
    """What was found of one traffic or trace on one model.

    Attributes:
        capacity: see `service_presets.Capacity`; of a trace the time scale.
        rule: the tuned one at capacity; g: what it has there, `beyond` at the next rate that was too much.
        rates: tried, with the best rule's G at each; tried, requests: of all searches.
    """

    capacity: T
    rule: str
    g: float
    beyond: dict[str, Any]
    rates: list[list[float]] = field(default_factory=list)
    tried: int = 0
    requests: int = 0

    def provenance(self) -> dict[str, Any]:
        """What the file says besides the capacity."""
        return {
            "rule": self.rule,
            "g": rounded_digits(self.g),
            "beyond": self.beyond,
            "rates": self.rates,
            "combinations": self.tried,
            "simulated_requests": self.requests,
        }


def scenario_at(traffic: str, model: str, rate: float, horizon_s: float | None = None) -> Scenario:
    """The scenario of a measurement: sessions come at random, `rate` of them in a second, for as long as in presets."""
    arrivals = Arrivals(process="poisson", rate_per_s=rate)
    fields = {} if horizon_s is None else {"horizon_s": horizon_s}
    serving = traffic_serving(traffic, model, arrivals, **fields)
    return class_scenario(f"{traffic}/{model}", traffic, model, serving)


def bisect(
    enough: Callable[[float], bool],
    first: float = FIRST_RATE,
    resolution: float = RESOLUTION,
    within: tuple[float, float] = RATES,
) -> tuple[float, float]:
    """(largest rate found with enough, smallest found without), apart by `resolution` of the rate at most.

    Raises:
        DataError: it is enough, or not, at all rates that are tried.
    """
    low = high = first
    if enough(first):
        while enough(high := 2 * high):
            low = high
            if 2 * high > within[1]:
                raise DataError(f"capacity: enough at all rates up to {high:g} sessions/s")
    else:
        while not enough(low := low / 2):
            high = low
            if low / 2 < within[0]:
                raise DataError(f"capacity: not enough at any rate down to {low:g} sessions/s")
    while high > (1 + resolution) * low:
        # Rates that are written in few digits, so that they are the same on every machine.
        middle = float(f"{math.sqrt(low * high):.4g}")
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low, high


@dataclass(frozen=True)
class Question:
    """What is asked at every rate of arrivals: whether the best tuned rule serves enough there.

    Attributes:
        name: of what is measured; unit: of rates, in words.
        scenario: that is played at a rate.
        served: from a scenario and the metrics of its episodes, the share that was served in time.
        measure: whose mean over episodes tuning maximises.
        seeds, tuning_seeds: of the episodes that judge a rule, and on which rules are searched.
    """

    name: str
    unit: str
    scenario: Callable[[float], Scenario]
    served: Callable[[Scenario, Mapping[str, Any]], float]
    measure: str
    seeds: Sequence[int]
    tuning_seeds: Sequence[int]


@dataclass
class Answer:
    """The largest rate with enough, and all that was tried.

    Attributes:
        low, high: that rate, and the smallest found without; apart by the resolution.
        found: at each rate the best rule, the share that it serves, and the metrics of its episodes.
        tried, requests: of all searches.
    """

    low: float
    high: float
    found: dict[float, tuple[Combination, float, Mapping[str, Any]]]
    tried: int
    requests: int

    def measured(self, capacity: T, rate: str) -> Measured[T]:
        """The same as a file has it, where rates are called `rate`."""
        rule, g, _ = self.found[self.low]
        above, beyond, _ = self.found[self.high]
        return Measured(
            capacity,
            rule.label,
            g,
            {rate: self.high, "rule": above.label, "g": rounded_digits(beyond)},
            [[tried, rounded_digits(one[1])] for tried, one in sorted(self.found.items())],
            self.tried,
            self.requests,
        )


def largest(
    question: Question,
    first: float = FIRST_RATE,
    resolution: float = RESOLUTION,
    say: Callable[[str], None] = lambda line: None,
) -> Answer:
    """Find the largest rate at which the best tuned rule serves enough; see the module's docstring.

    Args:
        question: what is played, and what counts as served.
        first, resolution: see `bisect`.
        say: is told of every rate that was tried.

    Raises:
        DataError: see `bisect`.
    """
    rules = greedies(stored=False)
    answer = Answer(0.0, 0.0, {}, 0, 0)
    known = [Combination(next(iter(rules)))]

    def judged(scenario: Scenario, rule: Combination) -> tuple[float, Mapping[str, Any]]:
        (metrics,) = played(scenario, [rule], rules, question.seeds)
        answer.tried += 1
        answer.requests += int(metrics["requests"].sum())
        return question.served(scenario, metrics), metrics

    def enough(rate: float) -> bool:
        scenario = question.scenario(rate)
        best = (known[-1], *judged(scenario, known[-1]))
        if best[1] < ENOUGH:
            search = Search(scenario, rules, question.tuning_seeds, question.measure)
            tuned = search.run(known[1:][-2:], ROUNDS)
            answer.tried += tuned.tried
            answer.requests += tuned.requests
            g, metrics = best[1:] if tuned.best == best[0] else judged(scenario, tuned.best)
            if g > best[1]:
                best = (tuned.best, g, metrics)
                known.append(tuned.best)
        answer.found[rate] = best
        say(f"{question.name}: G {best[1]:.4f} at {rate:g} {question.unit} under {best[0].label}")
        return best[1] >= ENOUGH

    answer.low, answer.high = bisect(enough, first, resolution)
    return answer


def measure(
    traffic: str,
    model: str,
    *,
    seeds: Sequence[int] = SEEDS,
    tuning_seeds: Sequence[int] = TUNING_SEEDS,
    horizon_s: float | None = None,
    first: float = FIRST_RATE,
    resolution: float = RESOLUTION,
    say: Callable[[str], None] = lambda line: None,
) -> Measured[Capacity]:
    """Find the capacity of a traffic on a model; see the module's docstring.

    Args:
        traffic, model: names in `service_presets`.
        seeds, tuning_seeds, horizon_s, first, resolution: otherwise than for presets, for tests.
        say: is told of every rate that was tried.
    """
    question = Question(
        f"{traffic}/{model}",
        "sessions/s",
        lambda rate: scenario_at(traffic, model, rate, horizon_s),
        lambda scenario, metrics: float(metrics["g"].mean()),
        "g",
        seeds,
        tuning_seeds,
    )
    answer = largest(question, first, resolution, say)
    _, _, metrics = answer.found[answer.low]
    sessions = float(metrics["sessions"].sum())
    values = (
        answer.low,
        float(metrics["offered"].sum()) / sessions,
        float(metrics["dynamic_j"].sum()) / sessions,
        question.scenario(answer.low).system.static_power_w,
    )
    return answer.measured(Capacity(*map(rounded_digits, values)), "sessions_per_s")


def rounded_digits(value: float) -> float:
    """To the digits that files have."""
    return float(f"{value:.{WRITTEN_DIGITS}g}")


def pairs(only: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Every traffic on every model that it is measured on; of those named, as TRAFFIC/MODEL or TRAFFIC, or of all.

    Raises:
        ConfigurationError: a name is none of them.
    """
    every = {
        f"{traffic}/{model}": (traffic, model) for traffic, sent in TRAFFIC.items() for model in sent.models
    }
    found: dict[tuple[str, str], None] = {}
    for name in only:
        family = [pair for key, pair in every.items() if key.startswith(f"{name}/")]
        found |= dict.fromkeys(family or [lookup("traffic and model", name, every)])
    return list(found or every.values())


def document(
    measured: Mapping[tuple[str, str], Measured[Capacity]], kept: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the file holds: the capacities, how they were found, and with what.

    Args:
        measured: by traffic and model.
        kept: the file as it is; entries that were not measured now stay.
    """
    kept = kept or {}
    capacities = dict(kept.get("measured", {}))
    how = dict(kept.get("found", {}))
    for pair, one in measured.items():
        name = "/".join(pair)
        capacities[name] = one.capacity._asdict()
        how[name] = one.provenance()
        traffic, model = pair
        if model in TRAFFIC[traffic].horizons:
            how[name]["horizon_s"] = TRAFFIC[traffic].horizon_s(model)
    order = [
        key for traffic, sent in TRAFFIC.items() for model in sent.models if (key := f"{traffic}/{model}")
    ]
    return {
        "command": COMMAND,
        "package": f"papi_env {papi_env.__version__}",
        "g": ENOUGH,
        "resolution": RESOLUTION,
        "seeds": [SEEDS[0], SEEDS[-1]],
        "tuning_seeds": [TUNING_SEEDS[0], TUNING_SEEDS[-1]],
        "horizon_s": HORIZON_S,
        "measured": {key: capacities[key] for key in order if key in capacities},
        "found": {key: how[key] for key in order if key in how},
    }


class _Beyond(BaseModel):
    """The smallest load that was too much, by what it is called: a rate, or a time scale."""

    sessions_per_s: float | None = None
    time_scale: float | None = None
    rule: str
    g: float


class _Found(BaseModel):
    """How a capacity was found, see `Measured.provenance`."""

    rule: str
    g: float
    beyond: _Beyond
    rates: list[tuple[float, float]]
    combinations: int
    simulated_requests: int


class _Document(BaseModel):
    """What `document` writes besides the capacities; there is more."""

    found: dict[str, _Found]


def read_document(path: Path) -> dict[str, Any]:
    """The file at `path` as `document` writes it.

    Raises:
        DataError: it cannot be read, or does not say of every capacity how it was found.
    """
    return read_found(path, load_capacities(path), "sessions_per_s")


def read_found(path: Path, pairs: Iterable[tuple[str, str]], load: str) -> dict[str, Any]:
    """The file at `path`, which says how each of these pairs was found, as a `load`; see `read_document`."""
    there = read_json(path, JSON_BYTES)
    try:
        known = _Document.model_validate(there).found
    except ValidationError as error:
        raise DataError(str(describe_validation(str(path), error))) from None
    for pair in pairs:
        where = f"found.{'/'.join(pair)}"
        if "/".join(pair) not in known:
            raise DataError(f"{path}: found no {where}, expected how each capacity was found")
        if getattr(known["/".join(pair)].beyond, load) is None:
            raise DataError(f"{path}: found no {where}.beyond.{load}, expected a number")
    return there


def check_file(path: Path, measured: Mapping[tuple[str, str], Measured[Capacity]]) -> None:
    """Raise DataError where the file at `path` says something else of what was measured just now."""
    load_capacities(path)
    there = json.loads(path.read_text(encoding="utf-8"))
    now = document(measured)
    # A version alone makes no file old.
    said = {**dict.fromkeys(now), **{key: value for key, value in there.items() if key in now}}
    empty = dict.fromkeys(("measured", "found", "package"))
    changes = list(differences({**said, **empty}, {**now, **empty}))
    for name, values in now["measured"].items():
        changes += _changed(f"measured.{name}", there["measured"].get(name, {}), values)
        old, new = (one.get("found", {}).get(name, {}) for one in (there, now))
        changes += _changed(f"found.{name}", {"g": old.get("g", math.nan)}, {"g": new["g"]})
        if old.get("rule") != new["rule"]:
            changes.append(f"found.{name}.rule: {old.get('rule')} there, {new['rule']} measured")
    if changes:
        raise DataError(f"{path}: out of date; write it again with {COMMAND}. {listed(changes, most=5)}")


def _changed(where: str, old: Mapping[str, float], new: Mapping[str, float]) -> list[str]:
    return [
        f"{where}.{name}: {old.get(name, np.nan):g} there, {value:g} measured"
        for name, value in new.items()
        if not abs(old.get(name, math.nan) - value) <= TOLERANCE * abs(value)
    ]
