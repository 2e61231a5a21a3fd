"""How long requests are: published length statistics, and populations of requests drawn from them.

A workload is a population of (input, output) token counts. Four published sets are known by their
quantiles alone, so that they can be sampled without their data; `traces` reads the sets themselves.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError, unknown_name

# Beyond any model's context: a longer request is a mistake in a file or an argument.
MAX_TOKENS = 1_000_000
MAX_SAMPLE = 10_000_000

ContextPolicy = Literal["refuse", "truncate", "extrapolate"]

LEVELS = (0, 1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 100)  # percent

DOLLY = "Databricks Dolly 15k (CC BY-SA 3.0), category {}, counted in GPT-2 tokens"
AZURE = "Azure Public Dataset, LLM inference traces of November 2023 (CC BY 4.0), {} service"


@dataclass(frozen=True, kw_only=True)
class LengthTable:
    """The marginal quantiles of a set of requests, and how strongly its two lengths go together.

    Quantiles and means are in tokens, at `levels` in percent. `rank_correlation` is Spearman's, of
    input with output. Raises ConfigurationError where these are not quantiles of lengths.
    """

    name: str
    source: str
    n: int
    input_quantiles: tuple[float, ...]
    output_quantiles: tuple[float, ...]
    input_mean: float
    output_mean: float
    rank_correlation: float
    levels: tuple[float, ...] = LEVELS

    def __post_init__(self) -> None:
        levels = np.asarray(self.levels, dtype=float)
        # All conditions are written so that a NaN fails them.
        if len(levels) < 2 or levels[0] != 0 or levels[-1] != 100 or not (np.diff(levels) > 0).all():
            raise self._error("levels", "rising percentages from 0 to 100")
        for field in ("input_quantiles", "output_quantiles"):
            values = np.asarray(getattr(self, field), dtype=float)
            rising = values.shape == levels.shape and bool((np.diff(values) >= 0).all())
            if not (rising and values[0] >= 1 and values[-1] <= MAX_TOKENS):
                raise self._error(field, f"{len(levels)} rising numbers of tokens from 1 to {MAX_TOKENS}")
        if not -1 <= self.rank_correlation <= 1:
            raise self._error("rank_correlation", "a number from -1 to 1")

    def _error(self, field: str, expected: str) -> ConfigurationError:
        return ConfigurationError(
            f"Length table {self.name!r}: {field} is {getattr(self, field)!r}, expected {expected}"
        )


# Lists as long as rows: one line a set and a column reads as the table that it is.
# fmt: off
LENGTH_TABLES: dict[str, LengthTable] = {table.name: table for table in (
    LengthTable(
        name="dolly-creative-writing", source=DOLLY.format("creative_writing"), n=703,
        input_quantiles=(1, 4, 5, 6, 7, 9, 11, 12, 14, 17, 20, 26.6, 38, 48, 58, 71.98, 81, 115.5, 178),
        output_quantiles=(1, 11.06, 17.04, 29.2, 50.4, 81, 100, 117, 143, 180, 231.2, 304.2, 444.6, 639,
                          986.5, 1534, 1754, 1963, 2091),
        input_mean=19.1, output_mean=221.1, rank_correlation=0.23,
    ),
    LengthTable(
        name="dolly-general-qa", source=DOLLY.format("general_qa"), n=2145,
        input_quantiles=(3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 19, 29, 71.6, 136.6, 336, 755, 5579),
        output_quantiles=(1, 6, 11.88, 23, 33, 51, 63, 78, 91, 108, 134, 166, 232, 325, 477, 586.3, 729.2,
                          1020, 1895),
        input_mean=18.2, output_mean=122.2, rank_correlation=0.12,
    ),
    LengthTable(
        name="azure-code", source=AZURE.format("code"), n=8819,
        input_quantiles=(3, 17, 35, 75, 147, 385.6, 770, 1075, 1469, 1909, 2433, 3192, 5188, 7303, 7436, 7436,
                         7436, 7437, 7437),
        output_quantiles=(6, 6, 6, 6, 7, 8, 9, 11, 13, 16, 20, 29, 55, 90, 170.9, 251.5, 359.4, 825.3, 1899),
        input_mean=2047.8, output_mean=27.9, rank_correlation=-0.02,
    ),
    LengthTable(
        name="azure-conversation", source=AZURE.format("conversation"), n=19366,
        input_quantiles=(2, 29, 91, 181, 207, 387, 403, 703, 1020, 1071, 1130, 1315, 2734, 4083, 4098, 4142,
                         4831, 6179, 14050),
        output_quantiles=(7, 16, 24, 41, 54, 77, 91, 103, 129, 177, 384, 400, 424, 451, 540, 601, 643.2, 954,
                          1000),
        input_mean=1154.7, output_mean=211.1, rank_correlation=0.07,
    ),
)}
# fmt: on


# Arrays have no single truth value, so two populations are equal only where they are the same one.
@dataclass(frozen=True, eq=False)
class RequestPopulation:
    """The requests that a workload draws from.

    `lengths` is int32 [N, 2], read-only: input and output tokens, each from 1 to 1,000,000. `excluded`
    counts requests left out because they exceed a context limit, `truncated` those whose output was cut
    to it. Raises ConfigurationError for an empty population and for other shapes, types and lengths.
    """

    lengths: npt.NDArray[np.int32]
    source: str
    excluded: int = 0
    truncated: int = 0

    def __post_init__(self) -> None:
        given = np.asarray(self.lengths)
        if given.ndim != 2 or given.shape[1] != 2 or not len(given) or given.dtype.kind not in "iu":
            raise ConfigurationError(
                f"{self.source}: lengths are {given.dtype} {list(given.shape)}, expected integers [N >= 1, 2]"
            )
        wrong = np.flatnonzero(((given < 1) | (given > MAX_TOKENS)).any(axis=1))
        if len(wrong):
            raise ConfigurationError(
                f"{self.source}: request {wrong[0]} has lengths {given[wrong[0]].tolist()}, "
                f"expected 1 to {MAX_TOKENS} tokens"
            )
        lengths = given.astype(np.int32)  # a copy: the caller's array stays the caller's
        lengths.setflags(write=False)
        object.__setattr__(self, "lengths", lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def max_total(self) -> int:
        """The longest context that a request reaches: the largest input + output, in tokens."""
        return int(self.lengths.sum(axis=1).max())

    @property
    def means(self) -> tuple[float, float]:
        """Mean input and mean output, in tokens."""
        input_mean, output_mean = self.lengths.mean(axis=0)
        return float(input_mean), float(output_mean)


def fixed_lengths(input_tokens: int, output_tokens: int) -> RequestPopulation:
    """A population in which every request is alike."""
    lengths = (
        whole_number("input_tokens", input_tokens, 1, MAX_TOKENS),
        whole_number("output_tokens", output_tokens, 1, MAX_TOKENS),
    )
    return RequestPopulation(np.array([lengths]), source=f"fixed lengths {lengths[0]} + {lengths[1]}")


def sample_table(table: LengthTable, size: int = 32768, seed: int = 0) -> RequestPopulation:
    """Draw `size` requests whose lengths have the table's quantiles and rank correlation.

    Inverse CDF with interpolation of the quantiles' logarithm. Each column takes its uniforms from one
    stratified set, (i + 0.5) / size, so its distribution does not depend on the seed; the seed decides
    which input meets which output, through a Gaussian copula whose Pearson correlation is
    2 sin(pi rho / 6) for Spearman's rho (Pearson, 1907; Kruskal, JASA 1958).
    """
    size = whole_number("size", size, 1, MAX_SAMPLE)
    rng = np.random.default_rng(whole_number("seed", seed, 0, 2**128 - 1))
    rho = 2 * math.sin(math.pi * table.rank_correlation / 6)
    normal, noise = rng.standard_normal((2, size))
    # Without what they share by chance, which in small samples outweighs the tables' correlations.
    noise -= normal * (normal @ noise) / (normal @ normal)
    coupled = rho * normal + math.sqrt(1 - rho**2) * noise
    columns = (
        _at_ranks(normal, table.levels, table.input_quantiles),
        _at_ranks(coupled, table.levels, table.output_quantiles),
    )
    return RequestPopulation(np.stack(columns, axis=1), source=f"{table.name}: {table.source}")


def within_context(
    population: RequestPopulation, limit: int, policy: ContextPolicy = "refuse"
) -> RequestPopulation:
    """The population as a model with a context of `limit` tokens, input and output together, serves it.

    `refuse` drops the requests that exceed the limit; `truncate` cuts their output to fit, and drops those
    whose input leaves no room for one output token; `extrapolate` keeps all as they are. Raises
    ConfigurationError for another policy, and where no request is left.
    """
    if policy not in get_args(ContextPolicy):
        raise unknown_name("context policy", policy, get_args(ContextPolicy))
    limit = whole_number("context limit", limit, 2, 2 * MAX_TOKENS)
    if policy == "extrapolate":
        return population
    inputs, outputs = population.lengths.T
    if policy == "truncate":
        cut = np.minimum(outputs, limit - inputs)
        keep = cut >= 1
        truncated = int((keep & (cut < outputs)).sum())
        shortest = int(inputs.min()) + 1
    else:
        cut = outputs
        keep = inputs + outputs <= limit
        truncated = 0
        shortest = int((inputs + outputs).min())
    if not keep.any():
        raise ConfigurationError(
            f"{population.source}: none of {len(population)} requests fits a context of {limit} tokens under "
            f"policy {policy!r}; the shortest needs {shortest}"
        )
    return replace(
        population,
        lengths=np.stack((inputs, cut), axis=1)[keep],
        excluded=population.excluded + int((~keep).sum()),
        truncated=population.truncated + truncated,
    )


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """`value` as an int, or the ConfigurationError that says which range the argument `name` has."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    # bool has an index too, but True as a number of tokens is a misplaced argument.
    if number is None or isinstance(value, bool) or not low <= number <= high:
        raise ConfigurationError(f"{name} is {value!r}, expected a whole number from {low} to {high}")
    return number


def _at_ranks(
    order: npt.NDArray[np.float64], levels: tuple[float, ...], quantiles: tuple[float, ...]
) -> npt.NDArray[np.int64]:
    """Stratified draws from the quantiles, placed so that they rank as `order` does."""
    percent = 100 * (np.arange(len(order)) + 0.5) / len(order)
    drawn = np.rint(np.exp(np.interp(percent, levels, np.log(quantiles)))).astype(np.int64)
    placed = np.empty_like(drawn)
    placed[np.argsort(order, kind="stable")] = drawn  # both ascend, so the ranks agree
    return placed
