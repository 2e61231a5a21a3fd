"""Fields of a CSV file from outside: a look-up that fails names the file, line and field, and what was expected."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from papi_env.errors import DataError, nearest
from papi_env.workload.traces import csv_rows, csv_text

T = TypeVar("T")

# Numbers other than 0. chosen: products and quotients of three are finite and not 0 (range 1e3-1e100 and what is one
# over it); no time, energy or size is near them in any unit.
LEAST, MOST = 1e-100, 1e100


@dataclass(frozen=True)
class Header:
    """The column names of a file, without the spaces around them."""

    path: Path
    line: int
    names: tuple[str, ...]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def require(self, *required: str) -> None:
        """Refuse a file that lacks one of the columns or has it twice, with the nearest of the others.

        Raises:
            DataError: which column, and what was found.
        """
        for name in required:
            times = self.names.count(name)
            if times == 1:
                continue
            found = f"{times} such columns" if times else "no such column"
            free = {other.lower(): other for other in self.names if other not in required}
            close = None if times else nearest(name, free)
            hint = f" (did you mean {free[close]!r}?)" if close else ""
            raise DataError(f"{self.path}:{self.line}: field {name!r}: found {found}, expected one{hint}")


@dataclass(frozen=True)
class Fields:
    """The fields of one row as text; every look-up that fails names the file, line and field."""

    path: Path
    line: int
    values: Mapping[str, str]

    def error(self, name: str, expected: str) -> DataError:
        """That `name` holds something other than `expected`."""
        found = self.values[name]
        shown = repr(found if len(found) <= 60 else found[:57] + "...")
        return DataError(f"{self.path}:{self.line}: field {name!r}: found {shown}, expected {expected}")

    def parsed(self, name: str, expected: str, parse: Callable[[str], T], valid: Callable[[T], bool]) -> T:
        """The field by `parse`, if that succeeds and the result is `valid`."""
        text = self.values[name]
        try:
            value = parse(text)
        except ValueError:
            raise self.error(name, expected) from None
        # Python reads "1_000" and the digits of all scripts as numbers.
        if not text.isascii() or "_" in text or not valid(value):
            raise self.error(name, expected)
        return value

    def number(self, name: str, *, positive: bool = True) -> float:
        """A finite number, positive or at least 0, with which one can calculate."""
        expected = f"a number {'> 0' if positive else '>= 0'}"
        value = self.parsed(name, expected, float, lambda x: 0 <= x < math.inf and (x > 0 or not positive))
        if value and not LEAST <= value <= MOST:
            raise self.error(name, f"a number from {LEAST:g} to {MOST:g}")
        return value

    def integer(self, name: str, least: int, most: int) -> int:
        """A whole number from `least` to `most`."""
        expected = f"a whole number from {least} to {most}"
        return self.parsed(name, expected, int, lambda x: least <= x <= most)

    def flag(self, name: str) -> bool:
        """True or False."""
        return self.one_of(name, {"true": True, "false": False}, "True or False", str.lower)

    def one_of(
        self, name: str, known: Mapping[str, T], expected: str = "", fold: Callable[[str], str] = str.strip
    ) -> T:
        """What `known` holds under the field's text."""
        text = fold(self.values[name])
        if text not in known:
            close = nearest(text, {key.lower(): key for key in known})
            original = next((key for key in known if key.lower() == close), None)
            hint = f" (did you mean {original!r}?)" if original else ""
            raise self.error(name, (expected or f"one of {', '.join(known)}") + hint)
        return known[text]


def read_table(path: Path) -> tuple[Header, Iterator[Fields]]:
    """The header of a CSV file, and its rows, at least one.

    Raises:
        DataError: the file is not as expected; that of a row, when it is come to.
    """
    lines = csv_rows(path, csv_text(path))
    line, names = next(lines, (1, []))
    if not names:
        raise DataError(f"{path}:1: found an empty file, expected a line of column names")
    header = Header(path, line, tuple(name.strip() for name in names))
    return header, _rows(header, lines)


def _rows(header: Header, lines: Iterator[tuple[int, list[str]]]) -> Iterator[Fields]:
    path, names, line = header.path, header.names, header.line
    for line, row in lines:
        if len(row) != len(names):
            lacking = f" field {names[len(row)]!r}:" if len(row) < len(names) else ""
            raise DataError(f"{path}:{line}:{lacking} found {len(row)} fields, expected {len(names)}")
        yield Fields(path, line, dict(zip(names, (text.strip() for text in row), strict=True)))
    if line == header.line:
        raise DataError(f"{path}:{line}: found a header and no rows, expected at least one")
