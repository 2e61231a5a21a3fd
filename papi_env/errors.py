"""The two errors that users meet, and the one way an unknown name is answered."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from papi_env.quantities import SAYS_ALL

T = TypeVar("T")


class ConfigurationError(ValueError):
    """A system, model, scenario, policy or argument that cannot be used as given."""


class DataError(ValueError):
    """A file from outside whose content is not what its format promises."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.4)
    return matches[0] if matches else None


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ConfigurationError:
    """The error for a name that a registry does not hold: the nearest one and all known ones."""
    names = sorted(known)
    close = nearest(str(name), names)
    hint = f" Did you mean {close!r}?" if close else ""
    return ConfigurationError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")


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
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or "(whole)"
        found: Any = item["input"]
        if item["type"] == "extra_forbidden":
            lines.append(f"{field}: {unknown_field(str(item['loc'][-1]), fields)}")
            continue
        if item["type"] == SAYS_ALL:
            lines.append(f"{field}: {item['msg']}")
            continue
        shown = f"found {found!r}: " if not isinstance(found, (dict, list)) or len(str(found)) < 60 else ""
        lines.append(f"{field}: {shown}{item['msg'].removeprefix('Value error, ')}")
    return ConfigurationError(f"{where}: " + "; ".join(lines))
