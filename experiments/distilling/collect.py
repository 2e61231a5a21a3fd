"""What a teacher would do where its pupil goes: samples to grow a tree from, and what policies earn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.learned.policy import LearnedPolicy, options_of
from agents.policy import Policy
from experiments.common.problems import vector_class
from experiments.distilling.tree import Decisions, Samples
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario

# What a setting counts where the teacher gains nothing, as a share of the return. chosen (range 1e-3 to 0.1).
LEAST_STAKE = 0.01


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
    stakes: FloatArray | None = None,
) -> Samples:
    """What the teacher prefers in the states of whole episodes (DAgger: Ross, Gordon and Bagnell, AISTATS 2011).

    Args:
        teacher: prefers; of one that is not a learned policy only its choices are known.
        pupil: acts; None lets the teacher act.
        envs: with as many environments as there are seeds.
        seeds: of the episodes.
        limit: samples to keep, an even share of every environment, drawn at random.
        rng: draws them.
        stakes: what an environment's samples weigh together, [envs]; None: each of them 1.
    """
    share = max(limit // len(envs), 1)
    parts = [_collect_one(teacher, pupil, env, seeds, share, rng) for env in envs]
    if stakes is not None:
        parts = [
            replace(part, weights=np.full(len(part), stake / len(part)))
            for part, stake in zip(parts, stakes, strict=True)
        ]
    return Samples.joined(parts)


def stakes_of(teacher: FloatArray, baseline: FloatArray) -> FloatArray:
    """What a pupil can lose in each setting: what the teacher gains there, [settings].

    Args:
        teacher, baseline: returns, [settings, seeds].
    """
    earned = teacher.mean(axis=1)
    return np.maximum(earned - baseline.mean(axis=1), LEAST_STAKE * np.abs(earned).clip(min=1e-300))


def decisions_of(teacher: Policy, env: ProblemVectorEnv) -> Decisions:
    """What samples of the teacher are about."""
    if isinstance(teacher, LearnedPolicy):
        checkpoint = teacher.checkpoint
        return Decisions(checkpoint.description.architecture.options, checkpoint.joint_actions)
    return Decisions(options_of(env.single_space()))


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
        chosen, found, state = _decide(teacher, env, observations, state, starts)
        parts.append(found.taken(~done))
        acted: Any = chosen[:, 0] if env.choices == 1 else chosen
        if pupil is not None:
            acted, pupil_state = pupil.predict(observations, pupil_state, starts, deterministic=True)
        observations, _, terminated, truncated, _ = env.step(acted)
        starts = np.zeros(env.num_envs, dtype=np.bool_)
        done |= terminated | truncated
    samples = Samples.joined(parts)
    if len(samples) <= limit:
        return samples
    return samples.taken(np.sort(rng.choice(len(samples), limit, replace=False)))


def _decide(
    teacher: Policy,
    env: ProblemVectorEnv,
    observations: npt.NDArray[np.float32],
    state: Any,
    starts: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], Samples, Any]:
    """The teacher's choices [num_envs, choices], what it prefers in each environment, and its state."""
    if isinstance(teacher, LearnedPolicy):
        chosen, shares, losses, state = teacher.preferences(observations, state, starts)
        return chosen, Samples(observations, shares, losses, np.ones(len(shares))), state
    actions, state = teacher.predict(observations, state, starts, deterministic=True)
    chosen = np.asarray(actions, dtype=np.int64).reshape(len(observations), -1)
    return chosen, Samples.of_choices(observations, chosen, options_of(env.single_space())), state
