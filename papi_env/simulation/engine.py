"""What every engine is: environments of one scenario as arrays, advanced in place by compiled code.

The counters of every engine start with the same columns, and what ends an episode or starts the next means the same
in all of them, so that environments, policies and experiments drive any engine through this module alone.
"""

from __future__ import annotations

import copy
import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario

# What becomes of an environment whose episode has ended, when it is stepped: it idles until it is reset; it is reset
# in the next step, which ignores its action; or it was reset in the step of the end.
DISABLED, NEXT_STEP, SAME_STEP = range(3)

# The first columns of every engine's counters.
SEED = 0  # together with the episode's number it names the instance
EPISODE = 1
DONE = 2  # 1: the episode has ended and waits for its reset
NUM_SHARED_COUNTERS = 3

CACHE_LINE = 64  # bytes, on every processor that numba compiles for but a few (those have 128)

Counters = npt.NDArray[np.int64]
Metrics = dict[str, npt.NDArray[Any]]


class EngineState(Protocol):
    """What changes in a step: a named tuple of arrays [num_envs, ...], counters and clocks among them."""

    @property
    def counters(self) -> Counters:
        """int64 [num_envs, columns], the first of them `SEED`, `EPISODE`, `DONE`."""

    @property
    def clocks(self) -> FloatArray:
        """float64 [num_envs, columns]."""


class Handed(NamedTuple):
    """What a step gives to a caller who keeps it, arrays [num_envs, ...]; of counters and clocks see `Engine.hand`."""

    observations: npt.NDArray[np.float32]
    rewards: FloatArray
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    counters: Counters
    clocks: FloatArray


State = TypeVar("State", bound=Any)


