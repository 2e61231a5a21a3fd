"""A request to end a process (SIGTERM), taken as Ctrl-C is, and neither is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Until a request that was lost is made again: longer than a callback takes. chosen: 0.1 (range 0.01-1).
_AGAIN_S = 0.1


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the process ends as after Ctrl-C, so that what is under way is recorded and workers end too."""


@contextmanager
def terminable() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C is taken, where nobody else takes it and this is the main thread.

    Either may come while foreign code runs Python (a compiler that asks for its cache, a finalizer), where an exception
    goes no further: Python prints it and the process would go on. So it is raised again soon after.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    told = sys.unraisablehook

    def lost(what: sys.UnraisableHookArgs) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            told(what)
            return
        number = signal.SIGTERM if issubclass(what.exc_type, Terminated) else signal.SIGINT
        again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    signal.signal(signal.SIGTERM, _end)
    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = told
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    raise Terminated
