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
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError, DataError, nearest, unknown_name
from papi_env.workload.lengths import MAX_TOKENS, ContextPolicy, RequestPopulation, whole_number

TIME_EXPECTED = "a time such as 2023-11-16 18:17:03.9799600, or seconds such as 12.5"
MAX_SECONDS = 10**12  # more than the years 1 to 9999 have

_DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_SECONDS = re.compile(r"\d{1,13}(\.\d{0,30})?([eE][+-]?\d\d?)?", re.ASCII)
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a CSV file holds what."""

    input: str
    output: str
    time: str | None = None
    category: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.named)) < len(self.named):
            raise ConfigurationError(
                f"Columns are {', '.join(self.named)}, expected one column for each field"
            )

    @property
    def named(self) -> tuple[str, ...]:
        """The columns to read, in the order of a known format's header."""
        return tuple(name for name in (self.time, self.category, self.input, self.output) if name is not None)


FORMATS = (
    Columns(category="category", input="lin", output="lout"),
    Columns(time="TIMESTAMP", input="ContextTokens", output="GeneratedTokens"),
)


# Arrays have no single truth value, so two traces are equal only where they are the same one.
@dataclass(frozen=True, eq=False)
class Trace:
    """The requests of one file, in its order; all arrays are read-only.

    `input_lengths` and `output_lengths` are int32 [N], in tokens, each from 1 to 1,000,000. `timestamps_s`
    is float64 [N], non-decreasing, in seconds since the file's first row (also where a choice of categories
    left that row out), or None. `categories` names each request's category, or is None.
    """

    path: Path
    input_lengths: npt.NDArray[np.int32]
    output_lengths: npt.NDArray[np.int32]
    timestamps_s: npt.NDArray[np.float64] | None = None
    categories: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for array in (self.input_lengths, self.output_lengths, self.timestamps_s):
            if array is not None:
                array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.input_lengths)

    def population(self) -> RequestPopulation:
        """The requests as a population to draw from, without their times and categories."""
        lengths = np.stack((self.input_lengths, self.output_lengths), axis=1)
        return RequestPopulation(lengths, source=str(self.path))


def read_trace(
    path: str | Path,
    *,
    input_column: str | None = None,
    output_column: str | None = None,
    time_column: str | None = None,
    category_column: str | None = None,
    categories: Sequence[str] | None = None,
) -> Trace:
    """Read a CSV file of requests: UTF-8, comma-separated, one header line, blank lines at most at the end.

    Without `input_column` and `output_column` the header decides, and must hold every column of its
    format; with them, only the columns named are read. Lengths are whole numbers of tokens from 1 to
    1,000,000. Times never go back; they are either ISO 8601 dates and times with up to nine decimals of
    a second, or plain seconds, and differences are taken in whole nanoseconds. `categories` keeps the
    requests of these categories only; the rows it leaves out are checked all the same.

    Raises DataError for a file that is not like this, naming file, line and field, what was found and
    what was expected; ConfigurationError for arguments that do not go together and for categories that
    the file does not hold.
    """
    path = Path(path)
    rows = csv_rows(path, csv_text(path))
    line, header = next(rows, (1, []))
    if not header:
        raise DataError(f"{path}:1: found an empty file, expected a line of column names")
    header = [name.strip() for name in header]

    if input_column is None and output_column is None:
        known = _recognised(path, line, header)
        columns = replace(known, time=time_column or known.time, category=category_column or known.category)
    elif input_column is None or output_column is None:
        missing = "input_column" if input_column is None else "output_column"
        raise ConfigurationError(f"{path}: {missing} is not named, expected both length columns or neither")
    else:
        columns = Columns(
            input=input_column, output=output_column, time=time_column, category=category_column
        )
    if categories is not None and columns.category is None:
        raise ConfigurationError(f"{path}: categories are asked for, and no category_column holds them")
    at = {name: _position(path, line, header, name, columns) for name in columns.named}

    lines: list[int] = []
    fields: dict[str, list[str]] = {name: [] for name in columns.named}
    for line, row in rows:
        if len(row) != len(header):
            lacking = f" field {header[len(row)]!r}:" if len(row) < len(header) else ""
            raise DataError(f"{path}:{line}:{lacking} found {len(row)} fields, expected {len(header)}")
        lines.append(line)
        for name, values in fields.items():
            values.append(row[at[name]].strip())
    if not lines:
        raise DataError(f"{path}:{line}: found a header and no rows, expected at least one request")

    inputs = _lengths(path, lines, columns.input, fields[columns.input])
    outputs = _lengths(path, lines, columns.output, fields[columns.output])
    times = None if columns.time is None else _seconds(path, lines, columns.time, fields[columns.time])
    labels = None if columns.category is None else fields[columns.category]
    if categories is None or labels is None:
        return Trace(path, inputs, outputs, times, None if labels is None else tuple(labels))
    kept = _of_categories(path, labels, categories)
    return Trace(
        path,
        inputs[kept],
        outputs[kept],
        None if times is None else times[kept],
        tuple(labels[i] for i in kept),
    )


