"""What `info` holds: the same keys at every step, totals where an episode ends, and nothing that a step would wait for.

What takes far longer than a step, a batch works out when it is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Self

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.wrappers import TimeLimit

from papi_env.kernel import FloatArray

METRICS = "metrics"
BoolArray = npt.NDArray[np.bool_]


class LazyInfo(dict[str, Any]):
    """A dict that works out some of its values when they are read; `dict(info)` has all of them.

    Made of a dict with any values in the places of those that are worked out later, and then told. Nothing is in it
    before somebody looks: a step that makes one does not wait until three dozen names are copied.

    Attributes:
        later: the names that nobody has read yet.
        views: those among them that take nothing but a view of an array.
        work_out: gives the value of a name.
    """

    __slots__ = ("_begun", "_put", "later", "views", "work_out")
    work_out: Callable[[str], Any]

    def __init__(
        self,
        values: Mapping[str, Any],
        later: frozenset[str] = frozenset(),
        views: frozenset[str] = frozenset(),
    ) -> None:
        self._begun: Mapping[str, Any] | None = values
        self._put: tuple[str, Any] | None = None
        self.later, self.views = later, views

    def put(self, name: str, value: Any) -> None:
        """Write a value that nobody works out; of one name before anybody looks."""
        if self._begun is None:
            super().__setitem__(name, value)
        else:
            self._put = name, value

    def _fill(self) -> None:
        """Write what there is to be in it, unless it is there."""
        if self._begun is not None:
            super().update(self._begun)
            self._begun = None
            if self._put is not None:
                super().__setitem__(*self._put)

    def there(self) -> list[tuple[str, Any]]:
        """The items that nobody has to work out any more."""
        for name in self.later & self.views:
            self[name]
        self._fill()
        return [(name, value) for name, value in super().items() if name not in self.later]

    def _settle(self) -> None:
        self._fill()
        for name in self.later:
            self[name]

    def __getitem__(self, name: str) -> Any:
        self._fill()
        if name in self.later:
            self[name] = self.work_out(name)
        return super().__getitem__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._fill()
        super().__setitem__(name, value)
        self.later -= {name}

    def __delitem__(self, name: str) -> None:
        self._fill()
        super().__delitem__(name)
        self.later -= {name}

    def __contains__(self, name: object) -> bool:
        self._fill()
        return super().__contains__(name)

    def __len__(self) -> int:
        self._fill()
        return super().__len__()

    def get(self, name: str, default: Any = None) -> Any:
        """As of any dict."""
        try:
            return self[name]
        except KeyError:
            return default

    # An overridden __iter__ tells `dict(info)` and `{**info}` to ask for the values one by one.
    def __iter__(self) -> Any:
        self._fill()
        return super().__iter__()

    def __reversed__(self) -> Any:
        self._fill()
        return super().__reversed__()

    def keys(self) -> Any:
        """As of any dict."""
        self._fill()
        return super().keys()

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

    def popitem(self) -> tuple[str, Any]:
        """As of any dict."""
        self._settle()
        return super().popitem()

    def setdefault(self, name: str, default: Any = None) -> Any:
        """As of any dict."""
        self._settle()
        return super().setdefault(name, default)

    def clear(self) -> None:
        """As of any dict."""
        self._begun, self.later = None, frozenset()
        super().clear()

    def update(self, *others: Any, **values: Any) -> None:
        """As of any dict."""
        self._fill()
        new = dict(*others, **values)
        super().update(new)
        self.later = self.later.difference(new)

    def copy(self) -> dict[str, Any]:
        """A plain dict of all values."""
        return dict(self)

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self.update(other)
        return self

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


# chosen: a step then keeps a reference alone; those of 4096 environments take 256 kB (range: 8 on).
_MOST_MASKS = 64


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
        self._restarted: list[BoolArray] = []
        self.version = 0

    def restarted(self, envs: BoolArray) -> None:
        """The environments of a mask, which nobody writes any more, are in their next episodes."""
        self._restarted.append(envs)
        self.version += 1
        if len(self._restarted) == _MOST_MASKS:
            self._add_up()

    def _add_up(self) -> None:
        for envs in self._restarted:
            self._stale |= envs
        self._restarted.clear()

    def value(self, name: str, version: int) -> FloatArray:
        """An array [num_envs], as of a version.

        Raises:
            RuntimeError: episodes have ended since.
        """
        if version != self.version:
            raise too_late(name)
        self._add_up()
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
