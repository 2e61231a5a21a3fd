"""What `info` holds: the same keys at every step, totals where an episode ends, and nothing that a step would wait for.

What takes far longer than a step, a batch works out when it is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.wrappers import TimeLimit

from papi_env.kernel import FloatArray

METRICS = "metrics"
BoolArray = npt.NDArray[np.bool_]


class LazyInfo(dict[str, Any]):
    """A dict that works out some of its values when they are read; `dict(info)` has all of them.

    Made of a dict with any values in the places of those that are worked out later, and then told.

    Attributes:
        later: the names that nobody has read yet.
        views: those among them that take nothing but a view of an array.
        work_out: gives the value of a name.
    """

    __slots__ = ("later", "views", "work_out")
    work_out: Callable[[str], Any]

    def __init__(
        self,
        values: Mapping[str, Any],
        later: frozenset[str] = frozenset(),
        views: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(values)
        self.later, self.views = later, views

    def put(self, name: str, value: Any) -> None:
        """Write a value that nobody works out."""
        super().__setitem__(name, value)

    def there(self) -> list[tuple[str, Any]]:
        """The items that nobody has to work out any more."""
        for name in self.later & self.views:
            self[name]
        return [(name, value) for name, value in super().items() if name not in self.later]

    def _settle(self) -> None:
        for name in self.later:
            self[name]

    def __getitem__(self, name: str) -> Any:
        if name in self.later:
            self[name] = self.work_out(name)
        return super().__getitem__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.later -= {name}

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.later -= {name}

    def get(self, name: str, default: Any = None) -> Any:
        """As of any dict."""
        try:
            return self[name]
        except KeyError:
            return default

    # An overridden __iter__ tells `dict(info)` and `{**info}` to ask for the values one by one.
    def __iter__(self) -> Any:
        return super().__iter__()

    def items(self) -> Any:
        """As of any dict."""
        self._settle()
        return super().items()

    def values(self) -> Any:
        """As of any dict."""
        self._settle()
        return super().values()

    def pop(self, name: str, *default: Any) -> Any:
        """As of any dict."""
        self._settle()
        return super().pop(name, *default)

    def update(self, *others: Any, **values: Any) -> None:
        """As of any dict."""
        new = dict(*others, **values)
        super().update(new)
        self.later = self.later.difference(new)

    def copy(self) -> dict[str, Any]:
        """A plain dict of all values."""
        return dict(self)

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __eq__(self, other: object) -> bool:
        self._settle()
        return super().__eq__(other)

    __hash__ = None

    def __repr__(self) -> str:
        self._settle()
        return super().__repr__()

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def masked(columns: Mapping[str, Any], mask: BoolArray) -> dict[str, Any]:
    """Columns and, as gymnasium's vector environments write it, `_name`: whose values they are."""
    return {**columns, **{f"_{name}": mask for name in columns}}


def spread(
    found: Mapping[str, npt.NDArray[Any]], ended: npt.NDArray[np.int64], num_envs: int
) -> dict[str, npt.NDArray[Any]]:
    """Arrays of the environments `ended` as arrays [num_envs], 0 elsewhere."""
    columns = {}
    for name, values in found.items():
        columns[name] = np.zeros(num_envs, dtype=values.dtype)
        columns[name][ended] = values
    return columns


class FirstInfo:
    """What a batch's `info` holds of how episodes began, worked out when it is read: once for each episode.

    Args:
        names: what is held.
        work_out: gives it for some environments, arrays [envs] by name.
        num_envs: how many there are.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        work_out: Callable[[npt.NDArray[np.int64]], Mapping[str, FloatArray]],
        num_envs: int,
    ) -> None:
        self._work_out = work_out
        self._values = {name: np.zeros(num_envs) for name in names}
        self._stale = np.ones(num_envs, dtype=np.bool_)
        self.version = 0

    def restarted(self, envs: BoolArray) -> None:
        """The environments of a mask are in their next episodes."""
        self._stale |= envs
        self.version += 1

    def value(self, name: str, version: int) -> FloatArray:
        """An array [num_envs], as of a version.

        Raises:
            RuntimeError: episodes have ended since.
        """
        if version != self.version:
            raise too_late(name)
        envs = np.flatnonzero(self._stale)
        if len(envs):
            for key, values in self._work_out(envs).items():
                self._values[key][envs] = values
            self._stale[:] = False
        return self._values[name].copy()


def too_late(name: str) -> RuntimeError:
    """The error for what is first read of a batch's info when it is about episodes that are gone."""
    return RuntimeError(
        f"infos[{name!r}] was first read in a later step, when episodes that it is about had ended: read it at once, "
        "or keep dict(infos), which has all values"
    )


# Frames of functions that may stand between two wrappers: gymnasium's checker of environments has one.
_MOST_BETWEEN = 2


def time_limit(env: gym.Env[Any, Any]) -> int:
    """Steps after which a `TimeLimit` among the wrappers that are calling `env.reset` cuts episodes off; 0 for never.

    An environment is told nothing of such an end, at which `info` has to hold its totals, for what gymnasium builds of
    `max_episode_steps` stays outside. So it looks who calls, as `warnings` does to find the line to blame.
    """
    frame: FrameType | None = sys._getframe(2)
    between = 0
    while frame is not None and between <= _MOST_BETWEEN:
        caller = frame.f_locals.get("self")
        if not isinstance(caller, gym.Wrapper) or caller.unwrapped is not env:
            between += 1
        elif isinstance(caller, TimeLimit):
            return int(caller._max_episode_steps)
        else:
            between = 0
        frame = frame.f_back
    return 0
