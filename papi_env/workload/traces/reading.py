"""`read_trace`: from a file of any known form to a trace, in bounded memory where a window is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError, DataError, nearest, unknown_name
from papi_env.workload.traces import columns as convert
from papi_env.workload.traces.batches import Batch, Source, listed, unexpected
from papi_env.workload.traces.columns import TIME_UNITS, Int64s, TimeUnit
from papi_env.workload.traces.documents import Conversations, Records, Result, open_json, opens_json
from papi_env.workload.traces.files import TextFile, is_parquet
from papi_env.workload.traces.formats import FORMATS, SHAREGPT, VLLM, Columns, Format, recognised
from papi_env.workload.traces.parquet import Parquet
from papi_env.workload.traces.tables import Table
from papi_env.workload.traces.trace import Trace

# Requests that are kept; chosen: their lengths and times take 320 MB.
MAX_ROWS = 20_000_000
# Characters of a token of English text are about 4 (OpenAI's tokenizer page); 1 to 16 allow for any language.
CHARACTERS = (1.0, 16.0)


def read_trace(
    path: str | Path,
    *,
    input_column: str | None = None,
    output_column: str | None = None,
    time_column: str | None = None,
    category_column: str | None = None,
    categories: Sequence[str] | None = None,
    delimiter: str | None = None,
    time_unit: TimeUnit | None = None,
    characters_per_token: float | None = None,
    start_s: float | None = None,
    window_s: float | None = None,
) -> Trace:
    """Read a file of requests: CSV, JSON lines, JSON, each also in gzip, or Parquet, found by its content.

    Text is UTF-8. A CSV file has one header line and blank lines at most at the end. Without `input_column` and
    `output_column` the names of the columns decide which of `FORMATS` it is, and it must hold every column of that
    format; with them, only the columns named are read. Lengths are whole numbers of tokens from 1 to 1,000,000; rows
    with none are left out and counted for formats in which failed requests have none, and errors elsewhere. Times
    never go back; they are either ISO 8601 dates and times with up to nine decimals of a second, or plain
    numbers, and differences are taken in whole nanoseconds. `categories` keeps the requests of these categories
    only; the rows it leaves out are checked all the same.

    Args:
        path: of the file.
        input_column, output_column: tokens of the prompt and of the answer.
        time_column, category_column: arrival times and categories, beside those of a known format too.
        categories: those to keep.
        delimiter: between the fields of a CSV file (default: a comma, or a tab where the header has only those).
        time_unit: "s", "ms", "us" or "ns", of times that are numbers (default: the format's, else seconds).
        characters_per_token: to estimate the lengths of conversations that are text, from 1 to 16.
        start_s, window_s: keep requests from `start_s` on (default: 0) for `window_s` seconds (default: to the end),
            both in seconds since the file's first row. What comes after the window is not looked at, and a file of
            any size is read in bounded memory.

    Raises DataError for a file that is not like this, naming file, line or row and field, what was found and
    what was expected; ConfigurationError for arguments that do not go together, for categories and windows that
    the file does not hold, and for more than 20,000,000 requests.
    """
    path = Path(path)
    asked = _Asked(
        input_column,
        output_column,
        time_column,
        category_column,
        categories,
        delimiter,
        time_unit,
        start_s,
        window_s,
    )
    asked.check(path)
    if is_parquet(path):
        return _read(Parquet(path), None, asked)
    with TextFile(path) as file:
        if not opens_json(file.start):
            return _read(_table(file, asked), None, asked)
        source = open_json(file)
        if isinstance(source, Result):
            return _read(source, VLLM, asked)
        if "conversations" in source.first and input_column is None:
            trace = _read(_conversations(source, characters_per_token), SHAREGPT, asked)
            return replace(trace, note=f"tokens estimated, {characters_per_token:g} characters each")
        return _read(source, None, asked)


def _read(source: Source, known: Format | None, asked: _Asked) -> Trace:
    """The rows of a source, of a known format where the form of the file says which."""
    path = source.path
    columns, unit, known = _columns(path, source, known, asked)
    for name in columns.named:
        _check_column(source, name, columns)
    if asked.windowed and columns.time is None:
        raise ConfigurationError(f"{path}: a window is asked for, and no time_column holds times")
    found = _Rows(path, columns, unit, known, asked)
    lists = () if columns.hash_ids is None else (columns.hash_ids,)
    runs = () if known is None else tuple(name for name in known.one_of if name in source.header)
    names = dict.fromkeys((*(name for name in columns.named if name not in lists), *runs))
    for batch in source.rows(list(names), lists):
        found.add(found.first_run(batch, runs))
        if found.beyond:
            break
    return found.trace(source)


@dataclass(frozen=True)
class _Asked:
    """The arguments of `read_trace` about rows and columns."""

    input_column: str | None
    output_column: str | None
    time_column: str | None
    category_column: str | None
    categories: Sequence[str] | None
    delimiter: str | None
    time_unit: TimeUnit | None
    start_s: float | None
    window_s: float | None

    @property
    def windowed(self) -> bool:
        return self.start_s is not None or self.window_s is not None

    @property
    def window(self) -> tuple[float, float]:
        start = self.start_s or 0.0
        return start, math.inf if self.window_s is None else start + self.window_s

    def check(self, path: Path) -> None:
        """Refuse what does not go together, whatever the file holds."""
        if (self.input_column is None) != (self.output_column is None):
            missing = "input_column" if self.input_column is None else "output_column"
            raise ConfigurationError(
                f"{path}: {missing} is not named, expected both length columns or neither"
            )
        if self.time_unit is not None and self.time_unit not in TIME_UNITS:
            raise unknown_name("time unit", self.time_unit, TIME_UNITS)
        mark = self.delimiter
        if mark is not None and (len(mark) != 1 or not mark.isascii() or mark.isalnum() or mark in '"\r\n\0'):
            raise ConfigurationError(f"{path}: delimiter is {mark!r}, expected one character such as ';'")
        for name, value, least in (("start_s", self.start_s, 0.0), ("window_s", self.window_s, 0.0)):
            if value is not None and not least <= value < math.inf:
                raise ConfigurationError(f"{path}: {name} is {value!r}, expected seconds from 0")
        if self.categories is not None and not self.wanted:
            raise ConfigurationError(
                f"{path}: categories are {self.categories!r}, expected at least one, or None for all"
            )

    @property
    def wanted(self) -> tuple[str, ...]:
        """The categories to keep, each once."""
        if self.categories is None:
            return ()
        return (self.categories,) if isinstance(self.categories, str) else tuple(self.categories)


def _conversations(source: Records, characters: float | None) -> Conversations:
    low, high = CHARACTERS
    if characters is None:
        raise ConfigurationError(
            f"{source.path}: found conversations as text, which hold no token counts; "
            f"expected characters_per_token, an estimate from {low:g} to {high:g} (English text has about 4)"
        )
    if not low <= characters <= high:
        raise ConfigurationError(
            f"{source.path}: characters_per_token is {characters!r}, expected a number from {low:g} to {high:g}"
        )
    return Conversations(source, characters)


def _table(file: TextFile, asked: _Asked) -> Table:
    """A CSV file; tabs are recognised where the header has no comma and is of a known format with them."""
    if asked.delimiter is not None:
        return Table(file, asked.delimiter)
    header = file.start.partition(b"\n")[0]
    if b"\t" in header and b"," not in header:
        return Table(file, "\t")
    return Table(file)


def _columns(
    path: Path, source: Source, known: Format | None, asked: _Asked
) -> tuple[Columns, TimeUnit, Format | None]:
    """The columns to read, the unit of times that are numbers, and the format, None where columns are named."""
    if asked.input_column is not None and asked.output_column is not None:
        columns = Columns(
            input=asked.input_column,
            output=asked.output_column,
            time=asked.time_column,
            category=asked.category_column,
        )
        known = None
    else:
        known = known or recognised(source.head, source.header)
        own = known.present(source.header)
        columns = replace(
            own, time=asked.time_column or own.time, category=asked.category_column or own.category
        )
    if asked.categories is not None and columns.category is None:
        raise ConfigurationError(f"{path}: categories are asked for, and no category_column holds them")
    own_time = known is not None and columns.time == known.columns.time
    unit = asked.time_unit or (known.time_unit if known is not None and own_time else "s")
    return columns, unit, known


def _check_column(source: Source, name: str, columns: Columns) -> None:
    """Refuse a file that lacks the column `name`, or has it twice."""
    header, place = source.header, source.head
    count = list(header).count(name)
    if count > 1:
        raise DataError(f"{place}: field {name!r}: found {count} such columns, expected one")
    if not count:
        # `nearest` compares in lower case, and a column that is in use is not the one that is missing.
        free = {other.lower(): other for other in header if other not in columns.named}
        close = nearest(name, free)
        hint = f"did you mean {free[close]!r}? " if close else ""
        raise DataError(
            f"{place}: field {name!r}: found no such column, {hint}expected one of {listed(header)}"
        )


@dataclass
class _Rows:
    """The rows that are kept so far, and what is remembered of those before."""

    path: Path
    columns: Columns
    unit: TimeUnit
    known: Format | None
    asked: _Asked
    inputs: list[npt.NDArray[np.int32]] = field(default_factory=list)
    outputs: list[npt.NDArray[np.int32]] = field(default_factory=list)
    seconds: list[npt.NDArray[np.float64]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    hash_ids: list[Int64s] = field(default_factory=list)
    rows: int = 0
    kept: int = 0
    skipped: int = 0
    beyond: bool = False
    kind: str = ""
    first: tuple[int, int] | None = None
    before: tuple[int, int] | None = None
    before_text: str = ""
    last_s: float = 0.0
    seen: set[str] = field(default_factory=set)
    run: tuple[str, ...] | None = None
    note: str = ""

    def first_run(self, batch: Batch, runs: Sequence[str]) -> Batch:
        """The rows up to the first that is of another run than the first row of the file."""
        if not runs:
            return batch
        labels = [batch.columns[name].cast(str).to_list() for name in runs]
        self.run = self.run or tuple(str(column[0]) for column in labels)
        for row, label in enumerate(zip(*labels, strict=True)):
            if tuple(map(str, label)) != self.run:
                of_these = ", ".join(f"{name} {value}" for name, value in zip(runs, self.run, strict=True))
                self.beyond, self.note = True, f"the first of several runs: {of_these}"
                return replace(batch, columns={name: column[:row] for name, column in batch.columns.items()})
        return batch

    def add(self, batch: Batch) -> None:
        """Check a batch, and keep what is asked for of it."""
        columns, skips = self.columns, self.known is not None and self.known.skips_empty
        inputs = convert.token_counts(batch, columns.input, least=0 if skips else 1)
        outputs = convert.token_counts(batch, columns.output, least=0 if skips else 1)
        self.rows += len(inputs)
        keep = np.ones(len(inputs), dtype=np.bool_)
        if skips:
            keep &= (inputs > 0) & (outputs > 0)
        empty = ~keep
        if columns.time is not None:
            seconds = self._seconds(batch, columns.time)
            if self.asked.windowed:
                start, end = self.asked.window
                inside = (seconds >= start) & (seconds < end)
                empty &= inside
                keep &= inside
                over = not self._sorts and bool(len(seconds)) and bool(seconds[-1] >= end)
                self.beyond = self.beyond or over
            self.seconds.append(seconds[keep])
        self.skipped += int(empty.sum())
        keep = self._labelled(batch, keep)
        self.inputs.append(inputs[keep])
        self.outputs.append(outputs[keep])
        if columns.hash_ids is not None:
            ids = convert.hash_ids(batch, columns.hash_ids)
            self.hash_ids += [ids[i] for i in np.flatnonzero(keep).tolist()]
        self.kept += int(keep.sum())
        if self.kept > MAX_ROWS:
            raise ConfigurationError(
                f"{self.path}: holds more than {MAX_ROWS} requests, expected a window (start_s and window_s) of them"
            )

    @property
    def _sorts(self) -> bool:
        return self.known is not None and self.known.sorts

    def _labelled(self, batch: Batch, keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """`keep` without the rows of other categories, whose names are remembered; labels of the rest are kept."""
        if self.columns.category is None:
            return keep
        labels = [(text or "").strip() for text in batch.columns[self.columns.category].cast(str).to_list()]
        if self.asked.categories is not None:
            self.seen.update(labels)
            wanted = self.asked.wanted
            of_those = np.fromiter((label in wanted for label in labels), np.bool_, len(labels))
            if self.columns.time is not None:
                self.seconds[-1] = self.seconds[-1][of_those[keep]]
            keep = keep & of_those
        self.labels += [labels[i] for i in np.flatnonzero(keep).tolist()]
        return keep

    def _seconds(self, batch: Batch, name: str) -> npt.NDArray[np.float64]:
        """Times of a batch, in seconds since the first row of the file."""
        found = convert.times(batch, name, self.unit, self.asked.time_unit is not None, self.kind)
        texts = batch.columns[name]
        if not len(texts):
            return np.zeros(0)
        if not self._sorts and (i := convert.goes_back(found, self.before)) is not None:
            earlier = str(texts[i - 1]).strip() if i else self.before_text
            raise unexpected(
                batch.place(i), name, str(texts[i]).strip(), f"no time earlier than {earlier}, the row before"
            )
        self.kind, self.before_text = found.kind, str(texts[-1]).strip()
        self.before = int(found.seconds[-1]), int(found.nanoseconds[-1])
        if self.first is None:
            self.first = int(found.seconds[0]), int(found.nanoseconds[0])
        seconds = convert.seconds_since(found, self.first)
        self.last_s = float(seconds[-1])
        return seconds

    def trace(self, source: Source) -> Trace:
        """What was kept, as a trace."""
        if not self.rows:
            raise DataError(f"{source.head}: found a header and no rows, expected at least one request")
        if self.asked.categories is not None:
            for category in self.asked.wanted:
                if category not in self.seen:
                    raise unknown_name(f"category of {self.path}", category, self.seen)
        if not self.kept:
            self._refuse_none(source)
        inputs, outputs = np.concatenate(self.inputs), np.concatenate(self.outputs)
        times = None if self.columns.time is None else np.concatenate(self.seconds)
        if self._sorts and times is not None:
            order = np.argsort(times, kind="stable")
            inputs, outputs, times = inputs[order], outputs[order], times[order] - times[order[0]]
        return Trace(
            self.path,
            inputs,
            outputs,
            times,
            None if self.columns.category is None else tuple(self.labels),
            None if self.columns.hash_ids is None else tuple(self.hash_ids),
            "columns" if self.known is None else self.known.name,
            self.skipped,
            self.note,
        )

    def _refuse_none(self, source: Source) -> None:
        if self.asked.windowed:
            start, end = self.asked.window
            raise ConfigurationError(
                f"{self.path}: found no request from {start:g} to {end:g} s; the trace lasts {self.last_s:g} s"
                + (" or longer" if self.beyond else "")
            )
        raise DataError(
            f"{source.head}: found {self.skipped} rows without tokens, expected at least one request"
        )


__all__ = ["CHARACTERS", "FORMATS", "MAX_ROWS", "read_trace"]
