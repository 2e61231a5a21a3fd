"""How long decisions take: of a policy as it is called, one at a time and in batches, and of a compiled tree."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from agents.learned.distilled import Tree, walk
from agents.policy import Policy
from agents.serving.planning.planner import Planner
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
# Planners look ahead now and then, so that a median would say what they do in between: theirs is the mean from one look
# to a later one. chosen: from the third on, when the machine is no longer empty, for eight looks (range 2-30).
_FIRST_LOOKS, _LOOKS = 2, 8
_COMPILED_DECISIONS, _COMPILED_REPEATS = 1 << 16, 9


class Latency(NamedTuple):
    """Seconds of a decision: alone, and as one of `BATCH`; None where that was not measured.

    Planners look ahead for one environment after the other, so that one of a batch is as one alone.
    """

    single_s: float
    batched_s: float | None


def decision_latency(policy: Policy, env_id: str, scenario: Scenario) -> Latency:
    """Wall seconds that a policy takes to decide, observation to action, while it plays: the least of a few medians.

    Of a planner the mean, its looks ahead included.

    Raises:
        ConfigurationError: the policy cannot play the scenario.
    """
    if isinstance(policy, Planner):
        mean_s = _per_decision_s(policy, env_id, scenario)
        return Latency(mean_s, mean_s)
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


def _per_decision_s(policy: Planner, env_id: str, scenario: Scenario) -> float:
    """Mean seconds of a planner's decisions over some looks ahead; of an episode with fewer, of all of it."""
    seconds: list[float] = []
    looks: list[int] = []  # decisions before each of them
    for call_s, state, ended in _calls(policy, env_id, scenario, 1):
        if state.looks > len(looks):
            if len(looks) == _FIRST_LOOKS + _LOOKS:
                return float(np.mean(seconds[looks[_FIRST_LOOKS] :]))
            looks.append(len(seconds))
        seconds.append(call_s)
        if ended:
            break
    return float(np.mean(seconds))


def _per_call_s(policy: Policy, env_id: str, scenario: Scenario, num_envs: int) -> float:
    seconds: list[float] = []
    for call_s, _, _ in _calls(policy, env_id, scenario, num_envs):
        seconds.append(call_s)
        slow = len(seconds) > _SLOW_CALLS and np.median(seconds) > _SLOW_S
        if slow or len(seconds) == _FIRST + _CALLS:
            break
    kept = seconds[_FIRST:] if len(seconds) > _FIRST else seconds[1:]
    return float(np.median(kept))


def _calls(
    policy: Policy, env_id: str, scenario: Scenario, num_envs: int
) -> Iterator[tuple[float, Any, bool]]:
    """A policy plays without end: of every call its seconds, its state, and whether an episode ends after it."""
    env = vector_class(env_id)(scenario, num_envs=num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
    bind = getattr(policy, "bind", None)
    if bind is not None:
        bind(env)
    observations, _ = env.reset(seed=0)
    starts = np.ones(num_envs, dtype=np.bool_)
    state = None
    while True:
        begin = time.perf_counter()
        actions, state = policy.predict(observations, state, starts, deterministic=True)
        call_s = time.perf_counter() - begin
        observations, _, terminated, truncated, _ = env.step(actions)
        starts = terminated | truncated
        yield call_s, state, bool(starts.any())


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
