"""Hyper-parameters: a file per algorithm, a block per environment, checked where they enter.

`agents/hyperparameters/<algorithm>.toml` has a table `[default]` and, under the id of an environment, what differs
there. Names are those of Stable-Baselines3; a rate is a number, or `{ start = 1e-3, end = 0.0 }`: linear over the
training. `tuned` says where a block's values come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.common.runner import ROOT
from papi_env.envs.registration import ENV_IDS
from papi_env.errors import ConfigurationError, describe_validation, lookup, unknown_name
from papi_env.files import parse_toml, read_toml

FOLDER = ROOT / "agents" / "hyperparameters"
DEFAULT = "default"

_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]
_Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=1 << 14)], ...], Field(max_length=16)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Linear(_Part):
    """A value that goes from `start` to `end` in proportion to the steps done."""

    start: float = Field(ge=0)
    end: float = Field(0.0, ge=0)

    def __call__(self, remaining: float) -> float:
        """The value where the share `remaining` of the training is still to do, 1 at the beginning."""
        return self.end + (self.start - self.end) * remaining


Rate = Annotated[float, Field(ge=0)] | Linear


class Imitation(_Part):
    """How a training starts from imitation (see `experiments.training.imitation`).

    Attributes:
        rounds: of playing and fitting; 0 for no imitation.
        episodes: of every setting in each round.
        stride: steps from one sample to the next.
        updates: gradient steps after each round, three times as many after the last.
        batch_size, learning_rate: of these.
        temperature: relative regret at which an action should be e times less likely than the best.
        prompts: of Serving-v0, what a prompt token counts for, in multiples of `agents.serving.oracles.prompt_weight`.
    """

    rounds: Annotated[int, Field(ge=0, le=100)]
    episodes: Annotated[int, Field(ge=1, le=256)]
    stride: Annotated[int, Field(ge=1, le=1000)] = 1
    updates: _Count = 2000
    batch_size: _Count = 1024
    learning_rate: _Positive = 3e-3
    temperature: _Positive = 0.01
    prompts: Annotated[float, Field(ge=0)] = 1.0


def at(rate: float | Linear, remaining: float) -> float:
    """A rate's value where the share `remaining` of the training is still to do."""
    return rate(remaining) if isinstance(rate, Linear) else rate


class Hyperparameters(_Part):
    """What every algorithm has.

    Attributes:
        tuned: how the values were found; empty where nobody looked.
        timesteps: of the training, over all environments.
        n_envs: environments side by side, over all scenarios.
        flatten: number the joint actions, so that the policy has one choice (see `papi_env.envs.flatten`).
        normalize_reward: divide rewards by the running standard deviation of returns (SB3's `VecNormalize`).
        price_time, progress, holding: what training pays besides, in Serving-v0 (see `experiments.training.rewards`).
        net_arch: widths of the hidden layers, of the critic too where there is one.
    """

    tuned: str = ""
    timesteps: _Count
    n_envs: _Count
    flatten: bool = False
    normalize_reward: bool = False
    price_time: bool = False
    progress: bool = False
    holding: Annotated[float, Field(ge=0)] = 0.0
    learning_rate: Rate
    gamma: _Share
    max_grad_norm: _Positive
    net_arch: _Widths
    activation: Literal["tanh", "relu"]

    @property
    def rollout(self) -> int:
        """Steps, over all environments, between two places where training can stop."""
        return self.n_envs

    def entropy(self, remaining: float) -> float | None:
        """Weight of the entropy, None where the algorithm has none."""
        return None


class ActorCritic(Hyperparameters):
    """What the on-policy algorithms share.

    Attributes:
        imitation: how the training starts; absent: from random weights.
        critic_first: steps in which the critic alone learns, so that what imitation found is not lost to its errors.
    """

    n_steps: _Count
    gae_lambda: _Share
    ent_coef: Rate
    vf_coef: Annotated[float, Field(ge=0)]
    normalize_advantage: bool
    imitation: Imitation | None = None
    critic_first: Annotated[int, Field(ge=0)] = 0

    @property
    def rollout(self) -> int:
        """Steps of a rollout."""
        return self.n_envs * self.n_steps

    def entropy(self, remaining: float) -> float | None:
        """Weight of the entropy in the loss."""
        return at(self.ent_coef, remaining)


