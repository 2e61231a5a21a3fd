"""Look for hyper-parameters: an Optuna study whose trials are short trainings.

Every trial draws values around those of the algorithm's file, trains in memory, and is judged by its best validation
return; one that is below the median of the others at the same step is given up. The study's journal is a file of
plain lines in the run folder, written after every trial: repeating the command with `--out`, or `--resume`, goes on
until there are as many trials as asked. At the end `best.toml` holds a block for `agents/hyperparameters`, marked
with the command that found it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from rich.table import Table

import papi_env
from experiments.common.command import say
from experiments.common.runner import RunFolder
from experiments.training.evaluation import Validation, Validator
from experiments.training.hyperparameters import ActorCritic, Dqn, Hyperparameters, Linear, Ppo, RecurrentPpo
from experiments.training.interruption import DivergedError, Interruption
from experiments.training.learn import train
from experiments.training.options import command_of
from experiments.training.plan import Training
from papi_env.errors import ConfigurationError

JOURNAL, BEST_BLOCK = "study.log", "best.toml"
_NETWORKS = {"32": (32,), "64": (64,), "64-64": (64, 64), "128-128": (128, 128), "256-256": (256, 256)}


def suggest(trial: Trial, base: Hyperparameters) -> Hyperparameters:
    """Values of a trial: what matters most in the algorithm's kind, the rest as in `base`.

    Ranges are chosen: a decade or so around the defaults of Stable-Baselines3 and of this project.
    """
    start = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    falls = isinstance(base.learning_rate, Linear)
    discount: dict[str, Any] = (
        {"gamma": trial.suggest_categorical("gamma", (0.0, 0.5, 0.9, 0.97, 0.99, 0.997, 0.999))}
        if base.per_second is None
        else {"time_constant": trial.suggest_float("time_constant", 2.0, 60.0, log=True)}
    )
    values: dict[str, Any] = {
        "learning_rate": Linear(start=start) if falls else start,
        **discount,
        "net_arch": _NETWORKS[trial.suggest_categorical("net_arch", tuple(_NETWORKS))],
        "activation": trial.suggest_categorical("activation", ("tanh", "relu")),
    }
    if isinstance(base, ActorCritic):
        steps = trial.suggest_categorical("n_steps", (8, 32, 128) if isinstance(base, Ppo) else (5, 16, 64))
        trace: dict[str, Any] = (
            {"trace_s": trial.suggest_float("trace_s", 0.2, 5.0, log=True)}
            if base.trace_s
            else {"gae_lambda": trial.suggest_categorical("gae_lambda", (0.0, 0.8, 0.9, 0.95, 1.0))}
        )
        values |= {
            "n_steps": steps,
            **trace,
            "ent_coef": Linear(start=trial.suggest_float("ent_coef", 1e-4, 0.1, log=True)),
        }
    if isinstance(base, Ppo):
        # A share of the rollout, so that batches are whole.
        batches = trial.suggest_categorical("batches", (1, 2, 4, 8))
        values |= {
            "batch_size": max(base.n_envs * steps // batches, 2),
            "n_epochs": trial.suggest_int("n_epochs", 2, 10),
            "clip_range": trial.suggest_categorical("clip_range", (0.1, 0.2, 0.3)),
        }
    if isinstance(base, RecurrentPpo):
        values["lstm_hidden_size"] = trial.suggest_categorical("lstm_hidden_size", (32, 64, 128))
    if isinstance(base, Dqn):
        updates = trial.suggest_categorical("updates", (1, 2, 4))
        values |= {
            "batch_size": trial.suggest_categorical("batch_size", (64, 256, 1024)),
            "gradient_steps": updates,
            "target_update_interval": trial.suggest_int("target_update_interval", 500, 20_000, log=True),
            "exploration_fraction": trial.suggest_float("exploration_fraction", 0.05, 0.5),
        }
        values["target_update_interval"] = max(values["target_update_interval"], base.n_envs)
    return type(base).model_validate({**base.model_dump(), **values, "tuned": ""})


class TrialListener:
    """Reports a trial's validations, and gives it up where Optuna's pruner says so."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def started(self, steps: int) -> None:
        """Nothing to show."""

    def imitated(self, done: int, rounds: int, samples: int, regret: float) -> None:
        """Nothing to show."""

    def cloned(self, done: int, rounds: int, samples: int, differs: float) -> None:
        """Nothing to show."""

    def stepped(self, steps: int, simulated_s: float) -> None:
        """Nothing to show."""

    def validated(self, steps: int, found: Validation, best: bool) -> None:
        """Report the return; raises `optuna.TrialPruned`."""
        self._trial.report(found.score, steps)
        if self._trial.should_prune():
            raise optuna.TrialPruned(f"return {found.score:.4g} after {steps} steps")


