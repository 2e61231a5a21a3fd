"""Blocks of a hand-written page whose tables come from run folders.

A block begins with a comment that says in TOML which command's tables stand in it, and what of them:

    <!-- from a run
    command = "experiments.sweep experiments/sweeps/pim_design.toml"
    tables = [{ title = "The answer", columns = ["scheduler", "best instead"] }]
    -->
    (written by `experiments.report RUN ... --page FILE.md`)
    <!-- end of the run -->

All else on the page is written by hand, and stays as it is; so does a block whose run is not among the folders, with
the date, commit and processor of the run that filled it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pydantic import Field

from experiments.reporting.content import Cell, Column, Lines, Part, Picture, Section, Table
from experiments.reporting.markdown import fenced, part_lines, plain
from papi_env.definition import Definition
from papi_env.errors import ConfigurationError, nearest, shown, unknown_name
from papi_env.files import parse_toml

_BLOCK = re.compile(
    r"^<!-- from a run\n(?P<asked>.*?)^-->\n(?P<shown>.*?)^<!-- end of the run -->$", re.M | re.S
)
# A line that opens or closes a block; one that no block took is said.
_MARK = re.compile(r"^<!-- (?:from a run|end of the run)\b.*$", re.M)
# Options that say where, how quickly and how visibly a command runs, with whether a value follows; not what it finds.
_ASIDE = {"--out": True, "--jobs": True, "--backend": True, "--address": True, "--watch": False}


class Pivot(Definition):
    """A long table turned: a row for each value of one column, a column for each value of another."""

    rows: str
    columns: str
    value: str


class Shown(Definition):
    """One table of a run, or part of it.

    Attributes:
        title: of the table on the page of the run.
        caption: what is written above it instead of that title and what the page of the run says there.
        columns: those that are shown, in this order; all by default.
        pivot: how it is turned first.
    """

    title: str
    caption: str = ""
    columns: tuple[str, ...] = ()
    pivot: Pivot | None = None


class Block(Definition):
    """What a block holds.

    Attributes:
        command: whose run fills it, without `python -m`, `--out` and what else does not change results.
        tables: in the order of the block.
    """

    command: str
    tables: tuple[Shown, ...] = Field(min_length=1)

    def asked(self) -> str:
        """The command as it is compared."""
        return essence(self.command)


def essence(command: str) -> str:
    """A command without what does not change its results; options keep their order.

    Raises:
        ConfigurationError: a quotation in it does not end.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError(f"found the command {shown(command)}: {error}") from None
    words = words[next((k for k, word in enumerate(words) if word.startswith("experiments.")), 0) :]
    kept, left = [], iter(words)
    for word in left:
        name, _, value = word.partition("=")
        if name not in _ASIDE:
            kept.append(word)
        elif _ASIDE[name] and not value:
            next(left, None)
    return shlex.join(kept)


def blocks_of(page: str, where: str) -> list[Block]:
    """The blocks of a page, in their order.

    Raises:
        ConfigurationError: a block is not closed, or does not say what it holds.
    """
    return [block for block, _ in _found(page, where)]


def filled(page: str, sections: Sequence[Section], where: str) -> tuple[str, int]:
    """The page with what the runs' sections hold in its blocks, and how many blocks these filled.

    Args:
        page: Markdown with blocks.
        sections: of runs, with the commands among their facts.
        where: the page's name, for messages.

    Raises:
        ConfigurationError: a block cannot be read or filled, or a run belongs to none.
    """
    found = _found(page, where)
    by_command: dict[str, Section] = {}
    for section in sections:
        command = essence(_fact(section, "command"))
        known = [block.asked() for block, _ in found]
        if command not in known:
            close = nearest(command, known)
            hint = f"; did you mean {close!r}?" if close else ""
            raise ConfigurationError(f"{where}: no block shows {command!r} ({section.about}){hint}")
        if command in by_command:
            raise ConfigurationError(f"{where}: two runs of {command!r}, expected one to fill its block")
        by_command[command] = section
    text, end, count = [], 0, 0
    for block, match in found:
        if (own := by_command.get(block.asked())) is not None:
            text += [page[end : match.start("shown")], "\n".join(["", *_lines(block, own, where)]) + "\n"]
            end, count = match.end("shown"), count + 1
    return "".join([*text, page[end:]]), count


