"""Decoding of static batches recorded once and priced on any system by table look-ups.

How many requests are left and how long their contexts are follows from the requests, the speculation
length and the acceptance draws alone, never from hardware or actions. So the engine plays a batch once,
and every system is then priced on the recorded iterations with the engine's own tables, in milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from papi_env.hardware.attention import Share, Work, attention_time
from papi_env.hardware.units import FC_PIM, PU
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.engine import DecodeEngine
from papi_env.simulation.batch.tables import EngineTables
from papi_env.workload.transformer import FC_CLASSES

Counts = npt.NDArray[np.int64]
# Where FC kernels run: the system's default unit, PAPI's rule with the α of the tables, or the faster unit.
FcPolicy = Literal["static", "threshold", "oracle"]

# Seconds of an iteration by part, in the order of `iteration_seconds`' columns.
PARTS = (*map(str, FC_CLASSES), "communication", "other", "attention")
FC_PARTS = slice(0, len(FC_CLASSES))
COMMUNICATION, ATTENTION = PARTS.index("communication"), PARTS.index("attention")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The iterations of one static batch per seed, seed after seed.

    Attributes:
        batch: requests at the start.
        rlp, tlp: requests and verified tokens per request, int64 [iterations].
        context_sum: tokens attended to; group_sum, group_max: their 16-token groups; key_row_sum, key_row_max:
            the DRAM rows of their keys, int64 [iterations].
        starts: first iteration of every seed, int64 [seeds].
        tokens, prefill_tokens, prefill_pairs: of the whole batch, int64 [seeds].
    """

    batch: int
    rlp: Counts
    tlp: Counts
    context_sum: Counts
    group_sum: Counts
    group_max: Counts
    key_row_sum: Counts
    key_row_max: Counts
    starts: Counts
    tokens: Counts
    prefill_tokens: Counts
    prefill_pairs: Counts

    @cached_property
    def rows(self) -> Counts:
        """n = RLP x TLP, int64 [iterations]."""
        return self.rlp * self.tlp

    @cached_property
    def groups_per_request(self) -> FloatArray:
        """Mean 16-token groups of a request, float64 [iterations]."""
        return self.group_sum / self.rlp

    @cached_property
    def key_rows_per_request(self) -> FloatArray:
        """Mean DRAM rows of a request's keys, float64 [iterations]."""
        return self.key_row_sum / self.rlp

    def sum_by_seed(self, values: FloatArray) -> FloatArray:
        """Sums over each seed's iterations: [iterations, ...] to [seeds, ...]."""
        return np.asarray(np.add.reduceat(values, self.starts, axis=0))


def record(scenario: Scenario, seeds: Sequence[int]) -> Trajectory:
    """Play one episode per seed on the engine and keep what prices it.

    The scenario's system matters only in that the batch must fit it.

    Raises:
        ConfigurationError: the weights or the KV caches do not fit the system.
    """
    engine = DecodeEngine(scenario, len(seeds))
    engine.counters[:, at.SEED] = seeds
    engine.reset()
    prefill = engine.counters[:, [at.PREFILL_TOKENS, at.PREFILL_PAIRS]].copy()
    kept = [at.RLP, at.TLP, at.CONTEXT_SUM, at.GROUP_SUM, at.GROUP_MAX, at.KEY_ROW_SUM, at.KEY_ROW_MAX]
    states = []
    while (engine.counters[:, at.DONE] == 0).any():
        states.append(engine.counters[:, kept])
        engine.advance()
    # [seeds, iterations, columns]; a finished batch waits with RLP 0 for the longest.
    stacked = np.stack(states, axis=1)
    alive = stacked[:, :, 0] > 0
    lengths = alive.sum(axis=1)
    rlp, tlp, context_sum, group_sum, group_max, key_row_sum, key_row_max = np.ascontiguousarray(
        stacked[alive].T
    )
    return Trajectory(
        batch=int(engine.tables.scalars[at.BATCH]),
        rlp=rlp,
        tlp=tlp,
        context_sum=context_sum,
        group_sum=group_sum,
        group_max=group_max,
        key_row_sum=key_row_sum,
        key_row_max=key_row_max,
        starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]),
        tokens=engine.counters[:, at.DECODED].copy(),
        prefill_tokens=prefill[:, 0],
        prefill_pairs=prefill[:, 1],
    )


