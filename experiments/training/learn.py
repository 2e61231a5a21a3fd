"""Learning itself: a model trained to the end, from where it stands."""

from __future__ import annotations

from pathlib import Path

import torch
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

from experiments.training.algorithms import build_model, flattens
from experiments.training.callbacks import Boundary
from experiments.training.cloning import clone
from experiments.training.evaluation import Validator
from experiments.training.hyperparameters import Hyperparameters
from experiments.training.imitation import imitate
from experiments.training.interruption import Interruption
from experiments.training.plan import Training
from experiments.training.record import STATE, Listener
from experiments.training.settings import imitation_seeds, training_envs, training_seed
from experiments.training.state import load_state
from papi_env.errors import ConfigurationError


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
    assert isinstance(parameters, Hyperparameters)
    torch.set_num_threads(config.threads)
    envs = training_envs(
        config.env,
        training.settings,
        parameters.n_envs,
        flattens(config.algorithm, parameters),
        parameters.profile,
    )
    model = build_model(config.algorithm, parameters, envs, config.seed)
    envs.seed(training_seed(config.seed))  # the model has given them its own
    if validator is None:
        validator = Validator(config.env, training.validation, config.episodes, parameters.per_second)
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
        boundary.take_over(state, load_state(state, model))
    if model.num_timesteps >= parameters.timesteps:
        boundary.init_callback(model)
        return boundary
    start = getattr(parameters, "imitation", None)
    if start is not None and start.rounds and not going_on:
        seeds = imitation_seeds(config.seed, start.rounds * start.episodes)
        imitate(model, training.settings, config.env, start, seeds, interruption, listener)
    rule = getattr(parameters, "cloning", None)
    if rule is not None and not going_on:
        clone(model, rule, config.seed, interruption, listener)
    try:
        model.learn(
            parameters.timesteps - model.num_timesteps, callback=boundary, reset_num_timesteps=not going_on
        )
    except ConfigurationError:
        raise
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
