"""Look-ahead policies for Serving-v0: model-predictive search, and the clairvoyant one."""

from __future__ import annotations

import numpy as np

from agents.policy import Actions
from agents.serving.belief import imagine
from agents.serving.heuristic import ServingHeuristic
from agents.serving.inside.play import play_range
from agents.serving.oracles import LookAhead
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.rollout import roll

# A late request can catch up by decoding faster than its objective: by this share of the objective's time for
# its remaining tokens. chosen: a half, twice as fast; range 0.1-0.9.
CATCH_UP = 0.5
# Worth of a token still to come of a request that is on pace, in tokens already there: what a first token in
# time is good for beyond itself. chosen: a quarter; range 0-1 (from a half on, decoding slows for prompts).
PROMISE = 0.25
# Iterations for which an action is held in a look-ahead before the rule goes on: an action that pays only if
# repeated shows. chosen: 2; range 1-8.
HOLD = 2


class ServingSearch(LookAhead):
    """Model-predictive search over all joint actions, on true costs, without seeing the future.

    Before each iteration every joint action is tried on imagined futures (see `belief.imagine`): it is
    held for two iterations, then the rule `heuristic` goes on. The best candidates of a short look are compared
    in a long one, and the best of those is played for one iteration (a rollout over a base policy, Bertsekas,
    Tsitsiklis and Wu, J. Heuristics 3, 1997). What is compared is the gain in `worth` per second of work, over
    all samples together. Reading the machine's true costs makes it privileged.

    Args:
        candidates: joint actions that survive the short look. chosen: 16; range 1-72.
        samples: imagined futures. chosen: 1, common to all candidates; range 1-16.
        iterations: of the long look; the short one takes a quarter. chosen: 16, about half a second; range 1-256.
        seed: of the imagined futures.

    A decision simulates at most 72 x samples x iterations / 4 + candidates x samples x iterations iterations.
    """

    def __init__(self, candidates: int = 16, samples: int = 1, iterations: int = 16, seed: int = 0) -> None:
        budget = {"candidates": candidates, "samples": samples, "iterations": iterations}
        for name, value in budget.items():
            if value < 1:
                raise ConfigurationError(f"search: {name} is {value}, expected at least 1")
        self.candidates, self.samples, self.iterations, self.seed = candidates, samples, iterations, seed

    def supports(self, env: Problem) -> None:
        """Every machine; binds the rule that goes on after the action tried."""
        super().supports(env)
        self._base = ServingHeuristic()
        self._base.bind(env)

    def decide(self, engine: ServingEngine, env: int, options: Actions) -> Actions:
        """Screen all options by a short look, compare the best by a long one."""
        if len(options) > self.candidates:
            rates = self._rates(engine, env, options, -(-self.iterations // 4))
            options = options[np.argsort(-rates, kind="stable")[: self.candidates]]
        if len(options) == 1:
            return options[0]
        return options[int(np.argmax(self._rates(engine, env, options, self.iterations)))]

    def _rates(self, engine: ServingEngine, env: int, options: Actions, iterations: int) -> FloatArray:
        """Gain in worth per second of work after each option, [options]."""
        twin = self._future(engine, env, len(options))
        samples = twin.num_envs // len(options)
        before = worth(twin, self._prompt_weight)
        start = twin.clocks[:, at.TIME_S] - twin.clocks[:, at.IDLE_S]
        base = self._base.knowing(np.full(twin.num_envs, self._acceptance[env]))
        first = np.repeat(options, samples, axis=0)
        roll(twin, play_range, base[:], first=first, hold=HOLD, steps=iterations)
        gain = worth(twin, self._prompt_weight) - before
        work = twin.clocks[:, at.TIME_S] - twin.clocks[:, at.IDLE_S] - start
        return gain.reshape(-1, samples).sum(axis=1) / np.maximum(
            work.reshape(-1, samples).sum(axis=1), 1e-12
        )

    def _future(self, engine: ServingEngine, env: int, copies: int) -> ServingEngine:
        return imagine(engine, env, copies, self.samples, float(self._acceptance[env]), self.seed)


class ServingClairvoyant(ServingSearch):
    """The same search on the true future: arrivals, lengths, acceptance and drift. One sample is enough.

    A reference for what knowing the instance is worth to a search of this kind; no ceiling.
    """

    def __init__(self, candidates: int = 16, iterations: int = 16) -> None:
        super().__init__(candidates, 1, iterations)

    def _future(self, engine: ServingEngine, env: int, copies: int) -> ServingEngine:
        return engine.fork(env, copies)


def worth(engine: ServingEngine, weight: float) -> FloatArray:
    """What each environment's state is worth, in output tokens, [num_envs].

    The good tokens of finished requests; of those decoding, the tokens generated so far and a part of those
    still to come (`PROMISE`), times how far the request can still meet its objectives: 1 on pace, less by what
    it is behind relative to what it can catch up (`CATCH_UP`), 0 after a missed first token; and `weight` for
    every prompt token processed once. Less the dynamic energy at the scenario's price.
    """
    state, scalars = engine.state, engine.tables.scalars
    counters, clocks = state.counters, state.clocks
    most = int(counters[:, at.RLP].max())
    decoding = np.arange(most) < counters[:, at.RLP, None]
    left = state.left[:, :most]
    copies = np.arange(engine.num_envs)[:, None]
    generated = state.facts[copies, state.requests[:, :most], at.OUTPUT] - left
    slack = state.deadlines[:, :most] - clocks[:, at.TIME_S, None]
    reserve = CATCH_UP * scalars[at.TPOT_S] * np.maximum(left, 1)
    promised = generated + PROMISE * left
    credit = np.where(decoding, promised * np.clip(1 + slack / reserve, 0, 1), 0.0).sum(axis=1)
    prompts = counters[:, at.PREFILLED] - counters[:, at.RECOMPUTED]
    energy = scalars[at.ENERGY_WEIGHT] * clocks[:, at.DYNAMIC_J]
    return counters[:, at.GOOD_TOKENS] + credit + weight * prompts - energy
