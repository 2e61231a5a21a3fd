"""A process that decodes Parquet files one after the other: to start one for each takes a hundred times as long."""

from __future__ import annotations

import atexit
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from papi_env.workload.traces import parquet

# What `parquet.decode_apart` does, for every path that is read; says what its exit status would have been.
_SERVE = f"""{parquet.DECODE}
for line in sys.stdin:
    try:
        decode(line[:-1])
        print(0, flush=True)
    except BaseException:
        print(1, flush=True)
"""


class Decoder:
    """Stands for `parquet.decode_apart`; a process that a file ends is started anew for the next one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

        atexit.register(self.close)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()

    def __call__(self, path: Path) -> int:
        """The status."""
        if self._process is None:
            command = [sys.executable, "-P", "-c", _SERVE]
            self._process = subprocess.Popen(
                command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        if said:
            return int(said)
        status = self._process.wait()
        self._process = None
        return status


_DECODER = Decoder()


@contextmanager
def served() -> Iterator[None]:
    """Within, traces are decoded by one process."""
    before, parquet.decode_apart = parquet.decode_apart, _DECODER
    try:
        yield
    finally:
        parquet.decode_apart = before
