"""The registry of policies, and the way to a user's own.

A name stands for one idea; where problems differ too much for one class to play them, as a static batch and
Serving-v0 do, the environment that a policy is bound to decides which class it is.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agents.batch.adaptive import AdaptiveAlpha
from agents.batch.oracles import Optimum, Oracle
from agents.batch.rules import Random, Static, Threshold, ThresholdExperts, ThresholdIntensity
from agents.environments import problems_of
from agents.learned.distilled import holds_tree, load_tree
from agents.learned.policy import load_policy
from agents.learned.shipped import TREE_FOLDER, ShippedPolicy
from agents.policy import Policy
from agents.serving.adaptive import ServingAdaptive
from agents.serving.choices import SEPARATOR, parse_parts
from agents.serving.combined import ServingTuned
from agents.serving.greedy import ProfileGreedy
from agents.serving.heuristic import ServingHeuristic
from agents.serving.oracles import ServingOracle
from agents.serving.planning.arrivals import PlannerArrivals
from agents.serving.planning.fair import PlannerFair
from agents.serving.planning.planner import Planner
from agents.serving.planning.star import PlannerStar
from agents.serving.portfolio import ServingPortfolio
from agents.serving.rules import (
    FIXED_NAMES,
    CompiledRule,
    ServingFixed,
    ServingPrefillThreshold,
    ServingRandom,
    ServingThreshold,
    parse_fixed,
)
from agents.serving.search import ServingClairvoyant, ServingSearch
from agents.serving.slack import SlackAware
from papi_env.envs.serving import ServingProblem
from papi_env.errors import ConfigurationError, unknown_name
from papi_env.workload.serving import SPECULATION_LENGTHS

# Where policies are listed by default. A view is a command, and where its lists differ a problem or kind of scenario.
DECODE_VIEWS = frozenset(("compare decode", "leaderboard decode"))
KERNELS_VIEWS = frozenset(("compare images", "leaderboard kernels"))
SERVING_VIEWS = frozenset(("compare serving", "headroom", "leaderboard serving"))
# What one looks at first.
_FIRST = SERVING_VIEWS | {"serve"}
# Of models with experts, which Kernels-v0 dispatches.
EXPERT_VIEWS = frozenset(("compare experts",))
BATCH_VIEWS = DECODE_VIEWS | KERNELS_VIEWS | EXPERT_VIEWS


@dataclass(frozen=True)
class Registered:
    """A policy by name, and where it shows unasked; calling it makes a fresh one.

    Attributes:
        make: called without arguments.
        views: whose default lists it is in, in the order of the registry; it can be asked for everywhere.
        slow: takes milliseconds to decide, so that it may play fewer instances.
    """

    make: Callable[[], Policy]
    views: frozenset[str] = frozenset()
    slow: bool = False

    def __call__(self) -> Policy:
        """A fresh policy."""
        return self.make()

    @property
    def made(self) -> type[Any] | None:
        """The class of the policies; None where a function makes them."""
        made = self.make.func if isinstance(self.make, partial) else self.make
        return made if isinstance(made, type) else None


# Of static batches and image encodes: Decode-v0 and Kernels-v0.
POLICIES: Mapping[str, Registered] = {
    "static": Registered(Static),
    "static-pu": Registered(partial(Static, "pu"), BATCH_VIEWS),
    "static-fc-pim": Registered(partial(Static, "fc-pim"), BATCH_VIEWS),
    "random": Registered(Random, BATCH_VIEWS),
    "threshold-initial": Registered(partial(Threshold, runtime=False), BATCH_VIEWS - {"compare images"}),
    "threshold": Registered(Threshold, BATCH_VIEWS),
    "static-split": Registered(partial(Static, split=True), EXPERT_VIEWS),
    "threshold-experts": Registered(ThresholdExperts, EXPERT_VIEWS),
    "threshold-split": Registered(partial(ThresholdExperts, split=True), EXPERT_VIEWS),
    "threshold-intensity": Registered(ThresholdIntensity, KERNELS_VIEWS),
    "adaptive": Registered(AdaptiveAlpha, BATCH_VIEWS),
    "learned": Registered(ShippedPolicy, frozenset(("compare decode", "compare images"))),
    "oracle": Registered(Oracle, BATCH_VIEWS),
    "optimum": Registered(Optimum, frozenset(("leaderboard decode",))),
}

# Of Serving-v0; besides, every fixed joint action by its name (`fixed-fc-pim-4-all-on`), and look-aheads with
# a budget: `search-<candidates>x<samples>x<iterations>`, `clairvoyant-<candidates>x<iterations>`,
# `portfolio-<iterations>`.
_RULES: Mapping[str, Callable[..., Policy]] = {
    "threshold": ServingThreshold,
    "threshold-prefill": ServingPrefillThreshold,
    "adaptive": ServingAdaptive,
}
# Of the rules at their speculation lengths, those that are listed unasked.
_RULE_VIEWS: Mapping[str, frozenset[str]] = {
    "threshold": _FIRST,
    "threshold-spec2": frozenset(("compare serving",)),
    "threshold-prefill-spec2": SERVING_VIEWS,
    "adaptive-spec2": SERVING_VIEWS - {"headroom"},
}
SERVING_POLICIES: Mapping[str, Registered] = {
    "static": Registered(ServingFixed),
    **{
        name: Registered(partial(rule, length), _RULE_VIEWS.get(name, frozenset()))
        for kind, rule in _RULES.items()
        for length in SPECULATION_LENGTHS
        for name in [kind if length == 1 else f"{kind}-spec{length}"]
    },
    "heuristic": Registered(ServingHeuristic, _FIRST),
    "profile-greedy": Registered(ProfileGreedy, SERVING_VIEWS),
    "learned": Registered(ShippedPolicy, frozenset(("compare serving",))),
    "learned-tree": Registered(partial(load_tree, TREE_FOLDER)),
    "random": Registered(ServingRandom, SERVING_VIEWS - {"headroom"}),
    "oracle": Registered(ServingOracle, SERVING_VIEWS),
    "search": Registered(ServingSearch, slow=True),
    "clairvoyant": Registered(ServingClairvoyant, slow=True),
    "portfolio": Registered(ServingPortfolio, slow=True),
}
# The planners of Serving-v1, and their names with a budget: `planner-star-<seconds>x<rounds>`,
# `planner-arrivals-<seconds>x<futures>` and `planner-fair-<seconds>x<futures>`, of which the last may say for how many
# seconds arrivals are imagined, `planner-fair-<seconds>x<futures>x<seconds>`. After BASE stands what one starts from.
_SECONDS = r"(\d+(?:\.\d+)?)"
_PLANNERS: Mapping[str, tuple[Callable[..., Planner], re.Pattern[str]]] = {
    "planner-star": (PlannerStar, re.compile(rf"planner-star-{_SECONDS}x(\d+)")),
    "planner-arrivals": (PlannerArrivals, re.compile(rf"planner-arrivals-{_SECONDS}x(\d+)")),
    "planner-fair": (
        PlannerFair,
        re.compile(rf"planner-fair-{_SECONDS}x(\d+)(?:x(?P<ahead_s>\d+(?:\.\d+)?))?"),
    ),
}

# Of Serving-v1 alone. It is played by all rules above that decide by compiled code too, which do what Serving-v0 does
# where no part of their name says otherwise: `profile-greedy+deadline+late` (see `agents.serving.choices`).
SERVICE_POLICIES: Mapping[str, Registered] = {
    "tuned": Registered(ServingTuned),
    "slack-aware": Registered(SlackAware),
    **{name: Registered(make, slow=True) for name, (make, _) in _PLANNERS.items()},
}
BASE = "@"


def listed(view: str) -> list[str]:
    """Policies that a view shows unasked, in the registry's order."""
    registered = POLICIES if view in BATCH_VIEWS else SERVING_POLICIES
    return [name for name, entry in registered.items() if view in entry.views]


