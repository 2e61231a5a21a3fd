"""Privileged references: the one-step oracle, and the clairvoyant optimum of Decode-v0."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from agents.policy import Actions, BatchRule, Observations
from papi_env.envs.batch import BatchProblem
from papi_env.envs.decode import DecodeProblem
from papi_env.errors import ConfigurationError
from papi_env.simulation.batch import state as at


class Oracle(BatchRule):
    """Takes the joint action whose true cost in the next step is least. Optimal where switching is free."""

    privileged = True

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Ask the engine for the costs of all joint actions."""
        options = self.env.joint_actions()
        return options[np.argmin(self.env.joint_costs(), axis=1)], state


class Optimum(BatchRule):
    """The cheapest schedule of a whole Decode-v0 episode, switching costs included.

    The path of requests does not depend on actions, so a dynamic programme over iterations with the last
    unit as its state is exact. No policy can have a higher return on the instance.
    """

    privileged = True

    def supports(self, env: BatchProblem) -> None:
        """Decode-v0 alone has an action-independent path with one choice."""
        if not isinstance(env, DecodeProblem):
            raise ConfigurationError(
                "policy 'optimum' plays papi_env/Decode-v0 alone; 'oracle' plays every problem"
            )

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Plan when an episode starts; afterwards follow the plan. State: (plan, iterations when made)."""
        iteration = self.env.engine.counters[:, at.ITERATION]
        if state is None or np.any(episode_start):
            assert isinstance(self.env, DecodeProblem)
            state = (plan(*self.env.clairvoyant_costs()), iteration.copy())
        schedule, since = state
        step = np.minimum(iteration - since, max(len(schedule) - 1, 0))
        if not len(schedule):
            return self.with_fc_on(np.full(len(observations), int(self._defaults[0]))), state
        return self.with_fc_on(schedule[step, np.arange(schedule.shape[1])]), state


def plan(
    costs: npt.NDArray[np.float64],
    switch_costs: npt.NDArray[np.float64],
    last_units: npt.NDArray[np.int64],
) -> Actions:
    """The cheapest unit for every iteration by dynamic programming.

    Args:
        costs: [T, num_envs, 2], the cost of each unit; infinite where it cannot be used, and for both units
            after an environment's episode has ended.
        switch_costs: [T, num_envs], what it adds to change the unit before that iteration.
        last_units: [num_envs], the unit before the first iteration, -1 if none.

    Returns:
        int64 [T, num_envs]; entries after an episode's end mean nothing.
    """
    horizon, num_envs = switch_costs.shape
    ended = np.asarray(np.isinf(costs).all(axis=2))
    value = np.zeros((num_envs, 2))
    # follow[t, e, u]: the best unit at t, given u at t - 1.
    follow = np.empty((horizon, num_envs, 2), dtype=np.int64)
    for t in range(horizon - 1, -1, -1):
        here = np.where(ended[t][:, None], 0.0, costs[t] + value)
        stay_or_switch = here[:, None, :] + switch_costs[t][:, None, None] * (1 - np.eye(2))
        follow[t] = np.argmin(stay_or_switch, axis=2)
        value = np.min(stay_or_switch, axis=2)
        if t == 0:
            first = np.argmin(here, axis=1)
    schedule = np.empty((horizon, num_envs), dtype=np.int64)
    rows = np.arange(num_envs)
    for t in range(horizon):
        if t == 0:
            schedule[0] = np.where(last_units < 0, first, follow[0, rows, np.maximum(last_units, 0)])
        else:
            schedule[t] = follow[t, rows, schedule[t - 1]]
    return schedule
