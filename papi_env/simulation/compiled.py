"""How the engine is compiled, and where what was compiled is kept.

numba keeps compiled functions on disk and looks at one file to see whether they still hold: the one that
defines the function. Constants and inlined helpers come from others (`layout`, say), so a changed column would
go unnoticed and give wrong numbers. Here the folder of the cache is named by a digest of all sources that
compiled code is made from: a change of any starts a new one.

`NUMBA_CACHE_DIR` is respected; else the folder is beside the sources or, where that cannot be written, under
`XDG_CACHE_HOME`. Where nothing can be written, every process compiles for itself: so it does where the disk is full,
and where a file of the cache is damaged, which is then made anew. Processes that start together on an empty cache
compile once, and what takes more than a second says so (`compiling`).
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numba
import numba.core.config
import numpy as np
from numba.core.caching import FunctionCache

from papi_env.simulation.compiling import Compiling
from papi_env.simulation.shortcuts import ColdCompiler, PartCompiler, SetFlags

# A module that numba fills in when it is imported.
_config: Any = numba.core.config

_HERE = Path(__file__).resolve().parent
_PACKAGE = _HERE.parent
# What compiled code takes its constants from, beside this folder.
CONSTANT_SOURCES = (
    "errors.py",
    "hardware/attention.py",
    "hardware/dram.py",
    "hardware/energy.py",
    "hardware/technology.py",
    "hardware/units.py",
    "kernel.py",
    "scenario.py",
    "workload/arrivals.py",
    "workload/images.py",
    "workload/service.py",
    "workload/serving.py",
)
_PREFIX = "papi_env-"
# chosen: longer than somebody stays away from a checkout, so that caches of old versions do not pile up.
_FORGET_AFTER_S = 7 * 24 * 3600


def sources() -> list[Path]:
    """The files that compiled code is made from."""
    return sorted([*_HERE.rglob("*.py"), *(_PACKAGE / name for name in CONSTANT_SOURCES)])


def digest_of(paths: Iterable[Path]) -> str:
    """Sixteen hexadecimal digits that change with the name or the content of any of the files."""
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def cache_homes() -> list[Path]:
    """Where a cache may stand, in order of preference."""
    if _config.CACHE_DIR:
        return [Path(_config.CACHE_DIR)]
    # A relative one is to be ignored (XDG Base Directory Specification), and the home of a user whom the machine does
    # not know stays "~".
    users = (os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"))
    user = next((Path(path) for path in users if os.path.isabs(path)), None)
    return [_HERE / "__pycache__", *(() if user is None else (user / "papi_env",))]


def cache_folder(homes: Iterable[Path], digest: str) -> Path | None:
    """The folder for `digest` in the first of `homes` that can be written, made if need be; None if there is none.

    Folders of other digests that nobody has used for a week are removed.
    """
    for home in homes:
        folder = home / (_PREFIX + digest)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            os.utime(folder)
        except OSError:
            continue
        if not os.access(folder, os.W_OK):
            continue
        _forget_others(folder)
        return folder
    return None


def _forget_others(folder: Path) -> None:
    for other in folder.parent.glob(_PREFIX + "*"):
        try:
            unused_s = time.time() - other.stat().st_mtime
        except FileNotFoundError:  # another process forgot it just now
            continue
        if unused_s > _FORGET_AFTER_S:
            shutil.rmtree(other, ignore_errors=True)


class Cache(FunctionCache):
    """numba's cache of a function, without which the function is compiled."""

    compiling: Compiling | None = None

    # What a cut-off or emptied file raises when it is unpickled, and what disks raise.
    _UNUSABLE = (
        OSError,
        EOFError,
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
    )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was compiled for a signature, by this process or another one; None where it must be compiled here."""
        found = self._load(sig, target_context)
        if found is None and self.compiling is not None and self.compiling.begin():
            found = self._load(sig, target_context)
            if found is not None:
                self.compiling.end()
        return found

    def _load(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except self._UNUSABLE:
            self._forget()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if that is possible."""
        try:
            super().save_overload(sig, data)
        except self._UNUSABLE:
            self._forget()
        finally:
            if self.compiling is not None:
                self.compiling.end()

    def _forget(self) -> None:
        with suppress(OSError):  # nothing there, or a disk that takes no changes
            os.unlink(self._cache_file._index_path)


