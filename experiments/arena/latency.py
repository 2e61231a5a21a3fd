"""How long decisions take: of a policy as it is called, one at a time and in batches, and of a compiled tree."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from agents.learned.distilled import Tree, walk
from agents.policy import Policy
from experiments.arena.measures import BATCH
from experiments.arena.play import pick
from experiments.common.problems import vector_class
from experiments.common.runner import Columns
from papi_env.scenario import Scenario

# chosen: medians of so many calls differ by a few per cent from run to run; the first ones compile and fill caches.
_CALLS, _FIRST = 60, 10
# Other work on the machine only adds, and can do so for a second on end (threads of BLAS that wait for a busy core):
# the least of several medians.
_REPEATS = 4
# Policies that simulate before they decide are timed alone, and fewer times.
_SLOW_S, _SLOW_CALLS = 0.02, 5
_COMPILED_DECISIONS, _COMPILED_REPEATS = 1 << 16, 9


class Latency(NamedTuple):
    """Seconds of a decision: alone, and as one of `BATCH`; None where that was not measured."""

    single_s: float
    batched_s: float | None


def decision_latency(policy: Policy, env_id: str, scenario: Scenario) -> Latency:
    """Wall seconds that a policy takes to decide, observation to action, while it plays: the least of a few medians.

    Raises:
        ConfigurationError: the policy cannot play the scenario.
    """
    single_s = _per_call_s(policy, env_id, scenario, 1)
    if single_s > _SLOW_S:
        return Latency(single_s, None)
    for _ in range(_REPEATS - 1):
        single_s = min(single_s, _per_call_s(policy, env_id, scenario, 1))
    batched_s = min(_per_call_s(policy, env_id, scenario, BATCH) for _ in range(_REPEATS))
    return Latency(single_s, batched_s / BATCH)


def time_decisions(env_id: str, scenario: Scenario, policy: str) -> Columns:
    """Seconds of a decision, `single_s` and `batched_s` (one row); None where it could not be timed."""
    try:
        latency = decision_latency(pick(env_id, policy, scenario)[1], env_id, scenario)
    except Exception:  # its failure shows where it plays
        return {"single_s": [None], "batched_s": [None]}
    return {"single_s": [latency.single_s], "batched_s": [latency.batched_s]}


def _per_call_s(policy: Policy, env_id: str, scenario: Scenario, num_envs: int) -> float:
    env = vector_class(env_id)(scenario, num_envs=num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    bind = getattr(policy, "bind", None)
    if bind is not None:
        bind(env)
    observations, _ = env.reset(seed=0)
    starts = np.ones(num_envs, dtype=np.bool_)
    state = None
    seconds: list[float] = []
    while len(seconds) < _FIRST + _CALLS:
        begin = time.perf_counter()
        actions, state = policy.predict(observations, state, starts, deterministic=True)
        seconds.append(time.perf_counter() - begin)
        if len(seconds) > _SLOW_CALLS and np.median(seconds) > _SLOW_S:
            break
        observations, _, terminated, truncated, _ = env.step(actions)
        starts = terminated | truncated
    kept = seconds[_FIRST:] if len(seconds) > _FIRST else seconds[1:]
    return float(np.median(kept))


def compiled_decision_s(tree: Tree, observations: npt.NDArray[np.float32]) -> float:
    """Seconds that a tree takes for one decision in compiled code, the median of several passes over observations.

    Args:
        tree: what decides.
        observations: float32 [any, features] that are met in play, repeated as often as needed.
    """
    repeats = -(-_COMPILED_DECISIONS // len(observations))
    rows = np.ascontiguousarray(np.tile(observations, (repeats, 1))[:_COMPILED_DECISIONS])
    found = np.empty(len(rows), dtype=np.int64)
    arguments = (rows, tree.feature, tree.threshold, tree.left, tree.right, found)
    walk(*arguments)
    seconds = []
    for _ in range(_COMPILED_REPEATS):
        begin = time.perf_counter()
        walk(*arguments)
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds)) / len(rows)
