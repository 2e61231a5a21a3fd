"""What a network of Serving-v1 reads beside the observation: the offline profile, and what a rule would choose.

The profile of the coming iteration (`papi_env.simulation.serving.profiled`) is made of the observation, so a network
that reads it plays environments with and without it. The advice of a rule is its choice of every kind as one-hot
features. They reach the head of the network as they are: with a weight on each they are residual logits, and a network
that adds nothing to them does what the rule does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.learned.networks import Float32Array
from agents.serving.choices import SEPARATOR, WORDS, parse_parts
from agents.serving.combined import ServingTuned
from agents.serving.greedy import ProfileGreedy
from agents.serving.rules import CompiledRule
from agents.serving.slack import SlackAware
from papi_env.envs.problem import Problem
from papi_env.envs.serving_v1 import ServingV1Problem
from papi_env.errors import ConfigurationError, lookup
from papi_env.simulation.frames import Frame
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.profiled import PROFILE_NAMES, PROFILED, write_profiles

ADVISERS: Mapping[str, Callable[[], CompiledRule]] = {
    "profile-greedy": ProfileGreedy,
    "slack-aware": SlackAware,
    "tuned": ServingTuned,
}
_CHOICES = ("fc", "speculation", "admission", "overlap", *WORDS)
ADVICE_NAMES = tuple(
    f"advice_{choice}_{option}"
    for choice, options in zip(_CHOICES, at.CHOICES_V1, strict=True)
    for option in options
)
NUM_ADVICE = len(ADVICE_NAMES)
_STARTS = np.cumsum([0, *at.NVEC_V1[:-1]])


def make_adviser(name: str) -> CompiledRule:
    """The rule of a name, with the further choices that its parts say: `profile-greedy+weight-per-work+late`.

    Raises:
        ConfigurationError: no rule that gives advice has this name, or a part is unknown.
    """
    first, *parts = name.split(SEPARATOR)
    rule = lookup("rule that gives advice", first, ADVISERS)()
    return rule.giving(parse_parts(name, parts)) if parts else rule


class Inputs:
    """What a network reads in some environments.

    Args:
        names: of all features that it reads, those of the advice last.
        advice: the rule that gives it, see `make_adviser`; empty: none.
        problems: the environments, in the order of the observations.

    Attributes:
        chosen: int64 [num_envs, 11], what the rule last chose.
        differs: where the names are not those of an environment, with or without what is added here: the two lists of
            names, without the advice; None where they are the same.

    Raises:
        ConfigurationError: advice on another problem than Serving-v1.
    """

    def __init__(self, names: Sequence[str], advice: str, problems: Sequence[Problem]) -> None:
        own = tuple(names)[: len(names) - (NUM_ADVICE if advice else 0)]
        self.differs: tuple[Sequence[str], Sequence[str]] | None = None
        self._sizes = [int(problem.engine.num_envs) for problem in problems]
        self._looks: list[Frame | None] = []
        self._busy = np.zeros(at.NUM_RESOURCES)
        for problem in problems:
            there = tuple(problem.observation_names)
            profiled = own == there + PROFILE_NAMES and isinstance(problem, ServingV1Problem)
            if own != there and not profiled and self.differs is None:
                self.differs = own, there
            self._looks.append(problem.engine.frame("tables") if profiled else None)
        self._rules: list[CompiledRule] = []
        self.chosen: npt.NDArray[np.int64] = np.zeros((sum(self._sizes), len(at.NVEC_V1)), dtype=np.int64)
        if advice and self.differs is None:
            for problem in problems:
                if not isinstance(problem, ServingV1Problem):
                    raise ConfigurationError(
                        f"advice of {advice!r} is on papi_env/Serving-v1, not on {type(problem).__name__}"
                    )
                rule = make_adviser(advice)
                rule.bind(problem)
                self._rules.append(rule)

    @property
    def adds(self) -> bool:
        """Whether anything follows the observations."""
        return bool(self._rules) or any(look is not None for look in self._looks)

    def started(self) -> list[Any]:
        """The states of the rules where episodes start; see `__call__`."""
        return [None for _ in self._rules]

    def __call__(
        self, observations: Float32Array, state: Any, episode_start: npt.NDArray[np.bool_]
    ) -> tuple[Float32Array, Any]:
        """Observations with what follows them, float32 [num_envs, names], and the state of the rules.

        Args:
            observations: float32 [num_envs, features], of all environments.
            state: as returned before, and changed here; None where none was.
            episode_start: bool [num_envs], where episodes start.

        Raises:
            ConfigurationError: observations of some environments alone.
        """
        if len(observations) != sum(self._sizes):
            raise ConfigurationError(
                f"{len(observations)} observations, expected one for each of {sum(self._sizes)} environments: what "
                "follows them depends on the environment"
            )
        ends = np.cumsum(self._sizes)[:-1]
        parts = zip(self._looks, np.split(observations, ends), np.split(episode_start, ends), strict=True)
        state = self.started() if state is None else list(state)
        rows, chosen = [], []
        for k, (look, part, starts) in enumerate(parts):
            wide = part if look is None else self._profiled(part, look)
            if self._rules:
                actions, state[k] = self._rules[k].predict(part, state[k], starts)
                chosen.append(actions)
                wide = np.concatenate([wide, one_hot(actions)], axis=1)
            rows.append(wide)
        if chosen:
            self.chosen = np.concatenate(chosen)
        return np.concatenate(rows), state

    def last(self, env: int, observation: Float32Array, state: Sequence[Any]) -> Float32Array:
        """What the network would read in one environment where its episode has ended; no state changes.

        Args:
            env: which one; observation: float32 [features]; state: of the rules before.
        """
        ends = np.cumsum(self._sizes)
        k = int(np.searchsorted(ends, env, side="right"))
        wide, look = observation[None], self._looks[k]
        if look is not None:
            wide = self._profiled(wide, look)
        if self._rules:
            known = state[k]
            own = None if known is None else known.repeated(env - int(ends[k] - self._sizes[k]), 1)
            actions, _ = self._rules[k].predict(observation[None], own, np.zeros(1, dtype=np.bool_))
            wide = np.concatenate([wide, one_hot(actions)], axis=1)
        return np.asarray(wide[0])

    def _profiled(self, observations: Float32Array, look: Frame) -> Float32Array:
        wide = np.zeros((len(observations), observations.shape[1] + len(PROFILE_NAMES)), dtype=np.float32)
        wide[:, : observations.shape[1]] = observations
        write_profiles(0, len(wide), PROFILED, look, self._busy, wide)
        return wide


def one_hot(actions: npt.NDArray[np.int64]) -> Float32Array:
    """The choices of Serving-v1, int64 [num_envs, 11], as features, float32 [num_envs, NUM_ADVICE]."""
    features = np.zeros((len(actions), NUM_ADVICE), dtype=np.float32)
    np.put_along_axis(features, actions + _STARTS, 1.0, axis=1)
    return features
