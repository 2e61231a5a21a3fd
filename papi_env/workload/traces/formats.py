"""The trace formats that are known by the names of their columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from papi_env.errors import ConfigurationError, DataError
from papi_env.workload.traces.batches import Place, listed
from papi_env.workload.traces.columns import TimeUnit


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column of a file holds what; `hash_ids` is a list of the hashes of a prompt's blocks."""

    input: str
    output: str
    time: str | None = None
    category: str | None = None
    hash_ids: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.named)) < len(self.named):
            raise ConfigurationError(
                f"Columns are {', '.join(self.named)}, expected one column for each field"
            )

    @property
    def named(self) -> tuple[str, ...]:
        """The columns to read, in the order of a known format's header."""
        names = (self.time, self.category, self.input, self.output, self.hash_ids)
        return tuple(name for name in names if name is not None)


@dataclass(frozen=True, kw_only=True)
class Format:
    """A published format.

    Attributes:
        name: what a trace says it was read as.
        columns: of a row; those in `optional` may be missing.
        time_unit: of its times, where they are numbers.
        skips_empty: rows with zero tokens are failures, which are left out and counted; else they are errors.
        sorts: rows are in another order than that of their times, and are sorted.
        one_of: columns that tell runs apart where the file has them; the first run is read, since all of them have
            the same requests.
    """

    name: str
    columns: Columns
    optional: tuple[str, ...] = ()
    time_unit: TimeUnit = "s"
    skips_empty: bool = False
    sorts: bool = False
    one_of: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that a file of this format has in any case."""
        return tuple(name for name in self.columns.named if name not in self.optional)

    def present(self, header: Collection[str]) -> Columns:
        """The columns of a file with this header, without the optional ones that it lacks."""

        def kept(name: str | None) -> str | None:
            return None if name in self.optional and name not in header else name

        columns = self.columns
        return Columns(
            input=columns.input,
            output=columns.output,
            time=kept(columns.time),
            category=kept(columns.category),
            hash_ids=kept(columns.hash_ids),
        )


FORMATS = (
    # Lengths of databricks-dolly-15k by category.
    Format(name="dolly", columns=Columns(category="category", input="lin", output="lout")),
    # github.com/Azure/AzurePublicDataset, LLM inference traces of 2023 (no offset) and 2024 (with offset).
    Format(name="azure", columns=Columns(time="TIMESTAMP", input="ContextTokens", output="GeneratedTokens")),
    # github.com/HPMLL/BurstGPT: seconds; requests that failed have no response tokens.
    Format(
        name="burstgpt",
        columns=Columns(time="Timestamp", input="Request tokens", output="Response tokens"),
        skips_empty=True,
    ),
    # github.com/kvcache-ai/Mooncake, FAST 25: milliseconds; hashes of blocks of 512 tokens.
    Format(
        name="mooncake",
        columns=Columns(time="timestamp", input="input_length", output="output_length", hash_ids="hash_ids"),
        optional=("hash_ids",),
        time_unit="ms",
    ),
    # github.com/microsoft/vidur, data/processed_traces: seconds; files of lengths alone have no arrivals.
    Format(
        name="vidur",
        columns=Columns(time="arrived_at", input="num_prefill_tokens", output="num_decode_tokens"),
        optional=("arrived_at",),
    ),
    # github.com/mutinifni/splitwise-sim: seconds.
    Format(
        name="splitwise-sim",
        columns=Columns(time="arrival_timestamp", input="prompt_size", output="token_size"),
    ),
    # github.com/casys-kaist/LLMServingSim: JSON lines, before that tabs; nanoseconds.
    Format(
        name="llmservingsim",
        columns=Columns(time="arrival_time_ns", input="input_toks", output="output_toks"),
        time_unit="ns",
    ),
    # What `experiments.serve --export` writes, with the rows of all policies and seeds one after the other.
    Format(
        name="requests",
        columns=Columns(time="arrival_s", input="input_tokens", output="output_tokens"),
        one_of=("policy", "seed"),
    ),
)
# The JSON document of vLLM's `vllm bench serve --save-detailed` (vllm/benchmarks/serve.py): a list for each field.
# Its requests are in the order in which they were asked for; starts are by the clock of the client, and absent in
# files of older versions. A request that failed has no output tokens.
VLLM = Format(
    name="vllm-benchmark",
    columns=Columns(time="start_times", input="input_lens", output="output_lens"),
    optional=("start_times",),
    skips_empty=True,
    sorts=True,
)
# Conversations as text, as vLLM's benchmark takes them: the first turn is the prompt, the second the answer.
SHAREGPT = Format(
    name="sharegpt", columns=Columns(input="conversations[0]", output="conversations[1]"), skips_empty=True
)


def recognised(place: Place, header: Sequence[str]) -> Format:
    """The known format with the most columns of those that the header has in full.

    Where it has none in full, the one that shares most columns with it, whose missing column is an error later.

    Raises:
        DataError: the header shares no column with any.
    """
    names = set(header)
    full = [known for known in FORMATS if names.issuperset(known.required)]
    if full:
        return max(full, key=lambda known: len(names & set(known.columns.named)))
    best = max(FORMATS, key=lambda known: len(names & set(known.columns.named)))
    if not names & set(best.columns.named):
        expected = " or ".join(",".join(known.required) for known in FORMATS)
        raise DataError(
            f"{place}: found columns {listed(header)}, expected {expected}; "
            "for another format name input_column and output_column, and the delimiter if it is no comma"
        )
    return best
