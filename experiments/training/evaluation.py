"""Validation: what a policy earns on instances that it is not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium.vector import AutoresetMode

from agents.evaluate import DISCOUNTED, evaluate
from agents.learned.checkpoint import Checkpoint
from agents.learned.policy import policy_of
from agents.policy import Policy
from agents.registry import make_policy
from experiments.common.pools import Call, OwnProcess, Pool
from experiments.common.problems import setting_label, vector_class
from experiments.splitting.definition import VALIDATION_SEED
from experiments.training.episodes import Metrics, Place, play
from experiments.training.scores import score, scored
from papi_env.envs.serving import ServingProblem
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.scenario import Scenario

_SCORE = "score"


@dataclass(frozen=True)
class Validation:
    """What a policy earned.

    Attributes:
        score: mean return over all episodes of all settings; of Serving-v1 the mean over settings of the return over
            what was offered, which no setting rules by its many requests. The best checkpoint has most of it.
        returns: mean return of each setting.
        regrets: what each setting's return lacks of the oracle's, as a share of it; empty where the problem's oracle
            is no bound (Serving-v0).
        discounted: mean discounted return over all episodes of all settings, which is what a discount per second
            learns; None where it counts steps.
        scored: what the score is, in a word or two.
    """

    score: float
    returns: tuple[float, ...]
    regrets: tuple[float, ...]
    discounted: float | None = None
    scored: str = "return"

    @property
    def regret(self) -> float | None:
        """Mean over the settings, None where there is no oracle."""
        return float(np.mean(self.regrets)) if self.regrets else None


class Validator:
    """Plays held-out instances of each setting: one episode per seed, all at once, with the best actions.

    What is played is the checkpoint as it would be loaded, not the model in training: no random state moves.

    Args:
        env_id: the problem.
        settings: what is played.
        episodes: of each setting, at least one; their seeds are VALIDATION_SEED + 0, 1, ...
        time_constant: of the discount in seconds, None where it counts steps.
        pool: what plays; None: this process.
    """

    def __init__(
        self,
        env_id: str,
        settings: Sequence[Scenario],
        episodes: int,
        time_constant: float | None = None,
        pool: Pool | None = None,
    ) -> None:
        self._env_id = env_id
        make = vector_class(env_id)
        self.labels = tuple(setting_label(setting) for setting in settings)
        self._seeds = range(VALIDATION_SEED, VALIDATION_SEED + episodes)
        self._envs: list[ProblemVectorEnv] = [
            make(setting, num_envs=episodes, autoreset_mode=AutoresetMode.DISABLED) for setting in settings
        ]
        self._time_constant = time_constant
        self._pool = pool or OwnProcess()
        self._places = [Place.of(env_id, setting, episodes, 1) for setting in settings]
        self._oracle = self._returns_of_oracle()

    def _returns_of_oracle(self) -> tuple[float, ...]:
        if isinstance(self._envs[0], ServingProblem):
            return ()
        return self._play(make_policy("oracle"))["return"]

    def _play(self, policy: Policy) -> dict[str, tuple[float, ...]]:
        """Mean return of each setting, and mean discounted return where the discount is per second."""
        found = self._metrics(policy)
        names = ("return",) if self._time_constant is None else ("return", DISCOUNTED)
        played = {name: tuple(float(metrics[name].mean()) for metrics in found) for name in names}
        played[_SCORE] = tuple(
            score(self._env_id, env.scenario, metrics["return"], metrics.get("offered", 1.0))
            for env, metrics in zip(self._envs, found, strict=True)
        )
        return played

    def _metrics(self, policy: Policy) -> Sequence[Metrics]:
        """Those of the episodes of each setting."""
        if self._pool.size > 1 and self._time_constant is None:
            calls = [
                Call(f"validation on {place.label}", play, (place, policy, self._seeds))
                for place in self._places
            ]
            return self._pool.map(calls)
        return [evaluate(policy, env, self._seeds, time_constant=self._time_constant) for env in self._envs]

    def __call__(self, checkpoint: Checkpoint) -> Validation:
        """Play the checkpoint on every setting.

        Raises:
            ConfigurationError: a setting has other observations or actions than the policy knows.
        """
        played = self._play(policy_of(checkpoint))
        returns = played["return"]
        regrets = tuple(
            (best - found) / abs(best) for best, found in zip(self._oracle, returns, strict=False)
        )
        discounted = float(np.mean(played[DISCOUNTED])) if DISCOUNTED in played else None
        mean = float(np.mean(played[_SCORE]))
        return Validation(mean, returns, regrets, discounted, scored(self._env_id))
