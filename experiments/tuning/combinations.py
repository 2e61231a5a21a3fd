"""The best of a stated, finite set of rules of Serving-v1: a base rule and one option of each further choice.

A group lists base rules, such as PAPI's threshold at its speculation lengths. A combination is one of them with an
option of each further choice: order, shedding, victim, keeping, eviction, who drafts, and pacing. The search goes by
coordinates: it starts from the base rules with a few usual sets of options, then tries everything that differs from the
best in one respect, or in order and shedding together, moves to the best of it, and does so again, until nothing is
better or the rounds are used up. All combinations of a round play the same seeds, in compiled loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from agents.serving.choices import IntArray, parse_parts, parts_of
from agents.serving.greedy import GreedyParameters, ProfileGreedy
from agents.serving.inside.choices import LEFT, NUM_SERVICE
from agents.serving.inside.memory import NUM_MEMORY
from agents.serving.inside.play import play_range
from agents.serving.rules import FIXED_NAMES, CompiledRule, ServingThreshold, parse_fixed
from experiments.common.problems import vector_class
from experiments.tuning.guesses import GUESSES
from experiments.tuning.play import offered
from papi_env.envs.registration import SERVING_V1
from papi_env.envs.serving_v1 import further_options
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.rollout import roll
from papi_env.workload.serving import SPECULATION_LENGTHS

# The usual sets that a search starts from: first come, first served; that without those who are late; and what did best
# on sketches of overload, with and without conversations, and with admission paced so that the queue stays in order.
STARTS = (
    "",
    "late",
    "weight-per-work+late",
    "weight-per-work+late+keep+return",
    "weight-per-work+late+keep+return+by-chunk",
)
# chosen: as many rounds as led to more than a per mille on sketches; range 1-8.
ROUNDS = 3
# Rules of a group that are all tried with every usual set. chosen: 12, more than parameter sets of profile-greedy.
FEW = 12
# Environments that play at once. chosen: 96, some 10 MB; changes no result.
TOGETHER = 96

Rules = Mapping[str, Callable[[], CompiledRule]]


class Combination(NamedTuple):
    """A base rule by its name in a group, and its further choices, none of them left open."""

    rule: str
    choices: tuple[int, ...] = (0,) * NUM_SERVICE

    @property
    def label(self) -> str:
        """As policies are named: the options that are not those of Serving-v0 follow the rule."""
        return self.rule + parts_of(choice or LEFT for choice in self.choices)

    def without(self, choice: int) -> Combination:
        """With the option of Serving-v0 in one of the further choices."""
        return self._replace(choices=tuple(0 if k == choice else c for k, c in enumerate(self.choices)))

    def policy(self, rules: Rules) -> CompiledRule:
        """A fresh policy."""
        return rules[self.rule]().giving(np.array(self.choices, dtype=np.int64))


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        best: the combination; value: its mean over the seeds.
        tried: combinations; requests: simulated for all of them, turns that never came included.
    """

    best: Combination
    value: float
    tried: int
    requests: int


def thresholds() -> Rules:
    """PAPI's threshold at every speculation length."""
    return {
        "threshold" if length == 1 else f"threshold-spec{length}": _made(ServingThreshold, length)
        for length in SPECULATION_LENGTHS
    }


def fixed_actions() -> Rules:
    """All joint actions of Serving-v0."""
    return {name: _made(parse_fixed, name) for name in FIXED_NAMES}


def greedies(stored: bool) -> Rules:
    """Profile-greedy with the sets of parameters that its tuning starts from; `stored`: and as it is registered."""
    guesses = {
        "profile-greedy (" + name + ")": _made(ProfileGreedy, given)
        for name, given in GUESSES["profile-greedy"].items()
        if isinstance(given, GreedyParameters)
    }
    return ({"profile-greedy": ProfileGreedy} if stored else {}) | guesses


def _made(make: Callable[..., CompiledRule], given: Any) -> Callable[[], CompiledRule]:
    return lambda: make(given)


