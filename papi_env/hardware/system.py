"""A system: named units, the links between them, capacities, static power; and the registry of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from papi_env.definition import Definition
from papi_env.errors import ConfigurationError, lookup
from papi_env.hardware import dram
from papi_env.hardware.gpus import STACKS_PER_GPU, get_gpu
from papi_env.hardware.links import (
    ALL_REDUCE_HOP_S,
    CXL,
    LINKS,
    NVLINK3,
    NVLINK4,
    Link,
    all_reduce_s,
    gather_and_broadcast_s,
)
from papi_env.hardware.units import UNIT_NAMES, KernelKind, PimUnit, ProcessingUnit, UnitName
from papi_env.kernel import FloatArray
from papi_env.quantities import OverheadSeconds

# PAPI's two readings of an A100's memory bandwidth (B/s), and of a bank's rate (clocks per command).
GPU_BANDWIDTH_READINGS = {"roofline": 1935e9, "hbm3": 3352e9}
BANK_RATE_READINGS = {"attacc-limit": 6.0, "attacc": 4.0, "papi": 2.0}


class System(Definition):
    """Processing units, FC-PIM and Attn-PIM stacks, any of them absent, and what joins them.

    Weights live in the FC-PIM stacks, which are the GPUs' own memory, else in plain GPU memory. KV
    caches live in the Attn-PIM stacks, else beside the weights. `attention_link` joins the Attn-PIM
    stacks with the rest; `fabric` joins the GPUs, or the weight stacks where there are none, and carries
    activations between a GPU and its FC-PIM.

    Projection and feed-forward leave outputs on all weight stacks that the next kernel needs whole, so
    every layer combines them twice (`combine_s`): GPUs by an all-reduce, whichever unit ran the kernel;
    weight stacks without GPUs by a gather and a broadcast over the fabric, or the attention link.
    """

    name: str
    description: str = ""
    pu: ProcessingUnit | None = None
    fc_pim: PimUnit | None = None
    attn_pim: PimUnit | None = None
    attention_link: Link | None = CXL
    fabric: Link | None = None
    prefill_unit: Literal["pu", "fc-pim"] = "pu"
    # AttAcc's simulator: what a hop of an all-reduce takes at least, the software's share included.
    all_reduce_hop_s: OverheadSeconds = Field(ALL_REDUCE_HOP_S, ge=0, le=1e-3)
    # Norms, residual additions and activation functions of one decoder layer, on whatever runs them. Left
    # out by default; AttAcc's simulator has 6.87 us for each of two norms and 8.29 us for the activation.
    layer_overhead_s: OverheadSeconds = Field(0.0, ge=0, le=1e-3)
    # Drain, close and reopen rows when a stack changes between GPU reads and PIM work.
    # chosen: 1 us; at least 29 ns (tRP + tRCD); range 0.03-10 us.
    mode_switch_s: OverheadSeconds = Field(1e-6, ge=0, le=1)

    @field_validator("pu", "fc_pim", "attn_pim", "attention_link", "fabric", mode="before")
    @classmethod
    def _by_name(cls, value: Any, info: ValidationInfo) -> Any:
        """A link by its name, and "none", since TOML has no null."""
        if value == "none":
            return None
        if isinstance(value, str) and info.field_name in ("attention_link", "fabric"):
            return lookup("link", value, LINKS)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> System:
        if self.unit_of("fc") is None:
            raise ValueError("no unit can run FC kernels: expected pu, or fc_pim whose runs name 'fc'")
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

    @property
    def pu_peak_power_w(self) -> float:
        """Watts of one GPU when compute and memory both run at their sustained rates; 0 without GPUs."""
        if self.pu is None:
            return 0.0
        compute = self.pu.peak_flops * self.pu.compute_efficiency / 2 * self.pu.mac_j
        memory = self.pu.memory_bandwidth * self.pu.memory_efficiency * self.pu.memory_j_per_byte
        return compute + memory + self.pu.idle_power_w

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

    @property
    def static_power_w(self) -> float:
        """Watts drawn whatever runs. A GPU's idle power includes its own stacks, which are not counted twice."""
        power = 0.0
        if self.pu is not None:
            power += self.pu.count * self.pu.idle_power_w
        elif self.fc_pim is not None:
            power += self.fc_pim.stacks * self.fc_pim.background_power_w
        if self.attn_pim is not None:
            power += self.attn_pim.stacks * self.attn_pim.background_power_w
        return power

    def combine_s(self, size: FloatArray) -> FloatArray:
        """Seconds to combine `size` bytes of outputs of one FC kernel over all weight stacks (same shape)."""
        if self.pu is not None:
            return (
                np.zeros_like(size)
                if self.fabric is None
                else all_reduce_s(size, self.pu.count, self.fabric, self.all_reduce_hop_s)
            )
        link = self.fabric or self.attention_link
        return np.zeros_like(size) if link is None else gather_and_broadcast_s(size, link)

    def combine_j(self, size: FloatArray) -> FloatArray:
        """Joules that the links take for `combine_s`."""
        link = self.fabric if self.pu is not None else (self.fabric or self.attention_link)
        crossings = 2.0 if self.pu is None else self.pu.count - 1.0
        return np.zeros_like(size) if link is None else crossings * size * link.j_per_byte

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
        """The system under other readings of PAPI's ambiguous figures.

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
                if unit is not None:
                    changes[field] = unit.model_copy(update=cadence)
        return System.model_validate(self.model_copy(update=changes).model_dump())


# PAPI, section 5 and 7.1: 90 stacks in every system, 30 for weights and 60 for KV caches.
_GPUS = 6
_FC_STACK = dram.Stack(banks_per_die=dram.max_banks_per_die(4))
# Where a GPU's own stacks are FC-PIM.
_PIM_GPU = STACKS_PER_GPU * _FC_STACK.capacity_bytes

FC_PIM_4P1B = PimUnit(name="FC-PIM (4P1B)", stacks=30, fpus_per_bank=4, stack=_FC_STACK, runs=("fc",))
ATTN_PIM_1P2B = PimUnit(name="Attn-PIM (1P2B)", stacks=60, fpus_per_bank=0.5, runs=("attention",))
ATTACC_1P1B = PimUnit(name="AttAcc (1P1B)", stacks=60, fpus_per_bank=1, runs=("attention",))
HBM_PIM_1P2B = PimUnit(name="HBM-PIM (1P2B)", stacks=60, fpus_per_bank=0.5, runs=("attention",))

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
)
SYSTEMS: Mapping[str, System] = {system.name: system for system in _ALL}


def get_system(name: str) -> System:
    """The registered system of that name; an unknown name is answered with the known ones."""
    return lookup("system", name, SYSTEMS)
