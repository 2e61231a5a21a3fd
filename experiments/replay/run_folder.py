"""A run of a real server as a folder says it: what ran, the requests with their times, and measured tables if any.

* `run.json`: model and gpu by their registered names, gpus, max_running, token_budget, page_tokens, kv_tokens,
  prefix_caching, and for several GPUs link, with bandwidth (B/s each way) and latency_s (one hop).
* `requests.csv`: arrival_s, input_tokens, output_tokens, queued_s, scheduled_s, first_token_s, last_token_s; seconds
  from one start, a line for each request.
* the files of `papi_env.hardware.server_tables`, all three or none.

Or it is a folder of LLMServingSim (`llmservingsim`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from experiments.common.fields import Fields, read_table
from papi_env.definition import Definition
from papi_env.errors import DataError, lookup
from papi_env.files import JSON_BYTES, read_bounded
from papi_env.hardware.gpus import GPUS
from papi_env.hardware.server_tables import FILES
from papi_env.kernel import FloatArray
from papi_env.quantities import Count, LatencySeconds, LinkBandwidth, Tokens, Truth
from papi_env.workload.serving import MAX_PAGE_TOKENS, MOST_BUDGET, MOST_RUNNING
from papi_env.workload.transformer import TRANSFORMERS

DESCRIPTION, REQUESTS = "run.json", "requests.csv"
MAX_TOKENS = 10**7
# Moments of a request in the order in which they come.
MOMENTS = ("arrival_s", "queued_s", "scheduled_s", "first_token_s", "last_token_s")


class RunLink(Definition):
    """The link of each GPU to the others: B/s each way, and seconds of a hop."""

    bandwidth: LinkBandwidth = Field(gt=0)
    latency_s: LatencySeconds = Field(ge=0)


class RunDescription(Definition):
    """What `run.json` says of a server."""

    model: str
    gpu: str
    gpus: Count = Field(ge=1, le=4096)
    max_running: Count = Field(ge=1, le=MOST_RUNNING)
    token_budget: Tokens = Field(ge=1, le=MOST_BUDGET)
    page_tokens: Tokens = Field(ge=1, le=MAX_PAGE_TOKENS)
    kv_tokens: Tokens = Field(ge=1)
    prefix_caching: Truth
    link: RunLink | None = None

    @field_validator("model")
    @classmethod
    def _known_model(cls, name: str) -> str:
        lookup("model", name, TRANSFORMERS)
        return name

    @field_validator("gpu")
    @classmethod
    def _known_gpu(cls, name: str) -> str:
        lookup("GPU", name, GPUS)
        return name

    @model_validator(mode="after")
    def _joined(self) -> RunDescription:
        if self.gpus > 1 and self.link is None:
            raise ValueError(f"link: found none for {self.gpus} GPUs, expected bandwidth and latency_s")
        return self


@dataclass(frozen=True, eq=False)
class Requests:
    """The requests of a run, in the order in which the server queued them; arrays [requests], seconds from the first.

    Attributes:
        lengths: int32 [requests, 2], input and output tokens.
        queued_s, first_token_s, last_token_s: float64.
        lines: int64, where they stand in their file.
    """

    path: Path
    lengths: npt.NDArray[np.int32]
    queued_s: FloatArray
    first_token_s: FloatArray
    last_token_s: FloatArray
    lines: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Run:
    """A run: what ran, its requests, and the folder of its measured tables, None without."""

    folder: Path
    description: RunDescription
    requests: Requests
    tables: Path | None


def read_document(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        DataError: no such file, or none with such an object.
    """
    try:
        found = json.loads(read_bounded(path, JSON_BYTES).decode("utf-8-sig"), parse_constant=_no_constant)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: found {error}, expected a JSON file") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: found {type(found).__name__}, expected a JSON object")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no number of JSON")


def order_of_moments(path: Path, line: int, moments: tuple[float, ...]) -> tuple[float, ...]:
    """The moments of a request, once they are in order.

    Raises:
        DataError: one comes before the one before it, or the first before 0.
    """
    for (before, a), (after, b) in zip(
        zip(MOMENTS, moments, strict=True), zip(MOMENTS[1:], moments[1:], strict=False), strict=False
    ):
        if b < a:
            raise DataError(
                f"{path}:{line}: field {after!r}: found {b!r} before {before} = {a!r}, expected times in this order: "
                f"{', '.join(MOMENTS)}"
            )
    return moments


def in_order(path: Path, rows: list[tuple[int, int, int, tuple[float, ...]]]) -> Requests:
    """`Requests` of rows: line, input, output, moments."""
    lines = np.array([row[0] for row in rows], dtype=np.int64)
    lengths = np.array([row[1:3] for row in rows], dtype=np.int32)
    _, queued, _, first, last = np.array([row[3] for row in rows], dtype=np.float64).T
    order = np.argsort(queued, kind="stable")
    start = queued[order[0]]
    return Requests(
        path,
        lengths[order],
        queued_s=queued[order] - start,
        first_token_s=first[order] - start,
        last_token_s=last[order] - start,
        lines=lines[order],
    )


def tables_in(folder: Path) -> Path | None:
    """The folder, if the measured tables are in it; None if none of them is.

    Raises:
        DataError: some are there and others are not.
    """
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing and len(missing) < len(FILES):
        there = ", ".join(name for name in FILES if name not in missing)
        raise DataError(
            f"{folder / missing[0]}: found no such file beside {there}, expected all or none of them"
        )
    return None if missing else folder


def _row(fields: Fields) -> tuple[int, int, int, tuple[float, ...]]:
    tokens = [fields.integer(name, 1, MAX_TOKENS) for name in ("input_tokens", "output_tokens")]
    moments = tuple(fields.number(name, positive=False) for name in MOMENTS)
    order_of_moments(fields.path, fields.line, moments)
    return fields.line, tokens[0], tokens[1], moments


def read_own(folder: Path) -> Run:
    """The run of a folder with `run.json`.

    Raises:
        ConfigurationError, DataError: a file that is not as expected.
    """
    path = folder / DESCRIPTION
    description = RunDescription.define(read_document(path), str(path))
    table = folder / REQUESTS
    if not table.is_file():
        raise DataError(f"{table}: found no such file, expected the requests of the run")
    header, rows = read_table(table)
    header.require("input_tokens", "output_tokens", *MOMENTS)
    return Run(folder, description, in_order(table, [_row(fields) for fields in rows]), tables_in(folder))
