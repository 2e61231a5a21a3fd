"""The serving engine: any number of environments of one serving scenario, as arrays that compiled code advances."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario
from papi_env.simulation.batch import loop as batch
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.loop import reset_batch, step_range
from papi_env.simulation.serving.measures import serving_metrics
from papi_env.simulation.serving.requests import ServingState
from papi_env.simulation.serving.tables import ServingTables, build_serving_tables, freeze


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="papi_env")


class ServingEngine:
    """State and dynamics of `num_envs` machines under continuous batching.

    Args:
        scenario: what is simulated; its `serving` part is required.
        num_envs: environments, any number from 1.
        autoreset: `batch.DISABLED`, `NEXT_STEP` or `SAME_STEP`.
        max_steps: iterations after which an episode is truncated; 0 for never.
        tables: of the scenario, if they are built already.
        threads: share the environments of a step among so many threads. Changes no bit of what they do.

    Attributes:
        state: see `requests.ServingState`; its counters and clocks are also attributes.
        actions: int64 [num_envs, 4]; observations: float32 [num_envs, features]; rewards: float64 [num_envs].
        terminated, truncated: bool [num_envs].
        final: with SAME_STEP, the last counters, clocks and records of episodes that ended in the last step.
    """

    def __init__(
        self,
        scenario: Scenario,
        num_envs: int = 1,
        *,
        autoreset: int = batch.DISABLED,
        max_steps: int = 0,
        tables: ServingTables | None = None,
        threads: int = 1,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("threads", threads)):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        self.scenario, self.num_envs = scenario, num_envs
        self.autoreset, self.max_steps = autoreset, max_steps
        self.tables = build_serving_tables(scenario) if tables is None else tables
        assert scenario.serving is not None
        slots, requests = scenario.serving.max_running, max(self.tables.arrivals.capacity, 1)
        self.state = empty_state(num_envs, slots, requests)
        # Final states keep what metrics need; their slots are not copied.
        self.final = self.state._replace(
            counters=np.zeros_like(self.state.counters),
            clocks=np.zeros_like(self.state.clocks),
            moments=np.zeros_like(self.state.moments) if autoreset == batch.SAME_STEP else self.state.moments,
            facts=np.zeros_like(self.state.facts) if autoreset == batch.SAME_STEP else self.state.facts,
        )
        self.actions = np.zeros((num_envs, len(at.NVEC)), dtype=np.int64)
        self.observations = np.zeros((num_envs, len(at.OBSERVATION_NAMES)), dtype=np.float32)
        self.observations[:, at.NUM_STATE_FEATURES :] = self.tables.descriptors
        self.final_observations = np.zeros_like(self.observations)
        # Scratch of a step.
        threads = min(threads, num_envs)
        self._busy = np.zeros((threads, at.NUM_RESOURCES))
        self._gains = np.zeros((threads, slots), dtype=np.int64)
        self._limits = np.zeros((threads, slots), dtype=np.uint64)
        self.rewards = np.zeros(num_envs)
        self.terminated = np.zeros(num_envs, dtype=np.bool_)
        self.truncated = np.zeros(num_envs, dtype=np.bool_)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        freeze(self.tables)

    @property
    def counters(self) -> npt.NDArray[np.int64]:
        """int64 [num_envs, NUM_COUNTERS]; see `serving.state`."""
        return self.state.counters

    @property
    def clocks(self) -> FloatArray:
        """float64 [num_envs, NUM_CLOCKS]; see `serving.state`."""
        return self.state.clocks

    @property
    def final_counters(self) -> npt.NDArray[np.int64]:
        """Counters of episodes that ended in the last step, with SAME_STEP."""
        return self.final.counters

    @property
    def final_clocks(self) -> FloatArray:
        """Clocks of episodes that ended in the last step, with SAME_STEP."""
        return self.final.clocks

    def reset(self, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Start the episode that the SEED and EPISODE counters name, where `mask` is true."""
        mask = np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask
        reset_batch(mask, self.state, self.tables, self.observations)

    def step(self) -> None:
        """Advance every environment by one iteration with `self.actions`, already checked."""
        arguments: tuple[Any, ...] = (
            self.actions,
            self.autoreset,
            self.max_steps,
            self.state[:],
            (self.tables[:-1], self.tables.arrivals[:]),
            (self.observations, self.rewards, self.terminated, self.truncated, self.final_observations),
            self.final[:],
        )
        threads = len(self._busy)
        scratch = list(zip(self._busy, self._gains, self._limits, strict=True))
        bounds = [self.num_envs * k // threads for k in range(threads + 1)]
        if threads == 1:
            step_range(*bounds, *arguments, scratch[0])
            return
        # numba's own threads take no nested tuples such as the tables are.
        shares = [
            _workers(threads).submit(step_range, start, stop, *(*arguments, own))
            for (start, stop), own in zip(pairwise(bounds), scratch, strict=True)
        ]
        for share in shares:
            share.result()

    def fork(self, env: int, copies: int, into: ServingEngine | None = None) -> ServingEngine:
        """Privileged: an engine with `copies` copies of environment `env`, for looking ahead; no autoreset.

        `into` is an earlier fork of this engine with at least as many copies, which is overwritten: fresh memory costs
        more than the copying. Its tables are not taken over.
        """
        twin = object.__new__(ServingEngine)
        twin.__dict__.update(self.__dict__)
        twin.num_envs, twin.autoreset, twin.max_steps = copies, batch.DISABLED, 0
        if into is None:
            state = ServingState._make(np.empty((copies, *a.shape[1:]), dtype=a.dtype) for a in self.state)
        else:
            assert into.num_envs >= copies
            state = ServingState._make(array[:copies] for array in into.state)
        for name in ServingState._fields:
            getattr(state, name)[:] = getattr(self.state, name)[env]
        twin.state = twin.final = state
        twin.actions = np.zeros((copies, len(at.NVEC)), dtype=np.int64)
        twin.observations = np.repeat(self.observations[env : env + 1], copies, axis=0)
        twin.final_observations = twin.observations
        twin.rewards = np.zeros(copies)
        twin.terminated = np.zeros(copies, dtype=np.bool_)
        twin.truncated = np.zeros(copies, dtype=np.bool_)
        return twin

    def clone(self) -> ServingEngine:
        """An engine with a copy of the whole state; the tables are shared."""
        twin = object.__new__(ServingEngine)
        twin.__dict__.update(
            {
                name: value.copy() if isinstance(value, np.ndarray) else value
                for name, value in self.__dict__.items()
            }
        )
        twin.state = ServingState._make(array.copy() for array in self.state)
        twin.final = ServingState._make(array.copy() for array in self.final)
        return twin

    @property
    def state_bytes_per_env(self) -> int:
        """Bytes of simulation state of one environment: counters, clocks, slots and the requests' records."""
        return sum(array.nbytes for array in self.state) // self.num_envs

    def metrics(self) -> dict[str, npt.NDArray[Any]]:
        """Metrics of the current episodes, arrays [num_envs] by `measures.METRIC_NAMES`."""
        return serving_metrics(self.state, self.tables)

    def final_metrics(self) -> dict[str, npt.NDArray[Any]]:
        """The same of episodes that ended in the last step, with SAME_STEP; for other environments it means nothing."""
        return serving_metrics(self.final, self.tables)

    def records(self, env: int, state: ServingState | None = None) -> dict[str, npt.NDArray[Any]]:
        """What became of every request of environment `env` that has arrived, arrays [requests].

        Moments are seconds from the episode's start, NaN where they have not come: `arrival_s`, `admitted_s`,
        `first_token_s`, `finish_s`; then `input`, `output` and `generated` tokens (`generated` of a request
        that is decoding counts up to its last preemption), `preemptions`, `class` and `status` (see
        `serving.state.STATUS_NAMES`).
        """
        state = self.state if state is None else state
        count = int(state.counters[env, at.ARRIVED])
        moments, facts = state.moments[env, :count], state.facts[env, :count]
        columns: dict[str, npt.NDArray[Any]] = {
            name: moments[:, k].copy() for k, name in enumerate(at.MOMENT_NAMES)
        }
        return columns | {name: facts[:, k].copy() for k, name in enumerate(at.FACT_NAMES)}


def empty_state(num_envs: int, slots: int, requests: int) -> ServingState:
    """Zeroed state; shapes as in `ServingState`."""
    return ServingState(
        counters=np.zeros((num_envs, at.NUM_COUNTERS), dtype=np.int64),
        clocks=np.zeros((num_envs, at.NUM_CLOCKS)),
        moments=np.full((num_envs, requests, at.NUM_MOMENTS), np.nan),
        facts=np.zeros((num_envs, requests, at.NUM_FACTS), dtype=np.int32),
        requests=np.zeros((num_envs, slots), dtype=np.int32),
        contexts=np.zeros((num_envs, slots), dtype=np.int32),
        left=np.zeros((num_envs, slots), dtype=np.int32),
        classes=np.zeros((num_envs, slots), dtype=np.int32),
        keys=np.zeros((num_envs, slots), dtype=np.uint64),
        deadlines=np.zeros((num_envs, slots)),
        prefill=np.zeros((num_envs, slots), dtype=np.int32),
        preempted=np.zeros((num_envs, slots), dtype=np.int32),
    )
