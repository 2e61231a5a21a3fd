"""What all readers yield: some rows at a time, as columns, that know where in the file they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from papi_env.errors import DataError

# Where something stands in a file, as an error says it: "trace.csv:5" or "trace.parquet: row 5".
Place = str


@dataclass(frozen=True)
class Batch:
    """Some rows of a file.

    Attributes:
        place: where the row at a position of this batch stands.
        columns: the columns that were asked for, by name. Text files give text, stripped or not; Parquet any type.
        lists: columns of lists, by name: for each row a sequence of numbers as text, or what else was found.
    """

    place: Callable[[int], Place]
    columns: Mapping[str, pl.Series]
    lists: Mapping[str, Sequence[object]]


class Source(Protocol):
    """A file of rows.

    `path` is the file's, `header` has the names of its columns and `head` the place of that; `rows` yields the named
    columns in batches of bounded size, and can be called once.
    """

    path: Path
    head: Place
    header: list[str]

    def rows(self, names: Sequence[str], lists: Sequence[str]) -> Iterator[Batch]:
        """The columns `names` and the columns of lists `lists`. Raises DataError."""


def unexpected(place: Place, field: str, found: str, expected: str) -> DataError:
    """The error for one field of one row."""
    return DataError(f"{place}: field {field!r}: found {shown(found)}, expected {expected}")


def shown(text: str) -> str:
    """A text as errors quote it."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def listed(names: Sequence[str]) -> str:
    """Names as errors list them."""
    return ", ".join(map(shown, names[:30])) + (", ..." if len(names) > 30 else "")
