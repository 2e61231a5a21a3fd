"""What moving vectors and attending costs, tabulated by unit, requests and rows, for every engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from papi_env.hardware import costs, energy
from papi_env.hardware.keeping import kept_by_machine
from papi_env.hardware.system import System
from papi_env.hardware.table import DENSE_ROWS
from papi_env.hardware.units import UNIT_NAMES, PimUnit, ProcessingUnit, UnitName
from papi_env.kernel import AttentionKernel, FloatArray
from papi_env.scenario import MAX_BATCH, MAX_SPECULATION, Scenario
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.stages import crossing
from papi_env.workload.transformer import Transformer


def decades(value: float) -> float:
    """The logarithm of a rate or size over 20 decades, so that one policy can meet many systems; 0 for 0."""
    return float(np.log10(value)) / 20 if value > 0 else 0.0


def rate_descriptors(system: System) -> list[float]:
    """FLOP/s and B/s of each unit and B/s of the attention link, in decades; 0 where there is none."""
    rates: list[float] = []
    for unit in map(system.unit, UNIT_NAMES):
        if isinstance(unit, ProcessingUnit):
            rates += [unit.total_flops, unit.total_bandwidth]
        else:
            rates += [unit.peak_flops, unit.peak_bandwidth] if unit else [0.0, 0.0]
    rates.append(system.attention_link.total_bandwidth if system.attn_pim and system.attention_link else 0.0)
    return [decades(rate) for rate in rates]


def attention_with_room(scenario: Scenario) -> AttentionKernel:
    """Attention of a static batch; latent keys and values are kept as often as the longest batch has room for."""
    model, _ = scenario.decoding()
    kernel = model.attention_kernel()
    if kernel.most_copies is None:
        return kernel
    room = scenario.system.kv_room(scenario.weight_bytes)
    return replace(kernel, most_copies=max(room // scenario.kv_bytes, 1))


@kept_by_machine(16)
def attention_tables(
    system: System,
    model: Transformer,
    most_requests: int = MAX_BATCH,
    kernel: AttentionKernel | None = None,
) -> tuple[FloatArray, FloatArray]:
    """What attention costs by unit, RLP and TLP, from the functions in `hardware.costs`.

    `kernel` is the model's own if not given.

    Returns:
        Coefficients [units, RLP, TLP, NUM_ATTENTION] and shares [units, RLP, TLP, NUM_SHARES]; see `state`.
    """
    kernel = kernel or model.attention_kernel()
    columns = group_columns(system, model)
    shape = (at.NUM_UNITS, most_requests + 1, MAX_SPECULATION + 1)
    attention = np.zeros((*shape, at.NUM_ATTENTION))
    shares = np.zeros((*shape, at.NUM_SHARES))
    for u, name in enumerate(UNIT_NAMES):
        unit = system.unit(name)
        if unit is None or not system.can_run(name, "attention"):
            attention[u] = np.inf
            shares[u] = 1.0
            continue
        link_s_per_token = _kv_link_s_per_token(system, model, name)
        for rlp in range(1, most_requests + 1):
            for tlp in range(1, MAX_SPECULATION + 1):
                row = attention[u, rlp, tlp]
                if isinstance(unit, PimUnit):
                    _on_pim(unit, kernel, columns, rlp, tlp, row, shares[u, rlp, tlp])
                    row[at.PER_START_S] += system.pim_start_s
                elif rlp > 1:
                    row[:] = attention[u, 1, tlp]
                    continue
                else:
                    row[at.PER_TOKEN_S] = costs.pu_attention_s(unit, kernel, 1, tlp)
                    row[at.PER_TOKEN_J] = costs.pu_attention_energy(unit, kernel, 1, tlp).total
                row *= kernel.count
                row[at.LINK_PER_TOKEN_S] = link_s_per_token
                if link_s_per_token > 0:
                    assert system.attention_link is not None
                    row[at.PER_TOKEN_J] += model.kv_bytes_per_token * system.attention_link.j_per_byte
    return attention, shares


def _on_pim(
    unit: PimUnit,
    kernel: AttentionKernel,
    columns: int,
    rlp: int,
    tlp: int,
    row: FloatArray,
    shares: FloatArray,
) -> None:
    """Write the coefficients of one layer and the shares of so many requests and tokens."""
    mapping, work = costs.mapped_attention(unit, kernel, rlp, tlp)
    # The engine counts key rows by the layout of the unit with the KV caches; a unit with another layout gets as many
    # per group as it has, and half a key row more for the last one.
    scale = work.group_columns / columns
    row[at.PER_GROUP_S] = work.per_group
    row[at.PER_KEY_ROW_S] = work.per_chunk * scale
    row[at.PER_PAIR_S] = work.per_pair + (0.0 if scale == 1 else 0.5 * work.per_chunk)
    row[at.PER_START_S] = work.per_start
    row[at.UNPAIRED_S] = work.unpaired_per_chunk * scale
    row[: at.PER_TOKEN_S] *= unit.stack.technology.clock_s
    row[at.PER_GROUP_J] = costs.pim_attention_energy(unit, kernel, 1, tlp, rlp).total
    shares[at.SHARE], shares[at.SHARE_OF_ONE] = mapping.share, mapping.share_of_one
    shares[at.PAIRS] = mapping.pairs
    shares[at.UNPAIRED] = mapping.pairs % 2 / mapping.pairs


@kept_by_machine(16)
def attention_causes(
    system: System,
    model: Transformer,
    most_requests: int = MAX_BATCH,
    kernel: AttentionKernel | None = None,
) -> FloatArray:
    """The joules in `attention_tables` by cause, [units, RLP, TLP, causes], all layers together.

    Per 16-token group on PIM and per token on PUs, as attention is counted there; on links per token. Nothing on units
    that cannot attend. `kernel` as in `attention_tables`.
    """
    kernel = kernel or model.attention_kernel()
    table = np.zeros((at.NUM_UNITS, most_requests + 1, MAX_SPECULATION + 1, energy.NUM_CAUSES))
    for u, name in enumerate(UNIT_NAMES):
        unit = system.unit(name)
        if unit is None or not system.can_run(name, "attention"):
            continue
        for tlp in range(1, MAX_SPECULATION + 1):
            if isinstance(unit, PimUnit):
                for rlp in range(1, most_requests + 1):
                    one = costs.pim_attention_energy(unit, kernel, 1, tlp, rlp)
                    table[u, rlp, tlp] = kernel.count * one.by_cause
            else:
                table[u, :, tlp] = kernel.count * costs.pu_attention_energy(unit, kernel, 1, tlp).by_cause
            if _kv_link_s_per_token(system, model, name) > 0:
                assert system.attention_link is not None
                table[u, :, tlp, energy.LINK] += model.kv_bytes_per_token * system.attention_link.j_per_byte
    return table


def group_columns(system: System, model: Transformer) -> int:
    """Columns of keys in a 16-token group on the PIM unit that holds the KV caches; 1 if none does."""
    home = system.attn_pim or system.fc_pim
    if home is None:
        return 1
    return costs.pim_attention_coefficients(home, model.attention_kernel(), 1).group_columns


def _kv_link_s_per_token(system: System, model: Transformer, unit: UnitName) -> float:
    """Seconds that one context token's keys and values spend on the link; 0 where they live with the unit."""
    if unit == "attn-pim" or system.attn_pim is None:
        return 0.0
    assert system.attention_link is not None
    return model.kv_bytes_per_token / system.attention_link.total_bandwidth


