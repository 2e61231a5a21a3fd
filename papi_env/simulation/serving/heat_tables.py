"""What the thermal nodes of a serving scenario look up, from the joules by cause of its other look-ups.

What a stack turns into heat is what the energy accounts enter for it: of PIM kernels all but links; of kernels on GPUs
what reading the same bytes takes up to the stack's buffer die. The pins' joules and what follows are the GPU's. Writes
of keys and values are accounted to their link alone, and warm nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from papi_env.errors import ConfigurationError
from papi_env.hardware import dram
from papi_env.hardware.energy import ACTIVATION, LINK, NUM_CAUSES, READ
from papi_env.hardware.system import System
from papi_env.hardware.units import PimUnit
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.heat import DRAFT, HEAD, KEYS, NUM_ROWS, WEIGHTS
from papi_env.workload.heat import Heat


def doubled_refresh(unit: PimUnit) -> float:
    """How many times as long PIM commands take when stacks are refreshed every t_refi / 2.

    Of FC kernels at the unit's cadence (`costs.pim_fc_bank_clocks`), the share of time that is left between refreshes
    in the place of a row change: (t_refi - s) / (t_refi - 2 s). Attention comes within a per cent of it.

    Raises:
        ConfigurationError: the stacks would do nothing but refresh.
    """
    technology = unit.stack.technology
    gap = np.maximum(float(technology.row_change_clocks), unit.cadence_clocks)
    stall = float(dram.refresh_stall_clocks(0.0, gap, technology))
    if 2 * stall >= technology.t_refi:
        raise ConfigurationError(
            f"heat: refreshes of {stall:g} clocks every {technology.t_refi / 2:g} leave {technology.name} no time when "
            "it is hot, expected a t_refi of more than twice a refresh"
        )
    return (technology.t_refi - stall) / (technology.t_refi - 2 * stall)


def write_heat(heat: Heat, system: System, scalars: FloatArray) -> None:
    """Enter what the compiled code needs to know of a scenario's heat into its scalars."""
    scalars[at.HEAT_RESISTANCE], scalars[at.HEAT_RATE] = heat.resistance_k_per_w, 1.0 / heat.time_constant_s
    scalars[at.AMBIENT_C], scalars[at.REFRESH_AT_C] = heat.ambient_c, heat.refresh_at_c
    scalars[at.THROTTLE_AT_C], scalars[at.RELEASE_AT_C] = heat.throttle_at_c, heat.release_at_c
    scalars[at.THROTTLE] = heat.throttle
    for node, unit in ((WEIGHTS, system.fc_pim), (KEYS, system.attn_pim)):
        if unit is not None:
            scalars[at.HEAT_STACKS + node] = unit.stacks
            scalars[at.HEAT_IDLE_W + node] = unit.idle_power_w
            scalars[at.HEAT_REFRESH + node] = doubled_refresh(unit)
    keys = KEYS if system.attn_pim is not None else WEIGHTS
    scalars[at.HEAT_KV] = keys
    # GPUs attend to a prompt's keys and values before they leave for the stacks that attend.
    scalars[at.HEAT_PROMPT] = WEIGHTS if system.prefill_unit == "pu" else keys


def heat_tables(tables: Any, system: System) -> dict[str, Any]:
    """The fields of `ServingTables` whose names begin with `heat`, from its others (`tables`), scalars among them."""
    scalars = tables.scalars
    on_pim, weights, keys = _on_pim(), _read_by_gpu(system.fc_pim), _read_by_gpu(system.attn_pim)
    no_pus = system.pu is None
    rows = np.zeros((NUM_ROWS, tables.fc_causes.shape[1]))
    rows[at.PU], rows[at.FC_PIM] = tables.fc_causes[at.PU] @ weights, tables.fc_causes[at.FC_PIM] @ on_pim
    others = on_pim if no_pus else weights
    if len(tables.head):
        rows[HEAD, : len(tables.head)] = tables.head[:, 2:] @ others
    rows[DRAFT, : len(tables.draft_causes)] = tables.draft_causes @ others
    gpu_attends = scalars[at.ATTENTION_UNIT] == at.PU
    attends = (keys if scalars[at.HEAT_KV] == KEYS else weights) if gpu_attends else on_pim
    terms = tables.term_causes @ (weights if system.prefill_unit == "pu" else on_pim)
    terms[at.DRAFTED_CONTEXT] = tables.term_causes[at.DRAFTED_CONTEXT] @ others
    return {"heat_rows": rows, "heat_attention": tables.attention_causes @ attends, "heat_terms": terms}


def _on_pim() -> FloatArray:
    """What of the joules by cause a stack takes whose own units work."""
    share = np.ones(NUM_CAUSES)
    share[LINK] = 0.0
    return share


def _read_by_gpu(unit: PimUnit | None) -> FloatArray:
    """What of the joules by cause stacks take that a GPU reads: of rows, and of the way to the buffer die.

    GPUs' joules of rows are those of HBM3 for the same bytes, whatever their memory (`costs`).
    """
    share = np.zeros(NUM_CAUSES)
    if unit is not None:
        technology = unit.stack.technology
        within = technology.read_with_activation_j_per_byte + technology.to_buffer_j_per_byte
        share[[ACTIVATION, READ]] = within / dram.READ_WITH_ACTIVATION_J_PER_BYTE
    return share
