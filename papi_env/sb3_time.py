"""A discount per second for Stable-Baselines3, where a step takes as long as its iteration.

    from stable_baselines3 import PPO
    from papi_env.sb3 import make_vec
    from papi_env.sb3_time import discount_per_second

    envs = make_vec("papi_env/Serving-v0", num_envs=64)
    model = PPO("MlpPolicy", envs)
    discount_per_second(model, time_constant=10.0)
    model.learn(1_000_000)

SB3 discounts per step: two iterations of 20 ms count for less than one of 40 ms that does the same, so that learners
come to prefer long iterations. Here what follows a step of dt seconds counts for exp(-dt / time constant), as in a
semi-Markov decision process (Bradtke and Duff, NeurIPS 1994): with the value V of what is observed after the step,

    return = reward + exp(-dt / time constant) V.

The reward itself counts in full. What a step of dt seconds earns at its end is thus counted dt too early, by
dt / time constant of itself: 0.5 % for an iteration of 50 ms and a time constant of 10 s.

* PPO, A2C, MaskablePPO and RecurrentPPO compute advantages (Schulman et al., ICLR 2016) with the discount of each
  step. Their lambda stays a number per step (`gae_lambda`), or decays by seconds too (`trace_s`): then advantages do
  not change where a step is split in two that do the same.
* DQN and QR-DQN keep each transition's discount in the replay buffer, and compute targets with it.
* `NormalizeInSeconds` is SB3's `VecNormalize` whose running returns decay by seconds.

Needs the extra `learn`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray


def discounts(seconds: FloatArray, time_constant: float) -> FloatArray:
    """What is `seconds` away counts for exp(-seconds / time_constant), float64 of the same shape."""
    found: FloatArray = np.exp(seconds / -time_constant)
    return found


def elapsed_s(envs: VecEnv) -> FloatArray:
    """Float64 [num_envs]: seconds of each environment's last step.

    Raises:
        ConfigurationError: the environments count steps.
    """
    # The outermost that has it: a wrapper whose step is several has the seconds of all.
    while isinstance(envs, VecEnvWrapper) and "elapsed_s" not in vars(envs):
        envs = envs.venv
    found: FloatArray | None = getattr(envs, "elapsed_s", None)
    if found is None:
        raise ConfigurationError(
            "The environments do not say how many seconds a step takes, expected a papi_env.sb3.make_vec of a problem "
            'whose info has "dt_s", such as papi_env/Serving-v0; of the others a discount counts steps'
        )
    return found


def check_seconds(name: str, value: float) -> None:
    """Raise ConfigurationError where a time constant is no positive, finite number of seconds."""
    if not (np.isfinite(value) and value > 0):
        raise ConfigurationError(f"{name} is {value!r} s, expected a positive, finite number of seconds")


class StepClock(VecEnvWrapper):
    """The environments unchanged; what the last step took and paid stays at hand for buffers.

    Attributes:
        seconds: float64 [num_envs], of the last step.
        rewards: [num_envs], as the environments gave them; algorithms add to theirs.
        steps: taken so far.
    """

    def __init__(self, envs: VecEnv) -> None:
        super().__init__(envs)
        self.steps = 0
        self.seconds = np.zeros(envs.num_envs)
        self.rewards: npt.NDArray[Any] = np.zeros(envs.num_envs)

    def reset(self) -> Any:
        """Start episodes."""
        observations = self.venv.reset()
        elapsed_s(self.venv)  # refuses problems that count steps before anything is learned
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        """A step; notes its seconds and rewards."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self.seconds[:] = elapsed_s(self.venv)
        self.rewards = rewards.copy()
        self.steps += 1
        return observations, rewards, dones, infos


class NormalizeInSeconds(VecNormalize):
    """`VecNormalize` of rewards, whose running returns decay by seconds; observations pass unchanged."""

    def __init__(self, envs: VecEnv, time_constant: float) -> None:
        check_seconds("time_constant", time_constant)
        super().__init__(envs, norm_obs=False)
        self.time_constant = time_constant

    def _update_reward(self, reward: npt.NDArray[Any]) -> None:
        self.returns = self.returns * discounts(elapsed_s(self.venv), self.time_constant) + reward
        self.ret_rms.update(self.returns)


