"""The registry of GPUs: one card each, from its data sheet."""

from __future__ import annotations

from collections.abc import Mapping

from papi_env.errors import lookup
from papi_env.hardware import dram
from papi_env.hardware.units import STACKS_PER_GPU, ProcessingUnit

# Decode attention as measured: an RTX 4090 reads the KV caches of 64 requests of 512 tokens (134 MB) in 192 us, 0.69
# of its 1008 GB/s. chosen: 0.67, range 0.65-0.70.
ATTENTION_EFFICIENCY = 0.67
_PLAIN_BYTES = STACKS_PER_GPU * dram.Stack().capacity_bytes

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
}


def get_gpu(name: str, count: int = 1, memory_bytes: int | None = None) -> ProcessingUnit:
    """`count` cards of a registered GPU, with memory of another size if asked.

    An unknown name is answered with the known ones.
    """
    card = lookup("GPU", name, GPUS)
    changes = {"count": count} | ({} if memory_bytes is None else {"memory_bytes": memory_bytes})
    return ProcessingUnit.model_validate({**card.model_dump(), **changes})
