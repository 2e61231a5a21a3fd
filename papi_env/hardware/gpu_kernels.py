"""Seconds of dense FC kernels on one GPU, as measured: start-up, tiles in waves over the multiprocessors, L2, DRAM.

A library runs `rows x inputs` times `inputs x outputs` as thread blocks, one a tile of the result, or several
where the inputs are split between them. The tile is the library's to choose. For each shape of tile and split
the kernel takes

    start + (tensor^p + l2^p + dram^p)^(1/p) [+ the partial sums of a split]

with the times that the tensor cores, the L2 cache and the memory need on their own, and p for how far they
overlap. A library's choice is good, not best: the shapes are joined by a power mean that leans to the fastest.

The time never falls below FLOP over peak or bytes over bandwidth, and grows with rows, outputs and inputs.
Times are of FP16 kernels with operands that come from memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.kernel import FP16_BYTES, FloatArray

Sizes: TypeAlias = int | npt.NDArray[np.integer[Any]]

# Shapes that cuBLAS and CUTLASS ship for FP16 on these GPUs, with at most 128 x 256 results in a block's registers.
ROW_TILES = (16, 32, 64, 128, 256)
OUTPUT_TILES = (64, 128, 256)
SPLITS = (1, 2, 4, 8)
LARGEST_TILE = 128 * 256
# Inputs that a block multiplies between two loads.
DEPTH = 64
# A split leaves partial sums in FP32, written once and read once.
PARTIAL_BYTES = 2 * 4
# Kernels timed together: 56 shapes of tile and split times these fit a core's cache.
_CHUNK = 1024
# Of the 53 of a time (see `_fc_s`).
_KEPT_BITS = 32


@dataclass(frozen=True)
class KernelConstants:
    """What `fc_s` knows of a GPU. The first three are data sheet, the others are fitted to measured kernels.

    Raises:
        ConfigurationError: a value outside its range.
    """

    # Streaming multiprocessors (SMs); a block runs on one.
    multiprocessors: int
    # FP16 FLOP/s of the tensor cores.
    peak_flops: float
    # B/s; what the constants were fitted at, and the default of `fc_s`.
    memory_bandwidth: float
    # Seconds from launch to the first loads and from the last result to the end: range 1-10 us.
    start_s: float
    # Share of the memory's bandwidth that a long stream of weights gets: range 0.5-1.
    bandwidth_share: float
    # Share of the tensor cores' peak within a tile: range 0.5-1.
    peak_share: float
    # B/s of operands and results between L2 and all SMs: range 1e12-30e12. Blocks that get an operand together
    # (multicast, on Hopper) count it once each, so that it may exceed the cache's own rate.
    l2_bandwidth: float
    # Seconds that a split adds for the second pass over the partial sums: range 0-10 us.
    split_s: float
    # How far the last wave of blocks counts as a whole one: 1, all blocks of a wave end together; 0, SMs are
    # never idle before the end, because blocks drift apart and several share an SM.
    whole_waves: float
    # p above: 1, tensor cores, L2 and memory take turns; large, they overlap fully. Range 1-20.
    overlap: float
    # Power of the mean over shapes of tile: large, the library always finds the best. Range 5-200.
    choice: float

    def __post_init__(self) -> None:
        for field in fields(self):
            low, high = RANGES[field.name]
            value = getattr(self, field.name)
            if not low <= value <= high:
                raise ConfigurationError(
                    f"KernelConstants: {field.name} is {value!r}, expected {low:g} to {high:g}"
                )


# The ranges above, by field.
RANGES: Mapping[str, tuple[float, float]] = {
    "multiprocessors": (1, 1024),
    "peak_flops": (1e12, 1e17),
    "memory_bandwidth": (1e10, 1e15),
    "start_s": (1e-6, 10e-6),
    "bandwidth_share": (0.5, 1.0),
    "peak_share": (0.5, 1.0),
    "l2_bandwidth": (1e12, 30e12),
    "split_s": (0.0, 10e-6),
    "whole_waves": (0.0, 1.0),
    "overlap": (1.0, 20.0),
    "choice": (5.0, 200.0),
}
DATA_SHEET = ("multiprocessors", "peak_flops", "memory_bandwidth")
FITTED = tuple(name for name in RANGES if name not in DATA_SHEET)

# Data sheets: SMs, dense FP16 FLOP/s, B/s (A100 80 GB SXM, H100 80 GB SXM). The rest is fitted to the QKV,
# projection, up and down kernels of Llama-2 7B and 70B at tensor parallelism 1, 2, 4, 8 and 1-4096 tokens, as Vidur
# publishes them (MIT licence): `experiments.validate --gpu-kernels FILE --refit` gives these values again.
KERNEL_CONSTANTS: Mapping[str, KernelConstants] = {
    "a100": KernelConstants(
        multiprocessors=108,
        peak_flops=312e12,
        memory_bandwidth=2039e9,
        start_s=4.08e-6,
        bandwidth_share=0.827,
        peak_share=0.8523,
        l2_bandwidth=5.126e12,
        split_s=1.123e-6,
        whole_waves=0.2661,
        overlap=3.452,
        choice=52.77,
    ),
    "h100": KernelConstants(
        multiprocessors=132,
        peak_flops=989.4e12,
        memory_bandwidth=3352e9,
        start_s=3.724e-6,
        bandwidth_share=0.9444,
        peak_share=0.9998,
        l2_bandwidth=11.9e12,
        split_s=3.091e-6,
        whole_waves=0.8361,
        overlap=4.32,
        choice=24.27,
    ),
}


class Tilings(NamedTuple):
    """Shapes that a library chooses from, arrays [shapes, 1]: rows and outputs of a tile, split of the inputs."""

    rows: FloatArray
    outputs: FloatArray
    splits: FloatArray


def tilings() -> Tilings:
    """All shapes of `ROW_TILES`, `OUTPUT_TILES` and `SPLITS` whose tile fits a block's registers."""
    shapes = [
        (rows, outputs, split)
        for rows in ROW_TILES
        for outputs in OUTPUT_TILES
        for split in SPLITS
        if rows * outputs <= LARGEST_TILE
    ]
    return Tilings(*np.array(shapes, dtype=np.float64).T[:, :, None])


