"""JSON: lines or a list of objects, one for each request, and the documents of vLLM's benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from papi_env.errors import DataError
from papi_env.workload.traces.batches import Batch, Place, shown
from papi_env.workload.traces.files import TextFile
from papi_env.workload.traces.formats import SHAREGPT, VLLM
from papi_env.workload.traces.tables import decoded

# Rows at once; chosen: a few MB, with the hashes of 100 blocks each some 50 MB.
ROWS = 20_000
# Chosen: what is read as one document, not line by line; results of a million requests have some 100 MB.
MAX_DOCUMENT = 512 * 2**20
# Of one object of a list, in characters; chosen: longer than any conversation that people publish.
MAX_OBJECT = 32 * 2**20
_SPACE = " \t\r\n"


class Number(str):
    """A number as it stands in the file: whatever it is used for is exact."""


_DECODER = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=Number)


def opens_json(start: bytes) -> bool:
    """Whether a file that begins so is JSON or JSON lines."""
    return start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


class Records:
    """Objects, one for each request, as a source of rows: see `batches.Source`.

    The fields of the first object are the header.
    """

    def __init__(self, path: Path, records: Iterator[tuple[Place, Mapping[str, Any]]]) -> None:
        first = next(records, None)
        if first is None:
            raise DataError(f"{path}: found no objects, expected at least one request")
        self.path, self.head, self.first = path, first[0], first[1]
        self.header = list(first[1])
        self._records = chain((first,), records)

    def records(self) -> Iterator[tuple[Place, Mapping[str, Any]]]:
        """The objects and where they stand; can be called once, and not beside `rows`."""
        return self._records

    def rows(self, names: Sequence[str], lists: Sequence[str]) -> Iterator[Batch]:
        """See `Source`."""
        while some := list(islice(self._records, ROWS)):
            places = [place for place, _ in some]
            for place, record in some:
                for name in (*names, *lists):
                    if name not in record:
                        raise DataError(
                            f"{place}: field {name!r}: found no such field, expected it in every row"
                        )
            columns = {name: _column([record[name] for _, record in some]) for name in names}
            yield Batch(places.__getitem__, columns, {name: [r[name] for _, r in some] for name in lists})


class Conversations:
    """ShareGPT's conversations as a source of rows: lengths are estimated from characters.

    The first turn is the prompt and the second the answer, as vLLM's benchmark takes them. A conversation with fewer
    turns, or with an empty one, has no tokens. Else there are ceil(characters / characters_per_token) of them.
    """

    def __init__(self, records: Records, characters_per_token: float) -> None:
        self.path, self.head, self._records = records.path, records.head, records
        self.header = list(SHAREGPT.columns.named)
        self.characters = characters_per_token

    def rows(self, names: Sequence[str], lists: Sequence[str]) -> Iterator[Batch]:
        """See `Source`."""
        records = self._records.records()
        while some := list(islice(records, ROWS)):
            places = [place for place, _ in some]
            turns = [self._turns(place, record) for place, record in some]
            columns = {
                name: pl.Series([-int(-turn[k] // self.characters) for turn in turns], dtype=pl.Int64)
                for k, name in enumerate(self.header)
            }
            yield Batch(places.__getitem__, columns, {})

    def _turns(self, place: Place, record: Mapping[str, Any]) -> tuple[int, int]:
        """Characters of the first two turns."""
        turns = record.get("conversations")
        if not isinstance(turns, list):
            raise DataError(
                f"{place}: field 'conversations': found {_brief(turns)}, expected a list of turns"
            )
        characters = [0, 0]
        for k, turn in enumerate(turns[:2]):
            text = turn.get("value") if isinstance(turn, dict) else None
            if not isinstance(text, str) or isinstance(text, Number):
                raise DataError(
                    f"{place}: field 'conversations[{k}].value': found {_brief(text)}, expected text"
                )
            characters[k] = len(text)
        return characters[0], characters[1]


class Result:
    """The JSON document of a run of vLLM's benchmark, as a source of rows: see `batches.Source`."""

    def __init__(self, path: Path, document: Mapping[str, Any]) -> None:
        self.path, self.head = path, str(path)
        self.header = [name for name in VLLM.columns.named if name in document]
        self._lists = {}
        for name in VLLM.columns.named:
            if name not in document and name in VLLM.optional:
                continue
            values = document.get(name)
            if not isinstance(values, list):
                found = "no such field" if name not in document else _brief(values)
                raise DataError(
                    f"{path}: field {name!r}: found {found}, expected a list with a value for each request, "
                    "as `vllm bench serve --save-detailed` writes it"
                )
            self._lists[name] = values
        # Of older versions a file has no output lengths of requests that failed; they can not be told apart.
        first = VLLM.columns.input
        for name, values in self._lists.items():
            if len(values) != len(self._lists[first]):
                raise DataError(
                    f"{path}: field {name!r}: found {len(values)} values, expected {len(self._lists[first])}, "
                    f"as many as in {first!r}"
                )

    def rows(self, names: Sequence[str], lists: Sequence[str]) -> Iterator[Batch]:
        """See `Source`."""
        count = len(self._lists[VLLM.columns.input])
        for start in range(0, count, ROWS):
            columns = {name: _column(self._lists[name][start : start + ROWS]) for name in names}
            yield Batch(_Numbered(self.path, "request", start), columns, {})


