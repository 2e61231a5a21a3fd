"""Experts in prefill: prompts have so many tokens that each expert is taken to have its mean share of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from papi_env.hardware import experts as hardware
from papi_env.hardware.energy import NUM_CAUSES, TRANSFER
from papi_env.hardware.experts import ExpertPlacement
from papi_env.hardware.system import System
from papi_env.hardware.units import PimUnit
from papi_env.kernel import FloatArray
from papi_env.workload.routing import Routing

Counts = npt.NDArray[np.int64]


def prompt_experts(
    system: System, routing: Routing, placement: ExpertPlacement, tokens: Counts
) -> tuple[FloatArray, FloatArray]:
    """Seconds, and joules by cause, of the experts of all layers for `tokens` prompt tokens, on the prefill's unit.

    An expert counts as often as it has any tokens, with those that it has then on average. With groups of stacks,
    experts are dealt to them in the order of their popularity.

    Args:
        tokens: of any shape.

    Returns:
        Float64 of that shape, and [*shape, NUM_CAUSES]; 0 without tokens.
    """
    layer, groups = routing.layer, placement.groups
    n = np.asarray(tokens, dtype=np.float64)[..., None]
    active = -np.expm1(n * np.log1p(-np.minimum(routing.chance, 1 - 1e-16)))
    rows = np.where(n > 0, np.maximum(np.rint(n * routing.chance / np.maximum(active, 1e-300)), 1), 0).astype(
        np.int64
    )
    transfer_j: FloatArray | float = 0.0
    if system.prefill_unit == "pu":
        assert system.pu is not None
        # Of a group, whose stacks are a share of the GPUs.
        one = groups * hardware.pu_expert_s(system.pu, layer, rows)
        causes = hardware.pu_expert_causes(system.pu, layer, rows)
        start: FloatArray = np.full(n.shape[:-1], hardware.GROUPED.start_s)
    else:
        unit = system.fc_pim
        assert isinstance(unit, PimUnit)
        one = hardware.pim_expert_s(unit, layer, rows, groups)
        causes = hardware.pim_expert_causes(unit, layer, rows, groups)
        sent = np.asarray(tokens) * layer.active
        sums_s = np.sum([system.stack_sum_s(kernel, sent) for kernel in layer.kernels], axis=0)
        start = hardware.KERNELS_PER_LAYER * system.pim_start_s + sums_s
        transfer_j = np.sum([system.stack_sum_j(kernel, sent) for kernel in layer.kernels], axis=0)
    load = one * active
    busiest = np.max([load[..., group::groups].sum(axis=-1) for group in range(groups)], axis=0)
    joules = np.einsum("...e,...ec->...c", active, causes)
    joules[..., TRANSFER] += transfer_j
    seconds = np.where(n[..., 0] > 0, start + busiest, 0.0)
    assert joules.shape[-1] == NUM_CAUSES
    return layer.layers * seconds, layer.layers * joules
