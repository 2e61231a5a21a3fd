"""What ends a training early: somebody asks it to stop, or its numbers cease to be finite."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from papi_env.errors import ConfigurationError


class DivergedError(ConfigurationError):
    """Training that left the finite numbers; what was good before is kept."""


class Interruption:
    """Whether somebody asked the run to stop; it stops after the rollout that is under way."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[Interruption]:
        """Take Ctrl-C and SIGTERM as requests; a second one stops at once, at the price of what came since."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        old = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
