"""Of `experiments.train`: best and last validations and learning curves, of a run and of several runs together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from experiments.reporting import charts
from experiments.reporting.content import Column, Picture, Table
from experiments.reporting.folder import Run
from experiments.reporting.instances import whole
from experiments.reporting.tables import grouped, stacked

_EVALUATIONS, _TRIALS, _ROUNDS = "evaluations.csv", "trials.csv", "rounds.csv"
_KNOWN = {
    "simulated_s": Column("simulated time", "s"),
    "wall_s": Column("training time", "s"),
    "score": Column("mean return"),
}
_OF_ROUNDS = {
    "explained": Column("explained", "%", 100, 1),
    "leaves explained": Column("leaves explained", "%", 100, 1),
    "score": Column("score"),
}
_ABOUT_ROUNDS = (
    "A row for each round of expert iteration, as in rounds.csv: looks ahead, the share of what they found that a fit "
    "explains of looks that it was not fitted to, and by how much of it the network moved."
)
# A row for each training; `tables.grouped` takes them together.
_COLUMNS = (
    Column("algorithm"),
    Column("trained on"),
    Column("hyper-parameters"),
    Column("seed"),
    Column("steps"),
    Column("first"),
    Column("best"),
    Column("steps to the best"),
    Column("last"),
    Column("least regret", "%", 100, 3),
    Column("training time", "s", 1, 0),
    Column("processor", "s", 1, 0),
)
_ALIKE = ("algorithm", "trained on", "hyper-parameters")


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
    rounds = run.table(_ROUNDS) if run.has(_ROUNDS) else None
    return [
        _training(run, frame),
        *(one for one in pictures if one is not None),
        whole(
            frame,
            "Validations",
            "A row for each validation, as in evaluations.csv. Regret: percent of the oracle's cost.",
            _KNOWN | {name: Column(name, "%", 100, 3) for name in frame.columns if name.startswith("regret")},
        ),
        *([] if rounds is None else [whole(rounds, "Rounds", _ABOUT_ROUNDS, _OF_ROUNDS)]),
    ]


def together(runs: Sequence[Run]) -> list[Table | Picture]:
    """A row for each of several runs, means of those that differ in their seeds alone, and curves on the same axes.

    Raises:
        DataError: a run's validations are damaged.
    """
    frames = [(run, run.table(_EVALUATIONS)) for run in runs if run.has(_EVALUATIONS)]
    if not frames:
        return []
    table = stacked([_training(run, frame) for run, frame in frames])
    means = replace(
        grouped(table, _ALIKE),
        title="Trainings by algorithm",
        note="Means of runs that differ in their seeds alone, with the lowest and the highest in brackets.",
    )
    named = {str(run.path): frame for run, frame in frames}
    found = [_curves(named, "score", "return"), _curves(named, "regret", "regret")]
    return [table, means, *(one for one in found if one is not None)]


def _training(run: Run, frame: pl.DataFrame) -> Table:
    """What came of a training, in one row."""
    asked = run.configuration["asked"]
    scores = frame["score"].to_list()
    best = max(scores)
    # Where none is named, it is the problem's own.
    own = dict.fromkeys(setting["name"] for setting in run.configuration.get("settings", []))
    names = ["the training split"] if asked.get("split") else asked.get("scenarios") or [*own]
    # Sessions that were killed, that ran on several processes or that an earlier version wrote do not say it.
    spent = [session.get("processor_s") for session in run.sessions]
    known = [seconds for seconds in spent if seconds is not None]
    row = [
        asked["algorithm"],
        ", ".join(names),
        " ".join(asked.get("hyper", [])),
        str(asked["seed"]),
        frame["steps"][-1],
        scores[0],
        best,
        frame["steps"][scores.index(best)],
        scores[-1],
        min(frame["regret"].to_list()) if "regret" in frame.columns else None,
        frame["wall_s"][-1],
        sum(known) if known and len(known) == len(spent) else None,
    ]
    about = (
        "Scores of the first, the best and the last validation: mean returns, on papi_env/Serving-v1 the share of the "
        "worth that is served in time. Seconds are of training with its validations."
    )
    return Table("Trainings", _COLUMNS, [row], about)


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
