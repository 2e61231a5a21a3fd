"""Everything that PAPI's paper leaves open, as one setting: readings and constants, bounded by physics.

A `Setting` names a reading for each thing that can be understood in several ways (`CHOICES`) and a value
for each constant that nobody published (`BOUNDS`); `build_system` gives the systems that it describes. Its
defaults are those of the registered systems. What those do not have, an `OpenSystem` adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from papi_env.errors import ConfigurationError
from papi_env.hardware import dram
from papi_env.hardware.collectives import ATTACC_HOP_S
from papi_env.hardware.gpus import get_gpu
from papi_env.hardware.links import CXL, NVLINK3, SYNC_S, Link
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS, System, get_system
from papi_env.hardware.units import ROOFLINE, PimUnit
from papi_env.kernel import FloatArray, Kernel, Rows

Batch = Literal["decaying", "fixed"]
Average = Literal["arithmetic", "geometric", "sums"]
AVERAGES: tuple[Average, ...] = get_args(Average)


@dataclass(frozen=True)
class Setting:
    """Readings and constants; the defaults are papi_env's own.

    Attributes:
        gpu_bandwidth, bank_rate: readings of `System.with_readings`.
        gpu_kernels: FC kernels on GPUs as measured (`measured`), or by a roofline at AttAcc's shares.
        double_buffered: whether writes to the GEMV buffers and moves of partial sums hide behind the MACs.
        heads: (head, request) pairs are dealt evenly over the Attn-PIM stacks (`dealt`), or each head lies in one
            stack with all its requests (`per-stack`); the prefill on PIM deals them evenly either way.
        column_reads: whether a weight column is read (and its row opened) once for all n, or for each slot.
        reuse_limit: rows that a column read serves at most; None: all.
        split_contexts: whether few pairs of a KV head and a request share channels, or each lies on one.
        combining: of outputs: by papi_env's rule (`exchange`) or as AttAcc's simulator (`attacc`).
        outputs: what joins the weight stacks of a system without GPUs: `described` (AttAcc-only its CXL
            links, PIM-only PAPI its NVLink), `link` or `nvlink` for both, or `by-figure`: x16 links, but NVLink
            in figures 11 and 12, whose two systems have the same interconnect.
        output_links: x16 links that carry those outputs; None: as many as join the Attn-PIM stacks.
        partial_sums: stacks that an output is summed over where a host sums: 5 (2D blocks of 30 stacks), or 1
            where every stack has whole outputs.
        stack_sums: whether a kernel on FC-PIM pays the sum over the stacks of its GPU.
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
        stack_power: a stack draws `idle_power_w` while it waits and `active_power_w` while its banks work
            (`by-state`), the latter always (`always`), or the former always (`idle`). What it draws always is
            static power; the rest counts with the kernels, whatever `static_power` says.
        link_count, link_latency_s: of the x16 links between the Attn-PIM stacks and the rest; seconds one way.
        fabric_latency_s: of NVLink, seconds one way.
        sync_s: seconds that units wait for each other before they combine.
        exchange_bandwidth: B/s of a small all-reduce over NVLink.
        all_reduce_hop_s: what a hop of AttAcc's all-reduce takes at least.
        pim_start_s: seconds to start a kernel on PIM.
        idle_power_w, active_power_w: watts of a stack that waits, and background of one that works.
        gpu_idle_w: watts of a GPU without its stacks that waits.
        gpu_layer_s, pim_layer_s: norms and activation functions of a decoder layer, seconds, in systems
            with and without GPUs.
    """

    gpu_bandwidth: str = "hbm3"
    bank_rate: str = "attacc"
    gpu_kernels: str = "measured"
    double_buffered: bool = True
    heads: str = "dealt"
    column_reads: str = "once"
    reuse_limit: int | None = None
    split_contexts: bool = True
    combining: str = "exchange"
    outputs: str = "described"
    output_links: int | None = None
    partial_sums: int = 5
    stack_sums: bool = True
    broadcast: str = "multicast"
    prefill: str = "pim"
    batch: Batch = "decaying"
    pim_batch: Batch = "decaying"
    order_batch: Batch = "decaying"
    acceptance: float = 1.0
    average: Average = "arithmetic"
    static_power: bool = True
    stack_power: str = "by-state"
    link_count: int = 1
    link_latency_s: float = CXL.latency_s
    fabric_latency_s: float = NVLINK3.latency_s
    sync_s: float = SYNC_S
    exchange_bandwidth: float = NVLINK3.exchange_bandwidth or NVLINK3.bandwidth
    all_reduce_hop_s: float = ATTACC_HOP_S
    pim_start_s: float = 1e-6
    idle_power_w: float = dram.IDLE_POWER_W
    active_power_w: float = dram.BACKGROUND_POWER_W
    gpu_idle_w: float = get_gpu("a100").idle_power_w
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

    def departures(self) -> str:
        """Where the setting differs from papi_env's defaults, in words."""
        defaults = Setting()
        return ", ".join(
            f"{field.name} {shown(field.name, getattr(self, field.name))}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(defaults, field.name)
        )


