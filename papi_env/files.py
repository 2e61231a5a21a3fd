"""How files from outside are read: regular ones of bounded size, whose content is parsed within bounds.

A device or a pipe may never end, and a file that is a thousand times too large is a wrong one: both are refused before
anything is read. What is wrong is a `DataError` that names the file.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from papi_env.errors import DataError

# chosen: a hundred times what people write by hand (range 1e5-1e7); parsing takes up to two seconds.
TOML_BYTES = 1 << 20
# chosen: a thousand times what runs write (range 1e6-1e9).
JSON_BYTES = 1 << 27
# chosen: ten times the largest table of measured times that is published (range 1e7-1e8); a few seconds as CSV.
TABLE_BYTES = 1 << 24
_PIECE = 1 << 20
# chosen: parts of a dotted key or a header, and brackets that are open at once; no definition has ten (range 10-200).
_DEEPEST = 50
# A run of dotted parts, which the parser walks from the start for each key; quoted parts count as they stand.
_DOTTED = re.compile(rf"""(?<![\w"'-])(?:[\w"'-]++[ \t]*+\.[ \t]*+){{{_DEEPEST}}}""")


def check_regular(path: str | os.PathLike[str], limit: int) -> os.stat_result:
    """What the system says of a regular file of at most `limit` bytes, for those who read it by themselves.

    Raises:
        DataError: it is none, or is larger.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    _check(path, found, limit)
    return found


def _check(path: str | os.PathLike[str], found: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "a device or pipe"
        raise DataError(f"{path}: cannot be read: found {kind}, expected a regular file")
    if found.st_size > limit:
        raise DataError(f"{path}: found {found.st_size} bytes, expected at most {limit}")


def read_bounded(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        DataError: it is none, is larger, or cannot be read.
    """
    handle = None
    try:
        # Without waiting for the other end of a pipe.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        _check(path, os.fstat(handle), limit)
        with open(handle, "rb", closefd=False) as file:
            # A file may grow in between, and those of some systems have no size at all. In pieces: a single call
            # would take the memory of `limit` at once.
            parts, left = [], limit + 1
            while left and (part := file.read(min(_PIECE, left))):
                parts.append(part)
                left -= len(part)
            data = b"".join(parts)
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise _unreadable(path, error) from None
    finally:
        if handle is not None:
            os.close(handle)
    if len(data) > limit:
        raise DataError(f"{path}: found more than {limit} bytes, expected at most so many")
    return data


def _unreadable(path: str | os.PathLike[str], error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    shown = repr(str(path)) if "\0" in str(path) else path
    return DataError(f"{shown}: cannot be read: {reason}")


# gzip, zlib at each of its levels, and zstd.
_PACKED = (b"\x1f\x8b", b"x\x01", b"x^", b"x\x9c", b"x\xda", b"(\xb5/\xfd")


def is_packed(data: bytes) -> bool:
    """Whether Polars would unpack this before it reads a table from it: a megabyte may become a thousand of them."""
    return data.startswith(_PACKED)


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """The text of a regular file of at most `limit` bytes.

    Raises:
        DataError: as `read_bounded`, or it is no text in UTF-8.
    """
    try:
        return read_bounded(path, limit).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text in UTF-8: {error}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        DataError: it cannot be read, is too large, or is no TOML.
    """
    data = read_bounded(path, TOML_BYTES)
    try:
        return parse_toml(data.decode("utf-8"))
    except ValueError as error:  # a number of too many digits is no TOMLDecodeError
        raise DataError(f"{path}: not a TOML file: {error}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises ValueError also for numbers and nesting beyond all use."""
    if _DOTTED.search(text):
        raise ValueError(f"found a key of more than {_DEEPEST} parts, expected fewer")
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise ValueError("found values nested too deeply") from None
    if _deeper(found, _DEEPEST):
        raise ValueError(f"found values nested more than {_DEEPEST} deep")
    return found


def read_json(path: Path, limit: int = JSON_BYTES) -> dict[str, Any]:
    """The fields of a JSON file, by name.

    Raises:
        DataError: it cannot be read, is too large, is no JSON, or holds no fields.
    """
    data = read_bounded(path, limit)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON, or cut off: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds {type(found).__name__}, expected fields by name")
    return found


def _deeper(value: Any, levels: int) -> bool:
    """Whether tables and lists are nested more deeply."""
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not layer:
            return False
    return True
