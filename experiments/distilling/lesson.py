"""What is distilled, once everything that was asked for is looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agents.learned.distilled import DistilledPolicy
from agents.learned.policy import LearnedPolicy
from agents.policy import Policy
from agents.registry import make_policy
from agents.serving.network import SeesRequests
from experiments.arena.entries import policy_digest
from experiments.common.problems import default_scenario
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario, get_scenario, parse_scenario

# Sizes tried, up to the largest asked for.
SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_MOST_SEEDS = 1 << 12


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How trees are grown and chosen.

    Attributes:
        leaves: at most.
        keep: share of the gain over the baseline that a smaller tree must keep.
        rounds: trees grown one after the other.
        own_actions: whether the tree reads what it did itself in the last step.
        seeds: episodes of each scenario, to grow with in each round, to choose with, and to report.
        samples: kept of each round.
        seed: of everything drawn.

    Raises:
        ConfigurationError: a number is out of range.
    """

    leaves: int = 64
    keep: float = 0.95
    rounds: int = 6
    own_actions: bool = False
    seeds: int = 16
    samples: int = 60_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("leaves", 1, SIZES[-1]),
            ("rounds", 1, 1000),
            ("seeds", 1, _MOST_SEEDS),
            ("samples", 1, 1 << 24),
            ("seed", 0, 32),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigurationError(f"--{name} is {getattr(self, name)}, expected {low} to {high}")
        if not 0 <= self.keep <= 1:
            raise ConfigurationError(f"--keep is {self.keep}, expected 0 to 1")


@dataclass(frozen=True)
class Lesson:
    """A teacher, what it plays, and how its pupil grows.

    Attributes:
        policy, baseline: as they were asked for.
        asked: these and the rest as plain data.
        env_id: the problem.
        teacher: whose decisions are imitated.
        settings: scenarios that are played.
        growth: of trees.
    """

    policy: str
    baseline: str
    asked: Mapping[str, Any]
    env_id: str
    teacher: Policy
    settings: tuple[Scenario, ...]
    growth: Growth

    @property
    def name(self) -> str:
        """Whose decisions are imitated."""
        if isinstance(self.teacher, LearnedPolicy):
            return self.teacher.description.algorithm
        return self.policy

    def seeds(self, first: int) -> range:
        """As many seeds as there are episodes, from a place that depends on --seed."""
        start = first + self.growth.seed * _MOST_SEEDS
        return range(start, start + self.growth.seeds)

    def describe(self) -> dict[str, Any]:
        """Everything as plain data; a run folder is written again only if all of it is the same."""
        return {
            "asked": {**self.asked, **asdict(self.growth)},
            "problem": self.env_id,
            "policy_source": policy_digest(self.policy),
            "settings": [setting.model_dump(mode="json") for setting in self.settings],
        }


def resolve(policy: str, env: str | None, scenarios: Sequence[str], baseline: str, growth: Growth) -> Lesson:
    """Look up and check everything that is named.

    Args:
        policy: a learned policy's folder, or a registered policy.
        env: the problem of a registered policy; a learned one says its own.
        scenarios: presets or files; what the policy was trained on, else the problem's own, where there are none.
        baseline: what the gain is over.
        growth: of trees.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    teacher = make_policy(policy)
    make_policy(baseline)
    if isinstance(teacher, DistilledPolicy):
        raise ConfigurationError(f"{policy}: is a tree already; expected a learned policy or a name")
    if isinstance(teacher, SeesRequests) and teacher.scores:
        raise ConfigurationError(
            f"{policy}: orders requests by scores, which no leaf of a tree can; expected an order after it, such as "
            f"{policy}+weight-per-work"
        )
    if isinstance(teacher, (LearnedPolicy, SeesRequests)):
        description = teacher.description
        if env not in (None, description.env):
            raise ConfigurationError(f"{policy}: was trained on {description.env}, not on {env}")
        env_id = description.env
        trained = [parse_scenario(data, f"{policy}: a scenario") for data in description.scenarios]
    elif env is None:
        raise ConfigurationError(f"--env is not given, expected the problem that {policy!r} plays")
    else:
        env_id, trained = env, []
    if teacher.privileged:
        raise ConfigurationError(
            f"Policy {policy!r} reads what no scheduler can see, and a tree over observations cannot; "
            "expected one that is not privileged"
        )
    settings = [get_scenario(name) for name in scenarios] or trained
    if not settings:
        settings = [get_scenario(default_scenario(env_id))]
    asked = {"policy": policy, "env": env, "scenarios": list(scenarios), "baseline": baseline}
    return Lesson(policy, baseline, asked, env_id, teacher, tuple(settings), growth)
