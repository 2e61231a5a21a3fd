"""The decorators of this folder; what they compile is kept under a digest that includes all files of the folder."""

from __future__ import annotations

from pathlib import Path

from papi_env.simulation.compiled import compiler

_compile = compiler(Path(__file__).resolve().parent.glob("*.py"))
# As in `papi_env.simulation.compiled`.
lean = _compile(_nrt=False)
inner = _compile(closed=True, _nrt=False)
inlined = _compile(closed=True, _nrt=False, forceinline=True)
exposed = _compile(_nrt=False, forceinline=True)
unlocked = _compile(_nrt=False, nogil=True)
