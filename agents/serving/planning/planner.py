"""What planners of Serving-v1 share: looks ahead at intervals, plans and what they promise, the plan in play."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from agents.policy import Actions, Observations
from agents.serving.combined import ServingTuned
from agents.serving.greedy import ProfileGreedy
from agents.serving.inside.memory import NUM_MEMORY
from agents.serving.inside.play import CompiledPolicy, decide_all, play_range
from agents.serving.planning.space import IntArray, Space, space_about
from agents.serving.rules import ServingRule
from agents.serving.view import as_compiled
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.rollout import roll
from papi_env.simulation.serving.tables import framed

# Copies that are rolled out at once. chosen: 64, some 6 MB; changes no result.
TOGETHER = 64


class Planner(ServingRule):
    """Looks ahead every so many simulated seconds, and until the next look plays what did best on copies.

    Candidates are parameter sets of profile-greedy with fixed further choices (see `space`). A plan is a candidate for
    the time until the next look, and another for good after it: so what pays only for a while, such as to drop a class
    now, is among them. Subclasses say on which futures plans are tried, and how the best is searched.

    Args:
        seconds: from one look to the next. chosen: 2, the shortest first-token objectives of interactive services are
            about a half; range 0.1-60.
        base: the rule whose parameters and choices candidates vary; None: the best tuned one.
    """

    plays_v1 = True
    clairvoyant = False

    def __init__(self, seconds: float = 2.0, base: ProfileGreedy | None = None) -> None:
        if not seconds > 0:
            raise ConfigurationError(f"planner: seconds is {seconds}, expected more than 0")
        self.seconds = float(seconds)
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
        self._look = framed(self.tables)
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
            self.plan(engine, int(env), state)
            state.count[env] += 1
            state.next_s[env] = now[env] + self.seconds
        actions = np.zeros((len(observations), self._columns), dtype=np.int64)
        policy = self.space.policy(self.base, state.now, state.memory)
        queries = self.base.queries(len(observations))
        decide_all(policy[:], as_compiled(observations, np.float32), self._look, actions, queries, self._busy)
        return actions, state

    def watch(self, engine: ServingEngine, state: Followed, episode_start: Any) -> None:
        """Note what a scheduler sees happen; called before every decision."""

    @abstractmethod
    def futures(self, engine: ServingEngine, env: int, state: Followed) -> Futures:
        """The machine of environment `env` as it may go on, for one look."""

    def plan(self, engine: ServingEngine, env: int, state: Followed) -> None:
        """Look ahead from environment `env`, and change its plan to the best found."""
        futures = self.futures(engine, env, state)
        state.now[env], state.then[env] = self.search(futures, state.memory[env], state.then[env].copy())
        state.looks += 1
        state.forks += futures.played

    @abstractmethod
    def search(self, futures: Futures, memory: FloatArray, before: IntArray) -> tuple[IntArray, IntArray]:
        """The best plan that is found: candidates until the next look and after it, int64 [coordinates] each.

        Args:
            futures: what plans are tried on.
            memory: of the rule, float64 [NUM_MEMORY].
            before: the candidate to go on with as before.
        """

    def values(
        self,
        futures: Futures,
        memory: FloatArray,
        first: IntArray,
        then: IntArray,
        start: int = 0,
        stop: int = 1,
    ) -> FloatArray:
        """Rewards until the end of futures `start` to `stop` under plans of `first` and `then`, [plans, futures]."""
        samples = stop - start
        each = max(TOGETHER // samples, 1)
        found = np.zeros((len(first), samples))
        for begin in range(0, len(first), each):
            part = slice(begin, min(begin + each, len(first)))
            count = part.stop - part.start
            twin = futures.copies(count, start, stop)
            known = np.repeat(memory[None], count * samples, axis=0)
            policies = [
                self.space.policy(self.base, np.repeat(candidates, samples, axis=0), known)
                for candidates in (first[part], then[part])
            ]
            returns = futures.roll(twin, policies[0], self.seconds)
            returns += self.rest(futures, twin, policies[1])
            found[part] = returns.reshape(count, samples)
            futures.played += twin.num_envs
        return found

    def rest(self, futures: Futures, twin: ServingEngine, policy: CompiledPolicy) -> FloatArray:
        """What copies return from the next look to their end, float64 [copies]."""
        return futures.roll(twin, policy, None)

    def varied(self, now: IntArray, then: IntArray) -> tuple[IntArray, IntArray]:
        """Plans that differ from (now, then) in one respect, until the next look and for good; int64 [plans, ...]."""
        other = self.space.neighbours(now)
        return np.concatenate([other, other]), np.concatenate(
            [np.repeat(then[None], len(other), axis=0), other]
        )


class Futures:
    """The true future of an environment, and what all kinds of futures are asked.

    `played` counts copies that were rolled out, `steps` their iterations.

    Args:
        engine: left as it is.
        env: which of its environments.
        scratch: an earlier fork with `TOGETHER` copies at least, which is overwritten; None: fresh memory.
    """

    def __init__(self, engine: ServingEngine, env: int, scratch: ServingEngine | None = None) -> None:
        self.engine, self.env, self.scratch = engine, env, scratch
        self.played = self.steps = 0

    def copies(self, count: int, start: int, stop: int) -> ServingEngine:
        """An engine with copies of futures `start` to `stop` for `count` plans, those of a plan side by side."""
        return self.engine.fork(self.env, count, self.scratch)

    def roll(self, twin: ServingEngine, policy: CompiledPolicy, seconds: float | None) -> FloatArray:
        """What copies return under a policy in so many seconds, or to their end; float64 [copies]."""
        rollout = roll(twin, play_range, policy[:], seconds=seconds)
        self.steps += int(rollout.steps.sum())
        return rollout.returns


class Followed:
    """The plan that each environment follows, when it looks ahead next, and what the rule made of the past.

    Attributes:
        now, then: int64 [num_envs, coordinates], candidates until the next look and after it.
        next_s: float64 [num_envs], when that is.
        memory: float64 [num_envs, NUM_MEMORY], of the rule.
        count: int64 [num_envs], looks of the episode so far; looks, forks: of all environments.
        seen: what `Planner.watch` keeps of each environment.
    """

    def __init__(self, num_envs: int, space: Space) -> None:
        self.now = np.repeat(space.base[None], num_envs, axis=0)
        self.then = self.now.copy()
        self.next_s = np.full(num_envs, -np.inf)
        self.memory = np.zeros((num_envs, NUM_MEMORY))
        self.count = np.zeros(num_envs, dtype=np.int64)
        self.looks = self.forks = 0
        self.seen: list[Any] = [None] * num_envs

    def restart(self, episode_start: Any) -> None:
        """Forget what belongs to episodes that are over."""
        self.now[episode_start] = self.then[episode_start] = 0
        self.next_s[episode_start] = -np.inf
        self.memory[episode_start] = 0.0
        self.count[episode_start] = 0
        for env in np.flatnonzero(episode_start):
            self.seen[env] = None
