"""Where the lengths of a scenario's requests come from, as a scenario says it."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from pydantic import Field, model_validator

from papi_env.definition import Definition
from papi_env.errors import lookup
from papi_env.quantities import Tokens
from papi_env.workload.lengths import (
    LENGTH_TABLES,
    ContextPolicy,
    RequestPopulation,
    fixed_lengths,
    sample_table,
    within_context,
)
from papi_env.workload.traces import read_trace


class Lengths(Definition):
    """Where request lengths come from: exactly one of `table`, `trace`, or `input` with `output`."""

    table: str | None = None
    trace: str | None = Field(None, description="path of a CSV file")
    input_column: str | None = None
    output_column: str | None = None
    category_column: str | None = None
    categories: tuple[str, ...] | None = None
    input: Tokens | None = Field(None, ge=1, le=1_000_000)
    output: Tokens | None = Field(None, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _one_source(self) -> Lengths:
        fixed = self.input is not None or self.output is not None
        if (self.table is not None) + (self.trace is not None) + fixed != 1:
            raise ValueError("expected exactly one of table, trace, or input with output")
        if fixed and (self.input is None or self.output is None):
            raise ValueError("fixed lengths need both input and output")
        if self.table is not None:
            lookup("length table", self.table, LENGTH_TABLES)
        columns = (self.input_column, self.output_column, self.category_column, self.categories)
        if self.trace is None and any(value is not None for value in columns):
            raise ValueError("columns and categories belong to a trace")
        return self

    def population(self, context_limit: int, beyond: ContextPolicy) -> RequestPopulation:
        """The requests to draw from, those beyond the context treated as asked and counted."""
        version = (0, 0)
        if self.trace is not None:
            with suppress(OSError):  # the reader says what is wrong with the file
                stat = Path(self.trace).stat()
                version = (stat.st_mtime_ns, stat.st_size)
        return _population(self, context_limit, beyond, version)


@lru_cache(maxsize=32)
def _population(
    lengths: Lengths, context_limit: int, beyond: ContextPolicy, version: tuple[int, int]
) -> RequestPopulation:
    """Cached; `version` changes with the trace file."""
    if lengths.table is not None:
        population = sample_table(lookup("length table", lengths.table, LENGTH_TABLES))
    elif lengths.trace is not None:
        population = read_trace(
            lengths.trace,
            input_column=lengths.input_column,
            output_column=lengths.output_column,
            category_column=lengths.category_column,
            categories=lengths.categories,
        ).population()
    else:
        assert lengths.input is not None
        assert lengths.output is not None
        population = fixed_lengths(lengths.input, lengths.output)
    return within_context(population, context_limit, beyond)
