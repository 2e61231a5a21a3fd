"""What a serving episode amounts to: rates, latencies, energy and utilisation, from counters, clocks and records."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from papi_env.hardware.energy import CAUSE_WORDS, CAUSES
from papi_env.kernel import FloatArray
from papi_env.simulation.measures import Measure, evaluate, names
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.requests import ServingState
from papi_env.simulation.serving.tables import UNBOUNDED_PAGES, ServingTables

QUANTILES = (50, 90, 99)
LATENCIES = ("ttft", "tpot", "e2e")


def latencies(moments: FloatArray, facts: npt.NDArray[np.int32]) -> dict[str, FloatArray]:
    """Seconds [requests] of each request: `ttft`, `tpot` (mean per token after the first), `e2e`; NaN where none.

    Args:
        moments, facts: the records of one environment (see `requests.ServingState`).
    """
    arrival, first, finish = (moments[:, k] for k in (at.ARRIVAL_S, at.FIRST_TOKEN_S, at.FINISH_S))
    later = facts[:, at.OUTPUT] - 1
    tpot = np.full(len(arrival), np.nan)
    np.divide(finish - first, later, out=tpot, where=later > 0)
    return {"ttft": first - arrival, "tpot": tpot, "e2e": finish - arrival}


def reuses(state: ServingState) -> bool:
    """Whether records of requests that are over are taken by others, with classes; see `sessions.reuses_records`."""
    return bool(state.facts.shape[1] == state.requests.shape[1] + state.queue.shape[1] + 1)


class Episodes:
    """The episodes in a state, and what several measures need of them: arrays [num_envs], computed once."""

    def __init__(self, state: ServingState, tables: ServingTables) -> None:
        self.state, self.scalars = state, tables.scalars

    def counter(self, column: int) -> npt.NDArray[np.int64]:
        """A counter, as of now."""
        return self.state.counters[:, column].copy()

    def clock(self, column: int) -> FloatArray:
        """A clock, as of now."""
        return self.state.clocks[:, column].copy()

    def cause(self, k: int) -> FloatArray:
        """Dynamic joules of a cause, as of now; NaN where they are not kept."""
        if self.state.clocks.shape[1] < at.NUM_CLOCKS:
            return np.full(len(self.state.clocks), np.nan)
        return self.clock(at.CAUSE_J + k)

    @cached_property
    def time_s(self) -> FloatArray:
        """Simulated seconds since the episode's start."""
        return self.clock(at.TIME_S)

    @cached_property
    def judged(self) -> npt.NDArray[np.int64]:
        """Requests that finished or were rejected; with classes also those dropped and given up."""
        columns = (at.FINISHED, at.REJECTED, at.SHED, at.ABANDONED)
        return self.state.counters[:, columns].sum(axis=1)

    @cached_property
    def offered(self) -> FloatArray:
        """Worth of all requests that have come, and of the further turns of their conversations."""
        return self.clock(at.OFFERED)

    @cached_property
    def static_j(self) -> FloatArray:
        """Energy of standing by."""
        return np.asarray(self.scalars[at.STATIC_W] * self.time_s)

    @cached_property
    def total_j(self) -> FloatArray:
        """All energy."""
        return self.clock(at.DYNAMIC_J) + self.static_j

    @cached_property
    def pages(self) -> FloatArray:
        """KV pages there are; 0 without paging."""
        pages = self.scalars[at.TOTAL_PAGES]
        return np.full(len(self.time_s), pages if pages < UNBOUNDED_PAGES else 0.0)

    @cached_property
    def quantiles(self) -> FloatArray:
        """Seconds [num_envs, LATENCIES, QUANTILES] over the requests that have the latency; NaN before there is one.

        With classes also where the engine keeps no records.
        """
        state = self.state
        found = np.full((len(state.counters), len(LATENCIES), len(QUANTILES)), np.nan)
        if self.scalars[at.SERVICE] > 0 and reuses(state):
            return found
        for e, count in enumerate(state.counters[:, at.ARRIVED]):
            per_request = latencies(state.moments[e, :count], state.facts[e, :count])
            for k, name in enumerate(LATENCIES):
                known = per_request[name][~np.isnan(per_request[name])]
                if len(known):
                    found[e, k] = np.percentile(known, QUANTILES)
        return found


Value = Callable[[Episodes], npt.NDArray[Any]]


def _ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> FloatArray:
    """A quotient, NaN where there is nothing to divide by."""
    out = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _count(name: str, column: int, words: str = "") -> Measure[Episodes]:
    """A counter."""
    return Measure(name, lambda episodes: episodes.counter(column), words, whole=True)


def _clock(column: int) -> Value:
    return lambda episodes: episodes.clock(column)


def _cause(k: int) -> Value:
    return lambda episodes: episodes.cause(k)


def _per_second(column: int) -> Value:
    """A counter over the time."""
    return lambda episodes: _ratio(episodes.counter(column), episodes.time_s)


def _share_of_time(column: int) -> Value:
    """A clock over the time."""
    return lambda episodes: _ratio(episodes.clock(column), episodes.time_s)


def _quantile(latency: int, quantile: int) -> Value:
    return lambda episodes: episodes.quantiles[:, latency, quantile]


