"""Stacks with processing units beside the banks, and the clocks and watts of their all-bank commands.

The PIM command is an all-bank multiply-accumulate: every bank of a stack reads one column and its floating-point units
(FPUs) multiply it with elements held in the GEMV buffers. What differs between kinds of DRAM is data
(`papi_env.hardware.technology`); functions take that of HBM3 if not told otherwise.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from papi_env.definition import Definition
from papi_env.hardware.technology import HBM3, TECHNOLOGIES, Technology
from papi_env.kernel import FloatArray
from papi_env.quantities import Count
from papi_env.registry import resolve

Clocks: TypeAlias = float | FloatArray

# HBM3's, of PAPI's systems and of AttAcc's simulator.
CLOCK_S = HBM3.clock_s
COLUMN_BYTES = HBM3.column_bytes
ROW_BYTES = HBM3.row_bytes
CHANNELS = HBM3.channels
DIES = HBM3.dies
LANES = HBM3.lanes
T_RP, T_RCD, T_REFI = HBM3.t_rp, HBM3.t_rcd, HBM3.t_refi
T_CCD_S, T_CCD_L = HBM3.t_ccd_s, HBM3.t_ccd_l
READ_WITH_ACTIVATION_J_PER_BYTE = HBM3.read_with_activation_j_per_byte
ACTIVATION_J = HBM3.activation_j
READ_J_PER_BYTE = HBM3.read_j_per_byte
TO_BUFFER_DIE_J_PER_BYTE = HBM3.to_buffer_j_per_byte
OFF_CHIP_J_PER_BYTE = HBM3.off_chip_j_per_byte
MAC_J = HBM3.mac_j
CUBE_POWER_W = HBM3.power_budget_w
BACKGROUND_POWER_W = HBM3.background_power_w
IDLE_POWER_W = HBM3.idle_power_w
STACK_BANDWIDTH = HBM3.interface_bandwidth

# Key rows are counted by the parts of a row that a group of tokens takes: the columns of a row of HBM3.
COLUMNS_PER_ROW = HBM3.columns_per_row
# The number of tokens whose scores one group of columns covers (AttAcc's attention mapping).
GROUP_TOKENS = 16


def max_banks_per_die(fpus_per_bank: float, technology: Technology = HBM3) -> int:
    """The banks that fit one die beside their FPUs; see `Technology.max_banks_per_die`."""
    return technology.max_banks_per_die(fpus_per_bank)


class Stack(Definition):
    """The banks of one stack. `technology` is a registered name, a table that starts from one, or a whole one."""

    # By default as many as a plain die of the technology has.
    banks_per_die: Count = Field(HBM3.banks_per_die, ge=4, le=128, multiple_of=4)
    technology: Technology = HBM3

    @field_validator("technology", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return resolve(value, TECHNOLOGIES, "DRAM technology")

    @model_validator(mode="before")
    @classmethod
    def _plain_die(cls, data: Any) -> Any:
        if isinstance(data, dict) and "banks_per_die" not in data:
            technology = technology_of(data)
            if technology is not None:
                return {**data, "banks_per_die": technology.banks_per_die}
        return data

    @model_validator(mode="after")
    def _on_its_dies(self) -> Stack:
        technology = self.technology
        if self.banks_per_die > technology.banks_per_die or self.banks_per_die % technology.bank_group_banks:
            raise ValueError(
                f"banks_per_die {self.banks_per_die}: expected whole groups of {technology.bank_group_banks} banks and "
                f"at most the {technology.banks_per_die} of a die of {technology.name}"
            )
        if self.banks % technology.channels:
            raise ValueError(
                f"banks_per_die {self.banks_per_die}: {self.banks} banks on {technology.dies} dies, expected a "
                f"multiple of {technology.channels} channels"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = write(self)
        if self.technology == HBM3:
            data.pop("technology", None)
        return data

    @property
    def banks(self) -> int:
        """Banks of the whole stack."""
        return self.banks_per_die * self.technology.dies

    @property
    def banks_per_channel(self) -> int:
        """Banks behind one channel."""
        return self.banks // self.technology.channels

    @property
    def capacity_bytes(self) -> int:
        """Bytes that the stack holds."""
        return self.banks * self.technology.bank_bytes


def technology_of(data: Any) -> Technology | None:
    """The technology in the data of a stack, HBM3 if it names none; None if it can't be told."""
    if isinstance(data, Stack):
        return data.technology
    if not isinstance(data, dict):
        return None
    found = data.get("technology", HBM3)
    if isinstance(found, str):
        return TECHNOLOGIES.get(found)
    if isinstance(found, dict):
        try:
            return Technology.model_validate(resolve(found, TECHNOLOGIES, "DRAM technology"))
        except ValueError:  # said where the field is read
            return None
    return found if isinstance(found, Technology) else None


