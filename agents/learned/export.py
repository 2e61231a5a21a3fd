"""From a trained model of Stable-Baselines3 or sb3-contrib to a checkpoint that needs neither.

    save_policy(model, "policies/mine", env_id="papi_env/Kernels-v0")

Kept is what acts: the actor of PPO, A2C, MaskablePPO and RecurrentPPO, the network of values of DQN. Of QR-DQN,
which acts on the mean of its quantiles, it is the mean: the last layer's rows are averaged over the quantiles.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn

from agents.environments import numbering_of, problems_of
from agents.learned.advice import NUM_ADVICE
from agents.learned.advised import advised
from agents.learned.checkpoint import (
    ActionLayout,
    Checkpoint,
    Description,
    ObservationLayout,
    save_checkpoint,
)
from agents.learned.networks import Architecture, Float32Array, LstmShape
from agents.learned.policy import options_of
from papi_env.errors import ConfigurationError

ACTOR_CRITIC = ("PPO", "A2C", "MaskablePPO", "RecurrentPPO")
VALUE_BASED = ("DQN", "QRDQN")
_ACTIVATIONS: Mapping[type[nn.Module], str] = {nn.Tanh: "tanh", nn.ReLU: "relu"}


def save_policy(
    model: BaseAlgorithm,
    folder: str | os.PathLike[str],
    *,
    env_id: str,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model's policy as a checkpoint; see `export_policy`. Returns the folder's path."""
    return save_checkpoint(folder, export_policy(model, env_id=env_id, training=training))


def export_policy(
    model: BaseAlgorithm, *, env_id: str, training: Mapping[str, Any] | None = None, draws: bool = False
) -> Checkpoint:
    """A copy of what a model has learned so far.

    Args:
        model: with its environment, one of `papi_env.sb3` (any number of them, mixed or wrapped).
        env_id: such as `papi_env/Kernels-v0`.
        training: plain data for the description.
        draws: whether the policy plays what it draws.

    Raises:
        ConfigurationError: an algorithm or network that a checkpoint cannot hold.
        DataError: weights that are not finite.
    """
    algorithm = type(model).__name__
    env = model.get_env()
    if env is None:
        raise ConfigurationError(f"The {algorithm} has no environment; its observations have no names")
    normalized = model.get_vec_normalize_env()
    if normalized is not None and normalized.norm_obs:
        raise ConfigurationError(
            "VecNormalize changes the observations, which a checkpoint takes as they are; expected norm_obs=False"
        )
    problems = problems_of(env)
    problem = problems[0]
    native, used = options_of(problem.single_space()), options_of(model.action_space)
    flat = used != native
    policy: Any = model.policy
    if algorithm in ACTOR_CRITIC:
        if not isinstance(policy.features_extractor, FlattenExtractor):
            raise _unknown("a feature extractor", policy.features_extractor)
        layers, head = list(policy.mlp_extractor.policy_net), policy.action_net
    elif algorithm in VALUE_BASED:
        network = policy.q_net.q_net if algorithm == "DQN" else policy.quantile_net.quantile_net
        *layers, head = list(network)
    else:
        raise ConfigurationError(
            f"No checkpoint holds a {algorithm}; expected one of {', '.join((*ACTOR_CRITIC, *VALUE_BASED))}"
        )
    adviser = advised(env)
    names = problem.observation_names if adviser is None else adviser.observation_names
    lstm = policy.lstm_actor if algorithm == "RecurrentPPO" else None
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    architecture = Architecture(
        inputs=len(names),
        lstm=None if lstm is None else LstmShape(hidden_size=lstm.hidden_size, layers=lstm.num_layers),
        hidden=tuple(layer.out_features for layer in linear),
        activation=_activation(layers),  # type: ignore[arg-type]
        head="categorical" if algorithm in ACTOR_CRITIC else "values",
        options=used,
        skip=0 if adviser is None else NUM_ADVICE,
    )
    weights = _lstm_tensors(lstm) if lstm is not None else {}
    for i, layer in enumerate(linear):
        weights[f"hidden.{i}.weight"], weights[f"hidden.{i}.bias"] = _array(layer.weight), _array(layer.bias)
    quantiles = policy.quantile_net.n_quantiles if algorithm == "QRDQN" else 1
    weights["head.weight"], weights["head.bias"] = (
        _mean_of_quantiles(_array(tensor), quantiles) for tensor in (head.weight, head.bias)
    )
    scenarios: list[dict[str, Any]] = []
    for each in problems:
        data = each.scenario.model_dump(mode="json")
        if data not in scenarios:
            scenarios.append(data)
    description = Description(
        algorithm=algorithm,
        env=env_id,
        observation=ObservationLayout(names=names),
        action=ActionLayout(options=native, flat=flat),
        architecture=architecture,
        masked=algorithm == "MaskablePPO",
        scenarios=tuple(scenarios),
        training=dict(training or {}),
        advice="" if adviser is None else adviser.advice,
        draws=draws,
    )
    joint_actions: npt.NDArray[np.int64] | None = np.array(numbering_of(env)) if flat else None
    return Checkpoint(description, weights, joint_actions)


def _activation(layers: Sequence[nn.Module]) -> str:
    """The one activation that follows every hidden layer."""
    kinds = {type(layer) for layer in layers[1::2]}
    if len(kinds) > 1 or not all(isinstance(layer, nn.Linear) for layer in layers[::2]) or len(layers) % 2:
        raise _unknown("layers", layers)
    kind = next(iter(kinds), nn.Tanh)
    if kind not in _ACTIVATIONS:
        raise _unknown("an activation", kind.__name__)
    return _ACTIVATIONS[kind]


def _lstm_tensors(lstm: nn.LSTM) -> dict[str, Float32Array]:
    tensors = {}
    for layer in range(lstm.num_layers):
        parts = {
            kind: getattr(lstm, f"{kind}_l{layer}")
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        tensors[f"lstm.{layer}.input"] = _array(parts["weight_ih"])
        tensors[f"lstm.{layer}.recurrent"] = _array(parts["weight_hh"])
        tensors[f"lstm.{layer}.bias"] = _array(parts["bias_ih"] + parts["bias_hh"])
    return tensors


def _mean_of_quantiles(rows: Float32Array, quantiles: int) -> Float32Array:
    """Average rows [quantiles x actions, ...], ordered as QR-DQN's network orders them, over the quantiles."""
    if quantiles == 1:
        return rows
    by_quantile = rows.reshape(quantiles, -1, *rows.shape[1:])
    return np.asarray(by_quantile.mean(axis=0, dtype=np.float64), dtype=np.float32)


def _array(tensor: Tensor) -> Float32Array:
    """A copy as float32, that training does not change."""
    return np.array(tensor.detach().cpu().numpy(), dtype=np.float32)


def _unknown(kind: str, found: object) -> ConfigurationError:
    return ConfigurationError(
        f"A checkpoint cannot hold {kind} {found}; expected MlpPolicy or MlpLstmPolicy with tanh or relu"
    )
