"""Which instruction set compiled code and numpy run with, and how a process is made to have another.

numba compiles for the processor that `NUMBA_CPU_NAME` names with the features of `NUMBA_CPU_FEATURES`: the name alone
leaves it those of this machine, AVX-512 among them. numpy, which CartPole's vector version is made of, leaves out what
`NPY_DISABLE_CPU_FEATURES` lists. Both are read when a process imports them.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numba
import numpy as np

from papi_env.errors import ConfigurationError, lookup

# What a process is given, by instruction set: a processor whose features are just those, None for the machine's own.
# Intel's Haswell of 2013 and AMD's Excavator are the first with AVX2.
INSTRUCTIONS: Mapping[str, str | None] = {"native": None, "avx2": "haswell"}
_NAME = "NUMBA_CPU_NAME"
_LIST = (
    "import llvmlite.binding as b; b.initialize_native_target(); "
    "b.Target.from_default_triple().create_target_machine(cpu='help')"
)
# The registers that vectors of integers are in, widest first; masks in registers are of AVX-512 whatever the width.
_SETS = (("AVX-512", r"%zmm|%k[1-7]\b"), ("AVX2", r"%ymm"), ("SSE or AVX", r"%xmm"))


def processors() -> dict[str, None]:
    """The processors that LLVM compiles for on a machine of this kind."""
    # Only its own help has them, and that goes to the standard error of the process.
    listed = subprocess.run([sys.executable, "-c", _LIST], capture_output=True, text=True, timeout=120).stderr
    return dict.fromkeys(re.findall(r"^\s+(\S+)\s+- Select the ", listed, re.MULTILINE))


def environment(instructions: str) -> dict[str, str]:
    """Variables of a process that runs with an instruction set.

    Raises:
        ConfigurationError: there is none of that name.
    """
    processor = lookup("instruction set", instructions, INSTRUCTIONS)
    if processor is None:
        return {}
    wider = [group for group in _of_numpy("found") if "AVX512" in group or group == "X86_V4"]
    return {_NAME: processor, "NUMBA_CPU_FEATURES": "", "NPY_DISABLE_CPU_FEATURES": " ".join(wider)}


def check_processor() -> None:
    """Refuse a processor in `NUMBA_CPU_NAME` that LLVM does not know, which would compile for any other.

    Raises:
        ConfigurationError: there is none of that name.
    """
    name = os.environ.get(_NAME)
    known = processors() if name else {}
    if not name or not known or name in known:
        return
    try:
        lookup("processor", name, known)
    except ConfigurationError as error:
        raise ConfigurationError(f"{_NAME}: {error}") from None


def running() -> dict[str, Any]:
    """What this process runs with: of compiled code the processor and its vectors, of numpy what it found and uses."""
    compiled = numba.njit(_masked)
    compiled(np.ones(64, dtype=np.int64), np.ones(64, dtype=np.int64))
    code = "".join(compiled.inspect_asm().values())
    vectors = next((name for name, register in _SETS if re.search(register, code)), "other")
    processor = os.environ.get(_NAME) or importlib.import_module("llvmlite.binding").get_host_cpu_name()
    return {
        "numba": vectors,
        "processor": str(processor),
        "numpy": _of_numpy("found") or _of_numpy("baseline"),
    }


def _of_numpy(which: str) -> list[str]:
    """The groups of instructions that numpy always has, or has besides on this machine."""
    said: Any = np.show_config(mode="dicts")
    return list(said["SIMD Extensions"].get(which, ()))


def _masked(x, y):  # type: ignore[no-untyped-def]
    """A loop that is a vector with a mask wherever there are any."""
    for i in range(x.shape[0]):
        if x[i] > 0:
            y[i] = x[i] + 3
