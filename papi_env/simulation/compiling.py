"""While code is compiled: one process does it, the others wait for what it keeps, and whoever waits is told why.

numba compiles a function when it is first called, in silence, and workers that start together on an empty cache
would all compile the same. `PAPI_ENV_QUIET=1` says nothing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # no such locks on Windows: there every process compiles for itself
    fcntl = None  # type: ignore[assignment]

QUIET = "PAPI_ENV_QUIET"
# chosen: what is over sooner needs no word (range 0.5-2 s).
TELL_AFTER_S = 1.0
# chosen: several times what everything takes on a slow machine, after which a lock is taken for forgotten.
_FORGOTTEN_AFTER_S = 900.0
_LOOK_EVERY_S = 0.05


class Compiling:
    """The compilation of functions into one folder, and of those that they call: counted, locked, and told.

    Threads of a process do not meet here, for numba compiles in one at a time.

    Args:
        folder: where what is compiled is kept, and the lock of it.
        tell: says a line; by default on stderr, once in the life of a process for each line.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] | None = None) -> None:
        self.folder = folder
        self._tell = _say_once if tell is None else tell
        self._depth = 0
        self._owner = os.getpid()
        self._lock: IO[bytes] | None = None
        self._timer: threading.Timer | None = None

    def begin(self) -> bool:
        """A function is not in the cache: wait for whoever compiles; whether to look there again before compiling."""
        if self._owner != os.getpid():  # a fork in the middle of its parent's compilation
            self._owner, self._depth, self._lock, self._timer = os.getpid(), 0, None, None
        self._depth += 1
        if self._depth > 1:
            return False
        waited = self._acquire()
        self._timer = threading.Timer(TELL_AFTER_S, self._tell, [self._words()])
        self._timer.daemon = True
        self._timer.start()
        return waited

    def end(self) -> None:
        """The function is there."""
        self._depth = max(self._depth - 1, 0)
        if self._depth:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lock is not None:
            self._lock.close()  # which gives it back
            self._lock = None

    def _words(self) -> str:
        return (
            "papi_env: compiling the simulator for this machine, which takes some seconds to minutes, once; later "
            f"runs load it from {self.folder} ({QUIET}=1 says nothing)"
        )

    def _acquire(self) -> bool:
        """Take the lock, however long another process has it; whether one had, as far as can be seen."""
        if fcntl is None:
            return True
        with suppress(OSError):  # a file system without locks: every process compiles for itself
            self._lock = (self.folder / "compiling.lock").open("ab")
            start, told = time.monotonic(), False
            while True:
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waited = time.monotonic() - start
                    if waited > _FORGOTTEN_AFTER_S:
                        break
                    if waited > TELL_AFTER_S and not told:
                        told = True
                        self._tell("papi_env: waiting for another process that compiles the simulator")
                    time.sleep(_LOOK_EVERY_S)
        # It may have come and gone between the look into the cache and the lock.
        return True


_SAID: set[str] = set()


def _say_once(line: str) -> None:
    if line in _SAID or os.environ.get(QUIET, "0") not in ("", "0"):
        return
    _SAID.add(line)
    with suppress(OSError, ValueError, AttributeError):  # stderr is closed, or there is none
        print(line, file=sys.stderr, flush=True)
