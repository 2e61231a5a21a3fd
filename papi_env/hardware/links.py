"""Links between units, and the all-reduce among GPUs."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from papi_env.definition import Definition
from papi_env.kernel import FloatArray
from papi_env.quantities import Count, JoulesPerByte, LatencySeconds, LinkBandwidth


class Link(Definition):
    """A point-to-point link: `latency_s` one way, `bandwidth` B/s each way, `count` lanes bundles in parallel."""

    name: str
    bandwidth: LinkBandwidth = Field(gt=0, description="B/s each way of one link")
    latency_s: LatencySeconds = Field(ge=0, description="seconds one way")
    count: Count = Field(1, ge=1, le=65536)
    j_per_byte: JoulesPerByte = Field(ge=0)
    max_devices: Count | None = Field(None, ge=1, description="devices that one such fabric addresses")

    @property
    def total_bandwidth(self) -> float:
        """B/s each way of all parallel links."""
        return self.bandwidth * self.count

    def transfer_s(self, size: FloatArray | float) -> FloatArray:
        """Seconds to move `size` bytes one way; nothing to move takes no time."""
        size = np.asarray(size, dtype=np.float64)
        return np.where(size > 0, self.latency_s + size / self.total_bandwidth, 0.0)


# NVIDIA data sheets: 600 and 900 GB/s in both directions per GPU. Latency: chosen, 1 us for a peer write;
# range 0.5-2. Energy: 10.4 pJ/B (AttAcc's simulator).
NVLINK3 = Link(name="NVLink 3", bandwidth=300e9, latency_s=1e-6, count=6, j_per_byte=10.4e-12)
NVLINK4 = Link(name="NVLink 4", bandwidth=450e9, latency_s=1e-6, count=6, j_per_byte=10.4e-12)
# x16 links, each way. PCIe: at most 32 devices (PAPI), and a DMA set-up of 5-10 us when the driver starts it.
# chosen: 40 pJ/B (5 pJ/bit), range 20-60: published PCIe PHYs, no figure in either paper.
PCIE4 = Link(name="PCIe 4 x16", bandwidth=32e9, latency_s=5e-6, j_per_byte=40e-12, max_devices=32)
PCIE5 = Link(name="PCIe 5 x16", bandwidth=64e9, latency_s=5e-6, j_per_byte=40e-12, max_devices=32)
# CXL on a PCIe 5 x16 link: one hop and back takes 180 ns in CENT's code; 4096 devices (PAPI).
CXL = Link(name="CXL (PCIe 5 x16)", bandwidth=64e9, latency_s=90e-9, j_per_byte=40e-12, max_devices=4096)

LINKS: dict[str, Link] = {"nvlink3": NVLINK3, "nvlink4": NVLINK4, "pcie4": PCIE4, "pcie5": PCIE5, "cxl": CXL}

# AttAcc's simulator: one hop of an all-reduce costs at least 6.06 us plus 0.009 ns per byte of a rank's
# share on a 600 GB/s NVLink, in proportion on others.
ALL_REDUCE_HOP_S = 6.06e-6
ALL_REDUCE_S_PER_BYTE = 0.009e-9
ALL_REDUCE_REFERENCE_BANDWIDTH = 600e9


def all_reduce_s(
    size: FloatArray | float, ranks: int, link: Link, hop_s: float = ALL_REDUCE_HOP_S
) -> FloatArray:
    """Seconds to sum `size` bytes over `ranks` GPUs joined by `link` (whose bandwidth is one GPU's, each way).

    Source: AttAcc's simulator, a ring of ranks - 1 hops.
    """
    size = np.asarray(size, dtype=np.float64)
    if ranks == 1:
        return np.zeros_like(size)
    share = size / ranks
    both_ways = 2 * link.bandwidth
    hop = hop_s + ALL_REDUCE_S_PER_BYTE * share * (ALL_REDUCE_REFERENCE_BANDWIDTH / both_ways)
    return np.where(size > 0, (ranks - 1) * np.maximum(hop, share / link.bandwidth), 0.0)


def gather_and_broadcast_s(size: FloatArray | float, link: Link) -> FloatArray:
    """Seconds to collect `size` bytes of outputs from many stacks over `link` and send them to all again."""
    return 2 * link.transfer_s(size)
