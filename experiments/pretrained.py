"""The policies that come with the project: where they are from, and whether training anew gives the like.

`python -m experiments.pretrained --help`. `agents/pretrained` holds a checkpoint for each problem (see
`agents.learned.shipped`) and `training.json`: for each problem the command that trained several runs, the same but for
`--seed`; the best validation score of each; the 95 % prediction interval for the score of one more run; and which of
them is shipped. `experiments.training.pretrained_record` says what is in it.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from agents.learned.checkpoint import WEIGHTS, load_checkpoint, read_document, recover, save_checkpoint
from agents.learned.shipped import FOLDER, SHIPPED
from experiments.arena.trained import BEST_FOLDER
from experiments.common.command import exit_status, output
from experiments.common.runner import RUNS, differences, file_digest, write_whole
from experiments.common.statistics import CONFIDENCE
from experiments.training.curves_data import read_curve
from experiments.training.pretrained_record import (
    RECORD,
    Entry,
    Record,
    Run,
    check_files,
    prediction_interval,
    read_record,
)
from papi_env.errors import ConfigurationError, DataError, describe_validation, lookup

if TYPE_CHECKING:
    from experiments import train

_TRAIN = ("python", "-m", "experiments.train")


def ship(runs: Sequence[Path], folder: Path) -> tuple[str, Entry]:
    """Put the best policy of training runs into `folder`, and record the runs. Returns the problem and its entry.

    Args:
        runs: folders of `experiments.train`, finished, and alike but for the seed.
        folder: such as agents/pretrained.

    Raises:
        ConfigurationError: there are too few runs, or they are not alike or not finished.
        DataError: a file is damaged.
    """
    train = _training()
    if len(runs) < 2:
        raise ConfigurationError(f"--ship: found {len(runs)} run, expected at least 2 with different seeds")
    configurations: list[dict[str, Any]] = []
    found: list[Run] = []
    for path in runs:
        _, curve, validation = read_curve(path)
        if curve.status:
            raise ConfigurationError(f"{path}: its training is not finished ({curve.status})")
        configuration = read_document(path / "run.json")["configuration"]
        missing = [name for name in ("hyperparameters", "splits") if name not in configuration]
        if missing:
            raise DataError(f"{path / 'run.json'}: configuration has no field {missing[0]!r}")
        asked = {name: value for name, value in configuration["asked"].items() if name != "seed"}
        configurations.append({**configuration, "asked": asked})
        changes = list(differences(configurations[0], configurations[-1]))
        if changes:
            raise ConfigurationError(
                f"{path}: trained by another command than {runs[0]}, expected the same but for the seed: "
                f"{_listed(changes, 'here')}"
            )
        twin = next((k for k, run in enumerate(found) if run.seed == curve.seed), None)
        if twin is not None:
            raise ConfigurationError(f"{path} and {runs[twin]} both have seed {curve.seed}, expected others")
        found.append(Run(seed=curve.seed, score=float(curve.returns.max())))
    # Of equal scores the first run's, in the order given.
    best = max(range(len(found)), key=lambda k: found[k].score)
    checkpoint = load_checkpoint(runs[best] / BEST_FOLDER)
    validated = checkpoint.description.training.get("validation", {}).get("score")
    if validated != found[best].score:
        raise DataError(
            f"{runs[best] / BEST_FOLDER}: its validation score is {validated}, expected the run's best, "
            f"{found[best].score}"
        )
    config = replace(train.resumed(train.Config(resume=runs[best])), seed=train.Config.seed)
    record = read_record(folder) if (folder / RECORD).exists() else Record()
    target = folder / SHIPPED[validation.env_id]
    recover(target)
    save_checkpoint(target, checkpoint)
    scores = [run.score for run in found]
    entry = Entry(
        command=shlex.join((*_TRAIN, *train.options(config))),
        algorithm=config.algorithm,
        hyperparameters=configurations[0]["hyperparameters"],
        splits=configurations[0]["splits"],
        runs=tuple(sorted(found, key=lambda run: run.seed)),
        mean=mean(scores),
        interval=prediction_interval(scores),
        shipped_seed=found[best].seed,
        weights_sha256=file_digest(target / WEIGHTS),
    )
    problems = {**record.problems, validation.env_id: entry}
    record = Record(problems={env_id: problems[env_id] for env_id in SHIPPED if env_id in problems})
    write_whole(folder / RECORD, record.model_dump_json(indent=1) + "\n")
    return validation.env_id, entry


def check(
    env_id: str, entry: Entry, seed: int, out: Path, command: str, console: Console, progress: Console
) -> bool:
    """Train one more run as recorded, or go on with it. Returns whether its best score lies in the interval.

    Args:
        env_id, entry: the problem, and what is recorded of it.
        seed: of the new run.
        out: its run folder.
        command: recorded there.
        console: for the result.
        progress: for the training.

    Raises:
        ConfigurationError: the seed was recorded, or the command now trains something else than it did.
        DataError: the recorded command is none, or training diverged.
        KeyboardInterrupt: the run was interrupted; it can go on.
    """
    train = _training()
    if seed in (recorded := [run.seed for run in entry.runs]):
        raise ConfigurationError(f"--seed is {seed}, expected another than those recorded: {recorded}")
    config = replace(_recorded_config(env_id, entry), seed=seed, out=out)
    _check_unchanged(env_id, entry, train.resolve(config))
    try:
        path = train.run(config, command, progress, progress)
    except KeyboardInterrupt:
        message = f"the same command with --out {out} goes on"
        progress.print(message, markup=False, highlight=False, soft_wrap=True)
        raise
    score = float(read_curve(path)[1].returns.max())
    low, high = entry.interval
    inside = low <= score <= high
    where = "lies in" if inside else f"lies {'below' if score < low else 'above'}"
    console.print(
        f"{env_id}, seed {seed}: the best validation score {score:.6g} {where} [{low:.6g}, {high:.6g}], where "
        f"{CONFIDENCE:.0%} of new runs are expected after {len(entry.runs)} with mean {entry.mean:.6g}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return inside


def _training() -> Any:
    """The module that trains. It needs torch, and what only prints a table goes without."""
    try:
        from experiments import train
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--ship and --check need the extra `learn` (pip install -e '.[learn]'): {error}"
        ) from None
    return train


def _recorded_config(env_id: str, entry: Entry) -> train.Config:
    """The recorded command as `experiments.train` reads it; only what that can be asked for comes of it.

    Raises:
        DataError: it is no such command, or trains another problem or algorithm.
    """
    train = _training()
    bad = f"{RECORD}: {env_id}: command: found {entry.command!r}, expected"
    try:
        words = shlex.split(entry.command)
    except ValueError as error:
        raise DataError(f"{bad} words as of a shell: {error}") from None
    if tuple(words[: len(_TRAIN)]) != _TRAIN:
        raise DataError(f"{bad} {shlex.join(_TRAIN)} with options")
    printed = io.StringIO()
    try:
        # It answers words that it does not know with a page of its own, and leaves.
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            config = tyro.cli(train.Config, args=words[len(_TRAIN) :], prog=shlex.join(_TRAIN))
    except SystemExit:
        raise DataError(f"{bad} options of experiments.train alone") from None
    if (config.env, config.algorithm) != (env_id, entry.algorithm):
        raise DataError(f"{bad} --env {env_id} and --algorithm {entry.algorithm}")
    if config.out is not None or config.resume is not None or config.tune or config.seed != train.Config.seed:
        raise DataError(f"{bad} no --seed, --out, --resume or --tune")
    return config


def _check_unchanged(env_id: str, entry: Entry, training: train.Training) -> None:
    """Raise where the command resolves to something else than it did: scores would not compare."""
    for name in sorted({*entry.splits, *training.splits}):
        then, now = entry.splits.get(name), training.splits.get(name)
        if then != now:
            raise ConfigurationError(
                f"{env_id}: the {name} split is {now}, expected {then} as in the recorded runs; their scores do not "
                "compare with a new one"
            )
    now_parameters = training.parameters
    try:
        # Read by the class of today, so that what it has besides counts as its default.
        then_parameters = type(now_parameters).model_validate(entry.hyperparameters)
    except ValidationError as error:
        names = type(now_parameters).model_fields
        where = f"{RECORD}: {env_id}: hyperparameters"
        raise DataError(str(describe_validation(where, error, names))) from None
    then_plain, now_plain = (
        parameters.model_dump(mode="json", exclude={"tuned"})
        for parameters in (then_parameters, now_parameters)
    )
    changes = list(differences(then_plain, now_plain))
    if changes:
        raise ConfigurationError(
            f"{env_id}: the command has other hyper-parameters than in the recorded runs; their scores do not compare "
            f"with a new one: {_listed(changes, 'now')}"
        )


def _listed(changes: Sequence[str], other: str) -> str:
    """The first lines of `experiments.common.runner.differences`, with a word for where the second of both is."""
    said = [change.removesuffix("asked") + other for change in changes[:3]]
    return "; ".join(said) + (f" (and {len(changes) - 3} more)" if len(changes) > 3 else "")


def show(console: Console, folder: Path, problems: Mapping[str, Entry]) -> None:
    """Print what is shipped, and how to train it anew."""
    table = Table(box=None, pad_edge=False)
    for name in (
        "environment",
        "algorithm",
        "bytes",
        "runs",
        "mean score",
        "95 % of new runs",
        "seed",
        "score",
    ):
        table.add_column(name, justify="left" if name in ("environment", "algorithm") else "right")
    for env_id, entry in problems.items():
        files = (folder / SHIPPED[env_id]).iterdir()
        table.add_row(
            env_id.removeprefix("papi_env/"),
            entry.algorithm,
            f"{sum(path.stat().st_size for path in files):,}",
            str(len(entry.runs)),
            f"{entry.mean:.6g}",
            f"[{entry.interval[0]:.6g}, {entry.interval[1]:.6g}]".replace("[", r"\["),
            str(entry.shipped_seed),
            f"{entry.shipped_score:.6g}",
        )
    console.print(table)
    console.print("Seed and score are the shipped policy's, which is the best run's.", highlight=False)
    for env_id, entry in problems.items():
        line = f"{env_id}: {entry.command} --seed {entry.shipped_seed}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Show the policies that come with the project, check them by training anew, or replace them.

    python -m experiments.pretrained --check papi_env/Decode-v0
    """

    check: Annotated[str | None, tyro.conf.arg(metavar="ID", help_behavior_hint="")] = None
    """Train one more run of this problem as recorded; the exit status is 0 if its best validation score lies in the
    recorded interval, else 1."""
    seed: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Of that run, none of those recorded (default: 1000)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Its run folder (default: runs/pretrained-TIME); an interrupted one goes on."""
    ship: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER ...", help_behavior_hint="")] = ()
    """Training runs alike but for the seed: ship the best one's policy, and record all of them."""
    folder: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Where the policies are (default: agents/pretrained)."""


DEFAULT_SEED = 1000


def run(config: Config, command: str, console: Console, progress: Console) -> bool:
    """Do what is asked; returns False if a checked run lies outside of its interval.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
        KeyboardInterrupt: a check was interrupted; it can go on.
    """
    folder = FOLDER if config.folder is None else config.folder
    if config.check is None and (config.seed, config.out) != (None, None):
        raise ConfigurationError("--seed and --out belong to --check, which is not given")
    if config.ship and config.check is not None:
        raise ConfigurationError("--ship and --check exclude each other, expected one of them")
    if config.ship:
        env_id, entry = ship(config.ship, folder)
        show(console, folder, {env_id: entry})
        return True
    if config.check is not None:
        lookup("problem", config.check, SHIPPED)
    record = read_record(folder)
    for env_id, entry in record.problems.items():
        check_files(folder, env_id, entry)
    if config.check is None:
        show(console, folder, record.problems)
        for env_id in SHIPPED:
            if env_id not in record.problems:
                console.print(f"{env_id}: no policy comes with the project", highlight=False)
        return True
    if config.check not in record.problems:
        raise ConfigurationError(f"{folder / RECORD}: records no training of {config.check}")
    out = config.out or RUNS / f"pretrained-{datetime.now():%Y%m%d-%H%M%S}"
    seed = DEFAULT_SEED if config.seed is None else config.seed
    return check(config.check, record.problems[config.check], seed, out, command, console, progress)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 for a run outside of its interval, 2 for what cannot be used
    as asked, 130 if interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.pretrained")
    command = f"python -m experiments.pretrained {shlex.join(arguments)}".strip()
    inside: list[bool] = []
    status = exit_status(lambda: inside.append(run(config, command, output(), Console(stderr=True))))
    return status or (0 if all(inside) else 1)


if __name__ == "__main__":
    sys.exit(main())
