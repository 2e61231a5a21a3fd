"""What the serving engine looks up of classes of requests and their conversations, computed once per scenario."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.workload.lengths import RequestPopulation
from papi_env.workload.requests import Lengths
from papi_env.workload.service import RequestClass, Service
from papi_env.workload.serving import Serving, Speculation
from papi_env.workload.transformer import Transformer

# Where returns are tabulated: logarithms to base 2 of the time since the last answer over the median think time.
# chosen: quarters of an octave, from where nothing has happened yet to where nobody comes back.
FIRST_OCTAVE, LAST_OCTAVE, STEPS_PER_OCTAVE = -6, 10, 4
GRID = (LAST_OCTAVE - FIRST_OCTAVE) * STEPS_PER_OCTAVE + 1
# Compiled code finds the step by the leading bits of that time, exponent and three more, without a logarithm: in each
# such cell, a sixth of an octave at most, a step ends or none does.
CELL_BITS = 49  # that are not looked at
_CELLS_PER_OCTAVE = 8
CELLS = (LAST_OCTAVE - FIRST_OCTAVE) * _CELLS_PER_OCTAVE + 3  # and one at either end for all that lies beyond
# Of a cell: where a step ends, and what holds before and from there on.
EDGE_S, BEFORE, FROM, NUM_CELL = 0, 1, 2, 4
# Of a think time that does not vary, so that its distribution has a density.
_LEAST_SIGMA = 1e-3
_LEAST_CHANCE = 1e-12


class ServiceTables(NamedTuple):
    """The part of `ServingTables` that is about classes.

    Attributes:
        kinds: float64 [kinds, NUM_KIND], see `state.OF_CLASS`; spans: int64 [kinds, 4], see `state.FIRST_ROW`.
        service_lengths: int32 [rows, 2], new prompt tokens and output tokens of a turn.
        returning: float64 [kinds, CELLS, NUM_CELL], seconds until a conversation is expected to go on over the chance
            that it does, by the time since its last answer: what is largest is least worth keeping.
    """

    kinds: FloatArray
    spans: npt.NDArray[np.int64]
    service_lengths: npt.NDArray[np.int32]
    returning: FloatArray


class Kind(NamedTuple):
    """A class with one of the acceptances of its drafts."""

    name: str
    number: int
    acceptance: str
    share: float


def kinds_of(serving: Serving) -> tuple[Kind, ...]:
    """Every kind of request, class by class; without classes, the kinds of text alone. Shares are not normalised."""
    if serving.service is None:
        return tuple(Kind("", 0, name, share) for name, share in serving.speculation.classes.items())
    found = []
    for number, (name, entry) in enumerate(serving.service.classes.items()):
        accepted = _accepted(entry, serving.speculation)
        whole = sum(accepted.values())
        # The scenario's own shares are kept as they are: sums in another order end in other bits.
        alone = len(serving.service.classes) == 1
        for text, share in accepted.items():
            found.append(Kind(name, number, text, share if alone else entry.share * share / whole))
    return tuple(found)


def rates_of(serving: Serving) -> tuple[tuple[float, ...], ...]:
    """Acceptance of every kind at draft positions 1..7."""
    named = {kind.acceptance: 1.0 for kind in kinds_of(serving)}
    rates = serving.speculation.model_copy(update={"classes": named}).rates()
    return tuple(rates[kind.acceptance] for kind in kinds_of(serving))


def _accepted(entry: RequestClass, speculation: Speculation) -> dict[str, float]:
    if entry.acceptance is None:
        return speculation.classes
    return Speculation.model_validate(speculation.model_dump() | {"classes": entry.acceptance}).classes


def build_service_tables(
    serving: Serving, model: Transformer, scalars: FloatArray
) -> tuple[ServiceTables, FloatArray]:
    """Tabulate the classes of a scenario; also the mean worth of a request, as an array of one number.

    Args:
        serving: has a `service`.
        model: whose context limits prompts and outputs.
        scalars: see `state`; `PROMPT_TOKEN_S` among them.

    Raises:
        ConfigurationError: a class cannot be served as it is.
    """
    service = serving.service
    assert service is not None
    kinds = np.zeros((len(kinds_of(serving)), at.NUM_KIND))
    spans = np.zeros((len(kinds), 4), dtype=np.int64)
    returning = np.zeros((len(kinds), CELLS, NUM_CELL))
    lengths: list[npt.NDArray[np.int32]] = []
    rows = 0
    begins: dict[bytes, int] = {}  # first rows, by content
    worths, weights = [], []  # of a turn, and how many come
    values = _return_values(service)
    for k, kind in enumerate(kinds_of(serving)):
        entry = service.classes[kind.name]
        first = _population(kind.name, entry, entry.lengths or serving.lengths, serving, model)
        later = first
        if entry.conversation is not None and entry.conversation.lengths is not None:
            later = _population(kind.name, entry, entry.conversation.lengths, serving, model)
        # Classes that ask for the same lengths share their rows, so that caches hold more of them.
        for part, population in ((at.FIRST_ROW, first), (at.LATER_ROW, later)):
            content = population.lengths.tobytes()
            if content not in begins:
                begins[content] = rows
                lengths.append(population.lengths)
                rows += len(population.lengths)
            spans[k, part : part + 2] = begins[content], len(population.lengths)
        row = kinds[k]
        row[at.OF_CLASS], row[at.WEIGHT] = kind.number, entry.weight
        objectives = entry.objectives or serving.objectives
        row[at.KIND_TTFT_S], row[at.KIND_TPOT_S] = objectives.ttft_s, objectives.tpot_s
        row[at.PATIENCE_S], row[at.LONGEST_S] = entry.patience_s or (np.inf, np.inf)
        row[at.PREFIX] = entry.shared_prefix
        row[at.SHARED] = entry.shared_prefix // serving.page_tokens
        row[at.MOST_TURNS] = 1
        mean_turns = 1.0
        talk = entry.conversation
        if talk is not None:
            mean_turns = talk.turns
            row[at.GOES_ON], row[at.MOST_TURNS] = _goes_on(talk.turns, talk.most_turns), talk.most_turns
            row[at.THINK_MU], row[at.THINK_SIGMA] = np.log(talk.think_s), talk.think_sigma
            row[at.RETURNS] = values[kind.name] >= np.mean(list(values.values()))
            steps = expected_returns(talk.think_s, talk.think_sigma, row[at.GOES_ON])
            row[at.RETURN_CELL], returning[k] = _by_cell(row[at.THINK_MU], steps)
        out = float(first.lengths[:, 1].mean())
        if mean_turns > 1:
            out = (out + (mean_turns - 1) * float(later.lengths[:, 1].mean())) / mean_turns
        row[at.MEAN_OUTPUT] = out
        worths.append(entry.weight * (out if service.worth == "tokens" else 1.0))
        weights.append(kind.share * mean_turns)
        _check_turns(kind.name, entry, first, later, model)
        _check_patience(kind.name, entry, first, scalars)
    tables = ServiceTables(
        kinds, spans, np.ascontiguousarray(np.concatenate(lengths), dtype=np.int32), returning
    )
    # Where all are alike, that to the last bit, as without classes.
    worth = worths[0] if len(set(worths)) == 1 else float(np.average(worths, weights=weights))
    return tables, np.array([worth])


def _population(
    name: str, entry: RequestClass, lengths: Lengths, serving: Serving, model: Transformer
) -> RequestPopulation:
    """Requests of a class beside its prefix."""
    limit = model.context_limit - entry.shared_prefix
    if limit < 2:
        raise ConfigurationError(
            f"classes.{name}.shared_prefix is {entry.shared_prefix}, but {model.name} has a context of "
            f"{model.context_limit} tokens"
        )
    try:
        return lengths.population(limit, serving.beyond_context)
    except ConfigurationError as error:
        prefix = f" beside a shared prefix of {entry.shared_prefix}" if entry.shared_prefix else ""
        raise ConfigurationError(f"classes.{name}.lengths{prefix}: {error}") from None


def _check_turns(
    name: str, entry: RequestClass, first: RequestPopulation, later: RequestPopulation, model: Transformer
) -> None:
    """Refuse conversations of which none can have a second turn."""
    if entry.conversation is None or entry.conversation.turns == 1:
        return
    shortest = (
        entry.shared_prefix + int(first.lengths.sum(axis=1).min()) + int(later.lengths.sum(axis=1).min())
    )
    if shortest > model.context_limit:
        raise ConfigurationError(
            f"classes.{name}.conversation.turns is {entry.conversation.turns:g}, but not even the two shortest turns "
            f"fit the context of {model.name}: they need {shortest} tokens of {model.context_limit}; expected shorter "
            "ones, or turns = 1"
        )


def _check_patience(name: str, entry: RequestClass, first: RequestPopulation, scalars: FloatArray) -> None:
    """Refuse a patience that ends before the first token could come."""
    if entry.patience_s is None:
        return
    low, _ = entry.patience_s
    tokens = int(first.lengths[:, 0].min()) + entry.shared_prefix
    fastest = tokens * float(scalars[at.PROMPT_TOKEN_S])
    if low < fastest:
        raise ConfigurationError(
            f"classes.{name}.patience_s begins at {low:g} s, before the fastest possible first token: {tokens} prompt "
            f"tokens take {fastest:.3g} s at least; expected {fastest:.3g} s or more"
        )


def _goes_on(turns: float, most: int) -> float:
    """The chance of another turn with which there are so many on average, and `most` at most."""
    if turns == 1:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(middle**k for k in range(most)) < turns:
            low = middle
        else:
            high = middle
    return low


def _return_values(service: Service) -> dict[str, float]:
    """Chance of another turn over the time until then, by class that has conversations."""
    return {
        name: (1 - 1 / entry.conversation.turns) / entry.conversation.think_s
        for name, entry in service.classes.items()
        if entry.conversation is not None
    }


def expected_returns(median_s: float, sigma: float, goes_on: float) -> FloatArray:
    """The median of what remains of a think time, over the chance that it ends in a turn; float64 [GRID].

    By the time since the last answer, whose logarithm to base 2 over the median's goes from FIRST_OCTAVE by steps.
    """
    normal, spread = NormalDist(), max(sigma, _LEAST_SIGMA)
    found = np.zeros(GRID)
    for k in range(GRID):
        octave = FIRST_OCTAVE + k / STEPS_PER_OCTAVE
        passed = median_s * 2.0**octave
        waits = max(normal.cdf(-octave * np.log(2.0) / spread), _LEAST_CHANCE)
        ends = median_s * float(np.exp(-spread * normal.inv_cdf(waits / 2)))
        chance = goes_on * waits / (1 - goes_on + goes_on * waits)
        found[k] = max(ends - passed, 0.0) / max(chance, _LEAST_CHANCE)
    return found


def _by_cell(mu: float, steps: FloatArray) -> tuple[float, FloatArray]:
    """`expected_returns` as [CELLS, NUM_CELL], of the nearest step each, and the leading bits of the first cell."""
    octaves = mu / np.log(2.0) + FIRST_OCTAVE + (np.arange(1, GRID) - 0.5) / STEPS_PER_OCTAVE
    edges = np.array([2.0**octave for octave in octaves.tolist()])
    bits = edges.view(np.int64) >> CELL_BITS
    first = bits[0] - 1
    cells = np.empty((CELLS, NUM_CELL))
    passed = np.searchsorted(bits, first + np.arange(CELLS))  # edges before a cell
    cells[:, EDGE_S] = np.inf
    cells[:, BEFORE] = cells[:, FROM] = steps[passed]
    cells[bits - first, EDGE_S] = edges
    cells[bits - first, FROM] = steps[1:]
    cells[:, FROM + 1 :] = 0.0
    return float(first), cells


def class_descriptors(
    tables: ServiceTables, service: Service, class_shares: FloatArray, scalars: FloatArray
) -> list[float]:
    """What of classes no step changes, as `state.SERVICE_DESCRIPTOR_FEATURES` has it.

    Args:
        class_shares: of sessions by kind, cumulative.
        scalars: see `state`; `REFERENCE_S` and `REFERENCE_TOKENS` among them.
    """
    reference_s, mean_worth = float(scalars[at.REFERENCE_S]), float(scalars[at.REFERENCE_TOKENS])
    shares = np.diff(class_shares, prepend=0.0)
    columns = np.zeros((8, at.MAX_CLASSES))
    for row, share in zip(tables.kinds, shares, strict=True):
        worth = row[at.WEIGHT] * (row[at.MEAN_OUTPUT] if service.worth == "tokens" else 1.0)
        talks = row[at.GOES_ON] > 0
        number = int(row[at.OF_CLASS])
        columns[0, number] += share
        columns[1:, number] = [
            _squash(worth / mean_worth),
            _squash(row[at.KIND_TTFT_S] / (100 * reference_s)),
            _squash(row[at.KIND_TPOT_S] / (4 * reference_s)),
            _squash(row[at.MEAN_OUTPUT] / 512),
            _squash(row[at.PREFIX] / 2048),
            row[at.GOES_ON],
            _squash(np.exp(row[at.THINK_MU]) / (100 * row[at.KIND_TTFT_S])) if talks else 0.0,
        ]
    columns[0] = np.minimum(columns[0], 1.0)  # sums of shares end in other bits
    return [service.charge, float(service.worth == "tokens"), float(service.drain), *columns.ravel().tolist()]


def _squash(value: float) -> float:
    return float(value / (1 + value))
