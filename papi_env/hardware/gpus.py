"""The registry of GPUs: one card each, from its data sheet."""

from __future__ import annotations

from collections.abc import Mapping

from papi_env.errors import lookup
from papi_env.hardware import dram
from papi_env.hardware.units import ProcessingUnit

# An A100 or H100 carries five stacks of HBM (data sheets; PAPI, section 7.1).
STACKS_PER_GPU = 5
_PLAIN_BYTES = STACKS_PER_GPU * dram.Stack().capacity_bytes

GPUS: Mapping[str, ProcessingUnit] = {
    # A100 data sheet: 312 TFLOP/s dense FP16, 1935 GB/s (80 GB PCIe, PAPI's roofline).
    "a100": ProcessingUnit(
        name="A100", count=1, peak_flops=312e12, memory_bandwidth=1935e9, memory_bytes=_PLAIN_BYTES
    ),
    # H100 SXM data sheet: 989.4 TFLOP/s dense FP16, 3.35 TB/s, 700 W.
    "h100": ProcessingUnit(
        name="H100",
        count=1,
        peak_flops=989.4e12,
        memory_bandwidth=3352e9,
        memory_bytes=_PLAIN_BYTES,
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
