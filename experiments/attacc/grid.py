"""Reading AttAcc's output columns: each row is a run to repeat and the figures to compare with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from experiments.attacc.machines import GPUS, MODELS, PIM_DEVICES, Gpu, Pim, PimLevel, Run
from experiments.common.fields import Fields, read_table

ITERATION, PREFILL, ENERGY, FITS = "g_time (ms)", "s_time", "g_energy (nJ)", "fits_cap"
SYSTEMS: Mapping[str, tuple[str, ...]] = {"dgx": ("NONE",), "dgx-attacc": get_args(PimLevel)}
ELEMENT_BYTES: Mapping[str, int] = {"W16A16": 2, "W8A8": 1}

# What a row must hold, and what else is compared where the file has it.
REQUIRED = (
    *("system", "ffopt", "pipeopt", "model", "dtype", "xpu", "cap", "bw", "sys_opb", "hw", "cores"),
    *("power constraint", "Lin", "Lout", "bs", PREFILL, ITERATION, ENERGY, FITS),
)
COMPONENTS = (
    *("s_matmul", "s_fc", "s_comm", "s_softmax", "s_act", "s_lnorm", "g_matmul", "g_fc", "g_comm", "g_etc"),
    *("g_qkv_time", "g_prj_time", "g_ff_time", "g2g_comm", "c2g_comm", "g_softmax", "g_act", "g_lnorm"),
    *("g_dram_energy", "g_l2_energy", "g_l1_energy", "g_reg_energy", "g_alu_energy", "g_fc_mem_energy"),
    *("g_fc_comp_energy", "g_attn_mem_energy", "g_attn_comp_energy", "g_etc_mem_energy"),
    *("g_etc_comp_energy", "g_comm_energy"),
)
MAX_INPUT, MAX_OUTPUT, MAX_BATCH, MAX_GPUS = 2**20, 2**16, 2**20, 4096


@dataclass(frozen=True)
class GridRow:
    """One row: the run, AttAcc's figures for it by column (ms, nJ), and whether its memory would hold it."""

    line: int
    run: Run
    reference: Mapping[str, float]
    fits: bool


def read_grid(path: Path) -> list[GridRow]:
    """Read a CSV file with AttAcc's output columns, and `system`, `ffopt`, `pipeopt` and `fits_cap`.

    The first three name AttAcc's options, the last says whether its memory would hold the run. Other
    columns than `REQUIRED` and `COMPONENTS` are ignored.

    Raises:
        DataError: the file or a field is not as expected; the message has the file, line and field.
    """
    header, rows = read_table(path)
    compared = [name for name in COMPONENTS if name in header]
    header.require(*REQUIRED, *compared)
    return [_grid_row(fields, compared) for fields in rows]


def _grid_row(fields: Fields, compared: Iterable[str]) -> GridRow:
    reference = {name: fields.number(name) for name in (PREFILL, ITERATION, ENERGY)}
    reference |= {name: fields.number(name, positive=False) for name in compared}
    model = fields.one_of("model", MODELS)
    gpus = fields.integer("cores", 1, MAX_GPUS)
    if gpus > model.heads:
        raise fields.error("cores", f"at most {model.heads} GPUs, the heads of {model.name}")
    run = Run(
        gpu=_gpu(fields),
        gpus=gpus,
        pim=_pim(fields, gpus),
        model=model,
        element_bytes=fields.one_of("dtype", ELEMENT_BYTES),
        batch=fields.integer("bs", 1, MAX_BATCH),
        input_tokens=fields.integer("Lin", 1, MAX_INPUT),
        # The first output token is prefill's; the mean iteration is over the others.
        output_tokens=fields.integer("Lout", 2, MAX_OUTPUT),
        share_feed_forward=fields.flag("ffopt"),
        pipeline=fields.flag("pipeopt"),
    )
    return GridRow(fields.line, run, reference, fields.flag(FITS))


def _gpu(fields: Fields) -> Gpu:
    """The GPU that the row names, or the one with its FLOP per byte (`sys_opb`) where it only says GPU."""
    if fields.values["xpu"] != "GPU":
        return fields.one_of("xpu", GPUS, f"GPU, {' or '.join(GPUS)}")
    intensity = fields.number("sys_opb")
    for gpu in GPUS.values():
        if math.isclose(intensity, gpu.flops / gpu.bandwidth, rel_tol=1e-3):
            return gpu
    known = " or ".join(f"{gpu.flops / gpu.bandwidth:.3f} ({name})" for name, gpu in GPUS.items())
    raise fields.error("sys_opb", f"{known}: FLOP per byte of a GPU")


def _pim(fields: Fields, gpus: int) -> Pim | None:
    allowed = fields.one_of("system", SYSTEMS)
    level = fields.one_of("hw", {name: name for name in allowed})
    limit = fields.flag("power constraint")
    capacity, ratio = fields.number("cap"), fields.number("bw")
    if level == "NONE":
        return None
    # Eight devices whatever the GPUs, unless the capacity says that every 80 GiB GPU has its 80 GiB device.
    devices = gpus if capacity == 160 * gpus else PIM_DEVICES
    known: Mapping[str, PimLevel] = {name: name for name in get_args(PimLevel)}
    return Pim(known[level], devices, limit, ratio)
