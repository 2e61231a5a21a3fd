"""The two errors that users meet, and the one way an unknown name is answered."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from papi_env.quantities import SAYS_ALL

T = TypeVar("T")


# chosen: pages of text, more than any list of names here (range 1e3-1e5); what is longer loses its middle.
_LONGEST_MESSAGE = 8000
# Of a name that is looked for, and items of a report.
_LONGEST_NAME, _MOST_ITEMS = 80, 20


class _Said(ValueError):
    """An error whose message stays readable, whatever a file or an argument held."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(str(message), _LONGEST_MESSAGE))


class ConfigurationError(_Said):
    """A system, model, scenario, policy or argument that cannot be used as given."""


class DataError(_Said):
    """A file from outside whose content is not what its format promises."""


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters: a longer one without its middle."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {text[len(text) - most // 2 + 5 :]}"


def shown(found: object) -> str:
    """A value as a message quotes it, whatever its size."""
    try:
        return shortened(repr(found), _LONGEST_NAME)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes, or a very deep list
        return f"a {type(found).__name__} of thousands of parts"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(name[:_LONGEST_NAME].lower(), list(known), n=1, cutoff=0.4)
    return matches[0] if matches else None


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ConfigurationError:
    """The error for a name that a registry does not hold: the nearest one and all known ones."""
    names = sorted(known)
    close = nearest(str(name), names)
    hint = f" Did you mean {close!r}?" if close else ""
    shown = shortened(repr(name), _LONGEST_NAME)
    return ConfigurationError(f"Unknown {kind} {shown}.{hint} Known: {', '.join(names)}.")


def lookup(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """`registry[name]`, or the error that lists what it holds."""
    try:
        return registry[name]
    except (KeyError, TypeError):
        raise unknown_name(kind, name, registry) from None


def unknown_field(name: str, known: Iterable[str]) -> str:
    """What is said of a field that does not exist: the nearest one, or all where none is near."""
    names = list(known)
    # What lacks its unit, as in "latency" for "latency_s", is nearer than any other spelling.
    longer = [other for other in names if other.startswith(f"{name.lower()}_")]
    close = longer[0] if len(longer) == 1 else nearest(name, names)
    hint = f"; did you mean {close!r}?" if close else f", expected one of {', '.join(names)}" if names else ""
    return f"not a known field{hint}"


def describe_validation(where: str, error: ValidationError, fields: Iterable[str] = ()) -> ConfigurationError:
    """Turn pydantic's report into one message: where, which field, what was found and expected."""
    lines = []
    items = error.errors()
    for item in items[:_MOST_ITEMS]:
        field = shortened(".".join(str(part) for part in item["loc"]), 2 * _LONGEST_NAME) or "(whole)"
        found: Any = item["input"]
        if item["type"] == "extra_forbidden":
            lines.append(f"{field}: {unknown_field(str(item['loc'][-1]), fields)}")
            continue
        if item["type"] == SAYS_ALL:
            lines.append(f"{field}: {item['msg']}")
            continue
        shown = (
            f"found {_shown(found)}: " if not isinstance(found, (dict, list)) or len(str(found)) < 60 else ""
        )
        lines.append(f"{field}: {shown}{item['msg'].removeprefix('Value error, ')}")
    if len(items) > _MOST_ITEMS:
        lines.append(f"and {len(items) - _MOST_ITEMS} more")
    return ConfigurationError(f"{where}: " + "; ".join(lines))


def _shown(found: object) -> str:
    try:
        return shortened(repr(found), _MOST_ITEMS * _LONGEST_NAME)
    except ValueError:  # an integer of more digits than Python writes
        return "an integer of thousands of digits"
