"""DRAM technologies as data: geometry, timings, energies, area and power of one stack; and the registry of them.

A stack is what is bought as one: an HBM cube, a GDDR6 chip, a package of LPDDR5 dies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import Field, model_validator

from papi_env.definition import Definition
from papi_env.errors import lookup
from papi_env.quantities import (
    Count,
    JoulesPerByte,
    JoulesPerMac,
    LatencySeconds,
    MemoryBandwidth,
    PowerLimit,
    RowJoules,
    SquareMillimetres,
    Watts,
)


class Technology(Definition):
    """What a stack of one kind of DRAM is made of; all timings in clocks of `clock_s`.

    The PIM command is an all-bank multiply-accumulate: every bank of a channel reads a column of `column_bytes`.
    """

    name: str
    # Geometry.
    clock_s: LatencySeconds = Field(gt=0, description="seconds of a clock of the command bus")
    column_bytes: Count = Field(ge=8, le=4096, description="bytes of a column access of a bank")
    row_bytes: Count = Field(ge=64, le=1 << 20, description="bytes of a row (page) of a bank")
    bank_bytes: Count = Field(ge=1 << 16, description="bytes of a bank")
    channels: Count = Field(ge=1, le=1024, description="channels of a stack")
    dies: Count = Field(ge=1, le=64, description="DRAM dies of a stack")
    banks_per_die: Count = Field(ge=1, le=4096, description="banks of a die without FPUs")
    bank_group_banks: Count = Field(ge=1, le=64, description="banks of a bank group, which a die has whole")
    interface_bandwidth: MemoryBandwidth = Field(gt=0, description="B/s of a stack's pins")
    # FP16 multiply-accumulates of an FPU per column.
    lanes: Count = Field(16, ge=1, le=4096)
    # Timings.
    t_rtp: Count = Field(ge=1, description="clocks from the last column read of a row to its precharge")
    t_rp: Count = Field(ge=1, description="clocks from precharge to activation")
    t_rcd: Count = Field(ge=1, description="clocks from activation to the first column read")
    t_ras: Count = Field(ge=1, description="clocks from activation to precharge, at least")
    t_ccd_s: Count = Field(ge=1, description="clocks between column commands to different bank groups")
    t_ccd_l: Count = Field(ge=1, description="clocks between column commands to the same bank group")
    t_rfc: Count = Field(ge=1, description="clocks of an all-bank refresh")
    t_refi: Count = Field(ge=1, description="clocks between refreshes")
    write_clocks: Count = Field(
        4, ge=1, description="clocks of a column to a GEMV buffer, or of a move of partial sums"
    )
    # Energy.
    read_with_activation_j_per_byte: JoulesPerByte = Field(
        gt=0, description="J/B of fully read rows, at the bank"
    )
    activation_j: RowJoules = Field(ge=0, description="joules of a row activation")
    to_buffer_j_per_byte: JoulesPerByte = Field(ge=0, description="J/B between banks and what controls them")
    off_chip_j_per_byte: JoulesPerByte = Field(
        ge=0, description="J/B of a read that leaves the stack, in all"
    )
    mac_j: JoulesPerMac = Field(ge=0, description="joules of a multiply-accumulate of an FPU")
    # Area of a die.
    die_area_mm2: SquareMillimetres = Field(gt=0)
    fpu_area_mm2: SquareMillimetres = Field(gt=0)
    bank_area_mm2: SquareMillimetres = Field(gt=0)
    # Power of a stack: what it may draw, what it draws while its banks work besides their energies, and what it draws
    # while it waits.
    power_budget_w: PowerLimit = Field(gt=0)
    background_power_w: Watts = Field(ge=0)
    idle_power_w: Watts = Field(ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Technology:
        if self.row_bytes % self.column_bytes:
            raise ValueError(
                f"row_bytes {self.row_bytes}: expected whole columns, a multiple of {self.column_bytes}"
            )
        if self.bank_bytes % self.row_bytes:
            raise ValueError(
                f"bank_bytes {self.bank_bytes}: expected whole rows, a multiple of {self.row_bytes}"
            )
        if self.banks_per_die % self.bank_group_banks:
            raise ValueError(
                f"banks_per_die {self.banks_per_die}: expected whole bank groups, a multiple of {self.bank_group_banks}"
            )
        if self.dies * self.banks_per_die % self.channels:
            raise ValueError(
                f"{self.dies} dies of {self.banks_per_die} banks: expected a multiple of {self.channels} channels"
            )
        if self.read_j_per_byte < 0:
            raise ValueError(
                f"activation_j {self.activation_j:g} is {self.activation_j / self.row_bytes:g} J/B of a row, expected "
                f"at most read_with_activation_j_per_byte, {self.read_with_activation_j_per_byte:g}"
            )
        if self.banks_per_die * self.bank_area_mm2 > self.die_area_mm2:
            raise ValueError(
                f"{self.banks_per_die} banks of {self.bank_area_mm2:g} mm2 exceed the die, {self.die_area_mm2:g} mm2"
            )
        if self.refresh_clocks >= self.t_refi:
            raise ValueError(
                f"t_refi {self.t_refi}: a refresh takes {self.refresh_clocks} clocks, expected a longer interval"
            )
        return self

    def __hash__(self) -> int:
        # Costs are kept by unit, and looked up often.
        return hash((self.name, self.clock_s))

    @property
    def columns_per_row(self) -> int:
        """Columns of a row."""
        return self.row_bytes // self.column_bytes

    @property
    def row_change_clocks(self) -> int:
        """Clocks from the last read of a row to the first read of the next."""
        return self.t_rtp + self.t_rp + self.t_rcd

    @property
    def refresh_clocks(self) -> int:
        """Clocks in which all banks close, refresh and reopen their rows."""
        return self.t_rtp + 1 + self.t_rfc + self.t_rcd

    @property
    def read_j_per_byte(self) -> float:
        """J/B of a column read of an open row: fully read rows cost `read_with_activation_j_per_byte`."""
        return self.read_with_activation_j_per_byte - self.activation_j / self.row_bytes

    @property
    def capacity_bytes(self) -> int:
        """Bytes of a stack without FPUs."""
        return self.dies * self.banks_per_die * self.bank_bytes

    @property
    def peak_bandwidth(self) -> float:
        """B/s of all banks of a stack without FPUs, a column each `t_ccd_s`."""
        return self.dies * self.banks_per_die * self.column_bytes / (self.t_ccd_s * self.clock_s)

    def max_banks_per_die(self, fpus_per_bank: float) -> int:
        """The banks that fit one die beside their FPUs: m (n fpu + bank) <= die mm2, in whole bank groups.

        Source: PAPI, section 5.2 (96 banks of HBM3 for four FPUs per bank). At most those of a plain die.
        """
        if not fpus_per_bank >= 0:
            raise ValueError(f"fpus_per_bank is {fpus_per_bank!r}, expected a number >= 0")
        banks = math.floor(
            self.die_area_mm2 / (fpus_per_bank * self.fpu_area_mm2 + self.bank_area_mm2) + 1e-9
        )
        return min(self.banks_per_die, banks // self.bank_group_banks * self.bank_group_banks)


HBM3 = Technology(
    name="hbm3",
    # AttAcc's HBM3 model; JESD238A: a 16 GiB cube of 1024 banks. One clock of the command bus at 1.3 GHz.
    clock_s=0.769e-9,
    column_bytes=32,  # of a pseudo-channel
    row_bytes=1024,
    bank_bytes=16 * 2**20,
    channels=16,
    dies=8,
    banks_per_die=128,
    bank_group_banks=4,  # JESD238A; "rounded down to whole bank groups": 97 becomes 96 (PAPI, section 5.2)
    interface_bandwidth=1024
    * 5.2e9
    / 8,  # 1024 pins at 5.2 Gb/s (PAPI, section 7.1), 3328 GB/s for five stacks
    lanes=16,  # FP16 multiply-accumulates per FPU and column: one 32 B column (AttAcc)
    # Timings of AttAcc's HBM3 at 5.2 Gb/s (JESD238A; HBM2 nanoseconds where that names none).
    t_rtp=8,
    t_rp=19,
    t_rcd=19,
    t_ras=45,
    t_ccd_s=2,
    t_ccd_l=4,
    t_rfc=456,  # 350 ns for 8 Gb
    t_refi=5070,  # 3.9 us
    write_clocks=4,  # AttAcc
    # AttAcc's simulator: 0.55 pJ/bit for a column read at the bank, activation included; 26.32 pJ/B to the buffer die,
    # 28.72 off chip, both with the read; 0.32 pJ per MAC.
    read_with_activation_j_per_byte=4.4e-12,
    # One 1 KiB row activation (O'Connor et al., "Fine-Grained DRAM", MICRO 2017, HBM2).
    activation_j=909e-12,
    to_buffer_j_per_byte=(26.32 - 4.4) * 1e-12,
    off_chip_j_per_byte=28.72e-12,
    mac_j=0.32e-12,
    # Area and power (PAPI, section 5.2 and its figure 7).
    die_area_mm2=121.0,
    fpu_area_mm2=0.1025,
    bank_area_mm2=0.83,
    power_budget_w=116.0,
    # chosen: clocking, refresh and leakage of a stack whose banks work; 97 W of AttAcc's energies at PAPI's
    # bank rate must exceed 116 W for its figure to hold; range 10-25.
    background_power_w=20.0,
    # chosen: of a stack that waits; range 1-10. A whole A100 with five stacks and a context draws 52-116 W.
    idle_power_w=4.0,
)
# Twelve dies of the same banks: 24 GB at 6.4 Gb/s, 819 GB/s (SK hynix, April 2023). The command bus has a quarter of
# the pins' rate, 1.6 GHz; AttAcc's nanoseconds in its clocks.
HBM3_12HIGH = Technology.model_validate(
    {
        **HBM3.model_dump(),
        "name": "hbm3-12high",
        "clock_s": 0.625e-9,
        "dies": 12,
        "interface_bandwidth": 1024 * 6.4e9 / 8,
        "t_rtp": 10,
        "t_rp": 24,
        "t_rcd": 24,
        "t_ras": 56,
        "t_rfc": 560,
        "t_refi": 6240,
        # chosen: four dies more, each as those of eight; range 15-38 and 1.5-15. The budget is the package's.
        "background_power_w": 30.0,
        "idle_power_w": 6.0,
    }
)
HBM2E = Technology(
    name="hbm2e",
    # JESD235D: eight channels of two pseudo-channels, 32 banks each in a cube of eight 16 Gb dies: 16 GB. 3.6 Gb/s a
    # pin, 460.8 GB/s (SK hynix, August 2019); a clock has two bits of a pin, 1.8 GHz.
    clock_s=1 / 1.8e9,
    column_bytes=32,
    row_bytes=1024,
    bank_bytes=32 * 2**20,
    channels=8,
    dies=8,
    banks_per_die=64,
    bank_group_banks=4,
    interface_bandwidth=1024 * 3.6e9 / 8,
    # DRAMsim3's HBM2 of 8 Gb: 14 ns from precharge to activation and from there to a read, 34 ns open, 4 ns from read
    # to precharge. Refreshes of 350 ns (Ramulator 2's HBM2 of 8 Gb) every 3.9 us. A burst of four bits takes two
    # clocks.
    t_rtp=8,
    t_rp=26,
    t_rcd=26,
    t_ras=62,
    t_ccd_s=2,
    t_ccd_l=4,
    t_rfc=630,
    t_refi=7020,
    # Energies as HBM3's, of which both are HBM2's where AttAcc's sources name one.
    read_with_activation_j_per_byte=4.4e-12,
    activation_j=909e-12,
    to_buffer_j_per_byte=(26.32 - 4.4) * 1e-12,
    off_chip_j_per_byte=28.72e-12,
    mac_j=0.32e-12,
    # chosen: PAPI's die, whose half as many banks are twice as large; range 92-130 and 1.3-1.8.
    die_area_mm2=121.0,
    fpu_area_mm2=0.1025,
    bank_area_mm2=1.66,
    power_budget_w=116.0,
    background_power_w=20.0,
    idle_power_w=4.0,
)
GDDR6_AIM = Technology(
    name="gddr6-aim",
    # SK hynix, "A 1ynm 1.25V 8Gb, 16Gb/s/pin GDDR6-based Accelerator-in-Memory supporting 1TFLOPS MAC operation",
    # ISSCC 2022: one die of two channels of 16 banks, one unit of 16 multipliers a bank at 1 GHz, 32 B a bank each
    # 1 ns: 512 GB/s and 0.5 TFLOP/s a channel. Rows of 2 KiB, 16 384 a bank (CENT's simulator of AiM). The clock is
    # GDDR6's at 16 Gb/s, an eighth of the pins' rate.
    clock_s=0.5e-9,
    column_bytes=32,
    row_bytes=2048,
    bank_bytes=32 * 2**20,
    channels=2,
    dies=1,
    banks_per_die=32,
    bank_group_banks=4,
    interface_bandwidth=2 * 16 * 16e9 / 8,
    # Ramulator 2's GDDR6 at 1.25 V, whose clocks of 0.57 ns are 17.1 ns to activate and as many to precharge, 34.2 ns
    # open, 2.3 ns from read to precharge; refreshes of 120 ns every 1.9 us. A burst of 16 bits takes two clocks, and
    # three to the same bank group, but for AiM's commands to all banks.
    t_rtp=5,
    t_rp=35,
    t_rcd=35,
    t_ras=69,
    t_ccd_s=2,
    t_ccd_l=3,
    t_rfc=240,
    t_refi=3800,
    write_clocks=2,  # a column of the bus
    # chosen: the cell and its row as HBM's, 2 KiB twice 1; range 3-6 pJ/B and 1-3 nJ.
    read_with_activation_j_per_byte=4.4e-12,
    activation_j=1818e-12,
    # chosen: along the die, between HBM's bank and its buffer die; range 4-22.
    to_buffer_j_per_byte=10e-12,
    # Micron, technical brief on GDDR6X: 7.5 pJ/bit of GDDR6, in all.
    off_chip_j_per_byte=60e-12,
    # chosen: a DRAM process of 2021, BF16; range 0.3-1.5 pJ.
    mac_j=0.6e-12,
    # chosen: 32 banks with a unit each fill the die; range 50-80, 0.15-0.25 and 1.4-2.2.
    die_area_mm2=62.0,
    fpu_area_mm2=0.19,
    bank_area_mm2=1.74,
    # chosen: of a chip; range 4-10, 0.3-1 and 0.1-0.5.
    power_budget_w=8.0,
    background_power_w=0.6,
    idle_power_w=0.3,
)
LPDDR5 = Technology(
    name="lpddr5",
    # LPDDR5X at 8533 Mb/s (JESD209-5B), in packages of 128 pins and 64 GiB: eight channels of four ranks, 32 dies of
    # 16 Gb and 16 banks; eight of them have the 512 GB and 1.1 TB/s of Samsung's CXL-PNM (Park et al., HPCA 2024).
    # The clock is an eighth of the pins' rate, and rows have 2 KiB (Ramulator 2's LPDDR5 of 16 Gb).
    clock_s=0.9375e-9,
    column_bytes=32,
    row_bytes=2048,
    bank_bytes=128 * 2**20,
    channels=8,
    dies=32,
    banks_per_die=16,
    bank_group_banks=4,
    interface_bandwidth=128 * 8.533e9 / 8,
    # Ramulator 2's LPDDR5: 18.75 ns to activate, 21.25 to precharge all banks, 42.5 open, 5 from read to precharge;
    # refreshes of 280 ns every 3.9 us. A burst of 16 bits takes two clocks.
    t_rtp=6,
    t_rp=23,
    t_rcd=20,
    t_ras=46,
    t_ccd_s=2,
    t_ccd_l=4,
    t_rfc=299,
    t_refi=4166,
    write_clocks=2,
    # chosen: the cell and its row as HBM's, 2 KiB twice 1; range 3-6 pJ/B and 1-3 nJ.
    read_with_activation_j_per_byte=4.4e-12,
    activation_j=1818e-12,
    to_buffer_j_per_byte=10e-12,
    # chosen: 4 pJ/bit in all; range 3.5-5.
    off_chip_j_per_byte=32e-12,
    mac_j=0.6e-12,
    # chosen: 16 banks of 128 MiB with a unit each fill the die; range 50-100, 0.15-0.25 and 3-6.
    die_area_mm2=72.0,
    fpu_area_mm2=0.19,
    bank_area_mm2=4.3,
    # chosen: of a package; range 5-20, 1-4 and 0.2-1.
    power_budget_w=12.0,
    background_power_w=2.0,
    idle_power_w=0.5,
)
_ALL = (HBM3, HBM2E, GDDR6_AIM, LPDDR5, HBM3_12HIGH)
TECHNOLOGIES: Mapping[str, Technology] = {technology.name: technology for technology in _ALL}


def get_technology(name: str) -> Technology:
    """The registered technology of that name; an unknown name is answered with the known ones."""
    return lookup("DRAM technology", name, TECHNOLOGIES)
