"""What a policy is: SB3's `predict` over batches, and what a bound one may read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from papi_env.envs.batch import BatchProblem
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError
from papi_env.hardware.units import UNIT_NAMES, UnitName
from papi_env.simulation.batch import state as at

Actions: TypeAlias = npt.NDArray[np.int64]
Observations: TypeAlias = npt.NDArray[np.float32]

# The columns of an observation that rules read, and how each is scaled, by name; the last ones are those of Kernels-v0
# alone.
_COLUMN = {feature.name: column for column, feature in enumerate(at.EXPERT_KERNELS_FEATURES)}
_SCALE = {feature.name: feature.scale for feature in at.EXPERT_KERNELS_FEATURES}
# The columns of an action that a stage of an image encode reads.
STAGE_CHOICES = slice(at.NUM_CLASSES, at.NUM_CHOICES)


@runtime_checkable
class Policy(Protocol):
    """Anything with SB3's `predict`; a user's own class needs no more than this.

    `privileged` marks policies that read what a scheduler cannot see (costs, lengths, rates); every
    table marks them. A policy may define `bind(env)`, called before an evaluation with the unwrapped
    environment (single or vector).
    """

    privileged: bool

    def predict(
        self,
        observation: Observations | Mapping[str, Any],
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Actions for one observation or a batch of them, and the recurrent state."""
        ...


class RulePolicy:
    """A policy bound to a problem: subclasses define `act` over batches.

    Unprivileged ones read from the environment only what an offline profile gives a scheduler: which
    units exist, PAPI's α, and the kernels' rows and intensities.
    """

    privileged = False
    env: Any  # the problem that is played; subclasses say which

    def bind(self, env: Any) -> None:
        """Play `env`, wrapped or not. Raises ConfigurationError where the policy cannot."""
        problem = getattr(env, "unwrapped", env)
        if not isinstance(problem, Problem):
            raise ConfigurationError(
                f"{type(self).__name__} plays the environments of papi_env, not {type(problem).__name__}"
            )
        self.env = problem
        self._read_profile(problem)
        self.supports(problem)

    def _read_profile(self, env: Any) -> None:
        """Note what rules of a problem read of its offline profile."""

    def supports(self, env: Any) -> None:
        """Raise ConfigurationError where the policy cannot play `env`."""

    def act(
        self, observations: Observations, state: Any, episode_start: npt.NDArray[np.bool_]
    ) -> tuple[Actions, Any]:
        """Int64 actions [num_envs, choices] for observations [num_envs, features], and the state."""
        raise ConfigurationError(f"{type(self).__name__} defines no act()")

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Actions in the shape that the environment takes; see `Policy`."""
        if not hasattr(self, "env"):
            raise ConfigurationError(f"{type(self).__name__}: call bind(env) before predict()")
        observations = np.asarray(observation)
        single = observations.ndim == 1
        if single:
            observations = observations[None]
        if episode_start is None:
            episode_start = np.full(len(observations), state is None)
        actions, state = self.act(observations, state, np.atleast_1d(episode_start))
        shaped = actions[:, 0] if self.env.choices == 1 else actions
        return (shaped[0] if single else shaped), state


class BatchRule(RulePolicy):
    """A rule for static batches and image encodes: it chooses units."""

    env: BatchProblem

    def _read_profile(self, env: Any) -> None:
        """Note the units that there are."""
        if not isinstance(env, BatchProblem):
            raise ConfigurationError(
                f"{type(self).__name__} dispatches static batches and image encodes, not papi_env/Serving-v0"
            )
        self._valid = env.valid_units()
        self._defaults = env.engine.tables.defaults[: env.choices]

    def with_fc_on(self, units: npt.NDArray[Any]) -> Actions:
        """Actions that run all FC kernels of environment i on `units[i]` and attention on its default."""
        actions = np.repeat(units[:, None].astype(np.int64), self.env.choices, axis=1)
        if self.env.choices > 1:
            actions[:, at.ATTENTION] = self._defaults[at.ATTENTION]
        return actions

    def fc_units(self) -> list[UnitName]:
        """The units that can run FC kernels in the bound system."""
        return [UNIT_NAMES[u] for u in np.flatnonzero(self._valid[at.QKV])]


def feature(observations: Observations, name: str) -> npt.NDArray[np.float32]:
    """A named feature of a batch of observations, [num_envs]."""
    return observations[:, _COLUMN[name]]


def _count(observations: Observations, name: str) -> npt.NDArray[np.int64]:
    """The whole number that a feature stands for, [num_envs]."""
    inverse = _SCALE[name].inverse
    assert inverse is not None
    return np.rint(inverse(feature(observations, name))).astype(np.int64)


def parallelism(observations: Observations) -> npt.NDArray[np.int64]:
    """n = RLP x TLP of each environment, exact, [num_envs]."""
    return _count(observations, "rlp") * _count(observations, "tlp")


def coming_stage(observations: Observations) -> npt.NDArray[np.int64]:
    """The stage of an image encode that comes next, -1 where an iteration does, [num_envs]."""
    one_hot = observations[:, at.STAGE_FEATURE : at.IMAGES_FEATURE]
    if not one_hot.size:
        return np.full(len(observations), -1)
    return np.where(one_hot.any(axis=1), np.argmax(one_hot, axis=1), -1)


def image_count(observations: Observations) -> npt.NDArray[np.int64]:
    """Images of the encode that is under way, exact, [num_envs]; for observations of Kernels-v0."""
    return _count(observations, "images")


def unsquash(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Invert x / (1 + x)."""
    x = values.astype(np.float64)
    return x / (1 - x)
