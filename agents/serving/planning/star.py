"""The clairvoyant reference of Serving-v1: a planner that tries its plans on the true future."""

from __future__ import annotations

from agents.serving.planning.planner import TOGETHER, Followed, Futures, Planner
from papi_env.envs.problem import Problem
from papi_env.simulation.serving.engine import ServingEngine


class PlannerStar(Planner):
    """Privileged: tries every plan on copies with the true arrivals, outputs, returns, acceptance and drift.

    Copies are played to the end of the episode. Going on as before is among the plans, so no look lowers the return: at
    its end the episode has at least that of the base rule. What it reaches is a lower bound of what there is to win by
    decisions over time, no ceiling. Belady's eviction is among its choices.
    """

    privileged = True
    clairvoyant = True

    def supports(self, env: Problem) -> None:
        """As all planners; its eviction is one that environments do not offer."""
        super().supports(env)
        env.engine.allow_references()
        self._scratch = env.engine.fork(0, TOGETHER)

    def futures(self, engine: ServingEngine, env: int, state: Followed) -> Futures:
        """The true one."""
        return Futures(engine, env, self._scratch)
