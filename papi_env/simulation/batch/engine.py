"""The batch engine: any number of environments of one scenario, as arrays that compiled code advances."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from papi_env.hardware.units import UNIT_NAMES
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario
from papi_env.simulation.batch import loop as batch
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.lookups import ImageLookups, join_lookups, resolved_units
from papi_env.simulation.batch.tables import EngineTables, build_profiled_tables
from papi_env.simulation.prefill import Prefill

_CACHE_LINE = 64  # bytes, on every processor that numba compiles for but a few (those have 128)

METRIC_NAMES = (
    "time_s",  # decoding and encoding, without prefill
    "prefill_s",
    "total_s",
    "dynamic_j",  # of that time
    "static_j",  # static power x that time
    "prefill_j",  # dynamic and static
    "total_j",
    "tokens",
    "iterations",
    *(f"busy_{unit}_s" for unit in UNIT_NAMES),
    *(f"{kind}_s" for kind in at.KERNEL_CLASSES),
    "communication_s",
    "communication_share",
    "switching_s",
    "other_s",  # the layers' overhead: iterations x layers x `System.layer_overhead_s`
    "switches",
    "invalid_actions",
    "return",
    *(f"{kind}_s" for kind in at.TIMED_CLASSES[at.NUM_CLASSES :]),
    "stages",  # of image encodes
    "images",  # encoded
)


class DecodeEngine:
    """State and dynamics of `num_envs` static batches, image encodes, or both.

    Args:
        scenario: what is simulated; one with images needs 7 choices.
        num_envs: environments, any number from 1.
        choices: 1 (a unit for all FC kernels) or 7 (a unit for each kernel class).
        default_switch_s: seconds of a mode switch where the scenario does not say.
        autoreset: `batch.DISABLED`, `NEXT_STEP` or `SAME_STEP`.
        max_steps: iterations and stages after which an episode is truncated; 0 for never.
        threads: share the environments of a step among so many threads. Changes no bit of what they do. numba runs
            no more at a time than the process had cores when numba was imported, or NUMBA_NUM_THREADS.

    Attributes:
        counters: int64 [num_envs, layout.NUM_COUNTERS]; clocks: float64 [num_envs, layout.NUM_CLOCKS].
        actions: int64 [num_envs, choices].
        observations: float32 [num_envs, features]; rewards: float64 [num_envs].
        terminated, truncated: bool [num_envs].
        final_counters, final_clocks, final_observations: with SAME_STEP, the last state of environments that
            ended in the last step.

    All arrays are written in place, and must not be replaced.

    Raises:
        ValueError: `num_envs` or `threads` is below 1.
    """

    def __init__(
        self,
        scenario: Scenario,
        num_envs: int = 1,
        *,
        choices: int = 1,
        default_switch_s: float = 0.0,
        autoreset: int = batch.DISABLED,
        max_steps: int = 0,
        threads: int = 1,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, expected at least 1")
        if threads < 1:
            raise ValueError(f"threads is {threads}, expected at least 1")
        if threads > 1:
            # GNU's OpenMP reads it when the first parallel loop runs. By default its threads spin for milliseconds
            # at the end of a step, which on a core that others use too takes longer than fifty steps.
            os.environ.setdefault("GOMP_SPINCOUNT", "5000")
        self.scenario, self.num_envs = scenario, num_envs
        self.autoreset, self.max_steps = autoreset, max_steps
        tables, self.profile = build_profiled_tables(scenario, default_switch_s)
        self.tables: EngineTables = tables
        self.prefill = None if scenario.model is None else Prefill(scenario.system, scenario.model)
        self._requests = int(tables.scalars[at.BATCH])
        width = -(-self._requests // at.SLOTS) * at.SLOTS
        self.counters = aligned_zeros((num_envs, at.NUM_COUNTERS), np.int64)
        self.clocks = aligned_zeros((num_envs, at.NUM_CLOCKS), np.float64)
        self.slots = aligned_zeros((num_envs, 2 * width), np.int32)
        self.keys = aligned_zeros((num_envs, width), np.uint64)
        self.actions = np.zeros((num_envs, choices), dtype=np.int64)
        self._gains = np.zeros((min(threads, num_envs), at.SLOTS), dtype=np.int64)
        self._lookups = join_lookups(tables)
        self._units = resolved_units(tables)
        self._images = None if scenario.images is None else ImageLookups.of(tables)
        observed = len(at.OBSERVATION_NAMES)
        features = observed if choices == 1 else observed + len(at.STAGE_OBSERVATION_NAMES)
        self.observations = np.zeros((num_envs, features), dtype=np.float32)
        self.observations[:, at.NUM_STATE_FEATURES : observed] = self.tables.descriptors
        if choices > 1:
            self.observations[:, at.STAGE_DESCRIPTOR_FEATURE :] = self.tables.stage_descriptors
        self.rewards = np.zeros(num_envs)
        self.terminated = np.zeros(num_envs, dtype=np.bool_)
        self.truncated = np.zeros(num_envs, dtype=np.bool_)
        self.final_counters = np.zeros_like(self.counters)
        self.final_clocks = np.zeros_like(self.clocks)
        self.final_observations = np.zeros_like(self.observations)
        self._bind()

    def _bind(self) -> None:
        """Gather what compiled code takes, once: a step of one environment must cost little beside its call."""
        tables = self.tables
        self._for_reset = (
            self.counters,
            self.clocks,
            self.slots,
            self.keys,
            tables.population,
            tables.schedule,
            tables.scalars,
            self._images,
            self.observations,
        )
        self._for_step = (
            self._gains,
            _columns(self.actions),
            self.counters,
            self.clocks,
            self.slots,
            self.keys,
            *self._lookups,
            self._units,
            tables.schedule,
            tables.population,
            tables.scalars,
            self._images,
            self.observations,
            self.rewards,
            self.terminated,
            self.truncated,
            self.final_counters,
            self.final_clocks,
            self.final_observations,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_for_reset", "_for_step")}

    @property
    def contexts(self) -> npt.NDArray[np.int32]:
        """Int32 [num_envs, batch], a view: tokens that each request holds, active requests first."""
        return self.slots[:, : self._requests]

    @property
    def remaining(self) -> npt.NDArray[np.int32]:
        """Int32 [num_envs, batch], a view: tokens that each request lacks, active requests first, then 0."""
        width = self.keys.shape[1]
        return self.slots[:, width : width + self._requests]

    def reset(self, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Start the episode that the SEED and EPISODE counters name, where `mask` is true."""
        mask = np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask
        batch.reset_batch(mask, *self._for_reset)

    def step(self) -> None:
        """Advance every environment by one step with the units in `self.actions`, already checked."""
        step = batch.step_batch if len(self._gains) == 1 else batch.step_threads
        step(self.autoreset, self.max_steps, *self._for_step)

    def joint_costs(self, joint_actions: npt.NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Privileged: true seconds and total joules of the next step, [num_envs, len(joint_actions)].

        Args:
            joint_actions: int64 [actions, choices]. Invalid ones take infinite seconds.
        """
        shape = (self.num_envs, len(joint_actions))
        seconds, joules = np.empty(shape), np.empty(shape)
        batch.joint_costs(
            _columns(joint_actions),
            self.counters,
            *self._lookups,
            self._units,
            self.tables.scalars,
            self._images,
            seconds,
            joules,
        )
        return seconds, joules

    def crossing_cost(self, rows: npt.NDArray[np.int64]) -> FloatArray:
        """Privileged: reward units lost by one crossing between PUs and FC-PIM with `rows` = RLP x TLP."""
        s = self.tables.scalars
        if s[at.SWITCH_S] == 0:
            return np.zeros(rows.shape)
        seconds = s[at.SWITCH_S] + self.tables.moves[rows, at.CROSSING_S]
        joules = self.tables.moves[rows, at.CROSSING_J] + seconds * s[at.STATIC_W]
        return np.asarray((seconds + s[at.ENERGY_WEIGHT] * joules) / s[at.REFERENCE])

    def reward_cost(self, seconds: FloatArray, joules: FloatArray) -> FloatArray:
        """What the reward charges for `seconds` and total `joules`: its negative."""
        s = self.tables.scalars
        return (seconds + s[at.ENERGY_WEIGHT] * joules) / s[at.REFERENCE]

    def clone(self) -> DecodeEngine:
        """An engine with a copy of the state, for looking ahead; the tables are shared."""
        twin = object.__new__(DecodeEngine)
        twin.__setstate__(
            {
                name: value.copy() if isinstance(value, np.ndarray) else value
                for name, value in self.__getstate__().items()
            }
        )
        return twin

    def metrics(
        self,
        counters: npt.NDArray[np.int64] | None = None,
        clocks: FloatArray | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Metrics of the current episodes, or of the states given: arrays [num_envs], by `METRIC_NAMES`."""
        c = self.counters if counters is None else counters
        t = self.clocks if clocks is None else clocks
        static_w = float(self.tables.scalars[at.STATIC_W])
        prefill_s, prefill_j = np.zeros(len(t)), np.zeros(len(t))
        if self.prefill is not None:
            prefill_s, prefill_j = self.prefill.cost(
                c[:, at.PREFILL_TOKENS], c[:, at.PREFILL_PAIRS], self._requests
            )
        time_s = t[:, at.TIME_S].copy()
        prefill_j = prefill_j + static_w * prefill_s
        static_j = static_w * time_s
        values = (
            time_s,
            prefill_s,
            time_s + prefill_s,
            t[:, at.DYNAMIC_J].copy(),
            static_j,
            prefill_j,
            t[:, at.DYNAMIC_J] + static_j + prefill_j,
            c[:, at.DECODED].copy(),
            c[:, at.ITERATION].copy(),
            *(t[:, at.BUSY_S + u].copy() for u in range(at.NUM_UNITS)),
            *(t[:, at.CLASS_S + k].copy() for k in range(at.NUM_CLASSES)),
            t[:, at.COMMUNICATION_S].copy(),
            np.divide(
                t[:, at.COMMUNICATION_S],
                time_s,
                out=np.zeros_like(time_s),
                where=time_s > 0,
            ),
            t[:, at.SWITCHING_S].copy(),
            c[:, at.ITERATION] * self.tables.scalars[at.OVERHEAD_S],
            c[:, at.SWITCHES].copy(),
            c[:, at.INVALID].copy(),
            t[:, at.RETURN].copy(),
            *(t[:, at.CLASS_S + k].copy() for k in range(at.NUM_CLASSES, at.NUM_TIMED)),
            c[:, at.STAGES_RUN].copy(),
            c[:, at.ENCODED].copy(),
        )
        return dict(zip(METRIC_NAMES, values, strict=True))

    @property
    def max_iterations(self) -> int:
        """An episode never takes more iterations: every request gains at least a token in each."""
        return int(self.tables.population[:, 1].max(initial=0))

    @property
    def state_bytes_per_env(self) -> int:
        """Bytes of simulation state that one environment takes."""
        arrays = (self.counters, self.clocks, self.slots, self.keys)
        return sum(array.nbytes for array in arrays) // self.num_envs


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros that start a cache line, so that an environment's row, of whole lines, shares none with another's."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + _CACHE_LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def _columns(actions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A view that tells compiled code by its dimensions how many choices there are: one, [num_envs], or more."""
    return actions.reshape(-1) if actions.shape[1] == 1 else actions
