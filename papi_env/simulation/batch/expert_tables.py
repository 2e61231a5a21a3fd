"""What the experts of a model cost in an iteration, tabulated by option, rows and drawn routing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.hardware import experts as hardware
from papi_env.hardware.energy import NUM_CAUSES, TRANSFER
from papi_env.hardware.experts import ExpertLayer, ExpertPlacement
from papi_env.hardware.system import System
from papi_env.hardware.table import DENSE_ROWS, CostTable
from papi_env.hardware.threshold import least_time_threshold
from papi_env.hardware.units import FC_PIM, PimUnit
from papi_env.kernel import FP16_BYTES, FloatArray, KernelClass
from papi_env.scenario import Scenario
from papi_env.simulation.batch import routed
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.stages import crossing
from papi_env.workload.routing import Routing, active_experts, routing_of, tokens_per_active_expert
from papi_env.workload.transformer import Transformer

# Routings of an iteration that are drawn in advance for each number of rows, and of which an iteration has one.
# chosen: 16, range 8-64: each is a sum over all layers, whose times differ among samples by a few per cent.
SAMPLES = 16
# Layers drawn where only their mean counts and there is no exact one: groups of stacks in the offline sweep.
_SWEPT_LAYERS = 16
NUM_COLUMNS = routed.CAUSES + NUM_CAUSES


@dataclass(frozen=True, eq=False)
class ExpertProfile:
    """What an offline sweep gives a scheduler of a model with experts.

    Attributes:
        tokens_per_active: tokens of an expert that has any, on average, by n = 0..1024.
        alpha: the threshold on it, from the same sweep as PAPI's, of the experts alone.
        seconds: of the experts of all layers on PUs, on FC-PIM and split, by n, the mean over routings, [3, n];
            infinite where they cannot run so.
        split_alpha: the threshold on tokens per active expert above which a split, with its mode switches, takes less
            than FC-PIM in the same sweep; NaN where switches are not known.
        others_alpha: PAPI's threshold on n of all other FC kernels of the model; NaN where they are not looked at.
    """

    tokens_per_active: FloatArray
    alpha: float
    seconds: FloatArray
    split_alpha: float = math.nan
    others_alpha: float = math.nan


@dataclass(frozen=True, eq=False)
class UnitCosts:
    """What one expert takes on the units by its tokens, and a layer besides: see `routed.add_layer`."""

    one: FloatArray
    causes: FloatArray
    fixed: FloatArray
    row_transfer_j: float


def options_of(system: System) -> npt.NDArray[np.bool_]:
    """Bool [3]: whether the experts can run on the PUs, on FC-PIM, or be split between both."""
    pu, pim = system.can_run("pu", "fc"), system.can_run("fc-pim", "fc")
    return np.array([pu, pim, pu and pim])


def unit_costs(system: System, layer: ExpertLayer, placement: ExpertPlacement, rows: int) -> UnitCosts:
    """What one expert of a layer takes on either unit, by its tokens from 0 to `rows`."""
    groups = placement.groups
    tokens = np.arange(rows + 1)
    one, causes, fixed = (
        np.zeros((rows + 1, routed.NUM_ONE)),
        np.zeros((2, rows + 1, NUM_CAUSES)),
        np.zeros(3),
    )
    row_transfer_j = 0.0
    if system.pu is not None:
        one[:, routed.PU_S] = hardware.pu_expert_s(system.pu, layer, tokens)
        one[:, routed.READ_S] = hardware.pu_reading_s(system.pu, layer, tokens)
        causes[0] = hardware.pu_expert_causes(system.pu, layer, tokens)
        fixed[0] = hardware.GROUPED.start_s
    unit = system.fc_pim
    if isinstance(unit, PimUnit) and system.can_run("fc-pim", "fc"):
        one[:, routed.PIM_S] = hardware.pim_expert_s(unit, layer, tokens, groups)
        one[:, routed.HELD_S] = hardware.pim_held_s(unit, layer, tokens, placement)
        causes[1] = hardware.pim_expert_causes(unit, layer, tokens, groups)
        fixed[1] = hardware.KERNELS_PER_LAYER * system.pim_start_s
        # Partial outputs of a node's stacks, as of any FC kernel; linear in the rows.
        fixed[2] = sum(float(system.stack_sum_s(kernel, 1)) for kernel in layer.kernels)
        row_transfer_j = sum(float(system.stack_sum_j(kernel, 1)) for kernel in layer.kernels)
        causes[1, :, TRANSFER] += row_transfer_j * tokens
    return UnitCosts(one, causes, fixed, row_transfer_j)


@lru_cache(maxsize=16)
def expert_table(
    system: System, routing: Routing, placement: ExpertPlacement, wanted: tuple[int, ...]
) -> FloatArray:
    """What the experts of all layers cost, float64 [options, rows = 0..max(wanted), samples, NUM_COLUMNS].

    Options and columns as in `routed`; infinite seconds of options that the system lacks. Keyed routings have SAMPLES
    samples; the mean over routings has one. That is exact on the PUs and on FC-PIM where all banks have all experts,
    and else, for a split and for groups of stacks, the mean of SAMPLES x layers routings of a layer.

    Args:
        wanted: the rows that an iteration may have; zeros for others.
    """
    layer, most = routing.layer, max(wanted)
    asked = np.zeros(most + 1, dtype=np.bool_)
    asked[list(wanted)] = True
    costs = unit_costs(system, layer, placement, most)
    table = _sampled(routing, placement, costs, asked, SAMPLES, layer.layers)
    if not routing.keyed:
        table = table.mean(axis=2, keepdims=True)
        if placement.groups == 1:
            _write_exact(table, routing, costs, asked)
    table[~options_of(system), :, :, routed.SECONDS] = np.inf
    table.flags.writeable = False
    return table


def _sampled(
    routing: Routing,
    placement: ExpertPlacement,
    costs: UnitCosts,
    asked: npt.NDArray[np.bool_],
    samples: int,
    layers: int,
) -> FloatArray:
    found: FloatArray = routed.routed_costs(
        samples,
        layers,
        asked,
        routing.weights,
        routing.layer.active,
        placement.groups,
        costs.one,
        costs.causes,
        costs.fixed,
    )
    return found


def _exact(routing: Routing, costs: UnitCosts, rows: int) -> FloatArray:
    """Means over routings of all layers on one unit, float64 [2 units, rows + 1, NUM_COLUMNS]; all banks have all."""
    loads = routing.loads(rows)
    tokens = np.arange(rows + 1) * routing.layer.active
    exact = np.zeros((2, rows + 1, NUM_COLUMNS))
    pu_s = costs.fixed[0] + loads @ costs.one[:, routed.PU_S]
    pim_s = costs.fixed[1] + costs.fixed[2] * tokens + loads @ costs.one[:, routed.PIM_S]
    for unit, busy, seconds in (
        (routed.ON_PU, routed.PU_BUSY_S, pu_s),
        (routed.ON_PIM, routed.PIM_BUSY_S, pim_s),
    ):
        exact[unit, :, routed.SECONDS] = exact[unit, :, busy] = seconds
        exact[unit, :, routed.CAUSES :] = loads @ costs.causes[unit]
        exact[unit, :, routed.JOULES] = exact[unit, :, routed.CAUSES :].sum(axis=-1)
    exact[routed.ON_PU, :, routed.HOT] = loads[:, 1:].sum(axis=1)
    exact[:, 0] = 0.0
    return exact * routing.layer.layers


def _write_exact(table: FloatArray, routing: Routing, costs: UnitCosts, asked: npt.NDArray[np.bool_]) -> None:
    exact = _exact(routing, costs, len(asked) - 1)
    for unit in (routed.ON_PU, routed.ON_PIM):
        table[unit, asked, 0] = exact[unit, asked]


@lru_cache(maxsize=64)
def expert_profile(system: System, routing: Routing, placement: ExpertPlacement) -> ExpertProfile:
    """The offline sweep over n = 1..1024: each unit runs all experts by itself."""
    costs = unit_costs(system, routing.layer, placement, DENSE_ROWS)
    asked = np.ones(DENSE_ROWS + 1, dtype=np.bool_)
    swept = _sampled(routing, placement, costs, asked, 1, _SWEPT_LAYERS)[:, :, 0, routed.SECONDS]
    means = swept * (routing.layer.layers / _SWEPT_LAYERS)
    if placement.groups == 1:
        means[:2] = _exact(routing, costs, DENSE_ROWS)[..., routed.SECONDS]
    means = np.where(options_of(system)[:, None], means, np.inf)
    n = np.arange(DENSE_ROWS + 1)
    measure = tokens_per_active_expert(routing.chance, n)
    alpha = least_time_threshold(system, measure[1:], means[0, 1:], means[1, 1:])
    return ExpertProfile(measure, alpha, means)


def reachable_rows(requests: int, lengths: Iterable[int]) -> tuple[int, ...]:
    """All n = RLP x TLP that iterations of so many requests may have, with such speculation lengths."""
    return tuple(sorted({rlp * tlp for rlp in range(1, requests + 1) for tlp in lengths}))


def _there_and_back_s(scenario: Scenario, model: Transformer, scalars: FloatArray) -> FloatArray:
    """Seconds of a split's two changes of the stacks' mode in one layer, with activations that cross, by n."""
    n = np.arange(DENSE_ROWS + 1, dtype=np.float64)
    if scalars[at.SWITCH_S] == 0:
        return np.zeros_like(n)
    return 2 * (scalars[at.SWITCH_S] + crossing(scenario.system, FP16_BYTES * model.hidden * n)[0])


def _split_alpha(system: System, profile: ExpertProfile, switching_s: FloatArray) -> float:
    pim_s, split_s = profile.seconds[FC_PIM], profile.seconds[at.SPLIT] + switching_s
    if not np.isfinite(split_s[1:]).all():
        return math.inf
    return least_time_threshold(system, profile.tokens_per_active[1:], split_s[1:], pim_s[1:])


class ExpertParts(NamedTuple):
    """What the experts of a scenario add to the engine's tables, and to its profile."""

    tables: dict[str, npt.NDArray[Any]]
    profile: ExpertProfile


