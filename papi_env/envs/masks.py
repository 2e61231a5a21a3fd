"""Masks of actions in the forms that others take: `action_space.sample`, and observations that hold them."""

from __future__ import annotations

from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError

# int8 [options] of a Discrete space; a tuple of those, one for each choice or environment, of a MultiDiscrete one.
SampleMask: TypeAlias = npt.NDArray[np.int8] | tuple[Any, ...]


def sample_mask(space: gym.spaces.Space[Any], masks: npt.NDArray[np.bool_]) -> SampleMask:
    """A mask as `space.sample(mask=...)` takes it.

    Args:
        space: the action space of one environment, or of a batch.
        masks: bool [options of all choices side by side], or [num_envs, options] of a batch.

    Raises:
        ConfigurationError: the space, of a batch with several choices each, samples without masks.
    """
    if isinstance(space, gym.spaces.Discrete):
        return masks.astype(np.int8)
    if not isinstance(space, gym.spaces.MultiDiscrete):
        raise ConfigurationError(
            "gymnasium makes a Box of a batch of MultiDiscrete actions, which samples without masks; expected "
            "flatten=True, or action_masks() in its place"
        )
    if masks.ndim == 2:
        return tuple(masks.astype(np.int8))
    return tuple(np.split(masks.astype(np.int8), np.cumsum(space.nvec)[:-1]))


class MaskedObservations(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """A single environment whose observation is a dict of the observation and of the mask of the next action.

    RLlib's examples call them `observations` and `action_mask`; Tianshou's policies want `obs` and `mask`.

    Args:
        env: an environment of this package, or a wrapper around one.
        observations: the observation's key.
        mask: the mask's: int8 [options of all choices], or [actions] where flattened (`flatten=True`).
    """

    def __init__(
        self, env: gym.Env[Any, Any], observations: str = "observations", mask: str = "action_mask"
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, observations=observations, mask=mask)
        gym.Wrapper.__init__(self, env)
        self._keys = observations, mask
        options = len(env.get_wrapper_attr("action_masks")())
        self.observation_space = gym.spaces.Dict(
            {observations: env.observation_space, mask: gym.spaces.Box(0, 1, (options,), np.int8)}
        )

    def _with_mask(self, observation: Any) -> dict[str, Any]:
        mask = self.env.get_wrapper_attr("action_masks")().astype(np.int8)
        return dict(zip(self._keys, (observation, mask), strict=True))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start the next episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Run one step."""
        observation, *rest = self.env.step(action)
        return (self._with_mask(observation), *rest)  # type: ignore[return-value]
