"""Everything the compiled engine looks up, computed once per scenario from the hardware's functions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.hardware import costs, dram
from papi_env.hardware.system import System
from papi_env.hardware.table import DENSE_ROWS, CostTable
from papi_env.hardware.units import UNIT_NAMES, PimUnit, ProcessingUnit, UnitName
from papi_env.kernel import FloatArray
from papi_env.scenario import MAX_BATCH, MAX_SPECULATION, Scenario
from papi_env.simulation import layout as at
from papi_env.simulation.decode import iteration_cost
from papi_env.workload.transformer import FC_CLASSES, Transformer


class EngineTables(NamedTuple):
    """The look-ups of one scenario; shapes as given, seconds and joules unless said otherwise.

    Attributes:
        fc: [3 FC classes, units, n = 0..1024, (s, J)], all layers together.
        attention: [units, TLP = 0..8, coefficients], all layers together; see `layout`.
        rounds: [units, RLP = 0..128, (pairs on the busiest channel, 1 / pairs if odd else 0)].
        attention_link: [units, n, (s, J)], moving queries, keys, values and outputs in an iteration.
        moves: [n, (combining outputs s, J, one crossing between PUs and FC-PIM s, J)].
        schedule: int64 [k, (from iteration, TLP)].
        population: int32 [requests, (input, output)] tokens.
        allowed: bool [classes, units]; defaults: int64 [classes], the unit that replaces an invalid choice.
        scalars: see `layout`; descriptors: float32, the constant part of an observation.
    """

    fc: FloatArray
    attention: FloatArray
    rounds: FloatArray
    attention_link: FloatArray
    moves: FloatArray
    schedule: npt.NDArray[np.int64]
    population: npt.NDArray[np.int32]
    allowed: npt.NDArray[np.bool_]
    defaults: npt.NDArray[np.int64]
    scalars: FloatArray
    descriptors: npt.NDArray[np.float32]


# An overflow is no news here: the tables are checked as a whole.
@np.errstate(over="ignore", invalid="ignore")
def build_tables(scenario: Scenario, default_switch_s: float) -> EngineTables:
    """Tabulate a scenario; `default_switch_s` applies where the scenario says nothing about switching.

    Raises:
        ConfigurationError: the weights or the KV caches do not fit the system.
    """
    scenario.check()
    system, model, workload = scenario.system, scenario.model, scenario.workload
    costs_of_fc = CostTable(system, model.fc_kernels())
    fc = np.zeros((len(FC_CLASSES), at.NUM_UNITS, DENSE_ROWS + 1, 2))
    for i, kernel in enumerate(costs_of_fc.kernels):
        row = FC_CLASSES.index(kernel.kernel_class)
        fc[row, :, :, at.COST_S] += costs_of_fc.seconds[i]
        fc[row, :, :, at.COST_J] += costs_of_fc.joules[i]

    kinds = ["attention" if kind == "attention" else "fc" for kind in at.KERNEL_CLASSES]
    allowed = np.array([[system.can_run(name, kind) for name in UNIT_NAMES] for kind in kinds])  # type: ignore[arg-type]
    defaults = np.array([UNIT_NAMES.index(system.unit_of(kind)) for kind in kinds])  # type: ignore[arg-type]
    attention, rounds = _attention(system, model)

    scalars = np.zeros(at.NUM_SCALARS)
    scalars[at.ENERGY_WEIGHT] = scenario.energy_weight
    scalars[at.STATIC_W] = system.static_power_w
    scalars[at.SWITCH_S] = default_switch_s if scenario.switch_s is None else scenario.switch_s
    scalars[at.LAYERS] = model.layers
    scalars[at.ALPHA] = costs_of_fc.calibrate_alpha()
    scalars[at.CONTEXT_LIMIT] = model.context_limit
    scalars[at.BATCH] = workload.batch_size
    scalars[at.ACCEPTANCE] = workload.acceptance_rate * 2.0**53
    scalars[at.GROUP_COLUMNS] = _group_columns(system, model)
    scalars[at.OVERHEAD_S] = model.layers * system.layer_overhead_s
    scalars[at.REFERENCE] = 1.0

    schedule = np.array([(0, workload.speculation), *workload.speculation_schedule], dtype=np.int64)
    population = scenario.population()
    tables = EngineTables(
        fc=fc,
        attention=attention,
        rounds=rounds,
        attention_link=_attention_link(system, model),
        moves=_moves(system, model),
        schedule=schedule,
        population=np.ascontiguousarray(population.lengths, dtype=np.int32),
        allowed=allowed,
        defaults=defaults.astype(np.int64),
        scalars=scalars,
        descriptors=np.zeros(len(at.DESCRIPTOR_NAMES), dtype=np.float32),
    )
    scalars[at.REFERENCE] = _reference(tables, float(population.lengths[:, 0].mean()))
    _check_finite(tables, system.name)
    tables.descriptors[:] = _descriptors(scenario, scalars)
    for array in tables:
        array.flags.writeable = False
    return tables


def _check_finite(tables: EngineTables, system: str) -> None:
    """Refuse figures so extreme that a cost of a usable unit is no finite number."""
    usable = [tables.fc[:, unit] for unit in np.flatnonzero(tables.allowed[at.QKV])]
    usable += [tables.attention[unit, 1:] for unit in np.flatnonzero(tables.allowed[at.ATTENTION])]
    usable += [tables.attention_link, tables.moves, tables.scalars[: at.ALPHA]]
    if not all(np.isfinite(part).all() for part in usable) or not tables.scalars[at.REFERENCE] > 0:
        raise ConfigurationError(
            f"System {system!r}: figures so extreme that a cost is not a finite number of seconds"
        )


def _attention(system: System, model: Transformer) -> tuple[FloatArray, FloatArray]:
    """Coefficients by unit and TLP, and rounds by unit and RLP, of the functions in `hardware.costs`."""
    kernel = model.attention_kernel()
    columns = _group_columns(system, model)
    attention = np.zeros((at.NUM_UNITS, MAX_SPECULATION + 1, at.NUM_ATTENTION))
    rounds = np.zeros((at.NUM_UNITS, MAX_BATCH + 1, 2))
    for u, name in enumerate(UNIT_NAMES):
        unit = system.unit(name)
        if unit is None or not system.can_run(name, "attention"):
            attention[u] = np.inf
            rounds[u] = 1.0
            continue
        link_s_per_token = _kv_link_s_per_token(system, model, name)
        for tlp in range(1, MAX_SPECULATION + 1):
            row = attention[u, tlp]
            if isinstance(unit, PimUnit):
                work = costs.pim_attention_coefficients(unit, kernel, tlp)
                # The engine counts chunks by the layout of the unit with the KV caches; a unit with another
                # layout gets as many per group as it has, and half a chunk more for the last one.
                scale = work.group_columns / columns
                row[at.PER_GROUP_S] = work.per_group
                row[at.PER_CHUNK_S] = work.per_chunk * scale
                row[at.PER_PAIR_S] = work.per_pair + (0.0 if scale == 1 else 0.5 * work.per_chunk)
                row[at.PER_START_S] = work.per_start
                row[at.UNPAIRED_S] = work.unpaired_per_chunk * scale
                row[: at.PER_TOKEN_S] *= dram.CLOCK_S
                row[at.PER_GROUP_J] = costs.pim_attention_energy(unit, kernel, 1, tlp).total
            elif isinstance(unit, ProcessingUnit):
                row[at.PER_TOKEN_S] = costs.pu_attention_s(unit, kernel, 1, tlp)
                row[at.PER_TOKEN_J] = costs.pu_attention_energy(unit, kernel, 1, tlp).total
            row *= kernel.count
            row[at.LINK_PER_TOKEN_S] = link_s_per_token
            if link_s_per_token > 0:
                assert system.attention_link is not None
                row[at.PER_TOKEN_J] += model.kv_bytes_per_token * system.attention_link.j_per_byte
        if isinstance(unit, PimUnit):
            pairs = costs.attention_rounds(unit, kernel, np.arange(MAX_BATCH + 1))
            rounds[u, :, at.ROUNDS] = pairs
            rounds[u, :, at.UNPAIRED] = pairs % 2 / np.maximum(pairs, 1)
    return attention, rounds


def _group_columns(system: System, model: Transformer) -> int:
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


def _attention_link(system: System, model: Transformer) -> FloatArray:
    """[units, n, (s, J)] of the vectors that cross the attention link in one iteration."""
    table = np.zeros((at.NUM_UNITS, DENSE_ROWS + 1, 2))
    link = system.attention_link
    if system.attn_pim is None or link is None:
        return table
    n = np.arange(DENSE_ROWS + 1, dtype=np.float64)
    kv = 2 * n * 2 * model.kv_width  # FP16 bytes of new keys and values in one layer
    vector = 2 * n * model.hidden  # a query, or an output
    for u, name in enumerate(UNIT_NAMES):
        # With attention where the KV caches are, queries go there too and outputs come back; else only
        # the new keys and values are written home (the old ones are counted per token).
        there, back = (vector + kv, vector) if name == "attn-pim" else (kv, 0.0 * n)
        table[u, :, at.COST_S] = model.layers * (link.transfer_s(there) + link.transfer_s(back))
        table[u, :, at.COST_J] = model.layers * (there + back) * link.j_per_byte
    return table


def _moves(system: System, model: Transformer) -> FloatArray:
    """[n, 4]: combining outputs in one iteration, and one crossing of activations between PUs and FC-PIM.

    Outputs are combined twice a layer, after projection and feed-forward, on whichever unit those ran: the
    stacks of a GPU hold its slice of the weights either way.
    """
    table = np.zeros((DENSE_ROWS + 1, 4))
    size = 2 * np.arange(DENSE_ROWS + 1, dtype=np.float64) * model.hidden
    table[:, at.COMBINE_S] = 2 * model.layers * system.combine_s(size)
    table[:, at.COMBINE_J] = 2 * model.layers * system.combine_j(size)
    if system.pu is not None and system.fc_pim is not None and system.fabric is not None:
        # Every GPU has its own link to its own stacks.
        links = system.fabric.model_copy(update={"count": system.pu.count})
        table[:, at.CROSSING_S] = links.transfer_s(size)
        table[:, at.CROSSING_J] = size * system.fabric.j_per_byte
    return table


def _reference(tables: EngineTables, mean_input: float) -> float:
    """What one iteration of the full batch at the mean input costs on the default units: time + weight x energy."""
    rlp = int(tables.scalars[at.BATCH])
    tlp = int(tables.schedule[0, 1])
    groups = int(np.ceil((mean_input + tlp) / dram.GROUP_TOKENS))
    chunks = int(np.ceil(groups * tables.scalars[at.GROUP_COLUMNS] / dram.COLUMNS_PER_ROW))
    qkv, attention, projection, feed_forward = (int(unit) for unit in tables.defaults)
    cost = iteration_cost(
        rlp,
        tlp,
        rlp * round(mean_input + tlp),
        rlp * groups,
        groups,
        rlp * chunks,
        chunks,
        -1,
        qkv,
        attention,
        projection,
        feed_forward,
        tables.fc,
        tables.attention,
        tables.rounds,
        tables.attention_link,
        tables.moves,
        tables.scalars,
    )
    seconds, dynamic_j = float(cost[0]), float(cost[1])
    total_j = dynamic_j + seconds * float(tables.scalars[at.STATIC_W])
    return seconds + float(tables.scalars[at.ENERGY_WEIGHT]) * total_j


def _descriptors(scenario: Scenario, scalars: FloatArray) -> list[float]:
    """The constant features, in the order of `layout.DESCRIPTOR_NAMES`."""
    system, model = scenario.system, scenario.model

    def decades(value: float) -> float:
        return float(np.log10(value)) / 20 if value > 0 else 0.0

    def squash(value: float) -> float:
        return value / (1 + value)

    rates: list[float] = []
    rates += [system.pu.total_flops, system.pu.total_bandwidth] if system.pu else [0.0, 0.0]
    for unit in (system.fc_pim, system.attn_pim):
        rates += [unit.peak_flops, unit.peak_bandwidth] if unit else [0.0, 0.0]
    rates.append(system.attention_link.total_bandwidth if system.attn_pim and system.attention_link else 0.0)
    return [
        *(decades(rate) for rate in rates),
        squash(scalars[at.SWITCH_S] / scalars[at.REFERENCE]),
        decades(model.weight_bytes),
        decades(model.kv_bytes_per_token),
        model.layers / 1000,
        squash(scenario.energy_weight * system.static_power_w),
    ]