def open_json(file: TextFile) -> Records | Result:
    """The objects of a JSON file, or the result of vLLM's benchmark that it is.

    Raises:
        DataError: it is neither.
    """
    path = file.path
    if file.start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return Records(path, _items(path, decoded(path, file.lines())))
    lines = decoded(path, file.lines())
    skipped, first = 0, ""
    while not first.strip():
        first, skipped = next(lines), skipped + 1
    try:
        record = _DECODER.decode(first)
    except (ValueError, RecursionError) as error:
        second = next(lines, None)
        if second is None or second.lstrip().startswith("{"):
            _refuse(f"{path}:{skipped}", error)
        return Result(path, _document(path, chain((first, second), lines)))
    if VLLM.columns.input in record and isinstance(record[VLLM.columns.input], list):
        for number, line in enumerate(lines, start=skipped + 1):
            if line.strip():
                raise DataError(
                    f"{path}:{number}: found more after the result of a run, expected one run in a file"
                )
        return Result(path, record)
    return Records(path, chain(((f"{path}:{skipped}", record),), _by_line(path, lines, skipped)))


def _by_line(path: Path, lines: Iterator[str], before: int) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """JSON lines, of which the first `before` were read."""
    blank = None
    for number, line in enumerate(lines, start=before + 1):
        place = f"{path}:{number}"
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise DataError(f"{path}:{blank}: found a blank line, expected none before the last row")
        try:
            record = _DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            _refuse(place, error)
        if not isinstance(record, dict):
            raise DataError(f"{place}: found {_brief(record)}, expected a JSON object")
        yield place, record


def _document(path: Path, lines: Iterator[str]) -> Mapping[str, Any]:
    """A JSON object that has many lines."""
    parts, size = [], 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size > MAX_DOCUMENT:
            raise DataError(
                f"{path}: found a JSON document above {MAX_DOCUMENT} bytes, expected a smaller one"
            )
    try:
        document = _DECODER.decode("".join(parts))
    except (ValueError, RecursionError) as error:
        _refuse(str(path), error)
    return dict(document)


def _items(path: Path, lines: Iterator[str]) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The objects of a JSON list, one after the other, in bounded memory."""
    buffer, at, count, ended = "", 0, 0, False

    def more() -> bool:
        nonlocal buffer, at
        # As much again as there is: the work stays in proportion to the file.
        parts, size, wanted = [buffer[at:]], 0, max(2**20, len(buffer) - at)
        for line in lines:
            parts.append(line)
            size += len(line)
            if size >= wanted:
                break
        buffer, at = "".join(parts), 0
        return size > 0

    def skip() -> str:
        nonlocal at
        while True:
            while at < len(buffer) and buffer[at] in _SPACE:
                at += 1
            if at < len(buffer):
                return buffer[at]
            if not more():
                return ""

    skip()
    at += 1
    while True:
        found = skip()
        place = f"{path}: item {count + 1}"
        if found == "]" and (count == 0 or ended):
            break
        if count and not ended:
            if found != ",":
                raise DataError(
                    f"{place}: found {shown(found) if found else 'the end of the file'}, expected , or ]"
                )
            at += 1
            skip()
        while True:
            try:
                record, end = _DECODER.raw_decode(buffer, at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or len(buffer) - at > MAX_OBJECT or not more():
                    _refuse(place, error)
                continue
            break
        at, count = end, count + 1
        if not isinstance(record, dict):
            raise DataError(f"{place}: found {_brief(record)}, expected a JSON object")
        yield place, record
        ended = skip() == "]"
    at += 1
    if skip():
        raise DataError(f"{path}: found more after the list, expected its end")


class _Numbered:
    """Where the rows of a batch stand, by their numbers."""

    def __init__(self, path: Path, what: str, before: int) -> None:
        self.path, self.what, self.before = path, what, before

    def __call__(self, row: int) -> Place:
        return f"{self.path}: {self.what} {self.before + row + 1}"


def _column(values: Sequence[object]) -> pl.Series:
    """Values of JSON as text: numbers and strings as they stand, all else as JSON has it."""
    return pl.Series([_text(value) for value in values], dtype=pl.String)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else _brief(value)
    # JSON may name halves of characters, which no text has.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _brief(value: object) -> str:
    """A value of JSON, cut where it is long."""
    text = json.dumps(value) if not isinstance(value, Number) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse(place: Place, error: ValueError | RecursionError) -> NoReturn:
    if isinstance(error, json.JSONDecodeError):
        found = f"no valid JSON ({error.msg} at line {error.lineno}, column {error.colno})"
    else:
        found = (
            "no valid JSON (nested too deeply)" if isinstance(error, RecursionError) else f"no JSON ({error})"
        )
    raise DataError(f"{place}: found {found}, expected a JSON object") from error