class _Follower:
    """What buffers have to follow a clock. `follow` sets it, as algorithms make buffers before they have one."""

    clock: StepClock
    time_constant: float
    _seen: int

    def follow(self, clock: StepClock, time_constant: float) -> None:
        """Take the seconds of coming steps from `clock`."""
        self.clock, self.time_constant = clock, time_constant
        self._seen = clock.steps

    def _check_clock(self) -> None:
        """Refuse steps of other environments than the clock's; others may have stepped the clock's in between."""
        if self.clock.steps == self._seen:
            raise ConfigurationError(
                "The model took a step in other environments than those whose seconds its buffer follows; call "
                "discount_per_second(model, ...) again after set_env()"
            )
        self._seen = self.clock.steps


class _RolloutInSeconds(_Follower):
    """A rollout buffer whose returns and advantages are discounted by the seconds of each step.

    Attributes:
        seconds: float64 [steps, num_envs].
        trace_s: seconds in which lambda falls to 1/e; None where it is a number per step.
    """

    trace_s: float | None
    seconds: FloatArray

    def reset(self) -> None:
        """Forget the rollout."""
        buffer: Any = self
        super().reset()  # type: ignore[misc]
        self.seconds = np.zeros((buffer.buffer_size, buffer.n_envs))

    def add(self, *step: Any, **more: Any) -> None:
        """Keep a step.

        Where a time limit cut an episode off, the algorithm has added the value of its last observation to the
        reward, undiscounted, as its own gamma is 1: that is discounted here.
        """
        buffer: Any = self
        observations, actions, reward, *rest = step
        self._check_clock()
        paid, seconds = self.clock.rewards, self.clock.seconds
        self.seconds[buffer.pos] = seconds
        reward = paid + discounts(seconds, self.time_constant) * (reward - paid)
        super().add(observations, actions, reward, *rest, **more)  # type: ignore[misc]

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: npt.NDArray[np.bool_]) -> None:
        """Advantages and returns, float32 [steps, num_envs].

        Args:
            last_values: float32 [num_envs], of what is observed after the last step.
            dones: bool [num_envs], whether it ended an episode.
        """
        buffer: Any = self
        values = buffer.values.astype(np.float64)
        after = np.concatenate((values[1:], last_values.detach().cpu().numpy().reshape(1, -1)))
        goes_on = 1.0 - np.concatenate((buffer.episode_starts[1:], dones[None]))
        discount = discounts(self.seconds, self.time_constant) * goes_on
        trace = buffer.gae_lambda if self.trace_s is None else discounts(self.seconds, self.trace_s)
        errors, carried = buffer.rewards + discount * after - values, discount * trace
        advantage = np.zeros(buffer.n_envs)
        for step in reversed(range(buffer.buffer_size)):
            advantage = errors[step] + carried[step] * advantage
            buffer.advantages[step] = advantage
        buffer.returns = buffer.advantages + buffer.values


class RolloutInSeconds(_RolloutInSeconds, RolloutBuffer):
    """Of PPO and A2C."""


class MaskableRolloutInSeconds(_RolloutInSeconds, MaskableRolloutBuffer):
    """Of MaskablePPO."""


class RecurrentRolloutInSeconds(_RolloutInSeconds, RecurrentRolloutBuffer):
    """Of RecurrentPPO."""