def played(
    scenario: Scenario, combinations: Sequence[Combination], rules: Rules, seeds: Sequence[int]
) -> list[dict[str, npt.NDArray[Any]]]:
    """Metrics of one episode per seed, arrays [len(seeds)], of every combination; and `requests` that were offered.

    Args:
        scenario: with classes of requests.
        combinations: of rules in `rules`, which are all of one compiled kind.
        rules: see `thresholds` and others.
        seeds: of the episodes.
    """
    found: list[dict[str, npt.NDArray[Any]]] = []
    each = max(TOGETHER // len(seeds), 1)
    for start in range(0, len(combinations), each):
        part = combinations[start : start + each]
        env = _environment(scenario, len(part) * len(seeds))
        bound = []
        for combination in part:
            policy = combination.policy(rules)
            policy.bind(env)
            bound.append(policy.compiled(np.zeros((1, NUM_MEMORY))))
        rows = np.concatenate([np.repeat(one.parameters, len(seeds), axis=0) for one in bound])
        service = np.concatenate([np.repeat(one.service, len(seeds), axis=0) for one in bound])
        memory = np.zeros((env.num_envs, NUM_MEMORY))
        env.reset(seed=list(seeds) * len(part))
        policies = bound[0]._replace(parameters=rows, service=service, memory=memory)
        roll(env.engine, play_range, policies[:])
        metrics: dict[str, npt.NDArray[Any]] = dict(env.metrics())
        metrics["requests"] = offered(env, metrics)
        for k in range(len(part)):
            here = slice(k * len(seeds), (k + 1) * len(seeds))
            found.append({name: values[here] for name, values in metrics.items()})
    return found


def _environment(scenario: Scenario, count: int) -> ProblemVectorEnv:
    return vector_class(SERVING_V1)(scenario, num_envs=count, autoreset_mode=AutoresetMode.DISABLED)


class Search:
    """A search of a group on a scenario, which may go on from what it found.

    Args:
        scenario: with classes of requests.
        rules: the group; those that the machine cannot play are left out.
        seeds: on which combinations are compared.
        measure: whose mean over the seeds is maximised.
    """

    def __init__(
        self, scenario: Scenario, rules: Rules, seeds: Sequence[int], measure: str = "return"
    ) -> None:
        self.scenario, self.seeds, self.measure = scenario, tuple(seeds), measure
        env = _environment(scenario, 1)
        self.useful = np.split(further_options(env.engine.tables), np.cumsum(at.NVEC_V1[at.ORDER :])[:-1])
        self.rules = {name: make for name, make in rules.items() if _plays(make(), env)}
        self.values: dict[Combination, float] = {}
        self.requests = 0

    def run(self, starts: Iterable[Combination] = (), rounds: int = ROUNDS) -> Found:
        """Start from `starts`, or the usual sets, and go by coordinates for so many rounds at most."""
        # Of many rules the best is looked for under the first and the last of the usual sets.
        usual = STARTS if len(self.rules) <= FEW else (STARTS[0], STARTS[-1])
        starts = list(starts) or [
            self.useful_of(Combination(rule, tuple(_choices(parts))))
            for parts in usual
            for rule in self.rules
        ]
        best = self._best(starts)
        for _ in range(rounds):
            found = self._best(self.neighbours(best))
            if self.values[found] <= self.values[best]:
                break
            best = found
        return Found(best, self.values[best], len(self.values), self.requests)

    def useful_of(self, combination: Combination) -> Combination:
        """The combination with what means nothing in the scenario as in Serving-v0."""
        return combination._replace(
            choices=tuple(
                choice if useful[choice] else 0
                for choice, useful in zip(combination.choices, self.useful, strict=True)
            )
        )

    def neighbours(self, best: Combination) -> list[Combination]:
        """All that differ from a combination in one respect, or in order and shedding."""
        choices = best.choices
        found = [best._replace(rule=rule) for rule in self.rules]
        for k, useful in enumerate(self.useful):
            for option in np.flatnonzero(useful):
                found.append(best._replace(choices=(*choices[:k], int(option), *choices[k + 1 :])))
        found += [
            best._replace(choices=(int(order), int(shedding), *choices[2:]))
            for order in np.flatnonzero(self.useful[0])
            for shedding in np.flatnonzero(self.useful[1])
        ]
        return [one for one in dict.fromkeys(found) if one != best]

    def _best(self, combinations: Iterable[Combination]) -> Combination:
        """The first of the best of some; those that were not tried before play."""
        combinations = list(dict.fromkeys(combinations))
        new = [one for one in combinations if one not in self.values]
        for one, metrics in zip(new, played(self.scenario, new, self.rules, self.seeds), strict=True):
            self.values[one] = float(metrics[self.measure].mean())
            self.requests += int(metrics["requests"].sum())
        return max(combinations, key=lambda one: self.values[one])


def _choices(parts: str) -> IntArray:
    given = parse_parts(parts, parts.split("+") if parts else ())
    return np.maximum(given, 0).tolist()


def _plays(policy: CompiledRule, env: ProblemVectorEnv) -> bool:
    try:
        policy.bind(env)
    except ConfigurationError:
        return False
    return True
