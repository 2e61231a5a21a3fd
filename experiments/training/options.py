"""What a training can be asked for: the options of `experiments.train`, as they are read, kept and read again.

They stand here because run folders and the record of the policies that come with the project hold them too. None of
it needs torch.
"""

from __future__ import annotations

import contextlib
import io
import shlex
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import TypeAdapter, ValidationError

from experiments.common.options import (
    Env,
    OnWorkers,
    Out,
    Scenarios,
    Spelling,
    Traces,
    Workers,
    respell,
    words,
)
from experiments.common.runner import read_record
from experiments.training.hyperparameters import KINDS
from papi_env.envs.registration import DECODE
from papi_env.errors import ConfigurationError, DataError, describe_validation, shown

PROGRAM = ("python", "-m", "experiments.train")
SPELLINGS = (Spelling("--traces", "--trace"),)
ONE_PROCESS = Workers(jobs=1)
# Where a run is and where it plays: no part of what it is.
_OF_A_SESSION = ("workers", "out", "resume")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a policy, and write checkpoints that `experiments.compare` plays as papi/FOLDER.

    python -m experiments.train --algorithm maskable-ppo --env papi_env/Kernels-v0 --batch-sizes 4 16 64

    python -m experiments.train --algorithm expert-iteration --env papi_env/Serving-v1 --split --jobs 0

    python -m experiments.train --resume runs/train-20250101-120000
    """

    algorithm: Annotated[str, tyro.conf.arg(metavar="|".join(KINDS))] = "ppo"
    """What learns. Evolution and expert-iteration play in as many processes as --jobs says, others in one."""
    env: Env = DECODE
    """The problem to learn: papi_env/Decode-v0, papi_env/Kernels-v0, papi_env/Serving-v0 or papi_env/Serving-v1."""
    scenarios: Scenarios = ()
    """Presets by name, or .toml files (default: the problem's own). Several are trained on side by side."""
    systems: Annotated[tuple[str, ...], words("NAME ...")] = ()
    """Systems, each with every scenario (default: the scenarios' own)."""
    models: Annotated[tuple[str, ...], words("NAME ...")] = ()
    """Models, likewise."""
    batch_sizes: Annotated[tuple[int, ...], words("INT ...")] = ()
    """Batch sizes, likewise."""
    speculation: Annotated[tuple[int, ...], words("INT ...")] = ()
    """Speculation lengths, likewise."""
    validate: Scenarios = ()
    """Scenarios to validate on, with the same systems, models and sizes (default: those of training)."""
    split: bool = False
    """Train on the training split of the problem and validate on its validation split (see experiments.splits)."""
    # Called --trace; run folders of earlier versions know it as it is called here.
    traces: Annotated[
        Traces,
        tyro.conf.arg(
            name="trace",
            help="Files of published traces for --split; settings that need others are left out.",
        ),
    ] = ()
    episodes: int = 32
    """Validation episodes of each setting."""
    validations: int = 20
    """How many times to validate, evenly over the training."""
    timesteps: Annotated[int | None, words("INT")] = None
    """Steps over all environments (default: as the hyper-parameters say)."""
    time_constant: Annotated[float | None, words("SECONDS")] = None
    """Discount by exp(-dt / SECONDS), dt the seconds from one decision to the next, instead of gamma per step; 0: gamma
    (default: gamma, but for papi_env/Serving-v1, where it is 10)."""
    hyper: Annotated[tuple[str, ...], words("NAME=VALUE ...")] = ()
    """Hyper-parameters to replace: gamma=0.9 net_arch=[64,64]"""
    hyperparameters: Annotated[Path | None, words("FILE.toml")] = None
    """Hyper-parameters from another file (default: agents/hyperparameters/ALGORITHM.toml)."""
    start: Annotated[Path | None, words("FOLDER")] = None
    """A policy that sees requests, which evolution or expert-iteration goes on from (default: untrained weights)."""
    seed: int = 0
    """Of weights, exploration and training instances."""
    threads: int = 1
    """Threads of torch; resuming is exact with the same number."""
    tensorboard: bool = True
    """Write curves for TensorBoard."""
    tune: Annotated[int, words("TRIALS")] = 0
    """Look for hyper-parameters in so many trials instead of training."""
    workers: OnWorkers = ONE_PROCESS
    out: Out = None
    resume: Annotated[Path | None, words("DIR")] = None
    """Go on with the run in this folder. Its options are kept there, so no others, but for --jobs, --backend and
    --address, which change no result."""


def as_plain(config: Config) -> dict[str, Any]:
    """The options as run.json holds them, without where the run is, and plays."""
    data = asdict(replace(config, out=None, resume=None))
    del data["workers"]
    data["traces"] = [str(path) for path in config.traces]
    return {name: str(value) if isinstance(value, Path) else value for name, value in data.items()}


def as_words(config: Config) -> list[str]:
    """The options that are not the default's, as on the command line; not where the run is, and plays."""
    found: list[str] = []
    for field in fields(Config):
        value = getattr(config, field.name)
        if value == field.default or field.name in _OF_A_SESSION:
            continue
        name = "trace" if field.name == "traces" else field.name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
            continue
        found += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return found


def command_of(config: Config) -> str:
    """The command that trains so, but for where its run folder is."""
    return shlex.join([*PROGRAM, *as_words(config)])


def read_command(command: str) -> Config:
    """The configuration of a recorded command, in the spelling of any version.

    Raises:
        ValueError: it is no such command; the message says what was expected.
    """
    try:
        found = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"words as of a shell: {error}") from None
    if tuple(found[: len(PROGRAM)]) != PROGRAM:
        raise ValueError(f"{shlex.join(PROGRAM)} with options")
    printed = io.StringIO()
    arguments = respell(found[len(PROGRAM) :], SPELLINGS)
    try:
        # It answers words that it does not know with a page of its own, and leaves.
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return tyro.cli(Config, args=arguments, prog=shlex.join(PROGRAM))
    except SystemExit:
        raise ValueError("options of experiments.train alone") from None


def resumed(config: Config) -> tuple[Config, dict[str, Any]]:
    """The configuration of the run in `config.resume`, which goes on with the processes of `config`.

    And its hyper-parameters as plain data: as it began with, whatever their files say by now.

    Raises:
        ConfigurationError: other options are given besides, or the folder holds no training.
        DataError: its run.json is damaged.
    """
    others = as_words(config) + (["--out"] if config.out is not None else [])
    if others:
        raise ConfigurationError(
            "--resume keeps the run's own options, expected none but --jobs, --backend and --address, found "
            f"{shlex.join(others)}"
        )
    assert config.resume is not None
    record = config.resume / "run.json"
    if not record.is_file():
        raise ConfigurationError(f"{record}: cannot be read: no such file; expected the folder of a training")
    try:
        data = read_record(record)
        experiment, found = data["experiment"], data["configuration"]
        asked, values = found["asked"], found["hyperparameters"]
    except KeyError as error:
        raise DataError(f"{record}: not the record of a training: configuration has no {error}") from None
    if experiment != "train":
        raise ConfigurationError(f"{config.resume}: holds a run of {experiment!r}, not of 'train'")
    try:
        began = TypeAdapter(Config).validate_python(asked)
    except ValidationError as error:
        names = [field.name for field in fields(Config)]
        raise DataError(str(describe_validation(str(record), error, names))) from None
    if not isinstance(values, dict):
        raise DataError(f"{record}: configuration.hyperparameters: found {shown(values)}, expected a table")
    return replace(began, out=config.resume, workers=config.workers), values
