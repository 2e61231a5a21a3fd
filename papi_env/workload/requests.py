"""Where the lengths of a scenario's requests come from, as a scenario says it."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

from pydantic import Field, model_validator

from papi_env.errors import lookup
from papi_env.quantities import SpanSeconds, StartSeconds, Tokens
from papi_env.workload.lengths import (
    ContextPolicy,
    RequestPopulation,
    fixed_lengths,
    sample_table,
    within_context,
)
from papi_env.workload.traces import TraceForm, cached_trace, version_of
from papi_env.workload.turn_lengths import ALL_TABLES


class Lengths(TraceForm):
    """Where request lengths come from: exactly one of `table`, `trace`, or `input` with `output`.

    A trace is a file of any form that `traces.read_trace` reads. Its times matter only where a part of it is asked
    for, the requests from `start_s` on for `window_s` seconds, in seconds of the file.
    """

    table: str | None = None
    trace: str | None = Field(None, description="path of a file of requests")
    input_column: str | None = None
    output_column: str | None = None
    category_column: str | None = None
    categories: tuple[str, ...] | None = None
    input: Tokens | None = Field(None, ge=1, le=1_000_000)
    output: Tokens | None = Field(None, ge=1, le=1_000_000)
    time_column: str | None = None
    start_s: StartSeconds | None = Field(None, ge=0)
    window_s: SpanSeconds | None = Field(None, gt=0)

    _younger: ClassVar[tuple[str, ...]] = (*TraceForm._younger, "time_column", "start_s", "window_s")

    @model_validator(mode="after")
    def _one_source(self) -> Lengths:
        fixed = self.input is not None or self.output is not None
        if (self.table is not None) + (self.trace is not None) + fixed != 1:
            raise ValueError("expected exactly one of table, trace, or input with output")
        if fixed and (self.input is None or self.output is None):
            raise ValueError("fixed lengths need both input and output")
        if self.table is not None:
            lookup("length table", self.table, ALL_TABLES)
        older = (self.input_column, self.output_column, self.category_column, self.categories)
        said = (*older, *(getattr(self, name) for name in self._younger))
        if self.trace is None and any(value is not None for value in said):
            raise ValueError("columns, categories, windows and how a file is written belong to a trace")
        return self

    def population(self, context_limit: int, beyond: ContextPolicy) -> RequestPopulation:
        """The requests to draw from, those beyond the context treated as asked and counted."""
        version = (0, 0) if self.trace is None else version_of(self.trace)
        return _population(self, context_limit, beyond, version)


@lru_cache(maxsize=32)
def _population(
    lengths: Lengths, context_limit: int, beyond: ContextPolicy, version: tuple[int, int]
) -> RequestPopulation:
    """Cached; `version` changes with the trace file."""
    if lengths.table is not None:
        population = sample_table(lookup("length table", lengths.table, ALL_TABLES))
    elif lengths.trace is not None:
        population = cached_trace(
            lengths.trace,
            input_column=lengths.input_column,
            output_column=lengths.output_column,
            time_column=lengths.time_column,
            category_column=lengths.category_column,
            categories=lengths.categories,
            delimiter=lengths.delimiter,
            time_unit=lengths.time_unit,
            characters_per_token=lengths.characters_per_token,
            start_s=lengths.start_s,
            window_s=lengths.window_s,
        ).population()
    else:
        assert lengths.input is not None
        assert lengths.output is not None
        population = fixed_lengths(lengths.input, lengths.output)
    return within_context(population, context_limit, beyond)
