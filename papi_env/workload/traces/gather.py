"""What is kept of the rows of a file, with everything checked on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError, DataError, unknown_name
from papi_env.workload.traces import columns as convert
from papi_env.workload.traces.batches import Batch, Source, unexpected
from papi_env.workload.traces.columns import TIME_UNITS, Int64s, TimeUnit
from papi_env.workload.traces.formats import Columns, Format
from papi_env.workload.traces.trace import Trace

# Requests that are kept; chosen: their lengths and times take 320 MB.
MAX_ROWS = 20_000_000


@dataclass(frozen=True)
class Asked:
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
        """A part of the file is asked for."""
        return self.start_s is not None or self.window_s is not None

    @property
    def window(self) -> tuple[float, float]:
        """Its start, and its end that is no part of it, in seconds since the first row."""
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


@dataclass
class Rows:
    """The rows that are kept so far, and what is remembered of those before."""

    path: Path
    columns: Columns
    unit: TimeUnit
    known: Format | None
    asked: Asked
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