def plans(name: str) -> bool:
    """Whether a policy is a planner, by its name."""
    planner = name.partition(BASE)[0]
    return planner in _PLANNERS or any(pattern.fullmatch(planner) for _, pattern in _PLANNERS.values())


def is_slow(name: str) -> bool:
    """Whether a policy, by its name, takes milliseconds to decide: a registered one that simulates first."""
    known = {**SERVING_POLICIES, **SERVICE_POLICIES}
    if name in known:
        return known[name].slow
    if plans(name):
        return True
    budgeted = next((kind for kind in _BUDGETED if name.startswith(f"{kind}-")), None)
    return budgeted is not None and not names_folder(name) and ":" not in name


_BUDGETED = {
    "search": (ServingSearch, re.compile(r"search-(\d+)x(\d+)x(\d+)")),
    "clairvoyant": (ServingClairvoyant, re.compile(r"clairvoyant-(\d+)x(\d+)")),
    "portfolio": (ServingPortfolio, re.compile(r"portfolio-(\d+)")),
}


# Names that say more than which policy.
_EXAMPLES = (
    FIXED_NAMES[0],
    "search-24x2x16",
    "clairvoyant-24x24",
    "portfolio-50",
    "profile-greedy+deadline+late",
    "planner-star-2x2",
    "planner-arrivals-4x24",
    "planner-fair-2x24",
    "planner-fair-4x24x30",
    "planner-fair@slack-aware",
)


class ByProblem:
    """One name, two classes: which of them plays is known when an environment is bound.

    Args:
        batch: plays static batches and image encodes; serving: plays Serving-v0. Both or neither privileged.
    """

    def __init__(self, batch: Policy, serving: Policy) -> None:
        assert batch.privileged == serving.privileged
        self.privileged = batch.privileged
        self._batch, self._serving = batch, serving
        self._playing: Policy | None = None

    @property
    def playing(self) -> Policy | None:
        """The class that plays; None before an environment was bound."""
        return self._playing

    def bind(self, env: Any) -> None:
        """Choose the class and bind it."""
        serves = isinstance(problems_of(env)[0], ServingProblem)
        self._playing = self._serving if serves else self._batch
        bind = getattr(self._playing, "bind", None)
        if bind is not None:
            bind(env)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """What the chosen class predicts; see `Policy`."""
        if self._playing is None:
            raise ConfigurationError("call bind(env) before predict()")
        return self._playing.predict(observation, state, episode_start, deterministic)


