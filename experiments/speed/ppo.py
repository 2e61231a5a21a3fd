"""PPO end to end: steps per second and time to a target, with the adapter and with `DummyVecEnv`.

Decode-v0 with its default scenario; torch on one thread; seconds as in `throughput_measure`. The tuned settings
combine what reached the target soonest in nine trials by hand with seeds 0 and 1: more environments, larger batches
with fewer epochs, a smaller network, a higher learning rate and a discount of 0.9 (0.5 and 0 failed with a seed).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from agents.evaluate import evaluate
from agents.registry import make_policy
from experiments.speed.measure import DECODE
from experiments.speed.parts import Findings, Ratio, Say
from papi_env.kernel import FloatArray
from papi_env.sb3 import make_vec

# What counts is the time to a policy whose decoding costs at most 1 % more than the oracle's. Prefill, which no
# action changes, does not count.
TARGET_COST = 1.01
# Held out: training starts from seeds far below.
EVALUATION_SEEDS = tuple(range(1_000_000, 1_000_016))
ADAPTER, DUMMY = "adapter", "DummyVecEnv"


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: networks this small are slower on more, and one core is what is measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """PPO's hyper-parameters that were tuned, and their defaults in SB3; all others stay at SB3's."""

    num_envs: int = 8
    n_steps: int = 2048
    batch_size: int = 64
    n_epochs: int = 10
    gamma: float = 0.99
    learning_rate: float = 3e-4
    hidden: tuple[int, ...] = (64, 64)

    def model(self, envs: VecEnv, seed: int) -> PPO:
        """A fresh model."""
        values = asdict(self)
        del values["num_envs"]
        net_arch = list(values.pop("hidden"))
        model = PPO(
            "MlpPolicy", envs, seed=seed, device="cpu", policy_kwargs={"net_arch": net_arch}, **values
        )
        model.set_logger(Logger(None, []))  # without one SB3 makes a folder for its own
        return model


SB3_DEFAULTS = Settings()
TUNED = Settings(
    num_envs=256, n_steps=64, batch_size=4096, n_epochs=4, gamma=0.9, learning_rate=5e-3, hidden=(32, 32)
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How much is trained."""

    tuned: Settings = TUNED
    defaults: Settings = SB3_DEFAULTS
    rounds: int = 5
    updates: int = 3
    """Of the tuned settings in each round; of the defaults one."""
    default_rounds: int = 2
    tuned_seeds: int = 3
    default_seeds: int = 1
    limit_s: float = 120.0
    """Training seconds after which a run gives up; chosen: the goal is far below it (range 60 on)."""


QUICK_TRAINING = Training(
    tuned=Settings(
        num_envs=8, n_steps=16, batch_size=64, n_epochs=1, gamma=0.9, learning_rate=5e-3, hidden=(8,)
    ),
    defaults=Settings(num_envs=2, n_steps=32, n_epochs=1),
    rounds=2,
    updates=1,
    default_rounds=1,
    tuned_seeds=1,
    limit_s=0.2,
)


