"""CSV files: rows of text fields, read by polars where the text is plain, and row by row where it is not.

Plain is text without quotes, blank lines and lone carriage returns, each row with as many fields as the header.
The slow way, with Python's reader, takes over at the first piece of a file that is not plain; it understands quotes
and says in which line of a file something is wrong.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from papi_env.errors import DataError
from papi_env.files import TABLE_BYTES, is_packed, read_bounded
from papi_env.workload.traces.batches import Batch
from papi_env.workload.traces.files import TextFile, lines_of

# Longer fields are refused, as Python's reader does by default.
MAX_FIELD = 131_072
# Rows at once, where they are read one by one; chosen: a few MB.
ROWS = 20_000
# Blank lines at the end; chosen: more than any editor leaves (range 10-1e6).
MAX_BLANK = 1000


def csv_text(path: Path) -> str:
    """The whole file, decoded."""
    data = read_bounded(path, TABLE_BYTES)
    return "".join(decoded(path, lines_of(path, iter((data,)))))


def csv_rows(
    path: Path, text: str | Iterable[str], delimiter: str = ",", before: int = 0
) -> Iterator[tuple[int, list[str]]]:
    """The rows with the line at which each starts, without the blank ones at the end.

    Args:
        path: of the file, for errors.
        text: all of it, or its lines with their ends.
        delimiter: between fields, one character.
        before: lines of the file before this text.
    """
    lines = io.StringIO(text, newline="") if isinstance(text, str) else text
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    between = {",": "comma-separated values", "\t": "tab-separated values"}
    expected = between.get(delimiter, f"values separated by {delimiter!r}")
    blank, blanks = None, 0
    while True:
        line = before + reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{line}: found {error}, expected {expected}") from error
        if not row or (len(row) == 1 and not row[0].strip()):
            blank, blanks = blank or line, blanks + 1
            if blanks > MAX_BLANK:
                raise DataError(f"{path}:{blank}: found more than {MAX_BLANK} blank lines, expected rows")
        elif blank:
            raise DataError(f"{path}:{blank}: found a blank line, expected none before the last row")
        else:
            yield line, row


def decoded(path: Path, lines: Iterable[bytes], before: int = 0) -> Iterator[str]:
    """Lines as text, without a byte order mark.

    Raises:
        DataError: which line is no UTF-8.
    """
    for number, line in enumerate(lines, start=before + 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"byte {line[error.start]:#04x}"
            raise DataError(f"{path}:{number}: found {found}, expected UTF-8 text") from error
        yield text.removeprefix("\ufeff") if number == 1 else text


class Table:
    """A CSV file as a source of rows, see `batches.Source`.

    Raises:
        DataError: the file is empty, or its first row is not as expected.
    """

    def __init__(self, file: TextFile, delimiter: str = ",") -> None:
        self.path, self.delimiter, self._file = file.path, delimiter, file
        first = decoded(self.path, file.start.splitlines(keepends=True))
        line, header = next(csv_rows(self.path, first, delimiter), (1, []))
        if not header:
            raise DataError(f"{self.path}:1: found an empty file, expected a line of column names")
        self.header = [name.strip() for name in header]
        self.head = f"{self.path}:{line}"

    def rows(self, names: Sequence[str], lists: Sequence[str]) -> Iterator[Batch]:
        """See `Source`; lists have no place in a CSV file."""
        at = {name: self.header.index(name) for name in names}
        pieces, rest, before = self._file.pieces(), b"", 0
        for piece in pieces:
            end = piece.rfind(b"\n") + 1
            whole, after = rest + piece[:end], piece[end:]
            frame = self._plain(whole, before, at) if end else None
            if frame is None:
                rest += piece
                break
            if frame.height:
                first = before + 1 + (before == 0)
                place = Places(self.path, range(first, first + frame.height))
                yield Batch(place, {name: frame[name] for name in names}, {})
            before += whole.count(b"\n")
            rest = after
        lines = decoded(self.path, lines_of(self.path, chain((rest,), pieces), before), before)
        rows = csv_rows(self.path, lines, self.delimiter, before)
        if before == 0:
            next(rows)
        yield from self._one_by_one(rows, at)

    def _plain(self, text: bytes, before: int, at: dict[str, int]) -> pl.DataFrame | None:
        """The columns of whole lines of plain text; None if it is not plain."""
        if b'"' in text or b"\0" in text or text.count(b"\r") != text.count(b"\r\n"):
            return None
        if not text.isascii():
            try:
                text.decode("utf-8")
            except UnicodeDecodeError:
                return None
        ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))
        lengths = np.diff(ends, prepend=-1) - 1
        # A blank line may hold a carriage return and spaces; those of spaces have too few fields.
        if lengths.max() > MAX_FIELD or lengths.min() < 2:
            return None
        rows = len(ends) - (before == 0)
        body = text[ends[0] + 1 :] if before == 0 else text
        width = len(self.header)
        if body.count(self.delimiter.encode()) != rows * (width - 1) or is_packed(body):
            return None
        if not rows:
            return pl.DataFrame({name: pl.Series(dtype=pl.String) for name in at})
        # By position, since names may be there twice.
        schema = {str(k): pl.String for k in range(width)}
        try:
            frame = pl.read_csv(
                io.BytesIO(body),
                has_header=False,
                schema=schema,
                separator=self.delimiter,
                quote_char=None,
                columns=sorted(at.values()),
            )
        except pl.exceptions.PolarsError:
            return None
        if frame.height != rows:
            return None
        return frame.select(pl.col(str(k)).alias(name) for name, k in at.items())

    def _one_by_one(self, rows: Iterator[tuple[int, list[str]]], at: dict[str, int]) -> Iterator[Batch]:
        lines: list[int] = []
        fields: dict[str, list[str]] = {name: [] for name in at}
        width = len(self.header)
        for line, row in rows:
            if len(row) != width:
                lacking = f" field {self.header[len(row)]!r}:" if len(row) < width else ""
                raise DataError(f"{self.path}:{line}:{lacking} found {len(row)} fields, expected {width}")
            lines.append(line)
            for name, values in fields.items():
                values.append(row[at[name]])
            if len(lines) == ROWS:
                yield _batch(self.path, lines, fields)
                lines, fields = [], {name: [] for name in at}
        if lines:
            yield _batch(self.path, lines, fields)


class Places:
    """Where the rows of a batch stand in a text file, by the lines at which they begin."""

    def __init__(self, path: Path, lines: Sequence[int]) -> None:
        self.path, self.lines = path, lines

    def __call__(self, row: int) -> str:
        """The place of the row at a position of the batch."""
        return f"{self.path}:{self.lines[row]}"


def _batch(path: Path, lines: Sequence[int], fields: dict[str, list[str]]) -> Batch:
    columns = {name: pl.Series(name, values, dtype=pl.String) for name, values in fields.items()}
    return Batch(Places(path, lines), columns, {})
