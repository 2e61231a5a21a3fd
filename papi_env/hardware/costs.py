"""Time and energy of a kernel on a unit, as plain vectorised functions.

Two quantities are kept apart on PIM: *FPU slots* take time (a column of weights feeds all FPUs of
its bank with different rows, so n rows take ceil(n / FPUs per bank) slots), *DRAM reads* take
energy (a column may stay latched for all n rows, PAPI's reuse). Every function gives one run of
the kernel; the caller multiplies by `kernel.count`.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.hardware import dram
from papi_env.hardware.attention import AttentionCoefficients, AttentionPim, attention_coefficients, busiest
from papi_env.hardware.energy import Energy
from papi_env.hardware.gpu_kernels import fc_s
from papi_env.hardware.measured import MeasuredKernels
from papi_env.hardware.units import LAYERS, PimUnit, ProcessingUnit
from papi_env.kernel import (
    FP16_BYTES,
    AttentionKernel,
    FloatArray,
    Kernel,
    KernelClass,
    Rows,
    activation_bytes,
    gpu_share,
    macs,
)

Numbers: TypeAlias = float | npt.NDArray[np.floating[Any]] | npt.NDArray[np.integer[Any]]


# --- processing units ------------------------------------------------------------------------------


def pu_fc_s(unit: ProcessingUnit, kernel: Kernel, rows: Rows) -> FloatArray:
    """Seconds of one FC kernel on all GPUs, each of which has an even share of it; as `unit.kernels` says.

    As measured, FP16 FC kernels take what `gpu_kernels.fc_s` says of a GPU's share. Convolutions with one filter, or
    whose windows overlap, do not run as tiles of a matrix, and other elements were not measured: they take a start
    and the roofline of the measured shares. Narrower weights alone save what the roofline says that they save of the
    measured time in FP16, but for the start: the tensor cores multiply FP16 numbers, to which weights are widened, at
    the unit's FP16 peak.
    By the roofline, the larger of compute and memory time (AttAcc's simulator without its wave quantisation).
    By table, what the unit's file says of a GPU's share.

    Raises:
        ConfigurationError: the unit's file does not have the kernel, or is faster than its peaks.
    """
    if unit.kernels == LAYERS:
        raise ConfigurationError(
            f"{unit.kernel_file}: measured layers of a server time Serving-v0 alone, expected a unit with other kernels"
        )
    table = unit.table
    if table is not None:
        return _table_fc_s(unit, table, kernel, rows)
    card = unit.measured
    if card is None or not _is_matrix(kernel):
        return unit.kernel_start_s + _roofline_s(unit, kernel, rows)
    inputs, outputs, groups = gpu_share(kernel, unit.count)
    seconds = fc_s(card, rows, outputs, inputs, groups=groups)
    if kernel.bytes_per_weight == FP16_BYTES:
        return seconds
    in_fp16 = replace(kernel, weight_element_bytes=None)
    saved = 1 - _roofline_s(unit, kernel, rows) / _roofline_s(unit, in_fp16, rows)
    return np.asarray(seconds - saved * np.maximum(seconds - unit.kernel_start_s, 0.0))


def _roofline_s(unit: ProcessingUnit, kernel: Kernel, rows: Rows) -> FloatArray:
    """The larger of compute and memory time at the unit's sustained rates."""
    size = kernel.weight_bytes + activation_bytes(kernel, rows)
    compute = 2 * macs(kernel, rows) / (unit.count * unit.sustained_flops)
    return np.maximum(compute, size / (unit.count * unit.streaming_bandwidth))


def _is_matrix(kernel: Kernel) -> bool:
    """Whether a kernel runs as those that were measured do."""
    filters = kernel.kernel_class is KernelClass.CONVOLUTION and kernel.outer == 1
    return kernel.taps == 1 and not filters and kernel.element_bytes == FP16_BYTES


def _table_fc_s(unit: ProcessingUnit, table: MeasuredKernels, kernel: Kernel, rows: Rows) -> FloatArray:
    if not _is_matrix(kernel) or kernel.bytes_per_weight != FP16_BYTES:
        raise ConfigurationError(
            f"{table.path}: {kernel.kernel_class} kernels with overlapping windows or other elements than FP16 are "
            "not FC kernels as measured, expected a unit with kernels = 'roofline'"
        )
    inputs, outputs, groups = gpu_share(kernel, unit.count)
    seconds = table.fc_s(rows, outputs, inputs, math.ceil(groups))
    least = pu_peak_s(unit, kernel, rows)
    # A file may round its times; a percent more than the peaks is another GPU.
    if np.any(seconds < 0.99 * least):
        at = int(np.argmax(least / seconds))
        raise ConfigurationError(
            f"{table.path}: {unit.name} at {np.ravel(rows)[at]} rows of {outputs:.0f} outputs and {inputs:.0f} inputs "
            f"takes {np.ravel(seconds)[at]:.3g} s, which exceeds its peaks: "
            f"expected at least {np.ravel(least)[at]:.3g} s"
        )
    return seconds


def pu_peak_s(unit: ProcessingUnit, kernel: Kernel, rows: Rows) -> FloatArray:
    """Seconds that one FC kernel takes on all GPUs at least: its arithmetic, or its weights, at the peaks."""
    return np.maximum(2 * macs(kernel, rows) / unit.total_flops, kernel.weight_bytes / unit.total_bandwidth)


def pu_fc_energy(unit: ProcessingUnit, kernel: Kernel, rows: Rows) -> Energy:
    """Joules of one FC kernel on all GPUs: weights and activations cross the memory interface once."""
    size = kernel.weight_bytes + activation_bytes(kernel, rows)
    return _pu_energy(unit, size, macs(kernel, rows))


def pu_attention_s(unit: ProcessingUnit, kernel: AttentionKernel, tokens: Numbers, tlp: int) -> FloatArray:
    """Seconds of decode attention on all GPUs over `tokens` context tokens in total, `tlp` queries each."""
    tokens = np.asarray(tokens, dtype=np.float64)
    compute = 2 * tokens * tlp * kernel.macs_per_context_token / (unit.total_flops * unit.compute_efficiency)
    memory = tokens * kernel.kv_bytes_per_token / (unit.count * unit.attention_bandwidth)
    return np.maximum(compute, memory)


def pu_attention_energy(unit: ProcessingUnit, kernel: AttentionKernel, tokens: Numbers, tlp: int) -> Energy:
    """Joules of decode attention on all GPUs; arguments as in `pu_attention_s`."""
    tokens = np.asarray(tokens, dtype=np.float64)
    return _pu_energy(unit, tokens * kernel.kv_bytes_per_token, tokens * tlp * kernel.macs_per_context_token)


def pu_prompt_energy(
    unit: ProcessingUnit, kernel: AttentionKernel, tokens: Numbers, pairs: Numbers
) -> Energy:
    """Joules of causal attention of prompts on all GPUs: keys and values of `tokens` once, `pairs` with queries."""
    size = np.asarray(tokens, dtype=np.float64) * kernel.kv_bytes_per_token
    return _pu_energy(unit, size, np.asarray(pairs, dtype=np.float64) * kernel.macs_per_context_token)


def _pu_energy(unit: ProcessingUnit, size: FloatArray, multiplies: FloatArray) -> Energy:
    # What opening rows and reading them take in HBM, whatever a GPU's memory: it moves joules between causes alone.
    activation = size * (dram.ACTIVATION_J / dram.ROW_BYTES)
    read = size * dram.READ_J_PER_BYTE
    transfer = size * unit.memory_j_per_byte - activation - read
    return Energy(activation, read, transfer, multiplies * unit.mac_j, np.zeros_like(size))


# --- processing in memory --------------------------------------------------------------------------


def pim_slots(unit: PimUnit, rows: Rows) -> FloatArray:
    """Column slots that `rows` rows take: ceil(rows / FPUs per bank); two per row if two banks share one."""
    rows = np.asarray(rows, dtype=np.float64)
    if unit.fpus_per_bank < 1:
        return np.asarray(rows * float(round(1 / unit.fpus_per_bank)))
    return np.ceil(rows / unit.fpus_per_bank)


def pim_reads(unit: PimUnit, rows: Rows) -> FloatArray:
    """How often each column is read from the DRAM array for `rows` rows."""
    rows = np.asarray(rows, dtype=np.float64)
    if unit.column_reads == "once":
        return np.ones_like(rows) if unit.reuse_limit is None else np.ceil(rows / unit.reuse_limit)
    return np.ceil(rows / max(unit.fpus_per_bank, 1.0))


def slots_per_column(bytes_per_weight: float) -> float:
    """Slots in which an FPU multiplies a column of weights with a row; 1 in FP16.

    chosen: the FPUs keep their FP16 lanes, one 32 B column of FP16 weights wide, and narrower weights are widened on
    their way from the column. So a column of 8-bit weights has twice as many and takes two slots: narrower weights save
    columns to read, rows to open, energy and capacity, not slots.
    """
    return max(FP16_BYTES / bytes_per_weight, 1.0)


def pim_cadence_clocks(unit: PimUnit, rows: Rows, per_column: float = 1.0) -> FloatArray:
    """Clocks between all-bank commands: the unit's cadence, or more where the power budget needs it.

    The budget bounds an average over many commands, so the spread need not be whole clocks. `per_column` is
    `slots_per_column`.
    """
    rows = np.asarray(rows, dtype=np.float64)
    slots, technology = pim_slots(unit, rows), unit.stack.technology
    column_j = technology.column_bytes * technology.read_with_activation_j_per_byte
    slot_j = unit.stack.banks * (
        pim_reads(unit, rows) / (slots * per_column) * column_j
        + rows / slots * technology.lanes * technology.mac_j
    )
    available_w = unit.power_budget_w - unit.background_power_w
    return np.maximum(unit.cadence_clocks, slot_j / available_w / technology.clock_s)


class FcMapping(NamedTuple):
    """How the weights of an FC kernel lie in the stacks of a PIM unit; fixed when they are stored.

    Attributes:
        columns: columns of weights in a bank, the fullest.
        vector_commands: writes of columns of inputs and moves of outputs on the busiest channel, per row.
        input_copies: GEMV buffers, in whole vectors, that an input is written to.
        partial_sums: channels that give a partial sum of each output.
        slots_per_column: see the function of that name.
    """

    columns: int
    vector_commands: int
    input_copies: float
    partial_sums: float
    slots_per_column: float = 1.0


def pim_fc_mapping(unit: PimUnit, kernel: Kernel) -> FcMapping:
    """The mapping of an FC kernel: the faster of two while the FPUs of a bank work through one row each.

    *Spread*, as AttAcc maps GEMV: outputs over the stacks, inputs over the channels of a stack, so a channel of
    16 gets a sixteenth of every input vector and gives a partial sum for each output of its stack. *By channel*,
    as AttAcc maps attention heads: independent matrices (`groups`) lie in channels of their own, several in
    one or one over several, which then divide its outputs; no partial sums, but channels may be left over.
    """
    technology = unit.stack.technology
    channels = unit.stacks * technology.channels
    size, per_column = kernel.element_bytes, slots_per_column(kernel.bytes_per_weight)

    def commands(inputs: float, outputs: float) -> int:
        return sum(math.ceil(vector * size / technology.column_bytes) for vector in (inputs, outputs))

    spread = FcMapping(
        columns=math.ceil(kernel.weight_bytes / (unit.stacks * unit.stack.banks * technology.column_bytes)),
        vector_commands=commands(
            kernel.inner * max(1.0, kernel.groups / unit.stacks) / technology.channels,
            kernel.groups * kernel.outer / unit.stacks,
        ),
        input_copies=max(1.0, unit.stacks / kernel.groups),
        partial_sums=technology.channels,
        slots_per_column=per_column,
    )
    if kernel.groups == 1:
        return spread
    held = math.ceil(kernel.groups / channels)  # matrices of the busiest channel
    shared_by = max(channels // kernel.groups, 1)  # channels of a matrix
    outputs = math.ceil(kernel.outer / shared_by)
    banks = unit.stack.banks_per_channel
    by_channel = FcMapping(
        columns=math.ceil(
            held * kernel.inner * outputs * kernel.bytes_per_weight / (banks * technology.column_bytes)
        ),
        vector_commands=commands(held * kernel.inner, held * outputs),
        input_copies=min(shared_by, kernel.outer),
        partial_sums=1,
        slots_per_column=per_column,
    )
    rows = max(1, round(unit.fpus_per_bank))
    return min(spread, by_channel, key=lambda mapping: float(_pim_fc_clocks(unit, mapping, rows)))


def pim_fc_s(unit: PimUnit, kernel: Kernel, rows: Rows) -> FloatArray:
    """Seconds of one FC kernel on all stacks of a PIM unit, mapped by `pim_fc_mapping`.

    Vectors move on a channel while its banks multiply, open rows or refresh if the buffers are double, else
    before and after.
    """
    return pim_mapped_s(unit, pim_fc_mapping(unit, kernel), rows)


def pim_mapped_s(unit: PimUnit, mapping: FcMapping, rows: Rows) -> FloatArray:
    """`pim_fc_s` of weights that lie as `mapping` says, whatever kernels they belong to."""
    return _pim_fc_clocks(unit, mapping, rows) * unit.stack.technology.clock_s


def _pim_fc_clocks(unit: PimUnit, mapping: FcMapping, rows: Rows) -> FloatArray:
    bank_clocks = _bank_clocks(unit, mapping, rows)
    vector_clocks = np.asarray(rows, dtype=np.float64) * (
        mapping.vector_commands * unit.stack.technology.write_clocks
    )
    return np.maximum(bank_clocks, vector_clocks) if unit.double_buffered else bank_clocks + vector_clocks


def pim_fc_bank_clocks(unit: PimUnit, kernel: Kernel, rows: Rows) -> FloatArray:
    """Clocks that the banks of a stack are busy with an FC kernel: commands, row changes and refreshes.

    All banks open rows together (`dram.row_clocks`). A row of weights stays open for all its slots if
    columns are read once, and is opened again for each pass otherwise. Refreshes fall due every t_refi
    whatever runs. Each waits until the banks are through with a row and takes the place of its change, as in
    attention (`papi_env.hardware.attention`), so that work takes longer by the same long-run share of its
    time. One that falls due while the banks wait for vectors is taken to cost nothing.

    Returns:
        Clocks of one run, float64 of the shape of `rows`.
    """
    return _bank_clocks(unit, pim_fc_mapping(unit, kernel), rows)


def _bank_clocks(unit: PimUnit, mapping: FcMapping, rows: Rows) -> FloatArray:
    passes, cadence = pim_reads(unit, rows), pim_cadence_clocks(unit, rows, mapping.slots_per_column)
    technology = unit.stack.technology
    full, rest = divmod(mapping.columns, technology.columns_per_row)
    per_column = pim_slots(unit, rows) * mapping.slots_per_column / passes
    busy = full * dram.row_clocks(cadence, technology.columns_per_row * per_column, technology)
    if rest:
        busy = busy + dram.row_clocks(cadence, rest * per_column, technology)
    # A refresh takes the place of the gap between two full rows, which is the change but at the slowest cadences.
    gap = np.maximum(float(technology.row_change_clocks), cadence)
    refreshes = dram.refresh_factor(dram.refresh_stall_clocks(0.0, gap, technology), technology)
    return passes * busy * refreshes


def pim_fc_energy(unit: PimUnit, kernel: Kernel, rows: Rows) -> Energy:
    """Joules of one FC kernel on all stacks: reads by reuse, vectors between buffer die and banks, MACs."""
    mapping, technology = pim_fc_mapping(unit, kernel), unit.stack.technology
    read_bytes = kernel.weight_bytes * pim_reads(unit, rows)
    row_count = np.asarray(rows, dtype=np.float64)
    inputs = row_count * kernel.groups * kernel.inner * kernel.element_bytes * mapping.input_copies
    outputs = row_count * kernel.groups * kernel.outer * kernel.element_bytes * mapping.partial_sums
    return Energy(
        activation=read_bytes * (technology.activation_j / technology.row_bytes),
        read=read_bytes * technology.read_j_per_byte,
        transfer=(inputs + outputs) * technology.to_buffer_j_per_byte,
        compute=macs(kernel, rows) * technology.mac_j,
        background=_pim_fc_clocks(unit, mapping, rows)
        * (technology.clock_s * unit.stacks * unit.active_power_w),
    )


class AttentionMapping(NamedTuple):
    """How decode attention lies on the channels of a PIM unit, for so many requests.

    Attributes:
        copies: places that keep a KV head's keys and values of a request, each with a part of the group's query
            heads.
        heads: query heads that share a read, the most of a copy.
        pairs: (copy of a KV head, request) pairs that the busiest channel has anything of.
        share: contexts that it works through in all, in contexts of mean length; less than one if they are split.
        share_of_one: the same of a single request, in those of its context.
        split: whether several channels share a context.
    """

    copies: int
    heads: int
    pairs: int
    share: float
    share_of_one: float
    split: bool


def _mapped(
    unit: PimUnit, kernel: AttentionKernel, rlp: int, copies: int, *, split: bool = True
) -> AttentionMapping:
    heads = math.ceil(kernel.heads // kernel.kv_heads / copies)
    channels = unit.stack.technology.channels
    on_stack = math.ceil(rlp * kernel.kv_heads * copies / unit.stacks)
    of_one = math.ceil(kernel.kv_heads * copies / unit.stacks)
    if split and on_stack < channels:
        # Channels that do not divide evenly among the pairs have some that work for two.
        pairs = 1 if channels % on_stack == 0 else 2
        share, share_of_one = on_stack / channels, of_one / channels
        return AttentionMapping(copies, heads, pairs, share, share_of_one, split=True)
    pairs = math.ceil(on_stack / channels)
    return AttentionMapping(copies, heads, pairs, float(pairs), math.ceil(of_one / channels), split=False)


@lru_cache(maxsize=65536)
def attention_mapping(unit: PimUnit, kernel: AttentionKernel, rlp: int, tlp: int) -> AttentionMapping:
    """The mapping of decode attention for `rlp` requests with `tlp` queries each.

    Pairs of a KV head and a request are dealt evenly over the stacks. With as many on a stack as it has channels
    (16 of HBM3), or more, they work through whole contexts one after the other (AttAcc's mapping). With fewer, the
    16-token groups of a stack's pairs are dealt over its channels, and the buffer die combines their partial softmaxes.

    Stacks do not share a context. Where (KV head, request) pairs are fewer than channels, keys and values of grouped
    queries are kept several times, each copy for a part of the query heads, as servers do whose tensor parallelism
    exceeds the KV heads. With a copy for each query head, attention is that of as many KV heads as query heads. Fewer
    copies, split or whole, replace it where they are never slower for requests of equal contexts, however long. So
    fewer KV heads are never slower than one for each query head; and not than a multiple of theirs either, but for
    one in a thousand cases, nearly all of 96 query heads and more or of four FPUs a bank (counted once; no command
    prints it), where whole numbers of heads and slots leave no mapping that is better at all contexts. Numbers of KV
    heads of which none divides the other can be packed better or worse than each other.

    A channel keeps one copy of the keys and values that its query heads share, at most those of two pairs where a
    pair has more query heads than channels; that this fits is not checked but where a kernel has `most_copies`. Moving
    keys and values when `rlp` or `tlp` changes is not charged.

    A unit whose `split_contexts` is off keeps every context whole and once, as AttAcc's simulator does.
    """
    group = kernel.heads // kernel.kv_heads
    filled = rlp * kernel.kv_heads >= unit.stacks * unit.stack.technology.channels
    if group == 1 or filled or not unit.split_contexts:
        return _mapped(unit, kernel, rlp, 1, split=unit.split_contexts)
    most = group if kernel.most_copies is None else min(kernel.most_copies, group)
    # The fewest copies that leave so many query heads to each; those with equal parts first.
    fewest = {math.ceil(group / heads) for heads in range(1, group + 1)}
    choices = sorted((c for c in fewest if c <= most), key=lambda count: (group % count != 0, -count))
    best = _mapped(unit, kernel, rlp, choices[0])
    clocks = _mapped_clocks(unit, kernel, best, tlp)
    for copies in choices[1:]:
        for split in (True, False):
            option = _mapped(unit, kernel, rlp, copies, split=split)
            found = _mapped_clocks(unit, kernel, option, tlp)
            if all(new <= old for new, old in zip(found, clocks, strict=True)):
                best, clocks = option, found
    return best


def _mapped_clocks(
    unit: PimUnit, kernel: AttentionKernel, mapping: AttentionMapping, tlp: int
) -> tuple[float, float, float]:
    """Clocks for equal contexts of one group, of one full DRAM row of keys, and for each such row more.

    All others lie between: a mapping that is not slower in these three never is.
    """
    work = _with_splits(unit, kernel, mapping, tlp)
    full = max(dram.COLUMNS_PER_ROW // work.group_columns, 1)
    chunk = work.per_chunk + work.unpaired_per_chunk * (mapping.pairs % 2) / mapping.pairs
    fixed = work.per_pair * mapping.pairs + work.per_start
    one = (
        mapping.share * (work.per_group + chunk * math.ceil(work.group_columns / dram.COLUMNS_PER_ROW))
        + fixed
    )
    per_row = mapping.share * (work.per_group * dram.COLUMNS_PER_ROW / work.group_columns + chunk)
    return one, mapping.share * (work.per_group * full + chunk) + fixed, per_row


@lru_cache(maxsize=4096)
def pim_attention_coefficients(
    unit: PimUnit, kernel: AttentionKernel, tlp: int, heads: int | None = None
) -> AttentionCoefficients:
    """Clocks of the busiest channel as a function of its groups, chunks and pairs, with `tlp` queries each.

    The command-counting model of `papi_env.hardware.attention`, at the cadence that the power budget leaves.
    `heads` query heads share a read; if not given, all of a group.
    """
    rows = kernel.rows_per_kv_head(tlp) if heads is None else heads * tlp
    placed = AttentionPim(
        level="bank",
        cadence_clocks=float(pim_cadence_clocks(unit, rows, slots_per_column(kernel.bytes_per_kv))),
        fpus=unit.fpus_per_bank,
        banks_per_channel=unit.stack.banks_per_channel,
        technology=unit.stack.technology,
    )
    return attention_coefficients(
        placed,
        kernel.head_size,
        kernel.element_bytes,
        rows,
        value_size=kernel.value_size,
        kv_element_bytes=kernel.kv_element_bytes,
    )


# Mappings are compared for every number of requests, by few different coefficients.
_coefficients = lru_cache(maxsize=4096)(pim_attention_coefficients)


@lru_cache(maxsize=65536)
def mapped_attention(
    unit: PimUnit, kernel: AttentionKernel, rlp: int, tlp: int
) -> tuple[AttentionMapping, AttentionCoefficients]:
    """The mapping, and its coefficients with what splitting contexts adds in `per_start`.

    Dealt groups, and key rows, leave the busiest channel up to one more than its share: 1 - share. Every pair that it
    has a part of gives a partial output of its own for each query row, those of a value with a maximum and a sum,
    moved to the buffer die a column at a time, which nothing hides. Adding them up there takes no time.
    """
    mapping = attention_mapping(unit, kernel, rlp, tlp)
    return mapping, _with_splits(unit, kernel, mapping, tlp)


def _with_splits(
    unit: PimUnit, kernel: AttentionKernel, mapping: AttentionMapping, tlp: int
) -> AttentionCoefficients:
    work = _coefficients(unit, kernel, tlp, mapping.heads)
    if not mapping.split:
        return work
    technology = unit.stack.technology
    partial = math.ceil((kernel.value_elements + 2) * kernel.element_bytes / technology.column_bytes)
    combining = mapping.pairs * mapping.heads * tlp * partial * technology.write_clocks
    chunk = work.per_chunk + work.unpaired_per_chunk * (mapping.pairs % 2) / mapping.pairs
    more = (1 - mapping.share) * (work.per_group + chunk)
    return replace(work, per_start=work.per_start + more + combining)


def prompt_attention(
    unit: PimUnit, kernel: AttentionKernel, rlp: int
) -> tuple[AttentionMapping, AttentionCoefficients]:
    """`mapped_attention` of prompts' queries, one after the other of each request; `per_start` is what each adds.

    One follows the other at once, so that what a start exposes is not counted.
    """
    mapping, work = mapped_attention(unit, kernel, rlp, 1)
    start = pim_attention_coefficients(unit, kernel, 1, mapping.heads).per_start
    return mapping, replace(work, per_start=work.per_start - start)


def busiest_channel(
    share: Numbers, rlp: Numbers, total: Numbers, longest: Numbers, share_of_one: Numbers = 1
) -> FloatArray:
    """Groups (or chunks) on the busiest channel (see `attention.busiest`).

    `total` is their sum over `rlp` requests, `longest` that of the longest request, `share` and `share_of_one` as in
    `AttentionMapping`.
    """
    mean = np.asarray(total, dtype=np.float64) / np.maximum(rlp, 1)
    return np.asarray(busiest(np.asarray(share), mean, np.asarray(share_of_one), longest))


def pim_attention_s(
    unit: PimUnit,
    kernel: AttentionKernel,
    contexts: npt.NDArray[np.integer[Any]],
    tlp: int,
) -> FloatArray:
    """Seconds of decode attention on a PIM unit: scores, softmax and weighted values, one run (layer).

    Args:
        contexts: tokens that each request attends to, int [..., requests], at least one request.
        tlp: tokens verified together per request.
    """
    contexts = np.asarray(contexts)
    rlp = contexts.shape[-1]
    mapping, work = mapped_attention(unit, kernel, rlp, tlp)
    most = [
        busiest_channel(mapping.share, rlp, parts.sum(axis=-1), parts.max(axis=-1), mapping.share_of_one)
        for parts in (work.groups(contexts), work.chunks(contexts))
    ]
    return work.clocks(most[0], most[1], mapping.pairs) * unit.stack.technology.clock_s


def pim_attention_energy(
    unit: PimUnit, kernel: AttentionKernel, groups: Numbers, tlp: int, rlp: int
) -> Energy:
    """Joules of decode attention on a PIM unit; whole 16-token groups are read and multiplied.

    Every copy of the keys and values is read (see `attention_mapping`, for `rlp` requests). Queries and outputs,
    partial ones too, are left out.
    """
    one = _mapped_energy(unit, kernel, rlp, tlp)
    if isinstance(groups, int) and groups == 1:
        return one
    count = np.asarray(groups, dtype=np.float64)
    return Energy(*(count * getattr(one, field.name) for field in fields(one)))


# Tables ask for a group's joules by cause and in all, of every number of requests.
@lru_cache(maxsize=65536)
def _mapped_energy(unit: PimUnit, kernel: AttentionKernel, rlp: int, tlp: int) -> Energy:
    mapping = attention_mapping(unit, kernel, rlp, tlp)
    return _group_energy(unit, kernel, tlp, mapping.copies, mapping.heads)


@lru_cache(maxsize=4096)
def _group_energy(unit: PimUnit, kernel: AttentionKernel, tlp: int, copies: int, heads: int) -> Energy:
    """Joules of one 16-token group of a request, in all its KV heads and their copies."""
    tokens, technology = float(dram.GROUP_TOKENS), unit.stack.technology
    read_bytes = tokens * kernel.pim_bytes_per_token * copies * float(pim_reads(unit, heads * tlp))
    # Per group each channel takes the scores back and forth for the softmax: one element per token and row.
    scores = 2 * tokens * tlp * kernel.heads * kernel.element_bytes
    # A channel's part of its stack's power, while it multiplies and opens rows.
    work = pim_attention_coefficients(unit, kernel, tlp, heads)
    busy = work.per_group + work.per_chunk * work.group_columns / dram.COLUMNS_PER_ROW
    busy_s = kernel.kv_heads * copies * busy * technology.clock_s
    parts = (
        read_bytes * (technology.activation_j / technology.row_bytes),
        read_bytes * technology.read_j_per_byte,
        scores * technology.to_buffer_j_per_byte,
        tokens * tlp * kernel.macs_per_context_token * technology.mac_j,
        busy_s * unit.active_power_w / technology.channels,
    )
    # Numbers instead of arrays: nobody who is given them can change them.
    return Energy(*(np.asarray(part)[()] for part in parts))
