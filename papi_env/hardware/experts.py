"""Time and energy of the experts of a layer (mixtures of experts), on PUs and on FC-PIM.

A router sends every token to a few of the experts, so an expert works through the tokens that it was given, and one
without tokens costs nothing. All functions here take the cost of one expert as a function of its tokens; whoever knows
the routing adds them up.

*FC-PIM, same banks* (PAPI, section 6.5): every bank has a slice of every expert, so that any expert that is active
keeps all FPUs busy. The experts run one after the other. An expert's matrices lie one behind the other in the same
DRAM rows, so that a small expert opens few.
*FC-PIM, groups of stacks*: the stacks are cut into groups, and an expert lies in one. Groups work at once, and
the layer waits for the busiest.
*PUs*: one grouped kernel for the first matrices of all experts and one for the last, by the roofline of each expert.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from papi_env.definition import Definition
from papi_env.errors import ConfigurationError
from papi_env.hardware import costs
from papi_env.hardware.energy import BACKGROUND, NUM_CAUSES
from papi_env.hardware.system import System
from papi_env.hardware.units import PimUnit, ProcessingUnit
from papi_env.kernel import FloatArray, Kernel, Rows, activation_bytes, macs
from papi_env.quantities import Count, Truth

# Grouped kernels of a layer's experts on PUs, both together: seconds that they take besides their work, and the share
# of the data sheet's peak and bandwidth that they reach. Fitted to vLLM's fused kernels of Qwen3-30B-A3B on an RTX
# PRO 6000, as LLMServingSim 2.0 publishes them (MIT licence): `experiments.validate --moe FILE --refit` gives these
# values again. Every PU runs experts by them, at its own peak and bandwidth; only the one card was measured.
EXPERT_START_S = 11e-6
EXPERT_SHARE = 0.85
# Kernels of the experts of a layer: the first matrices, and the last.
KERNELS_PER_LAYER = 2


class ExpertPlacement(Definition):
    """How the experts of a layer lie in the stacks, and whether PUs read there while FC-PIM works.

    `groups` is the number of groups of stacks, each with its own experts, dealt in turn; 1 has slices of all experts in
    every bank. A stack serves the PUs' reads or FC-PIM, one at a time; with `dual_row_buffers` (NeuPIMs, ASPLOS 2024)
    PUs read while banks multiply, but not while vectors take the channel.
    """

    groups: Count = Field(1, ge=1, le=65536)
    dual_row_buffers: Truth = False

    def check(self, system: System, experts: int) -> None:
        """Raise ConfigurationError where the stacks, or the experts, cannot be cut so."""
        if self.groups == 1:
            return
        if system.fc_pim is None:
            raise ConfigurationError(
                f"System {system.name!r} has no FC-PIM stacks to put experts in {self.groups} groups of; "
                "expected groups = 1"
            )
        stacks = system.fc_pim.stacks
        if stacks % self.groups:
            fit = [k for k in range(1, stacks + 1) if stacks % k == 0]
            raise ConfigurationError(
                f"System {system.name!r}: {stacks} FC-PIM stacks do not divide into {self.groups} groups of experts; "
                f"expected one of {fit}"
            )
        if self.groups > experts:
            raise ConfigurationError(
                f"System {system.name!r}: {self.groups} groups of stacks for {experts} experts a layer leave groups "
                f"without any; expected at most {experts}"
            )


@dataclass(frozen=True)
class ExpertLayer:
    """The experts of one layer, all of one shape.

    Args:
        experts: in a layer.
        active: that a token is sent to.
        up: first matrices of one expert, gate and up together where there is a gate; `count` is the number of layers.
        down: the last one.
    """

    experts: int
    active: int
    up: Kernel
    down: Kernel

    @property
    def kernels(self) -> tuple[Kernel, Kernel]:
        """Those of one expert, in order."""
        return self.up, self.down

    @property
    def layers(self) -> int:
        """Layers that have such experts."""
        return self.up.count

    @property
    def expert_bytes(self) -> int:
        """Bytes of the weights of one expert."""
        return sum(kernel.weight_bytes for kernel in self.kernels)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of all experts of all layers."""
        return self.layers * self.experts * self.expert_bytes


@dataclass(frozen=True)
class GroupedKernels:
    """What PUs take for the grouped kernels of a layer's experts: see EXPERT_START_S and EXPERT_SHARE."""

    start_s: float = EXPERT_START_S
    share: float = EXPERT_SHARE


GROUPED = GroupedKernels()


