"""Serving presets, fixed before anything learns: families of load and objectives on three models.

A family says how requests come and what is promised to them, relative to two things that PAPI's own scheduler
achieves on the machine: load as a share of its capacity, objectives as multiples of its unloaded latency.
`serving_presets.json` holds both as measured by `python -m experiments.presets`, which also says how. All rates
and objectives follow from that file and the families by multiplication.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from papi_env.errors import DataError, shown
from papi_env.files import JSON_BYTES, read_bounded
from papi_env.workload.arrivals import ARRIVALS, Arrivals
from papi_env.workload.requests import Lengths
from papi_env.workload.serving import MAX_RUNNING, Drift, Objectives, Serving, Speculation

MEASUREMENTS = Path(__file__).with_name("presets.json")
# The paper's smallest and largest models (PAPI, section 7.1), and one whose grouped queries make KV caches 8x
# smaller.
MODELS = ("llama-65b", "gpt3-175b", "llama2-70b")
# Digits kept of rates, objectives and weights: finer than any measurement means.
DIGITS = 4

# chosen: a general assistant; nobody publishes the mix. It matters only through acceptance of drafts, and range
# all writing to all code moves that from 0.64 to 0.84.
ASSISTANT = {"writing": 0.3, "questions": 0.3, "code": 0.2, "maths": 0.1, "tools": 0.1}


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What requests are: their lengths, and the classes that decide how many drafts are accepted."""

    lengths: Lengths
    classes: Mapping[str, float]


