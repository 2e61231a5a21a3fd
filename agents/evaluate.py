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
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.simulation.serving.rollout import roll


def evaluate(
    policy: Policy,
    env: ProblemVectorEnv,
    seeds: Sequence[int],
    watch: Callable[[ProblemVectorEnv], None] | None = None,
    inside: bool = True,
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
    """
    if env.num_envs != len(seeds):
        raise ConfigurationError(f"{len(seeds)} seeds for {env.num_envs} environments")
    if env.autoreset_mode != AutoresetMode.DISABLED:
        raise ConfigurationError(
            f"autoreset is {env.autoreset_mode.value!r}, expected 'Disabled' to evaluate"
        )
    bind = getattr(policy, "bind", None)
    if bind is not None:
        bind(env)
    observations, _ = env.reset(seed=list(seeds))
    if watch is not None:
        watch(env)
    rule = compiled_rule(policy) if inside and watch is None and not env.strict else None
    if rule is not None:
        roll(env.engine, play_range, rule.compiled(np.zeros((env.num_envs, NUM_MEMORY)))[:])
        return env.metrics()
    state: Any = None
    episode_start = np.ones(env.num_envs, dtype=np.bool_)
    done = np.zeros(env.num_envs, dtype=np.bool_)
    while not done.all():
        actions, state = policy.predict(observations, state, episode_start, deterministic=True)
        observations, _, terminated, truncated, _ = env.step(actions)
        if watch is not None:
            watch(env)
        episode_start[:] = False
        done |= terminated | truncated
    return env.metrics()
