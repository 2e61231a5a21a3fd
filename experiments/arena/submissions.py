"""Whether a learned policy may stand in the leaderboard: what is looked at, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from agents.learned.distilled import holds_tree, load_tree
from agents.learned.policy import LearnedPolicy, load_policy
from experiments.arena.contestants import enter
from experiments.arena.entries import Entry
from experiments.arena.play import attempt, make_env
from experiments.splitting.splits import Split, load_split
from papi_env.errors import ConfigurationError, DataError

# What a record of training says at least, so that others can train the policy again.
RECORDED = ("command", "seed", "versions")
# Instances whose first decisions are asked for twice.
_ASKED = 8


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: in words.
        wrong: what speaks against the policy; empty where nothing does.
        said: what was found where nothing does.
    """

    what: str
    wrong: str = ""
    said: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the policy here."""
        return not self.wrong


def check(
    folder: str, split: Split, settings: int | None, seeds: int, tell: Callable[[Finding], None]
) -> bool:
    """Whether the policy in a folder may stand in the leaderboard of a problem.

    Args:
        folder: of a checkpoint or a tree.
        split: the test split of the problem.
        settings: how many settings it plays, the first ones; None: all.
        seeds: instances of each.
        tell: called with every finding; those that need an earlier one to hold are left out where it does not.
    """
    policy, findings = found_in_files(folder, split)
    for finding in findings:
        tell(finding)
    if not all(finding.passed for finding in findings):
        return False
    played = [*split.settings][:settings]
    last = [_repeats(policy, split.env_id, played[0].scenario), _plays(folder, split, played, seeds)]
    for finding in last:
        tell(finding)
    return all(finding.passed for finding in last)


def found_in_files(folder: str, split: Split) -> tuple[Any, list[Finding]]:
    """The policy in a folder, None where it cannot be loaded, and what its files say without it being played."""
    what = "files load, and nothing in them is executed"
    try:
        policy: Any = load_tree(folder) if holds_tree(folder) else load_policy(folder)
    except (ConfigurationError, DataError) as error:
        return None, [Finding(what, str(error))]
    description = policy.checkpoint.description if isinstance(policy, LearnedPolicy) else policy.description
    return policy, [
        Finding(what, said=f"{description.env}"),
        _recorded(description.training),
        _trained(description.training, split),
        _unseen(folder, split),
    ]


def _recorded(training: Any) -> Finding:
    what = f"says how it was trained: {', '.join(RECORDED)}"
    # A tree says it of the policy that it was grown from.
    of_teacher = training.get("teacher") if isinstance(training.get("teacher"), dict) else {}
    missing = [name for name in RECORDED if name not in training and name not in of_teacher]
    if missing:
        return Finding(what, f"its file records no {', '.join(missing)}")
    return Finding(what, said=str(training.get("command", of_teacher.get("command"))))


def _trained(training: Any, split: Split) -> Finding:
    """Of the splits that it names none is the test split; of what it met, whatever its names are, `_unseen` judges."""
    what = "was trained and chosen on the training and validation splits"
    of_teacher = training.get("teacher") if isinstance(training.get("teacher"), dict) else {}
    named = training.get("splits", of_teacher.get("splits"))
    if not isinstance(named, dict):
        return Finding(what, said="it names no splits; what it met is looked at below")
    said = []
    for name, recorded in named.items():
        if name not in ("train", "validation"):
            return Finding(what, f"it was trained or chosen on the {name} split")
        pinned = _pinned(split.env_id, name)
        now = pinned.startswith(str(recorded))
        said.append(
            f"{name} {recorded}" + ("" if now else f" (another one than {pinned[:16]}, which is pinned now)")
        )
    return Finding(what, said=", ".join(said))


@cache
def _pinned(env_id: str, name: str) -> str:
    return load_split(env_id, name).sha256


def _unseen(folder: str, split: Split) -> Finding:
    what = "met nothing that the test split holds out"
    try:
        enter([Entry.of(str(Path(folder)))], split)
    except (ConfigurationError, DataError) as error:
        return Finding(what, str(error))
    return Finding(what, said=f"{len(split.held_out)} parts are held out")


def _repeats(policy: Any, env_id: str, scenario: Any) -> Finding:
    """The same observations, asked for twice and one by one, are answered alike."""
    what = "says the same for the same observation"
    env = make_env(env_id, scenario, _ASKED)
    try:
        policy.bind(env)
        observations, _ = env.reset(seed=list(range(_ASKED)))
        first = np.asarray(policy.predict(observations, deterministic=True)[0])
        again = np.asarray(policy.predict(observations.copy(), deterministic=True)[0])
    finally:
        env.close()
    if not np.array_equal(first, again):
        return Finding(what, f"actions differ in {int((first != again).sum())} of {first.size} choices")
    return Finding(what, said=f"{len(first)} observations, twice")


def _plays(folder: str, split: Split, settings: Sequence[Any], seeds: int) -> Finding:
    what = "plays the settings of the test split"
    failed = {}
    for setting in settings:
        found = attempt(split.env_id, setting.scenario, folder, list(split.seeds[:seeds]))
        notes = [str(note) for note in found.get("note", ()) if note]
        if notes:
            failed[setting.name] = notes[0]
    if failed:
        name, note = next(iter(failed.items()))
        return Finding(what, f"fails on {len(failed)} of {len(settings)}: {name}: {note}")
    left = f", {len(split.skipped)} left out that need a trace" if split.skipped else ""
    return Finding(
        what, said=f"{len(settings)} of {len(split.settings)} settings, {seeds} instance(s) each{left}"
    )
