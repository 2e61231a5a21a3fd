"""A trace as a scenario names it: the file, and what its content does not say."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from papi_env.definition import Definition
from papi_env.quantities import Ratio
from papi_env.workload.traces.columns import TimeUnit
from papi_env.workload.traces.reading import CHARACTERS, read_trace
from papi_env.workload.traces.trace import Trace


class TraceForm(Definition):
    """How the file of a trace is written, where its content does not say it; see `read_trace`."""

    delimiter: str | None = Field(None, description="between the fields of a CSV file")
    time_unit: TimeUnit | None = Field(None, description="of times that are numbers")
    characters_per_token: Ratio | None = Field(
        None,
        ge=CHARACTERS[0],
        le=CHARACTERS[1],
        description="to estimate lengths of conversations that are text",
    )

    # Fields that are not dumped where they are None: stored scenarios and their hashes are older.
    _younger: ClassVar[tuple[str, ...]] = ("delimiter", "time_unit", "characters_per_token")

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = write(self)
        return {name: value for name, value in data.items() if value is not None or name not in self._younger}


def version_of(path: str) -> tuple[int, int]:
    """What changes with a file; zeros where there is none, and the reader says what is wrong."""
    with suppress(OSError, ValueError):
        stat = Path(path).stat()
        return stat.st_mtime_ns, stat.st_size
    return 0, 0


def cached_trace(path: str, **arguments: Any) -> Trace:
    """`read_trace`, read once for as long as the file does not change; arguments that are None are left out."""
    said = tuple(sorted((name, value) for name, value in arguments.items() if value is not None))
    return _cached(path, said, version_of(path))


@lru_cache(maxsize=8)
def _cached(path: str, arguments: tuple[tuple[str, Any], ...], version: tuple[int, int]) -> Trace:
    return read_trace(path, **dict(arguments))
