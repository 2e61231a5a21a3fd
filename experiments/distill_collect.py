"""What a teacher would do where its pupil goes: samples to grow a tree from, and what policies earn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.learned import LearnedPolicy
from agents.policy import Policy
from experiments.distill_tree import Samples
from experiments.problems import vector_class
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario


def make_envs(env_id: str, settings: Sequence[Scenario], num_envs: int) -> list[ProblemVectorEnv]:
    """An environment for each setting, in which finished episodes wait for the longest."""
    make = vector_class(env_id)
    return [make(setting, num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED) for setting in settings]


def returns_of(policy: Policy, envs: Sequence[ProblemVectorEnv], seeds: Sequence[int]) -> FloatArray:
    """Returns of one episode for each setting and seed, float64 [settings, seeds]."""
    return np.stack([evaluate(policy, env, seeds)["return"] for env in envs])


def collect(
    teacher: Policy,
    pupil: Policy | None,
    envs: Sequence[ProblemVectorEnv],
    seeds: Sequence[int],
    limit: int,
    rng: np.random.Generator,
) -> Samples:
    """What the teacher chooses in the states of whole episodes (DAgger: Ross, Gordon and Bagnell, AISTATS 2011).

    Args:
        teacher: chooses; where it is a learned policy, its margins are the weights, else all weigh 1.
        pupil: acts; None lets the teacher act.
        envs: with as many environments as there are seeds.
        seeds: of the episodes.
        limit: samples to keep, an even share of every environment, drawn at random.
        rng: draws them.
    """
    share = max(limit // len(envs), 1)
    return Samples.joined([_collect_one(teacher, pupil, env, seeds, share, rng) for env in envs])


def _collect_one(
    teacher: Policy,
    pupil: Policy | None,
    env: ProblemVectorEnv,
    seeds: Sequence[int],
    limit: int,
    rng: np.random.Generator,
) -> Samples:
    for policy in (teacher, pupil):
        bind = getattr(policy, "bind", None)
        if bind is not None:
            bind(env)
    observations, _ = env.reset(seed=list(seeds))
    starts = np.ones(env.num_envs, dtype=np.bool_)
    done = np.zeros(env.num_envs, dtype=np.bool_)
    state: Any = None
    pupil_state: Any = None
    parts: list[Samples] = []
    while not done.all():
        chosen, weights, state = _decide(teacher, observations, state, starts)
        playing = ~done
        parts.append(Samples(observations[playing].copy(), chosen[playing], weights[playing]))
        acted: Any = chosen[:, 0] if env.choices == 1 else chosen
        if pupil is not None:
            acted, pupil_state = pupil.predict(observations, pupil_state, starts, deterministic=True)
        observations, _, terminated, truncated, _ = env.step(acted)
        starts = np.zeros(env.num_envs, dtype=np.bool_)
        done |= terminated | truncated
    samples = Samples.joined(parts)
    if len(samples) <= limit:
        return samples
    rows = np.sort(rng.choice(len(samples), limit, replace=False))
    return Samples(samples.observations[rows], samples.choices[rows], samples.weights[rows])


def _decide(
    teacher: Policy, observations: npt.NDArray[np.float32], state: Any, starts: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], FloatArray, Any]:
    """The teacher's choices and their weights, both [num_envs, choices], and its state."""
    if isinstance(teacher, LearnedPolicy):
        return teacher.margins(observations, state, starts)
    actions, state = teacher.predict(observations, state, starts, deterministic=True)
    chosen = np.asarray(actions, dtype=np.int64).reshape(len(observations), -1)
    return chosen, np.ones(chosen.shape), state
