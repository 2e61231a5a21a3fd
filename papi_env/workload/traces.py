"""Reading published request traces: CSV files of lengths, with arrival times or categories.

Two formats are known by their header, Azure's `TIMESTAMP,ContextTokens,GeneratedTokens` and Dolly's
lengths as `category,lin,lout`; any other is read by naming its columns. A file is read whole or refused:
an error names its line, the field, what was found there and what was expected.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError, DataError, nearest, unknown_name
from papi_env.workload.lengths import MAX_TOKENS, RequestPopulation

# Years 1 to 9999 as seconds, so that a difference of two times stays a float of its full precision.
MAX_SECONDS = 10**12

_DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_SECONDS = re.compile(r"\d{1,13}(\.\d{0,30})?([eE][+-]?\d\d?)?", re.ASCII)
_TIME_EXPECTED = "a time such as 2023-11-16 18:17:03.9799600, or seconds such as 12.5"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a CSV file holds what."""

    input: str
    output: str
    time: str | None = None
    category: str | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The columns to read, in the order of a format's header."""
        return tuple(name for name in (self.time, self.category, self.input, self.output) if name is not None)


FORMATS = (
    Columns(category="category", input="lin", output="lout"),
    Columns(time="TIMESTAMP", input="ContextTokens", output="GeneratedTokens"),
)


# Arrays have no single truth value, so two traces are equal only where they are the same one.
@dataclass(frozen=True, eq=False)
class Trace:
    """The requests of one file, in its order.

    `input_lengths` and `output_lengths` are int32 [N], in tokens, each from 1 to 1,000,000. `timestamps_s`
    is float64 [N], non-decreasing, in seconds since the file's first row (also where `categories` left that
    row out), or None; `categories` names each request's category, or is None.
    """

    path: Path
    input_lengths: npt.NDArray[np.int32]
    output_lengths: npt.NDArray[np.int32]
    timestamps_s: npt.NDArray[np.float64] | None = None
    categories: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.input_lengths)

    def population(self) -> RequestPopulation:
        """The trace's requests as a population to draw from, without their times."""
        return RequestPopulation(
            np.stack((self.input_lengths, self.output_lengths), axis=1), source=str(self.path)
        )


def read_trace(
    path: str | Path,
    *,
    input_column: str | None = None,
    output_column: str | None = None,
    time_column: str | None = None,
    category_column: str | None = None,
    categories: Sequence[str] | None = None,
) -> Trace:
    """Read a CSV file of requests (UTF-8, comma-separated, one header line).

    Columns named here are read as named; without `input_column` and `output_column` the header decides,
    and must hold every column of its format. Lengths are whole numbers of tokens from 1 to 1,000,000.
    Times are ISO 8601 dates with up to nine decimals of a second, exact to the nanosecond (without an
    offset: of one clock), or plain seconds, and never go back. `categories` keeps the requests of these
    categories only; the rows left out are checked all the same.

    Raises DataError for a file that is not like this, with file, line, field, what was found and what
    was expected; ConfigurationError for arguments that do not go together and for an unknown category.
    """
    path = Path(path)
    rows = _rows(path, _text(path))
    line, header = next(rows, (1, []))
    if not header:
        raise DataError(f"{path}:{line}: found no header, expected a line of column names")
    header = [name.strip() for name in header]
    columns = _columns(path, line, header, input_column, output_column, time_column, category_column)
    if categories is not None and columns.category is None:
        raise ConfigurationError(
            f"{path}: categories {categories!r} are asked for, and no column holds them: name category_column"
        )
    at = {name: _position(path, line, header, name) for name in columns.named}

    inputs: list[int] = []
    outputs: list[int] = []
    times: list[int] = []
    labels: list[str] = []
    for line, row in rows:
        if len(row) != len(header):
            where = f"{path}:{line}: "
            if len(row) < len(header):
                where += f"field {header[len(row)]!r}: "
            raise DataError(f"{where}found a row of {len(row)} fields, expected {len(header)} as in the header")
        inputs.append(_tokens(path, line, columns.input, row[at[columns.input]]))
        outputs.append(_tokens(path, line, columns.output, row[at[columns.output]]))
        if columns.time is not None:
            text = row[at[columns.time]].strip()
            ...
    return Trace(path, np.array(inputs), np.array(outputs))
