"""Of `experiments.serve`: what became of requests, latencies, and the work of every unit over time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from experiments.arena.measures import ENERGY_CAUSES, served_rows
from experiments.arena.requests import COLUMNS, SUFFIXES
from experiments.reporting import charts
from experiments.reporting.content import Column, Picture, Table, column_of
from experiments.reporting.folder import Run
from experiments.reporting.instances import instances
from experiments.reporting.sections.compare import quantiles
from experiments.reporting.sections.gantt import gantt, requests_over_time
from papi_env.errors import DataError
from papi_env.files import JSON_BYTES, read_bounded
from papi_env.workload.service import MAX_CLASSES
from papi_env.workload.traces import parquet

# chosen: ten thousand episodes of a thousand requests, a GB of memory (range 1e6-1e8).
MOST_REQUESTS = 10_000_000
_LATENCIES = (
    ("ttft_s", "TTFT", "s", 1.0),
    ("tpot_s", "TPOT", "ms", 1e3),
    ("latency_s", "end to end", "s", 1.0),
)


def parts(run: Run) -> list[Table | Picture]:
    """Tables and pictures of served requests."""
    summary, frame = run.json("summary.json"), run.table("results.csv")
    policies = summary["policies"]
    shown = served_rows(frame.columns, summary.get("classes") or tuple(map(str, range(MAX_CLASSES))))
    measures = [row for row in shown if any(found.get(row[0]) is not None for found in policies.values())]
    columns = [Column("policy"), *(column_of(label, factor, digits) for _, label, factor, digits in measures)]
    cells = [[name, *(found.get(one) for one, *_ in measures)] for name, found in policies.items()]
    hollow = [name for name in policies if name.endswith("*")]
    requests = _requests(run)
    pictures = quantiles(policies, hollow) if requests is None else _distributions(requests, hollow)
    over_time = gantt(run.json("trace.json")) if run.has("trace.json") else []
    if requests is not None:
        over_time += requests_over_time(requests)
    lacking = [
        *(["--export FOLDER/requests.parquet for every request"] if requests is None else []),
        *(["--trace-json --gantt FROM TO for units over time"] if not run.has("trace.json") else []),
    ]
    asked = f" With {' and '.join(lacking)}, more is shown." if lacking else ""
    return [
        Table(
            "Policies",
            columns,
            cells,
            f"Means over seeds. * privileged: reads what no scheduler can see.{asked}",
        ),
        *pictures,
        *over_time,
        _causes(policies),
        instances(frame),
    ]


def _requests(run: Run) -> pl.DataFrame | None:
    """The table that --export wrote into the run folder; None where there is none.

    Raises:
        DataError: there are several, or it cannot be read.
    """
    found = []
    for path in sorted(
        path for path in run.path.iterdir() if path.suffix in SUFFIXES and path.name != "results.csv"
    ):
        frame = _parquet(path) if path.suffix == ".parquet" else run.table(path.name)
        if set(COLUMNS) <= set(frame.columns):
            found.append((path, frame))
    if len(found) > 1:
        raise DataError(f"{found[1][0]}: a second table of requests beside {found[0][0].name}, expected one")
    return found[0][1] if found else None


def _parquet(path: Path) -> pl.DataFrame:
    """The rows of a Parquet file.

    Raises:
        DataError: it cannot be read, or is too large.
    """
    data = io.BytesIO(read_bounded(path, JSON_BYTES))
    # Packed rows may be a million times the file, and a damaged size ends the process that decodes it.
    if (status := parquet.decode_apart(path)) not in (0, 1):
        raise DataError(f"{path}: reading it ends the process, status {status}; expected a whole table")
    try:
        count = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
        if count > MOST_REQUESTS:
            raise DataError(f"{path}: found {count} rows, expected at most {MOST_REQUESTS}")
        return pl.read_parquet(data)
    except (pl.exceptions.PolarsError, parquet.PANIC) as error:
        reason = next(iter(str(error).splitlines()), "no reason")
        raise DataError(f"{path}: not a table, or cut off: {reason}") from None


def _distributions(requests: pl.DataFrame, hollow: Sequence[str]) -> list[Table | Picture]:
    """How latencies of requests are distributed, by policy."""
    pictures: list[Table | Picture] = []
    policies = requests["policy"].unique(maintain_order=True).to_list()
    for column, name, unit, factor in _LATENCIES:
        values = {
            policy: (
                factor * requests.filter(pl.col("policy") == policy)[column].cast(pl.Float64).drop_nulls()
            ).to_list()
            for policy in policies
        }
        known = {policy: [x for x in found if x == x] for policy, found in values.items()}
        drawn = charts.shares(
            {policy: found for policy, found in known.items() if found},
            charts.axis(f"{name} ({unit}, logarithmic)", type="log"),
            [policy for policy in policies if policy in {one.removesuffix("*") for one in hollow}],
        )
        note = "Of requests for which it is known: TTFT once the first token came, the others once all did."
        pictures.append(Picture(f"Distribution of {name}", drawn, note))
    return pictures


def _causes(policies: Mapping[str, Mapping[str, Any]]) -> Picture:
    """Joules by cause."""
    found = {cause: [means[f"{cause}_j"] for means in policies.values()] for cause in ENERGY_CAUSES}
    drawn = charts.stacked(found, list(policies), charts.axis("energy of an episode (J)"))
    return Picture("Energy by cause", drawn, "Means over seeds.", 190 + 30 * len(policies))