_FOLDER = cache_folder(cache_homes(), digest_of(sources()))
Decorator: TypeAlias = Callable[[Callable[..., Any]], Any]


@cache
def _compiling(folder: Path) -> Compiling:
    """One for all functions of a folder."""
    return Compiling(folder)


def _announce(compiled: Any, compiling: Compiling) -> None:
    """Let a function's compilation begin with what its cache lacks, and end where it is kept, or fails."""
    plain = compiled._compiler.compile

    def compile_or_end(*arguments: Any) -> Any:
        try:
            return plain(*arguments)
        except BaseException:
            compiling.end()
            raise

    compiled._cache.compiling = compiling
    compiled._compiler.compile = compile_or_end


def _close(compiled: Any) -> None:
    """Refuse calls by Python, which has no entrance to the function: numba would jump to address 0."""
    name = compiled.py_func.__qualname__

    def refuse(*_: Any, **__: Any) -> Any:
        raise TypeError(
            f"{name} is for compiled code alone; where Python calls it too, decorate it with `lean` or `exposed`"
        )

    def known_to_compiled_code(found: Any) -> None:
        compiled.overloads[tuple(found.signature.args)] = found

    compiled._compile_for_args, compiled.add_overload = refuse, known_to_compiled_code


def _decorator(folder: Path | None, closed: bool = False, **options: Any) -> Decorator:
    """Compiles with options of numba's, into the folder; None where nothing is to be kept.

    Args:
        folder: of the cache.
        closed: compiled code alone calls the function, which is a part of others then (`shortcuts`). What takes
            Python's arguments apart, two dozen arrays of some, is more code than many a helper.
        options: of numba's.
    """
    if closed:
        wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        options = {"pipeline_class": PartCompiler} | wrappers | options

    def decorate(function: Callable[..., Any]) -> Any:
        # numba chooses the place of a cache when a function is decorated.
        before = _config.CACHE_DIR
        _config.CACHE_DIR = before if folder is None else str(folder)
        try:
            compiled = numba.njit(error_model="numpy", **options)(function)
            if _config.DISABLE_JIT:
                # Python's own numbers of numpy warn where products wrap around, which hashes are meant to.
                return np.errstate(over="ignore")(function)
            compiled._compiler._customize_flags = SetFlags
            if closed:
                _close(compiled)
            if folder is not None:
                compiled._cache = Cache(function)
                _announce(compiled, _compiling(folder))
            return compiled
        finally:
            _config.CACHE_DIR = before

    return decorate


def _compile(**options: Any) -> Decorator:
    return _decorator(_FOLDER, **options)


def compiler(also: Iterable[Path]) -> Callable[..., Decorator]:
    """What makes decorators for compiled code of another room, from options of numba's.

    Args:
        also: the files of that room that its compiled code is made from; a change of any starts a new folder, too.
    """
    return partial(_decorator, cache_folder(cache_homes(), digest_of([*sources(), *sorted(also)])))


# For functions that create arrays.
njit = _compile()
# For all others. Without numba's run-time, arrays are borrowed from the caller: counting references to them, in a
# loop that hands a dozen arrays to its helpers, took three times as long as the loop itself. What is compiled this
# way cannot create an array, nor assign one to a part of another.
lean = _compile(_nrt=False)
# For those that compiled code alone calls.
inner = _compile(closed=True, _nrt=False)
# For those of them that are seldom called: what is run often lies closer together without them.
seldom = _compile(closed=True, _nrt=False, forceinline=False, pipeline_class=ColdCompiler)
# For helpers of a hot loop: a call passes each array as seven words, more work than the helper does.
inlined = _compile(closed=True, _nrt=False, forceinline=True)
# For those helpers that Python calls too.
exposed = _compile(_nrt=False, forceinline=True)
# For steps that Python's own threads share: they run without the interpreter's lock.
unlocked = _compile(_nrt=False, nogil=True)
# For helpers that are made around compiled functions: they have no name under which a cache would find them in another
# process, so what is compiled is kept with the function that calls them.
woven = _decorator(None, closed=True, _nrt=False)
# For loops over `numba.prange`.
parallel = _compile(parallel=True)
