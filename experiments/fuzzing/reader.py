"""What a reader of files is: the file that it reads, valid contents of it, and how it reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.fuzzing import seeds

Content = bytes | str
# Makes the digests of a changed file right again, so that what they guard is reached: the folder and the content in,
# the content out; it may rewrite the files beside it.
Stamp = Callable[[Path, bytes], bytes]


@dataclass(frozen=True)
class Files:
    """Valid contents of the file that is changed, and of those beside it that are not."""

    contents: tuple[bytes, ...]
    beside: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        name: in tables, and in the names of kept faults.
        file: that is changed, within a folder.
        form: of `mutations.FORMS`.
        valid: its valid files; called once.
        read: takes the folder; does with what is read what shows that it can be used.
        stamp: see `Stamp`; None where no digest guards the file.
        unpacks: it reads packed files, which may be bombs.
        others: files beside it that are changed in its place, one at a time, with their forms.
    """

    name: str
    file: str
    form: str
    valid: Callable[[], Files]
    read: Callable[[Path], object]
    stamp: Stamp | None = None
    unpacks: bool = False
    others: Mapping[str, str] = field(default_factory=dict)


def of(*contents: Content) -> Callable[[], Files]:
    """Valid contents as they stand here."""

    def coded(content: Content) -> bytes:
        return content.encode() if isinstance(content, str) else content

    return lambda: Files(tuple(map(coded, contents)))


def documents(found: Sequence[Any]) -> Callable[[], Files]:
    """Valid contents that are these documents of JSON."""
    return of(*map(seeds.as_json, found))


def beside(file: str, made: Callable[[], Mapping[str, bytes]]) -> Callable[[], Files]:
    """Of the files of a folder the one that is changed, and the others."""

    def valid() -> Files:
        files = dict(made())
        return Files((files.pop(file),), files)

    return valid


def reading(read: Callable[[Path], object], name: str) -> Callable[[Path], object]:
    """What reads a file of the folder."""
    return lambda folder: read(folder / name)