@dataclass(frozen=True)
class Bound:
    """The physical range of a constant, in its unit, and who says so.

    `shown_as` is a larger or smaller unit and its size, in which the constant is printed.
    """

    low: float
    high: float
    source: str
    logarithmic: bool = False
    shown_as: tuple[str, float] = ("us", 1e-6)


# AttAcc's simulator: two norms of 6.87 us and an activation function of 8.29 us, as GPU kernels of their own.
_LAYER_S = 2 * 6.87e-6 + 8.29e-6
BOUNDS: Mapping[str, Bound] = {
    "link_latency_s": Bound(
        90e-9, 10e-6, "one hop of CXL (CENT's code) to a PCIe DMA that the driver starts", logarithmic=True
    ),
    "fabric_latency_s": Bound(0.5e-6, 2e-6, "a peer write over NVLink", logarithmic=True),
    "sync_s": Bound(0.0, 10e-6, "counters in hardware to NCCL called through torch"),
    "exchange_bandwidth": Bound(
        60e9,
        NVLINK3.bandwidth,
        "all-reduces as measured to the link's own rate",
        logarithmic=True,
        shown_as=("GB/s", 1e9),
    ),
    "all_reduce_hop_s": Bound(0.0, ATTACC_HOP_S, "a perfect collective to AttAcc's simulator"),
    "pim_start_s": Bound(0.0, 10e-6, "a command like any other to a driver's call"),
    "idle_power_w": Bound(1.0, 10.0, "self-refresh to a whole A100 as measured, idle", shown_as=("W", 1.0)),
    "active_power_w": Bound(
        10.0, 25.0, "a stack that waits to what PAPI's figure 7 leaves beside reads", shown_as=("W", 1.0)
    ),
    "gpu_idle_w": Bound(
        30.0, 100.0, "what is left of an idle A100 as measured beside its stacks", shown_as=("W", 1.0)
    ),
    "gpu_layer_s": Bound(0.0, _LAYER_S, "fused into the kernels to AttAcc's norms and activation"),
    "pim_layer_s": Bound(0.0, _LAYER_S, "in the buffer die for free to AttAcc's GPU kernels"),
}
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "gpu_bandwidth": tuple(GPU_BANDWIDTH_READINGS),
    "bank_rate": tuple(BANK_RATE_READINGS),
    "gpu_kernels": ("measured", ROOFLINE),
    "double_buffered": (True, False),
    "heads": ("dealt", "per-stack"),
    "column_reads": ("once", "per-slot"),
    "reuse_limit": (None, 64),
    "split_contexts": (True, False),
    "combining": ("exchange", "attacc"),
    "outputs": ("described", "link", "nvlink", "by-figure"),
    "output_links": (None, 1),
    "partial_sums": (5, 1),
    "stack_sums": (True, False),
    "broadcast": ("multicast", "unicast"),
    "prefill": ("pim", "gpu", "excluded"),
    "batch": get_args(Batch),
    "pim_batch": get_args(Batch),
    "order_batch": get_args(Batch),
    # Counting every verified token, and published rates: code and maths, tool calls, writing and questions.
    "acceptance": (1.0, 0.8, 0.65),
    "average": AVERAGES,
    "static_power": (True, False),
    "stack_power": ("by-state", "always", "idle"),
    "link_count": (1, 2, 3, 4, 5, 6),
}
assert {field.name for field in fields(Setting)} == {*BOUNDS, *CHOICES}


def shown(name: str, value: Any) -> str:
    """The value of a field as it is printed, a constant with its unit."""
    if name not in BOUNDS:
        return str(value)
    unit, size = BOUNDS[name].shown_as
    return f"{value / size:.3g} {unit}"


class OpenSystem(System):
    """A system with mechanisms that no registered one has; only for what the paper may have meant.

    Attributes:
        output_link: what joins weight stacks without GPUs to a host that sums, instead of `attention_link`;
            None leaves combining as it is.
        partials: stacks that an output is summed over there.
        copies: how often a sum crosses that link on its way back, 1 where all stacks receive it together.
        sums_in_nodes: whether kernels on FC-PIM pay the sum over the stacks of a node.
    """

    output_link: Link | None = None
    partials: int = 1
    copies: int = 1
    sums_in_nodes: bool = True

    def combine_s(self, block: Sequence[Kernel], rows: Rows) -> FloatArray:
        """Seconds to combine the outputs of a block, as `System.combine_s`."""
        if self.output_link is None:
            return super().combine_s(block, rows)
        return self.output_link.exchange_s(self._through_host(block, rows))

    def combine_j(self, block: Sequence[Kernel], rows: Rows) -> FloatArray:
        """Joules of `combine_s`."""
        if self.output_link is None:
            return super().combine_j(block, rows)
        return self._through_host(block, rows) * self.output_link.j_per_byte

    def _through_host(self, block: Sequence[Kernel], rows: Rows) -> FloatArray:
        width = sum(
            (self.partials * kernel.outer + self.copies * kernel.inner) * kernel.element_bytes
            for kernel in block
        )
        return np.asarray(rows, dtype=np.float64) * width

    def stack_sum_s(self, kernel: Kernel, rows: Rows) -> FloatArray:
        """Seconds in which a node sums its stacks' outputs, as `System.stack_sum_s`."""
        return super().stack_sum_s(kernel, rows) * float(self.sums_in_nodes)

    def stack_sum_j(self, kernel: Kernel, rows: Rows) -> FloatArray:
        """Joules of `stack_sum_s`."""
        return super().stack_sum_j(kernel, rows) * float(self.sums_in_nodes)


