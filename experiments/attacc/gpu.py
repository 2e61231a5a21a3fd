"""AttAcc's GPU: seconds on one of a tensor-parallel group, joules on all of them.

Arguments are per GPU; arrays run over decode steps.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from experiments.attacc.machines import Gpu, Model
from papi_env.kernel import FloatArray

Values: TypeAlias = float | FloatArray

COMPUTE_EFFICIENCY = 0.80
MEMORY_EFFICIENCY = 0.85
L1_TILES = np.array([8.0, 16, 32, 64, 128, 192, 256, 320, 384, 448, 512])
L1_TILE_INNER = 32
L2_TILE_INNER_SHARE = 1 / 64
REGISTER_TILE = 16

# Joules per byte; registers per operand of a multiply-accumulate; the ALU per multiply-accumulate.
DRAM_J, L2_J, L1_J, REGISTER_J, ALU_J, LINK_J = 28.72e-12, 2.4e-12, 1.28e-12, 0.0675e-12, 0.32e-12, 10.4e-12

# Fits to measurements at 1555 GB/s: seconds per byte, and seconds to start.
FITTED_BANDWIDTH = 1555e9
ACTIVATION_FIT = (4.47e-13, 8.29e-6)
NORM_FIT = (1.6e-12, 6.87e-6)
# An all-reduce: seconds per hop, and per byte at a link of 600 GB/s.
HOP_S, HOP_S_PER_BYTE, HOP_LINK = 6.06e-6, 0.009e-9, 600e9

CAUSES = ("dram", "l2", "l1", "register", "alu", "link")


@dataclass(frozen=True)
class Cost:
    """What a kernel takes: seconds, joules by cause (each a number or [steps]), and what bounds it."""

    seconds: Values
    dram: Values = 0.0
    l2: Values = 0.0
    l1: Values = 0.0
    register: Values = 0.0
    alu: Values = 0.0
    link: Values = 0.0
    compute_bound: bool = False

    def times(self, count: int) -> Cost:
        """The cost of `count` such kernels, one after the other."""
        joules = {cause: getattr(self, cause) * count for cause in CAUSES}
        return dataclasses.replace(self, seconds=self.seconds * count, **joules)


def utilisation(blocks: Values, multiprocessors: int) -> FloatArray:
    """Share of the multiprocessors that `blocks` thread blocks keep busy, in whole waves."""
    return np.asarray(blocks / (np.ceil(np.divide(blocks, multiprocessors)) * multiprocessors))


def traffic_bytes(
    m: Values, n: Values, k: Values, tile_m: Values, tile_n: Values, element_bytes: int
) -> FloatArray:
    """Bytes that a (m x k) x (k x n) product with tiles of tile_m x tile_n moves at one level of memory."""
    left = np.ceil(np.divide(n, tile_n)) * m * k
    right = np.ceil(np.divide(m, tile_m)) * n * k
    return np.asarray((left + right + m * n) * element_bytes)


def l1_tile(
    gpu: Gpu, m: FloatArray, n: FloatArray, k: FloatArray, count: int, element_bytes: int, batched: bool
) -> tuple[FloatArray, FloatArray]:
    """The tile (m, n) that fits L1 and has the least traffic over utilisation squared; the first of equals.

    Arguments as in `gemm`, all of one shape [steps].
    """
    shape = (L1_TILES.size, L1_TILES.size, m.size)
    tile_m = np.broadcast_to(np.minimum(L1_TILES[:, None, None], m), shape).reshape(-1, m.size)
    tile_n = np.broadcast_to(np.minimum(L1_TILES[None, :, None], n), shape).reshape(-1, m.size)
    fits = ((tile_m + tile_n) * L1_TILE_INNER + tile_m * tile_n) * element_bytes <= gpu.l1_bytes
    busy = utilisation(thread_blocks(m, n, tile_m, tile_n, count, batched), gpu.multiprocessors)
    cost = traffic_bytes(m, n, k, tile_m, tile_n, element_bytes) * count / busy**2
    best = np.where(fits, cost, np.inf).argmin(axis=0)
    steps = np.arange(m.size)
    return tile_m[best, steps], tile_n[best, steps]


def thread_blocks(
    m: Values, n: Values, tile_m: Values, tile_n: Values, count: int, batched: bool
) -> FloatArray:
    """Thread blocks of `count` products: one for each L1 tile, or for each product where they are `batched`."""
    if batched:
        return np.asarray(float(count))
    return np.asarray(np.ceil(np.divide(m, tile_m)) * np.ceil(np.divide(n, tile_n)) * count)


def off_chip_bytes(
    gpu: Gpu,
    m: FloatArray,
    n: FloatArray,
    k: FloatArray,
    tile: tuple[FloatArray, FloatArray],
    element_bytes: int,
) -> FloatArray:
    """Traffic to memory of one product with its best L2 tile, a multiple of the L1 tile `tile` that fits L2.

    Of one height the widest tile that fits moves least. The L1 tile itself is always allowed.
    """
    tile_m, tile_n = tile
    inner = k * L2_TILE_INNER_SHARE
    # Higher ones do not fit even with the narrowest tile.
    highest = np.minimum(m, gpu.l2_bytes / element_bytes / (inner + tile_n))
    heights = max(1, int(np.ceil(highest / tile_m).max()))
    height = np.minimum(tile_m * np.arange(1, heights + 1)[:, None], m)
    room = (gpu.l2_bytes / element_bytes - height * inner) / (inner + height)
    width = np.where(room >= n, n, np.floor(room / tile_n + 1e-9) * tile_n)
    width[0] = np.maximum(width[0], tile_n)
    moved = traffic_bytes(m, n, k, height, np.maximum(width, tile_n), element_bytes)
    return np.asarray(np.where(width >= tile_n, moved, np.inf).min(axis=0))


def gemm(
    gpu: Gpu,
    gpus: int,
    m: Values,
    n: Values,
    k: Values,
    element_bytes: int,
    *,
    count: int = 1,
    batched: bool = False,
) -> Cost:
    """`count` products (m x k) x (k x n): the larger of compute and memory time, both derated by utilisation.

    `batched` for attention, whose products are a thread block each. Registers count one product only,
    as in AttAcc's code.
    """
    m, n, k = (np.atleast_1d(size) for size in np.broadcast_arrays(*np.atleast_1d(m, n, k)))
    m, n, k = m.astype(np.float64), n.astype(np.float64), k.astype(np.float64)
    tile = l1_tile(gpu, m, n, k, count, element_bytes, batched)
    busy = utilisation(thread_blocks(m, n, *tile, count, batched), gpu.multiprocessors)
    off_chip = off_chip_bytes(gpu, m, n, k, tile, element_bytes) * count
    macs = m * n * k * count
    compute = 2 * macs / (gpu.flops * COMPUTE_EFFICIENCY * busy * (2 // element_bytes))
    memory = off_chip / (gpu.bandwidth * MEMORY_EFFICIENCY * busy)
    register_bytes = traffic_bytes(m, n, k, REGISTER_TILE, REGISTER_TILE, element_bytes) * count
    return Cost(
        seconds=np.maximum(compute, memory),
        dram=gpus * DRAM_J * off_chip,
        l2=gpus * L2_J * traffic_bytes(m, n, k, *tile, element_bytes) * count,
        l1=gpus * L1_J * register_bytes,
        register=gpus * REGISTER_J * 3 * m * n * k,
        alu=gpus * ALU_J * macs,
        compute_bound=bool((compute > memory).all()),
    )


def elementwise(
    gpu: Gpu,
    gpus: int,
    elements: Values,
    flops: int,
    operands: int,
    element_bytes: int,
    *,
    blocks: int = 1,
    fit: tuple[float, float] | None = None,
) -> Cost:
    """Softmax, activation or norm of `elements`: the larger of compute and memory time.

    `flops` per element; `operands` counts inputs and outputs. Memory time follows `fit`, or the bandwidth
    that `blocks` thread blocks get. Compute gets their share too: activations and norms are of one block,
    so they run on one multiprocessor.
    """
    size = operands * element_bytes * elements
    busy = utilisation(blocks, gpu.multiprocessors)
    compute = flops * elements / (gpu.flops * COMPUTE_EFFICIENCY * busy * (2 // element_bytes))
    if fit is None:
        memory = size / (gpu.bandwidth * MEMORY_EFFICIENCY * busy)
    else:
        memory = np.asarray(fit[0] * (FITTED_BANDWIDTH / gpu.bandwidth) * size + fit[1])
    return Cost(
        seconds=np.maximum(compute, memory),
        dram=gpus * DRAM_J * size,
        l2=gpus * L2_J * size,
        l1=gpus * L1_J * size,
        register=gpus * REGISTER_J * size,
        alu=gpus * ALU_J * flops / 2 * elements,
    )


def all_reduce(gpu: Gpu, gpus: int, size: float) -> Cost:
    """Summing `size` bytes over all GPUs: a ring of gpus - 1 hops with a share each."""
    share = size / gpus
    hop = HOP_S + HOP_S_PER_BYTE * share * (HOP_LINK / gpu.link)
    return Cost(seconds=(gpus - 1) * max(hop, share / (gpu.link / 2)), link=gpus * LINK_J * size)


@lru_cache(maxsize=256)
def token_layers(gpu: Gpu, gpus: int, model: Model, element_bytes: int, rows: int) -> dict[str, Cost]:
    """A decoder layer without attention for `rows` tokens. Slices of a GPU are truncated to integers."""
    share = model.hidden // gpus
    inner = model.expansion * share

    def fc(outputs: float, inputs: float) -> Cost:
        return gemm(gpu, gpus, rows, outputs, inputs, element_bytes)

    def act(flops: int, operands: int) -> Cost:
        return elementwise(gpu, gpus, rows * inner, flops, operands, element_bytes, fit=ACTIVATION_FIT)

    return {
        "qkv": fc(3 * share, model.hidden),
        "projection": fc(model.hidden, share),
        "up": fc(inner, model.hidden).times(2 if model.gated else 1),
        "activation": act(model.activation_flops, 3 if model.gated else 2),
        "down": fc(model.hidden, inner),
        "all_reduce": all_reduce(gpu, gpus, rows * model.hidden * element_bytes).times(2),
        "norm": elementwise(gpu, gpus, rows * model.hidden, 5, 3, element_bytes, fit=NORM_FIT).times(2),
    }


@lru_cache(maxsize=256)
def attention_layers(
    gpu: Gpu, gpus: int, model: Model, element_bytes: int, batch: int, queries: int, first: int, last: int
) -> dict[str, Cost]:
    """Attention on the GPUs, of `queries` tokens a request over each context from `first` to `last`."""
    products = model.heads // gpus * batch
    context = np.arange(first, last + 1, dtype=np.float64)

    def product(n: Values, k: Values) -> Cost:
        return gemm(gpu, gpus, queries, n, k, element_bytes, count=products, batched=True)

    scores = queries * context * products
    return {
        "score": product(context, model.head_size),
        "softmax": elementwise(gpu, gpus, scores, 5, 2, element_bytes, blocks=products),
        "context": product(model.head_size, context),
    }