class ContextCounts(NamedTuple):
    """How many requests of a trace are refused, served with their output cut, or served beyond the context."""

    refused: int
    truncated: int
    extrapolated: int


class TraceLengths(NamedTuple):
    """The requests of a trace as a model serves them, row by row; both arrays are read-only.

    `lengths` is int32 [N, 2], input and output tokens; `refused` is bool [N], the rows that arrive and are
    rejected, whose lengths are those of the file.
    """

    lengths: npt.NDArray[np.int32]
    refused: npt.NDArray[np.bool_]
    counts: ContextCounts


def trace_lengths(trace: Trace, context_limit: int, beyond: ContextPolicy = "refuse") -> TraceLengths:
    """The lengths of every row where requests keep those of the trace, for a context of `context_limit` tokens.

    As `within_context` treats a population, but no row is left out: a request that cannot be served still
    arrives. `refuse` rejects those whose input and output exceed the limit; `truncate` cuts their output to
    fit, and rejects those whose input leaves no room for one output token; `extrapolate` serves all. Raises
    ConfigurationError for another policy, and where every request would be rejected.
    """
    if beyond not in get_args(ContextPolicy):
        raise unknown_name("context policy", beyond, get_args(ContextPolicy))
    limit = whole_number("context limit", context_limit, 2, 2 * MAX_TOKENS)
    inputs, outputs = trace.input_lengths, trace.output_lengths
    too_long = inputs + outputs > limit
    none = np.zeros(len(trace), dtype=np.bool_)
    refused, truncated, extrapolated = none, none, none
    if beyond == "refuse":
        refused = too_long
    elif beyond == "truncate":
        refused = inputs >= limit
        truncated = too_long & ~refused
    else:
        extrapolated = too_long
    if refused.all():
        shortest = int((inputs + (outputs if beyond == "refuse" else 1)).min())
        raise ConfigurationError(
            f"{trace.path}: none of {len(trace)} requests fits a context of {limit} tokens under "
            f"policy {beyond!r}; the shortest needs {shortest}"
        )
    lengths = np.stack((inputs, np.where(truncated, limit - inputs, outputs)), axis=1).astype(np.int32)
    for array in (lengths, refused):
        array.setflags(write=False)
    counts = ContextCounts(int(refused.sum()), int(truncated.sum()), int(extrapolated.sum()))
    return TraceLengths(lengths, refused, counts)


def csv_text(path: Path) -> str:
    """The whole file, decoded."""
    try:
        # Devices and pipes may never end.
        regular = path.is_file() or not path.exists()
        data = path.read_bytes() if regular else b""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: found {reason}, expected a CSV file") from error
    if not regular:
        found = "a directory" if path.is_dir() else "a device or pipe"
        raise DataError(f"{path}: found {found}, expected a CSV file")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        # One byte more, so that an error at the start of a line counts on that line.
        line = len((data[: error.start] + b".").splitlines())
        raise DataError(f"{path}:{line}: found byte {data[error.start]:#04x}, expected UTF-8 text") from error


def csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows with the line at which each starts, without the blank ones at the end."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    blank = None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{line}: found {error}, expected comma-separated values") from error
        if not row or (len(row) == 1 and not row[0].strip()):
            blank = blank or line
        elif blank:
            raise DataError(f"{path}:{blank}: found a blank line, expected none before the last row")
        else:
            yield line, row