class ReplayInSeconds(_Follower, ReplayBuffer):
    """A replay buffer, of DQN and QR-DQN, that keeps each transition's discount.

    Attributes:
        discounts: float32 [size, num_envs], of what follows each transition.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.discounts = np.ones((self.buffer_size, self.n_envs), dtype=np.float32)

    def add(self, *transition: Any, **more: Any) -> None:
        """Keep a transition of every environment."""
        self._check_clock()
        self.discounts[self.pos] = discounts(self.clock.seconds, self.time_constant)
        super().add(*transition, **more)

    def _get_samples(
        self, batch_inds: npt.NDArray[np.int64], env: VecNormalize | None = None
    ) -> ReplayBufferSamples:
        # Drawn as SB3 draws them, from NumPy's shared generator.
        rows = batch_inds, np.random.randint(0, high=self.n_envs, size=len(batch_inds))  # noqa: NPY002
        ended = self.dones[rows] * (1.0 - self.timeouts[rows])
        rewards = self._normalize_reward(self.rewards[rows][:, None], env)
        return ReplayBufferSamples(
            observations=self.to_torch(self._normalize_obs(self.observations[rows], env)),  # type: ignore[arg-type]
            actions=self.to_torch(self.actions[rows]),
            next_observations=self.to_torch(self._normalize_obs(self.next_observations[rows], env)),  # type: ignore[arg-type]
            dones=self.to_torch(ended[:, None].astype(np.float32)),
            rewards=self.to_torch(rewards.astype(np.float32)),
            discounts=self.to_torch(self.discounts[rows][:, None]),
        )


_ROLLOUTS: Mapping[type, Any] = {
    RolloutBuffer: RolloutInSeconds,
    MaskableRolloutBuffer: MaskableRolloutInSeconds,
    RecurrentRolloutBuffer: RecurrentRolloutInSeconds,
}


def discount_per_second(model: BaseAlgorithm, time_constant: float, trace_s: float | None = None) -> None:
    """Let a model that has not learned yet discount by seconds instead of steps.

    Its gamma has no say any more, and is 1. Files that SB3 saves hold neither environments nor buffers: call this again
    after `load` and after `set_env`; buffers start empty then.

    Args:
        model: PPO, A2C, DQN, MaskablePPO, RecurrentPPO or QR-DQN on environments of `papi_env.sb3`, wrapped or not.
        time_constant: seconds after which a reward counts for 1/e.
        trace_s: of algorithms that have `gae_lambda`, seconds in which lambda falls to 1/e; None: it stays a number per
            step.

    Raises:
        ConfigurationError: a number that is no time, an algorithm of another kind, or a replay buffer with returns of
            several steps or with one copy of observations.
    """
    check_seconds("time_constant", time_constant)
    if trace_s is not None:
        check_seconds("trace_s", trace_s)
    clock = _clock(model)
    if hasattr(model, "rollout_buffer"):
        model.rollout_buffer = _rollout(model.rollout_buffer, clock, time_constant, trace_s)
    else:
        if trace_s is not None:
            raise ConfigurationError(f"{type(model).__name__} has no lambda, expected no trace_s")
        replay: Any = getattr(model, "replay_buffer", None)
        model.replay_buffer = _replay(model, replay, clock, time_constant)  # type: ignore[attr-defined]
    model.env = clock
    model.gamma = 1.0  # type: ignore[attr-defined]


def _clock(model: BaseAlgorithm) -> StepClock:
    envs = model.get_env()
    if envs is None:
        raise ConfigurationError(f"The {type(model).__name__} has no environments, expected set_env() before")
    return envs if isinstance(envs, StepClock) else StepClock(envs)


def _rollout(old: Any, clock: StepClock, time_constant: float, trace_s: float | None) -> Any:
    kinds: dict[type, Any] = {**_ROLLOUTS, **{kind: kind for kind in _ROLLOUTS.values()}}
    kind = kinds.get(type(old))
    if kind is None:
        raise ConfigurationError(
            f"The rollout buffer is a {type(old).__name__}, expected one of "
            f"{', '.join(known.__name__ for known in _ROLLOUTS)}"
        )
    shape = (old.hidden_state_shape,) if isinstance(old, RecurrentRolloutBuffer) else ()
    spaces = old.observation_space, old.action_space
    new: Any = kind(
        old.buffer_size, *spaces, *shape, old.device, old.gae_lambda, gamma=1.0, n_envs=old.n_envs
    )
    new.trace_s = trace_s
    new.follow(clock, time_constant)
    return new


def _replay(model: BaseAlgorithm, old: Any, clock: StepClock, time_constant: float) -> ReplayInSeconds:
    if type(old) not in (ReplayBuffer, ReplayInSeconds) or old.optimize_memory_usage:
        what = type(old).__name__ + (" with optimize_memory_usage" if type(old) is ReplayBuffer else "")
        raise ConfigurationError(
            f"{type(model).__name__} has a {what}, expected a ReplayBuffer of single steps with both observations"
        )
    new = ReplayInSeconds(
        old.buffer_size * old.n_envs,
        old.observation_space,
        old.action_space,
        old.device,
        n_envs=old.n_envs,
        handle_timeout_termination=old.handle_timeout_termination,
    )
    new.follow(clock, time_constant)
    return new