def expert_parts(scenario: Scenario, scalars: FloatArray) -> ExpertParts | None:
    """The tables of experts by the names of `tables.EngineTables`; fills in their scalars. None without experts.

    Raises:
        ConfigurationError: the experts cannot be placed as the scenario says.
    """
    model, workload = scenario.model, scenario.workload
    routing = None if model is None else routing_of(model)
    if model is None or workload is None or routing is None:
        return None
    system, layer = scenario.system, routing.layer
    placement = scenario.experts or ExpertPlacement()
    placement.check(system, layer.experts)
    fed = {kernel.count for kernel in model.fc_kernels() if kernel.kernel_class is KernelClass.FEED_FORWARD}
    scalars[at.EXPERT_LAYERS] = layer.layers
    scalars[at.EXPERTS_FED] = layer.layers in fed
    scalars[at.ENDS_FED] = model.lm_head_kernel() is not None
    lengths = {workload.speculation, *(length for _, length in workload.speculation_schedule)}
    costs = expert_table(system, routing, placement, reachable_rows(workload.batch_size, lengths))
    profile = expert_profile(system, routing, placement)
    profile = replace(
        profile,
        split_alpha=_split_alpha(system, profile, layer.layers * _there_and_back_s(scenario, model, scalars)),
        others_alpha=CostTable(system, model.decode_kernels()).calibrate_alpha(),
    )
    measure, finite = profile.tokens_per_active, np.isfinite(profile.alpha)
    share = np.zeros_like(measure)
    if finite:
        np.divide(measure, measure + profile.alpha, out=share, where=measure > 0)
    active = active_experts(routing.chance, np.arange(len(measure))) / layer.experts
    descriptors = [
        np.log2(1 + layer.experts) / 16,
        layer.active / layer.experts,
        np.log10(layer.expert_bytes) / 20,
        routing.exponent / (1 + routing.exponent),
    ]
    tables: dict[str, npt.NDArray[Any]] = {
        "experts": costs,
        "expert_features": np.stack([measure / (measure + 16), share, active], axis=1),
        "expert_descriptors": np.array(descriptors, dtype=np.float32),
    }
    return ExpertParts(tables, profile)
