"""A run folder as it is read for a page; whatever is wrong with it is said with the file's name."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from experiments.common.runner import read_record
from papi_env.errors import ConfigurationError, DataError
from papi_env.files import JSON_BYTES, is_packed, read_bounded, read_text
from papi_env.workload.traces.parquet import PANIC

# chosen: ten times the names of the widest table, of each request's classes (range 1e4-1e6): millions of columns take
# minutes to read.
MOST_HEADER = 1 << 16


@dataclass(frozen=True)
class Run:
    """A run folder and its record.

    Attributes:
        path: of the folder, as it was named.
        experiment: the command that wrote it.
        configuration: what was asked.
        sessions: that worked on it, the first one first.
    """

    path: Path
    experiment: str
    configuration: Mapping[str, Any]
    sessions: Sequence[Mapping[str, Any]]

    @classmethod
    def open(cls, path: Path) -> Run:
        """A folder that a command has written.

        Raises:
            ConfigurationError: there is no run.
            DataError: its record is damaged.
        """
        record = path / "run.json"
        if not path.is_dir():
            raise ConfigurationError(
                f"{path}: found {'a file' if path.exists() else 'nothing'}, expected a run folder"
            )
        if not record.exists():
            inner = sorted(one.parent.name for one in path.glob("*/run.json"))
            hint = f"; did you mean {path / inner[0]}?" if inner else ""
            raise ConfigurationError(f"{path}: holds no run.json, expected a run folder{hint}")
        found = read_record(record)
        return cls(path, found["experiment"], found["configuration"], found["sessions"])

    def has(self, name: str) -> bool:
        """Whether the folder has such a file."""
        return (self.path / name).is_file()

    def json(self, name: str) -> Any:
        """What a JSON file of the folder holds: fields by name, or a list.

        Raises:
            DataError: it is not there, or is damaged.
        """
        path = self._finished(name)
        try:
            return json.loads(read_bounded(path, JSON_BYTES))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON, or cut off: {error}") from None

    def table(self, name: str) -> pl.DataFrame:
        """The rows of a CSV file of the folder.

        Raises:
            DataError: it is not there, or is no table.
        """
        path = self._finished(name)
        data = read_bounded(path, JSON_BYTES)
        if is_packed(data):
            raise DataError(f"{path}: found packed data, expected a table as text")
        if data.find(b"\n", 0, MOST_HEADER) < 0 and len(data) > MOST_HEADER:
            raise DataError(
                f"{path}: not a table, or cut off: its first line has more than {MOST_HEADER} bytes"
            )
        try:
            return pl.read_csv(io.BytesIO(data), infer_schema_length=None)
        except (pl.exceptions.PolarsError, PANIC) as error:
            reason = next(iter(str(error).splitlines()), "no reason")
            raise DataError(f"{path}: not a table, or cut off: {reason}") from None

    def text(self, name: str) -> str:
        """The text of a file of the folder.

        Raises:
            DataError: it is not there, or is no text.
        """
        return read_text(self._finished(name), JSON_BYTES)

    def _finished(self, name: str) -> Path:
        path = self.path / name
        if not path.exists():
            status = self.sessions[-1].get("status") if self.sessions else "not begun"
            raise DataError(
                f"{path}: not there; the run is {status!r}, expected one of {self.experiment} that finished"
            )
        return path
