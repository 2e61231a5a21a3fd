"""Two shortcuts through numba's compiler: the first step waits half as long for them, and code is what it was.

Helpers that compiled code alone calls are compiled as parts of the functions that call them. Of every function numba
makes optimised code and machine code, also of those that are only ever linked into others, where LLVM optimises them
once more. Of these it gets what numba lowers, and all the rest is done where they end up: of 277 functions that reset
and step of Serving-v1 compiled when this was written, 232 were such helpers.

Flags are compared by what is set in them. numba asks for each operation of a function whether it has met the types and
flags before, and reads every option, set or not, to tell.
"""

from __future__ import annotations

from typing import Any

from llvmlite.binding import parse_assembly
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, Flags

# What numba's names of the places begin with where it writes the address of a function's environment.
_ENVIRONMENT = "_ZN08NumbaEnv"


class _Part(JITCodeLibrary):
    """Code that is linked into its callers, and has no machine code of its own."""

    def _optimize_final_module(self) -> None:
        """Callers are optimised, with this in them."""

    def _finalize_final_module(self) -> None:
        whole = self._final_module
        self._verify_declare_only_symbols()
        # Machine code is made of the function's place for an environment alone, which numba fills in.
        places = [str(place) for place in whole.global_variables if place.name.startswith(_ENVIRONMENT)]
        empty = str(self._codegen._create_empty_module(self.name))
        self._final_module = parse_assembly("\n".join([empty, *places]))
        super()._finalize_final_module()
        # What callers link, and what a cache keeps for those that are compiled later.
        self._final_module = whole


class _ColdPart(_Part):
    """A part that is seldom called: its calls stay calls, and lie behind what is run often."""

    def _optimize_final_module(self) -> None:
        own = self.name.rsplit(".", 1)[-1]
        for function in self._final_module.functions:
            if not function.is_declaration and f"{len(own)}{own}B" in function.name:
                function.add_function_attribute("cold")
                function.add_function_attribute("noinline")


class PartCompiler(Compiler):
    """Compiles functions as parts of others; a `pipeline_class` of numba's."""

    library: Any = _Part

    def define_pipelines(self) -> Any:
        """numba's own, which take a library that is there already."""
        library = type(self).library(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        library.enable_object_caching()
        self.state.library = library
        return super().define_pipelines()


class ColdCompiler(PartCompiler):
    """Compiles functions that are seldom called as parts of others."""

    library = _ColdPart


class SetFlags(Flags):
    """numba's flags, equal where the same ones are set to the same values."""

    def __hash__(self) -> int:
        # As numba's own, of names alone: some values have no hash.
        return hash(frozenset(self._values))

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, Flags) else NotImplemented
