"""What a leaderboard ranks: rules by name, and learned policies by the folders of their training runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.learned.checkpoint import DESCRIPTION, Description
from agents.learned.distilled import DistilledPolicy, TreeDescription, holds_tree
from agents.learned.policy import LearnedPolicy
from agents.registry import make_policy, names_folder
from agents.serving.tuned import TunedRule, stored_entries
from experiments.arena.entries import policy_digest
from experiments.arena.headroom_report import BEST_FIXED, BEST_THRESHOLD
from experiments.distilling.files import POLICY
from experiments.headroom import CHOSEN, SELECTION_SEEDS
from experiments.splitting.definition import DECODE, KERNELS, SERVING
from experiments.splitting.splits import Split
from papi_env.envs.serving import JOINT_ACTIONS
from papi_env.errors import ConfigurationError, DataError
from papi_env.workload.serving import SPECULATION_LENGTHS

FLOOR, BOUND = "random", "bound"
# What a position of 1 stands for. On static batches the clairvoyant plan is optimal; in serving no policy exceeds the
# bound; dispatching kernel by kernel has no cheap bound, and the one-step oracle is a reference that can be exceeded.
CEILINGS: Mapping[str, str] = {DECODE: "optimum", KERNELS: "oracle", SERVING: BOUND}
# Floors, rules, references.
DEFAULT_POLICIES: Mapping[str, tuple[str, ...]] = {
    DECODE: (
        FLOOR,
        "static-pu",
        "static-fc-pim",
        "threshold-initial",
        "threshold",
        "adaptive",
        "oracle",
        "optimum",
    ),
    KERNELS: (
        FLOOR,
        "static-pu",
        "static-fc-pim",
        "threshold-initial",
        "threshold",
        "threshold-intensity",
        "adaptive",
        "oracle",
    ),
    SERVING: (
        FLOOR,
        BEST_FIXED,
        "threshold",
        BEST_THRESHOLD,
        "threshold-prefill-spec2",
        "adaptive-spec2",
        "heuristic",
        "profile-greedy",
        "oracle",
    ),
}
# Policies that simulate before they decide, by how their names begin: milliseconds of each decision.
SLOW = ("search", "clairvoyant", "portfolio")
# Training runs that a claim rests on: of the headline algorithm, and of the others.
HEADLINE = "MaskablePPO"
HEADLINE_RUNS, OTHER_RUNS = 10, 3
BEST_FOLDER = "best"


@dataclass(frozen=True)
class TrainingRun:
    """A training run of a learned policy.

    Attributes:
        folder: as given.
        policy: the folder of its policy; None where the training left none.
        status: how the training ended, empty where that is not known or it finished.
        seed, steps, wall_s: of the training, None where unknown.
        tuned: how its hyper-parameters were found.
    """

    folder: Path
    policy: Path | None
    status: str = ""
    seed: int | None = None
    steps: int | None = None
    wall_s: float | None = None
    tuned: str = ""


@dataclass(frozen=True)
class Contender:
    """An entry of the leaderboard.

    Attributes:
        label: its name in the tables.
        policies: what is played, one for each training run; a rule is one. None: a run that left no policy.
        runs: of its training, none for a rule.
        privileged: reads what no scheduler can see.
        tuning: budget in words.
        met_test: was tuned on what the split holds out, or on its very settings.
    """

    label: str
    policies: tuple[str | None, ...]
    runs: tuple[TrainingRun, ...] = ()
    privileged: bool = False
    tuning: str = ""
    met_test: bool = False

    @property
    def marks(self) -> str:
        """What is printed after the label."""
        return "*" * self.privileged + "†" * self.met_test


def is_slow(policy: str) -> bool:
    """Whether a policy, by its name, takes so long that it may play fewer instances: a registered one of `SLOW`."""
    return policy.startswith(SLOW) and not names_folder(policy) and ":" not in policy


def rules(names: Sequence[str], split: Split) -> list[Contender]:
    """Registered policies, and classes of one's own, as entries.

    Raises:
        ConfigurationError: an unknown name.
    """
    found = []
    for name in dict.fromkeys(names):
        if name in CHOSEN:
            if split.env_id != SERVING:
                raise ConfigurationError(
                    f"Policy {name!r} is chosen among serving policies; it plays {SERVING} alone"
                )
            tried = len(JOINT_ACTIONS) if name == BEST_FIXED else len(SPECULATION_LENGTHS)
            tuning = f"{tried} tried x {len(SELECTION_SEEDS)} seeds, on each setting"
            found.append(Contender(name, (name,), tuning=tuning, met_test=True))
            continue
        policy = make_policy(name)
        if isinstance(policy, (LearnedPolicy, DistilledPolicy)):
            raise ConfigurationError(f"{name}: is a folder; learned policies go to --learned")
        tuning, met = _heuristic_tuning(policy, split)
        found.append(Contender(name, (name,), privileged=policy.privileged, tuning=tuning, met_test=met))
    return found


def _heuristic_tuning(policy: Any, split: Split) -> tuple[str, bool]:
    """The budget of a tuned rule, and whether it met what the split holds out, or its very instances.

    Nothing for other policies.
    """
    if not isinstance(policy, TunedRule):
        return "", False
    entries = [entry for entry in stored_entries(policy.file).values() if "trials" in entry]
    trials = sum(int(entry["trials"]) + int(entry.get("earlier_trials", 0)) for entry in entries)
    requests = sum(
        int(entry["simulated_requests"]) + int(entry.get("earlier_requests", 0)) for entry in entries
    )
    tuned_on = {name for entry in entries for name in entry.get("scenarios", {})}
    shifted = {setting.scenario.name for setting in split.settings if setting.shift != "none"}
    seeds = [entry[kind] for entry in entries for kind in ("training_seeds", "final_seeds") if kind in entry]
    same = any(first < split.seeds.stop and last >= split.seeds.start for first, last in seeds)
    return f"{trials} trials, {requests / 1e6:.0f} M requests", bool(tuned_on & shifted) or same


def learned(arguments: Sequence[str], split: Split) -> list[Contender]:
    """Learned and distilled policies, grouped by what they are called: LABEL=FOLDER, else by algorithm.

    Args:
        arguments: folders of training runs, of policies, or of `experiments.distill`.
        split: on which they will be judged.

    Raises:
        ConfigurationError: a folder holds no training and no policy, a policy must not be judged on the split, or
            two folders hold the same policy.
        DataError: a file is damaged.
    """
    groups: dict[str, list[TrainingRun]] = {}
    digests: dict[str, Path] = {}
    for argument in arguments:
        label, equals, folder = argument.partition("=")
        if not equals:
            label, folder = "", argument
        run = read_run(Path(folder))
        name = label
        if run.policy is not None:
            policy = make_policy(f"{run.policy}/")
            description: Description | TreeDescription
            if isinstance(policy, DistilledPolicy):
                description = policy.description
                name = name or f"tree of {description.teacher}"
            elif isinstance(policy, LearnedPolicy):
                description = policy.checkpoint.description
                name = name or description.algorithm
            else:
                raise ConfigurationError(f"{run.policy}: holds no learned policy")
            split.check_unseen(description, str(run.policy))
            content = policy_digest(f"{run.policy}/")
            assert content is not None
            if content in digests:
                raise ConfigurationError(f"{run.policy} and {digests[content]} hold the same policy")
            digests[content] = run.policy
            run = _with_description(run, description.training)
        groups.setdefault(name or "failed training", []).append(run)
    return [
        Contender(
            label,
            tuple(None if run.policy is None else f"{run.policy}/" for run in runs),
            tuple(runs),
            tuning="; ".join(dict.fromkeys(run.tuned for run in runs if run.tuned)),
        )
        for label, runs in groups.items()
    ]


def read_run(folder: Path) -> TrainingRun:
    """What a folder holds: a training run, a run of `experiments.distill`, or a policy.

    Raises:
        ConfigurationError: none of them. DataError: its run.json is damaged.
    """
    if (folder / DESCRIPTION).is_file() or holds_tree(folder):
        parent = _record(folder.parent)
        return replace(_from_record(folder, parent), policy=folder)
    record = _record(folder)
    if record is None or record.get("experiment") not in ("train", "distill"):
        raise ConfigurationError(
            f"{folder}: expected the folder of a training run, of a policy, or of experiments.distill"
        )
    policy = folder / (BEST_FOLDER if record["experiment"] == "train" else POLICY)
    there = (policy / DESCRIPTION).is_file() or holds_tree(policy)
    return replace(_from_record(folder, record), policy=policy if there else None)


def _record(folder: Path) -> dict[str, Any] | None:
    path = folder / "run.json"
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        list(record["sessions"])
        str(record["experiment"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the record of a run ({error!r})") from None
    return dict(record)


def _from_record(folder: Path, record: Mapping[str, Any] | None) -> TrainingRun:
    if record is None:
        return TrainingRun(folder, None)
    sessions = record["sessions"]
    status = str(sessions[-1].get("status", "")) if sessions else "not started"
    walls = [session["wall_s"] for session in sessions if isinstance(session.get("wall_s"), (int, float))]
    steps = [session["steps"] for session in sessions if isinstance(session.get("steps"), int)]
    return TrainingRun(
        folder,
        None,
        status="" if status == "finished" else status,
        steps=max(steps, default=None),
        wall_s=sum(walls) if walls else None,
    )


def _with_description(run: TrainingRun, training: Mapping[str, Any]) -> TrainingRun:
    """A run with what its policy says of its training."""
    hyper = training.get("hyperparameters")
    hyper = hyper if isinstance(hyper, Mapping) else {}
    seed, steps = training.get("seed"), hyper.get("timesteps")
    return replace(
        run,
        seed=seed if isinstance(seed, int) else None,
        steps=run.steps if run.steps is not None else (steps if isinstance(steps, int) else None),
        tuned=str(hyper.get("tuned", "")),
    )


def shortages(contenders: Sequence[Contender]) -> list[str]:
    """Entries with fewer training runs than a claim needs, and runs that did not finish, in words."""
    found = []
    for contender in contenders:
        if not contender.runs:
            continue
        needed = HEADLINE_RUNS if contender.label == HEADLINE else OTHER_RUNS
        if len(contender.runs) < needed:
            found.append(
                f"{contender.label}: {len(contender.runs)} training run(s), of {needed} that a claim needs"
            )
        found += [
            f"{contender.label}: {run.folder}: training {run.status}" for run in contender.runs if run.status
        ]
    return found
