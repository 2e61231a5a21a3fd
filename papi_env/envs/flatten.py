"""Joint actions by number, for algorithms that take only `Discrete` spaces (DQN, QR-DQN).

A `MultiDiscrete` space is flattened over the joint actions that the system can carry out
(`Problem.joint_actions`), not over the whole product: of the 3^7 = 2187 of `papi_env/Kernels-v0` a few dozen
at most are valid. DQN and QR-DQN know no masks, so every other number would be one more output to explore that
does what a valid one does. The price: what a number means depends on the table, so a network trained on flat
actions plays only scenarios whose valid actions are all in its own.

Numbers follow the order of `joint_actions()`, so that of the columns of `joint_costs()`; where a scenario has
two kinds of steps, the joint action of all defaults stands in the table once for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError


class JointActions:
    """A numbered table of joint actions.

    Args:
        space: the `MultiDiscrete` space that they belong to.
        table: integers [actions, choices]; row i is what number i does.

    Attributes:
        table: int64 [actions, choices], read-only.
        space: `Discrete(actions)`.

    Raises:
        ConfigurationError: where the table holds nothing, or something outside the space.
    """

    def __init__(self, space: gym.spaces.MultiDiscrete, table: npt.ArrayLike) -> None:
        rows = np.array(table, dtype=np.int64)
        nvec = np.asarray(space.nvec)
        if nvec.ndim != 1 or rows.ndim != 2 or len(rows) == 0 or rows.shape[1] != len(nvec):
            raise ConfigurationError(
                f"Joint actions of {space} are a table of shape {rows.shape}, expected (actions, {nvec.size})"
            )
        outside = ((rows < 0) | (rows >= nvec)).any(axis=1)
        if outside.any():
            number = int(np.argmax(outside))
            raise ConfigurationError(f"Joint action {number}, {rows[number].tolist()}, is outside {space}")
        rows.flags.writeable = False
        self.table: npt.NDArray[np.int64] = rows
        self.space = gym.spaces.Discrete(len(rows))
        self._sizes = tuple(int(n) for n in nvec)
        # Column of the mask, choices side by side, that each choice of each row reads.
        self._columns = rows + np.concatenate(([0], np.cumsum(nvec)[:-1]))

    def decode(self, numbers: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The joint actions, int64 [..., choices], of integer numbers [...].

        Raises:
            ConfigurationError: for a number outside the table, negative ones included, or not an integer.
        """
        index = np.asarray(numbers)
        if index.dtype.kind not in "iu":
            raise ConfigurationError(
                f"Flat actions have dtype {index.dtype}, expected integers below {len(self.table)}"
            )
        outside = (index < 0) | (index >= len(self.table))
        if outside.any():
            raise ConfigurationError(f"Flat action {index[outside].flat[0]} is outside {self.space}")
        return self.table[index]

    def numbers(self, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The inverse of `decode`: the first number of each joint action, int64 [actions], -1 of one without.

        Args:
            actions: [actions, choices], in the space.
        """
        keys = np.ravel_multi_index(tuple(self.table.T), self._sizes)
        sought = np.ravel_multi_index(tuple(actions.T), self._sizes)
        known, first = np.unique(keys, return_index=True)
        at = np.searchsorted(known, sought).clip(max=len(known) - 1)
        return np.where(known[at] == sought, first[at], -1)

    def masks(self, masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which joint actions are allowed, bool [..., actions]: those whose every choice is.

        Args:
            masks: bool [..., sum of the choices' sizes], the masks of the choices side by side.
        """
        allowed = masks[..., self._columns[:, 0]]
        for columns in self._columns.T[1:]:
            allowed = allowed & masks[..., columns]
        return allowed


def common_table(tables: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """One table for scenarios with different ones: theirs if all are the same, else every joint action of any, once.

    In lexicographic order. Of those that a scenario does not have, every choice that it cannot carry out runs on the
    default, as in any other action, and is masked.
    """
    first = tables[0]
    if all(np.array_equal(first, table) for table in tables[1:]):
        return first
    return np.unique(np.concatenate(tables), axis=0)


def flat_actions(
    space: gym.spaces.Space[Any], problem: Any, table: npt.ArrayLike | None = None
) -> JointActions | None:
    """The numbering for a problem's action space; None where the space is `Discrete`, so flat already.

    Args:
        space: the action space of one environment.
        problem: what has `joint_actions()`: the valid ones, int64 [actions, choices].
        table: numbers these instead.

    Raises:
        ConfigurationError: for any other space.
    """
    if isinstance(space, gym.spaces.Discrete):
        return None
    if isinstance(space, gym.spaces.MultiDiscrete):
        return JointActions(space, problem.joint_actions() if table is None else table)
    raise ConfigurationError(f"Actions of {space} cannot be numbered, expected Discrete or MultiDiscrete")


class FlattenActions(gym.ActionWrapper[Any, int, Any], gym.utils.RecordConstructorArgs):
    """A single environment whose joint actions are numbered: `Discrete(valid joint actions)`.

    Number i does `table[i]`, in the order of the problem's `joint_actions()`; `action_masks()` has an entry
    for each number. An environment with a `Discrete` space is left as it is, and has no table.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)
        self._joint = flat_actions(env.action_space, env.unwrapped)
        if self._joint is not None:
            self.action_space = self._joint.space  # type: ignore[assignment]

    @property
    def table(self) -> npt.NDArray[np.int64] | None:
        """Int64 [actions, choices], read-only: what each number does; None for a `Discrete` environment."""
        return None if self._joint is None else self._joint.table

    def action(self, action: Any) -> Any:
        """The joint action with this number."""
        return action if self._joint is None else self._joint.decode(action)

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Bool [actions]: which numbers are allowed now (the convention of sb3-contrib)."""
        masks = self.env.get_wrapper_attr("action_masks")()
        return np.asarray(masks if self._joint is None else self._joint.masks(masks))
