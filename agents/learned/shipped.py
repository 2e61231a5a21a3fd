"""The policies that come with the project, trained and ready: `papi/learned` in a comparison.

One folder a problem in `agents/pretrained`, each a checkpoint (see `agents.learned.checkpoint`). `training.json` beside
them says with which commands they were trained, with which seeds, and what each of these runs earned in validation;
`python -m experiments.pretrained` prints it, and checks a run that is trained anew against it. Beside it the policy of
Serving-v0 as a decision tree, `papi/learned-tree`; its file says with which command it was grown.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.environments import problems_of
from agents.learned.policy import LearnedPolicy, load_policy
from agents.serving.network import SeesRequests
from papi_env.envs.decode import DecodeProblem
from papi_env.envs.kernels import KernelsProblem
from papi_env.envs.registration import DECODE, KERNELS, SERVING, SERVING_V1
from papi_env.envs.serving import ServingProblem
from papi_env.envs.serving_v1 import ServingV1Problem
from papi_env.errors import ConfigurationError

FOLDER = Path(__file__).resolve().parents[1] / "pretrained"
# Folders by problem.
SHIPPED: Mapping[str, str] = {
    DECODE: "decode-v0",
    KERNELS: "kernels-v0",
    SERVING: "serving-v0",
    SERVING_V1: "serving-v1",
}

TREE_FOLDER = FOLDER / "serving-v0-tree"


def shipped_folder(env_id: str) -> Path:
    """Where the policy of a problem is."""
    return FOLDER / SHIPPED[env_id]


class ShippedPolicy:
    """The trained policy of whatever problem it is bound to."""

    privileged = False

    def __init__(self) -> None:
        self._policy: LearnedPolicy | SeesRequests | None = None

    @property
    def playing(self) -> LearnedPolicy | SeesRequests | None:
        """The loaded policy; None before an environment was bound."""
        return self._policy

    def bind(self, env: Any) -> None:
        """Load the policy of the environment's problem and bind it.

        Raises:
            ConfigurationError, DataError: none comes for it, its files are damaged, or it cannot play `env`.
        """
        self._policy = load_policy(shipped_folder(_env_id(problems_of(env)[0])))
        self._policy.bind(env)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """What the loaded policy predicts; see `LearnedPolicy`."""
        if self._policy is None:
            raise ConfigurationError("call bind(env) before predict()")
        if isinstance(self._policy, SeesRequests):
            return self._policy.predict(observation, state, episode_start, deterministic)
        return self._policy.predict(observation, state, episode_start, deterministic, action_masks)


def _env_id(problem: Any) -> str:
    # A problem of a kind stands before its kind.
    kinds = {
        SERVING_V1: ServingV1Problem,
        SERVING: ServingProblem,
        KERNELS: KernelsProblem,
        DECODE: DecodeProblem,
    }
    for env_id, kind in kinds.items():
        if isinstance(problem, kind):
            return env_id
    raise ConfigurationError(f"No trained policy comes with the project for {type(problem).__name__}")
