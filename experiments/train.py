"""Train a policy: `python -m experiments.train --help`.

PPO, A2C and DQN of Stable-Baselines3, MaskablePPO, RecurrentPPO and QR-DQN of sb3-contrib, on one scenario or on many
at once. Hyper-parameters come from `agents/hyperparameters/ALGORITHM.toml`. The run folder holds:

* run.json: the command, what was asked, everything it resolved to, and every session with its versions;
* best/ and last/: checkpoints (policy.json and policy.safetensors) of the best and the last validation;
* evaluations.csv: every validation, on instances that training never meets; curves.png: the learning curve;
* state.safetensors: the whole state, from which an interrupted run goes on;
* tensorboard/: curves.

`--resume DIR` goes on after any interruption, and ends with the weights that the run would have had without it, bit
for bit, on the same code, versions and `--threads`. Ctrl-C stops after the rollout under way and loses nothing; a
crash loses what came since the last validation. `--tune N` looks for hyper-parameters instead (see `train_tune`).
"""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

from agents.learned.checkpoint import recover
from experiments.arena.settings import trace_digest
from experiments.common.command import exit_status, output
from experiments.common.runner import RunFolder, source_digest, versions
from experiments.splitting.splits import load_split, trace_records
from experiments.training.algorithms import build_model, flattens
from experiments.training.callbacks import BEST, LAST, STATE, Bar, Boundary, Interruption, Listener
from experiments.training.curves_data import YAxis
from experiments.training.evaluation import Validator
from experiments.training.hyperparameters import Hyperparameters, load_hyperparameters
from experiments.training.imitation import imitate
from experiments.training.settings import (
    imitation_seeds,
    scenario_settings,
    setting_label,
    training_envs,
    training_seed,
)
from experiments.training.state import load_state
from papi_env.errors import ConfigurationError, DataError, describe_validation
from papi_env.scenario import Scenario

_MAX_SEED = 1 << 20
CURVES = "curves.png"
_PACKAGES = ("torch", "stable-baselines3", "sb3-contrib", "safetensors")
AlgorithmName = Literal["ppo", "a2c", "dqn", "maskable-ppo", "recurrent-ppo", "qr-dqn"]
EnvId = Literal["papi_env/Decode-v0", "papi_env/Kernels-v0", "papi_env/Serving-v0"]


def _as_is(metavar: str) -> Any:
    """How an option's value is called in --help; what its absence means is said in words."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a policy, and write checkpoints that `experiments.compare` plays as papi/FOLDER.

    python -m experiments.train --algorithm maskable-ppo --env papi_env/Kernels-v0 --batch-sizes 4 16 64

    python -m experiments.train --resume runs/train-20250101-120000
    """

    algorithm: AlgorithmName = "ppo"
    """What learns."""
    env: EnvId = "papi_env/Decode-v0"
    """The problem to learn."""
    scenarios: Annotated[tuple[str, ...], _as_is("NAME|FILE.toml ...")] = ()
    """Presets by name, or .toml files (default: the problem's own). Several are trained on side by side."""
    systems: Annotated[tuple[str, ...], _as_is("NAME ...")] = ()
    """Systems, each with every scenario (default: the scenarios' own)."""
    models: Annotated[tuple[str, ...], _as_is("NAME ...")] = ()
    """Models, likewise."""
    batch_sizes: Annotated[tuple[int, ...], _as_is("INT ...")] = ()
    """Batch sizes, likewise."""
    speculation: Annotated[tuple[int, ...], _as_is("INT ...")] = ()
    """Speculation lengths, likewise."""
    validate: Annotated[tuple[str, ...], _as_is("NAME|FILE.toml ...")] = ()
    """Scenarios to validate on, with the same systems, models and sizes (default: those of training). Instances
    are others in any case."""
    split: bool = False
    """Train on the training split of the problem and validate on its validation split (see experiments.splits)."""
    traces: Annotated[tuple[Path, ...], _as_is("FILE ...")] = ()
    """Files of published traces for --split; settings that need others are left out."""
    episodes: int = 32
    """Validation episodes of each setting."""
    validations: int = 20
    """How many times to validate, evenly over the training."""
    timesteps: Annotated[int | None, _as_is("INT")] = None
    """Steps over all environments (default: as the hyper-parameters say)."""
    hyper: Annotated[tuple[str, ...], _as_is("NAME=VALUE ...")] = ()
    """Hyper-parameters to replace: gamma=0.9 net_arch=[64,64]"""
    hyperparameters: Annotated[Path | None, _as_is("FILE.toml")] = None
    """Hyper-parameters from another file (default: agents/hyperparameters/ALGORITHM.toml)."""
    seed: int = 0
    """Of weights, exploration and training instances."""
    threads: int = 1
    """Threads of torch; resuming is exact with the same number."""
    tensorboard: bool = True
    """Write curves for TensorBoard."""
    tune: Annotated[int, _as_is("TRIALS")] = 0
    """Look for hyper-parameters in so many trials instead of training."""
    out: Annotated[Path | None, _as_is("DIR")] = None
    """Run folder (default: runs/train-TIME)."""
    resume: Annotated[Path | None, _as_is("DIR")] = None
    """Go on with the run in this folder; its options are kept there, so no others."""


