"""Everything that PAPI's paper leaves open, as one setting: readings and constants, bounded by physics.

A `Setting` names a reading for each thing that can be understood in several ways (`CHOICES`) and a value
for each constant that nobody published (`BOUNDS`); `build_system` gives the systems that it describes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from papi_env.errors import ConfigurationError
from papi_env.hardware.collectives import ATTACC_HOP_S as ALL_REDUCE_HOP_S
from papi_env.hardware.links import CXL, NVLINK3
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS, System, get_system

Batch = Literal["decaying", "fixed"]
Average = Literal["arithmetic", "geometric", "sums"]
AVERAGES: tuple[Average, ...] = get_args(Average)


@dataclass(frozen=True)
class Setting:
    """Readings and constants; the defaults are papi_env's own.

    Attributes:
        gpu_bandwidth, bank_rate: readings of `System.with_readings`.
        double_buffered: whether writes to the GEMV buffers and moves of partial sums hide behind the MACs.
        column_reads: whether a weight column is read (and its row opened) once for all n, or for each slot.
        combining: what joins the weight stacks of a system without GPUs: `described` (AttAcc-only its CXL
            links, PIM-only PAPI its NVLink), `link` or `nvlink` for both.
        broadcast: of combined outputs to the weight stacks of a system without GPUs: one copy that all
            receive (`multicast`), or one after the other (`unicast`).
        prefill: of systems without GPUs: on their own stacks (`pim`), on six A100 (`gpu`); or not counted
            for any system (`excluded`).
        batch: of rows E, N and S: requests end as their lengths say (`decaying`), or every request is of the
            mean length, so that RLP stays (`fixed`), as in AttAcc's simulator.
        pim_batch: the same of rows P, which are about decoding alone.
        order_batch: the same of row O2, which speaks of the initial batch.
        acceptance: chance that a drafted token is accepted.
        average: of a row over its configurations: of ratios, or the ratio of summed times (`sums`).
        static_power: whether rows N count static power.
        link_count, link_latency_s: of the x16 links between the Attn-PIM stacks and the rest; seconds one way.
        fabric_latency_s: of NVLink, seconds one way.
        all_reduce_hop_s: what a hop of the GPUs' all-reduce takes at least.
        gpu_layer_s, pim_layer_s: norms and activation functions of a decoder layer, seconds, in systems
            with and without GPUs.
    """

    gpu_bandwidth: str = "roofline"
    bank_rate: str = "attacc-limit"
    double_buffered: bool = True
    column_reads: str = "once"
    combining: str = "described"
    broadcast: str = "multicast"
    prefill: str = "pim"
    batch: Batch = "decaying"
    pim_batch: Batch = "decaying"
    order_batch: Batch = "decaying"
    acceptance: float = 1.0
    average: Average = "arithmetic"
    static_power: bool = True
    link_count: int = 1
    link_latency_s: float = CXL.latency_s
    fabric_latency_s: float = NVLINK3.latency_s
    all_reduce_hop_s: float = ALL_REDUCE_HOP_S
    gpu_layer_s: float = 0.0
    pim_layer_s: float = 0.0

    def __post_init__(self) -> None:
        for name, options in CHOICES.items():
            if getattr(self, name) not in options:
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}, expected one of {options}")
        for name, bound in BOUNDS.items():
            if not bound.low <= getattr(self, name) <= bound.high:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)!r}, expected {bound.low:g} to {bound.high:g}: {bound.source}"
                )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, by field."""
        return asdict(self)


@dataclass(frozen=True)
class Bound:
    """The physical range of a constant, in its unit, and who says so."""

    low: float
    high: float
    source: str
    logarithmic: bool = False


# AttAcc's simulator: two norms of 6.87 us and an activation function of 8.29 us, as GPU kernels of their own.
_LAYER_S = 2 * 6.87e-6 + 8.29e-6
BOUNDS: Mapping[str, Bound] = {
    "link_latency_s": Bound(
        90e-9, 10e-6, "one hop of CXL (CENT's code) to a PCIe DMA that the driver starts", logarithmic=True
    ),
    "fabric_latency_s": Bound(0.5e-6, 2e-6, "a peer write over NVLink", logarithmic=True),
    "all_reduce_hop_s": Bound(0.0, ALL_REDUCE_HOP_S, "a perfect collective to AttAcc's simulator"),
    "gpu_layer_s": Bound(0.0, _LAYER_S, "fused into the kernels to AttAcc's norms and activation"),
    "pim_layer_s": Bound(0.0, _LAYER_S, "in the buffer die for free to AttAcc's GPU kernels"),
}
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "gpu_bandwidth": tuple(GPU_BANDWIDTH_READINGS),
    "bank_rate": tuple(BANK_RATE_READINGS),
    "double_buffered": (True, False),
    "column_reads": ("once", "per-slot"),
    "combining": ("described", "link", "nvlink"),
    "broadcast": ("multicast", "unicast"),
    "prefill": ("pim", "gpu", "excluded"),
    "batch": get_args(Batch),
    "pim_batch": get_args(Batch),
    "order_batch": get_args(Batch),
    # Counting every verified token, and published rates: code and maths, tool calls, writing and questions.
    "acceptance": (1.0, 0.8, 0.65),
    "average": AVERAGES,
    "static_power": (True, False),
    "link_count": (1, 2, 3, 4, 5, 6),
}
assert {field.name for field in fields(Setting)} == {*BOUNDS, *CHOICES}


def build_system(setting: Setting, name: str) -> System:
    """A registered system under the readings and constants of a setting."""
    system = get_system(name).with_readings(setting.gpu_bandwidth, setting.bank_rate)
    changes: dict[str, Any] = {"all_reduce_hop_s": setting.all_reduce_hop_s}
    changes["layer_overhead_s"] = setting.gpu_layer_s if system.pu is not None else setting.pim_layer_s
    for field in ("fc_pim", "attn_pim"):
        unit = getattr(system, field)
        if unit is not None:
            pim = {"double_buffered": setting.double_buffered, "column_reads": setting.column_reads}
            changes[field] = unit.model_copy(update=pim)
    link = system.attention_link
    if link is not None:
        shared = {"latency_s": setting.link_latency_s, "count": setting.link_count}
        changes["attention_link"] = link.model_copy(update=shared)
    fabric = system.fabric
    if system.pu is None and setting.combining != "described":
        fabric = NVLINK3 if setting.combining == "nvlink" else None
    if fabric is not None:
        fabric = fabric.model_copy(update={"latency_s": setting.fabric_latency_s})
    if system.pu is None and setting.broadcast == "unicast":
        assert system.fc_pim is not None
        # `gather_and_broadcast_s` moves every byte twice; here a gather and a copy for every stack.
        link, copies = fabric or changes["attention_link"], (1 + system.fc_pim.stacks) / 2
        slower = {"bandwidth": link.bandwidth / copies, "j_per_byte": link.j_per_byte * copies}
        fabric = link.model_copy(update=slower)
    return system.model_copy(update={**changes, "fabric": fabric})
