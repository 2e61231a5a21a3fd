"""A learned policy of Serving-v1: a network that sees the requests that wait, and plays inside the compiled loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from agents.serving.combined import ServingTuned
from agents.serving.greedy import GREEDY_RANGES, GreedyParameters, ProfileGreedy
from agents.serving.inside import network as layout
from agents.serving.inside.choices import LEFT
from agents.serving.inside.play import NETWORK
from agents.serving.slack import class_objectives
from agents.serving.tuned import DEFAULT
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.workload.service_presets import traffic_of

NUM_WEIGHTS = layout.NUM_WEIGHTS


class SeesRequests(ProfileGreedy):
    """Scores the requests that wait, and adjusts what profile-greedy weighs; see `inside.network` for the layers.

    Args:
        weights: float64 [NUM_WEIGHTS] each. Several share the environments evenly, the first of them taking the first
            environments: so a search plays many at once. None: untrained ones.
        of_traffics: weights in place of these where the scenario's classes are the senders of a traffic, by its name.
    """

    code = NETWORK
    # Of the checkpoint that it is from, as `agents.learned.checkpoint` has it; None of one in training.
    description: Any = None
    plays_v0 = False

    def __init__(self, *weights: FloatArray, of_traffics: Mapping[str, FloatArray] | None = None) -> None:
        super().__init__()
        self.of_traffics = dict(of_traffics or {})
        for one in (*weights, *self.of_traffics.values()):
            if one.shape != (NUM_WEIGHTS,) or not np.isfinite(one).all():
                raise ConfigurationError(
                    f"weights have shape {one.shape}, expected {NUM_WEIGHTS} finite numbers"
                )
        self.weights = weights or (untrained(),)

    def supports(self, env: Problem) -> None:
        """Serving-v1 on every machine; takes what profile-greedy weighs from the best tuned rule of all families."""
        super().supports(env)
        tuned = asdict(ServingTuned.stored(True)[DEFAULT])
        self.parameters = GreedyParameters(**{name: tuned[name] for name in GREEDY_RANGES})
        env.engine.allow(at.ORDER, at.BY_SCORE)
        traffic = traffic_of(env.scenario.serving) or ""
        weights = (self.of_traffics[traffic],) if traffic in self.of_traffics else self.weights
        each, left = divmod(env.engine.num_envs, len(weights))
        if left:
            raise ConfigurationError(
                f"{len(weights)} networks for {env.engine.num_envs} environments, expected a multiple"
            )
        self.carry([one for one in weights for _ in range(each if len(weights) > 1 else 1)])

    @property
    def scores(self) -> bool:
        """Whether it orders requests by their scores; no part of its name says another order."""
        return bool(self._choices[0] == LEFT)

    def queries(self, count: int) -> FloatArray:
        """The engine's own, which the coming step scores by: a part of the action."""
        kept: FloatArray = self.env.engine.queries(count)
        return kept

    def carry(self, weights: Sequence[FloatArray]) -> None:
        """From now on play each environment with weights of its own, or all with those of the only one."""
        greedy = self._row(self.parameters)
        base = [self.parameters.prompt_worth, self.parameters.pace]
        more = [0.0] * at.MAX_CLASSES
        known = np.array([*greedy, *base, *class_objectives(self.tables), *more])
        assert len(known) == layout.SUMMARY
        self._rows = np.array([np.concatenate([known, one]) for one in weights])
        self._service = np.repeat(self._choices[None], len(weights), axis=0)


def untrained(seed: int = 0) -> FloatArray:
    """Weights of a network that admits who is worth most for the work, float64 [NUM_WEIGHTS].

    It drops the class that is worth least once KV pages run short, and adjusts nothing else. Hidden units are drawn,
    and count for nothing yet.
    """
    row = np.zeros(layout.NUM_NETWORK)
    rng = np.random.default_rng(seed)
    for start, stop, fan_in in (
        (layout.SUMMARY, layout.QUERY, layout.NUM_CLASS),
        (layout.QUERY, layout.QUERY_OUT, layout.NUM_CLASS + layout.NUM_READ),
        (layout.ADJUST, layout.ADJUST_OUT, layout.NUM_READ),
    ):
        row[start:stop] = rng.normal(0.0, 2.0 / np.sqrt(fan_in), stop - start)
    query = row[layout.QUERY_OUT : layout.ADJUST].reshape(at.NUM_TRAITS, -1)
    # chosen: so small that holding is soon tried; range 0.1-1.
    query[at.WORTH, -1] = 0.4
    adjust = row[layout.ADJUST_OUT :].reshape(layout.NUM_ADJUSTED, -1)
    adjust[layout.DROPS_CLASS :, -1] = -0.3
    # chosen: as the slack-aware rule was tuned where pages run short, from 0.6 of them on (range 0.4-1).
    adjust[layout.DROPS_CLASS, [layout.KV_USE, -1]] = 1.0, -0.6
    return row[layout.SUMMARY :]