def open_study(path: Path, name: str, seed: int) -> optuna.Study:
    """The study in a journal file, or a new one; trials that an interruption cut off count as failed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(path))),
        direction="maximize",
        load_if_exists=True,
        # chosen: half as many trials as Optuna's default before the median counts, as trainings are few.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0),
    )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    # The next trials are other ones than the first session's: the sampler's own state is not stored.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    return study


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: completed, given up, or diverged; not those that were interrupted."""
    return [t for t in study.get_trials() if t.state.is_finished() and not _cut_off(t)]


def _cut_off(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and "diverged" not in trial.user_attrs


def tune(
    training: Training, folder: RunFolder, interruption: Interruption, console: Console, progress: Console
) -> None:
    """Run trials until there are `training.config.tune`, then print the best and write its block.

    Raises:
        ConfigurationError: no trial came to an end.
        KeyboardInterrupt: the interruption was asked for; finished trials are kept.
    """
    config = training.config
    base = training.parameters
    if not isinstance(base, Hyperparameters):
        raise ConfigurationError(f"--tune knows no ranges for {config.algorithm}: expected another algorithm")
    study = open_study(folder.path / JOURNAL, f"{config.algorithm} on {config.env}", config.seed)
    # Scores alone: trials may differ in what they discount by.
    validator = Validator(config.env, training.validation, config.episodes)

    def objective(trial: Trial) -> float:
        parameters = suggest(trial, base)
        trial.set_user_attr("hyperparameters", parameters.model_dump(mode="json"))
        attempt = replace(training, parameters=parameters, config=replace(config, tensorboard=False))
        try:
            return train(attempt, None, TrialListener(trial), interruption, validator).record.best_score
        except DivergedError as error:
            trial.set_user_attr("diverged", str(error))
            raise

    while len(finished(study)) < config.tune:
        done = len(finished(study))
        with progress.status(f"trial {done + 1} of {config.tune}{_best_so_far(study, progress)}"):
            study.optimize(objective, n_trials=1, catch=(DivergedError,))
        if not progress.is_terminal:
            last = study.trials[-1]
            earned = "" if last.value is None else f", return {last.value:.6g}"
            best = _best_so_far(study, progress)
            say(progress, f"trial {done + 1} of {config.tune}: {last.state.name.lower()}{earned}{best}")
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        raise ConfigurationError(f"No trial of {config.tune} came to an end; expected at least one")
    folder.write(BEST_BLOCK, best_block(training, study))
    console.print(_table(training, complete))
    say(console, str(folder.path / BEST_BLOCK))


def _best_so_far(study: optuna.Study, progress: Console) -> str:
    """With --watch, the best of the trials that came to an end."""
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    known = [value for value in values if value is not None]
    return f"; best so far: return {max(known):.6g}" if known and getattr(progress, "watch", False) else ""


def best_block(training: Training, study: optuna.Study) -> str:
    """The best trial as a TOML file that `--hyperparameters` reads, marked with how it was found."""
    best = study.best_trial
    values = dict(best.user_attrs["hyperparameters"])
    values["tuned"] = (
        f"{command_of(training.config)}: trial {best.number} of {len(study.trials)}, "
        f"validation return {best.value:.6g}, papi_env {papi_env.__version__}"
    )
    lines = [f"{name} = {_toml(value)}" for name, value in values.items() if value is not None]
    return "\n".join((f'["{training.config.env}"]', *lines)) + "\n"


def _toml(value: Any) -> str:
    """A value as TOML writes it: JSON but for tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def _table(training: Training, trials: list[FrozenTrial]) -> Table:
    config = training.config
    table = Table(
        title=f"{config.algorithm} on {config.env}, {training.parameters.timesteps:,} steps a trial",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("trial", justify="right")
    table.add_column("return", justify="right")
    table.add_column("values", overflow="fold")
    for trial in sorted(trials, key=lambda t: -(t.value if t.value is not None else float("-inf")))[:5]:
        values = " ".join(
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in trial.params.items()
        )
        table.add_row(str(trial.number), f"{trial.value:.6g}", values)
    return table