@dataclass(frozen=True)
class Training:
    """A configuration with everything looked up.

    Attributes:
        settings, validation: what is trained and validated on.
        splits: hashes of the splits that they are from, if any.
    """

    config: Config
    parameters: Hyperparameters
    settings: tuple[Scenario, ...]
    validation: tuple[Scenario, ...]
    splits: Mapping[str, str]

    @property
    def every(self) -> int:
        """Steps from one validation to the next."""
        return max(self.parameters.timesteps // self.config.validations, 1)

    def describe(self) -> dict[str, Any]:
        """Everything as plain data; a run folder goes on only if all of it is the same."""
        scenarios = (*self.settings, *self.validation)
        return {
            "asked": _asked(self.config),
            "hyperparameters": self.parameters.model_dump(mode="json"),
            "settings": [scenario.model_dump(mode="json") for scenario in self.settings],
            "validation": [scenario.model_dump(mode="json") for scenario in self.validation],
            "traces": sorted({digest for s in scenarios if (digest := trace_digest(s)) is not None}),
            "splits": dict(self.splits),
        }

    def summary(self) -> dict[str, Any]:
        """What a checkpoint says of its training."""
        return {
            "command": f"python -m experiments.train {shlex.join(options(self.config))}".strip(),
            "seed": self.config.seed,
            "settings": [setting_label(scenario) for scenario in self.settings],
            "splits": dict(self.splits),
            "traces": trace_records(self.settings),
            "hyperparameters": self.parameters.model_dump(mode="json"),
            "versions": {**versions(), **learning_versions()},
        }


def learning_versions() -> dict[str, str]:
    """Versions of the packages that learning depends on."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def _asked(config: Config) -> dict[str, Any]:
    """The options as plain data, without where the run is."""
    data = asdict(replace(config, out=None, resume=None))
    data["traces"] = [str(path) for path in config.traces]
    return {name: str(value) if isinstance(value, Path) else value for name, value in data.items()}


def options(config: Config) -> list[str]:
    """The options of a configuration that are not the default's, as on the command line."""
    words: list[str] = []
    for field in fields(Config):
        value = getattr(config, field.name)
        if value == field.default or field.name in ("out", "resume"):
            continue
        name = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
            continue
        words += [f"--{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words


def resolve(config: Config) -> Training:
    """Look up and check everything that `config` names.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    for name, low, high in (
        ("seed", 0, _MAX_SEED),
        ("threads", 1, 1024),
        ("episodes", 1, 1 << 16),
        ("validations", 1, 1 << 16),
        ("tune", 0, 1 << 16),
    ):
        if not low <= getattr(config, name) <= high:
            raise ConfigurationError(f"--{name} is {getattr(config, name)}, expected {low} to {high}")
    overrides = config.hyper
    if config.timesteps is not None:
        overrides = (*overrides, f"timesteps={config.timesteps}")
    parameters = load_hyperparameters(config.algorithm, config.env, overrides, config.hyperparameters)
    sizes = (config.systems, config.models, config.batch_sizes, config.speculation)
    if config.split:
        if any((config.scenarios, config.validate, *sizes)):
            raise ConfigurationError(
                "--split names all settings, expected no --scenarios, --validate, --systems, --models, "
                "--batch-sizes or --speculation besides"
            )
        splits = [load_split(config.env, name, config.traces) for name in ("train", "validation")]
        train, held = (tuple(setting.scenario for setting in split.settings) for split in splits)
        return Training(config, parameters, train, held, {split.name: split.sha256 for split in splits})
    if config.traces:
        raise ConfigurationError("--traces belong to --split, which is not given")
    settings = scenario_settings(config.env, config.scenarios, *sizes)
    validation = scenario_settings(config.env, config.validate, *sizes) if config.validate else settings
    return Training(config, parameters, tuple(settings), tuple(validation), {})


def resumed(config: Config) -> Config:
    """The configuration of the run in `config.resume`.

    Raises:
        ConfigurationError: other options are given besides, or the folder holds no training.
        DataError: its run.json is damaged.
    """
    others = options(config) + (["--out"] if config.out is not None else [])
    if others:
        raise ConfigurationError(
            f"--resume keeps the run's own options, expected no others, found {shlex.join(others)}"
        )
    assert config.resume is not None
    record = config.resume / "run.json"
    try:
        data = json.loads(record.read_text(encoding="utf-8"))
        experiment, asked = data["experiment"], data["configuration"]["asked"]
    except OSError as error:
        raise ConfigurationError(
            f"{record}: cannot be read ({error.strerror}); expected the folder of a training"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{record}: not the record of a training ({error!r})") from None
    if experiment != "train":
        raise ConfigurationError(f"{config.resume}: holds a run of {experiment!r}, not of 'train'")
    try:
        return replace(TypeAdapter(Config).validate_python(asked), out=config.resume)
    except ValidationError as error:
        names = [field.name for field in fields(Config)]
        raise DataError(str(describe_validation(str(record), error, names))) from None


def train(
    training: Training,
    folder: Path | None,
    listener: Listener,
    interruption: Interruption,
    validator: Validator | None = None,
) -> Boundary:
    """Train to the end, from the state in `folder` where there is one.

    Args:
        training: what.
        folder: of the run; None keeps all in memory.
        listener: told of the course.
        interruption: asked between rollouts.
        validator: to use instead of a new one.

    Returns:
        The callback, with the model, the rows of all validations, and times.

    Raises:
        DivergedError: weights, rewards or observations ceased to be finite.
        KeyboardInterrupt: the interruption was asked for; the state is kept.
    """
    config, parameters = training.config, training.parameters
    torch.set_num_threads(config.threads)
    envs = training_envs(
        config.env, training.settings, parameters.n_envs, flattens(config.algorithm, parameters)
    )
    model = build_model(config.algorithm, parameters, envs, config.seed)
    envs.seed(training_seed(config.seed))  # the model has given them its own
    if validator is None:
        validator = Validator(config.env, training.validation, config.episodes)
    boundary = Boundary(
        folder,
        config.env,
        parameters,
        validator,
        training.every,
        training.summary(),
        listener,
        interruption,
    )
    model.set_logger(_logger(folder if config.tensorboard else None))
    state = None if folder is None else folder / STATE
    going_on = state is not None and state.exists()
    if going_on:
        assert state is not None
        boundary.take_over(load_state(state, model))
    if model.num_timesteps >= parameters.timesteps:
        boundary.init_callback(model)
        return boundary
    start = getattr(parameters, "imitation", None)
    if start is not None and start.rounds and not going_on:
        seeds = imitation_seeds(config.seed, start.rounds * start.episodes)
        imitate(model, training.settings, config.env, start, seeds, interruption, listener)
    try:
        model.learn(
            parameters.timesteps - model.num_timesteps, callback=boundary, reset_num_timesteps=not going_on
        )
    except (ValueError, RuntimeError):
        # torch's own complaint about numbers that are not finite says less than ours.
        boundary.check_weights()
        raise
    boundary.at_boundary(last=True)
    model.logger.dump(model.num_timesteps)
    model.logger.close()
    return boundary


def _logger(folder: Path | None) -> Logger:
    formats: list[KVWriter] = [] if folder is None else [TensorBoardOutputFormat(str(folder / "tensorboard"))]
    return Logger(None if folder is None else str(folder), formats)


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Train, or tune, in a run folder, whose path is returned.

    Args:
        config: what to train.
        command: recorded in run.json.
        console: for the result.
        progress: for everything else.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked, or training diverged.
        KeyboardInterrupt: the run was interrupted; it can go on.
    """
    if config.resume is not None:
        config = resumed(config)
    with progress.status("reading scenarios"):
        training = resolve(config)
    folder = RunFolder.open(config.out, "train", training.describe())
    progress.print(f"run folder {folder.path}", markup=False, highlight=False, soft_wrap=True)
    _warn_of_changes(folder, progress)
    with folder.session(command, config.threads) as session, Interruption().listening() as interruption:
        session["versions"] |= learning_versions()
        try:
            if config.tune:
                from experiments.training.tune import tune  # needs Optuna

                tune(training, folder, interruption, console, progress)
            else:
                _train_in(training, folder, interruption, session, console, progress)
        except KeyboardInterrupt:
            message = f"interrupted; python -m experiments.train --resume {folder.path} goes on"
            progress.print(message, markup=False, highlight=False, soft_wrap=True)
            raise
    return folder.path


def _train_in(
    training: Training,
    folder: RunFolder,
    interruption: Interruption,
    session: dict[str, Any],
    console: Console,
    progress: Console,
) -> None:
    for name in (BEST, LAST):
        recover(folder.path / name)
    terminal = progress.is_terminal
    bar = Progress(*Bar.columns(), console=progress, transient=True, disable=not terminal)
    with bar if terminal else nullcontext():
        boundary = train(training, folder.path, Bar(bar, training.parameters.timesteps), interruption)
    session["steps"] = boundary.model.num_timesteps
    session["simulated_s"] = round(boundary.simulated_s, 3)
    with progress.status("drawing"):
        from experiments.curves import curves_figure  # pictures alone need it

        shown: YAxis = "regret" if "regret" in boundary.rows[-1] else "return"
        folder.write(CURVES, curves_figure([folder.path], y=shown))
    print_result(console, training, folder.path, boundary)


def _warn_of_changes(folder: RunFolder, progress: Console) -> None:
    """Say where code or versions are not those of the session before: going on is then not exact."""
    if not folder.sessions:
        return
    before: Mapping[str, Any] = folder.sessions[-1]
    now = {**versions(), **learning_versions()}
    changed = [
        f"{name} {before['versions'].get(name)} then, {found} now"
        for name, found in now.items()
        if name in before["versions"] and before["versions"][name] != found
    ]
    if before["source"]["digest"] != source_digest():
        changed.append("the source code of papi_env or agents")
    if changed:
        text = f"warning: going on with other software, so not bit for bit as one run: {'; '.join(changed)}"
        progress.print(text, markup=False, highlight=False, soft_wrap=True)


def print_result(console: Console, training: Training, folder: Path, boundary: Boundary) -> None:
    """The best and the last validation, what they took, and how to compare."""
    best = max(boundary.rows, key=lambda row: row["score"])
    title = f"{training.config.algorithm} on {training.config.env}, {len(training.settings)} setting(s)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("", "steps", "return", "regret / %", "simulated / s", "wall / s"):
        table.add_column(name, justify="right" if name else "left")
    for label, row in (("best", best), ("last", boundary.rows[-1])):
        regret = f"{100 * row['regret']:.3f}" if "regret" in row else "-"
        table.add_row(
            label,
            f"{row['steps']:,}",
            f"{row['score']:.6g}",
            regret,
            f"{row['simulated_s']:,.0f}",
            f"{row['wall_s']:,.1f}",
        )
    console.print(table)
    system = training.settings[0].system.name
    hint = f"python -m experiments.compare --env {training.config.env} --entries"
    hint += f" {system}/threshold {system}/{folder / BEST}"
    console.print(hint, markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.train")
    command = f"python -m experiments.train {shlex.join(arguments)}".strip()
    return exit_status(lambda: run(config, command, output(), Console(stderr=True)))


if __name__ == "__main__":
    sys.exit(main())
