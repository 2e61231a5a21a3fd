"""Blocks of a hand-written page whose tables come from run folders.

A block begins with a comment that says in TOML which command's tables stand in it, and what of them:

    <!-- from a run
    command = "experiments.sweep experiments/sweeps/pim_design.toml"
    tables = [{ title = "The answer", columns = ["scheduler", "best instead"] }]
    -->
    (written by `experiments.report RUN ... --page FILE.md`)
    <!-- end of the run -->

A block of several runs names what differs in their commands; it is shown as the loop of a shell, and filled from a
folder of each command. Tables stand below each other, or say of groups of runs the mean, the lowest and the highest:

    command = "experiments.train --algorithm $a --seed $s --out runs/$a-$s"
    each = { a = "ppo a2c", s = "0 1 2" }
    tables = [{ title = "Trainings" }, { title = "Trainings", group = ["algorithm"] }]

All else on the page is written by hand, and stays as it is; so does a block whose run is not among the folders, with
the date, commit and processor of the run that filled it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from string import Template

from pydantic import Field

from experiments.reporting.content import Lines, Picture, Section, Table
from experiments.reporting.markdown import fenced, part_lines, plain
from experiments.reporting.tables import chosen, grouped, known, stacked, turned
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
# With it a training goes on as its first command said.
_GOES_ON = "--resume"
# Of a block, and of all blocks of a page. chosen: what a leaderboard asks of an entry, for each of ten algorithms
# (range 50-1e3), and for a hundred such blocks.
MOST_RUNS, MOST_OF_PAGE = 100, 10_000
# Of a command that stands for several, and of the words that do (range 1e3-1e5). chosen: four times the longest.
MOST_SIGNS = 4096


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
        group: columns; rows that agree in them are one, before it is turned (see `tables.grouped`).
        known: columns; rows that say nothing there are left out, first of all.
    """

    title: str
    caption: str = ""
    columns: tuple[str, ...] = ()
    pivot: Pivot | None = None
    group: tuple[str, ...] = ()
    known: tuple[str, ...] = ()


class Block(Definition):
    """What a block holds.

    Attributes:
        command: whose run fills it, without `python -m`. What does not change results, such as `--out`, is shown, and
            may differ in the run's.
        each: where several runs fill it, by name the words that `$name` stands for in the command, with blanks between.
        tables: in the order of the block.
    """

    command: str
    each: dict[str, str] = Field(default_factory=dict)
    tables: tuple[Shown, ...] = Field(min_length=1)

    def asked(self) -> tuple[str, ...]:
        """The commands of its runs as they are compared, the last name changing fastest.

        Raises:
            ConfigurationError: a quotation does not end, a name stands for nothing or is not known, or commands are not
                different ones, or too many.
        """
        if not self.each:
            return (essence(self.command),)
        choices = [values.split() for values in self.each.values()]
        count = prod(map(len, choices))
        if not 0 < count <= MOST_RUNS:
            raise ConfigurationError(f"each: found {count} runs, expected from 1 to {MOST_RUNS}")
        if (signs := max(len(self.command), *map(len, self.each.values()))) > MOST_SIGNS:
            raise ConfigurationError(f"each: found a text of {signs} signs, expected at most {MOST_SIGNS}")
        words = [Template(word) for word in _words(self.command)]
        try:
            found = [
                shlex.join(word.substitute(dict(zip(self.each, values, strict=True))) for word in words)
                for values in product(*choices)
            ]
        except KeyError as error:
            raise unknown_name("name in the command of 'each'", error.args[0], self.each) from None
        except ValueError as error:
            raise ConfigurationError(f"found the command {shown(self.command)}: {error}") from None
        if len(set(found)) < count:
            raise ConfigurationError(
                f"each: found {count} runs of {len(set(found))} commands, expected another command for each; "
                "every name must change it"
            )
        return tuple(found)

    def shell(self) -> str:
        """What one types."""
        named = list(self.each.items())
        lines = [
            f"{'  ' * k}for {name} in {' '.join(words.split())}; do" for k, (name, words) in enumerate(named)
        ]
        ends = [f"{'  ' * k}done" for k in reversed(range(len(named)))]
        return "\n".join([*lines, f"{'  ' * len(named)}python -m {self.command.strip()}", *ends])


def essence(command: str) -> str:
    """A command without what does not change its results; options keep their order.

    Raises:
        ConfigurationError: a quotation in it does not end.
    """
    return shlex.join(_words(command))


def _words(command: str) -> list[str]:
    """The words of `essence`."""
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
    return kept


