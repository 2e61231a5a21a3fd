"""HBM3 stacks with processing units beside the banks: geometry, timing, area, energy, power.

The PIM command is an all-bank multiply-accumulate: every bank of a stack reads one 32 B column
and its floating-point units (FPUs) multiply it with elements held in the GEMV buffers.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from pydantic import Field

from papi_env.definition import Definition
from papi_env.kernel import FloatArray
from papi_env.quantities import Count

Clocks: TypeAlias = float | FloatArray

# Geometry (AttAcc's HBM3 model; JESD238A). One clock of the command bus at 1.3 GHz.
CLOCK_S = 0.769e-9
COLUMN_BYTES = 32  # one column access of a pseudo-channel
ROW_BYTES = 1024  # one row (page) of a bank
COLUMNS_PER_ROW = ROW_BYTES // COLUMN_BYTES
BANK_BYTES = 16 * 2**20  # 16 GiB cube of 1024 banks
CHANNELS = 16
DIES = 8
LANES = 16  # FP16 multiply-accumulates per FPU and column: one 32 B column (AttAcc)
WRITE_CLOCKS = 4  # a 32 B write to a GEMV buffer, or a 32 B move of partial sums (AttAcc)

# Timings of AttAcc's HBM3 at 5.2 Gb/s, in clocks (JESD238A; HBM2 nanoseconds where that names none).
T_RTP = 8  # last column read of a row to precharge
T_RP = 19  # precharge to activation
T_RCD = 19  # activation to first column read
T_RAS = 45  # activation to precharge, at least
T_CCD_S = 2  # between column commands to different bank groups
T_CCD_L = 4  # to the same one
T_RFC = 456  # an all-bank refresh, 350 ns for 8 Gb
T_REFI = 5070  # between refreshes, 3.9 us
ROW_CHANGE_CLOCKS = T_RTP + T_RP + T_RCD  # last read of a row to first read of the next

# The number of tokens whose scores one group of columns covers (AttAcc's attention mapping).
GROUP_TOKENS = 16

# Energy. AttAcc's simulator: 0.55 pJ/bit for a column read at the bank, activation included;
# 26.32 pJ/B to the buffer die, 28.72 off chip, both with the read; 0.32 pJ per MAC.
READ_WITH_ACTIVATION_J_PER_BYTE = 4.4e-12
# One 1 KiB row activation (O'Connor et al., "Fine-Grained DRAM", MICRO 2017, HBM2).
ACTIVATION_J = 909e-12
# So that a fully read row costs what AttAcc charges for it.
READ_J_PER_BYTE = READ_WITH_ACTIVATION_J_PER_BYTE - ACTIVATION_J / ROW_BYTES
TO_BUFFER_DIE_J_PER_BYTE = (26.32 - 4.4) * 1e-12
OFF_CHIP_J_PER_BYTE = 28.72e-12
MAC_J = 0.32e-12

# Area and power (PAPI, section 5.2 and its figure 7).
DIE_AREA_MM2 = 121.0
FPU_AREA_MM2 = 0.1025
BANK_AREA_MM2 = 0.83
BANK_GROUP_BANKS = 4  # JESD238A; "rounded down to whole bank groups": 97 becomes 96
CUBE_POWER_W = 116.0
# chosen: clocking, refresh and leakage of a stack whose banks work; 97 W of AttAcc's energies at PAPI's
# bank rate must exceed 116 W for its figure to hold; range 10-25.
BACKGROUND_POWER_W = 20.0
# chosen: of a stack that waits; range 1-10. A whole A100 with five stacks and a context draws 52-116 W.
IDLE_POWER_W = 4.0
# The interface of a stack: 1024 pins at 5.2 Gb/s (PAPI, section 7.1), 3328 GB/s for the five of a GPU.
STACK_BANDWIDTH = 1024 * 5.2e9 / 8


def max_banks_per_die(fpus_per_bank: float) -> int:
    """The banks that fit one die beside their FPUs: m (n 0.1025 + 0.83) <= 121 mm2, whole bank groups.

    Source: PAPI, section 5.2 (96 banks for four FPUs per bank). At most the 128 of a plain die.
    """
    if not fpus_per_bank >= 0:
        raise ValueError(f"fpus_per_bank is {fpus_per_bank!r}, expected a number >= 0")
    banks = math.floor(DIE_AREA_MM2 / (fpus_per_bank * FPU_AREA_MM2 + BANK_AREA_MM2) + 1e-9)
    return min(128, banks // BANK_GROUP_BANKS * BANK_GROUP_BANKS)


class Stack(Definition):
    """The banks of one HBM3 stack."""

    banks_per_die: Count = Field(128, ge=BANK_GROUP_BANKS, le=128, multiple_of=BANK_GROUP_BANKS)

    @property
    def banks(self) -> int:
        """Banks of the whole stack."""
        return self.banks_per_die * DIES

    @property
    def banks_per_channel(self) -> int:
        """Banks behind one of the 16 channels."""
        return self.banks // CHANNELS

    @property
    def capacity_bytes(self) -> int:
        """Bytes the stack holds: 16 MiB per bank."""
        return self.banks * BANK_BYTES


def row_change_clocks(cadence_clocks: Clocks, commands: Clocks = COLUMNS_PER_ROW) -> FloatArray:
    """Clocks that closing a row and opening the next add to a row's all-bank commands.

    The last read of a row and the first of the next are `ROW_CHANGE_CLOCKS` apart, of which a cadence would
    have passed anyway. A row that serves few commands also waits until it has been open for T_RAS. Nothing
    hides this: all banks work in step, so that no other bank multiplies meanwhile.

    Args:
        cadence_clocks: between all-bank commands; broadcast with `commands`.
        commands: that the row serves; a full row of columns read once each by default.
    """
    gap = ROW_CHANGE_CLOCKS - np.asarray(cadence_clocks, dtype=np.float64)
    shortest = T_RAS + T_RP - np.asarray(commands) * cadence_clocks
    return np.maximum(np.maximum(gap, shortest), 0.0)


def row_clocks(cadence_clocks: Clocks, commands: Clocks = COLUMNS_PER_ROW) -> FloatArray:
    """Clocks of a row's all-bank commands and its change: commands x cadence + `row_change_clocks`.

    As the largest of three sums, so that rounding does not make a longer cadence faster.
    """
    cadence, commands = np.asarray(cadence_clocks, dtype=np.float64), np.asarray(commands)
    changed = np.maximum((commands - 1) * cadence + ROW_CHANGE_CLOCKS, float(T_RAS + T_RP))
    return np.maximum(changed, commands * cadence)


def refresh_stall_clocks(cadence_clocks: Clocks, row_change: Clocks = 0.0) -> FloatArray:
    """Clocks that one refresh adds: all banks close, refresh and reopen their rows, a clock between commands.

    Args:
        cadence_clocks: between all-bank commands, one of which would have passed anyway.
        row_change: the clocks of a row change whose place the refresh takes; 0 where it interrupts a row,
            which is opened once more.
    """
    added = T_RTP + 1 + T_RFC + T_RCD - np.asarray(cadence_clocks, dtype=np.float64)
    return np.maximum(added - row_change, 0.0)


def refresh_factor(stall_clocks: Clocks) -> FloatArray:
    """Clocks with refreshes for every clock of banks at work, over long times: T_REFI / (T_REFI - stall).

    A refresh comes every T_REFI and adds `stall_clocks` (`refresh_stall_clocks`), so that the work of an
    interval is the rest of it. A run shorter than an interval meets a refresh with that probability: the
    factor is its mean over start times.
    """
    return np.asarray(T_REFI / (T_REFI - np.asarray(stall_clocks, dtype=np.float64)))


def stack_power(
    banks: int,
    fpus_per_bank: float,
    cadence_clocks: float,
    reuse: float,
    *,
    background_w: float = BACKGROUND_POWER_W,
) -> float:
    """Watts of one stack whose FPUs all work, each column read serving `reuse` multiply-accumulates.

    Every FPU consumes a 32 B operand each `cadence_clocks`; the DRAM is read once per `reuse`
    operands. With four FPUs and reuse 1 that is four reads a slot, more than a bank can give:
    the power such a design would need, as in PAPI's figure 7.
    """
    operands_per_s = banks * fpus_per_bank / (cadence_clocks * CLOCK_S)
    read_j = COLUMN_BYTES * READ_WITH_ACTIVATION_J_PER_BYTE / reuse
    return operands_per_s * (read_j + LANES * MAC_J) + background_w
