"""A system: named units, the links between them, capacities, static power; and the registry of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from papi_env.definition import Definition
from papi_env.errors import ConfigurationError, lookup
from papi_env.hardware import dram
from papi_env.hardware.collectives import (
    ATTACC_HOP_S,
    all_reduce_j,
    all_reduce_s,
    attacc_all_reduce_s,
    full_nodes,
    gather_and_broadcast_s,
    stack_sum_s,
)
from papi_env.hardware.examples import (
    AIM_CHIPS,
    AIM_CHIPS_PER_CARD,
    CXL_FABRIC,
    NEUPIMS_PIM,
    NEUPIMS_PU,
    PNM_MODULE,
)
from papi_env.hardware.gpus import ATTENTION_EFFICIENCY, GPUS, get_gpu
from papi_env.hardware.links import CXL, LINKS, NVLINK3, NVLINK4, PCIE5, Link
from papi_env.hardware.technology import HBM3
from papi_env.hardware.units import (
    STACKS_PER_GPU,
    UNIT_NAMES,
    KernelKind,
    PimUnit,
    ProcessingUnit,
    UnitName,
)
from papi_env.kernel import FloatArray, Kernel, Rows
from papi_env.quantities import Count, OverheadSeconds
from papi_env.registry import resolve

# PAPI's two readings of an A100's memory bandwidth (B/s), and of a bank's rate (clocks per command).
GPU_BANDWIDTH_READINGS = {"roofline": 1935e9, "hbm3": 3352e9}
BANK_RATE_READINGS = {"attacc-limit": 6.0, "attacc": 4.0, "papi": 2.0}


class System(Definition):
    """Processing units, FC-PIM and Attn-PIM stacks, any of them absent, and what joins them.

    Weights live in the FC-PIM stacks, which are the GPUs' own memory, else in plain GPU memory. KV
    caches live in the Attn-PIM stacks, else beside the weights. `attention_link` joins the Attn-PIM
    stacks with the rest; `fabric` joins the GPUs, or groups of `node_stacks` weight stacks where there are
    none, and carries activations between a GPU and its FC-PIM. It may have two levels, nodes of several GPUs and links
    between nodes (`Link.per_node`).

    Weights are cut in 2D blocks, one per stack (PAPI, section 6.4), so that projection and feed-forward leave
    partial sums which the next kernel needs whole: every layer combines them twice. Stacks of one GPU or group
    are summed there (`stack_sum_s`, part of a kernel on FC-PIM). Then, by one rule (`collectives`): the nodes
    of a fabric by an all-reduce, whichever unit ran the kernel; stacks without a fabric by their host, over
    the attention link.
    """

    name: str
    description: str = ""
    pu: ProcessingUnit | None = None
    fc_pim: PimUnit | None = None
    attn_pim: PimUnit | None = None
    attention_link: Link | None = CXL
    fabric: Link | None = None
    prefill_unit: Literal["pu", "fc-pim"] = "pu"
    # Where attention runs if no action says so; by default as `unit_of` has it.
    attention_unit: UnitName | None = None
    # Weight stacks that share a node of the fabric where there are no GPUs: as many as a GPU would have.
    node_stacks: Count = Field(STACKS_PER_GPU, ge=1, le=65536)
    # How outputs are combined: `exchange` as said above; `attacc` as AttAcc's simulator, a ring among GPUs of at
    # least so many seconds a hop, a gather and a broadcast of whole outputs without GPUs, and no sums in a node.
    combining: Literal["exchange", "attacc"] = "exchange"
    all_reduce_hop_s: OverheadSeconds = Field(ATTACC_HOP_S, ge=0, le=1e-3)
    # A kernel on PIM: who starts it writes a register, and reads another when it is done.
    # chosen: 1 us, of which 0.5 for each over the memory's own interface or CXL; range 0.2-10 us. A GPU's kernels
    # pay theirs in `gpu_kernels`.
    pim_start_s: OverheadSeconds = Field(1e-6, ge=0, le=1e-3)
    # Norms, residual additions and activation functions of one decoder layer, on whatever runs them. Left
    # out by default; AttAcc's simulator has 6.87 us for each of two norms and 8.29 us for the activation.
    layer_overhead_s: OverheadSeconds = Field(0.0, ge=0, le=1e-3)
    # Drain, close and reopen rows when a stack changes between GPU reads and PIM work.
    # chosen: 1 us; at least 29 ns (tRP + tRCD); range 0.03-10 us.
    mode_switch_s: OverheadSeconds = Field(1e-6, ge=0, le=1)

    @field_validator("pu", "fc_pim", "attn_pim", "attention_link", "fabric", mode="before")
    @classmethod
    def _by_name(cls, value: Any, info: ValidationInfo) -> Any:
        """A GPU or link by its name, or by a table that starts from its `base`; and "none", as TOML has no null."""
        if value == "none":
            return None
        if info.field_name == "pu":
            return resolve(value, GPUS, "GPU")
        if info.field_name in ("attention_link", "fabric"):
            return resolve(value, LINKS, "link")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> System:
        if self.unit_of("fc") is None:
            raise ValueError("no unit can run FC kernels: expected pu, or fc_pim whose runs name 'fc'")
        if self.attention_unit is not None and not self.can_run(self.attention_unit, "attention"):
            able = [name for name in UNIT_NAMES if self.can_run(name, "attention")]
            raise ValueError(
                f"attention_unit is {self.attention_unit!r}, which is not there or does not run attention: "
                f"expected {' or '.join(map(repr, able)) or 'a unit that does'}"
            )
        if self.unit_of("attention") is None:
            raise ValueError(
                "no unit can run attention: expected pu, or a PIM unit whose runs name 'attention'"
            )
        if self.attn_pim is not None:
            if self.attention_link is None:
                raise ValueError("attn_pim needs an attention_link")
            if "fc" in self.attn_pim.runs:
                raise ValueError(
                    "attn_pim.runs names 'fc', but its stacks hold no weights: expected 'attention'"
                )
            limit = self.attention_link.max_devices
            devices = self.attn_pim.stacks
            if self.pu is None and self.fabric is None and self.fc_pim is not None:
                devices += self.fc_pim.stacks
            if limit is not None and devices > limit:
                raise ValueError(
                    f"{devices} stacks on {self.attention_link.name}, which takes {limit} devices"
                )
        if self.pu is not None and self.pu.count > 1 and self.fabric is None:
            raise ValueError(f"{self.pu.count} GPUs need a fabric")
        if self.pu is not None and self.fc_pim is not None:
            if self.pu.stacks == 0:
                raise ValueError(
                    f"{self.fc_pim.stacks} FC-PIM stacks on {self.pu.name}, whose memory is no stacks (pu.stacks = 0): "
                    "expected a GPU with HBM, or no fc_pim"
                )
            beside = self.pu.count * self.pu.stacks
            if self.fc_pim.stacks != beside:
                gpus, rest = divmod(self.fc_pim.stacks, self.pu.stacks)
                raise ValueError(
                    f"{self.fc_pim.stacks} FC-PIM stacks on {self.pu.count} GPUs of {self.pu.stacks} stacks each, "
                    f"whose memory they are: expected fc_pim.stacks = {beside}"
                    f"{'' if rest else f', or pu.count = {gpus}'}"
                )
        self._check_pins()
        if self.fabric is not None:
            full_nodes(self.nodes, self.fabric)
        for name, link in (("fabric", self.fabric), ("attention_link", self.attention_link)):
            if (
                link is not None
                and link.between is not None
                and (name != "fabric" or self.combining != "exchange")
            ):
                raise ValueError(
                    f"{name} {link.name!r} has nodes and links between them: expected one level, or a fabric of a "
                    "system whose combining is 'exchange'"
                )
        if self.pu is None and self.fc_pim is not None and self.fc_pim.stacks > 1 and self._joined is None:
            raise ValueError(
                f"{self.fc_pim.stacks} weight stacks have nothing to combine their outputs over: expected a fabric, "
                "or an attention_link"
            )
        if self.prefill_unit == "pu" and self.pu is None:
            raise ValueError("prefill_unit is 'pu', but the system has none: expected 'fc-pim'")
        if self.prefill_unit == "fc-pim" and not self.can_run("fc-pim", "fc"):
            raise ValueError("prefill_unit is 'fc-pim', but the system has none that runs FC: expected 'pu'")
        if self.pu is not None and self.pu_peak_power_w > self.pu.board_power_w:
            raise ValueError(
                f"{self.pu.name} at its sustained rates would draw {self.pu_peak_power_w:.0f} W "
                f"of {self.pu.board_power_w:.0f} W"
            )
        return self

    def _check_pins(self) -> None:
        """Refuse a GPU that reads more than its FC-PIM stacks deliver, where they name a technology.

        HBM3 by default stands for whatever HBM a GPU has: AttAcc's 3352 GB/s are 0.7 % more than five stacks give.
        """
        if self.pu is None or self.fc_pim is None or self.fc_pim.stack.technology == HBM3:
            return
        technology = self.fc_pim.stack.technology
        delivered = self.pu.stacks * technology.interface_bandwidth
        if self.pu.memory_bandwidth > delivered:
            raise ValueError(
                f"{self.pu.name} reads {self.pu.memory_bandwidth / 1e9:.0f} GB/s from {self.pu.stacks} FC-PIM stacks "
                f"of {technology.name}, whose pins give {delivered / 1e9:.0f} GB/s"
            )

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What few systems say.
        data: dict[str, Any] = write(self)
        if self.attention_unit is None:
            data.pop("attention_unit", None)
        return data

    @property
    def pu_peak_power_w(self) -> float:
        """Watts of one GPU when compute and memory both run at their sustained rates; 0 without GPUs."""
        if self.pu is None:
            return 0.0
        compute = self.pu.sustained_flops / 2 * self.pu.mac_j
        memory = self.pu.streaming_bandwidth * self.pu.memory_j_per_byte
        return compute + memory + self.pu.idle_power_w + self.pu.stacks * dram.IDLE_POWER_W

    def unit(self, name: UnitName) -> ProcessingUnit | PimUnit | None:
        """The unit of that name, or None where the system lacks it."""
        return {"pu": self.pu, "fc-pim": self.fc_pim, "attn-pim": self.attn_pim}[name]

    def can_run(self, name: UnitName, kind: KernelKind) -> bool:
        """Whether the system has the unit and the unit runs kernels of that kind."""
        unit = self.unit(name)
        if isinstance(unit, PimUnit):
            return kind in unit.runs
        return unit is not None

    def unit_of(self, kind: KernelKind) -> UnitName | None:
        """The documented default: FC on the PUs if there are any, attention where the KV caches are."""
        if kind == "attention" and self.attention_unit is not None:
            return self.attention_unit
        order: tuple[UnitName, ...] = UNIT_NAMES if kind == "fc" else ("attn-pim", "pu", "fc-pim")
        return next((name for name in order if self.can_run(name, kind)), None)

    @property
    def weight_capacity_bytes(self) -> int:
        """Bytes for weights: the FC-PIM stacks, else the GPUs' memory."""
        if self.fc_pim is not None:
            return self.fc_pim.capacity_bytes
        assert self.pu is not None
        return self.pu.capacity_bytes

    @property
    def kv_capacity_bytes(self) -> int | None:
        """Bytes for KV caches in stacks of their own; None where they share the weights' memory."""
        return None if self.attn_pim is None else self.attn_pim.capacity_bytes

    def kv_room(self, weights: int) -> int:
        """Bytes for KV caches beside so many bytes of weights; below 0 where those do not fit."""
        own = self.kv_capacity_bytes
        return self.weight_capacity_bytes - weights if own is None else own

    @property
    def static_power_w(self) -> float:
        """Watts drawn whatever runs: idle GPUs, and idle stacks, plain ones of GPUs too.

        What stacks draw more while they work is part of a kernel's joules.
        """
        power = 0.0
        if self.pu is not None:
            power += self.pu.count * self.pu.idle_power_w
            if self.fc_pim is None:
                power += self.pu.count * self.pu.stacks * dram.IDLE_POWER_W
        for unit in (self.fc_pim, self.attn_pim):
            if unit is not None:
                power += unit.stacks * unit.idle_power_w
        return power

    @property
    def nodes(self) -> int:
        """Nodes of the fabric: GPUs, or groups of weight stacks where there are none."""
        if self.pu is not None:
            return self.pu.count
        assert self.fc_pim is not None
        return math.ceil(self.fc_pim.stacks / self.node_stacks)

    @property
    def _joined(self) -> Link | None:
        """What outputs are combined over; None where one GPU or stack has them whole."""
        return self.fabric if self.pu is not None else self.fabric or self.attention_link

    @property
    def partial_sums(self) -> int:
        """Stacks that an output is summed over where a host does it: blocks as square as they come, 5 of 30."""
        assert self.fc_pim is not None
        return math.isqrt(self.fc_pim.stacks)

    def stack_sum_s(self, kernel: Kernel, rows: Rows) -> FloatArray:
        """Seconds in which a node sums its stacks' partial outputs of a kernel on FC-PIM (shape of `rows`)."""
        size, stacks = self._node_outputs(kernel, rows)
        assert self.fc_pim is not None
        of_stack = self.fc_pim.stack.technology.interface_bandwidth
        bandwidth = of_stack * stacks if self.pu is None else self.pu.memory_bandwidth
        return stack_sum_s(size, stacks, bandwidth)

    def stack_sum_j(self, kernel: Kernel, rows: Rows) -> FloatArray:
        """Joules of `stack_sum_s` in all nodes."""
        size, stacks = self._node_outputs(kernel, rows)
        assert self.fc_pim is not None
        return size * (self.nodes * (stacks + 1) * self.fc_pim.stack.technology.off_chip_j_per_byte)

    def _node_outputs(self, kernel: Kernel, rows: Rows) -> tuple[FloatArray, int]:
        """Bytes of outputs that a node sums over its stacks, and how many stacks; none where a host sums."""
        assert self.fc_pim is not None
        stacks = self.pu.stacks if self.pu is not None else min(self.node_stacks, self.fc_pim.stacks)
        width = 0.0
        if self.combining == "exchange" and stacks > 1 and (self.pu is not None or self.fabric is not None):
            shares = self.nodes if kernel.split == "outputs" else 1
            width = kernel.groups * kernel.outer * kernel.element_bytes / shares
        return np.asarray(rows, dtype=np.float64) * width, stacks

    def combine_s(self, block: Sequence[Kernel], rows: Rows) -> FloatArray:
        """Seconds to combine the outputs of a block over all weight stacks, once (shape of `rows`).

        Args:
            block: consecutive FC kernels, the last of which leaves a partial sum of all outputs on every node:
                QKV and projection, or both parts of a feed-forward. Without nodes, each kernel's outputs are
                partial sums; the host waits for all stacks once a block, and sums as they come in between.
            rows: input vectors.
        """
        size, link = self._combined_bytes(block, rows), self._joined
        if link is None:
            return np.zeros_like(size)
        if self.combining == "attacc":
            if self.pu is None:
                return gather_and_broadcast_s(size, link)
            return attacc_all_reduce_s(size, self.pu.count, link, self.all_reduce_hop_s)
        return link.exchange_s(size) if self._host_sums else all_reduce_s(size, self.nodes, link)

    def combine_j(self, block: Sequence[Kernel], rows: Rows) -> FloatArray:
        """Joules that the links take for `combine_s`."""
        size, link = self._combined_bytes(block, rows), self._joined
        if link is None:
            return np.zeros_like(size)
        if self.combining == "attacc":
            crossings = 2.0 if self.pu is None else self.pu.count - 1.0
        elif self._host_sums:
            crossings = 1.0
        else:
            return all_reduce_j(size, self.nodes, link)
        return crossings * size * link.j_per_byte

    @property
    def _host_sums(self) -> bool:
        return self.combining == "exchange" and self.pu is None and self.fabric is None

    def _combined_bytes(self, block: Sequence[Kernel], rows: Rows) -> FloatArray:
        """Bytes of a block's outputs; behind a host, those of all partial sums, and of inputs multicast."""
        if self._host_sums:
            width = sum(
                (self.partial_sums * kernel.outer + kernel.inner) * kernel.element_bytes for kernel in block
            )
        else:
            width = block[-1].outer * block[-1].element_bytes
        return np.asarray(rows, dtype=np.float64) * width

    def check_capacity(self, weights: int, kv: int) -> None:
        """Refuse weights or KV caches that do not fit, with the sizes in GB."""
        shared = self.kv_capacity_bytes is None
        need = weights + kv if shared else weights
        what = "weights and KV caches" if shared else "weights"
        if need > self.weight_capacity_bytes:
            raise ConfigurationError(
                f"System {self.name!r}: {what} need {need / 1e9:.1f} GB (weights {weights / 1e9:.1f}, KV "
                f"{kv / 1e9:.1f}), but the weight stacks hold {self.weight_capacity_bytes / 1e9:.1f} GB."
            )
        capacity = self.kv_capacity_bytes
        if capacity is not None and kv > capacity:
            raise ConfigurationError(
                f"System {self.name!r}: KV caches need {kv / 1e9:.1f} GB, but the KV stacks hold "
                f"{capacity / 1e9:.1f} GB. Reduce the batch size or the lengths."
            )

    def with_readings(self, gpu_bandwidth: str | None = None, bank_rate: str | None = None) -> System:
        """The system under other readings of PAPI's ambiguous figures, where it has an A100 and stacks of HBM3.

        Args:
            gpu_bandwidth: `roofline` (1935 GB/s, PAPI's figure 2) or `hbm3` (3352 GB/s: five HBM3 stacks).
            bank_rate: `attacc-limit` (a command every 6 clocks), `attacc` (4) or `papi` (2: 20.8 GB/s).
        """
        changes: dict[str, Any] = {}
        if gpu_bandwidth is not None:
            bandwidth = lookup("GPU-bandwidth reading", gpu_bandwidth, GPU_BANDWIDTH_READINGS)
            if self.pu is not None and self.pu.name == "A100":
                changes["pu"] = self.pu.model_copy(update={"memory_bandwidth": bandwidth})
        if bank_rate is not None:
            cadence = {"cadence_clocks": lookup("bank-rate reading", bank_rate, BANK_RATE_READINGS)}
            for field in ("fc_pim", "attn_pim"):
                unit = getattr(self, field)
                if unit is not None and unit.stack.technology == HBM3:
                    changes[field] = unit.model_copy(update=cadence)
        return System.model_validate(self.model_copy(update=changes).model_dump())


