"""A reference between the two planners of Serving-v1: it knows who comes, but not how long answers will be."""

from __future__ import annotations

import numpy as np

from agents.serving.planning.fair import Imagined, PlannerFair
from agents.serving.planning.imagined import draw_outputs
from agents.serving.planning.planner import Followed, Futures
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine


class PlannerArrivals(PlannerFair):
    """Tries plans, as the fair planner does, on futures that are true but for what those who are here still want.

    Who comes and when, with which prompts and answers, which drafts pass, how long senders wait and how units drift
    are the truth's; answers of requests that wait or are served are drawn from those of their class, given that they
    exceed what was generated. So its lead says what a perfect forecast of arrivals is worth to a planner, and what the
    clairvoyant one has beyond it is knowing how long the answers of those will be among whom it chooses.

    Args:
        seconds, samples, base, errors, seed: see `PlannerFair`.
    """

    privileged = True

    def supports(self, env: Problem) -> None:
        """As all planners, but for conversations: their next turns follow from answers, which are not the true ones."""
        super().supports(env)
        if (self.tables.kinds[:, at.MOST_TURNS] > 1).any():
            raise ConfigurationError(
                f"planner-arrivals: scenario {env.scenario.name!r} has conversations, whose next turns depend on the "
                "answers before; expected one of single requests, or planner-star"
            )

    def futures(self, engine: ServingEngine, env: int, state: Followed) -> Futures:
        """The true one, with other answers in each."""
        twin = engine.fork(env, self.samples)
        draw_outputs(twin.state, engine.tables, np.random.default_rng([self.seed, int(state.count[env])]))
        return Imagined(engine, env, twin)
