"""Play one episode per seed with a policy, all seeds at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from agents.policy import Policy
from agents.serving.inside.memory import NUM_MEMORY
from agents.serving.inside.play import play_range
from agents.serving.rules import compiled_rule
from papi_env.envs.problem import ELAPSED
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving.rollout import roll

# What `evaluate` calls returns that are discounted by the second.
DISCOUNTED = "discounted_return"


def evaluate(
    policy: Policy,
    env: ProblemVectorEnv,
    seeds: Sequence[int],
    watch: Callable[[ProblemVectorEnv], None] | None = None,
    inside: bool = True,
    time_constant: float | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Metrics of one episode per seed, arrays [len(seeds)] named in `papi_env.simulation.batch.engine.METRIC_NAMES`.

    Args:
        policy: bound to `env` here; it sees every environment at once, as SB3's `predict` does.
        env: a vector environment with one environment per seed and autoreset disabled, so that finished
            episodes wait for the longest.
        seeds: seeds of the episodes.
        watch: called with `env` after the reset and after every step, to look on.
        inside: play a compiled rule in the engine's compiled loop, where nobody looks on and the environment is not
            strict: the same results, to the last bit, in a fraction of the time.
        time_constant: give `discounted_return` besides: the rewards of each episode, those of a decision t seconds
            after its first one times exp(-t / time_constant). Played step by step.

    Raises:
        ConfigurationError: another number of seeds than environments, autoreset, or a discount per second where the
            problem counts steps.
    """
    if env.num_envs != len(seeds):
        raise ConfigurationError(f"{len(seeds)} seeds for {env.num_envs} environments")
    if env.autoreset_mode != AutoresetMode.DISABLED:
        raise ConfigurationError(
            f"autoreset is {env.autoreset_mode.value!r}, expected 'Disabled' to evaluate"
        )
    discounted = None if time_constant is None else DiscountedReturn(env, time_constant)
    bind = getattr(policy, "bind", None)
    if bind is not None:
        bind(env)
    observations, _ = env.reset(seed=list(seeds))
    if watch is not None:
        watch(env)
    looks_on = watch is not None or discounted is not None
    rule = compiled_rule(policy) if inside and not looks_on and not env.strict else None
    if rule is not None:
        roll(env.engine, play_range, rule.compiled(np.zeros((env.num_envs, NUM_MEMORY)))[:])
        return env.metrics()
    state: Any = None
    episode_start = np.ones(env.num_envs, dtype=np.bool_)
    done = np.zeros(env.num_envs, dtype=np.bool_)
    while not done.all():
        actions, state = policy.predict(observations, state, episode_start, deterministic=True)
        observations, rewards, terminated, truncated, infos = env.step(actions)
        if discounted is not None:
            discounted.add(rewards, infos[ELAPSED], done)
        if watch is not None:
            watch(env)
        episode_start[:] = False
        done |= terminated | truncated
    return env.metrics() | ({} if discounted is None else {DISCOUNTED: discounted.total})


class DiscountedReturn:
    """What episodes earn, discounted by the seconds since their first decision.

    Attributes:
        total: float64 [num_envs], so far.

    Raises:
        ConfigurationError: the problem counts steps, or the time constant is no positive, finite number.
    """

    def __init__(self, env: ProblemVectorEnv, time_constant: float) -> None:
        if ELAPSED not in dict(env.clock_info):
            raise ConfigurationError(
                f"{type(env).__name__} counts steps: it has no {ELAPSED!r} to discount by, expected no time_constant"
            )
        if not (np.isfinite(time_constant) and time_constant > 0):
            raise ConfigurationError(
                f"time_constant is {time_constant!r} s, expected a positive, finite number of seconds"
            )
        self._rate_per_s = 1.0 / time_constant
        self._seconds = np.zeros(env.num_envs)
        self.total = np.zeros(env.num_envs)

    def add(self, rewards: FloatArray, seconds: FloatArray, done: npt.NDArray[np.bool_]) -> None:
        """Count a step of episodes that were not `done` before it: its rewards, and its seconds for the next one."""
        self.total += np.where(done, 0.0, rewards * np.exp(-self._rate_per_s * self._seconds))
        self._seconds += np.where(done, 0.0, seconds)
