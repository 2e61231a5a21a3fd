"""The processor that a number was worked out on: by it compiled code differs in speed, and at times in the last bit."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

from llvmlite import binding

_CPUINFO = Path("/proc/cpuinfo")
# What compiled loops over arrays use: of x86, ARM, POWER and RISC-V.
_VECTORS = (
    "sse4.2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512vl",
    "avx512fp16",
    "neon",
    "sve",
    "sve2",
    "vsx",
    "v",
)


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


@cache
def instructions() -> list[str]:
    """What code is compiled for: the architecture, what LLVM takes the processor for, instructions on vectors."""
    features = binding.get_host_cpu_features()
    return [
        platform.machine(),
        binding.get_host_cpu_name(),
        *(name for name in _VECTORS if features.get(name)),
    ]