class StepTimer(VecEnvWrapper):
    """Adds up the seconds that environments and adapter take, from actions to observations."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.seconds = 0.0

    def reset(self) -> Any:
        """As the environments do."""
        return self.venv.reset()

    def step_async(self, actions: Any) -> None:
        """Timed."""
        start = time.process_time()
        self.venv.step_async(actions)
        self.seconds += time.process_time() - start

    def step_wait(self) -> Any:
        """Timed."""
        start = time.process_time()
        result = self.venv.step_wait()
        self.seconds += time.process_time() - start
        return result


def make_envs(kind: str, num_envs: int) -> VecEnv:
    """Decode-v0 as SB3 takes it, through the adapter or as single environments, with the same statistics."""
    if kind == ADAPTER:
        return make_vec(DECODE, num_envs)
    return DummyVecEnv([lambda: Monitor(gym.make(DECODE)) for _ in range(num_envs)])


class Trainer:
    """A model that goes on learning; what is timed is `learn`, with collection and updates."""

    def __init__(self, kind: str, settings: Settings, seed: int = 0) -> None:
        self.envs = StepTimer(make_envs(kind, settings.num_envs))
        self.settings = settings
        self.model = settings.model(self.envs, seed)

    def learn(self, updates: int) -> tuple[float, float]:
        """(environment steps per second, share of the time in environments and adapter)."""
        self.envs.seconds = 0.0
        steps = updates * self.settings.num_envs * self.settings.n_steps
        start = time.process_time()
        self.model.learn(steps, reset_num_timesteps=False)
        learn_s = time.process_time() - start
        return steps / learn_s, self.envs.seconds / learn_s


@one_thread()
def compare_rates(settings: Settings, rounds: int, updates: int) -> tuple[dict[str, FloatArray], FloatArray]:
    """({kind: steps per second [rounds]}, the adapter's share of the time [rounds]); rounds interleaved."""
    # SB3 and torch prepare things in a first update.
    Trainer(ADAPTER, Settings(num_envs=2, n_steps=8, batch_size=16)).learn(1)
    trainers = {kind: Trainer(kind, settings) for kind in (ADAPTER, DUMMY)}
    rates: dict[str, list[float]] = {kind: [] for kind in trainers}
    shares = []
    for r in range(rounds):
        for kind in (ADAPTER, DUMMY) if r % 2 == 0 else (DUMMY, ADAPTER):
            rate, share = trainers[kind].learn(updates)
            rates[kind].append(rate)
            if kind == ADAPTER:
                shares.append(share)
    for trainer in trainers.values():
        trainer.envs.close()
    return {kind: np.array(values) for kind, values in rates.items()}, np.array(shares)


class Evaluation:
    """Decoding cost over the oracle's on held-out seeds, with the deterministic policy."""

    def __init__(self) -> None:
        made = gym.make_vec(
            DECODE, num_envs=len(EVALUATION_SEEDS), autoreset_mode=AutoresetMode.DISABLED, copy=False
        )
        self._env: Any = made.unwrapped
        self._oracle = self._play(make_policy("oracle"))

    def _play(self, policy: Any) -> float:
        return float(evaluate(policy, self._env, EVALUATION_SEEDS)["return"].sum())

    def cost(self, policy: Any) -> float:
        """1 is the oracle's cost."""
        return self._play(policy) / self._oracle


class ToTarget(BaseCallback):
    """Evaluates after every update, off the clock, and stops at the target or at the time limit.

    Args:
        evaluation: what to ask.
        limit_s: training seconds.

    Attributes:
        curve: seconds, steps and cost over the oracle's of every evaluation.
        seconds: training seconds to the first evaluation at the target; None if there was none.
    """

    def __init__(self, evaluation: Evaluation, limit_s: float) -> None:
        super().__init__()
        self.evaluation, self.limit_s = evaluation, limit_s
        self.curve: list[dict[str, float]] = []
        self.seconds: float | None = None
        self._off_s, self._start = 0.0, 0.0

    def training_s(self) -> float:
        """Seconds since the start, evaluations left out."""
        return time.process_time() - self._start - self._off_s

    def _on_training_start(self) -> None:
        self._start = time.process_time()

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == 0:
            return
        seconds = self.training_s()
        cost = self.evaluation.cost(self.model)
        self.curve.append({"seconds": seconds, "steps": float(self.num_timesteps), "cost": cost})
        if cost <= TARGET_COST:
            self.seconds = seconds
        self._off_s += self.training_s() - seconds

    def _on_step(self) -> bool:
        return self.seconds is None and self.training_s() < self.limit_s


@one_thread()
def to_target(
    kind: str, settings: Settings, seed: int, limit_s: float, evaluation: Evaluation
) -> tuple[float | None, list[dict[str, float]]]:
    """(training seconds to the target, None if not within the limit; the curve)."""
    envs = make_envs(kind, settings.num_envs)
    callback = ToTarget(evaluation, limit_s)
    settings.model(envs, seed).learn(1 << 40, callback=callback)
    envs.close()
    return callback.seconds, callback.curve


def ppo(found: Findings, training: Training, say: Say) -> None:
    """PPO's steps per second at the same hyper-parameters, and the environments' share of its time."""
    for words, settings, rounds, updates in (
        ("tuned", training.tuned, training.rounds, training.updates),
        ("SB3 defaults", training.defaults, training.default_rounds, 1),
    ):
        say(f"PPO, {words}, adapter and DummyVecEnv")
        rates, shares = compare_rates(settings, rounds, updates)
        ratios = rates[ADAPTER] / rates[DUMMY]
        if words == "tuned":
            found.ratios["ratio_ppo_same"] = Ratio.of(ratios, _say(settings))
            found.ratios["share_env"] = Ratio.of(shares, f"adapter, {_say(settings)}")
        else:
            found.ratios["ratio_ppo_defaults"] = Ratio.of(ratios, _say(settings))
        about = {"envs": settings.num_envs}
        found.add_values("ppo", DUMMY, "steps/s", rates[DUMMY], variant=words, **about)
        low, middle, high = (float(q) for q in np.quantile(ratios, (0.25, 0.5, 0.75)))
        compared = {"reference": DUMMY, "ratio": middle, "ratio_low": low, "ratio_high": high}
        found.add_values("ppo", ADAPTER, "steps/s", rates[ADAPTER], variant=words, **about, **compared)
        found.add_values("ppo", ADAPTER, "share of time", shares, variant=words, **about)


def target(found: Findings, training: Training, say: Say) -> None:
    """Time to within 1 % of the oracle's cost: SB3's defaults with DummyVecEnv, the adapter tuned."""
    evaluation = Evaluation()
    seconds: dict[str, list[float | None]] = {}
    for name, kind, settings, seeds in (
        ("adapter, tuned", ADAPTER, training.tuned, training.tuned_seeds),
        ("DummyVecEnv, SB3 defaults", DUMMY, training.defaults, training.default_seeds),
    ):
        seconds[name], found.curves[name] = [], []
        for seed in range(seeds):
            say(f"PPO to the target, {name}, seed {seed} (at most {training.limit_s:g} s and evaluations)")
            reached, curve = to_target(kind, settings, seed, training.limit_s, evaluation)
            seconds[name].append(reached)
            found.curves[name].append(curve)
            value = training.limit_s if reached is None else reached
            variant = f"seed {seed}" + (", not reached" if reached is None else "")
            found.add_values("target", name, "s", [value], variant=variant, envs=settings.num_envs)
    tuned, defaults = seconds.values()
    found.ratios["ratio_ppo_target"] = target_ratio(defaults, tuned, training.limit_s)


def target_ratio(defaults: list[float | None], tuned: list[float | None], limit_s: float) -> Ratio:
    """Median seconds of the defaults over those of the tuned settings, seeds that gave up counted at the limit.

    Where any default seed gave up, the ratio is a lower bound, and says so; where the median of the tuned
    settings is a run that gave up, there is none.
    """
    counted = [limit_s if value is None else value for value in defaults]
    fast = float(np.median([np.inf if value is None else value for value in tuned]))
    if not np.isfinite(fast):
        return Ratio(None, note=f"the tuned settings did not reach the target within {limit_s:g} s")
    given_up = sum(value is None for value in defaults)
    note = f"{np.median(counted):.1f} s over {fast:.2f} s"
    if given_up:
        note += f"; {given_up} of {len(defaults)} gave up after {limit_s:g} s"
    return Ratio(float(np.median(counted)) / fast, note=note, at_least=given_up > 0)


def _say(settings: Settings) -> str:
    return f"{settings.num_envs} environments, batch {settings.batch_size}, {settings.n_epochs} epochs"
