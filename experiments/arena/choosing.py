"""The best of a kind on a scenario with classes of requests: which rule, with which of the further choices.

`best-fixed`, `best-threshold` and `best-greedy` stand for what a search finds on seeds of its own: a fixed joint
action, PAPI's threshold, or profile-greedy with its parameters, each with one option of every further choice. Parts of
such a name replace what was found: `best-greedy+arrival` is the best profile-greedy, but first come, first served.
Planners look for something better than a rule: here that is `best-greedy`, found on the same scenario, or a rule that
is tuned for its family, whichever has the highest return on further seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.policy import Policy
from agents.registry import BASE, make_policy
from agents.serving.choices import SEPARATOR, parse_parts
from agents.serving.greedy import ProfileGreedy
from agents.serving.inside.choices import LEFT
from agents.serving.planning.planner import Planner
from experiments.arena.entries import BEST_FIXED, BEST_GREEDY, BEST_THRESHOLD
from experiments.common.problems import vector_class
from experiments.tuning.combinations import Found, Rules, Search, fixed_actions, greedies, thresholds
from papi_env.envs.registration import SERVING_V1
from papi_env.scenario import Scenario

GROUPS: Mapping[str, Callable[[], Rules]] = {
    BEST_FIXED: fixed_actions,
    BEST_THRESHOLD: thresholds,
    BEST_GREEDY: partial(greedies, stored=True),
}

# Rules of all families from which planners may start.
STARTS = ("slack-aware", "tuned")
# Seeds that compare them: what a search found looks better than it is on those that it was found on. chosen: 16.
STARTING_SEEDS = 16

_FOUND: dict[tuple[str, str, tuple[int, ...]], Found] = {}


def best_of(kind: str, scenario: Scenario, seeds: Sequence[int]) -> Found:
    """What a search of a kind finds on a scenario with classes, by the return on `seeds`; done once a process."""
    key = kind, scenario.model_dump_json(), tuple(seeds)
    if key not in _FOUND:
        _FOUND[key] = Search(scenario, GROUPS[kind](), seeds).run()
    return _FOUND[key]


def base_of(scenario: Scenario, seeds: Sequence[int]) -> tuple[str, ProfileGreedy]:
    """What planners start from on a scenario with classes: the best, on the seeds that follow, of rules for it."""
    best = best_of(BEST_GREEDY, scenario, seeds).best
    makers: dict[str, Callable[[], Policy]] = {best.label: partial(best.policy, GROUPS[BEST_GREEDY]())}
    makers |= {name: partial(make_policy, name) for name in STARTS}
    further = range(max(seeds) + 1, max(seeds) + 1 + STARTING_SEEDS)
    env = vector_class(SERVING_V1)(scenario, num_envs=STARTING_SEEDS, autoreset_mode=AutoresetMode.DISABLED)
    values = {name: float(evaluate(make(), env, further)["return"].mean()) for name, make in makers.items()}
    label = max(values, key=values.__getitem__)
    return label, cast(ProfileGreedy, makers[label]())


def picked(policy: str, scenario: Scenario, seeds: Sequence[int]) -> tuple[str, Policy]:
    """What a name stands for on a scenario with classes, and a fresh policy of it.

    Raises:
        ConfigurationError: an unknown policy, or an unknown part.
    """
    kind, *parts = policy.split(SEPARATOR)
    if kind not in GROUPS:
        made = make_policy(policy)
        if isinstance(made, Planner) and BASE not in policy:
            label, rule = base_of(scenario, seeds)
            made.base = rule
            return f"{policy} from {label}", made
        return policy, made
    best = best_of(kind, scenario, seeds).best
    given = parse_parts(policy, parts)
    choices = tuple(int(own if new == LEFT else new) for own, new in zip(best.choices, given, strict=True))
    best = best._replace(choices=choices)
    return best.label, best.policy(GROUPS[kind]())
