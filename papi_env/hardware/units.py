"""Units that run kernels: GPUs as processing units (PUs), and stacks with FPUs beside their banks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from papi_env.definition import Definition
from papi_env.errors import lookup
from papi_env.hardware import dram
from papi_env.hardware.gpu_kernels import KERNEL_CONSTANTS, KernelConstants
from papi_env.hardware.measured import MeasuredKernels, load_measured
from papi_env.hardware.server_tables import ServerTables, load_server_tables
from papi_env.quantities import (
    Clocks,
    Count,
    Efficiency,
    FlopRate,
    FpusPerBank,
    JoulesPerByte,
    JoulesPerMac,
    MemoryBandwidth,
    MemoryBytes,
    PowerLimit,
    Truth,
    Watts,
)

UnitName = Literal["pu", "fc-pim", "attn-pim"]
# The order is that of actions, tables and reports.
UNIT_NAMES: tuple[UnitName, ...] = ("pu", "fc-pim", "attn-pim")
PU, FC_PIM, ATTN_PIM = range(3)

KernelKind = Literal["fc", "attention"]

# An A100 or H100 carries five stacks of HBM (data sheets; PAPI, section 7.1).
STACKS_PER_GPU = 5
ROOFLINE = "roofline"
TABLE = "table"
LAYERS = "layers"
_KERNEL_TIMES: Mapping[str, str] = {name: name for name in (ROOFLINE, TABLE, LAYERS, *KERNEL_CONSTANTS)}


class ProcessingUnit(Definition):
    """A GPU's tensor cores and memory interface; `count` of them share every kernel evenly.

    Tensor parallelism is an even split: six GPUs do not divide 64 heads, and the model does not
    charge for the remainder.
    """

    name: str
    count: Count = Field(ge=1, le=4096)
    peak_flops: FlopRate = Field(gt=0, description="FP16 FLOP/s of one GPU")
    memory_bandwidth: MemoryBandwidth = Field(gt=0, description="B/s of one GPU")
    memory_bytes: MemoryBytes = Field(
        gt=0, description="bytes of one GPU's plain memory; FC-PIM stacks take its place"
    )
    # HBM stacks of one GPU; 0 for other memory. Where FC-PIM stacks take their place, there are as many.
    stacks: Count = Field(STACKS_PER_GPU, ge=0, le=64)
    # How FC kernels are timed: as measured on a GPU of that name, scaled to this one's peak and bandwidth
    # (`gpu_kernels`), by the roofline of the two shares below, or as a file says (`table`: `measured`).
    # Serving also takes what all layers of the model took on one such GPU (`layers`: the folder of `server_tables`).
    kernels: str = "roofline"
    kernel_file: str | None = Field(None, description="measured kernels, of 1 to 1024 rows at least")
    # AttAcc's simulator: sustained shares of the peaks.
    compute_efficiency: Efficiency = Field(0.80, gt=0, le=1)
    memory_efficiency: Efficiency = Field(0.85, gt=0, le=1)
    # Of decode attention; None: as FC kernels.
    attention_memory_efficiency: Efficiency | None = Field(None, gt=0, le=1)
    # AttAcc's simulator. Per MAC: ALU 0.32 pJ, three register operands at 0.0675 pJ, and
    # L1 at 1.28 pJ/B x 2 B x (1/16 + 1/16) for 16x16x32 register tiles.
    mac_j: JoulesPerMac = Field(0.32e-12 + 3 * 0.0675e-12 + 1.28e-12 * 2 * (1 / 16 + 1 / 16), ge=0)
    # Off-chip read plus one pass through L2 (28.72 + 2.4 pJ/B).
    memory_j_per_byte: JoulesPerByte = Field(
        dram.OFF_CHIP_J_PER_BYTE + 2.4e-12, ge=dram.READ_WITH_ACTIVATION_J_PER_BYTE
    )
    # Without its stacks. chosen, from measurements: an A100 with a context and five stacks draws 52-116 W,
    # 100 with 4 W a stack; range 30-100.
    idle_power_w: Watts = Field(80.0, ge=0)
    # 400 W (A100 SXM) and 700 W (H100 SXM) data sheets.
    board_power_w: PowerLimit = Field(400.0, gt=0)

    @field_validator("kernels")
    @classmethod
    def _known_kernels(cls, value: str) -> str:
        return lookup("kernel times", value, _KERNEL_TIMES)

    @model_validator(mode="after")
    def _readable_file(self) -> ProcessingUnit:
        if self.kernels == LAYERS and self.kernel_file is not None:
            _ = self.layers
            return self
        if (self.kernels == TABLE) != (self.kernel_file is not None):
            raise ValueError(
                f"kernels is {self.kernels!r} and kernel_file {self.kernel_file!r}: "
                f"expected kernels = {TABLE!r} with a kernel_file, or neither"
            )
        _ = self.table
        return self

    @model_validator(mode="after")
    def _idle_below_board(self) -> ProcessingUnit:
        if self.idle_power_w > self.board_power_w:
            raise ValueError(
                f"idle_power_w {self.idle_power_w} exceeds board_power_w {self.board_power_w}: no power to work"
            )
        return self

    @property
    def table(self) -> MeasuredKernels | None:
        """The measured kernels of `kernel_file`; None without."""
        return load_measured(self.kernel_file) if self.kernels == TABLE and self.kernel_file else None

    @property
    def layers(self) -> ServerTables | None:
        """The measured layers of the folder `kernel_file`; None without."""
        return load_server_tables(self.kernel_file) if self.kernels == LAYERS and self.kernel_file else None

    @property
    def measured(self) -> KernelConstants | None:
        """The constants by which FC kernels are timed, at this GPU's peak and bandwidth; None otherwise."""
        if self.kernels in (ROOFLINE, TABLE, LAYERS):
            return None
        card = KERNEL_CONSTANTS[self.kernels]
        return replace(card, peak_flops=self.peak_flops, memory_bandwidth=self.memory_bandwidth)

    @property
    def kernel_start_s(self) -> float:
        """Seconds that any kernel pays besides its work; 0 by the roofline."""
        return 0.0 if self.measured is None else self.measured.start_s

    @property
    def streaming_bandwidth(self) -> float:
        """B/s at which one GPU reads weights."""
        share = self.memory_efficiency if self.measured is None else self.measured.bandwidth_share
        return self.memory_bandwidth * share

    @property
    def attention_bandwidth(self) -> float:
        """B/s at which one GPU reads keys and values."""
        return self.memory_bandwidth * (self.attention_memory_efficiency or self.memory_efficiency)

    @property
    def sustained_flops(self) -> float:
        """FLOP/s that one GPU's FC kernels reach at most."""
        share = self.compute_efficiency if self.measured is None else self.measured.peak_share
        return self.peak_flops * share

    @property
    def total_flops(self) -> float:
        """Peak FLOP/s of all GPUs."""
        return self.count * self.peak_flops

    @property
    def total_bandwidth(self) -> float:
        """Peak B/s of all GPUs."""
        return self.count * self.memory_bandwidth

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all GPUs' own memory."""
        return self.count * self.memory_bytes


