"""Who is compared: entries, as they are written, as they are listed unasked, and what marks them.

An entry is [LABEL=][SYSTEM/]POLICY: a policy on a system. A policy is a registered name, a class as MODULE:CLASS, or
the folder of a learned one, be it the policy's own or that of its training. In a comparison that knows training runs,
several with one label are one entry. Some names are no policy of their own: `best-fixed` and `best-threshold` stand
for the best of a kind on each setting, `bound` for what no policy can exceed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from agents.learned.checkpoint import DESCRIPTION, WEIGHTS
from agents.learned.distilled import TREE
from agents.registry import BASE, POLICIES, SERVING_POLICIES, listed, make_policy, names_folder, plans
from agents.serving.choices import SEPARATOR, parse_parts
from experiments.arena.trained import TrainingRun, holds_policy, read_run
from experiments.common.options import DEFAULT
from experiments.common.problems import SERVED
from experiments.common.runner import digest, file_digest
from experiments.splitting.definition import DECODE, KERNELS, SERVING
from papi_env.envs.registration import SERVING_V1
from papi_env.errors import ConfigurationError, nearest, unknown_name
from papi_env.hardware.system import SYSTEMS, System
from papi_env.scenario import Scenario

FLOOR, REFERENCE, ORACLE, BOUND = "random", "threshold", "oracle", "bound"
BEST_FIXED, BEST_THRESHOLD, BEST_GREEDY = "best-fixed", "best-threshold", "best-greedy"
# The best of a kind on each setting, and the entry that it follows where a view lists it.
CHOSEN: Mapping[str, Mapping[str, str]] = {
    BEST_THRESHOLD: {"headroom": REFERENCE, "leaderboard serving": REFERENCE},
    BEST_FIXED: {"headroom": "threshold-prefill-spec2", "leaderboard serving": FLOOR},
    # On Serving-v1 alone, whose views are below.
    BEST_GREEDY: {},
}
# What is shown unasked on Serving-v1: PAPI's threshold as published and at its best; profile-greedy with every order
# and shedding of those who are late, with what is kept, and at its best; rules that are tuned or go by slack; planners.
SERVICE_RULES = (
    REFERENCE,
    BEST_THRESHOLD,
    BEST_FIXED,
    "profile-greedy",
    "profile-greedy+late",
    "profile-greedy+deadline+late",
    "profile-greedy+shortest-prompt+late",
    "profile-greedy+least-work+late",
    "profile-greedy+weight-per-work+late",
    "profile-greedy+weight-per-work+late+by-chunk",
    "profile-greedy+weight-per-work+late+keep+return+by-chunk",
    "slack-aware",
    "tuned",
    BEST_GREEDY,
)
SERVICE_PLANNERS = ("planner-fair", "planner-star")
SERVICE_VIEWS: Mapping[str, tuple[str, ...]] = {
    "headroom serving-v1": (*SERVICE_RULES, *SERVICE_PLANNERS),
    "compare serving-v1": (
        REFERENCE,
        "profile-greedy",
        "profile-greedy+weight-per-work+late+by-chunk",
        "tuned",
        "slack-aware",
        "learned",
    ),
    "leaderboard serving-v1": (FLOOR, *SERVICE_RULES),
    "serve serving-v1": ("profile-greedy", "profile-greedy+weight-per-work+late+keep+return+by-chunk"),
}
# What a position of 1 stands for. On static batches the clairvoyant plan is optimal; in serving no policy exceeds the
# bound; dispatching kernel by kernel has no cheap bound, and the one-step oracle is a reference that can be exceeded.
CEILINGS: Mapping[str, str] = {DECODE: "optimum", KERNELS: ORACLE, SERVING: BOUND, SERVING_V1: BOUND}
# Machines without a choice, which PAPI is measured against; speed-up is over the first.
BASELINES = ("a100-attacc/static", "a100-hbm-pim/static", "attacc-only/static", "papi-pim-only/static")


@dataclass(frozen=True)
class Entry:
    """A row of a comparison.

    Attributes:
        label: its name in results.
        policies: what is played, one for each training run; None for a run that left no policy.
        system: what it plays on, by name; None: on the setting's own.
        runs: of its training, where they are told apart.
        tuning: budget of what was tuned or chosen, in words.
        met_test: was tuned on what is judged.
    """

    label: str
    policies: tuple[str | None, ...]
    system: str | None = None
    runs: tuple[TrainingRun, ...] = ()
    tuning: str = ""
    met_test: bool = False

    @classmethod
    def of(cls, policy: str, system: str | None = None, label: str = "") -> Entry:
        """An entry of one policy, called SYSTEM/POLICY or POLICY where it has no label."""
        return cls(label or (policy if system is None else f"{system}/{policy}"), (policy,), system)

    @property
    def policy(self) -> str:
        """What an entry of one run plays."""
        (policy,) = self.policies
        assert policy is not None
        return policy

    @property
    def privileged(self) -> bool:
        """Whether it reads what no scheduler can see."""
        return not self.runs and is_privileged(self.policy)

    @property
    def marks(self) -> str:
        """What is printed after the label."""
        return "*" * self.privileged + "†" * self.met_test

    @property
    def oracle(self) -> Entry:
        """The entry that this one's regret is measured against."""
        return Entry.of(ORACLE, self.system)

    def __str__(self) -> str:
        return self.label


