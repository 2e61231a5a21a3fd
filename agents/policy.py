"""What a policy is: SB3's `predict` over batches, and what a bound one may read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from agents.environments import in_shape, joint_of, problems_of
from papi_env.envs.batch import BatchProblem
from papi_env.envs.flatten import JointActions
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
    # The numbers of joint actions, where the environment takes those.
    _joint: JointActions | None = None
    # Where it is made of several problems: one like this for each, in the order of its observations.
    _each: Sequence[Any] = ()

    def bind(self, env: Any) -> None:
        """Play `env`, any that `agents.environments.problems_of` knows.

        Raises:
            ConfigurationError: the policy cannot play it.
        """
        problems = problems_of(env)
        self._joint, self._each = joint_of(env), ()
        if len(problems) > 1:
            # Copies draw from one generator, so no two draw the same.
            shared = [getattr(self, name, None) for name in ("_rng", "env")]
            each = [copy.deepcopy(self, {id(one): one for one in shared}) for _ in problems]
            for own, problem in zip(each, problems, strict=True):
                own.bind(problem)
            self._each = each
            self.env = problems[0]
            return
        (self.env,) = problems
        self._read_profile(self.env)
        self.supports(self.env)

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
        act = self._act_each if self._each else self.act
        actions, state = act(observations, state, np.atleast_1d(episode_start))
        shaped = in_shape(self._joint, actions)
        return (shaped[0] if single else shaped), state

    def _act_each(
        self, observations: Observations, state: Any, episode_start: npt.NDArray[np.bool_]
    ) -> tuple[Actions, Any]:
        """`act` of each problem's own policy on its rows; the state is a list of theirs."""
        sizes = [getattr(policy.env, "num_envs", 1) for policy in self._each]
        if len(observations) != sum(sizes):
            raise ConfigurationError(
                f"{len(observations)} observations, expected one for each of {sum(sizes)} environments"
            )
        ends = np.cumsum(sizes)[:-1]
        rows = zip(
            self._each,
            np.split(observations, ends),
            [None] * len(sizes) if state is None else state,
            np.split(episode_start, ends),
            strict=True,
        )
        found = [policy.act(*row) for policy, *row in rows]
        return np.concatenate([actions for actions, _ in found]), [own for _, own in found]


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
