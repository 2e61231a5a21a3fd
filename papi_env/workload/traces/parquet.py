"""Parquet: rows with types, read some at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from papi_env.errors import DataError
from papi_env.workload.traces.batches import Batch, Place
from papi_env.workload.traces.tables import MAX_FIELD

# Rows at once; chosen: a quarter of the usual group of rows, some 10 MB.
ROWS = 2**18
# Decodes all that a file holds, some rows at a time.
DECODE = f"""import sys, polars
def decode(path):
    scan = polars.scan_parquet(path, glob=False)
    for start in range(0, scan.select(polars.len()).collect().item(), {ROWS}):
        scan.slice(start, {ROWS}).collect()
"""
# What Polars raises where its own code fails; it is none of Exception.
PANIC = getattr(pl.exceptions, "PanicException", pl.exceptions.PolarsError)


def decode_apart(path: Path) -> int:
    """The exit status of a process that decodes a file: 0, 1 for an error that Python knows, others where it died."""
    command = [sys.executable, "-P", "-c", f"{DECODE}decode(sys.argv[1])", str(path)]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode


class Parquet:
    """A Parquet file as a source of rows, see `batches.Source`.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.head = path, str(path)
        self._try()
        try:
            # A name with * stands for itself.
            self._scan = pl.scan_parquet(path, glob=False)
            self.types = dict(self._scan.collect_schema())
            self._count = int(self._scan.select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, PANIC, OSError) as error:
            raise self._damaged(error) from error
        self.header = list(self.types)

    def _try(self) -> None:
        """Refuse a file whose decoder takes its process with it, as where a size in it is beyond all memory."""
        status = decode_apart(self.path)
        # Errors that Python knows are met again, and explained.
        if status not in (0, 1):
            raise self._damaged(RuntimeError(f"reading it ends the process, status {status}"))

    def rows(self, names: Sequence[str], lists: Sequence[str]) -> Iterator[Batch]:
        """See `Source`."""
        for name in names:
            kind = self.types[name]
            if not (kind.is_integer() or kind.is_float() or kind == pl.String or kind == pl.Datetime):
                raise DataError(
                    f"{self.path}: field {name!r}: found type {kind}, expected numbers, text or dates with times"
                )
        for name in lists:
            kind = self.types[name]
            if not isinstance(kind, pl.List) or not kind.inner.is_integer():
                raise DataError(f"{self.path}: field {name!r}: found type {kind}, expected lists of integers")
        for start in range(0, self._count, ROWS):
            try:
                frame = self._scan.select(*names, *lists).slice(start, ROWS).collect()
            except (pl.exceptions.PolarsError, PANIC, OSError) as error:
                raise self._damaged(error) from error
            for name in names:
                if self.types[name] == pl.String and (frame[name].str.len_bytes().max() or 0) > MAX_FIELD:  # type: ignore[operator]
                    row = start + int(frame[name].str.len_bytes().arg_max() or 0) + 1
                    raise DataError(
                        f"{self.path}: row {row}: field {name!r}: found a text of more than {MAX_FIELD} bytes, "
                        "expected a shorter one"
                    )
            for name in (*names, *lists):
                if frame[name].null_count():
                    row = start + int(frame[name].is_null().arg_max() or 0) + 1
                    raise DataError(f"{self.path}: row {row}: field {name!r}: found no value, expected one")
            yield Batch(
                _Rows(self.path, start),
                {name: frame[name] for name in names},
                {name: frame[name].to_list() for name in lists},
            )

    def _damaged(self, error: BaseException) -> DataError:
        reason = str(error).partition("\n")[0]
        return DataError(f"{self.path}: found a damaged Parquet file ({reason}), expected a whole one")


class _Rows:
    """Where the rows of a batch stand."""

    def __init__(self, path: Path, before: int) -> None:
        self.path, self.before = path, before

    def __call__(self, row: int) -> Place:
        return f"{self.path}: row {self.before + row + 1}"