def parse(text: str, systems: Collection[str] = tuple(SYSTEMS), home: str | None = None) -> Entry:
    """An entry as it is written; whether its policy is known shows when it is made.

    Args:
        text: [LABEL=][SYSTEM/]POLICY.
        systems: names that mean a system.
        home: the system of an entry that names none; None: each setting's own.

    Raises:
        ConfigurationError: there is no policy in it, or no such system and no such folder.
    """
    label, equals, named = text.partition("=")
    # A path may have the sign in it.
    label, named = (label, named) if equals and "/" not in label else ("", text)
    system, slash, policy = named.partition("/")
    if not named or (system in systems and not policy):
        raise ConfigurationError(
            f"Entry {text!r}: expected [LABEL=]SYSTEM/POLICY or a policy, such as papi/threshold"
        )
    if slash and system in systems:
        return Entry.of(policy, system, label)
    # A planner from a policy is written PLANNER@FOLDER.
    folder = named.partition("@")[2] if "@" in system else named
    if slash and not Path(folder).is_dir():
        raise _neither(folder, system, policy, systems)
    return Entry.of(named, home, label)


def _neither(named: str, system: str, policy: str, systems: Collection[str]) -> ConfigurationError:
    """The error for a path that is no folder and begins with no system."""
    meant = policy in POLICIES or policy in SERVING_POLICIES or ":" in policy
    if not system or not (meant or nearest(system, systems)):
        return ConfigurationError(
            f"{named}: found no such folder, expected that of a policy or a training run"
        )
    return unknown_name("system", system, systems)


def parse_all(
    asked: Iterable[str],
    default: Sequence[str],
    systems: Collection[str] = tuple(SYSTEMS),
    home: str | None = None,
) -> tuple[Entry, ...]:
    """Entries of one policy each, with the default ones where `DEFAULT` stands for them; each once.

    The folder of a training run means its policy.

    Raises:
        ConfigurationError: an entry cannot be used, there is none, or two have one name.
        DataError: a training run is damaged.
    """
    texts = [text for name in asked for text in (default if name == DEFAULT else (name,))]
    entries = tuple(dict.fromkeys(_of_a_policy(parse(text, systems, home)) for text in texts))
    if not entries:
        raise ConfigurationError("No entries: name at least one in --entries")
    check_labels(entries)
    return entries


def check_labels(entries: Iterable[Entry]) -> None:
    """Raise ConfigurationError where two entries are called the same."""
    seen: set[str] = set()
    for entry in entries:
        if entry.label in seen:
            raise ConfigurationError(
                f"Two entries are called {entry.label!r}; give one of them another LABEL="
            )
        seen.add(entry.label)


def _of_a_policy(entry: Entry) -> Entry:
    """An entry that plays the policy of its folder, if that is a training run's."""
    folder = Path(entry.policy)
    if not names_folder(entry.policy) or holds_policy(folder) or not (folder / "run.json").is_file():
        return entry
    run = read_run(folder)
    if run.policy is None:
        raise ConfigurationError(f"{folder}: this training left no policy")
    return Entry(entry.label, (str(run.policy),), entry.system)


