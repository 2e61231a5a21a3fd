"""What learning curves are drawn from: the validations that `experiments.train` left in its run folders."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from agents.learned.checkpoint import load_checkpoint
from experiments.arena.trained import read_run
from experiments.common.fields import MOST
from experiments.common.problems import vector_class
from experiments.common.runner import differences
from papi_env.errors import ConfigurationError, DataError, describe_validation
from papi_env.files import JSON_BYTES, TABLE_BYTES, read_bounded
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario, parse_scenario

XAxis = Literal["steps", "wall"]
YAxis = Literal["return", "regret"]
# As `experiments.training.callbacks` calls it, which needs torch; curves are drawn without.
EVALUATIONS = "evaluations.csv"
_COLUMNS = ("steps", "simulated_s", "wall_s", "score")


@dataclass(frozen=True)
class Validation:
    """What a training was validated on.

    Attributes:
        env_id, settings: of the problem.
        episodes: of each setting.
        traces: hashes of the files that settings may read: those that all runs named.
    """

    env_id: str
    settings: tuple[Scenario, ...]
    episodes: int
    traces: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Curve:
    """The validations of one training run.

    Attributes:
        folder: of the run.
        seed: of the training.
        status: how it ended, empty where it finished.
        sources: hashes of the source code that it ran with.
        steps, simulated_s, wall_s: float64 [validations], environment steps and seconds so far, increasing.
        returns: float64 [validations], means over settings and episodes.
        regret: percent of the oracle's cost, likewise; None where the problem's oracle is no bound.
    """

    folder: Path
    seed: int
    status: str
    sources: frozenset[str]
    steps: FloatArray
    simulated_s: FloatArray
    wall_s: FloatArray
    returns: FloatArray
    regret: FloatArray | None

    def x(self, name: XAxis) -> FloatArray:
        """Steps, or seconds of training."""
        return self.steps if name == "steps" else self.wall_s

    def y(self, name: YAxis) -> FloatArray:
        """Returns, or regrets in percent, which must be there."""
        if name == "return":
            return self.returns
        assert self.regret is not None
        return self.regret


Groups = Mapping[str, Sequence[Curve]]


class _Asked(BaseModel):
    algorithm: str
    env: str
    episodes: Annotated[int, Field(ge=1)]
    seed: int


class _Configuration(BaseModel):
    asked: _Asked
    validation: Annotated[list[dict[str, Any]], Field(min_length=1)]
    traces: list[str] = []


class _Source(BaseModel):
    digest: str


class _Session(BaseModel):
    source: _Source


class _Record(BaseModel):
    """What is read of a training's run.json; there is more."""

    configuration: _Configuration
    sessions: list[_Session]


def read_curve(folder: str | Path) -> tuple[str, Curve, Validation]:
    """A training run: the name of its algorithm, its validations, and what they were played on.

    Raises:
        ConfigurationError: `folder` holds no training run that was validated.
        DataError: run.json or evaluations.csv is damaged.
    """
    folder = Path(folder)
    found = read_run(folder)
    path = folder / EVALUATIONS
    if not path.is_file():
        above = folder.parent / EVALUATIONS
        hint = f"; did you mean {folder.parent}?" if above.is_file() else ""
        raise ConfigurationError(f"{folder}: holds no {EVALUATIONS}, expected a validated training run{hint}")
    record = folder / "run.json"
    try:
        training = _Record.model_validate_json(read_bounded(record, JSON_BYTES))
    except ValidationError as error:
        raise DataError(str(describe_validation(str(record), error))) from None
    configuration = training.configuration
    asked = configuration.asked
    vector_class(asked.env)
    settings = tuple(parse_scenario(data, f"{record}: validation") for data in configuration.validation)
    columns = _read_evaluations(path)
    curve = Curve(
        folder=folder,
        seed=asked.seed,
        status=found.status,
        sources=frozenset(session.source.digest for session in training.sessions),
        steps=columns["steps"],
        simulated_s=columns["simulated_s"],
        wall_s=columns["wall_s"],
        returns=columns["score"],
        regret=100 * columns["regret"] if "regret" in columns else None,
    )
    algorithm = (
        asked.algorithm if found.policy is None else load_checkpoint(found.policy).description.algorithm
    )
    return algorithm, curve, Validation(asked.env, settings, asked.episodes, frozenset(configuration.traces))


def _read_evaluations(path: Path) -> dict[str, FloatArray]:
    """The columns that curves are drawn from, float64 [validations] each; regret where it is there, a share."""
    try:
        text = read_bounded(path, TABLE_BYTES).decode("utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        header = reader.fieldnames or ()
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise DataError(f"{path}: has no column {missing[0]!r}, expected {', '.join(_COLUMNS)}")
        names = (*_COLUMNS, *(("regret",) if "regret" in header else ()))
        rows = [
            [_finite(row[name], f"{path}: line {reader.line_num}: {name}") for name in names]
            for row in reader
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if not rows:
        raise DataError(f"{path}: holds no validation, expected at least one")
    columns = dict(zip(names, np.array(rows).T, strict=True))
    for name, least in (("steps", 1.0), ("wall_s", 0.0)):
        if (np.diff(columns[name]) < least).any():
            raise DataError(f"{path}: {name} go back, expected them to increase from line to line")
    return columns


def _finite(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not -MOST <= value <= MOST:
        raise DataError(f"{where} is {text!r}, expected a finite number of at most {MOST:g}")
    return value


def read_groups(runs: Sequence[str | Path], y: YAxis = "return") -> tuple[Groups, Validation]:
    """Training runs by label, and what all of them were validated on.

    Args:
        runs: FOLDER or LABEL=FOLDER; a Path is a folder whatever it is called.
        y: what will be drawn.

    Raises:
        ConfigurationError: no run, one twice, runs that were validated on different instances, or no regret where it
            is asked for; see also `read_curve`.
        DataError: a file is damaged.
    """
    if not runs:
        raise ConfigurationError("no training runs are given, expected at least one run folder")
    groups: dict[str, list[Curve]] = {}
    seen: set[Path] = set()
    found: list[tuple[Path, Validation]] = []
    for run in runs:
        label, equals, name = run.partition("=") if isinstance(run, str) else ("", "", "")
        folder = Path(name if equals else run)
        algorithm, curve, validation = read_curve(folder)
        if folder.resolve() in seen:
            raise ConfigurationError(f"{folder}: is given twice, expected each training run once")
        seen.add(folder.resolve())
        found.append((folder, validation))
        changes = next(differences(plain(found[0][1]), plain(validation)), None)
        if changes is not None:
            raise ConfigurationError(
                f"{found[0][0]} and {folder} were validated on different instances "
                f"({changes.partition(': ')[0]} is not the same), expected one validation for all curves of a figure"
            )
        if y == "regret" and curve.regret is None:
            raise ConfigurationError(
                f"{folder}: its validations have no regret, because the oracle of {validation.env_id} is no bound; "
                "expected --y return"
            )
        groups.setdefault(label if equals and label else algorithm, []).append(curve)
    traces = frozenset.intersection(*(validation.traces for _, validation in found))
    return groups, replace(found[0][1], traces=traces)


def plain(validation: Validation) -> dict[str, Any]:
    """What was validated on as plain data; two runs can share a figure only if all of it is the same."""
    return {
        "env": validation.env_id,
        "episodes": validation.episodes,
        "settings": [setting.model_dump(mode="json") for setting in validation.settings],
    }
