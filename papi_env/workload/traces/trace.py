"""A trace that was read, and its lengths as a model serves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError, unknown_name
from papi_env.workload.lengths import MAX_TOKENS, ContextPolicy, RequestPopulation, whole_number


# Arrays have no single truth value, so two traces are equal only where they are the same one.
@dataclass(frozen=True, eq=False)
class Trace:
    """The requests of one file, in its order; all arrays are read-only.

    `input_lengths` and `output_lengths` are int32 [N], in tokens, each from 1 to 1,000,000. `timestamps_s`
    is float64 [N], non-decreasing, in seconds since the file's first row (also where a choice of categories or
    of a window left that row out), or None. `categories` names each request's category, or is None. `hash_ids` has
    for each request the hashes of its prompt's blocks, int64 [blocks]: two prompts begin with the same tokens for as
    many blocks as their hashes are the same; or is None. `format` is the name of the format that the file was read
    as, "columns" where they were named; `skipped` counts rows without tokens that were left out (failed requests of
    formats that have such), `note` says how lengths were found where the file does not hold them.
    """

    path: Path
    input_lengths: npt.NDArray[np.int32]
    output_lengths: npt.NDArray[np.int32]
    timestamps_s: npt.NDArray[np.float64] | None = None
    categories: tuple[str, ...] | None = None
    hash_ids: Sequence[npt.NDArray[np.int64]] | None = None
    format: str = "columns"
    skipped: int = 0
    note: str = ""

    def __post_init__(self) -> None:
        for array in (self.input_lengths, self.output_lengths, self.timestamps_s, *(self.hash_ids or ())):
            if array is not None:
                array.setflags(write=False)

    def __len__(self) -> int:
        return len(self.input_lengths)

    def population(self) -> RequestPopulation:
        """The requests as a population to draw from, without their times and categories."""
        lengths = np.stack((self.input_lengths, self.output_lengths), axis=1)
        return RequestPopulation(lengths, source=str(self.path))


class ContextCounts(NamedTuple):
    """How many requests of a trace are refused, served with their output cut, or served beyond the context."""

    refused: int
    truncated: int
    extrapolated: int


class TraceLengths(NamedTuple):
    """The requests of a trace as a model serves them, row by row; both arrays are read-only.

    `lengths` is int32 [N, 2], input and output tokens; `refused` is bool [N], the rows that arrive and are
    rejected, whose lengths are those of the file.
    """

    lengths: npt.NDArray[np.int32]
    refused: npt.NDArray[np.bool_]
    counts: ContextCounts


def trace_lengths(trace: Trace, context_limit: int, beyond: ContextPolicy = "refuse") -> TraceLengths:
    """The lengths of every row where requests keep those of the trace, for a context of `context_limit` tokens.

    As `within_context` treats a population, but no row is left out: a request that cannot be served still
    arrives. `refuse` rejects those whose input and output exceed the limit; `truncate` cuts their output to
    fit, and rejects those whose input leaves no room for one output token; `extrapolate` serves all. Raises
    ConfigurationError for another policy, and where every request would be rejected.
    """
    if beyond not in get_args(ContextPolicy):
        raise unknown_name("context policy", beyond, get_args(ContextPolicy))
    limit = whole_number("context limit", context_limit, 2, 2 * MAX_TOKENS)
    inputs, outputs = trace.input_lengths, trace.output_lengths
    too_long = inputs + outputs > limit
    none = np.zeros(len(trace), dtype=np.bool_)
    refused, truncated, extrapolated = none, none, none
    if beyond == "refuse":
        refused = too_long
    elif beyond == "truncate":
        refused = inputs >= limit
        truncated = too_long & ~refused
    else:
        extrapolated = too_long
    if refused.all():
        shortest = int((inputs + (outputs if beyond == "refuse" else 1)).min())
        raise ConfigurationError(
            f"{trace.path}: none of {len(trace)} requests fits a context of {limit} tokens under "
            f"policy {beyond!r}; the shortest needs {shortest}"
        )
    lengths = np.stack((inputs, np.where(truncated, limit - inputs, outputs)), axis=1).astype(np.int32)
    for array in (lengths, refused):
        array.setflags(write=False)
    counts = ContextCounts(int(refused.sum()), int(truncated.sum()), int(extrapolated.sum()))
    return TraceLengths(lengths, refused, counts)
