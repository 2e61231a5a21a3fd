"""Rollouts: environments of an engine advanced under a compiled policy, without Python between steps.

A compiled policy is a function `decide` that writes the action of one environment from its observation, and a named
tuple of arrays that it reads and remembers in. Whoever defines one has a loop made around it (`rolling.roller`), calls
that from a compiled function of one's own, and hands this to `roll`: so the policy is a part of the loop, and both are
kept on disk under the function's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.engine import DISABLED
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.rolling import END_NAMES as END_NAMES
from papi_env.simulation.serving.rolling import Plan

# More steps than any episode has.
_NO_END = 1 << 62


@dataclass(frozen=True)
class Rollout:
    """What a rollout of `E` environments came to.

    Attributes:
        returns: float64 [E], the sum of rewards.
        discounted: float64 [E], the sum of rewards, each weighed by the discount per second to the power of the
            seconds from the rollout's start to the start of the reward's step.
        steps: int64 [E].
        ends: int64 [E], indices of `END_NAMES`.
    """

    returns: FloatArray
    discounted: FloatArray
    steps: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


def roll(
    engine: ServingEngine,
    play: Callable[..., None],
    policy: tuple[Any, ...],
    *,
    first: npt.NDArray[np.int64] | None = None,
    hold: int = 1,
    steps: int | None = None,
    seconds: float | None = None,
    discount: float = 1.0,
) -> Rollout:
    """Advance all environments of an engine under a compiled policy, on the engine's threads.

    Every environment goes on to the end of its episode or to the first limit that it meets; the engine then stands
    where as many calls of `ServingEngine.step` would have left it, and may be stepped or rolled on.

    Args:
        engine: with autoreset disabled; episodes that are over stay so.
        play: the compiled function of the policy's kind, such as `agents.serving.inside.play.play_range`.
        policy: what `play` takes the policy from, with its parameters and memory: by environment of the engine.
        first: int64 [num_envs, 4], valid actions that are played first in place of the policy's; None for none.
        hold: for so many steps.
        steps: at most so many, the first ones included; None for no limit.
        seconds: simulated; a rollout goes on to the first iteration that ends so long after its start, or later.
        discount: per second, over 0 and at most 1.

    Raises:
        ConfigurationError: an argument is out of range, or the engine resets environments by itself.
    """
    if engine.autoreset != DISABLED:
        raise ConfigurationError(
            "the engine resets environments by itself: expected autoreset DISABLED, or a fork"
        )
    if steps is not None and steps < 1:
        raise ConfigurationError(f"steps is {steps}, expected at least 1 or None")
    if seconds is not None and not seconds > 0:
        raise ConfigurationError(f"seconds is {seconds}, expected more than 0 or None")
    if not 0 < discount <= 1:
        raise ConfigurationError(f"discount is {discount}, expected more than 0 and at most 1")
    count = engine.num_envs
    if first is None:
        first, hold = np.zeros((1, engine.actions.shape[1]), dtype=np.int64), 0
    else:
        first = np.ascontiguousarray(first, dtype=np.int64)
        options = at.NVEC if engine.actions.shape[1] == len(at.NVEC) else at.NVEC_V1
        if first.shape != engine.actions.shape or (first < 0).any() or (first >= options).any():
            raise ConfigurationError(
                f"first has shape {first.shape} and values {first.min()} to {first.max()}, expected "
                f"{engine.actions.shape} within {options}"
            )
        if hold < 1:
            raise ConfigurationError(f"hold is {hold}, expected at least 1")
    plan = Plan(
        first,
        int(hold),
        _NO_END if steps is None else int(steps),
        np.inf if seconds is None else float(seconds),
        float(discount),
    )
    found = Rollout(
        returns=np.zeros(count),
        discounted=np.zeros(count),
        steps=np.zeros(count, dtype=np.int64),
        ends=np.zeros(count, dtype=np.int64),
    )
    played = (found.returns, found.discounted, found.steps, found.ends)
    parts = engine.parts()
    engine.share(lambda start, stop, scratch: play(start, stop, policy, plan[:], (*parts, scratch), played))
    return found
