"""Clocks of decode attention on PIM, by counting the commands of the busiest channel.

AttAcc's mapping: a (head, request) pair occupies a channel. For every group of tokens a *step* of column
commands multiplies the query with keys (scores) and, after the softmax, another weights the values. Between
them vectors move between the buffer die and the units. Channels work through their pairs two by two: moves,
softmax and query of one pair go by while the other multiplies, so that a channel is busy with

- column commands at the unit's cadence;
- row changes, where all banks of a channel close a row and open the next (bank level; elsewhere other banks
  open theirs meanwhile);
- what nothing hides: queries in and outputs back of every second pair, and all moves of a last pair without
  a partner;
- refreshes.

Counts and timings are AttAcc's; one constant, `OPEN_ROWS`, is fitted. All times in clocks of the DRAM.

Left out, a percent or less of long contexts: the least time that a row stays open (L just above a multiple of
a chunk), AttAcc's queue of 32 commands, beyond which moves hide behind nothing (from L = 2600), and which
pairs find their row open (those of one chunk do, most others not). Contexts of one group come out 10 % low:
there moves take longer than columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from papi_env.hardware import dram
from papi_env.hardware.dram import COLUMNS_PER_ROW
from papi_env.hardware.technology import HBM3, Technology
from papi_env.kernel import FP16_BYTES, FloatArray

Level = Literal["bank", "bank-group", "buffer"]
Refresh = Literal["mean", "counted"]
Counts: TypeAlias = int | npt.NDArray[np.integer] | npt.NDArray[np.floating]

OUTPUT_BYTES = 256
STEPS_PER_PHASE = 16  # AttAcc's mapping: partial scores are moved out after 16 steps


@dataclass(frozen=True)
class _Layout:
    """How a level's units divide the work of a channel of 64 banks (AttAcc's trace generators).

    Attributes:
        banks_per_unit: banks that feed one unit.
        group_tokens: tokens of a step. Units side by side take different tokens; at bank level the four
            banks of a bank group share a token's head.
        targets: separately addressed GEMV buffers, which get different softmax weights.
        apart: whether such moves go to different bank groups, which may follow each other sooner.
        query_copies: writes of a query, per column of it in a unit.
        outputs: moves of a pair's last partial sums.
    """

    banks_per_unit: int
    group_tokens: int
    targets: int
    apart: bool
    query_copies: int
    outputs: int


_LAYOUTS: Mapping[Level, _Layout] = {
    "bank": _Layout(1, 16, 8, True, 4, 8),
    "bank-group": _Layout(4, 16, 8, True, 1, 2),
    "buffer": _Layout(32, 2, 1, False, 1, 1),
}


# Row changes that a pair at bank level is spared because the pair before left its row open. Fitted by
# `python -m experiments.validate --cycles FILE --fit`: 0.50 on AttAcc's shipped table (L 128-4088, 51-2050
# pairs a stack) and 0.50 on rows of its current code (L 129-2161, 2-308 pairs). Range 0-1.
OPEN_ROWS = 0.5


@dataclass(frozen=True)
class Revision:
    """What differs between revisions of AttAcc's cycle-level model.

    Attributes:
        overlaps_row_changes: at bank level, rows open while vectors move, and a refresh waits for the end of a
            row, whose change it takes the place of; else rows open after the moves, and a refresh interrupts
            a row, which is opened once more.
        repeats_moves: a last pair without a partner moves all its softmax weights after each phase of the
            scores instead of once (a slip in AttAcc's trace generators, since corrected).
        open_rows: see `OPEN_ROWS`.
    """

    overlaps_row_changes: bool = True
    repeats_moves: bool = False
    open_rows: float = OPEN_ROWS


SHIPPED = Revision(overlaps_row_changes=False, repeats_moves=True)  # AttAcc's table of cycles
REBUILT = Revision()  # its code as it is now


@dataclass(frozen=True)
class AttentionPim:
    """The units of a channel.

    Attributes:
        level: where they are: at each bank, at each bank group, or on the buffer die, one per pseudo-channel.
        cadence_clocks: between column commands.
        fpus: of a unit, each multiplying a column with another query row; 0.5: two banks share one.
        banks_per_channel: 64 in a plain stack of HBM3.
        technology: of the DRAM.
    """

    level: Level = "bank"
    cadence_clocks: float = 6.0
    fpus: float = 1.0
    banks_per_channel: int = 64
    technology: Technology = HBM3

    def __post_init__(self) -> None:
        if self.level not in _LAYOUTS:
            raise ValueError(f"level is {self.level!r}, expected one of {', '.join(get_args(Level))}")
        for name in ("cadence_clocks", "fpus"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected a finite number > 0")
        if not self.banks_per_channel >= self._layout.banks_per_unit:
            raise ValueError(
                f"banks_per_channel is {self.banks_per_channel!r}, "
                f"expected at least {self._layout.banks_per_unit} at level {self.level}"
            )

    @classmethod
    def attacc(cls, level: Level, power_limit: bool) -> AttentionPim:
        """AttAcc's units. Its power limit slows units at banks and bank groups, not those on the buffer die."""
        if level == "buffer":
            return cls(level, HBM3.t_ccd_s)
        return cls(level, 6.0 if power_limit else 4.0)

    @property
    def _layout(self) -> _Layout:
        return _LAYOUTS[self.level]

    def columns(self, head_size: int, element_bytes: float) -> int:
        """Columns of keys, or of values, that a unit reads in a step."""
        units = self.banks_per_channel // self._layout.banks_per_unit
        return math.ceil(
            self._layout.group_tokens * head_size * element_bytes / (units * self.technology.column_bytes)
        )

    @property
    def move_clocks(self) -> int:
        """Clocks between moves of vectors to units side by side."""
        return self.technology.t_ccd_s if self._layout.apart else self.technology.t_ccd_l

    @property
    def softmax_clocks(self) -> int:
        """Clocks of the softmax command on the data path; AttAcc's simulator waits for nothing else."""
        return self.technology.t_ccd_s

    def row_change_clocks(self) -> float:
        """What a row change adds to the cadence; rows are taken as full (`dram.row_change_clocks`)."""
        if self.level != "bank":
            return 0.0
        return float(dram.row_change_clocks(self.cadence_clocks, technology=self.technology))

    def refresh_clocks(self, revision: Revision) -> float:
        """What a refresh adds; see `dram.refresh_stall_clocks`."""
        instead_of = self.row_change_clocks() if revision.overlaps_row_changes else 0.0
        return float(dram.refresh_stall_clocks(self.cadence_clocks, instead_of, self.technology))


class Work(NamedTuple):
    """Time of attention as a linear function of what a channel does; per token, of a unit without channels.

    Clocks, or seconds of all layers; numbers, or arrays of one shape.
    """

    per_group: Any
    per_key_row: Any
    per_pair: Any
    per_start: Any
    per_token: Any


class Share(NamedTuple):
    """16-token groups and key rows (DRAM rows of keys): the mean of the requests, or those of the longest."""

    groups: Any
    key_rows: Any


# The three functions that follow are the only telling of how long decode attention takes, but for the look-ups of the
# batch engine, which are their products made beforehand. They take numbers and arrays, and compiled code calls them
# too (`papi_env.simulation.attention`), so they stay free of anything else.


def busiest(share: Any, mean: Any, share_of_one: Any, longest: Any) -> Any:
    """What the busiest channel has of something, groups say.

    Pairs dealt longest first leave every channel near the mean times its share, and the busiest with no less than
    the longest request needs, whose own heads take `share_of_one` of its context.
    """
    return np.maximum(share * mean, share_of_one * longest)


def busy(work: Any, groups: Any, key_rows: Any, pairs: Any) -> Any:
    """Time of a channel whose `pairs` have so many groups and key rows together."""
    return work.per_group * groups + work.per_key_row * key_rows + work.per_pair * pairs + work.per_start


def attention_time(
    work: Any, share: Any, share_of_one: Any, pairs: Any, mean: Any, longest: Any, tokens: Any
) -> Any:
    """Time of decode attention on the unit that `work` is of.

    Args:
        work: see `Work`.
        share, share_of_one, pairs: of the busiest channel (see `costs.AttentionMapping`).
        mean, longest: see `Share`.
        tokens: attended to by all requests.
    """
    groups = busiest(share, mean.groups, share_of_one, longest.groups)
    key_rows = busiest(share, mean.key_rows, share_of_one, longest.key_rows)
    return np.maximum(busy(work, groups, key_rows, pairs), work.per_token * tokens)


@dataclass(frozen=True)
class AttentionCoefficients:
    """Clocks of a channel as a linear function of what its pairs add up to.

    With G, C and P the groups, chunks and pairs of a channel:
    `per_group G + per_chunk C + per_pair P + per_start`, and `unpaired_per_chunk C / P` more if P is odd.

    Attributes:
        per_group, per_chunk, per_pair, per_start, unpaired_per_chunk: clocks.
        group_tokens: a pair of L tokens has ceil(L / group_tokens) groups,
        group_columns: which take so many parts of a row each, and a chunk for every 32 parts or some of them. Rows
            of HBM have 32 columns; where they have more, a group takes whole 32nds of them.
    """

    per_group: float
    per_chunk: float
    per_pair: float
    per_start: float
    unpaired_per_chunk: float
    group_tokens: int
    group_columns: int

    @property
    def chunk_tokens(self) -> float:
        """Tokens of a chunk: 256 for heads of 128 FP16 elements at bank level."""
        return self.group_tokens * COLUMNS_PER_ROW / self.group_columns

    def groups(self, context: Counts) -> FloatArray:
        """Groups of a pair with `context` tokens."""
        return np.ceil(np.asarray(context) / self.group_tokens)

    def chunks(self, context: Counts) -> FloatArray:
        """Chunks of a pair with `context` tokens."""
        return np.ceil(self.groups(context) * self.group_columns / COLUMNS_PER_ROW)

    def clocks(self, groups: Counts, chunks: Counts, pairs: Counts) -> FloatArray:
        """Clocks of a channel whose `pairs` have so many groups and chunks together; 0 without pairs."""
        pairs = np.asarray(pairs, dtype=np.float64)
        unpaired = self.unpaired_per_chunk * (pairs % 2) / np.maximum(pairs, 1)
        work = Work(self.per_group, self.per_chunk + unpaired, self.per_pair, self.per_start, 0.0)
        return np.where(pairs > 0, busy(work, np.asarray(groups), np.asarray(chunks), pairs), 0.0)


def attention_coefficients(
    pim: AttentionPim,
    head_size: int,
    element_bytes: int,
    rows: int = 1,
    *,
    value_size: int | None = None,
    kv_element_bytes: float | None = None,
    revision: Revision = REBUILT,
    refresh: bool = True,
) -> AttentionCoefficients:
    """Coefficients of one model on one unit, `rows` query rows sharing every read of a pair.

    A column read serves `pim.fpus` rows at once, so a step takes ceil(rows / fpus) slots; vectors are written
    and moved for each row, and count instead where that takes longer than the slots.

    Keys and values of other widths than the vectors are widened as they are read, to what the units multiply: a column
    of 8-bit ones takes as many slots as the two columns of FP16 in its place, but opens half the rows.

    Args:
        pim: the units.
        head_size: elements of a head's query and key.
        element_bytes: bytes of an element of queries, scores and outputs, and of keys and values if they have none of
            their own.
        rows: query heads of a group times tokens verified together.
        value_size: elements of a head's value; as many as of its key if None.
        kv_element_bytes: of keys and values.
        revision: of AttAcc's cycle-level model.
        refresh: multiply all by the mean share of refreshes.
    """
    for name, value in (("head_size", head_size), ("element_bytes", element_bytes), ("rows", rows)):
        if value != int(value) or value < 1:
            raise ValueError(f"{name} is {value!r}, expected a whole number >= 1")
    layout = pim._layout
    kv_bytes = element_bytes if kv_element_bytes is None else kv_element_bytes
    value_elements = head_size if value_size is None else value_size
    columns, value_columns = pim.columns(head_size, kv_bytes), pim.columns(value_elements, kv_bytes)
    # Columns that their elements would take in FP16 where they are narrower: 16 of them are multiplied in a slot.
    steps = columns + value_columns
    if kv_element_bytes is not None:
        widened = pim.columns(head_size, FP16_BYTES) + pim.columns(value_elements, FP16_BYTES)
        steps = max(steps, widened)
    # A layout's count is for outputs of 128 FP16 elements, as all that AttAcc traces.
    outputs = layout.outputs
    if value_size is not None:
        outputs *= math.ceil(value_size * element_bytes / OUTPUT_BYTES)
    column_elements = pim.technology.column_bytes / element_bytes

    slots = math.ceil(rows / pim.fpus)
    # Partial scores go out after 16 steps, softmax weights come in for as many steps as a column has elements.
    moves_per_group = layout.targets * pim.move_clocks * (1 / STEPS_PER_PHASE + 1 / column_elements)
    per_group = max(steps * slots * pim.cadence_clocks, rows * moves_per_group)

    # Weights of a pair are moved a GEMV-buffer column at a time; at bank level they are counted by the row.
    of_row = math.ceil(columns * COLUMNS_PER_ROW / pim.technology.columns_per_row)
    group_columns = of_row if pim.level == "bank" else element_bytes
    unpaired = rows * layout.targets * pim.move_clocks * element_bytes / group_columns

    vectors = (
        layout.query_copies * pim.columns(head_size, element_bytes) * pim.technology.t_ccd_l
        + outputs * pim.move_clocks
        + pim.softmax_clocks
    )
    hides = pim.level == "bank" and revision.overlaps_row_changes
    hidden = pim.technology.row_change_clocks if hides else 0
    exposed = max(rows * vectors - hidden, 0) / 2  # every second pair's
    f = float(dram.refresh_factor(pim.refresh_clocks(revision), pim.technology)) if refresh else 1.0
    return AttentionCoefficients(
        per_group=f * per_group,
        per_chunk=f * (1 + value_columns / columns) * pim.row_change_clocks(),
        per_pair=f * (exposed - revision.open_rows * pim.row_change_clocks()),
        per_start=f * exposed,
        unpaired_per_chunk=f * unpaired,
        group_tokens=layout.group_tokens,
        group_columns=group_columns,
    )


def attention_clocks(
    pim: AttentionPim,
    head_size: int,
    element_bytes: int,
    context: Counts,
    pairs: Counts,
    rows: int = 1,
    *,
    revision: Revision = REBUILT,
    refresh: Refresh = "mean",
) -> FloatArray:
    """Clocks of a stack for `pairs` pairs of `context` tokens each, dealt over its channels.

    Args:
        pim: the units.
        head_size: elements of a head.
        element_bytes: bytes of an element.
        context: tokens, >= 1; broadcast with `pairs`.
        pairs: (head, request) pairs of the stack; 0 takes no time.
        rows: query rows that share every read.
        revision: of AttAcc's cycle-level model.
        refresh: `mean` is a run at any time, `counted` one that starts with a refresh interval, as in
            AttAcc's rows.
    """
    if np.any(np.asarray(context) < 1) or np.any(np.asarray(pairs) < 0):
        raise ValueError("context and pairs: expected at least one token, and no negative number of pairs")
    work = attention_coefficients(
        pim, head_size, element_bytes, rows, revision=revision, refresh=refresh == "mean"
    )
    on_channel = np.ceil(np.asarray(pairs) / pim.technology.channels)
    groups, chunks = work.groups(context), work.chunks(context)
    clocks = work.clocks(groups * on_channel, chunks * on_channel, on_channel)
    if revision.repeats_moves:
        phases = np.ceil(groups / STEPS_PER_PHASE)
        repeated = work.unpaired_per_chunk * chunks + rows * pim.softmax_clocks
        clocks = clocks + on_channel % 2 * phases * repeated
    if refresh == "mean":
        return clocks
    added = pim.refresh_clocks(revision)
    # The k-th refresh comes at k t_refi, after k - 1 of them, if there is work left by then.
    return clocks + added * np.maximum(np.floor((clocks - added) / (pim.technology.t_refi - added)), 0.0)
