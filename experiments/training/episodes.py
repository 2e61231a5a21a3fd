"""Episodes of a training in phases: calls that any process can run, which keeps the environments that it has made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.policy import Policy
from experiments.common.problems import setting_label, vector_class
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.scenario import Scenario

# Of episodes, what a training reads.
MEASURED = ("return", "offered", "iterations", "time_s")
# Environments that a process keeps. chosen: the training split has 30 settings; others are made anew, in some 30 ms.
_KEPT = 64

Metrics = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Place:
    """Environments of a setting side by side; places are the same where the same is played in them.

    Attributes:
        env_id: the problem.
        key: the setting as text.
        count: how many environments.
        threads: that play them.
        setting: what is simulated.
    """

    env_id: str
    key: str
    count: int
    threads: int
    setting: Scenario = field(compare=False, repr=False)

    @classmethod
    def of(cls, env_id: str, setting: Scenario, count: int, threads: int) -> Place:
        """The place of a setting."""
        return cls(env_id, setting.model_dump_json(), count, threads, setting)

    @property
    def label(self) -> str:
        """What people call it."""
        return setting_label(self.setting)

    def made(self) -> ProblemVectorEnv:
        """Its environments, new ones. Raises ConfigurationError where the problem cannot play the setting."""
        make = vector_class(self.env_id)
        return make(
            self.setting, num_envs=self.count, autoreset_mode=AutoresetMode.DISABLED, threads=self.threads
        )


@lru_cache(maxsize=_KEPT)
def environments(place: Place) -> ProblemVectorEnv:
    """Those of a place, which this process makes once."""
    return place.made()


def measured(metrics: Metrics) -> Metrics:
    """Of the metrics of episodes, what a training reads, which stays when the next ones are played."""
    return {name: metrics[name].copy() for name in MEASURED}


def play(place: Place, policy: Policy, seeds: Sequence[int]) -> Metrics:
    """What an episode of each seed comes to, one in each environment."""
    return measured(evaluate(policy, environments(place), seeds))
