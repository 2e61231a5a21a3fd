"""Links between units: what they move in a second, and what a message pays besides."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from papi_env.definition import Definition
from papi_env.kernel import FloatArray
from papi_env.quantities import Count, JoulesPerByte, LatencySeconds, LinkBandwidth
from papi_env.registry import resolve

# Units wait for each other before they combine: measured all-reduces on 8 GPUs take 5.7-7.2 us however small the
# message (SGLang on H100, MSCCL++ on A100), 2 us of it there and back over NVLink.
SYNC_S = 4.5e-6


class Ring(Definition):
    """A ring all-reduce of large messages: each rank sends 2 (ranks - 1) / ranks of the message.

    `start_s`, and `step_s` for each further rank; `bandwidth` B/s that a rank sends.
    """

    start_s: LatencySeconds = Field(ge=0, le=1e-2)
    step_s: LatencySeconds = Field(ge=0, le=1e-2)
    bandwidth: LinkBandwidth = Field(gt=0)

    def seconds(self, size: FloatArray | float, ranks: int) -> FloatArray:
        """Seconds to sum `size` bytes over `ranks` ranks (shape of `size`); nothing to sum takes no time."""
        size = np.asarray(size, dtype=np.float64)
        sent = 2 * (ranks - 1) / ranks * size
        return np.where(size > 0, self.start_s + self.step_s * (ranks - 1) + sent / self.bandwidth, 0.0)


class Link(Definition):
    """A point-to-point link: `latency_s` one way, `bandwidth` B/s each way, `count` lanes bundles in parallel.

    A fabric is such a link at each of its nodes. Two rates of combining outputs over it (`collectives`):
    `exchange_bandwidth`, B/s of the message in one exchange (by default the link's), and `ring`, where it has
    one. Both are of one link, as `bandwidth` is.

    A cluster has two levels: this link among the `per_node` units of a node, and from each of them `between`, a link
    to the units of the other nodes (a registered name, or a table).
    """

    name: str
    bandwidth: LinkBandwidth = Field(gt=0, description="B/s each way of one link")
    latency_s: LatencySeconds = Field(ge=0, description="seconds one way")
    count: Count = Field(1, ge=1, le=65536)
    j_per_byte: JoulesPerByte = Field(ge=0)
    max_devices: Count | None = Field(None, ge=1, description="devices that one such fabric addresses")
    sync_s: LatencySeconds = Field(
        SYNC_S, ge=0, le=1e-2, description="seconds that units wait for each other"
    )
    exchange_bandwidth: LinkBandwidth | None = Field(None, gt=0)
    ring: Ring | None = None
    per_node: Count | None = Field(None, ge=1, le=4096, description="units that a node joins by this link")
    between: Link | None = None

    @field_validator("between", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return None if value == "none" else resolve(value, LINKS, "link")

    @model_validator(mode="after")
    def _two_levels_at_most(self) -> Link:
        if (self.per_node is None) != (self.between is None):
            raise ValueError(
                f"per_node is {self.per_node} and between {self.between and self.between.name!r}: expected both, units "
                "of a node and the link between nodes, or neither"
            )
        if self.between is not None and self.between.between is not None:
            raise ValueError(
                f"between is {self.between.name!r}, which has nodes itself: expected two levels at most"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_levels(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What few links have.
        data: dict[str, Any] = write(self)
        if self.between is None:
            data.pop("per_node", None)
            data.pop("between", None)
        return data

    def node_size(self, ranks: int) -> int:
        """Ranks that share a node, of so many on this link; all where there is one level."""
        return ranks if self.per_node is None else min(ranks, self.per_node)

    @model_validator(mode="after")
    def _below_its_bandwidth(self) -> Link:
        rates: dict[str, float | None] = {"exchange_bandwidth": self.exchange_bandwidth}
        if self.ring is not None:
            rates["ring.bandwidth"] = self.ring.bandwidth
        for name, rate in rates.items():
            if rate is not None and rate > self.bandwidth:
                raise ValueError(
                    f"{name} is {rate:g} B/s, expected at most the link's bandwidth, {self.bandwidth:g}"
                )
        return self

    @property
    def total_bandwidth(self) -> float:
        """B/s each way of all parallel links."""
        return self.bandwidth * self.count

    def transfer_s(self, size: FloatArray | float) -> FloatArray:
        """Seconds to move `size` bytes one way; nothing to move takes no time."""
        size = np.asarray(size, dtype=np.float64)
        return np.where(size > 0, self.latency_s + size / self.total_bandwidth, 0.0)

    def exchange_s(self, size: FloatArray | float) -> FloatArray:
        """Seconds of one exchange of `size` bytes: wait, there, and back; nothing to exchange takes no time."""
        size = np.asarray(size, dtype=np.float64)
        rate = (self.exchange_bandwidth or self.bandwidth) * self.count
        return np.where(size > 0, self.sync_s + 2 * self.latency_s + size / rate, 0.0)


# NVIDIA data sheets: 600 and 900 GB/s in both directions per GPU. Latency: chosen, 1 us for a peer write;
# range 0.5-2. Energy: 10.4 pJ/B (AttAcc's simulator).
# Small messages: one kernel in which every GPU reads the others' partial sums. Measured on 8 GPUs: MSCCL++ 7.2, 8.3,
# 13.0 us for 24, 96, 384 kB; SGLang (H100) 5.7, 7.8, 16.7, 33.8 us for 4 kB, 32 kB, 256 kB, 1 MB; vLLM's is slower.
# Between them, and up to 1 MB: 6.5 us and 60 GB/s. Rings: fitted to NCCL's lowest times on A100 and H100
# (`collectives.NCCL`).
NVLINK3 = Link(
    name="NVLink 3",
    bandwidth=300e9,
    latency_s=1e-6,
    j_per_byte=10.4e-12,
    exchange_bandwidth=60e9,
    ring=Ring(start_s=41e-6, step_s=4.2e-6, bandwidth=179e9),
)
NVLINK4 = Link(
    name="NVLink 4",
    bandwidth=450e9,
    latency_s=1e-6,
    j_per_byte=10.4e-12,
    exchange_bandwidth=60e9,
    ring=Ring(start_s=22.6e-6, step_s=0.87e-6, bandwidth=346e9),
)
# x16 links, each way. PCIe: at most 32 devices (PAPI), and a DMA set-up of 5-10 us when the driver starts it.
# chosen: 40 pJ/B (5 pJ/bit), range 20-60: published PCIe PHYs, no figure in either paper.
PCIE4 = Link(name="PCIe 4 x16", bandwidth=32e9, latency_s=5e-6, j_per_byte=40e-12, max_devices=32)
PCIE5 = Link(name="PCIe 5 x16", bandwidth=64e9, latency_s=5e-6, j_per_byte=40e-12, max_devices=32)
# CXL on a PCIe 5 x16 link; 4096 devices (PAPI). A load takes 250-400 ns there and back as published, and its host
# works on what comes: chosen, 0.3 us one way; range 0.09 (half a round trip in CENT's code) to 0.4.
CXL = Link(name="CXL (PCIe 5 x16)", bandwidth=64e9, latency_s=0.3e-6, j_per_byte=40e-12, max_devices=4096)

# One adapter a GPU, as in a DGX A100 (ConnectX-6, HDR) and a DGX H100 (ConnectX-7, NDR): 200 and 400 Gb/s each way.
# Latency: chosen, 2 us through adapters and a switch; range 1-5 (NVIDIA: 0.6 us an adapter, 0.13 a switch).
# chosen: 80 pJ/B (10 pJ/bit, two adapters and a switch), range 40-200.
HDR = Link(name="InfiniBand HDR", bandwidth=25e9, latency_s=2e-6, j_per_byte=80e-12)
NDR = Link(name="InfiniBand NDR", bandwidth=50e9, latency_s=2e-6, j_per_byte=80e-12)

LINKS: dict[str, Link] = {
    "nvlink3": NVLINK3,
    "nvlink4": NVLINK4,
    "pcie4": PCIE4,
    "pcie5": PCIE5,
    "cxl": CXL,
    "infiniband-hdr": HDR,
    "infiniband-ndr": NDR,
}
# Nodes of eight GPUs each (DGX A100, DGX H100).
LINKS["dgx-a100"] = NVLINK3.model_copy(update={"name": "DGX A100 cluster", "per_node": 8, "between": HDR})
LINKS["dgx-h100"] = NVLINK4.model_copy(update={"name": "DGX H100 cluster", "per_node": 8, "between": NDR})
