"""The same runs on papi_env's own hardware model, by the same column names.

Rooflines without waves of thread blocks, AttAcc's all-reduce, kernels that start for free, published feed-forward
sizes, energies in joules per byte throughout, static power, causal attention in prefill, and its keys and values
sent to the stacks. Not modelled: norms, activation functions, softmax on GPUs; FP8; PIM units above the banks.
Overlap follows AttAcc's rule, by which one head shows; a shared feed-forward kernel is cut so that GPUs and
stacks end together, and takes the energy of both parts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pydantic import ValidationError

from experiments.attacc.gpu import Values
from experiments.attacc.machines import Gpu, Model, Pim, Run
from experiments.attacc.simulate import overlap
from papi_env.errors import ConfigurationError
from papi_env.hardware import costs, dram
from papi_env.hardware.links import NVLINK3, NVLINK4
from papi_env.hardware.system import ATTACC_1P1B, BANK_RATE_READINGS, System
from papi_env.hardware.units import ProcessingUnit
from papi_env.kernel import FP16_BYTES, Kernel, KernelClass, blocks
from papi_env.simulation.prefill import Prefill
from papi_env.workload.transformer import FC_CLASSES, Transformer

# Data sheets of the A100 and H100 SXM.
BOARD_POWER_W = {"A100a": 400.0, "H100": 700.0}
FC_ENERGY = "g_fc_mem_energy + g_fc_comp_energy"
ATTENTION_ENERGY = "g_attn_mem_energy + g_attn_comp_energy"
DYNAMIC_ENERGY = "dynamic energy"


@lru_cache(maxsize=64)
def system_of(gpu: Gpu, gpus: int, pim: Pim | None) -> System:
    """The machine as a papi_env system: GPUs with plain stacks, and AttAcc stacks on NVLink where it has them.

    Raises:
        ConfigurationError: PIM units that papi_env does not model.
    """
    if pim is not None and pim.level != "BA":
        raise ConfigurationError(f"hw {pim.level}")
    stacks = None
    if pim is not None:
        cadence = BANK_RATE_READINGS["attacc-limit" if pim.power_limit else "attacc"]
        stacks = ATTACC_1P1B.model_copy(
            update={"stacks": pim.stacks, "cadence_clocks": cadence, "split_contexts": False}
        )
    return System(
        name="dgx" if pim is None else "dgx-attacc",
        pu=ProcessingUnit(
            name=gpu.name,
            count=gpus,
            peak_flops=gpu.flops,
            memory_bandwidth=gpu.bandwidth,
            memory_bytes=80 * 2**30,
            board_power_w=BOARD_POWER_W[gpu.name],
        ),
        attn_pim=stacks,
        attention_link=None if pim is None else NVLINK3.model_copy(update={"count": pim.devices}),
        fabric=NVLINK4 if gpu.link > 600e9 else NVLINK3,
        combining="attacc",
        pim_start_s=0.0,
    )


@lru_cache(maxsize=64)
def transformer_of(model: Model) -> Transformer:
    """The model as papi_env has it.

    Raises:
        ConfigurationError: its heads do not divide the hidden size.
    """
    try:
        return Transformer(
            name=model.name.lower(),
            layers=model.layers,
            hidden=model.hidden,
            heads=model.heads,
            feed_forward=model.feed_forward,
            gated=model.gated,
        )
    except ValidationError:
        raise ConfigurationError(f"model {model.name}") from None


def predict(run: Run) -> dict[str, float]:
    """Milliseconds of prefill and of the mean decode iteration, and its nanojoules, by AttAcc's column names.

    `g_energy (nJ)` includes static power over the iteration; `DYNAMIC_ENERGY` does not.

    Raises:
        ConfigurationError: papi_env does not model this run; the message says what of it.
    """
    if run.element_bytes != FP16_BYTES:
        raise ConfigurationError("dtype W8A8")
    system, model = system_of(run.gpu, run.gpus, run.pim), transformer_of(run.model)
    seconds, joules = _decode(run, system, model)
    milliseconds = {name: 1e3 * float(np.mean(values)) for name, values in seconds.items()}
    nanojoules = {name: 1e9 * float(np.mean(values)) for name, values in joules.items()}
    # In order, one by one: Python's sum rounds otherwise.
    fc_ms = 0.0
    for kind in FC_CLASSES:
        fc_ms += milliseconds[kind]
    total = fc_ms + (milliseconds["attention"] + milliseconds["transfer"] + milliseconds["all_reduce"])
    total += 1e3 * model.layers * system.layer_overhead_s
    dynamic = sum(nanojoules.values())
    return {
        "s_time": 1e3 * _prefill_s(system, model, run.batch, run.input_tokens),
        "g_time (ms)": total,
        "g_fc": fc_ms,
        "g_matmul": milliseconds["attention"],
        "g_comm": milliseconds["all_reduce"] + milliseconds["transfer"],
        "g_qkv_time": milliseconds["qkv"],
        "g_prj_time": milliseconds["projection"],
        "g_ff_time": milliseconds["feed_forward"],
        "g2g_comm": milliseconds["all_reduce"],
        "c2g_comm": milliseconds["transfer"],
        "g_energy (nJ)": dynamic + 1e6 * total * system.static_power_w,
        DYNAMIC_ENERGY: dynamic,
        FC_ENERGY: nanojoules["fc"],
        ATTENTION_ENERGY: nanojoules["attention"],
        "g_comm_energy": nanojoules["link"],
    }


@lru_cache(maxsize=256)
def _prefill_s(system: System, model: Transformer, batch: int, tokens: int) -> float:
    pairs = batch * tokens * (tokens + 1) // 2
    seconds, _ = Prefill(system, model).cost(np.array(batch * tokens), np.array(pairs), batch)
    return float(seconds)


def _decode(run: Run, system: System, model: Transformer) -> tuple[dict[str, Values], dict[str, Values]]:
    """Seconds by kernel and joules by cause of each iteration, all layers together, [steps] or numbers."""
    pu, kernel, batch = system.pu, model.attention_kernel(), run.batch
    assert pu is not None
    seconds: dict[str, Values] = dict.fromkeys((*FC_CLASSES, "transfer"), 0.0)
    joules: dict[str, Values] = {"fc": 0.0}
    for fc in model.fc_kernels():
        s, j = _fc(run, system, fc)
        seconds[fc.kernel_class.value] += s
        joules["fc"] += j
    vector = np.asarray(float(FP16_BYTES * batch * model.hidden))
    parts = blocks(model.fc_kernels())
    seconds["all_reduce"] = model.layers * sum(system.combine_s(part, batch) for part in parts)
    joules["link"] = model.layers * sum(system.combine_j(part, batch) for part in parts)

    groups = np.ceil(run.contexts / dram.GROUP_TOKENS)
    if system.attn_pim is None or system.attention_link is None:
        tokens = batch * run.contexts
        seconds["attention"] = kernel.count * costs.pu_attention_s(pu, kernel, tokens, 1)
        joules["attention"] = kernel.count * costs.pu_attention_energy(pu, kernel, tokens, 1).total
        return seconds, joules
    unit, link = system.attn_pim, system.attention_link
    contexts = np.repeat(run.contexts.astype(np.int64)[:, None], batch, axis=1)
    attention = costs.pim_attention_s(unit, kernel, contexts, 1)
    seconds["attention"] = kernel.count * attention
    joules["attention"] = (
        kernel.count * costs.pim_attention_energy(unit, kernel, batch * groups, 1, batch).total
    )
    there, back = vector * (1 + 2 * model.kv_width / model.hidden), vector
    transfer = model.layers * (link.transfer_s(there) + link.transfer_s(back))
    joules["link"] = joules["link"] + model.layers * (there + back) * link.j_per_byte
    seconds["qkv"], seconds["projection"], seconds["transfer"] = overlap(
        seconds["qkv"], seconds["projection"], seconds["attention"], transfer, run.exposed, run.pipeline
    )
    return seconds, joules


def _fc(run: Run, system: System, kernel: Kernel) -> tuple[float, float]:
    """Seconds and joules of an FC kernel of one iteration, on the GPUs or shared with the stacks."""
    pu, unit = system.pu, system.attn_pim
    assert pu is not None
    seconds = float(costs.pu_fc_s(pu, kernel, run.batch))
    joules = float(costs.pu_fc_energy(pu, kernel, run.batch).total)
    if run.share_feed_forward and unit is not None and kernel.kernel_class == KernelClass.FEED_FORWARD:
        pim_s = float(costs.pim_fc_s(unit, kernel, run.batch))
        on_pim = seconds / (seconds + pim_s)
        joules += on_pim * (float(costs.pim_fc_energy(unit, kernel, run.batch).total) - joules)
        seconds *= 1 - on_pim
    return kernel.count * seconds, kernel.count * joules