def blocks_of(page: str, where: str) -> list[Block]:
    """The blocks of a page, in their order.

    Raises:
        ConfigurationError: a block is not closed, or does not say what it holds.
    """
    return [block for block, _, _ in _found(page, where)]


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
    known = [command for _, asked, _ in found for command in asked]
    by_command: dict[str, Section] = {}
    for section in sections:
        command = _command(section)
        if command not in known:
            close = nearest(command, known)
            hint = f"; did you mean {close!r}?" if close else ""
            raise ConfigurationError(f"{where}: no block shows {command!r} ({section.about}){hint}")
        if command in by_command:
            raise ConfigurationError(f"{where}: two runs of {command!r}, expected one to fill its block")
        by_command[command] = section
    text, end, count = [], 0, 0
    for block, asked, match in found:
        own = [by_command[command] for command in asked if command in by_command]
        if not own:
            continue
        if missing := [command for command in asked if command not in by_command]:
            raise ConfigurationError(
                f"{where}: {len(own)} of {len(asked)} runs of a block are there, expected all; "
                f"one of {missing[0]!r} is not"
            )
        text += [page[end : match.start("shown")], "\n".join(["", *_lines(block, own, where)]) + "\n"]
        end, count = match.end("shown"), count + 1
    return "".join([*text, page[end:]]), count


def _command(section: Section) -> str:
    """The command of a run as it is compared: the last one that was not to go on with what another had asked."""
    commands = [essence(text) for name, text in section.facts if name == "command"]
    own = [command for command in commands if _GOES_ON not in shlex.split(command)]
    return ([""] + (own or commands))[-1]


def _found(page: str, where: str) -> list[tuple[Block, tuple[str, ...], re.Match[str]]]:
    """Each block with the commands of its runs and where it stands."""
    found, count = [], 0
    for match in _BLOCK.finditer(page):
        line = f"{where}, line {page.count(chr(10), 0, match.start()) + 1}"
        if stray := _MARK.search(match["shown"]):
            raise ConfigurationError(f"{line}: a block begins within another: {stray[0]!r}")
        try:
            asked = parse_toml(match["asked"])
        except ValueError as error:
            raise ConfigurationError(f"{line}: not TOML: {error}") from None
        block = Block.define(asked, line)
        try:
            found.append((block, block.asked(), match))
        except ConfigurationError as error:
            raise ConfigurationError(f"{line}: {error}") from None
        if (count := count + len(found[-1][1])) > MOST_OF_PAGE:
            raise ConfigurationError(f"{line}: found more than {MOST_OF_PAGE} runs on one page")
    if stray := _MARK.search(_BLOCK.sub("", page)):
        raise ConfigurationError(
            f"{where}: {stray[0]!r} belongs to no block, expected '<!-- from a run', TOML, '-->' and "
            "'<!-- end of the run -->', each on lines of its own"
        )
    return found


def _lines(block: Block, sections: Sequence[Section], where: str) -> Iterator[str]:
    """What stands in a block: the command, the tables, where they come from."""
    yield from fenced(block.shell(), "sh")
    for asked in block.tables:
        try:
            table = _shown(asked, sections)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}, block of {block.command!r}: {error}") from None
        said = asked.caption or f"{table.title}. {table.note}".strip()
        yield from (said if asked.caption else plain(said), "")
        yield from part_lines(replace(table, title="", note=""))
    yield f"<sub>{'; '.join(map(plain, _origin(sections, where)))}.</sub>"
    yield ""


def _origin(sections: Sequence[Section], where: str) -> Iterator[str]:
    """When runs were, of which commits, and on what.

    Raises:
        ConfigurationError: one of several did not finish.
    """
    started = sorted(_fact(section, "started") for section in sections)
    if len(sections) == 1:
        yield f"Run {started[0]}"
    else:
        for section in sections:
            if ", finished after" not in _fact(section, "started"):
                raise ConfigurationError(
                    f"{where}: found a run that did not finish ({section.about}), expected all runs of a block to"
                )
        yield f"{len(sections)} runs, the first {started[0]}, the last {started[-1]}"
    # A commit is known by fewer digits; the platform says less than the processor.
    yield from dict.fromkeys(
        re.sub(r"\b([0-9a-f]{12})[0-9a-f]+\b", r"commit \1", _fact(s, "commit")) for s in sections
    )
    yield from dict.fromkeys(
        f"{_fact(s, 'machine').rpartition(', ')[0]} ({_fact(s, 'instruction set')})" for s in sections
    )
    yield from dict.fromkeys(f"{_fact(s, 'cores used')} used" for s in sections)


def _fact(section: Section, name: str) -> str:
    """A fact of the run's last session."""
    return ([""] + [text for known, text in section.facts if known == name])[-1]


def _shown(asked: Shown, sections: Sequence[Section]) -> Table | Lines:
    """The part of a table, or the text, that a block asks for; of several runs below each other."""
    parts = [_part(asked.title, section) for section in sections]
    texts = [part for part in parts if isinstance(part, Lines)]
    if texts:
        if len(parts) > 1:
            raise ConfigurationError(
                f"{asked.title!r}: found a text, expected a table, for there are {len(parts)} runs"
            )
        return texts[0]
    table = stacked([part for part in parts if isinstance(part, Table)])
    table = known(table, asked.known)
    if asked.group:
        table = grouped(table, asked.group)
    if asked.pivot is not None:
        table = turned(table, asked.pivot.rows, asked.pivot.columns, asked.pivot.value)
    return chosen(table, asked.columns) if asked.columns else table


def _part(title: str, section: Section) -> Table | Lines:
    known = {part.title: part for part in section.parts if not isinstance(part, Picture)}
    if title not in known:
        raise unknown_name("table", title, known)
    return known[title]