def fc_units(tables: EngineTables, policy: FcPolicy) -> Counts:
    """The unit of all FC kernels for every n, int64 [1025]; a choice the system lacks becomes its default."""
    n = np.arange(tables.fc.shape[2])
    default = int(tables.defaults[at.QKV])
    if policy == "threshold":
        chosen = np.where(n > tables.scalars[at.ALPHA], PU, FC_PIM)
        return np.where(tables.allowed[at.QKV][chosen], chosen, default)
    if policy == "oracle":
        seconds = tables.fc[..., at.COST_S].sum(axis=0)
        return np.asarray(np.argmin(np.where(tables.allowed[at.QKV][:, None], seconds, np.inf), axis=0))
    return np.full(n.shape, default)


def seconds_by_rows(tables: EngineTables, units: Counts) -> FloatArray:
    """Seconds of an iteration that depend on n alone, [1025, parts without attention]; see `PARTS`."""
    n = np.arange(len(units))
    attention = int(tables.defaults[at.ATTENTION])
    moves = tables.attention_link[attention, :, at.COST_S] + tables.moves[:, at.COMBINE_S]
    overhead = np.full(len(n), tables.scalars[at.OVERHEAD_S])
    return np.stack([*tables.fc[:, units, n, at.COST_S], moves, overhead], axis=1)


def iteration_seconds(tables: EngineTables, trajectory: Trajectory, units: Counts) -> FloatArray:
    """Seconds of every iteration by part, [iterations, parts]: the engine's `iteration_cost`, vectorised.

    Mode switches are free (Decode-v0's default, PAPI's assumption).

    Args:
        tables: of the system, the model and any batch.
        trajectory: what is priced.
        units: from `fc_units`.
    """
    unit = int(tables.defaults[at.ATTENTION])
    coefficients = tables.attention[unit][trajectory.rlp, trajectory.tlp]
    shares = tables.shares[unit][trajectory.rlp, trajectory.tlp]
    work = Work(
        coefficients[..., at.PER_GROUP_S],
        coefficients[..., at.PER_KEY_ROW_S] + coefficients[..., at.UNPAIRED_S] * shares[..., at.UNPAIRED],
        coefficients[..., at.PER_PAIR_S],
        coefficients[..., at.PER_START_S],
        coefficients[..., at.PER_TOKEN_S],
    )
    mean = Share(trajectory.groups_per_request, trajectory.key_rows_per_request)
    longest = Share(trajectory.group_max, trajectory.key_row_max)
    share, of_one, pairs = shares[:, at.SHARE], shares[:, at.SHARE_OF_ONE], shares[:, at.PAIRS]
    attention = attention_time(work, share, of_one, pairs, mean, longest, trajectory.context_sum)
    out = np.empty((len(trajectory.rlp), len(PARTS)))
    out[:, :ATTENTION] = seconds_by_rows(tables, units)[trajectory.rows]
    # KV caches read over the link stream behind the computation; what exceeds it is communication.
    streamed = coefficients[..., at.LINK_PER_TOKEN_S] * trajectory.context_sum
    out[:, COMMUNICATION] += np.maximum(streamed - attention, 0.0)
    out[:, ATTENTION] = attention
    return out


def dynamic_joules(tables: EngineTables, trajectory: Trajectory, units: Counts) -> FloatArray:
    """Joules of decoding without static power, [seeds]."""
    n = np.arange(len(units))
    unit = int(tables.defaults[at.ATTENTION])
    by_rows = tables.fc[:, units, n, at.COST_J].sum(axis=0)
    by_rows = by_rows + tables.attention_link[unit, :, at.COST_J] + tables.moves[:, at.COMBINE_J]
    coefficients = tables.attention[unit][trajectory.rlp, trajectory.tlp]
    joules = (
        by_rows[trajectory.rows]
        + coefficients[..., at.PER_GROUP_J] * trajectory.group_sum
        + coefficients[..., at.PER_TOKEN_J] * trajectory.context_sum
    )
    return trajectory.sum_by_seed(joules)