def _found(page: str, where: str) -> list[tuple[Block, re.Match[str]]]:
    found = []
    for match in _BLOCK.finditer(page):
        line = f"{where}, line {page.count(chr(10), 0, match.start()) + 1}"
        if stray := _MARK.search(match["shown"]):
            raise ConfigurationError(f"{line}: a block begins within another: {stray[0]!r}")
        try:
            asked = parse_toml(match["asked"])
        except ValueError as error:
            raise ConfigurationError(f"{line}: not TOML: {error}") from None
        found.append((Block.define(asked, line), match))
    if stray := _MARK.search(_BLOCK.sub("", page)):
        raise ConfigurationError(
            f"{where}: {stray[0]!r} belongs to no block, expected '<!-- from a run', TOML, '-->' and "
            "'<!-- end of the run -->', each on lines of its own"
        )
    return found


def _lines(block: Block, section: Section, where: str) -> Iterator[str]:
    """What stands in a block: the command, the tables, where they come from."""
    yield from fenced(f"python -m {block.asked()}", "sh")
    for asked in block.tables:
        try:
            table = _shown(asked, section.parts)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}, block of {block.asked()!r}: {error}") from None
        said = asked.caption or f"{table.title}. {table.note}".strip()
        yield from (said if asked.caption else plain(said), "")
        yield from part_lines(replace(table, title="", note=""))
    started, commit, machine = (_fact(section, name) for name in ("started", "commit", "machine"))
    # A commit is known by fewer digits; the platform says less than the processor.
    facts = (
        f"Run {started}",
        re.sub(r"\b([0-9a-f]{12})[0-9a-f]+\b", r"commit \1", commit),
        f"{machine.rpartition(', ')[0]} ({_fact(section, 'instruction set')})",
        f"{_fact(section, 'cores used')} used",
    )
    yield f"<sub>{'; '.join(map(plain, facts))}.</sub>"
    yield ""


def _fact(section: Section, name: str) -> str:
    """A fact of the run's last session."""
    return ([""] + [text for known, text in section.facts if known == name])[-1]


def _shown(asked: Shown, parts: Sequence[Part]) -> Table | Lines:
    """The part of a table, or the text, that a block asks for."""
    known = {part.title: part for part in parts if not isinstance(part, Picture)}
    if asked.title not in known:
        raise unknown_name("table", asked.title, known)
    part = known[asked.title]
    if isinstance(part, Lines):
        return part
    table = part if asked.pivot is None else _turned(part, asked.pivot)
    if not asked.columns:
        return table
    chosen = [_place(table, name) for name in asked.columns]
    rows = [[row[k] for k in chosen] for row in table.rows]
    return replace(table, columns=[table.columns[k] for k in chosen], rows=rows)


def _turned(table: Table, pivot: Pivot) -> Table:
    down, across, value = (_place(table, name) for name in (pivot.rows, pivot.columns, pivot.value))
    heads = list(dict.fromkeys(row[across] for row in table.rows))
    cells: Mapping[Cell, dict[Cell, Cell]] = {row[down]: {} for row in table.rows}
    for row in table.rows:
        cells[row[down]][row[across]] = row[value]
    shown = [replace(table.columns[value], name=str(head)) for head in heads]
    rows = [[name, *(found.get(head) for head in heads)] for name, found in cells.items()]
    return replace(table, columns=[Column(pivot.rows), *shown], rows=rows)


def _place(table: Table, name: str) -> int:
    names = [column.name for column in table.columns]
    if name not in names:
        raise unknown_name("column", name, names)
    return names.index(name)
