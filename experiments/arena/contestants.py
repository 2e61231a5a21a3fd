"""Who enters a ranking on a split, and who is compared with whom: rules by name, learned policies by their runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.learned.checkpoint import Description
from agents.learned.distilled import DistilledPolicy, TreeDescription
from agents.learned.policy import LearnedPolicy
from agents.registry import make_policy, names_folder
from agents.serving.network import SeesRequests
from agents.serving.tuned import TunedRule, stored_entries
from experiments.arena.entries import (
    BEST_FIXED,
    BEST_GREEDY,
    BEST_THRESHOLD,
    BOUND,
    CEILINGS,
    CHOSEN,
    Entry,
    check_policy,
    policy_digest,
)
from experiments.arena.play import SELECTION_SEEDS, SERVICE_SELECTION, TRIED
from experiments.arena.trained import TrainingRun, read_run, with_description
from experiments.splitting.definition import DECODE, KERNELS, SERVING
from experiments.splitting.splits import Split
from papi_env.envs.registration import SERVING_V1
from papi_env.errors import ConfigurationError

# Training runs that a claim rests on: of the headline algorithm, and of the others.
HEADLINE = "MaskablePPO"
HEADLINE_RUNS, OTHER_RUNS = 10, 3
# Comparators where none are named; those that are played are taken.
DEFAULT_AGAINST: Mapping[str, tuple[str, ...]] = {
    DECODE: ("oracle", "optimum", "threshold"),
    KERNELS: ("oracle", "threshold"),
    SERVING: (
        BEST_THRESHOLD,
        "heuristic",
        "profile-greedy",
        "threshold-prefill-spec2",
        BEST_FIXED,
        "oracle",
        "search",
        "portfolio",
        BOUND,
    ),
    SERVING_V1: (
        BEST_THRESHOLD,
        BEST_FIXED,
        BEST_GREEDY,
        "tuned",
        "slack-aware",
        "profile-greedy",
        "planner-fair",
        "planner-star",
        BOUND,
    ),
}


def enter(entries: Iterable[Entry], split: Split) -> tuple[Entry, ...]:
    """Entries as a ranking on a split has them: rules in their order, then learned ones, a label's runs together.

    Raises:
        ConfigurationError: an unknown policy, one that must not be judged on the split, or one that is there twice.
        DataError: a file is damaged.
    """
    entries = list(entries)
    folders = [entry for entry in entries if names_folder(entry.policy)]
    return (*(as_rule(entry, split) for entry in entries if entry not in folders), *_learned(folders, split))


def as_rule(entry: Entry, split: Split) -> Entry:
    """An entry of a registered policy, a class of one's own or the best of a kind, with what it was tuned on.

    Raises:
        ConfigurationError: an unknown name, or one of another problem.
    """
    name = entry.policy
    check_policy(name, split.env_id)
    if name in CHOSEN:
        if split.env_id == SERVING:
            tuning = f"{TRIED[name]} tried x {len(SELECTION_SEEDS)} seeds, on each setting"
        else:
            tuning = f"by coordinates x {len(SERVICE_SELECTION)} seeds, on each setting"
        return replace(entry, tuning=tuning, met_test=True)
    if name == BOUND:
        return entry
    tuning, met = _heuristic_tuning(make_policy(name), split)
    return replace(entry, tuning=tuning, met_test=met)


def _heuristic_tuning(policy: Any, split: Split) -> tuple[str, bool]:
    """The budget of a tuned rule, and whether it met what the split holds out, or its very instances.

    Nothing for other policies.
    """
    if not isinstance(policy, TunedRule):
        return "", False
    entries = [
        entry
        for entry in stored_entries(policy.file_of(split.env_id != SERVING)).values()
        if "trials" in entry
    ]
    if not entries:
        # Nothing was tuned on this problem: it plays what was on Serving-v0, or guesses.
        return "", False
    trials = sum(int(entry["trials"]) + int(entry.get("earlier_trials", 0)) for entry in entries)
    requests = sum(
        int(entry["simulated_requests"]) + int(entry.get("earlier_requests", 0)) for entry in entries
    )
    tuned_on = {name for entry in entries for name in entry.get("scenarios", {})}
    shifted = {setting.scenario.name for setting in split.settings if setting.shift != "none"}
    seeds = [entry[kind] for entry in entries for kind in ("training_seeds", "final_seeds") if kind in entry]
    same = any(first < split.seeds.stop and last >= split.seeds.start for first, last in seeds)
    return f"{trials} trials, {requests / 1e6:.0f} M requests", bool(tuned_on & shifted) or same


def _learned(entries: Sequence[Entry], split: Split) -> list[Entry]:
    """Learned and distilled policies, grouped by what they are called: their label, else by algorithm.

    Args:
        entries: of folders of training runs, of policies, or of `experiments.distill`.
        split: on which they will be judged.
    """
    groups: dict[str, list[TrainingRun]] = {}
    digests: dict[str, Path] = {}
    for entry in entries:
        run = read_run(Path(entry.policy))
        name = "" if entry.label == entry.policy else entry.label
        if run.policy is not None:
            policy = make_policy(f"{run.policy}/")
            description: Description | TreeDescription
            if isinstance(policy, DistilledPolicy):
                description = policy.description
                name = name or f"tree of {description.teacher}"
            elif isinstance(policy, (LearnedPolicy, SeesRequests)):
                description = policy.description
                name = name or policy.description.algorithm
            else:
                raise ConfigurationError(f"{run.policy}: holds no learned policy")
            split.check_unseen(description, str(run.policy))
            content = policy_digest(f"{run.policy}/")
            assert content is not None
            if content in digests:
                raise ConfigurationError(f"{run.policy} and {digests[content]} hold the same policy")
            digests[content] = run.policy
            run = with_description(run, description.training)
        groups.setdefault(name or "failed training", []).append(run)
    return [
        Entry(
            label,
            tuple(None if run.policy is None else f"{run.policy}/" for run in runs),
            runs=tuple(runs),
            tuning="; ".join(dict.fromkeys(run.tuned for run in runs if run.tuned)),
        )
        for label, runs in groups.items()
    ]


def shortages(entries: Iterable[Entry]) -> list[str]:
    """Entries with fewer training runs than a claim needs, and runs that did not finish, in words."""
    found = []
    for entry in entries:
        if not entry.runs:
            continue
        needed = HEADLINE_RUNS if entry.label == HEADLINE else OTHER_RUNS
        if len(entry.runs) < needed:
            found.append(f"{entry.label}: {len(entry.runs)} training run(s), of {needed} that a claim needs")
        found += [f"{entry.label}: {run.folder}: training {run.status}" for run in entry.runs if run.status]
    return found


@dataclass(frozen=True)
class Claims:
    """Who is compared with whom.

    Attributes:
        challengers, against: names of entries, or of policies that are played besides.
        marks: what is printed after a name, for all of them.
    """

    challengers: tuple[str, ...]
    against: tuple[str, ...]
    marks: Mapping[str, str]

    def comparators(self, challenger: str) -> list[str]:
        """Whom a challenger is compared with: everyone but itself."""
        return [name for name in self.against if name != challenger]


def resolve_claims(
    challengers: Sequence[str],
    against: Sequence[str],
    entries: Sequence[Entry],
    references: Sequence[str],
    split: Split,
) -> Claims:
    """Look up who is compared with whom.

    Args:
        challengers: names; empty: every learned entry.
        against: names; empty: those of `DEFAULT_AGAINST` that are played.
        entries, references: what is played anyway.
        split: on which.

    Raises:
        ConfigurationError: a name is neither an entry's nor a policy's, or there is nobody to compare.
    """
    marks = {entry.label: entry.marks for entry in entries}
    played = (*marks, *references)
    who = tuple(dict.fromkeys(challengers or [entry.label for entry in entries if entry.runs]))
    whom = tuple(dict.fromkeys(against or [name for name in DEFAULT_AGAINST[split.env_id] if name in played]))
    if against and not who:
        raise ConfigurationError(
            "--against: there is nobody to compare; name entries in --claims, or a learned one in --entries"
        )
    for option, names in (("--claims", who), ("--against", whom)):
        for name in names:
            if name not in marks:
                marks[name] = _marks_of(name, option, tuple(played), split)
    claims = Claims(who, whom if who else (), {name: marks[name] for name in (*who, *whom)})
    for name in who:
        if not claims.comparators(name):
            raise ConfigurationError(f"--claims {name}: there is nobody to compare it with; see --against")
    return claims


def _marks_of(name: str, option: str, played: Sequence[str], split: Split) -> str:
    """What is printed after the name of a policy that is no entry.

    Raises:
        ConfigurationError: there is no such policy.
    """
    if name == BOUND and CEILINGS[split.env_id] == BOUND:
        return ""
    try:
        return as_rule(Entry.of(name), split).marks
    except ConfigurationError as error:
        entries = ", ".join(played)
        raise ConfigurationError(f"{option} {name}: none of the entries ({entries}). {error}") from None
