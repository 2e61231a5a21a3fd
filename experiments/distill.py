"""Distil a policy into a decision tree: `python -m experiments.distill --help`.

The tree imitates what the policy prefers where the tree itself goes (DAgger), heeds settings by what the policy gains
there, and has the fewest leaves that keep the asked share of what the policy gained over PAPI's threshold. Printed:
what is kept, on instances that neither growing nor choosing the tree met; bytes; decision times, compiled and as
called; and the rule, in physical units, beside PAPI's. Written to the run folder:

* policy/: tree.json, which `experiments.compare` plays as papi/FOLDER and any runtime can read, and tree.onnx;
* teacher.onnx: the learned policy itself, where its network has no state;
* rule.txt, summary.json, run.json.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from agents.learned.checkpoint import WEIGHTS
from agents.learned.distilled import TREE, DistilledPolicy, Tree, describe_tree, tree_document
from agents.learned.onnx_export import network_to_onnx, tree_to_onnx
from agents.learned.policy import LearnedPolicy, options_of
from agents.policy import Policy
from agents.registry import make_policy, names_folder
from experiments.arena.entries import policy_digest
from experiments.arena.latency import Latency, compiled_decision_s, decision_latency
from experiments.arena.trained import TREE_FOLDER as POLICY
from experiments.common.command import exit_status, output
from experiments.common.problems import default_scenario
from experiments.common.runner import RunFolder, write_whole
from experiments.distilling.collect import collect, decisions_of, make_envs, returns_of, stakes_of
from experiments.distilling.report import choose_size, kept_figures, print_report
from experiments.distilling.rules import own_actions, tree_text
from experiments.distilling.tree import GrownTree, Samples
from experiments.splitting.definition import SEED_RANGES
from experiments.splitting.splits import trace_records
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario, get_scenario, parse_scenario

TEACHER_ONNX, TREE_ONNX, RULE = "teacher.onnx", "tree.onnx", "rule.txt"
# Sizes tried, up to the largest asked for.
SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# Growing is training, so it has training seeds, at the end of their range; choosing and reporting have validation
# seeds, which checkpoints were chosen with, from different places.
_GROW_SEED = SEED_RANGES["train"].stop - (1 << 18)
_CHOOSE_SEED = SEED_RANGES["validation"].start + (1 << 18)
_REPORT_SEED = SEED_RANGES["validation"].start + (1 << 19)
_MOST_SEEDS = 1 << 12


@dataclass(frozen=True, kw_only=True)
class Config:
    """Distil a policy into a decision tree that is small enough to read and to compile.

    python -m experiments.distill --policy runs/train-20250101-120000/best
    """

    policy: Annotated[str, tyro.conf.arg(metavar="FOLDER|NAME")]
    """A learned policy's folder, or a registered policy."""
    env: Annotated[str | None, tyro.conf.arg(metavar="ID", help_behavior_hint="")] = None
    """The problem of a registered policy (a learned one says its own)."""
    scenarios: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME|FILE.toml ...", help_behavior_hint="")
    ] = ()
    """What to play (default: what the policy was trained on, else the problem's own)."""
    leaves: int = 64
    """Leaves at most."""
    keep: float = 0.95
    """Share of the gain over --baseline that a smaller tree must keep, with the low end of its 95 % interval."""
    baseline: Annotated[str, tyro.conf.arg(metavar="NAME")] = "threshold"
    """What the gain is over."""
    rounds: int = 6
    """Trees grown, one after the other, each with the samples of all before; the best is kept."""
    own_actions: bool = False
    """Let the tree read what it did itself in the last step. A pupil that may tends to repeat itself instead of
    finding the reason (de Haan, Jayaraman and Levine, NeurIPS 2019); where changing units costs, it is a reason."""
    seeds: int = 16
    """Episodes of each scenario: to grow with in each round, to choose with, and to report."""
    samples: int = 60_000
    """Samples kept of each round."""
    seed: int = 0
    """Of everything drawn."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None
    """Run folder (default: runs/distill-TIME)."""


@dataclass(frozen=True)
class Lesson:
    """A configuration with everything looked up."""

    config: Config
    env_id: str
    teacher: Policy
    settings: tuple[Scenario, ...]

    @property
    def name(self) -> str:
        """Whose decisions are imitated."""
        if isinstance(self.teacher, LearnedPolicy):
            return self.teacher.checkpoint.description.algorithm
        return self.config.policy

    def seeds(self, first: int) -> range:
        """As many seeds as there are episodes, from a place that depends on --seed."""
        start = first + self.config.seed * _MOST_SEEDS
        return range(start, start + self.config.seeds)

    def describe(self) -> dict[str, Any]:
        """Everything as plain data; a run folder is written again only if all of it is the same."""
        asked = {name: value for name, value in asdict(self.config).items() if name != "out"}
        return {
            "asked": asked,
            "problem": self.env_id,
            "policy_source": policy_digest(self.config.policy),
            "settings": [setting.model_dump(mode="json") for setting in self.settings],
        }


def resolve(config: Config) -> Lesson:
    """Look up and check everything that `config` names.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    for name, low, high in (
        ("leaves", 1, SIZES[-1]),
        ("rounds", 1, 1000),
        ("seeds", 1, _MOST_SEEDS),
        ("samples", 1, 1 << 24),
        ("seed", 0, 32),
    ):
        if not low <= getattr(config, name) <= high:
            raise ConfigurationError(f"--{name} is {getattr(config, name)}, expected {low} to {high}")
    if not 0 <= config.keep <= 1:
        raise ConfigurationError(f"--keep is {config.keep}, expected 0 to 1")
    teacher = make_policy(config.policy)
    make_policy(config.baseline)
    if isinstance(teacher, DistilledPolicy):
        raise ConfigurationError(f"{config.policy}: is a tree already; expected a learned policy or a name")
    if isinstance(teacher, LearnedPolicy):
        description = teacher.checkpoint.description
        if config.env not in (None, description.env):
            raise ConfigurationError(
                f"{config.policy}: was trained on {description.env}, not on {config.env}"
            )
        env_id = description.env
        trained = [parse_scenario(data, f"{config.policy}: a scenario") for data in description.scenarios]
    elif config.env is None:
        raise ConfigurationError(f"--env is not given, expected the problem that {config.policy!r} plays")
    else:
        env_id, trained = config.env, []
    if teacher.privileged:
        raise ConfigurationError(
            f"Policy {config.policy!r} reads what no scheduler can see, and a tree over observations cannot; "
            "expected one that is not privileged"
        )
    settings = [get_scenario(name) for name in config.scenarios] or trained
    if not settings:
        settings = [get_scenario(default_scenario(env_id))]
    return Lesson(config, env_id, teacher, tuple(settings))


