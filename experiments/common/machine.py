"""Processes of this machine: joblib's threads hand out calls, and each has a process of its own.

So one that dies takes one call with it, and the others work on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from queue import Empty, SimpleQueue
from typing import Any

import joblib
from joblib.externals.loky import ProcessPoolExecutor

from experiments.common.pools import TRIES, Call, OwnProcess, Pool, died

# How often a process looks whether the one that it works for is still there.
_WATCH_S = 1.0
# Processes share the cores among them: none takes more than one.
_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB_MAXIMUM")}


class Machine(Pool):
    """Processes of this machine, started when they are needed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._idle: SimpleQueue[ProcessPoolExecutor] = SimpleQueue()
        self._all: set[ProcessPoolExecutor] = set()
        self._closed = False

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        """See `Pool`."""
        if len(calls) < 2:
            yield from OwnProcess().run(calls)
            return
        threads = joblib.Parallel(
            n_jobs=min(self.size, len(calls)),
            backend="threading",
            return_as="generator_unordered",
            batch_size=1,
        )
        results = threads(joblib.delayed(self._one)(number, call) for number, call in enumerate(calls))
        try:
            for number, result in results:  # noqa: UP028  (yield from would end it before the processes)
                yield number, result
        except BaseException:
            self.close()  # what runs is not waited for
            with warnings.catch_warnings(action="ignore"):
                results.close()  # which says that not all was used
            raise

    def _one(self, number: int, call: Call) -> tuple[int, Any]:
        """Run a call in a process that has nothing to do."""
        for _ in range(TRIES):
            process = self._process()
            try:
                result = process.submit(call.run).result()
            except BrokenExecutor:
                self._all.discard(process)
                process.shutdown(wait=False)
                if self._closed:
                    raise
                continue
            except BaseException:
                self._idle.put(process)
                raise
            self._idle.put(process)
            return number, result
        raise died(call)

    def _process(self) -> ProcessPoolExecutor:
        try:
            return self._idle.get_nowait()
        except Empty:
            process = ProcessPoolExecutor(1, initializer=_end_with, initargs=(os.getpid(),), env=_ONE_THREAD)
            self._all.add(process)
            return process

    def close(self) -> None:
        """See `Pool`."""
        self._closed = True
        for process in tuple(self._all):
            process.shutdown(wait=False, kill_workers=True)
        self._all.clear()


def _end_with(parent: int) -> None:
    """End this process once the one that it works for is gone: nobody else would.

    Ctrl-C at a terminal reaches both; what it means here is for that one to say, which may have calls finished first.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
