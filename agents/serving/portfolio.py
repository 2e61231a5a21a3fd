"""A clairvoyant reference for Serving-v0: profile-greedy with the parameters that the rest of the episode wants.

Look-aheads of some iterations see no request finish; this one plays every candidate to the end of the episode.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from agents.policy import Actions, Observations
from agents.serving.estimates import Estimates
from agents.serving.greedy import GreedyParameters, ProfileGreedy
from agents.serving.inside.play import play_range
from agents.serving.rules import ServingRule
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.rollout import roll

# Candidates about the tuned parameters. chosen: from prompts that count for little to prompts first; the pace that was
# tuned and a strict one; admission as tuned, and of everyone at once.
PROMPT_FACTORS = (0.3, 1.0, 2.0, 5.0)
PACES = (None, 1.0)
ADMIT_SLACKS = (None, -16.0)


def candidates(tuned: GreedyParameters) -> tuple[GreedyParameters, ...]:
    """The parameter sets of the portfolio; the tuned ones are first."""
    found = [tuned]
    for factor, pace, slack in product(PROMPT_FACTORS, PACES, ADMIT_SLACKS):
        found.append(
            replace(
                tuned,
                prompt_worth=factor * tuned.prompt_worth,
                pace=tuned.pace if pace is None else pace,
                admit_slack=tuned.admit_slack if slack is None else slack,
            )
        )
    return tuple(dict.fromkeys(found))


class ServingPortfolio(ServingRule):
    """Privileged: plays `profile-greedy` with the parameters that turn out best on the true rest of the episode.

    Every `iterations` iterations each candidate (see `candidates`) is played on a copy of the environment, with its
    true arrivals, lengths, acceptance and drift, to the end of the episode; the best is followed until the next look.
    Going on as before is among the candidates, so no look lowers the return: at its end the episode has at least the
    return of `profile-greedy`. A lower bound of what there is to win by decisions over time, no ceiling.

    Args:
        iterations: from one look to the next. chosen: 200, some ten seconds of a saturated machine; range 1-10,000.
    """

    privileged = True

    def __init__(self, iterations: int = 200) -> None:
        if iterations < 1:
            raise ConfigurationError(f"portfolio: iterations is {iterations}, expected at least 1")
        self.iterations = iterations

    def supports(self, env: Problem) -> None:
        """Every machine; what is played here and what is tried in copies are two bindings of the same rule."""
        self._playing, self._tried = ProfileGreedy(), ProfileGreedy()
        self._playing.bind(env)
        self._tried.bind(env)
        self.candidates = candidates(self._playing.parameters)
        self._tried.assign(self.candidates)
        self._scratch = env.engine.fork(0, len(self.candidates))

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Look ahead where it is time to, then do what the rule says. State: `_Followed`."""
        state = _Followed(len(observations)) if state is None else state
        state.age = np.where(episode_start, 0, state.age + 1)
        state.candidate = np.where(episode_start, 0, state.candidate)
        engine: ServingEngine = self.env.engine
        for env in np.flatnonzero((engine.counters[:, at.DONE] == 0) & (state.age % self.iterations == 0)):
            returns = self.returns(engine, int(env), state.estimates, bool(episode_start[env]))
            if returns.max() > returns[state.candidate[env]]:
                state.candidate[env] = int(returns.argmax())
        self._playing.assign([self.candidates[k] for k in state.candidate])
        actions, state.estimates = self._playing.act(observations, state.estimates, episode_start)
        return actions, state

    def returns(
        self, engine: ServingEngine, env: int, estimates: Estimates | None, start: bool
    ) -> FloatArray:
        """Rewards until the end of the episode of environment `env` under each candidate, [candidates].

        Args:
            engine: left as it is.
            env: which of its environments.
            estimates: what the rule makes of the past before it sees the present observation, of all environments.
            start: whether the episode begins.
        """
        copies = len(self.candidates)
        twin = engine.fork(env, copies, self._scratch)
        known = Estimates(copies) if estimates is None or start else estimates.repeated(env, copies)
        return roll(twin, play_range, self._tried.compiled(known.memory)[:]).returns


class _Followed:
    """Which candidate each environment follows, since when its episode runs, and what the rule made of the past."""

    def __init__(self, num_envs: int) -> None:
        self.age = np.zeros(num_envs, dtype=np.int64)
        self.candidate = np.zeros(num_envs, dtype=np.int64)
        self.estimates: Estimates | None = None
