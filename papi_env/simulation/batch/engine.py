"""The batch engine: any number of environments of one scenario, as arrays that compiled code advances."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.hardware.dram import COLUMNS_PER_ROW
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario
from papi_env.simulation.batch import loop as batch
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.lookups import (
    ExpertLookups,
    ImageLookups,
    Instances,
    join_lookups,
    resolved_units,
)
from papi_env.simulation.batch.measures import EXPERT_MEASURES, MEASURES, Episodes
from papi_env.simulation.batch.measures import METRIC_NAMES as METRIC_NAMES
from papi_env.simulation.batch.observe import write_templates
from papi_env.simulation.batch.tables import EngineTables, build_profiled_tables
from papi_env.simulation.batch.tokens import settle
from papi_env.simulation.engine import DISABLED, Counters, Engine, Handed, Metrics, aligned_zeros
from papi_env.simulation.measures import evaluate
from papi_env.simulation.prefill import Prefill


class _Sharing:
    """The engines of this process that share steps among threads, and whether it still can.

    A fork has none of the threads, and OpenMP ends a process that asks for them again: a fork of a process that had
    started them steps on one thread, which changes no bit.
    """

    def __init__(self) -> None:
        self.engines: weakref.WeakSet[DecodeEngine] = weakref.WeakSet()
        self.started = self.lost = False

    def after_fork(self) -> None:
        """In the child: no threads any more, if there were any."""
        self.lost = self.lost or self.started
        if self.lost:
            for engine in list(self.engines):
                engine.settle()
                engine._bind()


_SHARING = _Sharing()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_SHARING.after_fork)


class DecodeState(NamedTuple):
    """What changes in a step, row by row of an environment; columns in `batch.state`.

    Attributes:
        counters: int64 [num_envs, NUM_COUNTERS], or more columns where the scenario has images, experts or windows.
        clocks: float64 [num_envs, NUM_ITERATION_CLOCKS], or more columns where actions name units of stages, joules by
            cause are kept, or the model has experts.
        slots: int32 [num_envs, 2 x width], tokens that each request holds, then those that it lacks. Steps leave them
            behind; `DecodeEngine.state` brings them up to date.
        keys: uint64 [num_envs, width], of the requests' draws; where nothing is drawn, as they were at the reset.
    """

    counters: Counters
    clocks: FloatArray
    slots: npt.NDArray[np.int32]
    keys: npt.NDArray[np.uint64]


class Results(NamedTuple):
    """What a step gives, arrays [num_envs, ...]; the last three are of ended episodes, with SAME_STEP.

    What observations begin as goes with them, `templates`: [TLP x RLP x TEMPLATE_WIDTH], see `observe.write_templates`.
    """

    templates: npt.NDArray[np.float32]
    observations: npt.NDArray[np.float32]
    rewards: FloatArray
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    final_counters: Counters
    final_clocks: FloatArray
    final_observations: npt.NDArray[np.float32]


class DecodeEngine(Engine[DecodeState]):
    """State and dynamics of `num_envs` static batches, image encodes, or both; see `Engine` for what all have.

    Args:
        scenario: what is simulated; one with images needs a choice for each class.
        num_envs, autoreset, max_steps: see `Engine`; steps are iterations and stages.
        choices: 1 (a unit for all FC kernels) or a unit for each kernel class: `NUM_CHOICES`, or `NUM_EXPERT_CHOICES`
            where the model has experts.
        default_switch_s: seconds of a mode switch where the scenario does not say.
        causes: keep joules by cause, for the metrics named so; they are NaN otherwise, unless the model has experts.
            Changes nothing else, but steps take a few per cent longer.
        threads: see `Engine`. numba runs no more at a time than the process had cores when numba was imported, or
            NUMBA_NUM_THREADS.

    Attributes:
        final: with SAME_STEP, the last counters and clocks of episodes that ended in the last step; its slots and
            keys are those of the state.
        profile: what an offline sweep gives a scheduler.
    """

    shared = Engine.shared | {"profile", "prefill", "_lookups", "_units", "_images", "_experts", "_templates"}
    bound: ClassVar[frozenset[str]] = frozenset(
        (
            "_advance",
            "_for_reset",
            "_for_step",
            "_for_settling",
            "_foresees",
            "_own",
            "_received",
        )
    )
    tables: EngineTables

    def __init__(
        self,
        scenario: Scenario,
        num_envs: int = 1,
        *,
        choices: int = 1,
        default_switch_s: float = 0.0,
        autoreset: int = DISABLED,
        max_steps: int = 0,
        threads: int = 1,
        causes: bool = True,
    ) -> None:
        observed = len(at.OBSERVATION_NAMES)
        by_choices = {
            1: observed,
            at.NUM_CHOICES: len(at.KERNELS_FEATURES),
            at.NUM_EXPERT_CHOICES: len(at.EXPERT_KERNELS_FEATURES),
        }
        # Whether the last step wrote observations to its caller's arrays alone, and how many episodes it left ended.
        self._behind, self._ends = False, 0
        # Whether slots may lack tokens that their requests have.
        self._unsettled = False
        super().__init__(
            scenario,
            num_envs,
            options=(2,) if choices == 1 else at.OPTIONS[:choices],
            features=by_choices[choices],  # compiled code does not look
            autoreset=autoreset,
            max_steps=max_steps,
            threads=threads,
        )
        if self.threads > 1:
            # GNU's OpenMP reads it when the first parallel loop runs. By default its threads spin for milliseconds
            # at the end of a step, which on a core that others use too takes longer than fifty steps.
            os.environ.setdefault("GOMP_SPINCOUNT", "5000")
        self.tables, self.profile = build_profiled_tables(scenario, default_switch_s)
        self.prefill = None
        if scenario.model is not None:
            self.prefill = Prefill(scenario.system, scenario.model, scenario.experts)
        causes = (causes or self.tables.experts is not None) and self.tables.keeps_causes
        counters, clocks = at.NUM_COUNTERS, at.NUM_ITERATION_CLOCKS
        if scenario.images is not None or self.tables.experts is not None:
            counters = at.NUM_PART_COUNTERS
        if self.tables.scalars[at.WINDOW] > 0:
            counters = at.NUM_WINDOW_COUNTERS
        if choices > 1:
            clocks = at.NUM_STAGE_CLOCKS
        if causes:
            clocks = at.NUM_CLOCKS
        if self.tables.experts is not None:
            clocks = at.NUM_EXPERT_CLOCKS
        self._requests = int(self.tables.scalars[at.BATCH])
        width = -(-self._requests // at.SLOTS) * at.SLOTS
        self.state = DecodeState(
            aligned_zeros((num_envs, counters), np.int64),
            aligned_zeros((num_envs, clocks), np.float64),
            aligned_zeros((num_envs, 2 * width), np.int32),
            aligned_zeros((num_envs, width), np.uint64),
        )
        self.final = self.state._replace(
            counters=np.zeros_like(self.counters), clocks=np.zeros_like(self.clocks)
        )
        self._lookups = join_lookups(self.tables, causes)
        self._units = resolved_units(self.tables)
        self._images = None if scenario.images is None else ImageLookups.of(self.tables)
        self._experts = ExpertLookups.of(self.tables)
        self._templates = self._written_templates(choices)
        self._bind()

    def _written_templates(self, choices: int) -> npt.NDArray[np.float32]:
        """What observations begin as, by TLP and RLP; see `observe.write_templates`."""
        observed = len(at.OBSERVATION_NAMES)
        fixed = np.zeros(self.observations.shape[1], dtype=np.float32)
        fixed[at.NUM_STATE_FEATURES : observed] = self.tables.descriptors
        if choices > 1:
            stages = slice(at.STAGE_DESCRIPTOR_FEATURE, len(at.KERNELS_FEATURES))
            fixed[stages] = self.tables.stage_descriptors
        if choices == at.NUM_EXPERT_CHOICES:
            fixed[at.EXPERT_DESCRIPTOR_FEATURE :] = self.tables.expert_descriptors
        shape = at.MAX_SPECULATION + 1, at.TEMPLATE_ROWS, at.TEMPLATE_WIDTH
        templates = aligned_zeros(shape, np.float32)
        experts = None if self._experts is None else self._experts[:]
        # A step writes what changes.
        self.observations[:] = fixed
        write_templates(fixed, self.tables.scalars, experts, templates)
        return templates.reshape(-1)

    def _bind(self) -> None:
        """Gather what compiled code takes, once: a step of one environment must cost little beside its call."""
        foreseen = self._nothing_foreseen()
        state, instances = (*self.state, self._no_drafts(), foreseen), Instances.of(self.tables)[:]
        self._for_settling = (self.state.slots, foreseen)
        self._foresees = foreseen.shape[1] > 0
        images = None if self._images is None else self._images[:]
        experts = None if self._experts is None else self._experts[:]
        results = Results(
            self._templates,
            self.__dict__["observations"],
            self.rewards,
            self.terminated,
            self.truncated,
            self.final_counters,
            self.final_clocks,
            self.final_observations,
        )
        self._own = self._received = _columns(self.actions)
        self._advance = batch.step_batch
        if self.threads > 1 and not _SHARING.lost:
            _SHARING.started = True
            _SHARING.engines.add(self)
            self._advance = batch.step_threads
        self._for_reset = (state, instances, images, experts, self._templates, results.observations)
        self._for_step = (
            state,
            self._lookups[:],
            self._units,
            instances,
            images,
            experts,
            results[:],
        )

    def _nothing_foreseen(self) -> npt.NDArray[np.int32]:
        """Room for what is foreseen of the next tokens: int32 [num_envs, NUM_FORESEEN], see `tokens.foresee`.

        It is made of the slots alone, as drafts are. No columns where drafts are drawn, where layers have windows,
        whose sums every iteration makes anew, or where a group of keys is more than a DRAM row.
        """
        scalars = self.tables.scalars
        parts_of_rows = 1 <= scalars[at.GROUP_COLUMNS] <= COLUMNS_PER_ROW
        foreseen = parts_of_rows and scalars[at.WINDOW] == 0 and not self._draws
        columns = at.NUM_FORESEEN if foreseen else 0
        return aligned_zeros((self.num_envs, columns), np.int32)

    @property
    def _draws(self) -> bool:
        """Whether drafts are drawn: there are some, and not all are accepted."""
        return bool(self.tables.schedule[:, 1].max() > 1 and self.tables.scalars[at.ACCEPTANCE] < 2.0**53)

    def _no_drafts(self) -> npt.NDArray[np.uint32]:
        """Room for the drafts drawn ahead, which nobody has drawn yet: uint32 [num_envs, 2 x width].

        Of each slot the context that they follow, then whether each is accepted, bit by bit. They are made of keys
        and positions alone, so that a copy of an engine, or one from a file, draws its own. No columns where all are
        accepted or none is made.
        """
        columns = 2 * self.state.keys.shape[1] if self._draws else 0
        drafts = aligned_zeros((self.num_envs, columns), np.uint32)
        drafts[:] = at.NOTHING_DRAWN
        return drafts

    @property
    def state(self) -> DecodeState:
        """What changes in a step; slots are brought up to date when it is asked for."""
        self.settle()
        found: DecodeState = self.__dict__["state"]
        return found

    @state.setter
    def state(self, own: DecodeState) -> None:
        self.__dict__["state"] = own

    def settle(self) -> None:
        """See `Engine.settle`: give slots the tokens that steps only counted (`tokens.decode_foreseen`)."""
        if self._unsettled:
            self._unsettled = False
            settle(*self._for_settling)

    @property
    def counters(self) -> Counters:
        """See `Engine.counters`; they are always up to date."""
        found: Counters = self.__dict__["state"].counters
        return found

    @property
    def clocks(self) -> FloatArray:
        """See `Engine.clocks`; they are always up to date."""
        found: FloatArray = self.__dict__["state"].clocks
        return found

    def rows(self, envs: npt.NDArray[np.int64] | None) -> DecodeState:
        """See `Engine.rows`; slots, which no metric needs, are as the last steps left them."""
        found: DecodeState = self.__dict__["state"]
        return found if envs is None else DecodeState._make(array[envs] for array in found)

    @property
    def observations(self) -> npt.NDArray[np.float32]:
        """Float32 [num_envs, features]; where the last step wrote its caller's alone, written when asked for."""
        found: npt.NDArray[np.float32] = self.__dict__["observations"]
        if self._behind:
            self._behind = False
            batch.observe_all(*self._for_reset)
        return found

    @observations.setter
    def observations(self, own: npt.NDArray[np.float32]) -> None:
        self.__dict__["observations"] = own

    @property
    def contexts(self) -> npt.NDArray[np.int32]:
        """Int32 [num_envs, batch], a view: tokens that each request holds, active requests first."""
        return self.state.slots[:, : self._requests]

    @property
    def remaining(self) -> npt.NDArray[np.int32]:
        """Int32 [num_envs, batch], a view: tokens that each request lacks, active requests first, then 0."""
        width = self.state.keys.shape[1]
        return self.state.slots[:, width : width + self._requests]

    def reset(self, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Start the episode that the SEED and EPISODE counters name, where `mask` is true."""
        mask = np.ones(self.num_envs, dtype=np.bool_) if mask is None else mask
        batch.reset_batch(mask, *self._for_reset)

    def advance(self) -> None:
        """Advance every environment by one step with the units in `self.actions`, already checked."""
        self._behind = False
        self._step(None)

    def receive(self, chosen: npt.NDArray[np.integer[Any]]) -> int | None:
        """See `Engine.receive`. An array like `actions` is read where it lies, and `actions` stays as it is."""
        if chosen.dtype != self.actions.dtype or not chosen.flags.carray:
            return super().receive(chosen)
        if chosen.ndim != self._own.ndim:
            chosen = _columns(chosen.reshape(self.actions.shape))
        # All choices have as many options; of a large batch numpy's own maximum takes longer.
        if not batch.within(chosen.reshape(-1), self._limits_of_actions):
            return super().receive(chosen)
        self._received = chosen
        return None

    def outside(self) -> int | None:
        """See `Engine.outside`; whoever asks steps with `actions`."""
        self._received = self._own
        return None if batch.within(self._own.reshape(-1), self._limits_of_actions) else super().outside()

    def any_ended(self) -> bool:
        """See `Engine.any_ended`."""
        return self._ends > 0

    def hand(self, counters: Sequence[int], clocks: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The columns of counters and clocks that `advance_into` gives, which are always the same; see `state`."""
        stages, experts = self.actions.shape[1] > 1, self._experts is not None
        return (
            at.HANDED_COUNTERS + (at.HANDED_STAGE_COUNTERS if stages else ()),
            at.HANDED_CLOCKS
            + (at.HANDED_STAGE_CLOCKS if stages else ())
            + (at.HANDED_EXPERT_CLOCKS if experts else ()),
        )

    def advance_into(self, given: Handed) -> None:
        """`advance`, with what it gives written to arrays of the caller's instead."""
        self._behind = True
        self._step(given[:])

    def _step(self, handed: tuple[npt.NDArray[Any], ...] | None) -> None:
        actions, self._received = self._received, self._own
        self._unsettled = self._foresees
        self._ends = self._advance(
            self.autoreset, self.max_steps, self.threads, actions, *self._for_step, handed
        )

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
            self._lookups[:],
            self._units,
            self.tables.scalars,
            None if self._images is None else self._images[:],
            None if self._experts is None else self._experts[:],
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

    def ended(self, envs: npt.NDArray[np.int64]) -> DecodeState:
        """The last states of the episodes that ended in environments `envs`; of the slots, what they hold now."""
        return DecodeState._make(array[envs] for array in self.final)

    def measured(self, state: DecodeState) -> Metrics:
        """Metrics of the episodes in `state`, by `measures.METRIC_NAMES`."""
        episodes = Episodes(state.counters, state.clocks, self.tables.scalars, self.prefill)
        found = evaluate(MEASURES, episodes)
        return found if self.tables.experts is None else found | evaluate(EXPERT_MEASURES, episodes)

    @property
    def max_iterations(self) -> int:
        """An episode never takes more iterations: every request gains at least a token in each."""
        return int(self.tables.population[:, 1].max(initial=0))


def _columns(actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view that tells compiled code by its dimensions how many choices there are: one, [num_envs], or more."""
    return actions.reshape(-1) if actions.shape[1] == 1 else actions