def row_change_clocks(
    cadence_clocks: Clocks, commands: Clocks | None = None, technology: Technology = HBM3
) -> FloatArray:
    """Clocks that closing a row and opening the next add to a row's all-bank commands.

    The last read of a row and the first of the next are `Technology.row_change_clocks` apart, of which a cadence would
    have passed anyway. A row that serves few commands also waits until it has been open for t_ras. Nothing
    hides this: all banks work in step, so that no other bank multiplies meanwhile.

    Args:
        cadence_clocks: between all-bank commands; broadcast with `commands`.
        commands: that the row serves; a full row of columns read once each by default.
    """
    commands = technology.columns_per_row if commands is None else commands
    gap = technology.row_change_clocks - np.asarray(cadence_clocks, dtype=np.float64)
    shortest = technology.t_ras + technology.t_rp - np.asarray(commands) * cadence_clocks
    return np.maximum(np.maximum(gap, shortest), 0.0)


def row_clocks(
    cadence_clocks: Clocks, commands: Clocks | None = None, technology: Technology = HBM3
) -> FloatArray:
    """Clocks of a row's all-bank commands and its change: commands x cadence + `row_change_clocks`.

    As the largest of three sums, so that rounding does not make a longer cadence faster.
    """
    cadence = np.asarray(cadence_clocks, dtype=np.float64)
    served = np.asarray(technology.columns_per_row if commands is None else commands)
    open_clocks = float(technology.t_ras + technology.t_rp)
    changed = np.maximum((served - 1) * cadence + technology.row_change_clocks, open_clocks)
    return np.maximum(changed, served * cadence)


def refresh_stall_clocks(
    cadence_clocks: Clocks, row_change: Clocks = 0.0, technology: Technology = HBM3
) -> FloatArray:
    """Clocks that one refresh adds: all banks close, refresh and reopen their rows, a clock between commands.

    Args:
        cadence_clocks: between all-bank commands, one of which would have passed anyway.
        row_change: the clocks of a row change whose place the refresh takes; 0 where it interrupts a row,
            which is opened once more.
    """
    added = technology.refresh_clocks - np.asarray(cadence_clocks, dtype=np.float64)
    return np.maximum(added - row_change, 0.0)


def refresh_factor(stall_clocks: Clocks, technology: Technology = HBM3) -> FloatArray:
    """Clocks with refreshes for every clock of banks at work, over long times: t_refi / (t_refi - stall).

    A refresh comes every t_refi and adds `stall_clocks` (`refresh_stall_clocks`), so that the work of an
    interval is the rest of it. A run shorter than an interval meets a refresh with that probability: the
    factor is its mean over start times.
    """
    interval = technology.t_refi
    return np.asarray(interval / (interval - np.asarray(stall_clocks, dtype=np.float64)))


def stack_power(
    banks: int,
    fpus_per_bank: float,
    cadence_clocks: float,
    reuse: float,
    *,
    background_w: float | None = None,
    technology: Technology = HBM3,
) -> float:
    """Watts of one stack whose FPUs all work, each column read serving `reuse` multiply-accumulates.

    Every FPU consumes a column each `cadence_clocks`; the DRAM is read once per `reuse`
    operands. With four FPUs and reuse 1 that is four reads a slot, more than a bank can give:
    the power such a design would need, as in PAPI's figure 7.
    """
    operands_per_s = banks * fpus_per_bank / (cadence_clocks * technology.clock_s)
    read_j = technology.column_bytes * technology.read_with_activation_j_per_byte / reuse
    background = technology.background_power_w if background_w is None else background_w
    return operands_per_s * (read_j + technology.lanes * technology.mac_j) + background
