"""The fair planner of Serving-v1: it tries its plans on futures that a scheduler may imagine."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.serving.greedy import ProfileGreedy
from agents.serving.planning.imagined import imagine_service
from agents.serving.planning.known import Known
from agents.serving.planning.planner import Followed, Futures, Planner
from agents.serving.planning.space import IntArray
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.requests import ServingState

# All plans are tried on this share of the futures, the best of them then on all. chosen: a sixth and 12 plans, so that
# both take about as long.
SCREENED = 1 / 6
FINALISTS = 12


class PlannerFair(Planner):
    """Tries plans on several imagined futures, common to all plans, and moves to what is best on average.

    `imagined` says what a scheduler sees and knows, of which alone futures are made; so this is what looking ahead is
    worth without knowing what comes. A look tries all plans that differ from the base rule in one respect (or in order
    and shedding) on a few futures, the best of them on all, and follows the best if its mean gain over the base rule
    exceeds so many of its standard errors; else the base rule.

    Args:
        seconds, base: see `Planner`.
        samples: futures of a look. chosen: 24; range 4-256.
        ahead_s: seconds for which sessions are imagined to come, after which the copies drain. chosen: 10, some times
            as long as most requests stay; range 2-120.
        errors: standard errors that a gain must exceed. chosen: 2, for the best of some plans looks better than it is;
            range 0-4.
        seed: of the futures.
    """

    def __init__(
        self,
        seconds: float = 2.0,
        samples: int = 24,
        base: ProfileGreedy | None = None,
        *,
        ahead_s: float = 10.0,
        errors: float = 2.0,
        seed: int = 0,
    ) -> None:
        super().__init__(seconds, base)
        if samples < 4:
            raise ConfigurationError(f"planner: samples is {samples}, expected at least 4")
        self.samples, self.ahead_s, self.errors, self.seed = samples, float(ahead_s), errors, seed

    def watch(self, engine: ServingEngine, state: Followed, episode_start: Any) -> None:
        """Note arrivals, and turns that are done."""
        for env in range(engine.num_envs):
            if state.seen[env] is None:
                state.seen[env] = Known()
            state.seen[env].watch(engine, env)

    def futures(self, engine: ServingEngine, env: int, state: Followed) -> Futures:
        """Imagined ones, drawn for this look."""
        seed = int(np.random.SeedSequence([self.seed, state.count[env]]).generate_state(1, np.uint64)[0])
        made = imagine_service(engine, env, self.samples, state.seen[env], self.ahead_s, seed)
        return Imagined(engine, env, made)

    def search(self, futures: Futures, memory: FloatArray, before: IntArray) -> tuple[IntArray, IntArray]:
        """The best of the plans about the base rule, where it is better than that beyond doubt."""
        base = self.space.base
        first, then = self.varied(base, base)
        few = max(round(self.samples * SCREENED), 2)
        means = self.values(futures, memory, first, then, 0, few).mean(axis=1)
        best = np.argsort(-means, kind="stable")[:FINALISTS]
        first = np.concatenate([base[None], before[None], first[best]])
        then = np.concatenate([base[None], before[None], then[best]])
        values = self.values(futures, memory, first, then, 0, self.samples)
        gains = values - values[0]
        k = int(gains.mean(axis=1).argmax())
        doubt = self.errors * gains[k].std(ddof=1) / np.sqrt(self.samples)
        k = k if gains[k].mean() > doubt else 0
        return first[k], then[k]


class Imagined(Futures):
    """Futures of an environment that were made up."""

    def __init__(self, engine: ServingEngine, env: int, made: ServingEngine) -> None:
        super().__init__(engine, env)
        self.made = made

    def copies(self, count: int, start: int, stop: int) -> ServingEngine:
        """A copy of futures `start` to `stop` for each plan."""
        total = count * (stop - start)
        if self.scratch is None or len(self.scratch.state.counters) < total:
            self.scratch = self.made.fork(0, total)
        twin = self.made.fork(0, total, self.scratch)
        for name in ServingState._fields:
            future = getattr(self.made.state, name)[start:stop]
            getattr(twin.state, name).reshape(count, *future.shape)[:] = future
        twin.tables = self.made.tables
        return twin
