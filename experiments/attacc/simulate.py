"""AttAcc's whole run: prefill and decoding, attention on PIM, overlap, and the columns of its output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from experiments.attacc.gpu import ALU_J, CAUSES, LINK_J, Cost, Values, attention_layers, token_layers
from experiments.attacc.machines import STACKS_PER_DEVICE, Pim, PimLevel, Run
from papi_env.hardware import dram
from papi_env.hardware.attention import AttentionPim, Level, attention_clocks
from papi_env.kernel import FloatArray

STACK_BANDWIDTH = 670.4e9  # of a stack's interface, B/s
PIM_LINK = 600e9  # NVLink 3, both ways together, whatever the GPU
COMMAND_BYTES = 32

# Joules per byte from a cell to the unit; banks that one MAC command reads in a channel.
CELL_J: Mapping[PimLevel, float] = {"BA": 4.4e-12, "BG": 12.48e-12, "BUFFER": 26.32e-12}
BANKS_PER_MAC: Mapping[PimLevel, int] = {"BA": 64, "BG": 16, "BUFFER": 2}
# Joules per byte of a write through interposer and TSVs, and of a move between buffer die and banks:
# 0.3 + 0.5 + 1.23 + 1.01 pJ, per bit in AttAcc's source and per byte in its code.
WRITE_J, MOVE_J = 3.04e-12, 2.74e-12
SRAM_J = 0.0034e-12

LEVELS: Mapping[PimLevel, Level] = {"BA": "bank", "BG": "bank-group", "BUFFER": "buffer"}


class Commands(NamedTuple):
    """How often each command is issued on one stack: multiply, write to a GEMV buffer, and moves."""

    mac: Values
    write: Values
    move: Values


def _columns(level: PimLevel, head_size: int, element_bytes: int) -> int:
    """Columns of 32 B that a head's vector takes in each unit; four banks share it at bank level."""
    banks = 4 if level == "BA" else 1
    return -(-head_size * element_bytes // (banks * COMMAND_BYTES))


def _groups(level: PimLevel, context: Values) -> FloatArray:
    """Groups of tokens that are multiplied together: one for each unit of a channel."""
    return np.asarray(np.ceil(np.divide(context, 2 if level == "BUFFER" else 16)))


def commands(level: PimLevel, context: Values, pairs: int, head_size: int, element_bytes: int) -> Commands:
    """Commands of one stack for `pairs` (head, request) pairs over `context` tokens each.

    Pairs run in rounds of 16, one per channel, and rounds in twos. The second round's weighted values are
    traced with the first round's commands, so idle channels of an even last round take part in them.
    """
    columns, groups = _columns(level, head_size, element_bytes), _groups(level, context)
    rounds, idle = -(-pairs // dram.CHANNELS), -pairs % dram.CHANNELS
    value_pairs = pairs + (idle if rounds % 2 == 0 else 0)
    # One multiplication per channel for nothing starts the first two rounds.
    warm_up = dram.CHANNELS if rounds > 1 else 0
    units = 1 if level == "BUFFER" else 8
    # Scores leave per 16 groups and outputs per column; probabilities come back 32 B at a time.
    scores_out = units * np.ceil(groups / 16)
    values_out = {"BA": 8, "BG": 2, "BUFFER": 1}[level] * columns
    values_in = units * np.ceil(np.multiply(context, element_bytes) / (2 * units * COMMAND_BYTES))
    return Commands(
        mac=(pairs + value_pairs) * columns * groups + warm_up,
        write=pairs * columns * (4 if level == "BA" else 1),
        move=pairs * (scores_out + values_in) + value_pairs * values_out,
    )


def pim_cycles(
    context: Values,
    pairs: int,
    power_limit: bool,
    *,
    level: PimLevel = "BA",
    head_size: int = 128,
    element_bytes: int = 2,
) -> FloatArray:
    """Clocks of decode attention on one stack: `pairs` (head, request) pairs over `context` tokens each.

    papi_env's own command-counting model, with refreshes counted from the start as in AttAcc's runs.
    """
    return attention_clocks(
        AttentionPim.attacc(LEVELS[level], power_limit),
        head_size,
        element_bytes,
        np.asarray(context),
        pairs,
        refresh="counted",
    )


def pim_attention(run: Run, pim: Pim) -> dict[str, Cost]:
    """Decode attention on PIM, [steps]: `score` is all of it, `softmax` only decides what overlaps."""
    model, context = run.model, run.contexts
    products = model.heads // run.gpus * run.batch
    pairs = -(-products // STACKS_PER_DEVICE)
    head_size = model.traced_head_size or model.head_size
    clocks = pim_cycles(
        context,
        pairs,
        pim.power_limit,
        level=pim.level,
        head_size=head_size,
        element_bytes=run.element_bytes,
    )
    mac, write, move = commands(pim.level, context, pairs, head_size, run.element_bytes)
    cell = mac * BANKS_PER_MAC[pim.level] * CELL_J[pim.level]
    scores = context * products
    vectors = (run.batch * 3 * (model.hidden // run.gpus) + products * model.head_size) * run.element_bytes
    bandwidth = STACK_BANDWIDTH * STACKS_PER_DEVICE
    softmax_flops, softmax_bytes = 5 * scores, 2 * scores * run.element_bytes
    return {
        "score": Cost(
            clocks * dram.CLOCK_S,
            dram=pim.stacks * COMMAND_BYTES * (cell + write * WRITE_J + move * MOVE_J),
            alu=pim.devices * ALU_J * scores * model.head_size,
        ),
        "softmax": Cost(
            np.maximum(softmax_flops / (bandwidth * (2 // run.element_bytes)), softmax_bytes / bandwidth),
            dram=pim.devices * SRAM_J * softmax_bytes,
            alu=pim.devices * ALU_J * softmax_flops / 2,
        ),
        "transfer": Cost(np.asarray(vectors / (PIM_LINK / 2)), link=pim.devices * LINK_J * vectors),
    }


def overlap(
    qkv: Values, projection: Values, attention: Values, transfer: Values, exposed: float, pipeline: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Seconds of QKV, projection and transfer that stay visible beside `attention`.

    Heads follow one another, so of two overlapping kernels all but a share `exposed` of the shorter one
    hides. Transfers always overlap with attention; QKV and projection where `pipeline` is on, three
    quarters of what hides being QKV.
    """
    fc = np.add(qkv, projection)
    beside_attention = np.where(
        attention > transfer, transfer * exposed, transfer - attention * (1 - exposed)
    )
    if not pipeline:
        zero = 0 * beside_attention
        return qkv + zero, projection + zero, beside_attention
    hidden = attention * (1 - exposed)
    longer_attention, longer_transfer = attention > fc, fc <= transfer
    hides = longer_attention | longer_transfer
    return (
        np.where(hides, qkv * exposed, qkv - 0.75 * hidden),
        np.where(hides, projection * exposed, projection - 0.25 * hidden),
        np.where(hides, beside_attention, transfer * exposed),
    )


def shared_seconds(run: Run, pim: Pim, cost: Cost) -> Values:
    """Seconds of a feed-forward kernel of which the PIM devices take the part that their peaks allow.

    A compute-bound kernel gains two FLOP for each element of internal bandwidth, a memory-bound one that
    bandwidth over the batch, since PIM reads the weights once per request.
    """
    gpu, internal = run.gpu, run.gpu.bandwidth * pim.bandwidth_ratio
    if cost.compute_bound:
        return cost.seconds * (gpu.flops / (gpu.flops + 2 * internal / run.element_bytes))
    return cost.seconds * (gpu.bandwidth / (gpu.bandwidth + internal / run.batch))


def prefill_columns(run: Run) -> dict[str, float]:
    """Milliseconds of prefill by AttAcc's column names. Always on the GPUs, and without sending keys and values."""
    machine = (run.gpu, run.gpus, run.model, run.element_bytes)
    tokens = run.input_tokens
    layers = dict(token_layers(*machine, run.batch * tokens))
    layers |= attention_layers(*machine, run.batch, tokens, tokens, tokens)
    milliseconds = {
        name: 1e3 * run.model.layers * float(np.mean(cost.seconds)) for name, cost in layers.items()
    }
    columns = {
        "s_matmul": milliseconds["score"] + milliseconds["context"],
        "s_fc": sum(milliseconds[name] for name in ("qkv", "projection", "up", "down")),
        "s_comm": milliseconds["all_reduce"],
        "s_softmax": milliseconds["softmax"],
        "s_act": milliseconds["activation"],
        "s_lnorm": milliseconds["norm"],
    }
    return {"s_time": sum(columns.values()), **columns}


def decode_columns(run: Run) -> dict[str, float]:
    """Milliseconds and nanojoules of the mean decode iteration by AttAcc's column names."""
    machine = (run.gpu, run.gpus, run.model, run.element_bytes)
    layers = dict(token_layers(*machine, run.batch))
    seconds: dict[str, Values] = {}
    if run.pim is None:
        first, last = run.input_tokens + 1, run.input_tokens + run.output_tokens - 1
        layers |= attention_layers(*machine, run.batch, 1, first, last)
        seconds = {name: cost.seconds for name, cost in layers.items()}
    else:
        layers |= pim_attention(run, run.pim)
        seconds = {name: cost.seconds for name, cost in layers.items()}
        seconds["qkv"], seconds["projection"], seconds["transfer"] = overlap(
            seconds["qkv"],
            seconds["projection"],
            seconds["score"] + seconds["softmax"],
            seconds["transfer"],
            run.exposed,
            run.pipeline,
        )
        seconds["softmax"] = 0.0
        if run.share_feed_forward:
            seconds |= {name: shared_seconds(run, run.pim, layers[name]) for name in ("up", "down")}
    return _times(run, seconds) | _energies(run, layers)


def _times(run: Run, seconds: Mapping[str, Values]) -> dict[str, float]:
    """Milliseconds of the mean iteration, from seconds of one layer at each step."""
    milliseconds = {name: 1e3 * run.model.layers * float(np.mean(values)) for name, values in seconds.items()}

    def total(*names: str) -> float:
        return sum(milliseconds.get(name, 0.0) for name in names)

    return {
        "g_time (ms)": sum(milliseconds.values()),
        "g_matmul": total("score", "context"),
        "g_fc": total("qkv", "projection", "up", "down"),
        "g_comm": total("all_reduce", "transfer"),
        "g_etc": total("activation", "norm"),
        "g_qkv_time": total("qkv"),
        "g_prj_time": total("projection"),
        "g_ff_time": total("up", "down"),
        "g2g_comm": total("all_reduce"),
        "c2g_comm": total("transfer"),
        "g_softmax": total("softmax"),
        "g_act": total("activation"),
        "g_lnorm": total("norm"),
    }


def _energies(run: Run, layers: Mapping[str, Cost]) -> dict[str, float]:
    """Nanojoules of the mean iteration on all devices; overlap changes none of them."""

    def total(names: Iterable[str], causes: Iterable[str]) -> float:
        joules = (
            np.mean(getattr(layers[name], cause)) for name in names if name in layers for cause in causes
        )
        return 1e9 * run.model.layers * float(sum(joules))

    on_chip = ("l2", "l1", "register", "alu")
    fc, attention = ("qkv", "projection", "up", "down"), ("score", "softmax", "context")
    etc = ("activation", "norm")
    return {
        "g_energy (nJ)": total(layers, CAUSES),
        "g_dram_energy": total(layers, ("dram",)),
        "g_l2_energy": total(layers, ("l2",)),
        "g_l1_energy": total(layers, ("l1",)),
        "g_reg_energy": total(layers, ("register",)),
        "g_alu_energy": total(layers, ("alu",)),
        "g_fc_mem_energy": total(fc, ("dram",)),
        "g_fc_comp_energy": total(fc, on_chip),
        "g_attn_mem_energy": total(attention, ("dram",)),
        "g_attn_comp_energy": total(attention, on_chip),
        "g_etc_mem_energy": total(etc, ("dram",)),
        "g_etc_comp_energy": total(etc, on_chip),
        "g_comm_energy": total(layers, ("link",)),
    }


def simulate(run: Run) -> dict[str, float]:
    """AttAcc's output columns for one run: milliseconds, and nanojoules of a decode iteration."""
    return prefill_columns(run) | decode_columns(run)