# As AttAcc's simulator gathers outputs over NVLink: each stack's part over the six links of six GPUs.
_GATHERING_NVLINKS = 6


def build_system(setting: Setting, name: str, *, same_interconnect: bool = False) -> System:
    """A registered system under the readings and constants of a setting.

    Args:
        setting: which.
        name: of the registered system.
        same_interconnect: as it stands in figures 11 and 12, which compare systems without GPUs (rows P).
    """
    system = get_system(name).with_readings(setting.gpu_bandwidth, setting.bank_rate)
    changes: dict[str, Any] = {
        "combining": setting.combining,
        "all_reduce_hop_s": setting.all_reduce_hop_s,
        "pim_start_s": setting.pim_start_s,
        "layer_overhead_s": setting.gpu_layer_s if system.pu is not None else setting.pim_layer_s,
    }
    if system.pu is not None:
        gpu: dict[str, Any] = {}
        if system.pu.name == "A100":
            gpu["idle_power_w"] = setting.gpu_idle_w
        if setting.gpu_kernels == ROOFLINE:
            gpu |= {"kernels": ROOFLINE, "attention_memory_efficiency": None}
        changes["pu"] = system.pu.model_copy(update=gpu)
    for field in ("fc_pim", "attn_pim"):
        unit = getattr(system, field)
        if unit is not None:
            pim = {
                "double_buffered": setting.double_buffered,
                "column_reads": setting.column_reads,
                "reuse_limit": setting.reuse_limit,
                "split_contexts": setting.split_contexts,
                **_stack_power(setting, unit),
            }
            changes[field] = unit.model_copy(update=pim)
    link = system.attention_link
    if link is not None:
        shared = {
            "latency_s": setting.link_latency_s,
            "count": setting.link_count,
            "sync_s": setting.sync_s,
        }
        link = changes["attention_link"] = link.model_copy(update=shared)
    fabric = _fabric(setting, system, same_interconnect)
    if fabric is not None:
        constants = {
            "latency_s": setting.fabric_latency_s,
            "sync_s": setting.sync_s,
            "exchange_bandwidth": setting.exchange_bandwidth,
        }
        fabric = fabric.model_copy(update=constants)
    extras: dict[str, Any] = {}
    if not setting.stack_sums and system.fc_pim is not None:
        extras["sums_in_nodes"] = False
    if system.pu is None:
        assert link is not None
        assert system.fc_pim is not None
        through = link.model_copy(update={"count": setting.output_links or link.count})
        copies = system.fc_pim.stacks if setting.broadcast == "unicast" else 1
        if setting.combining == "attacc":
            # A gather and a broadcast move every byte twice; one by one, a gather and a copy for every stack.
            via = through if fabric is None else fabric.model_copy(update={"count": _GATHERING_NVLINKS})
            factor = (1 + copies) / 2
            slower = {"bandwidth": via.bandwidth / factor, "j_per_byte": via.j_per_byte * factor}
            if fabric is not None or copies > 1 or through != link:
                fabric = via.model_copy(update=slower | {"exchange_bandwidth": None, "ring": None})
        elif fabric is None:
            found = {"output_link": through, "partials": setting.partial_sums, "copies": copies}
            if found != {"output_link": link, "partials": system.partial_sums, "copies": 1}:
                extras |= found
    changed = system.model_copy(update={**changes, "fabric": fabric})
    if extras:
        changed = OpenSystem.model_validate({**changed.model_dump(), **extras})
    pims = {field: _shared(unit) for field in ("fc_pim", "attn_pim") if (unit := getattr(changed, field))}
    return changed.model_copy(update=pims)


@lru_cache(maxsize=256)
def _shared(unit: PimUnit) -> PimUnit:
    """One object for equal units: what costs are kept of is then known again without comparing every field."""
    return unit


def _stack_power(setting: Setting, unit: PimUnit) -> dict[str, float]:
    idle, active = setting.idle_power_w, setting.active_power_w
    if setting.stack_power == "by-state":
        return {"idle_power_w": idle, "background_power_w": active}
    if setting.stack_power == "always":
        return {"idle_power_w": active, "background_power_w": active}
    # What is left of the budget for commands, and so their cadence, stays.
    saved = active - idle
    return {
        "idle_power_w": idle,
        "background_power_w": idle,
        "power_budget_w": unit.power_budget_w - saved,
    }


def _fabric(setting: Setting, system: System, same_interconnect: bool) -> Link | None:
    """The NVLink that joins the GPUs, or the weight stacks where there are none; None: their x16 links do."""
    if system.pu is not None or setting.outputs == "described":
        return system.fabric
    nvlink = same_interconnect if setting.outputs == "by-figure" else setting.outputs == "nvlink"
    return NVLINK3 if nvlink else None
