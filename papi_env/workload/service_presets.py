"""Presets of Serving-v1, fixed before anything learns: families of senders and load on four models.

A family says who sends requests, and how many as a share of the machine's capacity: the largest load at which the best
tuned rule serves 95 % of the worth within its objectives. `service_presets.json` holds capacities as measured by
`python -m experiments.presets`. All rates follow from that file and the families by multiplication; objectives do not
depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from papi_env.errors import DataError, lookup, shown
from papi_env.files import JSON_BYTES, read_bounded
from papi_env.hardware.system import get_system
from papi_env.workload.arrivals import ARRIVALS, Arrivals
from papi_env.workload.heat import Heat
from papi_env.workload.presets import preset_name, rounded
from papi_env.workload.senders import SENDERS, Context
from papi_env.workload.service import Service
from papi_env.workload.serving import MAX_RUNNING, Drift, Serving, Speculation
from papi_env.workload.transformer import get_transformer

CAPACITIES = Path(__file__).with_name("service_presets.json")


class Machine(NamedTuple):
    """What serves a model: a system, and which of the two kinds of conversations fit its context."""

    system: str
    context: Context


# The paper's two largest models and two younger ones. Qwen3-30B-A3B runs on a sixth of PAPI, the least part that holds
# it: on all of PAPI more than half of an iteration goes to all-reduces, which no choice changes.
MODELS: Mapping[str, Machine] = {
    "llama-65b": Machine("papi", "short"),
    "llama-3.1-70b": Machine("papi", "long"),
    "gpt3-175b": Machine("papi", "short"),
    "qwen3-30b-a3b": Machine("papi-sixth", "long"),
}
# Models to train on; the others are held out: one is 2.5 times as large as the larger of these, one half as large as
# the smaller, and the only one with experts.
TRAINING_MODELS = ("llama-65b", "llama-3.1-70b")
# At least twenty of the longest first-token objective (6 s), so that no sender is present from end to end. Sessions
# arrive until then, and the episode goes on until all of them are over.
HORIZON_S = 120.0
# Of the worth of what is late or lost. Azure's agreement on service levels of its AI services gives back 10 % of the
# price below 99.9 % and 25 % below 99 %. chosen: 25 %; range 0-1.
CHARGE = 0.25


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Who sends requests.

    Attributes:
        shares: of sessions, by names in `SENDERS`.
        worth: see `Service`.
        stacks: Attn-PIM stacks whose memory holds KV caches of this model, by model; all where it is not named.
        skew: of a router of experts, by Zipf's law; None: even.
        models: where it is measured.
        horizons: seconds in which sessions come, by model; `HORIZON_S` where it is not named.
    """

    shares: Mapping[str, float]
    worth: Literal["tokens", "requests"] = "tokens"
    stacks: Mapping[str, int] = field(default_factory=dict)
    skew: float | None = None
    models: tuple[str, ...] = tuple(MODELS)
    horizons: Mapping[str, float] = field(default_factory=dict)

    def horizon_s(self, model: str) -> float:
        """Seconds in which sessions come on a model."""
        return self.horizons.get(model, HORIZON_S)


