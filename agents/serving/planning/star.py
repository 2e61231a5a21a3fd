"""The clairvoyant reference of Serving-v1: a planner that tries its plans on the true future."""

from __future__ import annotations

from agents.serving.choices import CLAIRVOYANT
from agents.serving.greedy import ProfileGreedy
from agents.serving.planning.planner import TOGETHER, Followed, Futures, Planner
from agents.serving.planning.space import IntArray
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine


class PlannerStar(Planner):
    """Privileged: tries every plan on copies with the true arrivals, outputs, returns, acceptance and drift.

    Copies are played to the end of the episode. A look begins with the plan to go on as before, tries all that differ
    from it in one respect (or in order and shedding), moves to the best, and does so again for as many rounds as lead
    to something better (a coordinate search). So no look lowers the return: at its end the episode has at least that
    of the base rule. What it reaches is a lower bound of what there is to win by decisions over time, no ceiling; a
    large part of it is luck that is known in advance. Among its choices are Belady's eviction, and orders of admission
    by how long answers will be.

    Args:
        seconds, base: see `Planner`.
        rounds: of the search. chosen: 2; range 1-8.
    """

    privileged = True
    clairvoyant = True

    def __init__(self, seconds: float = 2.0, rounds: int = 2, base: ProfileGreedy | None = None) -> None:
        super().__init__(seconds, base)
        if rounds < 1:
            raise ConfigurationError(f"planner: rounds is {rounds}, expected at least 1")
        self.rounds = rounds

    def supports(self, env: Problem) -> None:
        """As all planners; some of its options are such as environments do not offer."""
        super().supports(env)
        for choice, option in CLAIRVOYANT.values():
            env.engine.allow(at.ORDER + choice, option)
        self._scratch = env.engine.fork(0, TOGETHER)

    def futures(self, engine: ServingEngine, env: int, state: Followed) -> Futures:
        """The true one."""
        return Futures(engine, env, self._scratch)

    def search(self, futures: Futures, memory: FloatArray, before: IntArray) -> tuple[IntArray, IntArray]:
        """The best plan of a coordinate search that begins with going on as before."""
        now = then = before
        best = self.values(futures, memory, now[None], then[None])[0, 0]
        for _ in range(self.rounds):
            first, last = self.varied(now, then)
            values = self.values(futures, memory, first, last)[:, 0]
            k = int(values.argmax())
            if values[k] <= best:
                break
            now, then, best = first[k], last[k], values[k]
        return now, then