def default_policies(view: str) -> list[str]:
    """Names that a view shows unasked, in order (see `agents.registry`): registered policies and the chosen ones."""
    if view in SERVICE_VIEWS:
        return list(SERVICE_VIEWS[view])
    names = listed(view)
    if view.startswith("leaderboard"):
        # Where a ranking starts from.
        names = [FLOOR, *(name for name in names if name != FLOOR)]
    for name, places in CHOSEN.items():
        if view in places:
            names.insert(names.index(places[view]) + 1, name)
    return names


def default_entries(view: str, own: Mapping[str, System]) -> list[str]:
    """What `experiments.compare` plays unasked.

    Args:
        view: "compare decode", "compare images", "compare experts" or "compare serving".
        own: systems of the scenarios: all but decode play on all of them, where those without a choice of units for
            FC kernels have one static mapping; in decode those that are not registered join the registered ones, lest
            they be left out silently.
    """
    policies = default_policies(view)
    if view != "compare decode":
        served = view.startswith("compare serving")
        return [
            f"{name}/{policy}"
            for name, system in own.items()
            for policy in (policies if served or _has_choice(system) else ("static",))
        ]
    names = [*BASELINES, *(f"papi/{policy}" for policy in policies)]
    for name, system in own.items():
        if name not in SYSTEMS:
            chosen = ("threshold", "adaptive", ORACLE) if _has_choice(system) else ("static",)
            names += [f"{name}/{policy}" for policy in chosen]
    return names


def _has_choice(system: System) -> bool:
    """Whether FC kernels may run on PUs and on FC-PIM: rules of either need both."""
    return system.can_run("pu", "fc") and system.can_run("fc-pim", "fc")


def known_systems(scenarios: Iterable[Scenario]) -> dict[str, System]:
    """The registered systems, and those that scenarios bring along under names of their own.

    Raises:
        ConfigurationError: two scenarios mean different systems by a name that is not registered.
    """
    known = dict(SYSTEMS)
    for scenario in scenarios:
        system = scenario.system
        if system.name not in SYSTEMS and known.setdefault(system.name, system) != system:
            raise ConfigurationError(
                f"Scenarios describe system {system.name!r} in different ways; give each its own name"
            )
    return known


def stay_at_home(entries: Iterable[Entry], scenarios: Iterable[Scenario], why: str) -> None:
    """Raise ConfigurationError where an entry names another system than the scenarios have; `why` it may not."""
    owned = {scenario.system.name for scenario in scenarios}
    for entry in entries:
        if entry.system is not None and owned != {entry.system}:
            raise ConfigurationError(f"Entry {entry.label!r}: {why}; expected a policy without a system")


def check_policy(name: str, problem: str) -> None:
    """Raise ConfigurationError where no policy has this name, or it stands for what the problem does not have."""
    kind, *parts = name.split(SEPARATOR)
    if kind in CHOSEN or name == BOUND:
        why = "is chosen among serving policies" if kind in CHOSEN else "bounds serving"
        alone = f"Policy {name!r} {why}; it plays"
        if kind == BEST_GREEDY or parts:
            if problem != SERVING_V1:
                raise ConfigurationError(f"{alone} {SERVING_V1} alone")
            parse_parts(name, parts)
        elif problem not in SERVED:
            raise ConfigurationError(f"{alone} {SERVING} alone")
        return
    make_policy(name)


def is_chosen(policy: str) -> bool:
    """Whether a name stands for the best of a kind, with or without parts."""
    return policy.partition(SEPARATOR)[0] in CHOSEN


@lru_cache(maxsize=256)
def is_privileged(policy: str) -> bool:
    """Whether a policy reads what no scheduler can see, as the bound does; the best of a kind does not."""
    return policy == BOUND or (not is_chosen(policy) and bool(make_policy(policy).privileged))


def policy_digest(policy: str) -> str | None:
    """A hash of what defines a learned policy or a user's own, or None for a registered one."""
    if BASE in policy and plans(policy):
        return policy_digest(policy.partition(BASE)[2])
    if names_folder(policy):
        # Parts after it are in the name, which whatever is kept is kept under besides.
        folder = policy if Path(policy).is_dir() else policy.partition(SEPARATOR)[0]
        files = [Path(folder) / name for name in (DESCRIPTION, WEIGHTS, TREE)]
        return digest("".join(file_digest(path) for path in files if path.is_file()))
    if ":" not in policy:
        return None
    try:
        found = importlib.util.find_spec(policy.partition(":")[0])
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        return None
    return file_digest(found.origin)
