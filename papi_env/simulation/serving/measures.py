"""What a serving episode amounts to: rates, latencies, energy and utilisation, from counters, clocks and records."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.requests import ServingState
from papi_env.simulation.serving.tables import UNBOUNDED_PAGES, ServingTables

QUANTILES = (50, 90, 99)
LATENCIES = ("ttft", "tpot", "e2e")
METRIC_NAMES = (
    "time_s",
    "iterations",
    "arrived",
    "finished",
    "attained",
    "rejected",
    "unfinished",  # arrived, neither finished nor rejected
    "tokens",
    "good_tokens",  # of requests that met both objectives
    "on_time_tokens",
    "throughput",  # output tokens per second
    "goodput",  # output tokens per second of requests that met both objectives
    "goodput_rps",  # such requests per second
    "attainment",  # of the requests that finished or were rejected; NaN before there is one
    *(f"{latency}_p{q}_s" for latency in LATENCIES for q in QUANTILES),  # NaN before there is one
    "dynamic_j",
    "static_j",
    "total_j",
    "j_per_token",
    *(f"utilisation_{resource}" for resource in at.RESOURCES),
    "overlap",  # a lower bound on the share of time in which two of PUs, FC-PIM and Attn-PIM were busy
    "idle_share",
    "communication_share",
    "switching_s",
    "switches",
    "draft_s",
    "accepted_share",  # of drafted tokens; NaN without speculation
    "kv_high_water",  # most pages in use, of all; NaN without paging
    "kv_mean",
    "preemptions",
    "recomputed_tokens",
    "prefilled_tokens",
    "invalid_actions",
    "return",
)


def latencies(moments: FloatArray, facts: npt.NDArray[np.int32]) -> dict[str, FloatArray]:
    """Seconds [requests] of each request: `ttft`, `tpot` (mean per token after the first), `e2e`; NaN where none.

    Args:
        moments, facts: the records of one environment (see `serving_requests.ServingState`).
    """
    arrival, first, finish = (moments[:, k] for k in (at.ARRIVAL_S, at.FIRST_TOKEN_S, at.FINISH_S))
    later = facts[:, at.OUTPUT] - 1
    tpot = np.full(len(arrival), np.nan)
    np.divide(finish - first, later, out=tpot, where=later > 0)
    return {"ttft": first - arrival, "tpot": tpot, "e2e": finish - arrival}


def serving_metrics(state: ServingState, tables: ServingTables) -> dict[str, npt.NDArray[Any]]:
    """Metrics of the episodes in `state`, arrays [num_envs] by `METRIC_NAMES`."""
    c, t, scalars = state.counters, state.clocks, tables.scalars
    time_s = t[:, at.TIME_S].copy()

    def ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> FloatArray:
        out = np.full(len(numerator), np.nan)
        return np.divide(numerator, denominator, out=out, where=denominator > 0)

    quantiles = np.full((len(c), len(LATENCIES), len(QUANTILES)), np.nan)
    for e in range(len(c)):
        count = c[e, at.ARRIVED]
        per_request = latencies(state.moments[e, :count], state.facts[e, :count])
        for k, name in enumerate(LATENCIES):
            known = per_request[name][~np.isnan(per_request[name])]
            if len(known):
                quantiles[e, k] = np.percentile(known, QUANTILES)
    static_j = scalars[at.STATIC_W] * time_s
    total_j = t[:, at.DYNAMIC_J] + static_j
    pages = scalars[at.TOTAL_PAGES]
    paged = np.full(len(c), pages if pages < UNBOUNDED_PAGES else 0.0)
    judged = c[:, at.FINISHED] + c[:, at.REJECTED]
    values = (
        time_s,
        c[:, at.ITERATION].copy(),
        c[:, at.ARRIVED].copy(),
        c[:, at.FINISHED].copy(),
        c[:, at.ATTAINED].copy(),
        c[:, at.REJECTED].copy(),
        c[:, at.ARRIVED] - judged,
        c[:, at.TOKENS].copy(),
        c[:, at.GOOD_TOKENS].copy(),
        c[:, at.ON_TIME_TOKENS].copy(),
        ratio(c[:, at.TOKENS], time_s),
        ratio(c[:, at.GOOD_TOKENS], time_s),
        ratio(c[:, at.ATTAINED], time_s),
        ratio(c[:, at.ATTAINED], judged),
        *(quantiles[:, k, q] for k in range(len(LATENCIES)) for q in range(len(QUANTILES))),
        t[:, at.DYNAMIC_J].copy(),
        static_j,
        total_j,
        ratio(total_j, c[:, at.TOKENS]),
        *(ratio(t[:, at.BUSY_S + k], time_s) for k in range(at.NUM_RESOURCES)),
        ratio(t[:, at.OVERLAPPED_S], time_s),
        ratio(t[:, at.IDLE_S], time_s),
        ratio(t[:, at.COMMUNICATION_S], time_s),
        t[:, at.SWITCHING_S].copy(),
        c[:, at.SWITCHES].copy(),
        t[:, at.DRAFT_S].copy(),
        ratio(c[:, at.ACCEPTED], c[:, at.DRAFTED]),
        ratio(c[:, at.PAGES_HIGH], paged),
        ratio(t[:, at.PAGES_USED_TIME], paged * time_s),
        c[:, at.PREEMPTIONS].copy(),
        c[:, at.RECOMPUTED].copy(),
        c[:, at.PREFILLED].copy(),
        c[:, at.INVALID].copy(),
        t[:, at.RETURN].copy(),
    )
    return dict(zip(METRIC_NAMES, values, strict=True))
