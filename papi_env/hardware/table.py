"""Costs tabulated once per scenario, and the offline sweep that gives PAPI's threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.hardware.costs import pim_fc_energy, pim_fc_s, pu_fc_energy, pu_fc_s
from papi_env.hardware.energy import NUM_CAUSES, TRANSFER
from papi_env.hardware.keeping import kept_by_machine
from papi_env.hardware.system import System
from papi_env.hardware.threshold import least_time_threshold
from papi_env.hardware.units import FC_PIM, PU, UNIT_NAMES, PimUnit, ProcessingUnit
from papi_env.kernel import FloatArray, Kernel, Rows

DENSE_ROWS = 1024  # 128 requests x 8 tokens: the largest decode step
_KEPT_ROWS = DENSE_ROWS + 1  # costs of more at a time are not kept: whoever asks for them asks once


class CostTable:
    """Seconds and joules of FC kernels by unit and rows: dense to 1024 rows, closed form beyond.

    Attributes:
        kernels: the kernels, each already multiplied by its `count` in the tables.
        seconds: float64 [kernels, units, DENSE_ROWS + 1]; infinite where the unit cannot run FC kernels.
        joules: the same shape; dynamic energy.
    """

    def __init__(self, system: System, kernels: Sequence[Kernel]) -> None:
        self.system = system
        self.kernels = tuple(kernels)
        self.seconds, self.joules = _tabulated(system, self.kernels)

    def cost(self, kernel: int, unit: int, rows: Rows) -> tuple[FloatArray, FloatArray]:
        """Seconds and joules of kernel `kernel` on unit `unit`, for any number of rows (same shape as `rows`)."""
        rows = np.asarray(rows)
        if rows.size and rows.min() < 0:
            raise ValueError(f"rows is {rows.min()}, expected a number >= 0")
        if rows.size and rows.max() <= DENSE_ROWS:
            return self.seconds[kernel, unit, rows], self.joules[kernel, unit, rows]
        some, k = np.maximum(rows, 1), self.kernels[kernel]
        if rows.size <= _KEPT_ROWS:
            seconds, joules = _kept_form(self.system, k, unit, _Rows.of(some))
        else:
            seconds, joules = _closed_form(self.system, k, unit, some)
        return np.where(rows > 0, seconds, 0.0), np.where(rows > 0, joules, 0.0)

    def joules_by_cause(self, kernel: int, unit: int, rows: Rows) -> FloatArray:
        """The joules of `cost` by cause, [*shape of rows, NUM_CAUSES] in the order of `energy.CAUSES`.

        What a node sums over its stacks is a transfer. Infinite where the unit cannot run FC kernels.
        """
        rows, k = np.asarray(rows), self.kernels[kernel]
        some = np.maximum(rows, 1)
        if rows.size <= _KEPT_ROWS:
            joules = _kept_causes(self.system, k, unit, _Rows.of(some))
        else:
            joules = _causes(self.system, k, unit, some)
        return np.where(rows[..., None] > 0, k.count * joules, 0.0)

    def calibrate_alpha(self, beside: FloatArray | None = None) -> float:
        """PAPI's threshold α by its offline sweep: FC kernels go to the PUs when n = RLP x TLP exceeds α.

        All FC kernels are timed on both units for n = 1..1024; α minimises the summed time of following
        the rule. It is 0 where only PUs run FC kernels, and infinite where only PIM does.

        Args:
            beside: seconds of further FC kernels on both units, [2, n = 0..1024].
        """
        pu, pim = (self.seconds[:, unit, 1:].sum(axis=0) for unit in (PU, FC_PIM))
        if beside is not None:
            pu, pim = pu + beside[PU, 1:], pim + beside[FC_PIM, 1:]
        return least_time_threshold(self.system, np.arange(1, DENSE_ROWS + 1), pu, pim)


@kept_by_machine(64)
def _tabulated(system: System, kernels: tuple[Kernel, ...]) -> tuple[FloatArray, FloatArray]:
    """`seconds` and `joules` of a `CostTable`."""
    rows = np.arange(1, DENSE_ROWS + 1)
    shape = (len(kernels), len(UNIT_NAMES), DENSE_ROWS + 1)
    seconds, joules = np.full(shape, np.inf), np.full(shape, np.inf)
    for unit, name in enumerate(UNIT_NAMES):
        if not system.can_run(name, "fc"):
            continue
        seconds[:, unit, 0] = joules[:, unit, 0] = 0.0
        for i, kernel in enumerate(kernels):
            seconds[i, unit, 1:], joules[i, unit, 1:] = _closed_form(system, kernel, unit, rows)
    return seconds, joules


class _Rows(NamedTuple):
    """An array of rows as a key of what is kept."""

    kind: str
    shape: tuple[int, ...]
    content: bytes

    @classmethod
    def of(cls, rows: npt.NDArray[Any]) -> _Rows:
        return cls(rows.dtype.str, rows.shape, rows.tobytes())

    @property
    def array(self) -> npt.NDArray[Any]:
        return np.frombuffer(self.content, self.kind).reshape(self.shape)


# Environments of one machine and network ask for the same again.
@kept_by_machine(512)
def _kept_form(system: System, kernel: Kernel, unit: int, rows: _Rows) -> tuple[FloatArray, FloatArray]:
    return _closed_form(system, kernel, unit, rows.array)


@kept_by_machine(256)
def _kept_causes(system: System, kernel: Kernel, unit: int, rows: _Rows) -> FloatArray:
    return _causes(system, kernel, unit, rows.array)


def _causes(system: System, kernel: Kernel, unit: int, rows: npt.NDArray[Any]) -> FloatArray:
    """Joules of one run of a kernel by cause; infinite where the unit cannot run FC kernels."""
    name = UNIT_NAMES[unit]
    spec = system.unit(name) if system.can_run(name, "fc") else None
    if isinstance(spec, ProcessingUnit):
        return pu_fc_energy(spec, kernel, rows).by_cause
    if isinstance(spec, PimUnit):
        joules = pim_fc_energy(spec, kernel, rows).by_cause
        joules[..., TRANSFER] += system.stack_sum_j(kernel, rows)
        return joules
    return np.full((*rows.shape, NUM_CAUSES), np.inf)


def _closed_form(system: System, kernel: Kernel, unit: int, rows: Rows) -> tuple[FloatArray, FloatArray]:
    """Seconds and joules of all of a kernel on a unit; infinite where it cannot run FC kernels."""
    name = UNIT_NAMES[unit]
    spec = system.unit(name) if system.can_run(name, "fc") else None
    if isinstance(spec, ProcessingUnit):
        seconds, energy = pu_fc_s(spec, kernel, rows), pu_fc_energy(spec, kernel, rows)
    elif isinstance(spec, PimUnit):
        seconds, energy = pim_fc_s(spec, kernel, rows), pim_fc_energy(spec, kernel, rows)
        seconds = seconds + (system.pim_start_s + system.stack_sum_s(kernel, rows))
        return kernel.count * seconds, kernel.count * (energy.total + system.stack_sum_j(kernel, rows))
    else:
        infinite = np.full(np.shape(rows), np.inf)
        return infinite, infinite
    return kernel.count * seconds, kernel.count * energy.total
