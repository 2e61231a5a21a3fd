"""What a trained policy chooses, most likely options taken or drawn, and what either earns.

Training draws every choice from the policy's distribution; a policy is played with the most likely option of each. The
two are different policies: one that admits nobody in half of the draws admits somebody a moment later, and one that
takes the most likely option then admits nobody ever.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.learned.policy import LearnedPolicy, load_policy, options_of
from experiments.common.problems import vector_class
from experiments.splitting.definition import VALIDATION_SEED
from experiments.training.curves.data import Validation
from experiments.training.scores import score
from papi_env.envs.serving import ServingProblem
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.engine import DONE


@dataclass(frozen=True)
class Chosen:
    """How a policy played.

    Attributes:
        score: as validations have it, the mean over settings.
        shares: of the options of each choice, by the choice's name and the option's.
    """

    score: float
    shares: dict[str, dict[str, float]]


class _Playing:
    """A learned policy, whose options are drawn if asked for, and counted."""

    privileged = False

    def __init__(self, policy: LearnedPolicy, drawn: bool) -> None:
        self._policy, self._drawn = policy, drawn
        self.counts: list[FloatArray] = []

    def bind(self, env: ProblemVectorEnv) -> None:
        """Play an environment."""
        self._env = env
        self._policy.bind(env)
        if not self.counts:
            self.counts = [np.zeros(n) for n in options_of(env.single_space())]

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """What the policy chooses; only the choices of episodes that go on are counted."""
        actions, state = self._policy.predict(
            observation, state, episode_start, deterministic=not self._drawn
        )
        going = self._env.engine.counters[:, DONE] == 0
        for k, count in enumerate(self.counts):
            count += np.bincount(actions[going, k], minlength=len(count))
        return actions, state


def chosen(folder: Path, validation: Validation, drawn: bool) -> Chosen:
    """Play a policy on what its training was validated on.

    Args:
        folder: of the policy, in the run folder.
        validation: of the run.
        drawn: options are drawn from the policy's distribution, with a seed that is always the same.

    Raises:
        ConfigurationError: a policy that has no distribution over choices of serving.
    """
    policy = load_policy(folder)
    if not isinstance(policy, LearnedPolicy):
        raise ConfigurationError(
            f"{folder}: sees requests and draws nothing, expected a policy of SB3's algorithms"
        )
    make = vector_class(validation.env_id)
    if not issubclass(make, ServingProblem):
        raise ConfigurationError(f"{folder}: plays {validation.env_id}, expected a problem of serving")
    # Also of one that is meant to draw.
    description = policy.description.model_copy(update={"draws": False})
    policy = LearnedPolicy(replace(policy.checkpoint, description=description))
    playing = _Playing(policy, drawn)
    seeds = range(VALIDATION_SEED, VALIDATION_SEED + validation.episodes)
    scores = []
    for setting in validation.settings:
        env = make(setting, num_envs=len(seeds), autoreset_mode=AutoresetMode.DISABLED)
        metrics = evaluate(playing, env, seeds)
        scores.append(score(validation.env_id, setting, metrics["return"], metrics.get("offered", 1.0)))
    shares = {
        word: {str(option): float(n / count.sum()) for option, n in zip(options, count, strict=True)}
        for word, options, count in zip(make.choice_words, make.options, playing.counts, strict=True)
    }
    return Chosen(float(np.mean(scores)), shares)
