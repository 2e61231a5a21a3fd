"""Shipping the best of several training runs, and training one more to see whether it gives the like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from agents.learned.checkpoint import WEIGHTS, load_checkpoint, read_document, recover, save_checkpoint
from agents.learned.shipped import SHIPPED
from experiments.common.command import can_go_on, say
from experiments.common.runner import differences, file_digest, listed, write_whole
from experiments.common.statistics import CONFIDENCE
from experiments.training.curves.data import read_curve
from experiments.training.options import Config, command_of, read_command, resumed
from experiments.training.plan import Training, resolve
from experiments.training.pretrained.record import (
    RECORD,
    Entry,
    Record,
    Run,
    prediction_interval,
    read_record,
)
from experiments.training.record import BEST
from experiments.training.session import run
from papi_env.errors import ConfigurationError, DataError, describe_validation


def ship(runs: Sequence[Path], folder: Path) -> tuple[str, Entry]:
    """Put the best policy of training runs into `folder`, and record the runs. Returns the problem and its entry.

    Args:
        runs: folders of `experiments.train`, finished, and alike but for the seed.
        folder: such as agents/pretrained.

    Raises:
        ConfigurationError: there are too few runs, or they are not alike or not finished.
        DataError: a file is damaged.
    """
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
                f"{_said(changes, 'here')}"
            )
        twin = next((k for k, run in enumerate(found) if run.seed == curve.seed), None)
        if twin is not None:
            raise ConfigurationError(f"{path} and {runs[twin]} both have seed {curve.seed}, expected others")
        found.append(Run(seed=curve.seed, score=float(curve.returns.max())))
    # Of equal scores the first run's, in the order given.
    best = max(range(len(found)), key=lambda k: found[k].score)
    checkpoint = load_checkpoint(runs[best] / BEST)
    validated = checkpoint.description.training.get("validation", {}).get("score")
    if validated != found[best].score:
        raise DataError(
            f"{runs[best] / BEST}: its validation score is {validated}, expected the run's best, "
            f"{found[best].score}"
        )
    began, _ = resumed(Config(resume=runs[best]))
    config = replace(began, seed=Config.seed)
    record = read_record(folder) if (folder / RECORD).exists() else Record()
    target = folder / SHIPPED[validation.env_id]
    recover(target)
    save_checkpoint(target, checkpoint)
    scores = [run.score for run in found]
    entry = Entry(
        command=command_of(config),
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
    if seed in (recorded := [run.seed for run in entry.runs]):
        raise ConfigurationError(f"--seed is {seed}, expected another than those recorded: {recorded}")
    config = replace(_recorded_config(env_id, entry), seed=seed, out=out)
    check_unchanged(env_id, entry, resolve(config))
    with can_go_on(progress, f"the same command with --out {out}"):
        path = run(config, command, progress, progress)
    score = float(read_curve(path)[1].returns.max())
    low, high = entry.interval
    inside = low <= score <= high
    where = "lies in" if inside else f"lies {'below' if score < low else 'above'}"
    say(
        console,
        f"{env_id}, seed {seed}: the best validation score {score:.6g} {where} [{low:.6g}, {high:.6g}], where "
        f"{CONFIDENCE:.0%} of new runs are expected after {len(entry.runs)} with mean {entry.mean:.6g}",
    )
    return inside


def _recorded_config(env_id: str, entry: Entry) -> Config:
    """The recorded command as `experiments.train` reads it; only what that can be asked for comes of it.

    Raises:
        DataError: it is no such command, or trains another problem or algorithm.
    """
    bad = f"{RECORD}: {env_id}: command: found {entry.command!r}, expected"
    try:
        config = read_command(entry.command)
    except ValueError as error:
        raise DataError(f"{bad} {error}") from None
    if (config.env, config.algorithm) != (env_id, entry.algorithm):
        raise DataError(f"{bad} --env {env_id} and --algorithm {entry.algorithm}")
    if config.out is not None or config.resume is not None or config.tune or config.seed != Config.seed:
        raise DataError(f"{bad} no --seed, --out, --resume or --tune")
    return config


def check_unchanged(env_id: str, entry: Entry, training: Training) -> None:
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
            f"with a new one: {_said(changes, 'now')}"
        )


def _said(changes: Sequence[str], other: str) -> str:
    """Lines of `experiments.common.runner.differences`, with a word for where the second of both is."""
    return listed([change.removesuffix("asked") + other for change in changes])
