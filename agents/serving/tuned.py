"""What the tuned rules of Serving-v0 and -v1 share: parameters with ranges, the files that hold what was found.

`python -m experiments.tune` searches the parameters on the training split, by family of presets, and
writes the file beside the rule's module: parameters by family, each with the budget and the seeds that it took.
Those for Serving-v1 have a file of their own, `greedy-v1.json` beside `greedy.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import numpy as np

from agents.serving.choices import IntArray
from agents.serving.estimates import Estimates as Estimates
from agents.serving.rules import CompiledRule
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError, DataError, lookup, shown, unknown_name
from papi_env.files import JSON_BYTES, read_bounded
from papi_env.kernel import FloatArray
from papi_env.workload.service_presets import nearest_family

DEFAULT = "default"


@dataclass(frozen=True)
class Range:
    """Where a parameter is searched: between two bounds, evenly or on a logarithmic scale."""

    low: float
    high: float
    log: bool = False

    def within(self, value: Value) -> Value:
        """The number in the range that is nearest to `value`."""
        return float(np.clip(value, self.low, self.high))


@dataclass(frozen=True)
class Options:
    """What a parameter is searched among: words, in no order."""

    words: tuple[str, ...]

    def within(self, value: Value) -> Value:
        """The word itself, which is one of them since a set of parameters has it."""
        return value


# A parameter as files and searches have it: a number, or the word of an option.
Value: TypeAlias = float | str
Span: TypeAlias = Range | Options


@dataclass(frozen=True)
class RuleParameters:
    """Parameters of a rule: a subclass has a finite number for each, with a default that no search has seen.

    Or a word, of those that `options` has by the parameter's name.
    """

    @classmethod
    def options(cls) -> Mapping[str, tuple[str, ...]]:
        """The words of every parameter that is one."""
        return {}

    def __post_init__(self) -> None:
        words = self.options()
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in words:
                lookup(f"option of parameter {field.name},", value, dict.fromkeys(words[field.name]))
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            # A whole number beyond all floats is none of these either.
            if not number or not -_LARGEST <= value <= _LARGEST:
                raise ConfigurationError(
                    f"Heuristic parameter {field.name} is {shown(value)}, expected a finite number"
                )


_LARGEST = float(np.finfo(np.float64).max)
P = TypeVar("P", bound=RuleParameters)


def parameters_from(where: str, values: Any, kind: type[P]) -> P:
    """Parameters from a table of numbers and words; a misspelt name is answered with the nearest."""
    if not isinstance(values, dict):
        raise DataError(f"{where}: found {type(values).__name__}, expected a table of parameters")
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise unknown_name(f"parameter in {where}", name, known)
    return kind(**values)


def as_table(parameters: RuleParameters) -> dict[str, Value]:
    """The parameters as plain numbers, four digits each, and words."""
    return {
        name: value if isinstance(value, str) else float(f"{value:.4g}")
        for name, value in asdict(parameters).items()
    }


def stored_entries(file: Path) -> dict[str, dict[str, Any]]:
    """What a file of tuned parameters holds, by family; nothing where there is no file.

    Raises:
        DataError: it is no table of entries with parameters.
    """
    if not file.exists():
        return {}
    data = read_bounded(file, JSON_BYTES)
    try:
        entries = json.loads(data)
    except json.JSONDecodeError as error:
        raise DataError(f"{file.name}: line {error.lineno}: expected JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.name}: expected JSON: {error}") from None
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
            slash); where it was not tuned, for the family of the same senders with the nearest load, or for `default`.
            Several share the environments evenly, the first of them taking the first environments: so a search plays
            many at once.
    """

    kind: ClassVar[type[Any]]
    file: ClassVar[Path]
    ranges: ClassVar[Mapping[str, Span]]
    # Whether it plays Serving-v0; all play Serving-v1.
    plays_v0: ClassVar[bool] = True

    def __init__(self, *parameters: P) -> None:
        self._given = parameters
        self.parameters: P = parameters[0] if parameters else self.kind()

    def supports(self, env: Problem) -> None:
        """Every machine; picks the parameters of the scenario's family, or divides the environments."""
        if not self.plays_v0 and not self._with_service:
            raise ConfigurationError(
                f"{type(self).__name__} plays papi_env/Serving-v1 alone; scenario {env.scenario.name!r} is played "
                "without classes of requests"
            )
        if not self._given:
            stored: dict[str, P] = self.stored(self._with_service)
            family = env.scenario.name.partition("/")[0]
            if family not in stored:
                family = nearest_family(family, stored) or DEFAULT
            self.parameters = stored[family]
        each, left = divmod(env.engine.num_envs, max(len(self._given), 1))
        if left:
            raise ConfigurationError(
                f"{len(self._given)} parameter sets for {env.engine.num_envs} environments, expected a multiple"
            )
        if len(self._given) > 1:
            self.assign([given for given in self._given for _ in range(each)])
        else:
            self.assign([self.parameters])

    @classmethod
    def file_of(cls, v1: bool) -> Path:
        """Where the parameters for Serving-v1, or -v0, are stored."""
        return cls.file.with_name(f"{cls.file.stem}-v1{cls.file.suffix}") if v1 else cls.file

    @classmethod
    def stored(cls, v1: bool) -> dict[str, P]:
        """The stored parameters by family, and `default`; that of Serving-v0 where -v1 has none."""
        found: dict[str, P] = tuned_parameters(cls.file, cls.kind)
        if not v1:
            return found
        own = cls.file_of(v1)
        given: dict[str, P] = tuned_parameters(own, cls.kind)
        return given if DEFAULT in stored_entries(own) else {**given, DEFAULT: found[DEFAULT]}

    def assign(self, parameters: Sequence[P]) -> None:
        """From now on play each environment with parameters of its own, one set for each; one alone serves all."""
        self._rows = np.array([self._row(given) for given in parameters])
        self._service = np.array([self._service_row(given) for given in parameters], dtype=np.int64)

    def _row(self, given: P) -> list[float]:
        """A parameter set as compiled code takes it."""
        return [float(value) for value in asdict(given).values()]

    def _service_row(self, given: P) -> IntArray:
        """The further choices on Serving-v1 that a set makes, int64 [7]; those of the rule's name go first."""
        return self._choices

    def service(self, num_envs: int) -> IntArray:
        """The further choices in play."""
        return np.repeat(self._service, num_envs, axis=0) if len(self._service) == 1 else self._service.copy()

    def rows(self, num_envs: int) -> FloatArray:
        """The parameters in play."""
        return np.repeat(self._rows, num_envs, axis=0) if len(self._rows) == 1 else self._rows.copy()
