"""The registry of GPUs: one card each, from its data sheet.

FLOP/s are dense FP16 with FP32 accumulation. How FC kernels are timed is measured for A100 and H100. Cards like them
take the H100's constants at their own peaks and bandwidths: on the FC kernels of two models that were measured on an
RTX 4090 and an RTX PRO 6000 these err by 5 and 7 % in the mean, the A100's by 23 and 29 %, and the roofline's default
shares by 14 and 11 % (worked out by hand, see README.md here). Cards with much faster caches, or of another make, take
the roofline.

Cards with GDDR have no stacks: what their memory draws while it waits is part of `idle_power_w`.
"""

from __future__ import annotations

from collections.abc import Mapping

from papi_env.errors import lookup
from papi_env.hardware import dram
from papi_env.hardware.units import STACKS_PER_GPU, ProcessingUnit

# Decode attention as measured: an RTX 4090 reads the KV caches of 64 requests of 512 tokens (134 MB) in 192 us, 0.69
# of its 1008 GB/s. chosen: 0.67, range 0.65-0.70.
ATTENTION_EFFICIENCY = 0.67
_PLAIN_BYTES = STACKS_PER_GPU * dram.Stack().capacity_bytes
# One pass through L2 (AttAcc's simulator), for every byte read.
_L2_J_PER_BYTE = 2.4e-12
# Micron, technical brief on GDDR6X: 7.25 pJ/bit, and 7.5 of GDDR6; product brief on GDDR7: 4.5 pJ/bit.
_GDDR6X_J_PER_BYTE = 58e-12 + _L2_J_PER_BYTE
_GDDR6_J_PER_BYTE = 60e-12 + _L2_J_PER_BYTE
_GDDR7_J_PER_BYTE = 36e-12 + _L2_J_PER_BYTE

GPUS: Mapping[str, ProcessingUnit] = {
    # A100 data sheet: 312 TFLOP/s dense FP16. PAPI, section 7.1: five stacks of HBM3 at 5.2 Gb/s (AttAcc's figure
    # for them), where the card of the data sheet has 2039 GB/s (SXM) or 1935 (PCIe, PAPI's roofline).
    "a100": ProcessingUnit(
        name="A100",
        count=1,
        peak_flops=312e12,
        memory_bandwidth=3352e9,
        memory_bytes=_PLAIN_BYTES,
        kernels="a100",
        attention_memory_efficiency=ATTENTION_EFFICIENCY,
    ),
    # H100 SXM data sheet: 989.4 TFLOP/s dense FP16, 3.35 TB/s, 700 W.
    "h100": ProcessingUnit(
        name="H100",
        count=1,
        peak_flops=989.4e12,
        memory_bandwidth=3352e9,
        memory_bytes=_PLAIN_BYTES,
        kernels="h100",
        attention_memory_efficiency=ATTENTION_EFFICIENCY,
        board_power_w=700.0,
    ),
    # H200 SXM data sheet: the H100's chip, 989.4 TFLOP/s, 141 GB and 4.8 TB/s of HBM3e in six stacks, 700 W.
    "h200": ProcessingUnit(
        name="H200",
        count=1,
        peak_flops=989.4e12,
        memory_bandwidth=4800e9,
        memory_bytes=141 * 10**9,
        stacks=6,
        kernels="h100",
        attention_memory_efficiency=ATTENTION_EFFICIENCY,
        board_power_w=700.0,
    ),
    # DGX B200 data sheet, an eighth of it: 4.5 PFLOP/s with sparsity, so 2.25 dense; 180 GB and 8 TB/s of HBM3e in
    # eight stacks; 1000 W (HGX B200). The H100's constants would hold it to 1 PFLOP/s by their L2 cache.
    # chosen: 0.5 pJ a MAC, range 0.3-0.58; with the default 0.78 its sustained rates would draw 1.1 kW.
    # chosen: 110 W idle without stacks, range 80-160.
    "b200": ProcessingUnit(
        name="B200",
        count=1,
        peak_flops=2250e12,
        memory_bandwidth=8000e9,
        memory_bytes=180 * 10**9,
        stacks=8,
        attention_memory_efficiency=ATTENTION_EFFICIENCY,
        mac_j=0.5e-12,
        idle_power_w=110.0,
        board_power_w=1000.0,
    ),
    # MI300X data sheet: 1307.4 TFLOP/s, 192 GB and 5.3 TB/s of HBM3 in eight stacks, 750 W.
    # chosen: half of the peak, range 0.45-0.8: matrix products as published reach 0.47 (SemiAnalysis, December 2024)
    # and more since. chosen: 110 W idle without stacks, range 80-140.
    "mi300x": ProcessingUnit(
        name="MI300X",
        count=1,
        peak_flops=1307.4e12,
        memory_bandwidth=5300e9,
        memory_bytes=192 * 10**9,
        stacks=8,
        compute_efficiency=0.5,
        attention_memory_efficiency=ATTENTION_EFFICIENCY,
        idle_power_w=110.0,
        board_power_w=750.0,
    ),
    # L40S data sheet: 362.05 TFLOP/s, 48 GB and 864 GB/s of GDDR6, 350 W. chosen: 35 W idle, range 25-50.
    "l40s": ProcessingUnit(
        name="L40S",
        count=1,
        peak_flops=362.05e12,
        memory_bandwidth=864e9,
        memory_bytes=48 * 10**9,
        stacks=0,
        kernels="h100",
        attention_memory_efficiency=ATTENTION_EFFICIENCY,
        memory_j_per_byte=_GDDR6_J_PER_BYTE,
        idle_power_w=35.0,
        board_power_w=350.0,
    ),
    # NVIDIA, Ada architecture white paper: 165.2 TFLOP/s, 24 GB and 1008 GB/s of GDDR6X, 450 W.
    # chosen: 30 W idle, range 15-60.
    "rtx-4090": ProcessingUnit(
        name="RTX 4090",
        count=1,
        peak_flops=165.2e12,
        memory_bandwidth=1008e9,
        memory_bytes=24 * 10**9,
        stacks=0,
        kernels="h100",
        attention_memory_efficiency=ATTENTION_EFFICIENCY,
        memory_j_per_byte=_GDDR6X_J_PER_BYTE,
        idle_power_w=30.0,
        board_power_w=450.0,
    ),
    # RTX PRO 6000 Blackwell Server Edition data sheet: 96 GB and 1597 GB/s of GDDR7, 600 W. It names no dense FP16
    # rate: 420 TFLOP/s, of which its largest kernels were measured to reach 418 (and 1428 GB/s).
    # chosen: 35 W idle, range 20-60.
    "rtx-pro-6000": ProcessingUnit(
        name="RTX PRO 6000",
        count=1,
        peak_flops=420e12,
        memory_bandwidth=1597e9,
        memory_bytes=96 * 10**9,
        stacks=0,
        kernels="h100",
        attention_memory_efficiency=ATTENTION_EFFICIENCY,
        memory_j_per_byte=_GDDR7_J_PER_BYTE,
        idle_power_w=35.0,
        board_power_w=600.0,
    ),
}


def get_gpu(name: str, count: int = 1, memory_bytes: int | None = None) -> ProcessingUnit:
    """`count` cards of a registered GPU, with memory of another size if asked.

    An unknown name is answered with the known ones.
    """
    card = lookup("GPU", name, GPUS)
    changes = {"count": count} | ({} if memory_bytes is None else {"memory_bytes": memory_bytes})
    return ProcessingUnit.model_validate({**card.model_dump(), **changes})
