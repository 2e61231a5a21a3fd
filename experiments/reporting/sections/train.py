"""Of `experiments.train`: learning curves of a run, and of several runs on the same axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from experiments.reporting import charts
from experiments.reporting.content import Column, Picture, Table
from experiments.reporting.folder import Run
from experiments.reporting.instances import whole

_EVALUATIONS, _TRIALS = "evaluations.csv", "trials.csv"
_KNOWN = {
    "simulated_s": Column("simulated time", "s"),
    "wall_s": Column("training time", "s"),
    "score": Column("mean return"),
}


def parts(run: Run) -> list[Table | Picture]:
    """Curves and the table of validations; of a search its trials."""
    if not run.has(_EVALUATIONS) and run.has(_TRIALS):
        return [whole(run.table(_TRIALS), "Trials", "A row for each trial, as in trials.csv.", _KNOWN)]
    frame = run.table(_EVALUATIONS)
    settings = [name.removeprefix("return: ") for name in frame.columns if name.startswith("return: ")]
    pictures = [
        _curves({"mean over settings": frame}, "score", "return"),
        _curves({"mean": frame}, "regret", "regret"),
    ]
    if len(settings) > 1:
        named = {one: frame.select("steps", pl.col(f"return: {one}").alias("score")) for one in settings}
        pictures.append(_curves(named, "score", "return by setting"))
    return [
        *(one for one in pictures if one is not None),
        whole(
            frame,
            "Validations",
            "A row for each validation, as in evaluations.csv. Regret: percent of the oracle's cost.",
            _KNOWN | {name: Column(name, "%", 100, 3) for name in frame.columns if name.startswith("regret")},
        ),
    ]


def together(runs: Sequence[Run]) -> list[Table | Picture]:
    """Learning curves of several runs on the same axes.

    Raises:
        DataError: a run has no validations.
    """
    frames = {str(run.path): run.table(_EVALUATIONS) for run in runs if run.has(_EVALUATIONS)}
    found = [_curves(frames, "score", "return"), _curves(frames, "regret", "regret")]
    return [one for one in found if one is not None]


def _curves(frames: Mapping[str, pl.DataFrame], column: str, called: str) -> Picture | None:
    """A measure of validations over steps, by name; None where no frame has it."""
    percent = 100.0 if column == "regret" else 1.0
    series = {
        name: (
            frame["steps"].to_list(),
            [None if value is None else percent * value for value in frame[column].to_list()],
            [name] * len(frame),
        )
        for name, frame in frames.items()
        if column in frame.columns
    }
    if not series:
        return None
    unit = " (% of the oracle's cost)" if column == "regret" else " (mean over validation episodes)"
    drawn = charts.points(
        series,
        charts.axis("environment steps"),
        charts.axis(f"{called}{unit}", rangemode="normal"),
        lines=True,
    )
    return Picture(f"Learning curve: {called}", drawn, "", 420)
