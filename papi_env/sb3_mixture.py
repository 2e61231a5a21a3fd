"""Several scenarios in one `VecEnv` of Stable-Baselines3, so that one policy is trained on all of them.

    from papi_env.sb3_mixture import make_mixture

    scenarios = [{"scenario": name, "batch_size": size} for name in names for size in (4, 16, 64)]
    envs = make_mixture("papi_env/Decode-v0", scenarios, num_envs=256)

A batch environment advances all of its environments with the tables of one scenario; a mixture puts several batch
environments side by side. Needs the extra `learn`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from papi_env.envs.flatten import common_table
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.sb3 import BatchVecEnv, make_vec


class MixtureVecEnv(VecEnv):
    """Batch environments side by side: those of the first part come first, then those of the second, and so on.

    A step steps every part, so it costs what the parts' steps cost and a copy of their observations. Environment
    i has seed s + i after `seed(s)`, whichever part it is in; infos, masks and rewards are the parts' own.

    Args:
        parts: with the same observations and actions; flat actions must be numbered in the same way.

    Raises:
        ConfigurationError: where there are no parts, or two that one policy cannot play alike.
    """

    def __init__(self, parts: Sequence[BatchVecEnv]) -> None:
        if not parts:
            raise ConfigurationError("A mixture has no parts, expected at least one")
        self.parts = tuple(parts)
        first = self.parts[0]
        for i, part in enumerate(self.parts[1:], start=1):
            for name in ("observation_space", "action_space"):
                here, there = getattr(part, name), getattr(first, name)
                if here != there:
                    raise ConfigurationError(
                        f"Part {i} of a mixture has {name} {here}, part 0 has {there}; expected the same"
                    )
            names, expected = _names(part), _names(first)
            if names != expected:
                raise ConfigurationError(f"Part {i} of a mixture names other observations than part 0")
            tables = part.flat_actions, first.flat_actions
            if tables[0] is not None and not np.array_equal(*tables):  # type: ignore[arg-type]
                raise ConfigurationError(
                    f"Part {i} of a mixture numbers other joint actions than part 0; make_mixture gives all parts one "
                    "table"
                )
        sizes = [part.num_envs for part in self.parts]
        self._starts = np.cumsum([0, *sizes])
        super().__init__(int(self._starts[-1]), first.observation_space, first.action_space)
        self.metadata = first.metadata
        self.spec = first.spec

    @property
    def flat_actions(self) -> npt.NDArray[np.int64] | None:
        """Int64 [actions, choices]: what each flat action does; None where nothing was flattened."""
        return self.parts[0].flat_actions

    @property
    def elapsed_s(self) -> FloatArray | None:
        """Float64 [num_envs], seconds of the last step, see `BatchVecEnv`; None where a part counts steps."""
        seconds = [part.elapsed_s for part in self.parts]
        found = [part for part in seconds if part is not None]
        return np.concatenate(found) if len(found) == len(seconds) else None

    def _slices(self) -> list[slice]:
        return [slice(int(a), int(b)) for a, b in zip(self._starts[:-1], self._starts[1:], strict=True)]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds of the next `reset()`: seed + i for environment i; drawn at random where there is none."""
        if seed is None:
            seed = int(np.random.randint(0, np.iinfo(np.int32).max, dtype=np.int64))  # noqa: NPY002 - as SB3 does
        for part, start in zip(self.parts, self._starts, strict=False):
            part.seed(seed + int(start))
        return [seed + i for i in range(self.num_envs)]

    def set_options(self, options: Any = None) -> None:
        """Options of the next `reset()`: one set for all, or a list with one for each environment."""
        for part, where in zip(self.parts, self._slices(), strict=True):
            part.set_options(options[where] if isinstance(options, list) else options)

    def reset(self) -> npt.NDArray[Any]:
        """Start episodes in every part; see `BatchVecEnv.reset`."""
        observations = np.concatenate([part.reset() for part in self.parts])
        self.reset_infos = [info for part in self.parts for info in part.reset_infos]
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take the actions of the coming step: integers [num_envs], or [num_envs, choices]."""
        for part, where in zip(self.parts, self._slices(), strict=True):
            part.step_async(actions[where])

    def step_wait(self) -> VecEnvStepReturn:
        """Run one step in every part."""
        steps = [part.step_wait() for part in self.parts]
        observations, rewards, dones = (np.concatenate([step[k] for step in steps]) for k in range(3))
        if dones.any():
            self.reset_infos = [info for part in self.parts for info in part.reset_infos]
        return observations, rewards, dones, [info for step in steps for info in step[3]]

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Bool [num_envs, options]: what is allowed now, as `BatchVecEnv.action_masks`."""
        return np.concatenate([part.action_masks() for part in self.parts])

    def _shares(self, indices: VecEnvIndices) -> list[tuple[BatchVecEnv, list[int], list[int]]]:
        """The parts that `indices` name, with their own indices, and where those stand in what was asked."""
        asked = np.asarray(list(self._get_indices(indices)), dtype=np.int64)
        asked = np.where(asked < 0, asked + self.num_envs, asked)
        owners = np.searchsorted(self._starts, asked, side="right") - 1
        shares = []
        for k, part in enumerate(self.parts):
            places = np.flatnonzero(owners == k)
            if len(places):
                shares.append((part, (asked[places] - self._starts[k]).tolist(), places.tolist()))
        return shares

    def _gather(self, indices: VecEnvIndices, ask: Any) -> list[Any]:
        """`ask(part, its indices)` of every part, put in the order of `indices`."""
        answers: dict[int, Any] = {}
        for part, own, places in self._shares(indices):
            answers.update(zip(places, ask(part, own), strict=True))
        return [answers[place] for place in sorted(answers)]

    def has_attr(self, attr_name: str) -> bool:
        """Whether the environments of every part have the attribute."""
        return all(part.has_attr(attr_name) for part in self.parts)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute, once for each index; see `BatchVecEnv.get_attr`."""
        return self._gather(indices, lambda part, own: part.get_attr(attr_name, own))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of whole parts; see `BatchVecEnv.set_attr`."""
        for part, own, _ in self._shares(indices):
            part.set_attr(attr_name, value, own)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method once for each part that `indices` name; see `BatchVecEnv.env_method`."""
        return self._gather(
            indices,
            lambda part, own: part.env_method(method_name, *method_args, indices=own, **method_kwargs),
        )

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """As `BatchVecEnv.env_is_wrapped`."""
        return self._gather(indices, lambda part, own: part.env_is_wrapped(wrapper_class, own))

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """A picture of each environment, where its part renders `rgb_array`."""
        return [image for part in self.parts for image in part.get_images()]

    def close(self) -> None:
        """Close every part."""
        for part in self.parts:
            part.close()


def _names(part: BatchVecEnv) -> Any:
    return part.get_attr("observation_names", 0)[0] if part.has_attr("observation_names") else None


def shares(num_envs: int, parts: int) -> list[int]:
    """`num_envs` split as evenly as can be: the first parts have one more where it does not divide.

    Raises:
        ConfigurationError: where a part would have none.
    """
    if parts < 1 or num_envs < parts:
        raise ConfigurationError(
            f"{num_envs} environments for {parts} scenarios, expected at least one environment for each"
        )
    each, more = divmod(num_envs, parts)
    return [each + (i < more) for i in range(parts)]


def make_mixture(
    env_id: str,
    scenarios: Sequence[Mapping[str, Any]],
    num_envs: int,
    *,
    seed: int | None = None,
    flatten: bool = False,
    monitor: bool = True,
    **kwargs: Any,
) -> BatchVecEnv | MixtureVecEnv:
    """`papi_env.sb3.make_vec` over several scenarios, each with its share of the environments.

    Args:
        env_id: such as `papi_env/Decode-v0`.
        scenarios: arguments of each part's environment: `scenario`, `system`, `batch_size`, ...
        num_envs: over all parts, at least one for each.
        seed: of the first `reset()`; environment i gets seed + i.
        flatten: number joint actions, in the same way in every part: see `papi_env.envs.flatten.common_table`.
        monitor: see `BatchVecEnv`.
        kwargs: arguments for every part.

    Returns:
        A `MixtureVecEnv`, or just the batch environment where there is one scenario.
    """
    parts = [
        make_vec(env_id, share, flatten=flatten, monitor=monitor, **{**kwargs, **arguments})
        for share, arguments in zip(shares(num_envs, len(scenarios)), scenarios, strict=True)
    ]
    tables = [part.flat_actions for part in parts if part.flat_actions is not None]
    if tables:
        table = common_table(tables)
        parts = [BatchVecEnv(part.vector_env, flatten=True, table=table, monitor=monitor) for part in parts]
    envs = parts[0] if len(parts) == 1 else MixtureVecEnv(parts)
    if seed is not None:
        envs.seed(seed)
    return envs