TRAFFIC: Mapping[str, Traffic] = {
    # Equal shares of three tiers, as Niyama is evaluated (Goel et al., 2025).
    "tiers": Traffic(shares={"interactive": 1, "standard": 1, "batch": 1}),
    # chosen: as many of either; range 1:4 to 4:1. Worth by requests, so that long answers are not served for their
    # length alone.
    "two-classes": Traffic(shares={"interactive": 1, "summaries": 1}, worth="requests"),
    # Mooncake's traces (FAST 2025) have 23,608 calls of agents and 12,031 turns of people in an hour: with 8 calls and
    # 3.5 turns each, 46 % of the sessions are agents'. chosen: half; range 0.3-0.7.
    # Several models share the memory of a machine's Attn-PIM stacks. chosen: this one has 10 of the 60, a sixth (range
    # 5-60); Llama-3.1 70B, whose keys and values are an eighth as large, has 5 (range 3-60), and Qwen3 3 of the 10 on a
    # sixth of the machine (range 2-10). With these the memory is full at capacity, and kept turns are evicted.
    "agents": Traffic(
        shares={"agents": 1, "people": 1},
        stacks={"llama-65b": 10, "llama-3.1-70b": 5, "gpt3-175b": 10, "qwen3-30b-a3b": 3},
    ),
    "documents": Traffic(
        shares={"readers": 1, "standard": 1},
        stacks={"llama-65b": 10, "llama-3.1-70b": 5, "gpt3-175b": 10, "qwen3-30b-a3b": 3},
    ),
    # chosen: as many of either, as in `tiers`; 5 of the 60 stacks, the least of the range above, so that memory is full
    # long before the units are busy.
    "chats": Traffic(
        shares={"subscribers": 1, "visitors": 1, "writing": 1},
        stacks={"llama-65b": 5, "gpt3-175b": 5},
        models=("llama-65b", "gpt3-175b"),
    ),
    # Few large requests, whose memory is held for long, beside short ones that cannot wait for a long prompt.
    # chosen: as many of either, as in `documents`. Llama-3.1 70B has the memory of one of the 60 stacks, five documents
    # (range 1-5; it is the least part that a model can have), LLaMA-65B, whose documents are a fifth as long, that of
    # `documents`. Some twenty documents in an episode take 300 s (range 120-600).
    "mixed-documents": Traffic(
        shares={"readers": 1, "premium": 1},
        stacks={"llama-65b": 10, "llama-3.1-70b": 1},
        models=("llama-65b", "llama-3.1-70b"),
        horizons={"llama-3.1-70b": 300.0},
    ),
    # chosen: Zipf with 0.7, range 0-1.5, as in the presets of static batches.
    "experts": Traffic(
        shares={"interactive": 1, "standard": 1, "batch": 1}, skew=0.7, models=("qwen3-30b-a3b",)
    ),
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of day for the machine.

    Attributes:
        traffic: a name in TRAFFIC.
        load: mean sessions per second over the capacity measured for that traffic.
        shape: of gamma gaps; None for Poisson arrivals.
        profile: of the rate, by name, one period an episode; None for a constant rate.
        drift: units wander from their profile.
        heat: stacks warm up; None: they do not.
        energy_share: of what is offered, what energy costs at this load under the rule that capacity is measured with.
        held_out: lies outside of what training draws from, in a respect that `why` names.
        why: the choices in words.
    """

    traffic: str
    load: float
    shape: float | None = None
    profile: str | None = None
    drift: bool = False
    heat: Heat | None = None
    energy_share: float = 0.0
    held_out: bool = False
    why: str = field(repr=False)


# Loads that training may draw from, and how bursty: the least shape of gamma gaps.
TRAINING_LOADS = (0.7, 1.3)
LEAST_TRAINING_SHAPE = ARRIVALS["azure-code"].shape
FAMILIES: Mapping[str, Family] = {
    "overload-0.7": Family(traffic="tiers", load=0.7, why="three tiers at a load that can be carried"),
    "overload-1": Family(traffic="tiers", load=1.0, why="three tiers at capacity"),
    "overload": Family(
        traffic="tiers", load=1.3, why="three tiers, a quarter more than can be served in time"
    ),
    "overload-1.6": Family(
        traffic="tiers",
        load=1.6,
        held_out=True,
        why="three tiers far beyond capacity, and beyond the loads of training",
    ),
    "bursts": Family(
        traffic="tiers",
        load=1.0,
        shape=ARRIVALS["azure-code"].shape,
        profile="day",
        why="at capacity on average, with gaps as bursty as Azure's code service and a day in an episode: 1.6 times "
        "capacity at noon (range of load 0.7-1.3)",
    ),
    # chosen: gaps that vary more than any of training, CV 2.6; Azure's code service has 13 (range of shape 0.05-0.2).
    "storms": Family(
        traffic="tiers",
        load=1.3,
        shape=0.15,
        profile="day",
        held_out=True,
        why="more than can be served, in gaps burstier than in training (range of load 1-1.6)",
    ),
    "two-classes": Family(
        traffic="two-classes",
        load=1.3,
        why="questions that cannot wait beside summaries that can, worth a fourth each (range of load 1-1.6)",
    ),
    "class-bursts": Family(
        traffic="two-classes",
        load=1.0,
        shape=ARRIVALS["azure-code"].shape,
        profile="day",
        why="questions and summaries at capacity on average, in bursts and a day in an episode (range of load 0.7-1.3)",
    ),
    "agents-1": Family(traffic="agents", load=1.0, why="tasks of agents and chats of people at capacity"),
    "agents": Family(
        traffic="agents",
        load=1.3,
        why="tasks of agents and chats of people: what is kept between turns decides how much is served (range of "
        "load 0.7-1.6)",
    ),
    "documents": Family(
        traffic="documents",
        load=1.3,
        why="long documents with questions about them beside short requests, which do not want to wait for them "
        "(range of load 1-1.6)",
    ),
    "document-bursts": Family(
        traffic="documents",
        load=1.0,
        shape=ARRIVALS["azure-code"].shape,
        profile="day",
        why="long documents and short requests at capacity on average, in bursts and a day in an episode (range of "
        "load 0.7-1.3)",
    ),
    "chats": Family(
        traffic="chats",
        load=1.3,
        why="long answers fill the memory, so that who is admitted now keeps others out for long (range of load 1-1.6)",
    ),
    "chat-bursts": Family(
        traffic="chats",
        load=1.0,
        shape=ARRIVALS["azure-code"].shape,
        profile="day",
        why="long answers at capacity on average, in bursts and a day in an episode: memory is to be kept free for "
        "those who pay for priority at noon, and not at night (range of load 0.7-1.3)",
    ),
    "chats-1.6": Family(
        traffic="chats",
        load=1.6,
        held_out=True,
        why="long answers far beyond what memory holds, and beyond the loads of training",
    ),
    "mixed-documents": Family(
        traffic="mixed-documents",
        load=1.3,
        why="long documents that fill the memory beside short requests that are worth twice as much and cannot "
        "wait for a long prompt: each document that is let in keeps others out for long (range of load 1-1.6)",
    ),
    "mixed-bursts": Family(
        traffic="mixed-documents",
        load=1.0,
        shape=ARRIVALS["azure-code"].shape,
        profile="day",
        why="documents and hasty requests at capacity on average, in bursts and a day in an episode (range of load "
        "0.7-1.3)",
    ),
    "wandering": Family(
        traffic="tiers",
        load=1.0,
        drift=True,
        why="three tiers at the capacity of the profiled machine, whose units are at times up to 1.6 times slower",
    ),
    "priced": Family(
        traffic="tiers",
        load=0.7,
        energy_share=1 / 3,
        why="energy costs a third of what is offered, and the load leaves time to save it (range 0.1-1)",
    ),
    # A cooler of 2 K/W, a small one (see `Heat`), with which busy stacks come to their throttle.
    "hot": Family(
        traffic="tiers",
        load=1.0,
        heat=Heat(resistance_k_per_w=2.0),
        why="three tiers at the capacity of cool stacks, which warm up and may be throttled (range of load 0.7-1.3)",
    ),
    "experts": Family(
        traffic="experts",
        load=1.3,
        held_out=True,
        why="three tiers on a mixture of experts, some of which are asked for more than others: no model of training "
        "has experts",
    ),
}


@dataclass(frozen=True, kw_only=True)
class TraceFamily:
    """A published trace at some load: times and lengths of requests are its own, who wants them when is a traffic's.

    Attributes:
        trace: its name, as of `arrivals.ARRIVALS`.
        traffic: a name in TRAFFIC; a request of the trace is of one of its classes by their shares.
        load: time scale over the largest one that the machine can carry (see `service_traces`).
    """

    trace: str
    traffic: str
    load: float


# chosen: three tiers, the senders whom most families have; at capacity, and as much beyond it as `overload`.
TRACE_FAMILIES: Mapping[str, TraceFamily] = {
    f"{trace}-{load:g}": TraceFamily(trace=trace, traffic="tiers", load=load)
    for trace in ("azure-conversation", "azure-code")
    for load in (1.0, 1.3)
}


class Capacity(NamedTuple):
    """What the machine does with one traffic on one model; see `experiments.presets` for how it is measured.

    Attributes:
        sessions_per_s: most Poisson arrivals of which the best tuned rule serves 95 % of the worth in time.
        worth: offered by a session on average: tokens, or requests, times weights.
        dynamic_j: dynamic energy of a session at that load, J.
        static_w: static power of the machine, W.
    """

    sessions_per_s: float
    worth: float
    dynamic_j: float
    static_w: float


class ServicePreset(NamedTuple):
    """A preset but for its objects: what `scenario` builds a `Scenario` from.

    `skew` is the exponent of the routing of experts, None where it stays as it is.
    """

    description: str
    system: str
    model: str
    skew: float | None
    serving: Serving
    energy_weight: float  # worth per joule


def traffic_serving(traffic: str, model: str, arrivals: Arrivals, **fields: Any) -> Serving:
    """What is served of a traffic on a model.

    Args:
        traffic: a name in TRAFFIC.
        model: a name in MODELS.
        arrivals: of sessions.
        fields: further ones of `Serving`.

    Raises:
        ConfigurationError: an unknown name.
    """
    sent, machine = lookup("traffic", traffic, TRAFFIC), lookup("model", model, MODELS)
    classes = {
        name: SENDERS[name].entry(model, machine.context, share) for name, share in sent.shares.items()
    }
    first = next(iter(classes.values()))
    assert first.lengths is not None
    assert first.objectives is not None
    return Serving(
        **{
            "arrivals": arrivals,
            # Every class has its own.
            "lengths": first.lengths,
            "objectives": first.objectives,
            "speculation": Speculation(),
            "horizon_s": sent.horizon_s(model),
            # vLLM's default `max_num_seqs`, and all that the look-ups cover.
            "max_running": MAX_RUNNING,
            "kv_tokens": kv_tokens(traffic, model),
            "service": Service(classes=classes, charge=CHARGE, worth=sent.worth),
        }
        | fields
    )


def kv_tokens(traffic: str, model: str) -> int | None:
    """Tokens of KV caches that the stacks given to a model hold; None where it has all of them."""
    stacks = TRAFFIC[traffic].stacks.get(model)
    if stacks is None:
        return None
    attention = get_system("papi").attn_pim  # those of a sixth of it are the same
    assert attention is not None
    stack_bytes = attention.capacity_bytes // attention.stacks
    return int(stacks * stack_bytes // get_transformer(model).kv_bytes_per_token)


def derive_service(family: Family, model: str, capacity: Capacity) -> ServicePreset:
    """The preset of a family on a model: its rates from what was measured."""
    rate = rounded(family.load * capacity.sessions_per_s)
    arrivals = Arrivals(
        process="poisson" if family.shape is None else "gamma",
        rate_per_s=rate,
        shape=family.shape,
        profile=family.profile,  # looked up by name
        **({} if family.profile is None else {"period_s": TRAFFIC[family.traffic].horizon_s(model)}),
    )
    serving = traffic_serving(
        family.traffic, model, arrivals, drift=Drift() if family.drift else None, heat=family.heat
    )
    # A machine pays its static power whatever it does, so a session's part of it falls with the load.
    joules = capacity.dynamic_j + capacity.static_w / rate
    sent, machine = TRAFFIC[family.traffic], MODELS[model]
    who = " and ".join(sent.shares)
    description = f"{model} serves {who} at {family.load:g} x its capacity: {family.why}"
    weight = rounded(family.energy_share * capacity.worth / joules)
    return ServicePreset(description, machine.system, model, sent.skew, serving, weight)


def service_presets(
    capacities: Mapping[tuple[str, str], Capacity] | None = None,
) -> dict[str, ServicePreset]:
    """Every preset by name, family by family; where its traffic has not been measured, a family has none."""
    measured = load_capacities() if capacities is None else capacities
    return {
        preset_name(name, model): derive_service(family, model, measured[family.traffic, model])
        for name, family in FAMILIES.items()
        for model in TRAFFIC[family.traffic].models
        if (family.traffic, model) in measured
    }


def traffic_of(serving: Serving | None) -> str | None:
    """The first of TRAFFIC whose senders are the classes of a scenario; None where it is of no such."""
    classes = set() if serving is None or serving.service is None else set(serving.service.classes)
    return next((name for name, traffic in TRAFFIC.items() if set(traffic.shares) == classes), None)


def nearest_family(name: str, among: Collection[str]) -> str | None:
    """Which of some families has the same senders as another one, and the nearest load; None where none has.

    The other one may be that of a trace.
    """
    family = _family(name)
    if family is None:
        return None
    senders = set(TRAFFIC[family.traffic].shares)
    alike = [
        other
        for other in FAMILIES
        if other in among and set(TRAFFIC[FAMILIES[other].traffic].shares) == senders
    ]
    return min(alike, key=lambda other: abs(FAMILIES[other].load - family.load), default=None)


def load_of(name: str) -> float | None:
    """How much is offered in a preset, such as "bursts/llama-65b", over what can be carried; None: no preset."""
    family = _family(name.partition("/")[0])
    return None if family is None else family.load


def _family(name: str) -> Family | TraceFamily | None:
    return FAMILIES.get(name) or TRACE_FAMILIES.get(name)


def held_out(name: str) -> bool:
    """Whether a preset, such as "bursts/llama-65b", is for evaluation alone: by its family or its model."""
    family, _, model = name.partition("/")
    return lookup("family", family, FAMILIES).held_out or model not in TRAINING_MODELS


def load_capacities(path: str | Path = CAPACITIES) -> dict[tuple[str, str], Capacity]:
    """What was measured, by traffic and model.

    Raises:
        DataError: the file is not what `experiments.presets` writes; it says which entry is wrong.
    """
    path = Path(path)
    found = {}
    for key, values in measured_entries(path).items():
        where = f"{path}: measured.{key}"
        traffic, _, model = key.partition("/")
        if traffic not in TRAFFIC or model not in TRAFFIC[traffic].models:
            raise DataError(f"{where}: expected TRAFFIC/MODEL, with one of {', '.join(TRAFFIC)}")
        if not isinstance(values, dict) or set(values) != set(Capacity._fields):
            raise DataError(f"{where}: found {shown(values)}, expected {', '.join(Capacity._fields)}")
        for name, value in values.items():
            check_measured(f"{where}.{name}", value, 1e12)
        found[traffic, model] = Capacity(**values)
    return found


def check_measured(where: str, value: Any, below: float) -> None:
    """Raise DataError where a value of such a table is no number above 0, or not `below` what any machine reaches."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < below:
        raise DataError(f"{where}: found {shown(value)}, expected a number above 0")


def measured_entries(path: Path) -> dict[str, Any]:
    """The table of what `experiments.presets` measured, as plain data; what is in an entry is not looked at.

    Raises:
        DataError: the file cannot be read, or has no such table.
    """
    try:
        return dict(json.loads(read_bounded(path, JSON_BYTES))["measured"].items())
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: found no table 'measured' in JSON, expected one ({error!r})") from None