# Fields of a PIM unit that are by default what its stacks' technology says.
_POWERS = ("power_budget_w", "background_power_w", "idle_power_w")


def kept_of_stacks(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The data of a system without what its PIM units have by a DRAM technology that `changes` replace.

    Banks of a die and watts of a stack are those of its technology: another one brings its own, unless the changes say
    them.
    """
    kept = dict(base)
    for name in ("fc_pim", "attn_pim"):
        unit, change = base.get(name), changes.get(name)
        stack = change.get("stack") if isinstance(change, dict) else None
        if isinstance(unit, dict) and isinstance(stack, dict) and "technology" in stack:
            if dram.technology_of(stack) == dram.technology_of(unit.get("stack", {})):
                continue
            kept[name] = {field: value for field, value in unit.items() if field not in _POWERS}
            kept[name]["stack"] = {k: v for k, v in unit["stack"].items() if k != "banks_per_die"}
    return kept


class PimUnit(Definition):
    """Stacks whose banks carry FPUs.

    `cadence_clocks` is the spacing of all-bank commands. AttAcc issues one every 6 clocks within
    its power limit and every 4 without (6.9 and 10.4 GB/s per bank); PAPI's evaluation runs at 333 MHz, about
    4, and its 20.8 GB/s per bank is one every 2. Where the cadence would break the power budget, the commands
    are spread until it holds (`costs.pim_cadence_clocks`).
    """

    name: str
    stacks: Count = Field(ge=1, le=65536)
    fpus_per_bank: FpusPerBank = Field(gt=0, le=64, description="0.5: two banks share an FPU (1P2B)")
    stack: dram.Stack = dram.Stack()
    runs: tuple[KernelKind, ...] = ("fc",)
    cadence_clocks: Clocks = Field(4.0, ge=2, le=1000)
    # Whether a column is read once for all rows (PAPI's reuse of up to 64) or again for each slot.
    column_reads: Literal["once", "per-slot"] = "once"
    # Rows that a column read serves at most where it is read once; PAPI names reuses of up to 64. None: all rows.
    reuse_limit: Count | None = Field(None, ge=1, le=1 << 20)
    # Whether channels share a context where pairs of a KV head and a request are few, and copies of KV heads serve
    # parts of a group's query heads; or each context lies on one channel, as AttAcc's simulator has it.
    split_contexts: Truth = True
    # Double buffering hides the GEMV-buffer writes and partial-sum moves behind the MACs.
    double_buffered: Truth = True
    # Watts of a stack; by default those of its technology.
    power_budget_w: PowerLimit = Field(dram.CUBE_POWER_W, gt=0)
    # Of a stack whose banks work, and of one that waits.
    background_power_w: Watts = Field(dram.BACKGROUND_POWER_W, ge=0)
    idle_power_w: Watts = Field(dram.IDLE_POWER_W, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _powers_of_its_stacks(cls, data: Any) -> Any:
        technology = dram.technology_of(data.get("stack", {})) if isinstance(data, dict) else None
        if technology is None:
            return data
        return {**{name: getattr(technology, name) for name in _POWERS}, **data}

    @model_validator(mode="after")
    def _fits(self) -> PimUnit:
        technology = self.stack.technology
        fit = technology.max_banks_per_die(self.fpus_per_bank)
        shared = 1 / self.fpus_per_bank
        if self.fpus_per_bank < 1 and abs(shared - round(shared)) > 1e-9:
            raise ValueError(
                f"fpus_per_bank {self.fpus_per_bank}: below one, expected 1/k for k banks that share an FPU"
            )
        if self.fpus_per_bank >= 1 and self.fpus_per_bank % 1:
            raise ValueError(f"fpus_per_bank {self.fpus_per_bank}: from one on, expected a whole number")
        if self.stack.banks_per_die > fit:
            raise ValueError(
                f"{self.stack.banks_per_die} banks per die with {self.fpus_per_bank:g} FPUs each exceed the die: "
                f"{technology.die_area_mm2:g} mm2 hold {fit}"
            )
        if self.cadence_clocks < technology.t_ccd_s:
            raise ValueError(
                f"cadence_clocks {self.cadence_clocks:g}: expected at least the {technology.t_ccd_s} clocks between "
                f"column commands of {technology.name}"
            )
        if self.background_power_w >= self.power_budget_w:
            raise ValueError(
                f"background_power_w {self.background_power_w} leaves nothing of power_budget_w {self.power_budget_w}"
            )
        if self.idle_power_w > self.background_power_w:
            raise ValueError(
                f"idle_power_w {self.idle_power_w} exceeds background_power_w {self.background_power_w}: "
                "a stack that waits draws no more than one that works"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What few systems say.
        data: dict[str, Any] = write(self)
        if data.get("split_contexts") is True:
            del data["split_contexts"]
        return data

    @property
    def active_power_w(self) -> float:
        """Watts of background that a stack draws while its banks work, above its idle power."""
        return self.background_power_w - self.idle_power_w

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all stacks."""
        return self.stacks * self.stack.capacity_bytes

    @property
    def peak_bandwidth(self) -> float:
        """B/s that all banks of all stacks deliver at the unit's cadence."""
        technology = self.stack.technology
        return (
            self.stacks
            * self.stack.banks
            * technology.column_bytes
            / (self.cadence_clocks * technology.clock_s)
        )

    @property
    def peak_flops(self) -> float:
        """FLOP/s of all FPUs at the unit's cadence."""
        technology = self.stack.technology
        operands = (
            self.stacks * self.stack.banks * self.fpus_per_bank / (self.cadence_clocks * technology.clock_s)
        )
        return 2 * technology.lanes * operands
