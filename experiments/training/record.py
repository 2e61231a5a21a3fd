"""What validations leave behind: rows of a table, the best and the last checkpoint."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agents.learned.checkpoint import Checkpoint, save_checkpoint
from experiments.common.runner import write_whole
from experiments.training.evaluation import Validation, Validator

BEST, LAST, STATE, EVALUATIONS = "best", "last", "state.safetensors", "evaluations.csv"


class Listener(Protocol):
    """What is told of the course of a training."""

    def started(self, steps: int) -> None:
        """Training begins, or goes on, after so many steps."""

    def imitated(self, done: int, rounds: int, samples: int, regret: float) -> None:
        """A round of imitation ended: rounds so far, samples, and expected regret (see `imitation`)."""

    def cloned(self, done: int, rounds: int, samples: int, differs: float) -> None:
        """A round of cloning ended: rounds so far, samples, and the share of other choices (see `cloning`)."""

    def stepped(self, steps: int, simulated_s: float) -> None:
        """A rollout ended: steps so far, and simulated seconds without prefill."""

    def validated(self, steps: int, found: Validation, best: bool) -> None:
        """A validation ended."""


class Record:
    """The validations of a training.

    Args:
        folder: of the run, or None to keep everything in memory (a trial).
        validator: what is validated on.
        listener: told of each.

    Attributes:
        rows: one for each validation, as `evaluations.csv` holds them.
    """

    def __init__(self, folder: Path | None, validator: Validator, listener: Listener) -> None:
        self.folder, self.validator, self.listener = folder, validator, listener
        self.rows: list[dict[str, Any]] = []

    @property
    def best_score(self) -> float:
        """Of all validations so far; minus infinity before the first."""
        return max((row["score"] for row in self.rows), default=-np.inf)

    def validate(self, checkpoint: Checkpoint, steps: int, simulated_s: float, wall_s: float) -> Validation:
        """Play a checkpoint and keep what comes of it."""
        found = self.validator(checkpoint)
        best = found.score > self.best_score
        row: dict[str, Any] = {
            "steps": steps,
            "simulated_s": simulated_s,
            "wall_s": round(wall_s, 3),
            "score": found.score,
        }
        if found.regret is not None:
            row["regret"] = found.regret
        if found.discounted is not None:
            row["discounted"] = found.discounted
        for kind, values in (("return", found.returns), ("regret", found.regrets)):
            row |= {f"{kind}: {label}": v for label, v in zip(self.validator.labels, values, strict=False)}
        self.rows.append(row)
        if self.folder is not None:
            checkpoint = _noted(checkpoint, row)
            save_checkpoint(self.folder / LAST, checkpoint)
            if best:
                save_checkpoint(self.folder / BEST, checkpoint)
            text = io.StringIO()
            writer = csv.DictWriter(text, list(row), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_whole(self.folder / EVALUATIONS, text.getvalue())
        self.listener.validated(steps, found, best)
        return found


def _noted(checkpoint: Checkpoint, row: dict[str, Any]) -> Checkpoint:
    """The checkpoint, which says besides how it was validated."""
    kept = {key: row[key] for key in ("steps", "score", "regret") if key in row}
    training = {**checkpoint.description.training, "validation": kept}
    description = checkpoint.description.model_copy(update={"training": training})
    return Checkpoint(description, checkpoint.weights, checkpoint.joint_actions)