MEASURES: tuple[Measure[Episodes], ...] = (
    Measure("time_s", lambda e: e.time_s, "simulated seconds"),
    _count("iterations", at.ITERATION),
    _count("arrived", at.ARRIVED, "requests that have come"),
    _count("finished", at.FINISHED),
    _count("attained", at.ATTAINED, "finished requests that met both objectives"),
    _count("rejected", at.REJECTED),
    Measure(
        "unfinished",
        lambda e: e.counter(at.ARRIVED) - e.judged,
        "neither finished nor rejected",
        whole=True,
    ),
    _count("tokens", at.TOKENS, "output tokens"),
    _count("good_tokens", at.GOOD_TOKENS, "output tokens of attained requests"),
    _count("on_time_tokens", at.ON_TIME_TOKENS, "output tokens no later than their pace allows"),
    Measure("throughput", _per_second(at.TOKENS), "output tokens per second"),
    Measure("goodput", _per_second(at.GOOD_TOKENS), "output tokens of attained requests per second"),
    Measure("goodput_rps", _per_second(at.ATTAINED), "attained requests per second"),
    Measure(
        "attainment",
        lambda e: _ratio(e.counter(at.ATTAINED), e.judged),
        "of the requests that finished or were rejected; NaN before there is one",
    ),
    *(
        Measure(f"{latency}_p{quantile}_s", _quantile(k, q), "NaN before there is one")
        for k, latency in enumerate(LATENCIES)
        for q, quantile in enumerate(QUANTILES)
    ),
    Measure("dynamic_j", _clock(at.DYNAMIC_J)),
    Measure("static_j", lambda e: e.static_j),
    Measure("total_j", lambda e: e.total_j),
    *(Measure(f"{cause}_j", _cause(k), CAUSE_WORDS[cause]) for k, cause in enumerate(CAUSES)),
    Measure("idle_j", lambda e: e.static_j, "static power over the time; with the six before it, `total_j`"),
    Measure("j_per_token", lambda e: _ratio(e.total_j, e.counter(at.TOKENS))),
    *(
        Measure(f"utilisation_{resource}", _share_of_time(at.BUSY_S + k), "share of time in which it is busy")
        for k, resource in enumerate(at.RESOURCES)
    ),
    Measure(
        "overlap",
        _share_of_time(at.OVERLAPPED_S),
        "a lower bound on the share of time in which two of PUs, FC-PIM and Attn-PIM were busy",
    ),
    Measure("idle_share", _share_of_time(at.IDLE_S)),
    Measure("communication_share", _share_of_time(at.COMMUNICATION_S)),
    Measure("switching_s", _clock(at.SWITCHING_S)),
    _count("switches", at.SWITCHES),
    Measure("draft_s", _clock(at.DRAFT_S)),
    Measure(
        "accepted_share",
        lambda e: _ratio(e.counter(at.ACCEPTED), e.counter(at.DRAFTED)),
        "of drafted tokens; NaN without speculation",
    ),
    Measure(
        "kv_high_water",
        lambda e: _ratio(e.counter(at.PAGES_HIGH), e.pages),
        "most pages in use, of all; NaN without paging",
    ),
    Measure("kv_mean", lambda e: _ratio(e.clock(at.PAGES_USED_TIME), e.pages * e.time_s)),
    _count("preemptions", at.PREEMPTIONS),
    _count("recomputed_tokens", at.RECOMPUTED, "prompt tokens processed again after preemption"),
    _count("prefilled_tokens", at.PREFILLED, "prompt tokens processed"),
    _count("invalid_actions", at.INVALID),
    Measure("return", _clock(at.RETURN), "undiscounted sum of rewards"),
)
METRIC_NAMES = names(MEASURES)


def _of_class(number: int) -> Value:
    """Turns of a class within their objectives, of all that have come or would have."""
    return lambda e: _ratio(e.counter(at.CLASS_ATTAINED + number), e.counter(at.CLASS_OFFERED + number))


# With classes of requests, besides.
SERVICE_MEASURES: tuple[Measure[Episodes], ...] = (
    Measure(
        "g",
        lambda e: _ratio(e.clock(at.SERVED), e.offered),
        "worth served within objectives over worth offered, turns that never came included",
    ),
    Measure("offered", lambda e: e.offered, "worth"),
    Measure("served", _clock(at.SERVED), "worth within objectives"),
    Measure(
        "lost", _clock(at.LOST_WORTH), "worth late, dropped, rejected, given up, or never come with those"
    ),
    *(
        Measure(
            f"attained_{number}", _of_class(number), f"turns of class {number} within their objectives, share"
        )
        for number in range(at.MAX_CLASSES)
    ),
    _count("sessions", at.SESSIONS, "conversations, and requests that are none"),
    _count("dropped", at.SHED, "by choice"),
    _count("abandoned", at.ABANDONED, "by senders who gave up waiting"),
    _count("cut", at.CUT, "turns that never came, since an earlier one was lost"),
    _count("evictions", at.EVICTIONS, "of kept turns"),
    _count("hit_tokens", at.HIT_TOKENS, "prompt tokens found in kept pages and shared prefixes"),
    Measure(
        "hit_share",
        lambda e: _ratio(e.counter(at.HIT_TOKENS), e.counter(at.HIT_TOKENS) + e.counter(at.PREFILLED)),
        "of the prompt tokens found or processed",
    ),
)
SERVICE_METRIC_NAMES = (*METRIC_NAMES, *names(SERVICE_MEASURES))


def serving_metrics(state: ServingState, tables: ServingTables) -> dict[str, npt.NDArray[Any]]:
    """Metrics of the episodes in `state`, arrays [num_envs] by `METRIC_NAMES` or, with classes, those and more."""
    measures = (*MEASURES, *SERVICE_MEASURES) if tables.scalars[at.SERVICE] > 0 else MEASURES
    return evaluate(measures, Episodes(state, tables))
