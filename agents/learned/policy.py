"""A policy that was learned, loaded from its checkpoint: acts on NumPy alone.

    from agents.learned.policy import load_policy

    policy = load_policy("runs/train-kernels/best")
    policy.bind(env)                    # refuses an environment that it was not trained for
    actions, state = policy.predict(observations)

It goes wherever SB3's `predict` does: `agents.evaluate`, `experiments.compare --entries papi/FOLDER`, and
`evaluate_policy` of Stable-Baselines3 and sb3-contrib.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from agents.environments import in_shape, joint_of, numbering_of, problems_of
from agents.learned.advice import Inputs
from agents.learned.checkpoint import Checkpoint, Description, load_checkpoint
from agents.learned.networks import Architecture, Float32Array, Network, RecurrentState
from agents.learned.request_network import RequestNetwork
from agents.serving.network import SeesRequests
from papi_env.envs.flatten import JointActions
from papi_env.envs.problem import Problem
from papi_env.errors import ConfigurationError, nearest


def load_policy(folder: str | os.PathLike[str]) -> LearnedPolicy | SeesRequests:
    """The policy in a folder.

    Raises:
        ConfigurationError, DataError: there is none, or one of its files is not what it should be.
    """
    return policy_of(load_checkpoint(folder))


def policy_of(checkpoint: Checkpoint) -> LearnedPolicy | SeesRequests:
    """The policy that a checkpoint describes: one that reads observations as a whole, or one that sees requests."""
    network = checkpoint.description.architecture
    if isinstance(network, RequestNetwork):
        of_traffics = {name: network.flat(checkpoint.weights, name) for name in network.traffics}
        policy = SeesRequests(network.flat(checkpoint.weights), of_traffics=of_traffics)
        policy.description = checkpoint.description
        return policy
    return LearnedPolicy(checkpoint)


class LearnedPolicy:
    """A network that chooses actions.

    Deterministic actions are those of the algorithm's own `predict(deterministic=True)`. Others are drawn from
    the policy's distribution with a generator of its own; a network of action values always takes the best. A policy
    whose description says that it draws does so either way, with a generator that every `bind` starts anew.

    Where it was trained with action masks it acts with them: those given to `predict`, else those of the bound
    environments if the observations are of all of them; where there are neither, nothing is masked.

    Args:
        checkpoint: what was learned.
        seed: of drawn actions.
    """

    privileged = False

    def __init__(self, checkpoint: Checkpoint, *, seed: int = 0) -> None:
        self.checkpoint = checkpoint
        architecture = checkpoint.description.architecture
        if not isinstance(architecture, Architecture):
            raise ConfigurationError(
                "a network that sees requests reads no observation as a whole: expected policy_of(checkpoint)"
            )
        self._network = Network(architecture, checkpoint.weights)
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._problems: Sequence[Problem] = ()
        # What it reads in them besides.
        self._inputs: Inputs | None = None
        action = checkpoint.description.action
        self._joint: JointActions | None = None
        if checkpoint.joint_actions is not None:
            space = gym.spaces.MultiDiscrete(list(action.options))
            self._joint = JointActions(space, checkpoint.joint_actions)
        # Whether actions go out as numbers of joint actions: only to an environment that is flat itself.
        self._numbers = False
        # The numbers of an environment that is flat, for a network whose heads are choices.
        self._outer: JointActions | None = None

    @property
    def description(self) -> Description:
        """What the checkpoint says of itself."""
        return self.checkpoint.description

    def bind(self, env: Any) -> None:
        """Play `env`: a single or vector environment of this package, wrapped or not, or a `VecEnv` of them.

        Raises:
            ConfigurationError: the environment has other observations or actions than those trained on; the
                message lists the differences.
        """
        problems = problems_of(env)
        description = self.checkpoint.description
        where = f"The policy ({description.algorithm}, trained on {description.env})"
        inputs = Inputs(description.observation.names, description.advice, problems)
        if inputs.differs is not None:
            raise ConfigurationError(
                f"{where} reads other observations than this environment has: {layout_difference(*inputs.differs)}"
            )
        for problem in problems:
            space = problem.single_space()
            options = options_of(space)
            if options != description.action.options:
                raise ConfigurationError(
                    f"{where} takes actions of {list(description.action.options)} options, but this environment "
                    f"has {list(options)}"
                )
            if self._joint is not None:
                valid = problem.joint_actions()
                unknown = valid[self._joint.numbers(valid) < 0]
                if len(unknown):
                    raise ConfigurationError(
                        f"{where} numbers the {len(self._joint.table)} joint actions of its own scenarios, without "
                        f"{len(unknown)} of the {len(valid)} of this one, such as {unknown[0].tolist()}"
                    )
        self._problems, self._inputs = problems, inputs
        if description.draws:
            self._rng = np.random.default_rng(self._seed)
        self._outer, self._numbers = joint_of(env), False
        if self._joint is not None and self._outer is not None:
            if not np.array_equal(numbering_of(env), self._joint.table):
                raise ConfigurationError(f"{where} numbers its joint actions otherwise than this environment")
            self._numbers = True

    def predict(
        self,
        observation: Any,
        state: RecurrentState | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[Any, Any]:
        """Actions for one observation or a batch of them, in the shape that the environment takes, and the state.

        Args:
            observation: float32 [features] or [num_envs, features].
            state: of an LSTM, or of the rule whose advice is read, as returned before; None starts anew.
            episode_start: bool [num_envs], where the state starts again.
            deterministic: the best action, else one drawn.
            action_masks: bool [num_envs, sum of options], or the same for flat actions; see above.

        Raises:
            ConfigurationError: an observation of another length.
        """
        observations = np.asarray(observation, dtype=np.float32)
        single = observations.ndim == 1
        scores, masks, state = self._scored(np.atleast_2d(observations), state, episode_start, action_masks)
        network = self._network
        draws = self.description.draws or not deterministic
        chosen = network.drawn(scores, masks, self._rng) if draws else network.best(scores, masks)
        if self._numbers:
            chosen = chosen[:, 0]
        else:
            choices = chosen if self._joint is None else self._joint.decode(chosen[:, 0])
            chosen = in_shape(self._outer, choices)
        return (chosen[0] if single else chosen), state

    def preferences(
        self,
        observations: npt.NDArray[Any],
        state: RecurrentState | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.int64], Float32Array, Float32Array, Any]:
        """The best actions, how much speaks for each option, and what it loses: what a pupil learns from.

        Args:
            observations: float32 [num_envs, features]; state and episode_start: as in `predict`.

        Returns:
            Int64 [num_envs, choices] of the environment's own space; shares and losses, float32 [num_envs, sum of the
            network's options], of joint actions where it numbers those (`Network.preferences`); and the state.
        """
        scores, masks, state = self._scored(
            np.asarray(observations, dtype=np.float32), state, episode_start, None
        )
        chosen = self._network.best(scores, masks)
        if self._joint is not None:
            chosen = self._joint.decode(chosen[:, 0])
        return chosen, *self._network.preferences(scores, masks), state

    def _scored(
        self,
        observations: Float32Array,
        state: RecurrentState | None,
        episode_start: npt.NDArray[np.bool_] | None,
        action_masks: npt.NDArray[np.bool_] | None,
    ) -> tuple[Float32Array, npt.NDArray[np.bool_] | None, RecurrentState | None]:
        """Scores of a batch of observations, the masks that go with them, and the state."""
        network = self._network
        expected = network.architecture.inputs
        if self._inputs is not None and self._inputs.adds and observations.ndim == 2:
            starts = np.full(len(observations), state is None) if episode_start is None else episode_start
            observations, advice = self._inputs(observations, state, np.atleast_1d(starts))
            if self.description.advice:
                state = advice
        if observations.ndim != 2 or observations.shape[1] != expected:
            raise ConfigurationError(
                f"Observations have shape {observations.shape}, but the policy reads {expected} features"
            )
        if network.architecture.lstm is not None:
            state = self._started(state, episode_start, len(observations))
        scores, state = network.scores(observations, state)
        return scores, self._masks(action_masks, len(observations)), state

    def _started(
        self, state: RecurrentState | None, episode_start: npt.NDArray[np.bool_] | None, num_envs: int
    ) -> RecurrentState:
        """The state before this step: zeros where an episode starts."""
        if state is None:
            state = self._network.initial_state(num_envs)
        assert state is not None
        if episode_start is None:
            return state
        keep = (~np.atleast_1d(np.asarray(episode_start, dtype=np.bool_)))[None, :, None]
        return state[0] * keep, state[1] * keep

    def _masks(self, given: npt.NDArray[np.bool_] | None, num_envs: int) -> npt.NDArray[np.bool_] | None:
        """Masks in the shape of the scores, or None where there are none."""
        if not self.checkpoint.description.masked:
            return None
        if given is None:
            if sum(_num_envs(problem) for problem in self._problems) != num_envs:
                return None
            given = np.concatenate([problem.step_masks() for problem in self._problems])
        masks = np.asarray(given, dtype=np.bool_).reshape(num_envs, -1)
        options = sum(self._network.architecture.options)
        if self._joint is not None and masks.shape[1] != options:
            masks = self._joint.masks(masks)
        if masks.shape[1] != options:
            raise ConfigurationError(f"Action masks have {masks.shape[1]} columns, expected {options}")
        return masks


def options_of(space: gym.spaces.Space[Any]) -> tuple[int, ...]:
    """How many options each choice of an action space has.

    Raises:
        ConfigurationError: for spaces that are not `Discrete` from 0 or `MultiDiscrete`.
    """
    if isinstance(space, gym.spaces.Discrete) and space.start == 0:
        return (int(space.n),)
    if isinstance(space, gym.spaces.MultiDiscrete) and not np.any(space.start):
        return tuple(int(n) for n in space.nvec)
    raise ConfigurationError(f"Actions of {space} are not choices, expected Discrete or MultiDiscrete")


def layout_difference(trained: Sequence[str], found: Sequence[str]) -> str:
    """What another layout of observations lacks, has besides, or has elsewhere; empty where they are the same."""
    if tuple(trained) == tuple(found):
        return ""
    missing = [name for name in trained if name not in found]
    surplus = [name for name in found if name not in trained]
    parts = []
    if missing:
        close = {name: nearest(name, surplus) for name in missing[:1]}
        hint = "".join(f" (now {new!r}?)" for new in close.values() if new)
        parts.append(f"{len(missing)} that it reads are missing: {_listed(missing)}{hint}")
    if surplus:
        parts.append(f"{len(surplus)} it does not know: {_listed(surplus)}")
    if not parts:
        moved = [
            f"{name} (there {i}, here {found.index(name)})"
            for i, name in enumerate(trained)
            if found.index(name) != i
        ]
        parts.append(f"{len(moved)} stand elsewhere: {_listed(moved)}")
    return "; ".join(parts)


def _listed(names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _num_envs(problem: Problem) -> int:
    return int(problem.engine.num_envs)
