"""What a page is made of: sections of tables and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.common.statistics import Estimate

# A number, a number with its interval, words, or nothing.
Cell = float | int | str | Estimate | None
# chosen: digits of figures whose size nobody knows beforehand (range 3-6).
DIGITS = 4
# chosen: rows of a table in the page; more make it slow on a phone (range 1e3-1e4). The run folder has them all.
MOST_ROWS = 4000


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        unit: of its numbers.
        factor: by which they are multiplied to be in that unit.
        digits: after the point; None for `DIGITS` significant ones.
    """

    name: str
    unit: str = ""
    factor: float = 1.0
    digits: int | None = None

    def text(self, cell: Cell) -> str:
        """A cell as it is shown; a dash for nothing."""
        if isinstance(cell, str):
            return cell
        value, low, high = (self._number(x) for x in ends(cell))
        return value if "–" in (low, high) else f"{value} [{low}, {high}]"

    def key(self, cell: Cell) -> str:
        """What a cell is sorted by; empty for nothing."""
        if isinstance(cell, str):
            return cell
        value = ends(cell)[0]
        return "" if value is None else repr(value)

    def _number(self, value: float | None) -> str:
        if value is None:
            return "–"
        if isinstance(value, int) and self.factor == 1:
            return str(value)
        shown = self.factor * value
        if self.digits is None:
            return f"{shown:.{DIGITS}g}" if abs(shown) < 10**DIGITS else f"{shown:.0f}"
        return f"{round(shown, self.digits) + 0.0:.{self.digits}f}"  # -0.0 is 0


def ends(cell: float | int | Estimate | None) -> tuple[float | None, float | None, float | None]:
    """Value, low and high of a cell, None where there is no such (finite) number."""
    found = (cell.value, cell.low, cell.high) if isinstance(cell, Estimate) else (cell, None, None)
    value, low, high = (None if x is None or not math.isfinite(x) else x for x in found)
    return value, low, high


def estimate(found: Mapping[str, Any] | None) -> Estimate | None:
    """An estimate of a summary file; None where it has no value."""
    if found is None or found["value"] is None:
        return None
    value, low, high = (
        math.nan if found[end] is None else float(found[end]) for end in ("value", "low", "high")
    )
    return Estimate(value, low, high)


def column_of(label: str, factor: float = 1.0, digits: int | None = None) -> Column:
    """A column from the label of a printed table, which ends with its unit: `TTFT p50 (s)`."""
    name, _, unit = label.strip().partition(" (")
    return Column(name, unit.removesuffix(")"), factor, digits)


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Attributes:
        title: of the table.
        columns: its headings; the first names the row.
        rows: as many cells each as there are columns.
        note: what one must know to read it.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure of Plotly.

    Attributes:
        title: of the picture.
        figure: `data` and `layout` as plain data.
        note: what one must know to read it.
        height: pixels.
    """

    title: str
    figure: Mapping[str, Any]
    note: str = ""
    height: int = 420


@dataclass(frozen=True)
class Lines:
    """Text whose lines and spaces mean something.

    Attributes:
        title: of the text.
        text: as it is shown.
        note: what one must know to read it.
    """

    title: str
    text: str
    note: str = ""


Part = Table | Picture | Lines


def checked(parts: Sequence[Part]) -> Sequence[Part]:
    """The parts, once all of them can be written on a page.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: a cell or a figure holds what no page can show, as where a
            file of a run has a list or NaN in place of a number.
    """
    for part in parts:
        texts: list[Any] = [part.title, part.note]
        if isinstance(part, Picture):
            json.dumps(part.figure, allow_nan=False)
        elif isinstance(part, Table):
            texts += [column.name for column in part.columns]
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"found a title that is {type(text).__name__}, expected text")
        if isinstance(part, Table):
            for row in part.rows:
                for column, cell in zip(part.columns, row, strict=True):
                    column.text(cell)
    return parts


@dataclass(frozen=True)
class Section:
    """A run, or what several runs say together.

    Attributes:
        title: of the section.
        about: a sentence below it.
        parts: in the order of the page.
        facts: where it comes from: name, text.
        images: pictures that the command itself drew.
    """

    title: str
    about: str
    parts: Sequence[Part]
    facts: Sequence[tuple[str, str]] = field(default=())
    images: Sequence[Path] = field(default=())