# PAPI, section 5 and 7.1: 90 stacks in every system, 30 for weights and 60 for KV caches.
_GPUS = 6
_FC_STACK = dram.Stack(banks_per_die=dram.max_banks_per_die(4))
# Where a GPU's own stacks are FC-PIM.
_PIM_GPU = STACKS_PER_GPU * _FC_STACK.capacity_bytes

# PAPI, sections 5 and 7.1: four FPUs a bank (4P1B) where weights lie, one for two banks (1P2B) where KV caches lie. Of
# those that it is compared with, AttAcc has one a bank, HBM-PIM one for two.
FC_PIM_4P1B = PimUnit(name="FC-PIM (4P1B)", stacks=30, fpus_per_bank=4, stack=_FC_STACK, runs=("fc",))
ATTN_PIM_1P2B = PimUnit(name="Attn-PIM (1P2B)", stacks=60, fpus_per_bank=0.5, runs=("attention",))
ATTACC_1P1B = PimUnit(name="AttAcc (1P1B)", stacks=60, fpus_per_bank=1, runs=("attention",))
HBM_PIM_1P2B = PimUnit(name="HBM-PIM (1P2B)", stacks=60, fpus_per_bank=0.5, runs=("attention",))

# NVIDIA, Jetson AGX Orin 64 GB data sheet: 64 tensor cores of the Ampere generation (256 FP16 MACs a clock each, as
# an A100's) at 1.3 GHz, 42.5 TFLOP/s dense FP16; 204.8 GB/s; 60 W at most. The stack's interface is as slow as its
# LPDDR5: chosen: 204.8 GB/s, range up to the 665.6 of a stack's own. Kernels as measured on the A100, whose L2 and
# 108 multiprocessors (Orin has 16) it does not have. chosen: 8 W idle without the stack, range 5-15.
_EDGE_GPU = ProcessingUnit(
    name="Orin",
    count=1,
    peak_flops=42.5e12,
    memory_bandwidth=204.8e9,
    memory_bytes=_FC_STACK.capacity_bytes,
    stacks=1,
    kernels="a100",
    attention_memory_efficiency=ATTENTION_EFFICIENCY,
    idle_power_w=8.0,
    board_power_w=60.0,
)

