"""The serving engine: any number of environments of one serving scenario, as arrays that compiled code advances."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario
from papi_env.simulation.engine import DISABLED, SAME_STEP, Engine, Handed, Metrics
from papi_env.simulation.frames import Frame
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.counting import EMPTY, SLOTS_AT_ONCE
from papi_env.simulation.serving.forks import copy_live
from papi_env.simulation.serving.loop import OUTCOME, Outcome, reset_batch, step_range
from papi_env.simulation.serving.measures import reuses, serving_metrics
from papi_env.simulation.serving.requests import STATE, ServingState
from papi_env.simulation.serving.tables import TABLES, ServingTables, build_serving_tables, freeze
from papi_env.workload.serving import Serving


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="papi_env")


if hasattr(os, "register_at_fork"):
    # A fork has the pool but none of its threads, and would wait for them for ever.
    os.register_at_fork(after_in_child=_workers.cache_clear)


class ServingEngine(Engine[ServingState]):
    """State and dynamics of `num_envs` machines under continuous batching; see `Engine` for what all engines have.

    Args:
        scenario: what is simulated; its `serving` part is required.
        num_envs, autoreset, max_steps, threads: see `Engine`.
        tables: of the scenario, if they are built already.
        causes: keep joules by cause, for the metrics named so; they are NaN otherwise. Changes nothing else, but steps
            take a few per cent longer.
        records: with classes of requests, keep the record of every request of an episode, for `records`; else there are
            records of those who wait or run, however long the episode. Without classes all are kept anyhow.

    Attributes:
        state: see `serving.requests.ServingState`.
        copied_bytes: of a fork, what it took from the state that it is of; else 0.
        final: with SAME_STEP, the last counters, clocks and records of episodes that ended in the last step; slots are
            those of the state.
    """

    bound: ClassVar[frozenset[str]] = frozenset(("_outcome", "_scratch", "_frames", "_forked"))
    tables: ServingTables
    copied_bytes: int = 0

    def __init__(
        self,
        scenario: Scenario,
        num_envs: int = 1,
        *,
        autoreset: int = DISABLED,
        max_steps: int = 0,
        tables: ServingTables | None = None,
        threads: int = 1,
        causes: bool = True,
        records: bool = False,
    ) -> None:
        serving = scenario.serving
        service = None if serving is None else serving.service
        super().__init__(
            scenario,
            num_envs,
            options=at.NVEC if service is None else at.NVEC_V1,
            features=len(at.OBSERVATION_NAMES if service is None else at.OBSERVATION_NAMES_V1),
            autoreset=autoreset,
            max_steps=max_steps,
            threads=threads,
        )
        self.tables = build_serving_tables(scenario) if tables is None else tables
        assert serving is not None
        slots, requests = serving.max_running, max(self.tables.arrivals.capacity, 1)
        if service is not None:
            live = slots + service.max_waiting + 1
            turns = int(self.tables.kinds[:, at.MOST_TURNS].max())
            requests = max(requests * turns, live) + 1 if records else live
        self.state = empty_state(num_envs, slots, requests, at.NUM_CLOCKS if causes else at.CAUSE_J, serving)
        # Final states keep what metrics need; their slots are not copied.
        self.final = self.state._replace(
            counters=np.zeros_like(self.state.counters),
            clocks=np.zeros_like(self.state.clocks),
            moments=np.zeros_like(self.state.moments) if autoreset == SAME_STEP else self.state.moments,
            facts=np.zeros_like(self.state.facts) if autoreset == SAME_STEP else self.state.facts,
            more=np.zeros_like(self.state.more) if autoreset == SAME_STEP else self.state.more,
        )
        first = at.NUM_STATE_FEATURES if service is None else at.NUM_STATE_FEATURES_V1
        self.observations[:, first : first + len(self.tables.descriptors)] = self.tables.descriptors
        # Scratch of a step.
        self._busy = np.zeros((self.threads, at.NUM_RESOURCES))
        in_whole = self.state.contexts.shape[1]
        self._gains = np.zeros((self.threads, in_whole), dtype=np.int64)
        self._limits, self._seeds = (np.zeros((self.threads, in_whole), dtype=np.uint64) for _ in range(2))
        self.hand((), ())
        self._bind()

    def _bind(self) -> None:
        freeze(self.tables)
        self._lay_out()

    def _lay_out(self) -> None:
        """Lay out what compiled code reads and writes, once: of one environment a step takes little beside its call."""
        outcome = Outcome(
            self.observations, self.rewards, self.terminated, self.truncated, self.final_observations
        )
        self._outcome = Frame(OUTCOME, outcome)
        gained = np.zeros_like(self._gains, dtype=np.int32)
        self._scratch = list(zip(self._busy, self._gains, self._limits, self._seeds, gained, strict=True))
        self._frames: dict[str, Frame] = {}
        self._forked: dict[int, dict[str, Any]] = {}

    def reset(self, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Start the episode that the SEED and EPISODE counters name, where `mask` is true."""
        mask = np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask
        reset_batch(mask, self.frame("state").address, self.frame("tables").address, self._outcome.address)

    def advance(self) -> None:
        """Advance every environment by one iteration with `self.actions`, already checked."""
        self._advance(1, self._nobody)

    def hand(self, counters: Sequence[int], clocks: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The columns of counters and clocks that `advance_into` gives: those named."""
        self._columns = np.array(counters, dtype=np.int64), np.array(clocks, dtype=np.int64)
        shapes = (self.observations.shape[1], len(counters), len(clocks))
        nothing = (
            np.empty((0, n), dtype=t) for n, t in zip(shapes, (np.float32, np.int64, np.float64), strict=True)
        )
        self._nobody = (*nothing, *self._columns)
        return tuple(counters), tuple(clocks)

    def advance_into(self, given: Handed) -> None:
        """`advance`, with what it gives written to arrays of the caller's own too, in the same pass."""
        self._advance(1, (given.observations, given.counters, given.clocks, *self._columns))
        self._hand_ends(given)

    def run(self, iterations: int = 1 << 40) -> None:
        """Advance every environment with the same `self.actions`, by so many iterations or to its episode's end.

        As many calls of `step`, at a fraction of their time. Rewards are the sums.
        """
        self._advance(iterations, self._nobody)

    def _advance(self, iterations: int, given: tuple[npt.NDArray[Any], ...]) -> None:
        actions, max_steps, state, tables, outcome = self.parts()
        final = self.frame("final").address
        autoreset = self.autoreset
        self.share(
            lambda start, stop, scratch: step_range(
                start,
                stop,
                iterations,
                actions,
                autoreset,
                max_steps,
                state,
                tables,
                outcome,
                final,
                scratch,
                given,
            )
        )

    def frame(self, name: str) -> Frame:
        """The frame of `state`, `final` or `tables`, made anew where that is another tuple than before."""
        found = getattr(self, name)
        frame = self._frames.get(name)
        if frame is None or frame.found is not found:
            frame = self._frames[name] = Frame(TABLES if name == "tables" else STATE, found)
        return frame

    def parts(self) -> tuple[Any, ...]:
        """What compiled loops advance: actions, most steps, addresses of state, tables, and what a step writes."""
        return (
            self.actions,
            self.max_steps,
            self.frame("state").address,
            self.frame("tables").address,
            self._outcome.address,
        )

    def share(self, advance: Callable[[int, int, tuple[Any, ...]], None]) -> None:
        """Call a compiled loop as `advance(start, stop, scratch)` on shares of the environments, one a thread."""
        threads, scratch = len(self._scratch), self._scratch
        bounds = [self.num_envs * k // threads for k in range(threads + 1)]
        if threads == 1:
            advance(0, self.num_envs, scratch[0])
            return
        # numba's own threads take no nested tuples such as the tables are.
        shares = [
            _workers(threads).submit(advance, start, stop, own)
            for (start, stop), own in zip(pairwise(bounds), scratch, strict=True)
        ]
        for share in shares:
            share.result()

    def allow(self, choice: int, option: int) -> None:
        """Take actions with an option that environments do not offer, where there are classes of requests.

        There are order BY_SCORE, for policies that write `queries`; and, privileged, what no scheduler knows: eviction
        by EVICT_TRUE_RETURN, when conversations will go on, and orders BY_TRUE_WORK and BY_TRUE_SPACE, how long
        answers will be.
        """
        if self.tables.scalars[at.SERVICE]:
            limits = np.array(np.broadcast_to(self._limits_of_actions, len(at.NVEC_V1)), dtype=np.uint64)
            limits[choice] = max(limits[choice], option + 1)
            self._limits_of_actions = limits

    def queries(self, count: int) -> npt.NDArray[np.float64]:
        """The state's queries, to be written, if it has `count` environments; else as many that nobody reads."""
        kept = self.state.queries
        return kept if len(kept) == count else np.zeros((count, *kept.shape[1:]))

    def fork(
        self, env: int | npt.NDArray[np.int64], copies: int, into: ServingEngine | None = None
    ) -> ServingEngine:
        """Privileged: an engine with `copies` copies of environment `env`, for looking ahead; no autoreset.

        Args:
            env: of all copies, or int64 [copies] of each.
            into: an earlier fork of this engine, or of one with rows as long, with at least as many copies. It is
                overwritten, with all that was read from it: fresh memory costs more than the copying, and there only
                what is in use is copied. Its tables are not taken over.
        """
        envs = np.broadcast_to(np.asarray(env, dtype=np.int64), copies)
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.num_envs, twin.autoreset, twin.max_steps = copies, DISABLED, 0
        if into is None:
            state = ServingState._make(array[envs] for array in self.state)
            twin.__dict__.update(_memory_of(state, self.actions.shape[1], self.observations.shape[1]))
            twin._lay_out()
            twin.observations[:] = self.observations[envs]
            twin.copied_bytes = sum(array.nbytes for array in state)
        else:
            twin.__dict__.update(into._part(copies))
            twin._frames = dict(twin._frames)
            # numpy refuses an environment that there is not; compiled code, which does not look, comes after it.
            twin.observations[:] = self.observations[envs]
            twin.copied_bytes = copy_live(
                np.ascontiguousarray(envs), self.frame("state").address, twin.frame("state").address
            )
            for array in (twin.actions, twin.rewards, twin.terminated, twin.truncated):
                array[:] = 0
        twin._frames["tables"] = self.frame("tables")
        return twin

    def _part(self, copies: int) -> dict[str, Any]:
        """Attributes of an engine in the memory of the first `copies` environments of this one, a fork."""
        part = self._forked.get(copies)
        if part is None:
            assert self.num_envs >= copies
            twin = object.__new__(type(self))
            twin.__dict__.update(self.__dict__)
            memory = {name: getattr(self, name)[:copies] for name in _OUTPUTS}
            state = ServingState._make(array[:copies] for array in self.state)
            twin.__dict__.update(memory, state=state, final=state, final_observations=memory["observations"])
            twin._lay_out()
            twin._frames["final"] = twin.frame("state")
            names = (*_OUTPUTS, "state", "final", "final_observations", "_outcome", "_scratch", "_frames")
            part = self._forked[copies] = {name: getattr(twin, name) for name in names}
            part["_forked"] = self._forked
        return part

    def measured(self, state: ServingState) -> Metrics:
        """Metrics of the episodes in `state`, by `measures.METRIC_NAMES`."""
        return serving_metrics(state, self.tables)

    def ended(self, envs: npt.NDArray[np.int64]) -> ServingState:
        """The last records of the episodes that ended in environments `envs`."""
        return ServingState._make(array[envs] for array in self.final)

    @property
    def reuses_records(self) -> bool:
        """Whether a request's record is another's once it is over, so that `records` has nothing to say."""
        return bool(self.tables.scalars[at.SERVICE] > 0 and reuses(self.state))

    def records(self, env: int, state: ServingState | None = None) -> dict[str, npt.NDArray[Any]]:
        """What became of every request of environment `env` that has arrived, arrays [requests].

        Moments are seconds from the episode's start, NaN where they have not come: `arrival_s`, `admitted_s`,
        `first_token_s`, `finish_s`; then `input`, `output` and `generated` tokens (`generated` of a request
        that is decoding counts up to its last preemption), `preemptions`, `class` and `status` (see
        `serving.state.STATUS_NAMES`). With classes `class` is the class and `kind` the class with its acceptance; then
        `session`, `turn`, `kept` tokens that the prompt found, and `rank` of its admission.

        Raises:
            ConfigurationError: the engine has classes of requests and was made without `records=True`.
        """
        if self.reuses_records:
            raise ConfigurationError(
                "records of requests that are over are not kept with classes of requests: expected an engine that was "
                "made with records=True"
            )
        state = self.state if state is None else state
        count = int(state.counters[env, at.ARRIVED])
        moments, facts = state.moments[env, :count], state.facts[env, :count]
        columns: dict[str, npt.NDArray[Any]] = {
            name: moments[:, k].copy() for k, name in enumerate(at.MOMENT_NAMES)
        }
        columns |= {name: facts[:, k].copy() for k, name in enumerate(at.FACT_NAMES)}
        if self.tables.scalars[at.SERVICE] == 0:
            return columns
        more = state.more[env, :count]
        columns["kind"] = columns["class"]
        columns["class"] = self.tables.kinds[columns["kind"], at.OF_CLASS].astype(np.int32)
        columns["session"] = more[:, at.SESSION].copy()
        # Turns of a session come one after the other.
        order = np.argsort(columns["session"], kind="stable")
        own = columns["session"][order]
        turns = np.arange(count) - np.searchsorted(own, own)
        columns["turn"] = np.empty(count, dtype=np.int32)
        columns["turn"][order] = turns
        return columns | {"kept": more[:, at.KEPT].copy(), "rank": more[:, at.RANK].copy()}


# What a step of an engine reads and writes beside its state.
_OUTPUTS = ("actions", "observations", "rewards", "terminated", "truncated")


def _memory_of(state: ServingState, choices: int, features: int) -> dict[str, Any]:
    """Attributes of a fork with this state: what its steps read and write, all zero."""
    copies = len(state.counters)
    observations = np.zeros((copies, features), dtype=np.float32)
    return {
        "state": state,
        "final": state,
        "actions": np.zeros((copies, choices), dtype=np.int64),
        "observations": observations,
        "final_observations": observations,
        "rewards": np.zeros(copies),
        "terminated": np.zeros(copies, dtype=np.bool_),
        "truncated": np.zeros(copies, dtype=np.bool_),
    }


def empty_state(num_envs: int, slots: int, requests: int, clocks: int, serving: Serving) -> ServingState:
    """Zeroed state with so many clocks; shapes as in `ServingState`."""
    service = serving.service
    in_whole = -(-slots // SLOTS_AT_ONCE) * SLOTS_AT_ONCE
    found = slots if serving.token_budget is not None or service is not None else 1
    free = 2 * (slots if serving.prefix_caching else 1) + 2
    queued = service.max_waiting if service else 1
    # When a request was over is asked where its record is kept.
    moments = at.NUM_MOMENTS - int(service is not None and requests == slots + queued + 1)
    return ServingState(
        counters=np.zeros((num_envs, at.NUM_COUNTERS), dtype=np.int64),
        clocks=np.zeros((num_envs, clocks)),
        moments=np.full((num_envs, requests, moments), np.nan),
        facts=np.zeros((num_envs, requests, at.NUM_FACTS), dtype=np.int32),
        requests=np.zeros((num_envs, slots), dtype=np.int32),
        contexts=np.full((num_envs, in_whole), EMPTY, dtype=np.int32),
        left=np.zeros((num_envs, in_whole), dtype=np.int32),
        classes=np.zeros((num_envs, in_whole), dtype=np.int32),
        keys=np.zeros((num_envs, in_whole), dtype=np.uint64),
        deadlines=np.zeros((num_envs, in_whole)),
        prefill=np.zeros((num_envs, slots), dtype=np.int32),
        preempted=np.zeros((num_envs, slots), dtype=np.int32),
        found=np.zeros((num_envs, found), dtype=np.int32),
        free=np.zeros((num_envs, free, 2), dtype=np.int32),
        more=np.zeros((num_envs, requests if service else 1, at.NUM_MORE), dtype=np.int32),
        queue=np.zeros((num_envs, queued), dtype=np.int32),
        queue_facts=np.zeros((num_envs, queued, at.NUM_QUEUED), dtype=np.int32),
        queue_arrival_s=np.zeros((num_envs, queued)),
        queue_until_s=np.zeros((num_envs, queued)),
        places=np.zeros((num_envs, at.NUM_PLACE, service.max_open if service else 1), dtype=np.int32),
        place_s=np.zeros((num_envs, at.NUM_PLACE_S, service.max_open if service else 1)),
        prefixes=np.zeros((num_envs, at.MAX_CLASSES if service else 1, at.NUM_PREFIX), dtype=np.int32),
        queries=np.zeros((num_envs, at.MAX_CLASSES if service else 1, at.NUM_TRAITS)),
    )
