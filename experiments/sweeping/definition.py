"""What a sweep's file says: what is swept, over which fields and values, by which search, and what is asked of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from experiments.splitting.definition import DECODE
from papi_env.definition import Definition
from papi_env.files import read_toml
from papi_env.quantities import Count, Number, Truth, Whole

# Values of all paths, in the order of the axes.
Design = tuple[Any, ...]
# Why a row has no measures: no such machine (area, power, counts), too small, beyond a limit of the file, or not for
# this policy.
REFUSALS = ("machine", "capacity", "limit", "policy")
# chosen: a week of a laptop's cores (range 1e5-1e8).
MOST_DESIGNS = 1_000_000
# chosen: a table that a person writes has fewer (range 1e2-1e5).
_MOST_VALUES = 10_000


class Axis(Definition):
    """One thing that designs differ in: a field of the scenario, or several that change together.

    `values` lists what is tried; where there are several `paths`, each value is a list with one item for each. Or a
    single path takes numbers from `low` to `high`: `count` of them in a grid, any of them in the other searches; evenly
    in the logarithm if `log`, rounded if `whole`.
    """

    paths: tuple[str, ...] = Field(min_length=1, max_length=100)
    values: tuple[Any, ...] | None = Field(None, max_length=_MOST_VALUES)
    low: Number | None = None
    high: Number | None = None
    count: Count | None = Field(None, ge=1, le=_MOST_VALUES)
    log: Truth = False
    whole: Truth = False

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _either(self) -> Axis:
        where = ", ".join(self.paths)
        if self.values is not None:
            if (
                self.low is not None
                or self.high is not None
                or self.count is not None
                or self.log
                or self.whole
            ):
                raise ValueError(
                    f"{where}: values beside a range (low, high, count, log, whole), expected one of them"
                )
            if not self.values:
                raise ValueError(f"{where}: no values, expected at least one")
            if len(self.paths) > 1:
                for value in self.values:
                    if not isinstance(value, (list, tuple)) or len(value) != len(self.paths):
                        raise ValueError(
                            f"{where}: found {value!r}, expected a list of {len(self.paths)} values"
                        )
            for k, value in enumerate(self.values):
                if value in self.values[:k]:
                    raise ValueError(f"{where}: {value!r} stands there twice")
            return self
        if self.low is None or self.high is None:
            raise ValueError(f"{where}: expected values, or low and high")
        if len(self.paths) > 1:
            raise ValueError(f"{where}: a range is of one path; expected values")
        if not self.low < self.high:
            raise ValueError(
                f"{where}: the range from {self.low:g} to {self.high:g} is empty, expected low below high"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"{where}: low is {self.low:g}, expected more than 0 where log is true")
        if self.whole and (self.low % 1 or self.high % 1):
            raise ValueError(
                f"{where}: {self.low:g} to {self.high:g}, expected whole numbers where whole is true"
            )
        return self

    def listed(self) -> list[Design]:
        """What a grid tries, each once."""
        if self.values is not None:
            return [tuple(value) if len(self.paths) > 1 else (value,) for value in self.values]
        shares = np.linspace(0, 1, self.count or 1)
        return list(dict.fromkeys((self.at(float(share)),) for share in shares))

    def at(self, share: float) -> float | int:
        """The number at a share, 0 to 1, of the range."""
        assert self.low is not None
        assert self.high is not None
        if self.log:
            found = float(np.exp(np.log(self.low) + share * (np.log(self.high) - np.log(self.low))))
        else:
            found = self.low + share * (self.high - self.low)
        found = min(max(found, self.low), self.high)
        return round(found) if self.whole else found


class Objective(Definition):
    """A measure, and whether more or less of it is better."""

    measure: str
    goal: Literal["max", "min"]


class Scheduler(Definition):
    """Policies of which each design is given its best: that of the highest mean return. One policy is no choice."""

    name: str
    policies: tuple[str, ...] = Field(min_length=1)


class Prices(Definition):
    """What the cost proxy adds up, in any one currency."""

    pu: Mapping[str, Number]
    stack: Number = Field(ge=0)
    fpu_mm2: Number = Field(0.0, ge=0)


class Question(Definition):
    """Which values of some paths are best wherever the other axes stand, and whether `values` are."""

    name: str
    paths: tuple[str, ...] = Field(min_length=1)
    values: tuple[Any, ...]


class Sweep(Definition):
    """A search over designs; see README for a file. `designs` is the budget of a search other than a grid."""

    name: str
    description: str = ""
    env: str = DECODE
    scenarios: tuple[str, ...] = Field(min_length=1)
    schedulers: tuple[Scheduler, ...] = Field(min_length=1)
    seed: Whole = Field(0, ge=0, le=2**62)
    seeds: Count = Field(4, ge=1, le=10_000)
    search: Literal["grid", "random", "nsga2"] = "grid"
    designs: Count | None = Field(None, ge=1, le=MOST_DESIGNS)
    population: Count = Field(24, ge=2, le=1000)
    search_seed: Whole = Field(0, ge=0, le=2**31)
    axes: tuple[Axis, ...] = Field(min_length=1, max_length=100)
    objectives: tuple[Objective, ...] = Field(min_length=1, max_length=4)
    limits: Mapping[str, Number] = {}
    prices: Prices | None = None
    question: Question | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        for kind, names in (
            ("path", self.paths),
            ("scheduler", tuple(one.name for one in self.schedulers)),
            ("scenario", self.scenarios),
        ):
            twice = [name for name, times in Counter(names).items() if times > 1]
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} stands there twice")
        goals: dict[str, str] = {}
        for one in self.objectives:
            if goals.setdefault(one.measure, one.goal) != one.goal:
                raise ValueError(f"objectives contradict each other: {one.measure} is to be both max and min")
        if len(goals) < len(self.objectives):
            raise ValueError("an objective stands there twice")
        if self.search == "grid":
            endless = [axis.paths[0] for axis in self.axes if axis.values is None and axis.count is None]
            if endless:
                raise ValueError(f"{endless[0]}: a grid needs the count of a range")
            if self.designs is not None:
                raise ValueError("designs is the budget of search = 'random' or 'nsga2'; a grid tries all")
            if self.size > MOST_DESIGNS:
                raise ValueError(f"found a grid of {self.size} designs, expected at most {MOST_DESIGNS}")
        elif self.designs is None:
            raise ValueError(f"search = {self.search!r} needs designs, how many it tries")
        if self.question is not None:
            self._check_question(self.question)
        return self

    def _check_question(self, question: Question) -> None:
        for path in question.paths:
            if path not in self.paths:
                raise ValueError(f"question: {path} is not swept, expected some of {', '.join(self.paths)}")
        if len(question.values) != len(question.paths):
            raise ValueError(f"question: {len(question.values)} values of {len(question.paths)} paths")

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths, axis by axis."""
        return tuple(path for axis in self.axes for path in axis.paths)

    @property
    def policies(self) -> tuple[str, ...]:
        """All policies of all schedulers, each once."""
        return tuple(dict.fromkeys(policy for one in self.schedulers for policy in one.policies))

    @property
    def size(self) -> int:
        """How many designs are tried."""
        return self.designs or prod(len(axis.values or range(axis.count or 1)) for axis in self.axes)

    def grid(self) -> Iterator[Design]:
        """All designs, one at a time; the last axis changes first."""
        for parts in product(*(axis.listed() for axis in self.axes)):
            yield tuple(value for part in parts for value in part)


def load_sweep(path: Path) -> Sweep:
    """A sweep from a TOML file; scenarios in files are taken from its folder.

    Raises:
        ConfigurationError, DataError: the file cannot be read or used.
    """
    data = read_toml(path)
    data.setdefault("name", path.stem)
    names = data.get("scenarios")
    if isinstance(names, list):
        data["scenarios"] = [
            str(path.parent / name) if isinstance(name, str) and name.endswith(".toml") else name
            for name in names
        ]
    return Sweep.define(data, str(path))