def attention_link_table(system: System, model: Transformer, most_rows: int = DENSE_ROWS) -> FloatArray:
    """[units, n, (s, J)] of the vectors that cross the attention link in one iteration."""
    table = np.zeros((at.NUM_UNITS, most_rows + 1, 2))
    link = system.attention_link
    if system.attn_pim is None or link is None:
        return table
    n, kernel = np.arange(most_rows + 1, dtype=np.float64), model.attention_kernel()
    kv = n * kernel.kv_bytes_per_token  # of new keys and values in one layer
    queries, outputs = n * kernel.query_bytes, n * kernel.output_bytes
    for u, name in enumerate(UNIT_NAMES):
        # With attention where the KV caches are, queries go there too and outputs come back; else only
        # the new keys and values are written home (the old ones are counted per token).
        there, back = (queries + kv, outputs) if name == "attn-pim" else (kv, 0.0 * n)
        table[u, :, at.COST_S] = model.layers * (link.transfer_s(there) + link.transfer_s(back))
        table[u, :, at.COST_J] = model.layers * (there + back) * link.j_per_byte
    return table


def moves_table(system: System, model: Transformer, most_rows: int = DENSE_ROWS) -> FloatArray:
    """[n, 4]: combining outputs in one iteration, and one crossing of activations between PUs and FC-PIM.

    Outputs are combined twice a layer, after projection and feed-forward, on whichever unit those ran: the
    stacks of a GPU hold its slice of the weights either way.
    """
    table = np.zeros((most_rows + 1, 4))
    n = np.arange(most_rows + 1)
    for block in model.combined_blocks():
        table[:, at.COMBINE_S] += block[-1].count * system.combine_s(block, n)
        table[:, at.COMBINE_J] += block[-1].count * system.combine_j(block, n)
    size = model.vector_bytes * n.astype(np.float64)
    table[:, at.CROSSING_S], table[:, at.CROSSING_J] = crossing(system, size)
    return table
