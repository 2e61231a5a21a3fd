"""Sections as a page of Markdown, such as a page of results that is kept beside the code.

Tables that a person can read at once, the pictures that the commands drew, and of each run its command, its processor
and the versions. Figures to explore and long tables are for the page of HTML and for the run folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from experiments.reporting.content import Cell, Lines, Picture, Section, Table

# chosen: what a reader takes in; PAPI's comparison has 12 rows, a table of all serving presets 24 (range 20-100).
MOST_ROWS = 60
# What Markdown, or HTML within it, would read in a name.
_SIGNS = re.compile(r"([\\`*<>|~]|(?<!\w)_|_(?!\w)|\](?=[(\[:]))")


def markdown_of(title: str, sections: Sequence[Section], folder: Path) -> str:
    """The page; the same sections give the same text.

    Args:
        title, sections: of the page.
        folder: that the page is for; links to pictures lead from there.
    """
    lines = [f"# {plain(title)}", ""]
    for section in sections:
        lines += [f"## {plain(section.title)}", "", plain(section.about), ""]
        lines += _facts(section)
        for part in section.parts:
            if not isinstance(part, Picture):
                lines += part_lines(part)
        for path in section.images:
            where = quote(Path(os.path.relpath(path, folder)).as_posix())
            lines += [f"![{plain(path.stem)}]({where})", ""]
    return "\n".join(lines).rstrip() + "\n"


def _facts(section: Section) -> Iterator[str]:
    """Commands as one would type them, then a line for all else."""
    commands = dict.fromkeys(text for name, text in section.facts if name == "command")
    if commands:
        yield from fenced("\n".join(commands), "sh")
    for name, text in section.facts:
        if name != "command" and text:
            yield f"* {name}: {plain(text)}"
    if section.facts:
        yield ""


def part_lines(part: Table | Lines) -> Iterator[str]:
    """A table or a text, under its title if it has one."""
    if part.title:
        yield f"### {plain(part.title)}"
        yield ""
    if isinstance(part, Lines):
        yield from _noted(part.note)
        yield from fenced(part.text, "text")
        return
    if len(part.rows) > MOST_ROWS:
        yield f"{len(part.rows)} rows, which the run folder holds."
        yield ""
        return
    yield from _noted(part.note)
    heads = (f"{column.name} ({column.unit})" if column.unit else column.name for column in part.columns)
    yield _row([plain(head) for head in heads])
    texts = [isinstance(cell, str) for cell in part.rows[0]] if part.rows else [True] * len(part.columns)
    yield "|" + "|".join("---" if text else "---:" for text in texts) + "|"
    for row in part.rows:
        cells = zip(part.columns, row, strict=True)
        yield _row([_unbroken(column.text(cell), cell) for column, cell in cells])
    yield ""


def _noted(note: str) -> Iterator[str]:
    if note:
        yield plain(note)
        yield ""


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _unbroken(text: str, cell: Cell) -> str:
    """A cell's text, plain; a number stays on one line with its interval."""
    return plain(text) if isinstance(cell, str) else plain(text).replace(" ", "\N{NO-BREAK SPACE}")


def plain(text: str) -> str:
    """Text on one line that means itself."""
    return _SIGNS.sub(r"\\\1", " ".join(text.split()))


def fenced(text: str, kind: str) -> Iterator[str]:
    """Text as it is, in a fence that is longer than any in it."""
    longest = max((len(found) for found in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    yield from (f"{fence}{kind}", *text.splitlines(), fence, "")
