"""What users write where something registered is meant: its name, or a table that starts from one, or from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from papi_env.errors import ConfigurationError, lookup

# What is read from a file of another format, by the key that names the file.
Readers = Mapping[str, Callable[[str], BaseModel]]
# The fields of a base that a table of changes leaves as they are.
Kept = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


def resolve(
    value: Any,
    registry: Mapping[str, BaseModel],
    kind: str,
    readers: Readers | None = None,
    kept: Kept | None = None,
) -> Any:
    """A registered name, or a table that overrides a registered one named by its `base`; else the value itself.

    A table may also start from what one of `readers` reads. `kept` says what of a base outlives a table of changes,
    where a change takes more with it than what it names; all of it if absent.
    """
    if isinstance(value, str):
        return lookup(kind, value, registry)
    starts = [name for name in ("base", *(readers or ())) if isinstance(value, dict) and name in value]
    if len(starts) > 1:
        raise ConfigurationError(f"found {' and '.join(starts)}, expected one {kind} to start from")
    if isinstance(value, dict) and "base" in value:
        base = lookup(kind, value["base"], registry).model_dump()
        changes = {key: item for key, item in value.items() if key != "base"}
        return _override(base if kept is None else kept(base, changes), changes)
    for start, read in (readers or {}).items():
        if isinstance(value, dict) and start in value:
            if not isinstance(value[start], str):
                raise ConfigurationError(f"{start} is {value[start]!r}, expected the path of a file")
            base = read(value[start]).model_dump()
            return _override(base, {key: item for key, item in value.items() if key != start})
    return value


def _override(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        # A part that starts from something registered starts from nothing else.
        starts = isinstance(value, dict) and "base" not in value
        merged[key] = _override(old, value) if starts and isinstance(old, dict) else value
    return merged
