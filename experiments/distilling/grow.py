"""Growing: trees that learn from what a teacher prefers where they go themselves (DAgger)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console

from agents.learned.distilled import DistilledPolicy, Tree, describe_tree
from agents.learned.policy import LearnedPolicy, options_of
from agents.policy import Policy
from experiments.common.command import say
from experiments.distilling.collect import collect, decisions_of, make_envs, returns_of, stakes_of
from experiments.distilling.lesson import Lesson
from experiments.distilling.rules import own_actions
from experiments.distilling.tree import GrownTree, Samples
from experiments.splitting.definition import SEED_RANGES
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.kernel import FloatArray

# Growing is training, so it has training seeds, at the end of their range; choosing and reporting have validation
# seeds, which checkpoints were chosen with, from different places.
GROW_SEED = SEED_RANGES["train"].stop - (1 << 18)
CHOOSE_SEED = SEED_RANGES["validation"].start + (1 << 18)
REPORT_SEED = SEED_RANGES["validation"].start + (1 << 19)


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
    growth = lesson.growth
    rng = np.random.default_rng(growth.seed)
    choosing = make_envs(lesson.env_id, lesson.settings, growth.seeds)
    decisions = decisions_of(lesson.teacher, choosing[0])
    stakes = stakes_of(taught, baseline)
    own = frozenset() if growth.own_actions else own_actions(lesson.env_id)
    features = [f for f, name in enumerate(choosing[0].observation_names) if name not in own]
    best: Pupil | None = None
    samples: Samples | None = None
    acting: Policy | None = None
    for number in range(growth.rounds):
        seeds = range(GROW_SEED + (growth.seed * 1000 + number) * growth.seeds, SEED_RANGES["train"].stop)
        found = collect(
            lesson.teacher, acting, choosing, seeds[: growth.seeds], max(growth.samples, 1), rng, stakes
        )
        samples = found if samples is None else Samples.joined([samples, found])
        grown = GrownTree(samples, decisions, growth.leaves, features=features)
        pupil = as_policy(lesson, grown.prefix(growth.leaves), choosing[0])
        score = float(returns_of(pupil, choosing, lesson.seeds(CHOOSE_SEED)).mean())
        if best is None or score > best.score:
            best = Pupil(grown, score, number)
        acting = pupil
        say(
            progress,
            f"round {number + 1}: {len(samples):,} samples, return {score:.6g} (teacher {taught.mean():.6g})",
        )
    assert best is not None
    assert samples is not None
    return best, samples


def as_policy(lesson: Lesson, tree: Tree, env: ProblemVectorEnv, training: Any = None) -> DistilledPolicy:
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
