"""Seconds to combine the outputs of an FC kernel over the units that ran it: one rule for all.

A kernel whose inputs are split leaves every unit with a partial sum of all outputs. Combining takes
`sync + 2 latency + bytes / bandwidth`: the units wait for each other, then inputs or partial sums go one way and
the results the other. GPUs have a second algorithm for large messages, a ring, and take the faster of the two.
NCCL as servers call it through torch is slower on small messages; `nccl_s` is its time as measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from papi_env.errors import ConfigurationError, lookup
from papi_env.kernel import FloatArray


@dataclass(frozen=True)
class Exchange:
    """What a message pays apart from its size, and the rate at which it goes; seconds, and B/s."""

    sync_s: float
    latency_s: float
    bandwidth: float

    def __post_init__(self) -> None:
        for name in ("sync_s", "latency_s"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigurationError(
                    f"Exchange: {name} is {getattr(self, name)!r}, expected seconds from 0 to below 1"
                )
        if not 0 < self.bandwidth < np.inf:
            raise ConfigurationError(
                f"Exchange: bandwidth is {self.bandwidth!r}, expected a number of B/s > 0"
            )

    def seconds(self, size: FloatArray | float) -> FloatArray:
        """Seconds for `size` bytes (same shape); nothing to combine takes no time."""
        size = np.asarray(size, dtype=np.float64)
        return np.where(size > 0, self.sync_s + 2 * self.latency_s + size / self.bandwidth, 0.0)


# GPUs on NVLink, small messages: one kernel in which every GPU reads the others' partial sums. Measured on 8 GPUs:
# MSCCL++ 7.2, 8.3, 13.0 us for 24, 96, 384 kB; SGLang's all-reduce (H100) 5.7, 7.8, 16.7, 33.8 us for 4 kB, 32 kB,
# 256 kB, 1 MB; vLLM's is slower. Between them, and up to 1 MB: 6.5 us and 60 GB/s.
NVLINK_EXCHANGE = Exchange(sync_s=4.5e-6, latency_s=1e-6, bandwidth=60e9)
# Stacks on one link of PCIe 5 x16 under CXL, whose host sums: the same wait, and 250-400 ns for a load there and
# back as published, 0.3 us of it each way with the host's work.
CXL_EXCHANGE = Exchange(sync_s=4.5e-6, latency_s=0.3e-6, bandwidth=64e9)


@dataclass(frozen=True)
class NcclConstants:
    """NCCL's two algorithms on one kind of GPU, fitted to the lowest times that Vidur publishes (MIT licence).

    Times on 2, 4 and 8 GPUs, 2 kB to 67 MB. Below 1 MB they scatter by factors of 2 to 5.
    """

    # Tree for small messages: seconds for each doubling of the GPUs, and B/s of the message.
    tree_step_s: float
    tree_bandwidth: float
    # Ring for large ones: seconds to start, and for each further GPU; B/s that a GPU sends.
    ring_start_s: float
    ring_step_s: float
    ring_bandwidth: float


# Fitted to: mean relative error, each factor of two in size counting alike.
NCCL: Mapping[str, NcclConstants] = {
    "a100": NcclConstants(
        tree_step_s=10e-6,
        tree_bandwidth=60e9,
        ring_start_s=41e-6,
        ring_step_s=4.2e-6,
        ring_bandwidth=179e9,
    ),
    "h100": NcclConstants(
        tree_step_s=6.2e-6,
        tree_bandwidth=73e9,
        ring_start_s=22.6e-6,
        ring_step_s=0.87e-6,
        ring_bandwidth=346e9,
    ),
}


def all_reduce_s(
    size: FloatArray | float, gpus: int, gpu: str, exchange: Exchange = NVLINK_EXCHANGE
) -> FloatArray:
    """Seconds to sum `size` bytes over GPUs on NVLink: the faster of one exchange and a ring.

    Args:
        size: bytes of the outputs, any shape.
        gpus: how many GPUs; one needs no sum.
        gpu: which, by name: for the ring, `a100` or `h100`.
        exchange: what small messages take.

    Raises:
        ConfigurationError: fewer than one GPU, or an unknown one.
    """
    size = _sized(size, gpus)
    constants = lookup("GPU", gpu, NCCL)
    if gpus == 1:
        return np.zeros_like(size)
    return np.minimum(exchange.seconds(size), _ring_s(size, gpus, constants))


def nccl_s(size: FloatArray | float, gpus: int, gpu: str) -> FloatArray:
    """Seconds that NCCL takes to sum `size` bytes, called through torch; arguments as in `all_reduce_s`."""
    size = _sized(size, gpus)
    constants = lookup("GPU", gpu, NCCL)
    if gpus == 1:
        return np.zeros_like(size)
    tree = constants.tree_step_s * np.log2(gpus) + size / constants.tree_bandwidth
    return np.where(size > 0, np.minimum(tree, _ring_s(size, gpus, constants)), 0.0)


def _sized(size: FloatArray | float, gpus: int) -> FloatArray:
    if gpus < 1:
        raise ConfigurationError(f"all-reduce: found {gpus!r} GPUs, expected at least 1")
    return np.asarray(size, dtype=np.float64)


def _ring_s(size: FloatArray, gpus: int, constants: NcclConstants) -> FloatArray:
    """A ring sends 2 (gpus - 1) / gpus of the message from every GPU."""
    sent = 2 * (gpus - 1) / gpus * size
    start = constants.ring_start_s + constants.ring_step_s * (gpus - 1)
    return np.where(size > 0, start + sent / constants.ring_bandwidth, 0.0)


def stack_sum_s(size: FloatArray | float, stacks: int, bandwidth: float) -> FloatArray:
    """Seconds in which a GPU sums the partial outputs of its own stacks: `stacks` reads and a write at its bandwidth.

    `size` is the bytes of the outputs; 16 kB of five stacks at 3352 GB/s take 0.03 us.
    """
    return np.asarray(size, dtype=np.float64) * ((stacks + 1) / bandwidth)


def host_sum_s(
    outputs: FloatArray | float,
    inputs: FloatArray | float,
    partials: int,
    links: int = 1,
    exchange: Exchange = CXL_EXCHANGE,
) -> FloatArray:
    """Seconds in which a host sums the outputs of stacks behind `links` links.

    Args:
        outputs: bytes of the outputs; `partials` of each cross the link.
        inputs: bytes of the next kernel's inputs, multicast to all stacks.
        partials: partial sums of an output: over how many stacks the inputs are cut.
        links: parallel links that share the bytes evenly.
        exchange: of one link.
    """
    moved = np.asarray(outputs, dtype=np.float64) * partials + np.asarray(inputs, dtype=np.float64)
    return exchange.seconds(moved / links)