def seed_number(seed: Any) -> int:
    """What an engine keeps of a seed, a number below 2**63: the seed itself, or a digest of a larger one.

    Raises:
        ConfigurationError: the seed is no non-negative integer.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0 or isinstance(seed, (bool, np.bool_)):
        raise ConfigurationError(f"seed is {seed!r}, expected a non-negative integer")
    if number < 1 << 63:
        return number
    data = number.to_bytes(-(-number.bit_length() // 8), "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1


class Engine(ABC, Generic[State]):
    """State and dynamics of `num_envs` environments of one scenario.

    Subclasses set `state`, `final` and `tables`, and say how a step and a reset are carried out.

    Args:
        scenario: what is simulated.
        num_envs: environments, any number from 1.
        options: of each choice, so many columns has an action.
        features: of an observation.
        autoreset: `DISABLED`, `NEXT_STEP` or `SAME_STEP`.
        max_steps: steps after which an episode is truncated; 0 for never.
        threads: share the environments of a step among so many threads. Changes no bit of what they do.

    Attributes:
        state: named tuple of arrays [num_envs, ...] (see `EngineState`).
        final: with SAME_STEP, of the episodes that ended in the last step, what their metrics need.
        actions: int64 [num_envs, choices], written by whoever steps the engine.
        observations: float32 [num_envs, features]; final_observations: with SAME_STEP, the last of ended episodes.
        rewards: float64 [num_envs]; terminated, truncated: bool [num_envs].
        threads: as many as are used.

    All arrays are written in place, and must not be replaced.

    Raises:
        ConfigurationError: `num_envs` or `threads` is no whole number from 1, or `autoreset` is none of the three.
    """

    # Attributes that copies share: what no step changes.
    shared: ClassVar[frozenset[str]] = frozenset(("scenario", "tables", "_limits_of_actions"))
    # Attributes that are made of the others by `_bind`, and so are neither pickled nor copied.
    bound: ClassVar[frozenset[str]] = frozenset()
    state: State
    final: State
    tables: Any

    def __init__(
        self,
        scenario: Scenario,
        num_envs: int,
        *,
        options: Sequence[int],
        features: int,
        autoreset: int = DISABLED,
        max_steps: int = 0,
        threads: int = 1,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("threads", threads)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ConfigurationError(f"{name} is {value!r}, expected at least 1, a whole number")
        if autoreset not in (DISABLED, NEXT_STEP, SAME_STEP):
            raise ConfigurationError(f"autoreset is {autoreset!r}, expected DISABLED, NEXT_STEP or SAME_STEP")
        self.scenario, self.num_envs = scenario, num_envs
        self.autoreset, self.max_steps = autoreset, max_steps
        self.threads = min(threads, num_envs)
        # As unsigned numbers negative ones are too large, so one comparison finds both.
        limits = np.array(options, dtype=np.uint64)
        self._limits_of_actions = limits if np.ptp(limits) else limits[0]
        self._arrays(len(options), features)

    def _arrays(self, choices: int, features: int) -> None:
        """Make what a step reads and writes beside the state."""
        num_envs = self.num_envs
        self.actions = np.zeros((num_envs, choices), dtype=np.int64)
        self.observations = aligned_zeros((num_envs, features), np.float32)
        self.final_observations = np.zeros_like(self.observations)
        self.rewards = np.zeros(num_envs)
        self.terminated = np.zeros(num_envs, dtype=np.bool_)
        self.truncated = np.zeros(num_envs, dtype=np.bool_)

    # --- what an engine defines -------------------------------------------------------------------

    @abstractmethod
    def reset(self, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Start the episode that the SEED and EPISODE counters name, where `mask`, bool [num_envs], is true."""

    # Two mechanisms share a step among threads, for neither serves both engines. numba's own take no nested tuples,
    # which the serving engine's tables are. Python's wait for one another to be handed their work: of 4096 static
    # batches two of them take 265 us a step where numba's take 106, and one alone 220.
    @abstractmethod
    def advance(self) -> None:
        """Advance every environment by one step with `actions`, already checked, on `threads` threads.

        What runs does not look: an action outside its options may end the process. `step` is for anybody else.
        """

    @abstractmethod
    def measured(self, state: State) -> Metrics:
        """Metrics of the episodes in `state`: arrays, as long as its own."""

    @abstractmethod
    def ended(self, envs: npt.NDArray[np.int64]) -> State:
        """The last states of the episodes that ended in the last step in environments `envs`, with SAME_STEP."""

    @abstractmethod
    def hand(self, counters: Sequence[int], clocks: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The columns of counters and clocks that `advance_into` gives from now on: those named, or more."""

    @abstractmethod
    def advance_into(self, given: Handed) -> None:
        """`advance`, with what it gives written to arrays of the caller's own, in the same pass.

        Rewards, and which episodes ended, may stand there alone.
        """

    def any_ended(self) -> bool:
        """Whether an episode ended in the last step, or had ended before and idles."""
        # Twice as quick as whether there are any.
        return bool(np.count_nonzero(self.terminated) or np.count_nonzero(self.truncated))

    def _hand_ends(self, given: Handed) -> None:
        """Copy rewards, and whose episodes ended."""
        np.copyto(given.rewards, self.rewards)
        np.copyto(given.terminated, self.terminated)
        np.copyto(given.truncated, self.truncated)

    def _bind(self) -> None:
        """Make the attributes in `bound` anew, after they were lost."""

    # --- what all have ----------------------------------------------------------------------------

    def step(self) -> None:
        """Advance every environment by one step with `actions`.

        Raises:
            ConfigurationError: an action is outside its options; no environment has moved.
        """
        outside = self.outside()
        if outside is not None:
            raise ConfigurationError(
                f"Environment {outside}: action {self.actions[outside].tolist()} is outside the options of the choices"
            )
        self.advance()

    def receive(self, chosen: npt.NDArray[np.integer[Any]]) -> int | None:
        """Take over the actions of the next step, integers [num_envs] or [num_envs, choices].

        Until then nobody writes them. Returns the first environment whose action is outside its options, and takes over
        none of them then; else None.
        """
        self.actions[:] = chosen.reshape(self.actions.shape)
        return self.outside()

    def outside(self) -> int | None:
        """The first environment whose action in `actions` is outside its options; None if there is none."""
        chosen = self.actions.view(np.uint64)
        # Where all choices have as many options, the largest says it: no array of answers is made.
        if self._limits_of_actions.ndim == 0 and chosen.max() < self._limits_of_actions:
            return None
        bad = chosen >= self._limits_of_actions
        return int(np.argwhere(bad)[0, 0]) if bad.any() else None

    @property
    def counters(self) -> Counters:
        """int64 [num_envs, columns], a view of the state."""
        found: Counters = self.state.counters
        return found

    @property
    def clocks(self) -> FloatArray:
        """float64 [num_envs, columns], a view of the state."""
        found: FloatArray = self.state.clocks
        return found

    @property
    def final_counters(self) -> Counters:
        """Counters of the episodes that ended in the last step, with SAME_STEP."""
        found: Counters = self.final.counters
        return found

    @property
    def final_clocks(self) -> FloatArray:
        """Clocks of the episodes that ended in the last step, with SAME_STEP."""
        found: FloatArray = self.final.clocks
        return found

    def start(self, seeds: Sequence[int | None], mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Reset environments to the first episode of a seed, or to the next one of the seed that they have.

        Args:
            seeds: one for each environment, any non-negative integer; None for the next episode.
            mask: bool [num_envs], restricts the reset to some environments, whose seeds alone are read.

        Raises:
            ConfigurationError: a seed is none; no environment has been reset.
        """
        counters = self.counters
        envs = range(self.num_envs) if mask is None else np.flatnonzero(mask).tolist()
        numbers = [None if (seed := seeds[env]) is None else seed_number(seed) for env in envs]
        for env, seed in zip(envs, numbers, strict=True):
            if seed is None:
                counters[env, EPISODE] += 1
            else:
                counters[env, SEED] = seed
                counters[env, EPISODE] = 0
        self.reset(mask)

    def metrics(self, envs: npt.NDArray[np.int64] | None = None) -> Metrics:
        """Metrics of the current episodes, arrays [num_envs] by name; of environments `envs` alone, if given."""
        return self.measured(self.rows(envs))

    def rows(self, envs: npt.NDArray[np.int64] | None) -> State:
        """What metrics need of the state: of environments `envs`, copied, or of all as it lies there."""
        if envs is None:
            return self.state
        found: State = type(self.state)._make(array[envs] for array in self.state)
        return found

    def final_metrics(self, envs: npt.NDArray[np.int64], out: Metrics | None = None) -> Metrics:
        """Metrics of the episodes that ended in the last step, with SAME_STEP: arrays [num_envs] by name.

        Args:
            envs: where they ended. What the arrays hold for other environments means nothing.
            out: arrays to be written again, by name; what it lacks is made and put there.
        """
        # Few environments end in a step, and there are many metrics.
        found = {} if out is None else out
        for name, values in self.measured(self.ended(envs)).items():
            if name not in found:
                found[name] = np.zeros(self.num_envs, dtype=values.dtype)
            found[name][envs] = values
        return found.copy()

    def clone(self) -> Self:
        """An engine with a copy of the whole state, for looking ahead; the tables are shared."""
        self.settle()
        twin = copy.copy(self)
        for name, value in self.__dict__.items():
            if name not in self.shared:
                twin.__dict__[name] = copied(value)
        twin._bind()
        return twin

    def settle(self) -> None:
        """Bring up to date what steps have left for later, for somebody looks at the state."""

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        return {name: value for name, value in self.__dict__.items() if name not in self.bound}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()

    @property
    def state_bytes_per_env(self) -> int:
        """Bytes of simulation state that one environment takes."""
        return sum(array.nbytes for array in self.state) // self.num_envs


def copied(value: Any) -> Any:
    """A copy of an array, or of a named tuple's arrays; anything else as it is."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return type(value)._make(map(copied, value))
    return value


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros that start a cache line, so that an environment's row, of whole lines, shares none with another's."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + CACHE_LINE, dtype=np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + size].view(dtype).reshape(shape)