@dataclass(frozen=True)
class Pupil:
    """A grown tree and what it earned where it was chosen."""

    grown: GrownTree
    score: float
    round: int


def learn(
    lesson: Lesson, taught: FloatArray, baseline: FloatArray, progress: Console
) -> tuple[Pupil, Samples]:
    """Grow trees round by round; the one with the highest return at full size, and all samples.

    Args:
        lesson: what is imitated.
        taught, baseline: returns of the teacher and of the baseline where trees are chosen, [settings, seeds].
        progress: for a line a round.
    """
    config = lesson.config
    rng = np.random.default_rng(config.seed)
    choosing = make_envs(lesson.env_id, lesson.settings, config.seeds)
    decisions = decisions_of(lesson.teacher, choosing[0])
    stakes = stakes_of(taught, baseline)
    own = frozenset() if config.own_actions else own_actions(lesson.env_id)
    features = [f for f, name in enumerate(choosing[0].observation_names) if name not in own]
    best: Pupil | None = None
    samples: Samples | None = None
    acting: Policy | None = None
    for number in range(config.rounds):
        seeds = range(_GROW_SEED + (config.seed * 1000 + number) * config.seeds, SEED_RANGES["train"].stop)
        found = collect(
            lesson.teacher, acting, choosing, seeds[: config.seeds], max(config.samples, 1), rng, stakes
        )
        samples = found if samples is None else Samples.joined([samples, found])
        grown = GrownTree(samples, decisions, config.leaves, features=features)
        pupil = _policy(lesson, grown.prefix(config.leaves), choosing[0])
        score = float(returns_of(pupil, choosing, lesson.seeds(_CHOOSE_SEED)).mean())
        if best is None or score > best.score:
            best = Pupil(grown, score, number)
        acting = pupil
        progress.print(
            f"round {number + 1}: {len(samples):,} samples, return {score:.6g} (teacher {taught.mean():.6g})",
            markup=False,
            highlight=False,
        )
    assert best is not None
    assert samples is not None
    return best, samples