def names_folder(name: str) -> bool:
    """Whether a policy's name is the folder of a learned one: a path, or a directory that is there."""
    if BASE in name and plans(name):
        return False
    if "/" in name or os.sep in name:
        return True
    registered = name in POLICIES or name in SERVING_POLICIES or name in SERVICE_POLICIES
    return not registered and Path(name).is_dir()


def make_policy(name: str) -> Policy:
    """A fresh policy: a registered name, the folder of a learned one, or `module:Class` for a class of one's own.

    A class is called without arguments. From a folder nothing is executed (see `agents.learned.checkpoint`); parts
    after it fix what a network that sees requests would choose. A planner may say what it starts from:
    `planner-fair@slack-aware`, or a folder instead of the rule.

    Raises:
        ConfigurationError: the name is unknown, or what it names is no policy.
        DataError: a learned policy's files are damaged.
    """
    if BASE in name and plans(name):
        return _planner_from(name)
    if names_folder(name):
        return load_tree(name) if holds_tree(name) else _from_folder(name)
    if ":" not in name:
        return _registered(name)
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(f"Policy {name!r}: cannot import {module_name!r}: {error}") from error
    try:
        made = getattr(module, class_name)()
    except (AttributeError, TypeError) as error:
        raise ConfigurationError(
            f"Policy {name!r}: expected a class in {module_name!r} that is called without arguments: {error}"
        ) from error
    if not callable(getattr(made, "predict", None)):
        raise ConfigurationError(f"Policy {name!r}: {class_name} has no predict(), expected SB3's signature")
    if not hasattr(made, "privileged"):
        made.privileged = False
    policy: Policy = made
    return policy


def _planner_from(name: str) -> Planner:
    """A planner that starts from the policy that stands after it."""
    kind, _, base = name.partition(BASE)
    planner, start = _registered(kind), make_policy(base)
    if not isinstance(planner, Planner) or not isinstance(start, ProfileGreedy):
        raise ConfigurationError(
            f"Policy {name!r}: expected a planner from a rule like profile-greedy, or from a network that sees requests"
        )
    planner.base = start
    return planner


def _from_folder(name: str) -> Policy:
    """The learned policy in a folder, or of `FOLDER+PART+...` one with the further choices that the parts say."""
    folder, *parts = [name] if Path(name).is_dir() else name.split(SEPARATOR)
    policy = load_policy(folder)
    if not parts:
        return policy
    if not isinstance(policy, CompiledRule):
        raise ConfigurationError(
            f"Policy {name!r}: parts are for networks that see requests, which {folder!r} does not hold"
        )
    return policy.giving(parse_parts(name, parts))


def _registered(name: str) -> Policy:
    """The policy of a registered name, or of one that says its parameters or whom it serves."""
    name, *parts = name.split(SEPARATOR)
    if parts:
        return _with_parts(name, parts)
    if (
        name in POLICIES
        and name in SERVING_POLICIES
        and POLICIES[name].make is not SERVING_POLICIES[name].make
    ):
        return ByProblem(POLICIES[name](), SERVING_POLICIES[name]())
    if name.startswith("fixed-"):
        return parse_fixed(name)
    for made, pattern in _BUDGETED.values():
        budget = pattern.fullmatch(name)
        if budget:
            return made(*(int(part) for part in budget.groups()))
    for planner, pattern in _PLANNERS.values():
        planned = pattern.fullmatch(name)
        if planned:
            seconds, count = planned.groups()[:2]
            given = {name: float(value) for name, value in planned.groupdict().items() if value is not None}
            return planner(float(seconds), int(count), **given)
    known = {**POLICIES, **SERVING_POLICIES, **SERVICE_POLICIES}
    if name not in known:
        names = (*known, *_EXAMPLES)
        raise unknown_name("policy", name, names)
    return known[name]()


def _with_parts(name: str, parts: Sequence[str]) -> Policy:
    """The serving rule of a name, with the further choices of Serving-v1 that the parts say.

    Raises:
        ConfigurationError: no rule has this name, it takes no parts, or a part is unknown.
    """
    whole = SEPARATOR.join((name, *parts))
    known = {**SERVING_POLICIES, **SERVICE_POLICIES}
    takes = {
        key for key, entry in known.items() if entry.made is not None and issubclass(entry.made, CompiledRule)
    }
    if name.startswith("fixed-"):
        policy: Policy = parse_fixed(name)
    elif name in takes:
        policy = known[name]()
    else:
        raise unknown_name(f"rule that takes parts, in policy {whole!r},", name, (*takes, FIXED_NAMES[0]))
    assert isinstance(policy, CompiledRule)
    return policy.giving(parse_parts(whole, parts))
