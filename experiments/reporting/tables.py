"""Tables made of tables: of several runs one below the other, in groups, turned, or some columns of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.common.statistics import Estimate
from experiments.reporting.content import Cell, Column, Table, ends
from papi_env.errors import ConfigurationError, unknown_name


def stacked(tables: Sequence[Table]) -> Table:
    """The rows of tables that have the same columns, under the title of the first.

    Raises:
        ConfigurationError: their columns are not the same.
    """
    first, *others = tables
    for other in others:
        if other.columns != first.columns:
            names = [", ".join(column.name for column in one.columns) for one in (first, other)]
            raise ConfigurationError(
                f"tables {first.title!r} of runs that are shown together: found the columns {names[1]}, "
                f"expected those of the first run, {names[0]}"
            )
    return replace(first, rows=[row for table in tables for row in table.rows])


def grouped(table: Table, by: Sequence[str]) -> Table:
    """A row for all rows that agree in some columns: how many they are, and of the other columns the mean.

    Numbers have the lowest and the highest beside their mean; texts are listed, each once. Where a number is not
    known of every row, nothing is said.

    Args:
        table: with a row for each of several runs.
        by: names of the columns.

    Raises:
        ConfigurationError: there is no such column.
    """
    kept = [place(table, name) for name in by]
    groups: dict[tuple[Cell, ...], list[Sequence[Cell]]] = {}
    for row in table.rows:
        groups.setdefault(tuple(row[k] for k in kept), []).append(row)
    others = [k for k in range(len(table.columns)) if k not in kept]
    return replace(
        table,
        columns=[*(table.columns[k] for k in kept), Column("runs"), *(table.columns[k] for k in others)],
        rows=[
            [*key, len(rows), *(_together([row[k] for row in rows]) for k in others)]
            for key, rows in groups.items()
        ],
    )


def _together(cells: Sequence[Cell]) -> Cell:
    """What is said of several cells of a column."""
    if len(cells) == 1:
        return cells[0]
    texts = [cell for cell in cells if isinstance(cell, str)]
    if texts:
        return ", ".join(dict.fromkeys(text for text in texts if text))
    numbers = [ends(cell)[0] for cell in cells if not isinstance(cell, str)]
    known = [number for number in numbers if number is not None]
    if len(known) < len(cells):
        return None
    return Estimate(math.fsum(known) / len(known), min(known), max(known))


def turned(table: Table, rows: str, columns: str, value: str) -> Table:
    """A long table turned: a row for each value of one column, a column for each value of another.

    Raises:
        ConfigurationError: there is no such column.
    """
    down, across, shown = (place(table, name) for name in (rows, columns, value))
    heads = list(dict.fromkeys(row[across] for row in table.rows))
    cells: Mapping[Cell, dict[Cell, Cell]] = {row[down]: {} for row in table.rows}
    for row in table.rows:
        cells[row[down]][row[across]] = row[shown]
    named = [replace(table.columns[shown], name=str(head)) for head in heads]
    found = [[name, *(of.get(head) for head in heads)] for name, of in cells.items()]
    return replace(table, columns=[Column(rows), *named], rows=found)


def known(table: Table, columns: Sequence[str]) -> Table:
    """The rows of a table that say something in some columns.

    Raises:
        ConfigurationError: there is no such column.
    """
    places = [place(table, name) for name in columns]

    def says(cell: Cell) -> bool:
        return bool(cell) if isinstance(cell, str) else ends(cell)[0] is not None

    return replace(table, rows=[row for row in table.rows if all(says(row[k]) for k in places)])


def chosen(table: Table, columns: Sequence[str]) -> Table:
    """Some columns of a table, in the order of their names here.

    Raises:
        ConfigurationError: there is no such column.
    """
    places = [place(table, name) for name in columns]
    rows = [[row[k] for k in places] for row in table.rows]
    return replace(table, columns=[table.columns[k] for k in places], rows=rows)


def place(table: Table, name: str) -> int:
    """Where a column is.

    Raises:
        ConfigurationError: there is no such column.
    """
    names = [column.name for column in table.columns]
    if name not in names:
        raise unknown_name("column", name, names)
    return names.index(name)
