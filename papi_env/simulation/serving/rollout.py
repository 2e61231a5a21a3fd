"""Rollouts: environments of an engine advanced under a compiled policy, without Python between steps.

A compiled policy is a function `decide` that writes the action of one environment from its observation, and a named
tuple of arrays that it reads and remembers in. Whoever defines one has a loop made around it (`roller`), calls that
from a compiled function of one's own, and hands this to `roll`: so the policy is a part of the loop, and both are kept
on disk under the function's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.compiled import woven
from papi_env.simulation.engine import DISABLED
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.loop import Outcome, Scratch, advance_env, ends
from papi_env.simulation.serving.observe import observe_env
from papi_env.simulation.serving.requests import ServingState
from papi_env.simulation.serving.tables import ServingTables
from papi_env.simulation.serving.terms import Causes, Lookups
from papi_env.workload.arrivals import ArrivalTables

# Why a rollout ended: the episode had ended before, it terminated or was truncated, or a limit of the rollout's.
WAS_OVER, TERMINATED, TRUNCATED, STEPS, TIME = range(5)
END_NAMES = ("was over", "terminated", "truncated", "steps", "time")
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


class Plan(NamedTuple):
    """How far to go, and how to begin.

    Attributes:
        first: int64 [E, 4], actions of the first `hold` steps of each environment.
        hold: steps; 0 where the policy decides from the beginning.
        steps: at most so many; seconds: to the first iteration that ends so long after the start, or later.
        discount: per second.
    """

    first: npt.NDArray[np.int64]
    hold: int
    steps: int
    seconds: float
    discount: float


def roller(decide: Callable[..., None]) -> Callable[..., None]:
    """A compiled loop in which `decide` chooses, to be called from a compiled function of one's own.

    Args:
        decide: a compiled function (e, forced, policy, first, observations, look, actions, busy) that writes the action
            of environment e into its row of `actions`; where `forced` is true, the row of `first`. `busy` is scratch of
            `iteration`.

    Returns:
        A function (start, stop, policy, plan, parts, played) that advances environments `start` to `stop` to their
        ends, one after the other: `policy` is what `decide` is called with; the others are the plain tuples that
        `roll` hands over.
    """

    @woven
    def roll_range(start, stop, policy, plan_parts, engine_parts, played_parts):
        plan = Plan(*plan_parts)
        actions, max_steps, state_parts, table_parts, outcome_parts, scratch_parts = engine_parts
        returns, discounted, steps, reasons = played_parts
        state = ServingState(*state_parts)
        tables = ServingTables(*(table_parts[0] + (ArrivalTables(*table_parts[1]),)))
        outcome = Outcome(*outcome_parts)
        scratch = Scratch(*scratch_parts)
        look = Lookups(
            tables.fc_s,
            tables.fc_j,
            tables.bank_s,
            tables.attention,
            tables.shares,
            tables.link,
            tables.moves,
            tables.draft,
            tables.scalars,
        )
        causes = Causes(tables.fc_causes, tables.attention_causes, tables.draft_causes, tables.term_causes)
        scalars = tables.scalars
        counters, clocks, observations = state.counters, state.clocks, outcome.observations
        for e in range(start, stop):
            begin_s = clocks[e, at.TIME_S]
            total = 0.0
            weighed = 0.0
            weight = 1.0
            step = 0
            last = 0.0
            reason = WAS_OVER
            if counters[e, at.DONE] == 0:
                reason = STEPS
                while step < plan.steps:
                    decide(e, step < plan.hold, policy, plan.first, observations, look, actions, scratch.busy)
                    last = advance_env(e, actions, state, look, causes, tables.acceptance, scratch)
                    total += last
                    weighed += weight * last
                    step += 1
                    over = ends(e, max_steps, counters, clocks, scalars, outcome)
                    observe_env(e, counters, clocks, scalars, observations)
                    if over:
                        reason = TERMINATED if outcome.terminated[e] else TRUNCATED
                        break
                    passed_s = clocks[e, at.TIME_S] - begin_s
                    if passed_s >= plan.seconds:
                        reason = TIME
                        break
                    if plan.discount != 1.0:
                        weight = plan.discount**passed_s
            outcome.rewards[e] = last
            returns[e] = total
            discounted[e] = weighed
            steps[e] = step
            reasons[e] = reason

    compiled: Callable[..., None] = roll_range
    return compiled


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
        first, hold = np.zeros((1, len(at.NVEC)), dtype=np.int64), 0
    else:
        first = np.ascontiguousarray(first, dtype=np.int64)
        if first.shape != engine.actions.shape or (first < 0).any() or (first >= at.NVEC).any():
            raise ConfigurationError(
                f"first has shape {first.shape} and values {first.min()} to {first.max()}, expected "
                f"{engine.actions.shape} within {at.NVEC}"
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
