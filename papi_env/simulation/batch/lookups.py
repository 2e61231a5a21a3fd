"""What the hot loop looks up: the tables of a scenario, joined so that a row of each serves a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.kernel import FloatArray
from papi_env.simulation.batch import state as at

if TYPE_CHECKING:  # which uses what is here
    from papi_env.simulation.batch.tables import EngineTables


class Lookups(NamedTuple):
    """Columns in `layout`; seconds and joules of a whole iteration, all layers together.

    Attributes:
        fc: [units, n, NUM_FC], seconds and then joules of each FC class.
        other: [units of attention, TLP, RLP, NUM_OTHER], what attention and moving data cost.

    Where causes are kept, joules by cause stand behind, NUM_FC_CAUSES and NUM_OTHER_CAUSES columns in all: every array
    that a step is handed takes time.
    """

    fc: FloatArray
    other: FloatArray


class Instances(NamedTuple):
    """What instances are drawn from and played by; shapes as in `tables.EngineTables`."""

    population: npt.NDArray[np.int32]
    schedule: npt.NDArray[np.int64]
    scalars: FloatArray

    @classmethod
    def of(cls, tables: EngineTables) -> Instances:
        """Those of a scenario."""
        return cls(tables.population, tables.schedule, tables.scalars)


class ImageLookups(NamedTuple):
    """The tables of image encodes; shapes as in `tables.EngineTables`."""

    stages: FloatArray
    moves: FloatArray
    features: FloatArray
    blocks: npt.NDArray[np.int64]
    batches: npt.NDArray[np.int64]

    @classmethod
    def of(cls, tables: EngineTables) -> ImageLookups:
        """Those of a scenario with images."""
        return cls(
            tables.stages,
            tables.stage_moves,
            tables.stage_features,
            tables.blocks,
            tables.batches,
        )


class ExpertLookups(NamedTuple):
    """What a step looks up of experts; shapes as in `tables.EngineTables`."""

    costs: FloatArray
    features: FloatArray

    @classmethod
    def of(cls, tables: EngineTables) -> ExpertLookups | None:
        """Those of a scenario; None where its model has no experts."""
        return None if tables.experts is None else cls(tables.experts, tables.expert_features)


def join_lookups(tables: EngineTables, causes: bool = False) -> Lookups:
    """Join the tables of iterations, with joules by cause if wanted.

    The attention of RLP requests takes, on the busiest channel, its share of contexts of mean length or of the longest
    request's, whichever is more (`hardware.costs.busiest_channel`); both are multiples of what a state counts.
    """
    fc, moves = tables.fc, tables.moves
    work, shares = tables.attention.transpose(0, 2, 1, 3), tables.shares.transpose(0, 2, 1, 3)
    units, rows = fc.shape[1], fc.shape[2]
    by_unit = np.zeros((units, rows, at.NUM_FC_CAUSES if causes else at.NUM_FC))
    by_unit[:, :, at.FC_S] = fc[..., at.COST_S].transpose(1, 2, 0)
    by_unit[:, :, at.FC_J] = fc[..., at.COST_J].transpose(1, 2, 0)

    tlp, rlp = np.arange(work.shape[1])[:, None], np.arange(work.shape[2])
    n = np.minimum(tlp * rlp, rows - 1)
    other = np.zeros((units, *n.shape, at.NUM_OTHER_CAUSES if causes else at.NUM_OTHER))
    of_mean, of_longest = shares[..., at.SHARE] / np.maximum(rlp, 1), shares[..., at.SHARE_OF_ONE]
    # A unit that cannot attend has infinite coefficients, which nothing looks up.
    with np.errstate(invalid="ignore"):
        per_key_row = work[..., at.PER_KEY_ROW_S] + work[..., at.UNPAIRED_S] * shares[..., at.UNPAIRED]
        other[..., at.GROUPS_S] = work[..., at.PER_GROUP_S] * of_mean
        other[..., at.LONGEST_GROUPS_S] = work[..., at.PER_GROUP_S] * of_longest
        other[..., at.KEY_ROWS_S] = per_key_row * of_mean
        other[..., at.LONGEST_KEY_ROWS_S] = per_key_row * of_longest
        other[..., at.FIXED_S] = work[..., at.PER_PAIR_S] * shares[..., at.PAIRS] + work[..., at.PER_START_S]
    other[..., at.TOKENS_S] = work[..., at.PER_TOKEN_S]
    other[..., at.LINK_TOKENS_S] = work[..., at.LINK_PER_TOKEN_S]
    other[..., at.GROUPS_J] = work[..., at.PER_GROUP_J]
    other[..., at.TOKENS_J] = work[..., at.PER_TOKEN_J]
    other[..., at.MOVES_S] = tables.attention_link[:, n, at.COST_S] + moves[n, at.COMBINE_S]
    other[..., at.MOVES_J] = tables.attention_link[:, n, at.COST_J] + moves[n, at.COMBINE_J]
    other[..., at.CROSS_S] = moves[n, at.CROSSING_S]
    other[..., at.CROSS_J] = moves[n, at.CROSSING_J]
    if causes:
        _join_causes(tables, by_unit, other)
    return Lookups(by_unit, other)


def _join_causes(tables: EngineTables, fc: FloatArray, other: FloatArray) -> None:
    """Fill in joules by cause."""
    of_classes = tables.fc[..., at.COST_CAUSES :]
    parts = (*of_classes, of_classes.sum(axis=0))
    for k, part in enumerate(parts):
        first = at.NUM_FC + k * at.CAUSE_COLUMNS
        fc[:, :, first : first + at.NUM_CAUSES] = part
    first = at.ATTENTION_CAUSES
    other[..., first : first + at.NUM_CAUSES] = tables.attention_causes.swapaxes(1, 2)


def resolved_units(tables: EngineTables) -> npt.NDArray[np.int64]:
    """Int64 [classes, units + 1]: the unit that each choice means (an invalid one: the default), then the default."""
    units, defaults = np.arange(at.NUM_UNITS), tables.defaults[:, None]
    return np.hstack([np.where(tables.allowed, units, defaults), defaults]).astype(np.int64)
