"""The fair planner of Serving-v1: it tries its plans on futures that a scheduler may imagine."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.serving.greedy import ProfileGreedy
from agents.serving.planning.imagined import imagine_service
from agents.serving.planning.known import Known
from agents.serving.planning.planner import Followed, Futures, Planner
from agents.serving.planning.space import IntArray
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.tables import ServingTables

# All plans are tried on a share of the futures, the best of them on more, and so on (sequential halving: Karnin, Koren
# and Somekh, ICML 2013): the share, and how many plans go on. chosen: rounds that take about as long as one another.
# What is left of the futures judges the winner: on those that it was chosen by it looks better than it is.
ROUNDS = ((1 / 12, 24), (1 / 4, 4), (1 / 2, 1))
# Sessions are imagined to come for as long as an answer takes, lest those be left out whom it keeps from the memory:
# so many times what its objective allows for a mean answer, of the class for which that is longest, and no less than
# so many seconds. chosen: a quarter, since machines that are in time are faster than asked (range 0.1-1), and 10 s
# (range 2-30).
SHARE_OF_OBJECTIVE = 0.25
LEAST_AHEAD_S = 10.0


class Imagining(Planner):
    """Looks ahead into futures that a scheduler may imagine, as `imagined` says.

    Args:
        seconds, base: see `Planner`.
        samples: futures of a look.
        ahead_s: seconds for which sessions are imagined to come, after which the copies drain; None: as long as an
            answer of the scenario takes, see `answer_s`.
        seed: of the futures.
    """

    def __init__(
        self, seconds: float, samples: int, base: ProfileGreedy | None, ahead_s: float | None, seed: int
    ) -> None:
        super().__init__(seconds, base)
        if ahead_s is not None and not ahead_s > 0:
            raise ConfigurationError(f"planner: ahead_s is {ahead_s}, expected more than 0")
        self.samples, self.ahead_s, self.seed = samples, ahead_s, seed

    def supports(self, env: Problem) -> None:
        """As all planners."""
        super().supports(env)
        self._ahead_s = answer_s(self.tables) if self.ahead_s is None else float(self.ahead_s)

    def watch(self, engine: ServingEngine, state: Followed, episode_start: Any) -> None:
        """Note arrivals, and turns that are done."""
        for env in range(engine.num_envs):
            if state.seen[env] is None:
                state.seen[env] = Known()
            state.seen[env].watch(engine, env)

    def futures(self, engine: ServingEngine, env: int, state: Followed) -> Futures:
        """Imagined ones, drawn for this look."""
        seed = int(np.random.SeedSequence([self.seed, state.count[env]]).generate_state(1, np.uint64)[0])
        made = imagine_service(engine, env, self.samples, state.seen[env], self._ahead_s, seed)
        return Imagined(engine, env, made)


class PlannerFair(Imagining):
    """Tries plans on several imagined futures, common to all plans, and moves to what is best on average.

    `imagined` says what a scheduler sees and knows, of which alone futures are made; so this is what looking ahead is
    worth without knowing what comes. A look tries all plans that differ from the base rule in one respect (or in order
    and shedding) on a few futures, the best of them on more, and follows the last if its mean gain over the base rule,
    on futures that none was chosen by, exceeds so many of its standard errors; else the base rule. Any change of what
    is done changes all that follows by chance, which a few futures do not average out.

    Args:
        seconds, base: see `Planner`.
        samples: futures of a look. chosen: 96; range 12-1024.
        ahead_s: seconds for which sessions are imagined to come, after which the copies drain; None: as long as an
            answer of the scenario takes, see `answer_s`. Range 2-120.
        errors: standard errors that a gain must exceed. chosen: 1.5; range 0-4.
        seed: of the futures.
    """

    def __init__(
        self,
        seconds: float = 4.0,
        samples: int = 96,
        base: ProfileGreedy | None = None,
        *,
        ahead_s: float | None = None,
        errors: float = 1.5,
        seed: int = 0,
    ) -> None:
        super().__init__(seconds, samples, base, ahead_s, seed)
        if samples < 12:
            raise ConfigurationError(f"planner: samples is {samples}, expected at least 12")
        self.errors = errors

    def search(self, futures: Futures, memory: FloatArray, before: IntArray) -> tuple[IntArray, IntArray]:
        """The best of the plans about the base rule, where it is better than that beyond doubt."""
        base = self.space.base
        first, then = self.varied(base, base)
        first, then = np.concatenate([before[None], first]), np.concatenate([before[None], then])
        own = np.zeros(0)  # returns of the base rule
        values = np.zeros((len(first), 0))
        for share, keep in ROUNDS:
            start, stop = len(own), max(round(share * self.samples), len(own) + 1)
            own = np.concatenate([own, self.values(futures, memory, base[None], base[None], start, stop)[0]])
            values = np.concatenate([values, self.values(futures, memory, first, then, start, stop)], axis=1)
            best = np.argsort(-values.mean(axis=1), kind="stable")[:keep]
            first, then, values = first[best], then[best], values[best]
        judges = len(own), self.samples
        gains = self.values(futures, memory, first, then, *judges)[0]
        gains -= self.values(futures, memory, base[None], base[None], *judges)[0]
        doubt = self.errors * gains.std(ddof=1) / np.sqrt(len(gains))
        return (first[0], then[0]) if gains.mean() > doubt else (base, base)


def answer_s(tables: ServingTables) -> float:
    """About as long as answers take that take longest, by what their class is promised; `SHARE_OF_OBJECTIVE`."""
    longest = LEAST_AHEAD_S
    for row, (first, count, *_) in zip(tables.kinds, tables.spans, strict=True):
        outputs = tables.service_lengths[first : first + count, 1]
        longest = max(longest, SHARE_OF_OBJECTIVE * float(outputs.mean()) * float(row[at.KIND_TPOT_S]))
    return longest


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
        return self.made.fork(np.tile(np.arange(start, stop), count), total, self.scratch)