_PAPI = System(
    name="papi",
    description="6 A100 whose 30 stacks are FC-PIM, 60 Attn-PIM stacks (PAPI)",
    pu=get_gpu("a100", _GPUS, _PIM_GPU),
    fc_pim=FC_PIM_4P1B,
    attn_pim=ATTN_PIM_1P2B,
    fabric=NVLINK3,
)
_ALL = (
    _PAPI,
    System(
        name="a100-attacc",
        description="6 A100 with plain stacks, 60 AttAcc stacks for attention",
        pu=get_gpu("a100", _GPUS),
        attn_pim=ATTACC_1P1B,
        fabric=NVLINK3,
    ),
    System(
        name="a100-hbm-pim",
        description="6 A100 with plain stacks, 60 HBM-PIM stacks for attention",
        pu=get_gpu("a100", _GPUS),
        attn_pim=HBM_PIM_1P2B,
        fabric=NVLINK3,
    ),
    System(
        name="attacc-only",
        description="90 AttAcc stacks on CXL: 30 for FC kernels, 60 for attention; prefill on PIM",
        fc_pim=ATTACC_1P1B.model_copy(update={"stacks": 30, "runs": ("fc",)}),
        attn_pim=ATTACC_1P1B,
        prefill_unit="fc-pim",
    ),
    System(
        name="papi-pim-only",
        description="30 FC-PIM stacks on NVLink and 60 Attn-PIM stacks, no GPU; prefill on PIM",
        fc_pim=FC_PIM_4P1B,
        attn_pim=ATTN_PIM_1P2B,
        fabric=NVLINK3,
        prefill_unit="fc-pim",
    ),
    System(
        name="a100",
        description="6 A100 alone: weights and KV caches share their 30 plain stacks",
        pu=get_gpu("a100", _GPUS),
        attention_link=None,
        fabric=NVLINK3,
    ),
    System(
        name="papi-1gpu",
        description="1 A100 whose 5 stacks are FC-PIM, no Attn-PIM: weights and KV caches share them",
        pu=get_gpu("a100", 1, _PIM_GPU),
        fc_pim=FC_PIM_4P1B.model_copy(update={"stacks": STACKS_PER_GPU}),
        attention_link=None,
        fabric=NVLINK3,
    ),
    System(
        name="papi-edge",
        description="1 GPU with the rates of a Jetson AGX Orin whose memory is an FC-PIM stack, no Attn-PIM: weights "
        "and KV caches share it",
        pu=_EDGE_GPU,
        fc_pim=FC_PIM_4P1B.model_copy(update={"stacks": 1, "power_budget_w": _EDGE_GPU.board_power_w}),
        attention_link=None,
    ),
    System(
        name="papi-h100",
        description="6 H100 whose 30 stacks are FC-PIM, 60 Attn-PIM stacks",
        pu=get_gpu("h100", _GPUS, _PIM_GPU),
        fc_pim=FC_PIM_4P1B,
        attn_pim=ATTN_PIM_1P2B,
        fabric=NVLINK4,
    ),
    System(
        name="h100-attacc",
        description="6 H100 with plain stacks, 60 AttAcc stacks for attention",
        pu=get_gpu("h100", _GPUS),
        attn_pim=ATTACC_1P1B,
        fabric=NVLINK4,
    ),
    System(
        name="h100",
        description="6 H100 alone: weights and KV caches share their 30 plain stacks",
        pu=get_gpu("h100", _GPUS),
        attention_link=None,
        fabric=NVLINK4,
    ),
    # Servers of cards without stacks, such as those that `experiments.validate --serving` replays.
    System(
        name="rtx-4090",
        description="1 RTX 4090 alone: weights and KV caches share its memory",
        pu=get_gpu("rtx-4090"),
        attention_link=None,
    ),
    System(
        name="rtx-pro-6000-x2",
        description="2 RTX PRO 6000 on PCIe: weights and KV caches share their memory",
        pu=get_gpu("rtx-pro-6000", 2),
        attention_link=None,
        fabric=PCIE5,
    ),
    # After other published machines; see `papi_env.hardware.examples` for sources and what is left out.
    System(
        name="neupims-like",
        description="6 A100 whose 30 HBM2E stacks run attention only (NeuPIMs-like)",
        pu=NEUPIMS_PU,
        fc_pim=NEUPIMS_PIM,
        attention_link=None,
        fabric=NVLINK3,
        attention_unit="fc-pim",
    ),
    System(
        name="aim-like",
        description="256 GDDR6-AiM chips on 16 CXL cards for FC and attention, no GPU; prefill on PIM (AiM-like)",
        fc_pim=AIM_CHIPS,
        attention_link=None,
        fabric=CXL_FABRIC,
        prefill_unit="fc-pim",
        node_stacks=AIM_CHIPS_PER_CARD,
    ),
    System(
        name="cxl-pnm-like",
        description="8 CXL modules of LPDDR5X with arithmetic beside the controller, no GPU (CXL-PNM-like)",
        pu=PNM_MODULE,
        attention_link=None,
        fabric=CXL_FABRIC,
    ),
)
SYSTEMS: Mapping[str, System] = {system.name: system for system in _ALL}


def get_system(name: str) -> System:
    """The registered system of that name; an unknown name is answered with the known ones."""
    return lookup("system", name, SYSTEMS)