def _policy(lesson: Lesson, tree: Tree, env: ProblemVectorEnv, training: Any = None) -> DistilledPolicy:
    """A tree as a policy for the lesson's problem."""
    scenarios = [setting.model_dump(mode="json") for setting in lesson.settings]
    if isinstance(lesson.teacher, LearnedPolicy):
        before = lesson.teacher.checkpoint.description.scenarios
        scenarios = [*before, *(data for data in scenarios if data not in before)]
    return DistilledPolicy(
        describe_tree(
            tree,
            env=lesson.env_id,
            teacher=lesson.name,
            names=env.observation_names,
            options=options_of(env.single_space()),
            scenarios=scenarios,
            training=training,
        )
    )


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Distil, write the run folder, whose path is returned, and print.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    lesson = resolve(config)
    folder = RunFolder.open(config.out, "distill", lesson.describe())
    progress.print(f"run folder {folder.path}", markup=False, highlight=False, soft_wrap=True)
    with folder.session(command, 1):
        summary, rule = _distil(lesson, folder, command, progress)
        folder.write("summary.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
        folder.write(RULE, rule + "\n")
    print_report(console, summary, rule)
    return folder.path


def _distil(lesson: Lesson, folder: RunFolder, command: str, progress: Console) -> tuple[dict[str, Any], str]:
    config = lesson.config
    envs = make_envs(lesson.env_id, lesson.settings, config.seeds)
    baseline = make_policy(config.baseline)
    seeds = lesson.seeds(_CHOOSE_SEED)
    with progress.status("playing teacher and baseline"):
        chosen_with = {name: returns_of(p, envs, seeds) for name, p in _both(lesson, baseline).items()}
    pupil, samples = learn(lesson, chosen_with["teacher"], chosen_with["baseline"], progress)
    sizes = [size for size in SIZES if size < config.leaves] + [config.leaves]
    with progress.status("choosing a size"):
        trees = {tree.leaves: tree for tree in (pupil.grown.prefix(size) for size in sizes)}
        earned = {
            leaves: returns_of(_policy(lesson, tree, envs[0]), envs, seeds) for leaves, tree in trees.items()
        }
    size = choose_size(earned, chosen_with["teacher"], chosen_with["baseline"], config.keep)
    tree = trees[size]
    policy = _policy(lesson, tree, envs[0], _training(lesson, command, pupil, samples))
    with progress.status("playing other instances"):
        reported = {
            name: returns_of(p, envs, lesson.seeds(_REPORT_SEED))
            for name, p in {**_both(lesson, baseline), "tree": policy}.items()
        }
    with progress.status("timing"):
        latencies = {
            name: decision_latency(p, lesson.env_id, lesson.settings[0])
            for name, p in {**_both(lesson, baseline), "tree": policy}.items()
        }
        compiled_s = compiled_decision_s(tree, samples.observations)
    sizes_b = _write_policy(folder, lesson, policy)
    leaf_shares = np.bincount(tree.leaf_of(samples.observations), minlength=tree.leaves) / len(samples)
    rule = tree_text(lesson.env_id, tree, policy.description.observation.names, leaf_shares.tolist())
    summary = {
        "problem": lesson.env_id,
        "teacher": lesson.name,
        "policy": config.policy,
        "baseline": config.baseline,
        "settings": [setting.name for setting in lesson.settings],
        "samples": len(samples),
        "round": pupil.round + 1,
        "leaves": tree.leaves,
        "depth": tree.depth,
        "returns_by_leaves": {str(leaves): float(values.mean()) for leaves, values in sorted(earned.items())},
        "chosen_with": {name: float(values.mean()) for name, values in chosen_with.items()},
        **kept_figures(reported),
        "bytes": {"tables": tree.num_bytes, **sizes_b},
        "decision_s": {
            "compiled": compiled_s,
            **{name: _plain_latency(latency) for name, latency in latencies.items()},
        },
    }
    return summary, rule


def _both(lesson: Lesson, baseline: Policy) -> dict[str, Policy]:
    return {"teacher": lesson.teacher, "baseline": baseline}


def _plain_latency(latency: Latency) -> dict[str, float | None]:
    return {"single": latency.single_s, "batched": latency.batched_s}


def _training(lesson: Lesson, command: str, pupil: Pupil, samples: Samples) -> dict[str, Any]:
    """What the tree's file says of its growth, and of its teacher's training."""
    training: dict[str, Any] = {
        "command": command,
        "policy": lesson.config.policy,
        "samples": len(samples),
        "rounds": pupil.round + 1,
        "traces": trace_records(lesson.settings),
    }
    if isinstance(lesson.teacher, LearnedPolicy):
        before = dict(lesson.teacher.checkpoint.description.training)
        training["traces"] = {**before.pop("traces", {}), **training["traces"]}
        training["teacher"] = before
    return training


def _write_policy(folder: RunFolder, lesson: Lesson, policy: DistilledPolicy) -> dict[str, int]:
    """Write the files of the policy; bytes of each."""
    target = folder.path / POLICY
    target.mkdir(exist_ok=True)
    text = (json.dumps(tree_document(policy.description), allow_nan=False) + "\n").encode()
    onnx = tree_to_onnx(policy.description)
    write_whole(target / TREE, text)
    write_whole(target / TREE_ONNX, onnx)
    sizes = {TREE: len(text), TREE_ONNX: len(onnx)}
    teacher = lesson.teacher
    if isinstance(teacher, LearnedPolicy):
        sizes["network"] = sum(tensor.nbytes for tensor in teacher.checkpoint.tensors.values())
        if teacher.checkpoint.description.architecture.lstm is None:
            exported = network_to_onnx(teacher.checkpoint)
            folder.write(TEACHER_ONNX, exported)
            sizes[TEACHER_ONNX] = len(exported)
        if names_folder(lesson.config.policy):
            sizes[WEIGHTS] = (Path(lesson.config.policy) / WEIGHTS).stat().st_size
    return sizes


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    config = tyro.cli(Config, args=arguments, prog="python -m experiments.distill")
    command = f"python -m experiments.distill {shlex.join(arguments)}".strip()
    return exit_status(lambda: run(config, command, output(), Console(stderr=True)))


if __name__ == "__main__":
    sys.exit(main())
