"""Runs of training: what their folders hold, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.learned.checkpoint import DESCRIPTION
from agents.learned.distilled import holds_tree
from experiments.common.runner import read_record
from experiments.distilling.files import POLICY
from papi_env.errors import ConfigurationError

# Where `experiments.train` leaves its policy; `experiments.distill` has a name of its own.
BEST_FOLDER = "best"


@dataclass(frozen=True)
class TrainingRun:
    """A training run of a learned policy.

    Attributes:
        folder: as given.
        policy: the folder of its policy; None where the training left none.
        status: how the training ended, empty where that is not known or it finished.
        seed, steps, wall_s: of the training, None where unknown.
        tuned: how its hyper-parameters were found.
    """

    folder: Path
    policy: Path | None
    status: str = ""
    seed: int | None = None
    steps: int | None = None
    wall_s: float | None = None
    tuned: str = ""


def holds_policy(folder: Path) -> bool:
    """Whether a folder is that of a policy itself."""
    return (folder / DESCRIPTION).is_file() or holds_tree(folder)


def read_run(folder: Path) -> TrainingRun:
    """What a folder holds: a training run, a run of `experiments.distill`, or a policy.

    Raises:
        ConfigurationError: none of them. DataError: its run.json is damaged.
    """
    if holds_policy(folder):
        parent = _record(folder.parent)
        return replace(_from_record(folder, parent), policy=folder)
    record = _record(folder)
    if record is None or record.get("experiment") not in ("train", "distill"):
        raise ConfigurationError(
            f"{folder}: expected the folder of a training run, of a policy, or of experiments.distill"
        )
    policy = folder / (BEST_FOLDER if record["experiment"] == "train" else POLICY)
    return replace(_from_record(folder, record), policy=policy if holds_policy(policy) else None)


def _record(folder: Path) -> dict[str, Any] | None:
    path = folder / "run.json"
    if not path.is_file():
        return None
    return read_record(path)


def _from_record(folder: Path, record: Mapping[str, Any] | None) -> TrainingRun:
    if record is None:
        return TrainingRun(folder, None)
    sessions = record["sessions"]
    status = str(sessions[-1].get("status", "")) if sessions else "not started"
    walls = [session["wall_s"] for session in sessions if isinstance(session.get("wall_s"), (int, float))]
    steps = [session["steps"] for session in sessions if isinstance(session.get("steps"), int)]
    return TrainingRun(
        folder,
        None,
        status="" if status == "finished" else status,
        steps=max(steps, default=None),
        wall_s=sum(walls) if walls else None,
    )


def with_description(run: TrainingRun, training: Mapping[str, Any]) -> TrainingRun:
    """A run with what its policy says of its training."""
    hyper = training.get("hyperparameters")
    hyper = hyper if isinstance(hyper, Mapping) else {}
    seed, steps = training.get("seed"), hyper.get("timesteps")
    return replace(
        run,
        seed=seed if isinstance(seed, int) else None,
        steps=run.steps if run.steps is not None else (steps if isinstance(steps, int) else None),
        tuned=str(hyper.get("tuned", "")),
    )
