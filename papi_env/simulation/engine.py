"""The batch engine: any number of environments of one scenario, as arrays that compiled code advances."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from papi_env.hardware.units import UNIT_NAMES
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario
from papi_env.simulation import batch
from papi_env.simulation import layout as at
from papi_env.simulation.prefill import Prefill
from papi_env.simulation.tables import EngineTables, build_profiled_tables

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

    Attributes:
        counters: int64 [num_envs, layout.NUM_COUNTERS]; clocks: float64 [num_envs, layout.NUM_CLOCKS].
        contexts, remaining: int32 [num_envs, batch], tokens of the active requests first.
        observations: float32 [num_envs, features]; rewards: float64 [num_envs].
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
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}, expected at least 1")
        self.scenario, self.num_envs = scenario, num_envs
        self.autoreset, self.max_steps = autoreset, max_steps
        tables, self.profile = build_profiled_tables(scenario, default_switch_s)
        self.tables: EngineTables = tables
        self.prefill = None if scenario.model is None else Prefill(scenario.system, scenario.model)
        requests = int(tables.scalars[at.BATCH])
        self.counters = np.zeros((num_envs, at.NUM_COUNTERS), dtype=np.int64)
        self.clocks = np.zeros((num_envs, at.NUM_CLOCKS))
        self.contexts = np.zeros((num_envs, requests), dtype=np.int32)
        self.remaining = np.zeros((num_envs, requests), dtype=np.int32)
        self.keys = np.zeros((num_envs, requests), dtype=np.uint64)
        self.actions = np.zeros((num_envs, choices), dtype=np.int64)
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

    def reset(self, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Start the episode that the SEED and EPISODE counters name, where `mask` is true."""
        mask = np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask
        batch.reset_batch(
            mask,
            self.counters,
            self.clocks,
            self.contexts,
            self.remaining,
            self.keys,
            self.tables,
            self.observations,
        )

    def step(self) -> None:
        """Advance every environment by one step with the units in `self.actions`, already checked."""
        batch.step_batch(
            self.actions,
            self.autoreset,
            self.max_steps,
            self.counters,
            self.clocks,
            self.contexts,
            self.remaining,
            self.keys,
            self.tables,
            self.observations,
            self.rewards,
            self.terminated,
            self.truncated,
            self.final_counters,
            self.final_clocks,
            self.final_observations,
        )

    def joint_costs(self, joint_actions: npt.NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Privileged: true seconds and total joules of the next step, [num_envs, len(joint_actions)].

        Args:
            joint_actions: int64 [actions, choices]. Invalid ones take infinite seconds.
        """
        shape = (self.num_envs, len(joint_actions))
        seconds, joules = np.empty(shape), np.empty(shape)
        batch.joint_costs(joint_actions, self.counters, self.tables, seconds, joules)
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
        twin.__dict__.update(
            {
                name: value.copy() if isinstance(value, np.ndarray) else value
                for name, value in self.__dict__.items()
            }
        )
        return twin

    def metrics(
        self, counters: npt.NDArray[np.int64] | None = None, clocks: FloatArray | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Metrics of the current episodes, or of the states given: arrays [num_envs], by `METRIC_NAMES`."""
        c = self.counters if counters is None else counters
        t = self.clocks if clocks is None else clocks
        static_w = float(self.tables.scalars[at.STATIC_W])
        prefill_s, prefill_j = np.zeros(len(t)), np.zeros(len(t))
        if self.prefill is not None:
            requests = self.contexts.shape[1]
            prefill_s, prefill_j = self.prefill.cost(
                c[:, at.PREFILL_TOKENS], c[:, at.PREFILL_PAIRS], requests
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
            np.divide(t[:, at.COMMUNICATION_S], time_s, out=np.zeros_like(time_s), where=time_s > 0),
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
        arrays = (self.counters, self.clocks, self.contexts, self.remaining, self.keys)
        return sum(array.nbytes for array in arrays) // self.num_envs