def _recognised(path: Path, line: int, header: list[str]) -> Columns:
    """The known format that shares most columns with the header."""
    best = max(FORMATS, key=lambda known: len(set(known.named) & set(header)))
    if not set(best.named) & set(header):
        expected = " or ".join(",".join(known.named) for known in FORMATS)
        raise DataError(
            f"{path}:{line}: found columns {_listed(header)}, expected {expected}; "
            "for another format name input_column and output_column"
        )
    return best


def _position(path: Path, line: int, header: list[str], name: str, columns: Columns) -> int:
    """Where the header has the column `name`."""
    if header.count(name) > 1:
        raise DataError(
            f"{path}:{line}: field {name!r}: found {header.count(name)} such columns, expected one"
        )
    if name not in header:
        # `nearest` compares in lower case, and a column that is in use is not the one that is missing.
        free = {other.lower(): other for other in header if other not in columns.named}
        close = nearest(name, free)
        hint = f"did you mean {free[close]!r}? " if close else ""
        raise DataError(
            f"{path}:{line}: field {name!r}: found no such column, {hint}expected one of {_listed(header)}"
        )
    return header.index(name)


def _lengths(path: Path, lines: list[int], field: str, texts: list[str]) -> npt.NDArray[np.int32]:
    """A column of token counts."""
    counts = np.empty(len(texts), dtype=np.int32)
    for i, text in enumerate(texts):
        # int() would also take "1_000", "+5" and the digits of other scripts, and refuse thousands of digits.
        plain = text.isascii() and text.isdigit() and len(text) < 20
        if not plain or not 1 <= (count := int(text)) <= MAX_TOKENS:
            expected = f"a whole number of tokens from 1 to {MAX_TOKENS}"
            raise _unexpected(path, lines[i], field, text, expected)
        counts[i] = count
    return counts


def _seconds(path: Path, lines: list[int], field: str, texts: list[str]) -> npt.NDArray[np.float64]:
    """A column of times, all of one kind and never going back, in seconds since the first."""
    seconds = np.empty(len(texts))
    first_kind, first, before = "", 0, 0
    for i, text in enumerate(texts):
        kind, now = _nanoseconds(text)
        if not kind:
            raise _unexpected(path, lines[i], field, text, TIME_EXPECTED)
        if i == 0:
            first_kind, first, before = kind, now, now
        if kind != first_kind:
            raise _unexpected(path, lines[i], field, text, f"{first_kind}, as in the first row")
        if now < before:
            raise _unexpected(
                path, lines[i], field, text, f"no time earlier than {texts[i - 1]}, the row before"
            )
        before = now
        seconds[i] = (now - first) / 10**9
    return seconds


def _nanoseconds(text: str) -> tuple[str, int]:
    """A time's kind, empty where it is no time, and its nanoseconds since that kind's origin.

    Integers, since Azure's seven decimals of a second are beyond a float that counts from 1970.
    """
    if match := _DATE_TIME.fullmatch(text):
        date, time, decimals, offset = match.groups()
        try:
            moment = datetime.fromisoformat(f"{date}T{time}{offset or ''}")
        except ValueError:  # such as a 13th month
            return "", 0
        whole = (moment - (_EPOCH_UTC if offset else _EPOCH)) // timedelta(seconds=1)
        kind = "a date and time with an offset" if offset else "a date and time without an offset"
        return kind, whole * 10**9 + int((decimals or "").ljust(9, "0"))
    if _SECONDS.fullmatch(text) and (seconds := Decimal(text)) < MAX_SECONDS:
        return "plain seconds", round(seconds * 10**9)
    return "", 0


def _of_categories(path: Path, labels: list[str], categories: Sequence[str]) -> list[int]:
    """The positions of the rows that are of one of the categories."""
    wanted = (categories,) if isinstance(categories, str) else tuple(categories)
    if not wanted:
        raise ConfigurationError(
            f"{path}: categories are {categories!r}, expected at least one, or None for all"
        )
    known = set(labels)
    for category in wanted:
        if category not in known:
            raise unknown_name(f"category of {path}", category, known)
    return [i for i, label in enumerate(labels) if label in wanted]


def _unexpected(path: Path, line: int, field: str, found: str, expected: str) -> DataError:
    """The error for one field of one row."""
    return DataError(f"{path}:{line}: field {field!r}: found {_shown(found)}, expected {expected}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _listed(names: list[str]) -> str:
    return ", ".join(map(_shown, names[:30])) + (", ..." if len(names) > 30 else "")
