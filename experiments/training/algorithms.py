"""The algorithms of Stable-Baselines3 and sb3-contrib, built from hyper-parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents.learned.advice import NUM_ADVICE
from agents.learned.advised import AdvisedVecEnv
from experiments.training.holding import Held
from experiments.training.hyperparameters import ActorCritic, Hyperparameters, RecurrentPpo, at
from experiments.training.residual import MaskableResidualPolicy, ResidualPolicy, start_from_advice
from experiments.training.rewards import TrainingReward
from experiments.training.scaling import NormalizeBySetting
from experiments.training.starts import Staggered
from papi_env.errors import ConfigurationError
from papi_env.sb3_time import NormalizeInSeconds, discount_per_second

_ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}
# Not arguments of the algorithm's class: of the run, the environment, or the network.
_OTHERS = frozenset(
    (
        "tuned",
        "time_constant",
        "trace_s",
        "timesteps",
        "n_envs",
        "flatten",
        "normalize_reward",
        "price_time",
        "progress",
        "holding",
        "imitation",
        "critic_first",
        "critic_until",
        "cloning",
        "profile",
        "out_of_phase",
        "hold",
        "draws",
        "advice",
        "advice_weight",
        "scale_by_setting",
        "scale_steps",
        "net_arch",
        "activation",
        "lstm_hidden_size",
        "n_lstm_layers",
        "enable_critic_lstm",
        "n_quantiles",
    )
)


@dataclass(frozen=True)
class Algorithm:
    """An algorithm's class and network.

    Attributes:
        discrete_only: it takes no `MultiDiscrete` actions, so they must be flattened.
        actor_critic: it has a critic besides the policy.
    """

    make: type[BaseAlgorithm]
    policy: str
    discrete_only: bool = False
    actor_critic: bool = True


ALGORITHMS: Mapping[str, Algorithm] = {
    "ppo": Algorithm(PPO, "MlpPolicy"),
    "a2c": Algorithm(A2C, "MlpPolicy"),
    "dqn": Algorithm(DQN, "MlpPolicy", discrete_only=True, actor_critic=False),
    "maskable-ppo": Algorithm(MaskablePPO, "MlpPolicy"),
    "recurrent-ppo": Algorithm(RecurrentPPO, "MlpLstmPolicy"),
    "qr-dqn": Algorithm(QRDQN, "MlpPolicy", discrete_only=True, actor_critic=False),
}


_RESIDUAL: Mapping[type[BaseAlgorithm], Any] = {
    PPO: ResidualPolicy,
    A2C: ResidualPolicy,
    MaskablePPO: MaskableResidualPolicy,
}


def flattens(name: str, parameters: Hyperparameters) -> bool:
    """Whether joint actions are numbered: where the algorithm needs it, or the hyper-parameters ask."""
    return parameters.flatten or ALGORITHMS[name].discrete_only


def build_model(name: str, parameters: Hyperparameters, envs: VecEnv, seed: int) -> BaseAlgorithm:
    """An untrained model on the CPU, where networks this small train fastest.

    Args:
        name: of `ALGORITHMS`.
        parameters: of that algorithm.
        envs: made with `flattens(...)`; wrapped here if rewards are normalised.
        seed: of weights and exploration; the environments keep seeds of their own.
    """
    algorithm = ALGORITHMS[name]
    if envs.num_envs != parameters.n_envs:
        raise ConfigurationError(f"{envs.num_envs} environments, but n_envs is {parameters.n_envs}")
    arguments: dict[str, Any] = {}
    for key in type(parameters).model_fields:
        if key in _OTHERS:
            continue
        value = getattr(parameters, key)
        # SB3 has no schedule of the entropy's weight: training sets it (see `train_callbacks`).
        arguments[key] = at(value, 1.0) if key == "ent_coef" else value
    layers = list(parameters.net_arch)
    network: dict[str, Any] = {
        "activation_fn": _ACTIVATIONS[parameters.activation],
        "net_arch": {"pi": layers, "vf": layers} if algorithm.actor_critic else layers,
    }
    if isinstance(parameters, RecurrentPpo):
        for key in ("lstm_hidden_size", "n_lstm_layers", "enable_critic_lstm"):
            network[key] = getattr(parameters, key)
    if hasattr(parameters, "n_quantiles"):
        network["n_quantiles"] = parameters.n_quantiles
    seconds = parameters.per_second
    advice = getattr(parameters, "advice", "")
    if parameters.out_of_phase:
        envs = Staggered(envs)
    if advice:
        envs = AdvisedVecEnv(envs, advice)
        network["skip"] = NUM_ADVICE
    if parameters.hold > 1:
        envs = Held(envs, parameters.hold, seconds)
    if parameters.price_time or parameters.progress or parameters.holding:
        envs = TrainingReward(
            envs, parameters.gamma, parameters.price_time, parameters.progress, parameters.holding, seconds
        )
    if isinstance(parameters, ActorCritic) and parameters.scale_by_setting:
        envs = NormalizeBySetting(envs, parameters.gamma, seconds, parameters.scale_steps)
    elif parameters.normalize_reward:
        envs = (
            VecNormalize(envs, norm_obs=False, gamma=parameters.gamma)
            if seconds is None
            else NormalizeInSeconds(envs, seconds)
        )
    model = algorithm.make(
        _RESIDUAL[algorithm.make] if advice else algorithm.policy,
        envs,
        seed=seed,
        device="cpu",
        policy_kwargs=network,
        **arguments,
    )
    if isinstance(parameters, ActorCritic) and advice:
        start_from_advice(model, parameters.advice_weight)
    # Without one SB3 makes a folder for its own.
    model.set_logger(Logger(None, []))
    if seconds is not None:
        discount_per_second(model, seconds, getattr(parameters, "trace_s", None) or None)
    return model
