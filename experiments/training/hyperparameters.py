"""Hyper-parameters: which each algorithm has, and what their values may be; `hyperparameter_files` reads them.

Names are those of Stable-Baselines3; a rate is a number, or `{ start = 1e-3, end = 0.0 }`: linear over the training.
`tuned` says where the values come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

# What runs of earlier versions say nothing of, and none does where it is not used.
_LATER = frozenset(
    (
        "time_constant",
        "trace_s",
        "profile",
        "out_of_phase",
        "hold",
        "draws",
        "advice",
        "advice_weight",
        "cloning",
        "critic_until",
        "scale_by_setting",
        "scale_steps",
    )
)

_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]
_Seconds = Annotated[float, Field(ge=0)]
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


class Signed(Linear):
    """The same of a value that may be less than 0."""

    start: float
    end: float = 0.0


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


class Cloning(_Part):
    """How a training starts from the choices of a rule of Serving-v1 (see `experiments.training.cloning`).

    Attributes:
        rule: that is imitated, as `agents.learned.advice.make_adviser` reads it.
        rounds: of playing and fitting; the rule acts in the first, the network in the others.
        steps: of every environment in a round.
        updates: gradient steps after each round.
        batch_size, learning_rate: of these.
    """

    rule: str
    rounds: Annotated[int, Field(ge=1, le=100)] = 3
    steps: _Count = 256
    updates: _Count = 1000
    batch_size: _Count = 1024
    learning_rate: _Positive = 1e-3


def at(rate: float | Linear, remaining: float) -> float:
    """A rate's value where the share `remaining` of the training is still to do."""
    return rate(remaining) if isinstance(rate, Linear) else rate


class Learning(_Part):
    """What every algorithm has.

    Attributes:
        tuned: how the values were found; empty where nobody looked.
        timesteps: of the training, over all environments.
    """

    tuned: str = ""
    timesteps: _Count
    learning_rate: Rate

    @property
    def per_second(self) -> float | None:
        """The time constant of the discount in seconds, None where it counts steps or there is none."""
        return None


class OfNetwork(Learning):
    """What algorithms have that train a network that sees requests, in phases.

    Attributes:
        apart: share of the steps for which weights for all settings are gone on with for each traffic by itself, as
            rules are tuned for each family; 0: none; 1: all, each from where the training starts.
        horizon_s: simulated seconds of arrivals in an episode; 0: the scenario's own.
    """

    horizon_s: _Seconds = 0.0
    apart: Annotated[float, Field(ge=0, le=1)] = 0.0


class Evolution(OfNetwork):
    """Evolution strategies: weights are moved towards those perturbations that earn more.

    Attributes:
        learning_rate: falls within each part of the training, see `apart`.
        pairs: of weights in a generation, perturbed by a draw and by its opposite.
        sigma: standard deviation of a perturbation.
        settings: that a generation plays, drawn from all; of fewer there are several episodes each.
        episodes: of each setting, common to all weights of a generation.
    """

    pairs: Annotated[int, Field(ge=1, le=4096)]
    sigma: _Positive
    settings: _Count
    episodes: Annotated[int, Field(ge=1, le=1024)]


class ExpertIteration(OfNetwork):
    """Expert iteration: a planner looks ahead from states that the network visits, and it learns what pays there.

    Attributes:
        learning_rate: of the fit, by Adam.
        futures: imagined ones of a look, common to all plans; at least two, for their spread is the doubt.
        vary: outputs that a look varies, drawn for each; 0: all.
        seconds: for which a plan is followed before the network goes on by itself.
        leaf_s: seconds after a plan's when copies stop, and what is to come is what a second network expects; 0: they
            are played to their end.
        temperature: gains that make a plan e times more likely than none, in standard errors of a setting's gains.
        updates: gradient steps of a fit at most; batch_size: looks in one.
        looks: in a round, an even share of them in each setting.
        checks: episodes of each setting in a round, and as many on which weights are compared.
    """

    futures: Annotated[int, Field(ge=2, le=1024)]
    vary: Annotated[int, Field(ge=0, le=64)] = 0
    seconds: _Positive
    leaf_s: _Seconds = 0.0
    temperature: _Positive
    updates: _Count
    batch_size: _Count
    looks: _Count
    checks: Annotated[int, Field(ge=1, le=1024)]