class A2c(ActorCritic):
    """A2C."""

    use_rms_prop: bool


class Ppo(ActorCritic):
    """PPO and MaskablePPO."""

    batch_size: _Count
    n_epochs: _Count
    clip_range: Rate
    target_kl: _Positive | None = None

    @model_validator(mode="after")
    def _whole_batches(self) -> Ppo:
        if self.batch_size < 2:
            raise ValueError("batch_size is 1, expected at least 2: advantages are compared within a batch")
        if self.rollout % self.batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}, expected a divisor of n_envs x n_steps = {self.rollout}"
            )
        return self


class RecurrentPpo(Ppo):
    """RecurrentPPO: an LSTM before the hidden layers of the actor, and one of the critic's own if asked."""

    lstm_hidden_size: _Count
    n_lstm_layers: _Count
    enable_critic_lstm: bool


class Dqn(Hyperparameters):
    """DQN. `train_freq` counts steps of all environments together as one, as SB3 does."""

    batch_size: _Count
    buffer_size: _Count
    learning_starts: Annotated[int, Field(ge=0)]
    tau: _Share
    train_freq: _Count
    gradient_steps: Annotated[int, Field(ge=-1)]
    target_update_interval: _Count
    exploration_fraction: _Share
    exploration_initial_eps: _Share
    exploration_final_eps: _Share

    @property
    def rollout(self) -> int:
        """Steps between two trainings."""
        return self.n_envs * self.train_freq

    @model_validator(mode="after")
    def _enough(self) -> Dqn:
        if self.target_update_interval < self.n_envs:
            raise ValueError(
                f"target_update_interval is {self.target_update_interval}, expected at least n_envs = {self.n_envs}"
            )
        if self.buffer_size < self.n_envs:
            raise ValueError(f"buffer_size is {self.buffer_size}, expected at least n_envs = {self.n_envs}")
        return self


class QrDqn(Dqn):
    """QR-DQN."""

    n_quantiles: _Count


KINDS: Mapping[str, type[Hyperparameters]] = {
    "ppo": Ppo,
    "a2c": A2c,
    "dqn": Dqn,
    "maskable-ppo": Ppo,
    "recurrent-ppo": RecurrentPpo,
    "qr-dqn": QrDqn,
}


def load_hyperparameters(
    algorithm: str, env_id: str, overrides: Sequence[str] = (), path: Path | None = None
) -> Hyperparameters:
    """The values of an algorithm on an environment.

    Args:
        algorithm: a name of `KINDS`.
        env_id: such as `papi_env/Kernels-v0`.
        overrides: `NAME=VALUE`, the value as TOML writes it: `gamma=0.9`, `net_arch=[64, 64]`.
        path: a file instead of the algorithm's own.

    Raises:
        ConfigurationError, DataError: a name or value that does not fit; the message says where.
    """
    kind = lookup("algorithm", algorithm, KINDS)
    path = FOLDER / f"{algorithm}.toml" if path is None else path
    blocks = _blocks(path)
    values = {**blocks.get(DEFAULT, {}), **blocks.get(env_id, {})}
    where = f"{path} ({env_id})"
    if overrides:
        values.update(_overrides(overrides, values))
        where += f" with {' '.join(overrides)}"
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise describe_validation(where, error, (*kind.model_fields, *Linear.model_fields)) from None


def _blocks(path: Path) -> dict[str, dict[str, Any]]:
    """The tables of a file, whose names are ids or `default`."""
    blocks = read_toml(path)
    for name, block in blocks.items():
        if not isinstance(block, dict) or name not in (DEFAULT, *ENV_IDS):
            error_ = unknown_name("block", name, (DEFAULT, *ENV_IDS))
            raise ConfigurationError(f"{path}: {error_}")
    return blocks


def _overrides(texts: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name from NAME=VALUE; `tuned` is no longer true of what they change."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if not equals:
                raise ValueError
            found[name.strip()] = parse_toml(f"value = {value}")["value"]
        except ValueError:
            raise ConfigurationError(
                f"Hyper-parameter {text!r}: expected NAME=VALUE with a TOML value, such as gamma=0.9 or "
                "net_arch=[64,64]"
            ) from None
    if "tuned" not in found and any(values.get(name) != value for name, value in found.items()):
        found["tuned"] = ""
    return found
