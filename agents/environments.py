"""What is behind the environments that a policy is bound to: single ones, batches, wrapped ones, libraries' own."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from papi_env.envs.flatten import JointActions, flat_actions
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError


def problems_of(env: Any) -> list[Problem]:
    """The environments behind `env`, in the order of its observations: it, its engines' parts, or its copies.

    Args:
        env: a single or batch environment of this package, wrapped or not; a `VecEnv` of `papi_env.sb3`; or a
            `SyncVectorEnv` or `DummyVecEnv` of single ones.

    Raises:
        ConfigurationError: they are not of this package, or not in this process.
    """
    inner = getattr(env, "unwrapped", env)
    if isinstance(inner, Problem):
        return [inner]
    if hasattr(inner, "vector_env"):  # papi_env.sb3.BatchVecEnv
        return problems_of(inner.vector_env)
    for name in (
        "parts",
        "envs",
    ):  # papi_env.sb3_mixture.MixtureVecEnv; SB3's DummyVecEnv, gymnasium's SyncVectorEnv
        if hasattr(inner, name):
            return [problem for part in getattr(inner, name) for problem in problems_of(part)]
    raise ConfigurationError(
        f"A policy plays the environments of papi_env in this process, not {type(inner).__name__}"
    )


def takes_numbers(env: Any) -> bool:
    """Whether `env` takes numbers of joint actions where its problem has choices."""
    space = getattr(env, "single_action_space", env.action_space)
    return isinstance(space, gym.spaces.Discrete) and problems_of(env)[0].choices > 1


def numbering_of(env: Any) -> npt.NDArray[np.int64]:
    """What each flat action of an environment does, int64 [actions, choices].

    Args:
        env: with flat actions: a `VecEnv` of `papi_env.sb3`, a `FlattenActions` or a vector of those, one that was
            made with `flatten=True`, or a wrapper.
    """
    for name in ("flat_actions", "table"):
        table = getattr(env, name, None)
        if table is None and isinstance(env, gym.Env) and env.has_wrapper_attr(name):
            table = env.get_wrapper_attr(name)
        if table is not None:
            return np.asarray(table)
    if hasattr(env, "envs"):
        return numbering_of(env.envs[0])
    (problem, *_) = problems_of(env)
    joint = flat_actions(problem.single_space(), problem)
    assert joint is not None, "an environment whose actions are numbered has several choices"
    return joint.table


def joint_of(env: Any) -> JointActions | None:
    """The numbering of the joint actions of `env`, or None where it takes choices as they are."""
    if not takes_numbers(env):
        return None
    space: Any = problems_of(env)[0].single_space()
    return JointActions(space, numbering_of(env))


def in_shape(joint: JointActions | None, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Choices [num_envs, choices] as an environment takes them: numbers, the one column, or as they are.

    Args:
        joint: of `joint_of`.
        actions: choices of each environment.

    Raises:
        ConfigurationError: a joint action has no number.
    """
    if joint is None:
        return actions[:, 0] if actions.shape[1] == 1 else actions
    numbers = joint.numbers(actions)
    if (numbers < 0).any():
        unknown = actions[np.argmax(numbers < 0)].tolist()
        raise ConfigurationError(
            f"The joint action {unknown} has no number in this environment, make it without flatten"
        )
    return numbers