_TILINGS = tilings()


def fc_s(
    gpu: KernelConstants,
    rows: Sizes,
    outputs: Sizes | float,
    inputs: Sizes | float,
    bandwidth: float | None = None,
    groups: float = 1,
) -> FloatArray:
    """Seconds of one FP16 FC kernel on one GPU, its start included.

    Args:
        gpu: the constants.
        rows: input vectors, n.
        outputs: length of an output vector on this GPU; all matrices that run as one (QKV, gate and up) together.
        inputs: length of an input vector on this GPU. The three broadcast; an even share need not be whole.
        bandwidth: B/s of the GPU's memory, where it isn't the card's own; the constants stay.
        groups: matrices of that size that one launch works through, each with `rows` vectors of its own.

    Raises:
        ConfigurationError: a size below 1, or a bandwidth that is not a positive number.
    """
    if bandwidth is not None and not 0 < bandwidth < np.inf:
        raise ConfigurationError(f"fc_s: bandwidth is {bandwidth!r}, expected a number of B/s > 0")
    sizes = np.broadcast_arrays(
        *(np.asarray(size, dtype=np.float64) for size in (rows, outputs, inputs, groups))
    )
    for name, size in zip(("rows", "outputs", "inputs", "groups"), sizes, strict=True):
        if not np.all(size >= 1):
            raise ConfigurationError(f"fc_s: {name} has {size.min():g}, expected sizes of at least 1")
    flat = np.stack([size.ravel() for size in sizes])
    seconds = np.empty(flat.shape[1])
    for start in range(0, len(seconds), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        n, m, k, matrices = flat[:, chunk]
        seconds[chunk] = _fc_s(gpu, n, m, k, matrices, bandwidth or gpu.memory_bandwidth)
    return seconds.reshape(sizes[0].shape)


def _fc_s(
    gpu: KernelConstants,
    rows: FloatArray,
    outputs: FloatArray,
    inputs: FloatArray,
    groups: FloatArray,
    bandwidth: float,
) -> FloatArray:
    """`fc_s` of arrays [N], by the shapes [shapes, N]."""
    tile = _TILINGS
    blocks = groups * np.ceil(rows / tile.rows) * np.ceil(outputs / tile.outputs) * tile.splits
    depth = np.ceil(inputs / (tile.splits * DEPTH)) * DEPTH
    waves = blocks / gpu.multiprocessors
    whole = gpu.whole_waves * np.ceil(waves) + (1 - gpu.whole_waves) * np.maximum(waves, 1)

    tile_flops = 2 * tile.rows * tile.outputs * depth
    tensor_s = whole * tile_flops / (gpu.peak_flops / gpu.multiprocessors * gpu.peak_share)
    tile_bytes = ((tile.rows + tile.outputs) * depth + tile.rows * tile.outputs) * FP16_BYTES
    l2_s = blocks * tile_bytes / gpu.l2_bandwidth
    size = groups * (inputs * outputs + rows * (inputs + outputs)) * FP16_BYTES
    dram_s = size / (bandwidth * gpu.bandwidth_share)

    # Taking the largest out keeps the powers from running over or under.
    largest = np.maximum(np.maximum(tensor_s, l2_s), dram_s)
    shares = sum((part / largest) ** gpu.overlap for part in (tensor_s, l2_s, dram_s))
    seconds = gpu.start_s + largest * shares ** (1 / gpu.overlap)
    partial_s = gpu.split_s + tile.splits * groups * rows * outputs * (PARTIAL_BYTES / gpu.l2_bandwidth)
    seconds = seconds + np.where(tile.splits > 1, partial_s, 0.0)

    fastest = seconds.min(axis=0)
    spread = np.mean((fastest / seconds) ** gpu.choice, axis=0)
    seconds = fastest * spread ** (-1 / gpu.choice)
    # numpy's powers differ in their last bits among instruction sets. Of 53 bits 32 are kept, 2e-10 of a time that was
    # measured to a microsecond, so that tables are the same on every processor.
    fraction, exponent = np.frexp(seconds)
    return np.asarray(np.ldexp(np.rint(np.ldexp(fraction, _KEPT_BITS)), exponent - _KEPT_BITS))