class Hyperparameters(Learning):
    """What the algorithms of Stable-Baselines3 and sb3-contrib have.

    Attributes:
        n_envs: environments side by side, over all scenarios.
        flatten: number the joint actions, so that the policy has one choice (see `papi_env.envs.flatten`).
        normalize_reward: divide rewards by the running standard deviation of returns (SB3's `VecNormalize`).
        price_time, progress, holding: what training pays besides, in Serving-v0 (see `experiments.training.rewards`).
        time_constant: seconds after which a reward counts for 1/e, instead of gamma (see `papi_env.sb3_time`); 0, or
            none given: the discount counts steps. Only where a problem's time is continuous.
        net_arch: widths of the hidden layers, of the critic too where there is one.
        profile: observe the offline profile of the coming iteration, on Serving-v1.
        out_of_phase: begin with episodes at different times, on Serving-v1 (see `experiments.training.starts`).
        hold: iterations for which training keeps to a decision, which is one step (see `experiments.training.holding`).
    """

    n_envs: _Count
    flatten: bool = False
    normalize_reward: bool = False
    price_time: bool = False
    progress: bool = False
    holding: Annotated[float, Field(ge=0)] = 0.0
    gamma: _Share
    time_constant: _Seconds | None = None
    max_grad_norm: _Positive
    net_arch: _Widths
    activation: Literal["tanh", "relu"]
    profile: bool = False
    out_of_phase: bool = False
    hold: Annotated[int, Field(ge=1, le=4096)] = 1

    @model_validator(mode="after")
    def _holds_what_is_paid(self) -> Hyperparameters:
        if self.hold > 1 and (self.price_time or self.progress or self.holding):
            raise ValueError(
                "price_time, progress and holding are for steps of one iteration, expected hold=1"
            )
        return self

    @property
    def per_second(self) -> float | None:
        """The time constant of the discount in seconds, None where it counts steps."""
        return self.time_constant or None

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs from before these existed are recorded without them.
        dumped: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {
            name: value
            for name, value in dumped.items()
            if name not in _LATER or value != fields[name].default
        }

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
        trace_s: seconds in which lambda falls to 1/e, instead of gae_lambda; 0, or none given: gae_lambda, per step.
        ent_coef: weight of the entropy. Below 0 it makes the policy choose: what it draws half of the time in training
            it does always or never when it is played, where the most likely choice is taken.
        imitation: how the training starts; absent: from random weights.
        critic_first: steps in which the critic alone learns, so that what imitation found is not lost to its errors.
        critic_until: within these steps the actor begins to learn once the critic explains this share of the variance
            of returns within settings; 0: not before they are over.
        draws: validate and play options as they are drawn in training, not the most likely one of each choice.
        cloning: start from a rule's choices instead; absent: from random weights.
        advice: a rule of Serving-v1 whose choices are read, with `advice_weight` in the logit of each: so the training
            starts from what the rule does (see `agents.learned.advice`); empty: none.
        scale_by_setting: with normalize_reward, over the deviation of each setting's own returns; scale_steps: for how
            many steps that is followed, then it stays; 0: to the end.
    """

    n_steps: _Count
    gae_lambda: _Share
    trace_s: _Seconds | None = None
    ent_coef: float | Linear | Signed
    vf_coef: Annotated[float, Field(ge=0)]
    normalize_advantage: bool
    imitation: Imitation | None = None
    critic_first: Annotated[int, Field(ge=0)] = 0
    draws: bool = False
    critic_until: Annotated[float, Field(ge=0, lt=1)] = 0.0
    cloning: Cloning | None = None
    advice: str = ""
    advice_weight: _Positive = 4.0
    scale_by_setting: bool = False
    scale_steps: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_start(self) -> ActorCritic:
        if self.cloning is not None and self.imitation is not None and self.imitation.rounds:
            raise ValueError("cloning and imitation are two ways to start, expected one of them")
        if (self.cloning is not None or self.advice) and self.flatten:
            raise ValueError(
                "a rule's choices may have no number among joint actions, expected flatten=false"
            )
        if self.critic_until and not self.critic_first:
            raise ValueError("critic_until is within critic_first steps, expected both")
        if self.scale_by_setting and not self.normalize_reward:
            raise ValueError("scale_by_setting is how rewards are normalised, expected normalize_reward=true")
        if self.scale_steps and not self.scale_by_setting:
            raise ValueError("scale_steps is for scales by setting, expected scale_by_setting=true")
        return self

    @model_validator(mode="after")
    def _one_clock(self) -> ActorCritic:
        if self.trace_s and not self.time_constant:
            raise ValueError(f"trace_s is {self.trace_s} s without a time_constant, expected both in seconds")
        return self

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

    @model_validator(mode="after")
    def _starts_by_itself(self) -> RecurrentPpo:
        if self.advice or self.cloning is not None:
            raise ValueError("advice and cloning are for networks without an LSTM, expected neither")
        return self


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


KINDS: Mapping[str, type[Learning]] = {
    "ppo": Ppo,
    "a2c": A2c,
    "dqn": Dqn,
    "maskable-ppo": Ppo,
    "recurrent-ppo": RecurrentPpo,
    "qr-dqn": QrDqn,
    "evolution": Evolution,
    "expert-iteration": ExpertIteration,
}
