"""A loop in which a compiled policy plays environments, without Python between steps; `rollout` has the way in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.simulation.compiled import woven
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.loop import Scratch, advance_env, ends, outcome_at
from papi_env.simulation.serving.observe import observe_env, observe_service
from papi_env.simulation.serving.requests import state_at
from papi_env.simulation.serving.tables import tables_at

# Why a rollout ended: the episode had ended before, it terminated or was truncated, or a limit of the rollout's.
WAS_OVER, TERMINATED, TRUNCATED, STEPS, TIME = range(5)
END_NAMES = ("was over", "terminated", "truncated", "steps", "time")


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
        decide: a compiled function (e, forced, policy, first, observations, look, actions, queries, busy) that writes
            the action of environment e into its row of `actions`; where `forced` is true, the row of `first`. `queries`
            are the state's, for policies that score requests; `busy` is scratch of `iteration`.

    Returns:
        A function (start, stop, policy, plan, parts, played) that advances environments `start` to `stop` to their
        ends, one after the other: `policy` is what `decide` is called with; the others are the plain tuples and
        addresses of frames that `roll` hands over.
    """

    @woven
    def roll_range(start, stop, policy, plan_parts, engine_parts, played_parts):
        plan = Plan(*plan_parts)
        actions, max_steps, state_frame, table_frame, outcome_frame, scratch_parts = engine_parts
        returns, discounted, steps, reasons = played_parts
        state, tables = state_at(state_frame), tables_at(table_frame)
        outcome, scratch = outcome_at(outcome_frame), Scratch(*scratch_parts)
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
                    forced = step < plan.hold
                    decide(
                        e,
                        forced,
                        policy,
                        plan.first,
                        observations,
                        tables,
                        actions,
                        state.queries,
                        scratch.busy,
                    )
                    last = advance_env(e, actions, state, tables, scratch)
                    total += last
                    weighed += weight * last
                    step += 1
                    over = ends(e, max_steps, counters, clocks, scalars, outcome)
                    observe_env(e, counters, clocks, scalars, observations)
                    if scalars[at.SERVICE] > 0.0:
                        observe_service(e, state, tables.kinds, scalars, observations)
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
