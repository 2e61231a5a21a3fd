"""`training.json`: how the policies that come with the project were trained, and what their runs earned.

It lies beside the policies in `agents/pretrained`, and is read and written by `experiments.pretrained`. Whatever it
says is checked on reading: intervals against the scores, and the policies' files against their hashes.

The interval is mean ± t s √(1 + 1/n) over the scores of n runs, t Student's 97.5 % quantile for n - 1 degrees of
freedom (Geisser, Predictive Inference, 1993): where scores are normal, a new run lies in it in 95 of 100 cases. The
shipped run is the best of n, so its own score is no measure for a new one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agents.learned.checkpoint import WEIGHTS, load_checkpoint, read_document
from agents.learned.shipped import SHIPPED
from experiments.common.runner import file_digest
from experiments.common.statistics import CONFIDENCE, student_quantile
from papi_env.errors import ConfigurationError, DataError, describe_validation, unknown_name

RECORD = "training.json"


def prediction_interval(scores: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Ends of the interval in which the next score lies with this probability; of two scores and more."""
    count = len(scores)
    half = student_quantile(count - 1, confidence) * stdev(scores) * math.sqrt(1 + 1 / count)
    centre = mean(scores)
    return centre - half, centre + half


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Run(_Part):
    """A training run: its seed, and the best of its validation scores."""

    seed: Annotated[int, Field(ge=0)]
    score: float


class Entry(_Part):
    """What `training.json` says of a problem.

    Attributes:
        command: that trained the runs, without `--seed`.
        algorithm: as `experiments.train` calls it.
        hyperparameters: what the command resolved to.
        splits: hashes of the splits that the command names, by name; empty where it names none.
        runs: all that were trained with the command.
        mean, interval: of their scores; see `prediction_interval`.
        shipped_seed: of the run whose policy is shipped, the best.
        weights_sha256: of the shipped policy.safetensors.
    """

    command: str
    algorithm: str
    hyperparameters: dict[str, Any]
    splits: dict[str, str]
    runs: Annotated[tuple[Run, ...], Field(min_length=2)]
    mean: float
    interval: tuple[float, float]
    shipped_seed: int
    weights_sha256: str

    @model_validator(mode="after")
    def _consistent(self) -> Entry:
        seeds = [run.seed for run in self.runs]
        if len(set(seeds)) < len(seeds):
            raise ValueError("two runs have one seed")
        if self.shipped_seed not in seeds:
            raise ValueError(f"the shipped seed {self.shipped_seed} is none of the runs'")
        scores = [run.score for run in self.runs]
        if self.shipped_score < max(scores):
            raise ValueError(f"the shipped seed {self.shipped_seed} is not the best run's")
        expected = (mean(scores), *prediction_interval(scores))
        found = (self.mean, *self.interval)
        if not all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(found, expected, strict=True)):
            raise ValueError(f"mean and interval are {list(found)}, expected {list(expected)} of these runs")
        return self

    @property
    def shipped_score(self) -> float:
        """The best validation score of the shipped run."""
        return next(run.score for run in self.runs if run.seed == self.shipped_seed)


class Record(_Part):
    """`training.json`: entries by the id of the problem."""

    format: Literal["papi_env pretrained policies"] = "papi_env pretrained policies"
    version: Literal[1] = 1
    problems: dict[str, Entry] = Field(default_factory=dict)


def read_record(folder: Path) -> Record:
    """What `training.json` in `folder` says.

    Raises:
        ConfigurationError: it is not there.
        DataError: it is damaged, inconsistent, or names a problem that is none.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ConfigurationError(
            f"{path}: is not there, expected what `experiments.pretrained --ship FOLDER ...` writes"
        )
    document = read_document(path)
    try:
        record = Record.model_validate(document)
    except ValidationError as error:
        names = {name for part in (Record, Entry, Run) for name in part.model_fields}
        raise DataError(str(describe_validation(str(path), error, names))) from None
    for env_id in record.problems:
        if env_id not in SHIPPED:
            raise DataError(f"{path}: {unknown_name('problem', env_id, SHIPPED)}")
    return record


def check_files(folder: Path, env_id: str, entry: Entry) -> None:
    """Raise ConfigurationError or DataError where the policy in `folder` is not the recorded one, or damaged."""
    shipped = folder / SHIPPED[env_id]
    description = load_checkpoint(shipped).description
    if description.env != env_id:
        raise DataError(f"{shipped}: holds a policy of {description.env}, expected one of {env_id}")
    found = file_digest(shipped / WEIGHTS)
    if found != entry.weights_sha256:
        raise DataError(
            f"{shipped / WEIGHTS}: not the policy that {RECORD} records; its SHA-256 begins {found[:12]}, "
            f"expected {entry.weights_sha256[:12]}"
        )
