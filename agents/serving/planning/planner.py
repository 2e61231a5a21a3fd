"""What planners of Serving-v1 share: looks ahead at intervals, a search among candidates, and the plan that is followed."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from agents.policy import Actions, Observations
from agents.serving.combined import ServingTuned
from agents.serving.greedy import ProfileGreedy
from agents.serving.inside.memory import NUM_MEMORY
from agents.serving.inside.play import decide_all, play_range
from agents.serving.planning.space import IntArray, Space, space_about
from agents.serving.rules import ServingRule
from agents.serving.view import as_compiled
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.rollout import roll
from papi_env.simulation.serving.terms import Lookups

# Copies that are rolled out at once. chosen: 64, some 6 MB; changes no result.
TOGETHER = 64


class Planner(ServingRule):
    """Looks ahead every so many simulated seconds, and plays what did best on copies of the machine until the next look.

    Candidates are parameter sets of profile-greedy with fixed further choices (see `space`). A plan is a candidate for
    the time until the next look, and another for good after it. A look begins with the plan to go on as before. It tries
    every candidate that differs in one respect (or in order and shedding), both for the interval alone and for good,
    moves to the best, and does so again for as many rounds as lead to something better (a coordinate search). So the
    first choice of a plan may be one that pays only for a while, such as to drop a class now.

    Args:
        seconds: from one look to the next. chosen: 2, the shortest first-token objectives of interactive services are
            about a half; range 0.1-60.
        rounds: of the search. chosen: 2; range 1-8.
        base: the rule whose parameters and choices candidates vary; None: the best tuned one.
    """

    plays_v1 = True
    clairvoyant = False

    def __init__(self, seconds: float = 2.0, rounds: int = 2, base: ProfileGreedy | None = None) -> None:
        if not seconds > 0:
            raise ConfigurationError(f"planner: seconds is {seconds}, expected more than 0")
        if rounds < 1:
            raise ConfigurationError(f"planner: rounds is {rounds}, expected at least 1")
        self.seconds, self.rounds = float(seconds), rounds
        self.base = ServingTuned() if base is None else base

    def supports(self, env: Problem) -> None:
        """Every machine, with classes of requests."""
        if not self._with_service:
            raise ConfigurationError(
                f"{type(self).__name__} plays papi_env/Serving-v1 alone; scenario {env.scenario.name!r} is played "
                "without classes of requests"
            )
        self.base.bind(env)
        self.space: Space = space_about(self.base, self.tables, self.clairvoyant)
        self._look = tuple(Lookups.of(self.tables))
        self._busy = np.zeros(at.NUM_RESOURCES)

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Look ahead where it is time to, then do what the plan says. State: `Followed`."""
        engine: ServingEngine = self.env.engine
        if state is None:
            state = Followed(len(observations), self.space)
        state.restart(episode_start)
        self.watch(engine, state, episode_start)
        now = engine.clocks[:, at.TIME_S]
        for env in np.flatnonzero((engine.counters[:, at.DONE] == 0) & (now >= state.next_s)):
            self._plan(engine, int(env), state)
            state.next_s[env] = now[env] + self.seconds
        actions = np.zeros((len(observations), self._columns), dtype=np.int64)
        policy = self.space.policy(self.base, state.now, state.memory)
        decide_all(policy[:], as_compiled(observations, np.float32), self._look, actions, self._busy)
        return actions, state

    def watch(self, engine: ServingEngine, state: Followed, episode_start: Any) -> None:
        """Note what a scheduler sees happen; called before every decision."""

    @abstractmethod
    def futures(self, engine: ServingEngine, env: int, state: Followed) -> Futures:
        """The machine of environment `env` as it may go on, for one look."""

    def _plan(self, engine: ServingEngine, env: int, state: Followed) -> None:
        """Look ahead from environment `env`, and change its plan to the best found."""
        futures = self.futures(engine, env, state)
        now = then = state.then[env].copy()
        best = self._values(futures, state.memory[env], now[None], then[None])[0]
        state.forks += len(best)
        for _ in range(self.rounds):
            other = self.space.neighbours(now)
            first = np.concatenate([other, other])
            last = np.concatenate([np.repeat(then[None], len(other), axis=0), other])
            values = self._values(futures, state.memory[env], first, last)
            state.forks += values.size
            k = self.better(values, best)
            if k < 0:
                break
            now, then, best = first[k], last[k], values[k]
        state.now[env], state.then[env] = now, then
        state.looks += 1

    def better(self, values: FloatArray, best: FloatArray) -> int:
        """Which of the plans to move to; -1 to stay with the best so far.

        Args:
            values: returns of plans in futures, [plans, futures].
            best: of the best so far, [futures].
        """
        means = values.mean(axis=1)
        k = int(means.argmax())
        return k if means[k] > best.mean() else -1

    def _values(self, futures: Futures, memory: FloatArray, first: IntArray, then: IntArray) -> FloatArray:
        """Rewards until the end of every future under plans of `first` and `then`, [plans, futures]."""
        each = max(TOGETHER // futures.count, 1)
        found = np.zeros((len(first), futures.count))
        for start in range(0, len(first), each):
            part = slice(start, min(start + each, len(first)))
            count = part.stop - part.start
            twin = futures.copies(count)
            known = np.repeat(memory[None], count * futures.count, axis=0)
            returns = np.zeros(count * futures.count)
            for candidates, seconds in ((first[part], self.seconds), (then[part], None)):
                policy = self.space.policy(self.base, np.repeat(candidates, futures.count, axis=0), known)
                returns += roll(twin, play_range, policy[:], seconds=seconds).returns
            found[part] = returns.reshape(count, futures.count)
        return found


class Futures:
    """The true future of an environment, and what all kinds of futures are asked.

    Args:
        engine: left as it is.
        env: which of its environments.
        scratch: an earlier fork with `TOGETHER` copies at least, which is overwritten; None: fresh memory.
    """

    count = 1

    def __init__(self, engine: ServingEngine, env: int, scratch: ServingEngine | None = None) -> None:
        self.engine, self.env, self.scratch = engine, env, scratch

    def copies(self, count: int) -> ServingEngine:
        """An engine of `count` x futures copies, those of one plan side by side."""
        return self.engine.fork(self.env, count, self.scratch)


class Followed:
    """The plan that each environment follows, when it looks ahead next, and what the rule made of the past.

    Attributes:
        now, then: int64 [num_envs, coordinates], candidates until the next look and after it.
        next_s: float64 [num_envs], when that is.
        memory: float64 [num_envs, NUM_MEMORY], of the rule.
        looks, forks: so far, of all environments.
        seen: what `Planner.watch` keeps of each environment.
    """

    def __init__(self, num_envs: int, space: Space) -> None:
        self.now = np.repeat(space.base[None], num_envs, axis=0)
        self.then = self.now.copy()
        self.next_s = np.full(num_envs, -np.inf)
        self.memory = np.zeros((num_envs, NUM_MEMORY))
        self.looks = self.forks = 0
        self.seen: list[Any] = [None] * num_envs

    def restart(self, episode_start: Any) -> None:
        """Forget what belongs to episodes that are over."""
        self.now[episode_start] = self.then[episode_start] = 0
        self.next_s[episode_start] = -np.inf
        self.memory[episode_start] = 0.0
        for env in np.flatnonzero(episode_start):
            self.seen[env] = None
