"""A `config.json` as it lies there: read within bounds, and asked field by field.

Nothing in it is executed. What is asked for is noted, so that fields that nobody asked for can be refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from papi_env.errors import DataError, nearest
from papi_env.files import read_bounded

# chosen: a few kilobytes are usual, a quantised model that lists what it leaves alone has some hundred.
MOST_BYTES = 4 * 2**20
# chosen: quantised multimodal models have five levels.
MOST_LEVELS = 16


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DataError: the file cannot be read, is larger than MOST_BYTES or deeper than MOST_LEVELS, is no JSON object,
            says a field twice, or has a number that is none.
    """
    content = read_bounded(path, MOST_BYTES)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path}: {twice!r} is there twice, expected once")
        return found

    def no_number(text: str) -> NoReturn:
        raise DataError(f"{path}: found {text}, expected a finite number")

    try:
        data = json.loads(content.decode("utf-8"), object_pairs_hook=once, parse_constant=no_number)
    except DataError:
        raise
    except RecursionError:
        raise DataError(f"{path}: nested more than {MOST_LEVELS} levels deep") from None
    except ValueError as error:  # of the text's encoding too
        raise DataError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(data, dict):
        raise DataError(
            f"{path}: found a {type(data).__name__}, expected a JSON object with the fields of a model"
        )
    if _levels(data) > MOST_LEVELS:
        raise DataError(f"{path}: nested more than {MOST_LEVELS} levels deep")
    return data


def _levels(data: dict[str, Any]) -> int:
    """How deep objects and lists are nested, counted up to a level beyond MOST_LEVELS."""
    level = 0
    inside: list[dict[str, Any] | list[Any]] = [data]
    while inside and level <= MOST_LEVELS:
        level += 1
        parts = [part for item in inside for part in (item.values() if isinstance(item, dict) else item)]
        inside = [part for part in parts if isinstance(part, (dict, list))]
    return level


class Config:
    """The fields of one object, asked by name; null is as if a field were absent, but for `assume`.

    Args:
        where: the file, and the path of the object within it, for errors.
        data: the object.
    """

    def __init__(self, where: str, data: Mapping[str, Any]) -> None:
        self.where = where
        self._said = frozenset(data)
        self._data = {name: value for name, value in data.items() if value is not None}
        self._asked: set[str] = set()

    def assume(self, absent: Mapping[str, Any]) -> None:
        """Take these values of fields that the object does not say; null says that there is none."""
        self._data |= {name: value for name, value in absent.items() if name not in self._said}

    def refuse(self, name: str, found: object, expected: str) -> NoReturn:
        """Raise the DataError of a field."""
        text = repr(found)
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        raise DataError(f"{self.where}: {name}: found {shown}, expected {expected}")

    def has(self, name: str) -> bool:
        """Whether a field is there."""
        return name in self._data

    def raw(self, name: str) -> Any:
        """The value of a field, None if it is absent."""
        self._asked.add(name)
        return self._data.get(name)

    def whole(self, name: str, default: int | None = None, low: int = 1, high: int = 1 << 24) -> int:
        """A whole number from `low` to `high`; a field without a default must be there."""
        value = self.raw(name)
        if value is None:
            if default is None:
                raise DataError(f"{self.where}: {name}: not there, expected a whole number")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(name, value, f"a whole number from {low} to {high}")
        return value

    def optional(self, name: str, high: int = 1 << 24) -> int | None:
        """A whole number above 0, or None where there is none."""
        return self.whole(name, high=high) if self.has(name) else self.raw(name)

    def truth(self, name: str, default: bool) -> bool:
        """A boolean."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(name, value, "true or false")
        return value

    def text(self, name: str, known: Iterable[str] | None = None) -> str | None:
        """A string, one of those known; None if it is absent."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.refuse(name, value, "a text")
        if known is not None and value not in known:
            close = nearest(value, known)
            hint = f" (did you mean {close!r}?)" if close else ""
            self.refuse(name, value, f"one of {', '.join(sorted(known))}{hint}")
        return value

    def listed(self, name: str) -> list[Any] | None:
        """A list; None if it is absent."""
        value = self.raw(name)
        if value is not None and not isinstance(value, list):
            self.refuse(name, value, "a list")
        return value

    def inner(self, name: str) -> Config | None:
        """An object within; None if it is absent."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.refuse(name, value, "an object")
        return Config(f"{self.where}: {name}", value)

    def agree(self, *names: str) -> None:
        """Refuse fields that say the same thing differently."""
        there = [name for name in names if self.has(name)]
        for name in there[1:]:
            if self._data[name] != self._data[there[0]]:
                self.refuse(
                    name,
                    self._data[name],
                    f"{self._data[there[0]]!r}, which is what {there[0]} says: the file contradicts itself",
                )

    def others(self, harmless: Callable[[str], bool]) -> list[str]:
        """The fields that nobody asked for and that are not harmless."""
        return sorted(name for name in self._data if name not in self._asked and not harmless(name))