def pu_reading_s(
    unit: ProcessingUnit, layer: ExpertLayer, rows: Rows, grouped: GroupedKernels = GROUPED
) -> FloatArray:
    """Seconds in which all GPUs read an expert's weights, and read and write `rows` vectors; 0 without rows."""
    size = layer.expert_bytes + np.sum([activation_bytes(kernel, rows) for kernel in layer.kernels], axis=0)
    return np.where(np.asarray(rows) > 0, size / (unit.total_bandwidth * grouped.share), 0.0)


def pu_expert_s(
    unit: ProcessingUnit, layer: ExpertLayer, rows: Rows, grouped: GroupedKernels = GROUPED
) -> FloatArray:
    """Seconds of one expert with `rows` tokens on all GPUs, each with an even share of it (shape of `rows`).

    The larger of compute and memory time. A layer takes `grouped.start_s` besides, once.
    """
    work = np.sum([macs(kernel, rows) for kernel in layer.kernels], axis=0)
    compute = 2 * work / (unit.total_flops * grouped.share)
    return np.maximum(compute, pu_reading_s(unit, layer, rows, grouped))


def pu_expert_causes(unit: ProcessingUnit, layer: ExpertLayer, rows: Rows) -> FloatArray:
    """Joules of one expert on all GPUs by cause, [*shape of rows, NUM_CAUSES]; 0 without rows."""
    joules = [costs.pu_fc_energy(unit, kernel, rows).by_cause for kernel in layer.kernels]
    return np.where((np.asarray(rows) > 0)[..., None], np.sum(joules, axis=0), 0.0)


def pim_expert_s(unit: PimUnit, layer: ExpertLayer, rows: Rows, groups: int = 1) -> FloatArray:
    """Seconds of one expert with `rows` tokens on the stacks of one of `groups` groups (shape of `rows`).

    Its matrices are worked through as one kernel, row by row of the DRAM; vectors move meanwhile if the buffers are
    double. Activation functions on the buffer die take no time. A layer pays its kernels' starts besides.
    """
    part = _part(unit, groups)
    some = np.maximum(rows, 1)
    return np.where(np.asarray(rows) > 0, costs.pim_mapped_s(part, _mapping(part, layer), some), 0.0)


def pim_held_s(unit: PimUnit, layer: ExpertLayer, rows: Rows, placement: ExpertPlacement) -> FloatArray:
    """Seconds of `pim_expert_s` in which PUs cannot read from those stacks (shape of `rows`).

    All of them, or with dual row buffers those in which vectors take the channels.
    """
    if not placement.dual_row_buffers:
        return pim_expert_s(unit, layer, rows, placement.groups)
    commands = _mapping(_part(unit, placement.groups), layer).vector_commands
    technology = unit.stack.technology
    return np.asarray(rows, dtype=np.float64) * (commands * technology.write_clocks * technology.clock_s)


def pim_expert_causes(unit: PimUnit, layer: ExpertLayer, rows: Rows, groups: int = 1) -> FloatArray:
    """Joules of one expert on the stacks of one group by cause, [*shape of rows, NUM_CAUSES]; 0 without rows."""
    part = _part(unit, groups)
    some = np.maximum(rows, 1)
    joules = np.zeros((*np.shape(rows), NUM_CAUSES))
    for kernel in layer.kernels:
        joules += costs.pim_fc_energy(part, kernel, some).by_cause
    # Of the time that the matrices take together.
    busy_s = costs.pim_mapped_s(part, _mapping(part, layer), some)
    joules[..., BACKGROUND] = busy_s * (part.stacks * part.active_power_w)
    return np.where((np.asarray(rows) > 0)[..., None], joules, 0.0)


def _part(unit: PimUnit, groups: int) -> PimUnit:
    """The stacks of one group."""
    return unit if groups == 1 else unit.model_copy(update={"stacks": unit.stacks // groups})


def _mapping(unit: PimUnit, layer: ExpertLayer) -> costs.FcMapping:
    """The matrices of an expert as one: columns that share rows, and the vectors of all."""
    parts = [costs.pim_fc_mapping(unit, kernel) for kernel in layer.kernels]
    columns = layer.expert_bytes / (unit.stacks * unit.stack.banks * unit.stack.technology.column_bytes)
    return costs.FcMapping(
        columns=math.ceil(columns),
        vector_commands=sum(part.vector_commands for part in parts),
        input_copies=parts[0].input_copies,
        partial_sums=parts[0].partial_sums,
        slots_per_column=parts[0].slots_per_column,
    )
