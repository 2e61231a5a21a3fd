"""What a planner of Serving-v1 chooses among: profile-greedy's parameters and the further choices, one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from agents.serving.choices import CHOICE_NAMES, CLAIRVOYANT
from agents.serving.greedy import ProfileGreedy
from agents.serving.inside import network as layout
from agents.serving.inside.memory import NUM_MEMORY
from agents.serving.inside.play import NETWORK, SLACK_AWARE, CompiledPolicy
from agents.serving.inside.slack import KV_DROP, KV_LIMIT
from agents.serving.inside.tuned import GREEDY_SLACK, GREEDY_URGENT, PACE, PROMPT_WORTH
from papi_env.envs.serving_v1 import further_options
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.tables import ServingTables

IntArray = npt.NDArray[np.int64]

# Values that are tried beside the base rule's own. chosen: prompts that count for little or much more than tuned; an
# indifferent and a loose pace; admission of everyone at once, and only while far ahead; waiting that is never urgent.
PROMPT_FACTORS = (0.3, 3.0)
PACES = (1.0, 4.0)
ADMIT_SLACKS = (-16.0, 16.0)
URGENTS = (1.5,)
# Of the slack-aware rule: all of the memory or four fifths for running requests; a class dropped early, late or never.
KV_LIMITS = (0.8, 1.0)
KV_DROPS = (0.5, 0.75, 1.0)

# What is added to an output of a network that sees requests, and taken from it. chosen: as much as an untrained one's
# only weight of a score (range 0.1-1), and twice what makes an untrained one drop a class (range 0.3-2).
SCORE_STEP, ADJUST_STEP = 0.4, 1.0


class Coordinate(NamedTuple):
    """One thing to choose.

    Attributes:
        name: in words.
        further: whether it is one of the further choices; else a parameter of profile-greedy.
        column: of the choices or parameters.
        values: options or numbers; those of the base rule first, `choices.LEFT` where it decides by itself.
    """

    name: str
    further: bool
    column: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class Space:
    """All candidates of a planner about its base rule. A candidate is int64 [coordinates], indices of their values.

    Attributes:
        coordinates: those that mean anything in the scenario.
        row, service: what the base rule plays, float64 [parameters] and int64 [further choices], there `choices.LEFT`
            where it decides by itself.
    """

    coordinates: tuple[Coordinate, ...]
    row: FloatArray
    service: IntArray

    @property
    def base(self) -> IntArray:
        """The base rule itself."""
        return np.zeros(len(self.coordinates), dtype=np.int64)

    def neighbours(self, candidate: IntArray) -> IntArray:
        """All candidates that differ in one coordinate, or in order and shedding together; int64 [n, coordinates]."""
        found = []
        for k, coordinate in enumerate(self.coordinates):
            for value in range(len(coordinate.values)):
                if value != candidate[k]:
                    other = candidate.copy()
                    other[k] = value
                    found.append(other)
        order, shedding = (
            next(k for k, c in enumerate(self.coordinates) if c.further and c.column == column - at.ORDER)
            for column in (at.ORDER, at.SHEDDING)
        )
        for first in range(len(self.coordinates[order].values)):
            for second in range(len(self.coordinates[shedding].values)):
                if first != candidate[order] and second != candidate[shedding]:
                    other = candidate.copy()
                    other[[order, shedding]] = first, second
                    found.append(other)
        return np.array(found, dtype=np.int64)

    def policy(self, base: ProfileGreedy, candidates: IntArray, memory: FloatArray) -> CompiledPolicy:
        """What plays candidate i in environment i; `memory` as `CompiledPolicy` has it."""
        rows = np.repeat(self.row[None], len(candidates), axis=0)
        service = np.repeat(self.service[None], len(candidates), axis=0)
        for k, coordinate in enumerate(self.coordinates):
            values = np.array(coordinate.values)[candidates[:, k]]
            if coordinate.further:
                service[:, coordinate.column] = values.astype(np.int64)
            else:
                rows[:, coordinate.column] = values
        return base.compiled(memory)._replace(parameters=rows, service=service)


def space_about(base: ProfileGreedy, tables: ServingTables, clairvoyant: bool) -> Space:
    """The candidates about a bound base rule.

    Args:
        base: whose own choices are among them.
        tables: of the scenario, which leaves out what means nothing there.
        clairvoyant: whether options are among them that know what will come (`choices.CLAIRVOYANT`).
    """
    policy = base.compiled(np.zeros((1, NUM_MEMORY)))
    row, service = policy.parameters[0], policy.service[0]
    if policy.kind not in (SLACK_AWARE, NETWORK):  # all others do what Serving-v0 does where nothing is given
        service = np.maximum(service, 0)
    found = []
    useful = np.split(further_options(tables), np.cumsum(at.NVEC_V1[at.ORDER :])[:-1])
    for column, (name, options) in enumerate(zip(CHOICE_NAMES, useful, strict=True)):
        own = float(service[column])
        others = [float(option) for option in np.flatnonzero(options) if option != own]
        if clairvoyant and others:
            others += [float(o) for choice, o in CLAIRVOYANT.values() if choice == column and o != own]
        found.append(Coordinate(name, True, column, (own, *others)))
    if policy.kind == NETWORK:
        return Space(tuple(c for c in (*found, *outputs(row, tables)) if len(c.values) > 1), row, service)
    numbers = {
        "prompt_worth": (PROMPT_WORTH, tuple(factor * row[PROMPT_WORTH] for factor in PROMPT_FACTORS)),
        "pace": (PACE, PACES),
        "admit_slack": (GREEDY_SLACK, ADMIT_SLACKS),
        "urgent": (GREEDY_URGENT, URGENTS),
    }
    if policy.kind == SLACK_AWARE:
        numbers |= {"kv_limit": (KV_LIMIT, KV_LIMITS), "kv_drop": (KV_DROP, KV_DROPS)}
    for name, (column, tried) in numbers.items():
        own = float(row[column])
        found.append(Coordinate(name, False, column, (own, *(float(x) for x in tried if x != own))))
    return Space(tuple(c for c in found if len(c.values) > 1), row, service)


def outputs(row: FloatArray, tables: ServingTables) -> tuple[Coordinate, ...]:
    """What may be added to the outputs of a network that sees requests; it decides the rest by what it sees.

    First to the scores of each class, then to the weight of each trait in all queries but the constant, then to what
    is adjusted.
    """
    classes = range(int(tables.kinds[:, at.OF_CLASS].max()) + 1)
    columns = [(f"scores of class {c}", layout.CLASS_MORE + c, SCORE_STEP) for c in classes]
    columns += [
        (f"scores by {at.TRAIT_NAMES[k]}", layout.TRAIT_CONSTANTS[k], SCORE_STEP)
        for k in range(at.NUM_TRAITS)
        if k != at.CONSTANT
    ]
    columns += [
        (name, column, ADJUST_STEP)
        for name, column in zip(layout.ADJUSTED_NAMES, layout.ADJUST_CONSTANTS, strict=True)
    ]
    return tuple(
        Coordinate(name, False, column, (row[column], row[column] - step, row[column] + step))
        for name, column, step in columns
    )