TRAFFIC: Mapping[str, Traffic] = {
    "conversation": Traffic(lengths=Lengths(table="azure-conversation"), classes=ASSISTANT),
    # chosen: 1900 of the 2048 tokens that LLaMA-65B and GPT-3 hold, prompt and output both long (range: any
    # split of them; more output fills the KV caches faster, more prompt keeps the PUs busier).
    "long": Traffic(lengths=Lengths(input=1400, output=500), classes={"writing": 1.0}),
    "short": Traffic(lengths=Lengths(table="dolly-general-qa"), classes={"questions": 1.0}),
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of day for the machine.

    Attributes:
        traffic: a name in TRAFFIC.
        load: mean requests per second over the capacity measured for that traffic.
        ttft_multiple, tpot_multiple: objectives over the unloaded means.
        requests: mean requests of an episode, which lasts requests / rate. Episodes are by time.
        shape: of gamma gaps; None for Poisson arrivals.
        profile: of the rate, by name (see `profiles`), one period an episode; None for a constant rate.
        energy_share: of a token's worth, what the energy of one token costs at this load under PAPI's scheduler.
        drift: units wander from their profile.
        why: the choices in words.
    """

    traffic: str = "conversation"
    load: float
    # chosen: about 2 s and 60 ms for LLaMA-65B's conversations, between MLPerf Inference v5's server (2 s,
    # 200 ms) and interactive (450 ms, 40 ms) scenarios of Llama-2 70B; ranges 5-50 and 3-20.
    ttft_multiple: float = 20.0
    tpot_multiple: float = 10.0
    # chosen: 1-3 minutes and some thousand iterations, a few times as long as a request stays; with the slots of
    # 256 requests and 24 + 32 bytes of record each, an environment's state stays below 64 KiB up to some 750.
    requests: int = 600
    shape: float | None = None
    profile: str | None = None
    energy_share: float = 0.0
    drift: bool = False
    why: str = field(repr=False)


FAMILIES: Mapping[str, Family] = {
    "light": Family(
        load=0.3,
        requests=150,
        why="a machine that is mostly waiting: every sensible policy meets its objectives, and little can be won",
    ),
    "saturated": Family(
        load=1.2,
        why="more than PAPI's scheduler can serve, about what the best fixed action can (range 1-1.5)",
    ),
    "bursty": Family(
        load=0.9,
        requests=450,
        shape=ARRIVALS["azure-code"].shape,
        profile="day",
        why="gaps as bursty as Azure's code service, and a day in an episode: overload at noon, a queue to work off "
        "after it (range of load 0.7-1.1)",
    ),
    "long-context": Family(
        traffic="long",
        load=1.2,
        requests=650,
        why="contexts near the models' limit at a load that can fill the KV caches where keys are not shared; a "
        "request stays for up to a minute, so episodes are longer (range of load 0.9-1.4)",
    ),
    "short-context": Family(
        traffic="short",
        load=1.3,
        requests=700,
        why="short questions and answers, five times as many requests a second, so episodes are shorter and it "
        "takes a higher load to build up a queue in one (range of load 1-1.5)",
    ),
    "energy-priced": Family(
        load=0.6,
        requests=300,
        energy_share=1 / 3,
        why="energy costs a third of what tokens are worth, and the load leaves time to save it (range 0.1-1)",
    ),
    "tight-objectives": Family(
        load=0.7,
        requests=350,
        ttft_multiple=10.0,
        tpot_multiple=5.0,
        why="half of the usual time for first and further tokens (ranges 5-15 and 3-8): a prompt's chunk on the PUs "
        "already takes a token's time",
    ),
    "drifting": Family(
        load=0.9,
        requests=450,
        drift=True,
        why="a load that the profiled machine can carry, on one whose units are at times up to 1.6 times slower "
        "(range of load 0.7-1.1)",
    ),
}


class Measurement(NamedTuple):
    """What PAPI's scheduler does with one traffic on one model; see `experiments.presets` for definitions.

    Attributes:
        capacity_rps: requests per second that it completes from an endless queue.
        output_tokens: mean output of a request in the population, tokens.
        dynamic_j_per_token: dynamic energy over output tokens while it does, J.
        static_w: static power of the machine, W.
        ttft_s, tpot_s: mean time to first token and per further token of a request alone on the machine, s.
    """

    capacity_rps: float
    output_tokens: float
    dynamic_j_per_token: float
    static_w: float
    ttft_s: float
    tpot_s: float


class ServingPreset(NamedTuple):
    """A preset but for its system: what `scenario` builds a `Scenario` from."""

    description: str
    model: str
    serving: Serving
    energy_weight: float  # tokens per joule


def preset_name(family: str, model: str) -> str:
    """`saturated/llama-65b`."""
    return f"{family}/{model}"


def load_measurements(path: str | Path = MEASUREMENTS) -> dict[tuple[str, str], Measurement]:
    """The measurements in a file, by traffic and model.

    Raises:
        DataError: the file is not what `experiments.presets` writes; it says which entry is wrong.
    """
    path = Path(path)
    try:
        measured = json.loads(read_bounded(path, JSON_BYTES))["measured"]
        entries = [(*key.split("/"), values) for key, values in measured.items()]
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: found no table 'measured' in JSON, expected one ({error!r})") from None
    found = {}
    for *names, values in entries:
        where = f"{path}: measured.{'/'.join(names)}"
        if len(names) != 2:
            raise DataError(f"{where}: expected TRAFFIC/MODEL")
        if not isinstance(values, dict) or set(values) != set(Measurement._fields):
            raise DataError(f"{where}: found {shown(values)}, expected {', '.join(Measurement._fields)}")
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e12:
                raise DataError(f"{where}.{name}: found {shown(value)}, expected a number above 0")
        found[names[0], names[1]] = Measurement(**values)
    return found


def derive(family: Family, model: str, measured: Measurement) -> ServingPreset:
    """The preset of a family on a model: its rates and objectives from what was measured."""
    rate = rounded(family.load * measured.capacity_rps)
    horizon_s = rounded(family.requests / rate, 2)
    traffic = TRAFFIC[family.traffic]
    serving = Serving(
        arrivals=Arrivals(
            process="poisson" if family.shape is None else "gamma",
            rate_per_s=rate,
            shape=family.shape,
            profile=family.profile,  # looked up by name
            **({} if family.profile is None else {"period_s": horizon_s}),
        ),
        lengths=traffic.lengths,
        objectives=Objectives(
            ttft_s=rounded(family.ttft_multiple * measured.ttft_s),
            tpot_s=rounded(family.tpot_multiple * measured.tpot_s),
        ),
        speculation=Speculation(classes=dict(traffic.classes)),
        drift=Drift() if family.drift else None,
        horizon_s=horizon_s,
        # vLLM's default `max_num_seqs`, and all that the look-ups cover.
        max_running=MAX_RUNNING,
    )
    # A machine pays its static power whatever it does, so a token's part of it falls with the load.
    joules = measured.dynamic_j_per_token + measured.static_w / (rate * measured.output_tokens)
    load = f"{family.load:g} x the capacity of PAPI's scheduler"
    description = f"{model} serves {family.traffic} requests at {load}: {family.why}"
    return ServingPreset(description, model, serving, rounded(family.energy_share / joules))


def serving_presets(
    measurements: Mapping[tuple[str, str], Measurement] | None = None,
) -> dict[str, ServingPreset]:
    """Every preset by name, family by family.

    A family whose traffic has not been measured on a model has no preset there: that is how a new one is
    measured in the first place.
    """
    measured = load_measurements() if measurements is None else measurements
    return {
        preset_name(name, model): derive(family, model, measured[family.traffic, model])
        for name, family in FAMILIES.items()
        for model in MODELS
        if (family.traffic, model) in measured
    }


def rounded(value: float, digits: int = DIGITS) -> float:
    """To some significant digits."""
    return float(f"{value:.{digits}g}")


def traffic_table() -> dict[str, dict[str, object]]:
    """TRAFFIC as plain data, as the file of measurements records what was measured."""
    return {
        name: {
            "lengths": traffic.lengths.model_dump(mode="json", exclude_none=True),
            "classes": dict(traffic.classes),
        }
        for name, traffic in TRAFFIC.items()
    }
