"""What is measured of an episode, by problem, and what of it is shown: names, units, digits."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import polars as pl
from polars.datatypes import DataType

from experiments.splitting.definition import SERVING
from papi_env.envs.registration import SERVING_V1
from papi_env.hardware.energy import CAUSES
from papi_env.simulation.batch.measures import EXPERT_MEASURES
from papi_env.simulation.batch.measures import MEASURES as BATCH_MEASURES
from papi_env.simulation.batch.state import TIMED_CLASSES
from papi_env.simulation.measures import names
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.measures import MEASURES as SERVING_MEASURES
from papi_env.simulation.serving.measures import SERVICE_MEASURES

# Decisions at once whose time is measured. chosen: as many as a batched evaluation has; a call's fixed cost is spread
# thin (range 64-4096).
BATCH = 256
# What becomes of a request that is never served, beside being cut off by the end of the episode.
REJECTED = ("rejected_context", "rejected_kv")
# Measures of which every episode has a whole number.
_BATCH_COUNTS = frozenset(measure.name for measure in BATCH_MEASURES if measure.whole)
SERVING_COUNTS = frozenset((*(measure.name for measure in SERVING_MEASURES if measure.whole), *REJECTED))
SERVICE_COUNTS = frozenset(m.name for m in (*SERVING_MEASURES, *SERVICE_MEASURES) if m.whole)


def measures(problem: str) -> tuple[str, ...]:
    """Names of what is measured: metrics of the problem's engine, PAPI's α on static batches, refusals in serving.

    Why requests were refused is not known of Serving-v1.
    """
    if problem == SERVING_V1:
        return (*names(SERVING_MEASURES), *names(SERVICE_MEASURES))
    return (*names(SERVING_MEASURES), *REJECTED) if problem == SERVING else ("alpha", *names(BATCH_MEASURES))


# Measured besides of models with experts.
EXPERT_NAMES = names(EXPERT_MEASURES)


def schema(problem: str, experts: bool = False) -> dict[str, type[DataType]]:
    """Columns of what one job played: a row for each seed; `note` says why there is nothing.

    `experts`: with what is measured of them.
    """
    # A bound on a count, which serving has, is no whole number.
    whole = frozenset() if problem in (SERVING, SERVING_V1) else _BATCH_COUNTS
    return {
        "seed": pl.Int64,
        "played": pl.String,
        **{name: pl.Int64 if name in whole else pl.Float64 for name in measures(problem)},
        **(dict.fromkeys(EXPERT_NAMES, pl.Float64) if experts else {}),
        "note": pl.String,
    }


# What all joules are split into, in every problem: measures are named so, with `_j`.
ENERGY_CAUSES = (*CAUSES, "idle")
# How a table calls kernel classes and what joins them, where it does not say their names.
_SHORT: Mapping[str, str] = {
    "qkv": "QKV",
    "projection": "proj.",
    "feed_forward": "feed-fwd",
    "repmlp_fc1_fc2": "FC1, FC2",
    "repmlp_fc3": "FC3",
    "repmlp_ffn": "FFN",
    "convolution": "conv.",
    "communication": "links",
    "switching": "switches",
}
# What regret is split into, and how a table calls it.
REGRET_PARTS: Mapping[str, str] = {
    part: _SHORT.get(part, part) for part in (*TIMED_CLASSES, "communication", "switching", "experts")
}
# Of serving episodes, what `experiments.serve` prints: measure, what it is called, factor, digits after the point.
SERVING_ROWS: tuple[tuple[str, str, float, int], ...] = (
    ("arrived", "requests", 1, 1),
    ("finished", "  finished", 1, 1),
    ("attained", "  of them within objectives", 1, 1),
    ("rejected_context", "  rejected: beyond the context", 1, 1),
    ("rejected_kv", "  rejected: beyond all KV pages", 1, 1),
    ("unfinished", "  cut off by the end", 1, 1),
    ("time_s", "simulated time (s)", 1, 1),
    ("iterations", "iterations", 1, 0),
    ("throughput", "throughput (tokens/s)", 1, 1),
    ("goodput", "goodput (tokens/s)", 1, 1),
    ("attainment", "attainment (%)", 100, 1),
    *((f"ttft_p{q}_s", f"TTFT p{q} (s)", 1.0, 3) for q in (50, 90, 99)),
    *((f"tpot_p{q}_s", f"TPOT p{q} (ms)", 1e3, 1) for q in (50, 90, 99)),
    *((f"e2e_p{q}_s", f"end to end p{q} (s)", 1.0, 2) for q in (50, 90, 99)),
    ("j_per_token", "energy (J/token)", 1, 3),
    *((f"utilisation_{resource}", f"busy: {resource} (%)", 100.0, 1) for resource in at.RESOURCES),
    ("overlap", "overlap (%)", 100, 1),
    ("idle_share", "idle (%)", 100, 1),
    ("kv_high_water", "KV pages, most (%)", 100, 1),
    ("kv_mean", "KV pages, mean (%)", 100, 1),
    ("preemptions", "preemptions", 1, 1),
    ("accepted_share", "drafts accepted (%)", 100, 1),
    ("return", "return", 1, 1),
)
# Of each class of requests, whose names a scenario has.
CLASS_MEASURES = tuple(f"attained_{k}" for k in range(at.MAX_CLASSES))
# With classes of requests: worth first, and what became of requests and of what was kept.
SERVICE_ROWS: tuple[tuple[str, str, float, int], ...] = (
    ("g", "G: worth served / offered (%)", 100, 2),
    ("offered", "worth offered", 1, 0),
    ("sessions", "sessions", 1, 1),
    ("arrived", "requests", 1, 1),
    ("attained", "  within objectives", 1, 1),
    *((name, "  of class {}, of all turns (%)", 100.0, 1) for name in CLASS_MEASURES),
    ("dropped", "  dropped", 1, 1),
    ("abandoned", "  given up", 1, 1),
    ("rejected", "  rejected", 1, 1),
    ("cut", "turns that never came", 1, 1),
    ("evictions", "kept turns evicted", 1, 1),
    ("hit_share", "prompt tokens found, not processed (%)", 100, 1),
    *(
        row
        for row in SERVING_ROWS
        if row[0] not in ("arrived", "attained", "rejected_context", "rejected_kv")
    ),
)


def served_rows(columns: Container[str], classes: Sequence[str]) -> list[tuple[str, str, float, int]]:
    """What tables of served requests show: measure, label, factor and digits of each row.

    Args:
        columns: that are known.
        classes: names of the classes of requests, in their order; those of earlier runs are numbers.
    """
    named = {
        measure: label.format(name)
        for (measure, label, *_), name in zip(
            (row for row in SERVICE_ROWS if row[0] in CLASS_MEASURES), classes, strict=False
        )
    }
    rows = SERVICE_ROWS if "g" in columns else SERVING_ROWS
    return [
        (measure, named.get(measure, label), factor, digits)
        for measure, label, factor, digits in rows
        if measure not in CLASS_MEASURES or measure in named
    ]
