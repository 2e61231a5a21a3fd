"""Parameter sets of a rule, played on scenarios of Serving-v0 or -v1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.serving.tuned import TunedRule, Value, parameters_from
from experiments.common.pools import Call, Pool
from experiments.common.problems import problem_of, vector_class
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.scenario import Scenario
from papi_env.simulation.serving import state as at

# Sets that play at once, which costs little more than one. Affects the course of a search: an option would be one more
# thing to record.
BATCH = 24


@dataclass(frozen=True)
class Played:
    """A parameter set, and what it did on some presets.

    Attributes:
        parameters: as a table.
        returns: sum over episodes, by preset.
        arrived: requests that arrived in them, by preset. With classes those that were offered: a turn that never
            comes, since an earlier one of its conversation was given up, counts too, so that no rule has fewer.
    """

    parameters: Mapping[str, Value]
    returns: dict[str, float]
    arrived: dict[str, int]

    @property
    def score(self) -> float:
        """The mean over presets of the return per request that arrived."""
        return float(np.mean([self.returns[name] / self.arrived[name] for name in self.returns]))

    def on(self, names: Sequence[str]) -> Played:
        """What it did on some of the presets."""
        return Played(
            self.parameters,
            {name: self.returns[name] for name in names},
            {name: self.arrived[name] for name in names},
        )


def play(
    rule: type[TunedRule[Any]],
    sets: Sequence[Mapping[str, Value]],
    scenarios: Sequence[Scenario],
    seeds: Sequence[int],
    pool: Pool,
) -> list[Played]:
    """Every parameter set on every scenario and seed, in the order of `sets`."""
    batches = [sets[start : start + BATCH] for start in range(0, len(sets), BATCH)]
    calls = [
        Call(f"{len(batch)} sets on {scenario.name}", _play_together, (rule, batch, scenario, seeds))
        for batch in batches
        for scenario in scenarios
    ]
    results = iter(pool.map(calls))
    found: list[Played] = []
    for batch in batches:
        played = [Played(values, {}, {}) for values in batch]
        for scenario in scenarios:
            for one, (earned, arrived) in zip(played, next(results), strict=True):
                one.returns[scenario.name] = earned
                one.arrived[scenario.name] = max(arrived, 1)
        found += played
    return found


def _play_together(
    rule: type[TunedRule[Any]], batch: Sequence[Mapping[str, Value]], scenario: Scenario, seeds: Sequence[int]
) -> list[tuple[float, int]]:
    """The return and the requests of each set, summed over seeds; they share the environments of one evaluation."""
    given = [parameters_from("a set", dict(one), rule.kind) for one in batch]
    env = vector_class(problem_of(scenario))(
        scenario, num_envs=len(batch) * len(seeds), autoreset_mode=AutoresetMode.DISABLED
    )
    metrics = evaluate(rule(*given), env, list(seeds) * len(batch))
    returns = metrics["return"].reshape(len(batch), -1).sum(axis=1)
    arrived = offered(env, metrics).reshape(len(batch), -1).sum(axis=1)
    return [(float(earned), int(count)) for earned, count in zip(returns, arrived, strict=True)]


def offered(env: ProblemVectorEnv, metrics: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Requests of each episode by which rules are compared, [num_envs]; see `Played.arrived`."""
    if not env.engine.tables.scalars[at.SERVICE]:
        arrived: npt.NDArray[Any] = metrics["arrived"]
        return arrived
    of_classes = slice(at.CLASS_OFFERED, at.CLASS_OFFERED + at.MAX_CLASSES)
    return np.asarray(env.engine.counters[:, of_classes].sum(axis=1))
