"""What the tuned rules of Serving-v0 share: parameters with ranges, the file that holds what was found.

`python -m experiments.tune` searches the parameters on the training split, by family of presets, and
writes the file beside the rule's module: parameters by family, each with the budget and the seeds that it took.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from agents.serving.estimates import Estimates as Estimates
from agents.serving.rules import CompiledRule
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError, DataError, unknown_name
from papi_env.kernel import FloatArray

DEFAULT = "default"


@dataclass(frozen=True)
class Range:
    """Where a parameter is searched: between two bounds, evenly or on a logarithmic scale."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class RuleParameters:
    """Parameters of a rule: a subclass has a finite number for each, with a default that no search has seen."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not np.isfinite(value):
                raise ConfigurationError(
                    f"Heuristic parameter {field.name} is {value!r}, expected a finite number"
                )


P = TypeVar("P", bound=RuleParameters)


def parameters_from(where: str, values: Any, kind: type[P]) -> P:
    """Parameters from a table of numbers; a misspelt name is answered with the nearest."""
    if not isinstance(values, dict):
        raise DataError(f"{where}: found {type(values).__name__}, expected a table of parameters")
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise unknown_name(f"parameter in {where}", name, known)
    return kind(**values)


def as_table(parameters: RuleParameters) -> dict[str, float]:
    """The parameters as plain numbers, four digits each."""
    return {name: float(f"{value:.4g}") for name, value in asdict(parameters).items()}


def stored_entries(file: Path) -> dict[str, dict[str, Any]]:
    """What a file of tuned parameters holds, by family; nothing where there is no file.

    Raises:
        DataError: it is no table of entries with parameters.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise DataError(f"{file.name}: line {error.lineno}: expected JSON: {error.msg}") from None
    if not isinstance(entries, dict):
        raise DataError(f"{file.name}: found {type(entries).__name__}, expected a table of families")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or "parameters" not in entry:
            raise DataError(f"{file.name}, {name}: found no table 'parameters'")
    return entries


def tuned_parameters(file: Path, kind: type[P]) -> dict[str, P]:
    """The stored parameters by family of presets, and `default`; where nothing is stored, that is the guess."""
    entries = stored_entries(file)
    found = {
        name: parameters_from(f"{file.name}, {name}", entry["parameters"], kind)
        for name, entry in entries.items()
    }
    return {DEFAULT: kind()} | found


class TunedRule(CompiledRule, Generic[P]):
    """A rule with parameters. Subclasses say of which kind, where they are searched, and where they are stored.

    Args:
        parameters: none for those tuned for the family of the bound preset (the part of its name before the
            slash), or for `default` where the family was not tuned. Several share the environments evenly, the
            first of them taking the first environments: so a search plays many at once.
    """

    kind: ClassVar[type[Any]]
    file: ClassVar[Path]
    ranges: ClassVar[Mapping[str, Range]]

    def __init__(self, *parameters: P) -> None:
        self._given = parameters
        self.parameters: P = parameters[0] if parameters else self.kind()

    def supports(self, env: Problem) -> None:
        """Every machine; picks the parameters of the scenario's family, or divides the environments."""
        if not self._given:
            stored: dict[str, P] = tuned_parameters(self.file, self.kind)
            self.parameters = stored.get(env.scenario.name.partition("/")[0], stored[DEFAULT])
        each, left = divmod(env.engine.num_envs, max(len(self._given), 1))
        if left:
            raise ConfigurationError(
                f"{len(self._given)} parameter sets for {env.engine.num_envs} environments, expected a multiple"
            )
        if len(self._given) > 1:
            self.assign([given for given in self._given for _ in range(each)])
        else:
            self.assign([self.parameters])

    def assign(self, parameters: Sequence[P]) -> None:
        """From now on play each environment with parameters of its own, one set for each; one alone serves all."""
        self._rows = np.array([self._row(given) for given in parameters])

    def _row(self, given: P) -> list[float]:
        """A parameter set as compiled code takes it."""
        return [float(value) for value in asdict(given).values()]

    def rows(self, num_envs: int) -> FloatArray:
        """The parameters in play."""
        return np.repeat(self._rows, num_envs, axis=0) if len(self._rows) == 1 else self._rows.copy()
