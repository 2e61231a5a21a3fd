"""Whoever looks after the processes that read: starts them, ends those that hang, and goes on after those that die."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.common.runner import Columns
from experiments.fuzzing.tally import AT, KEPT, TALLY, Fault, Tally

# How many times the seconds of an input a process may show no progress, as where it waits for what never comes, or the
# limit on its own seconds is not looked at; chosen: a machine may have ten times as much to do (range 3-30).
PATIENCE = 12.0
# To start, load and compile.
START_S = 300.0
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Limits:
    """What an input may take: seconds, and bytes of memory beyond what the reader's process has without it."""

    seconds: float
    memory: int


# By what makes the inputs, the module of the process that reads them.
ENGINES: Mapping[str, str] = {
    "random": "experiments.fuzzing.child",
    "atheris": "experiments.fuzzing.guided",
}


def fuzz(name: str, inputs: int, seed: int, limits: Limits, engine: str = "random") -> Columns:
    """The inputs 0 to `inputs` of a reader, each once; a table of one row, faults as JSON in it."""
    begun = time.perf_counter()
    whole = Tally()
    skip: list[int] = []
    # In memory where there is such a folder: a file is written for each input.
    with TemporaryDirectory(prefix="fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None) as temporary:
        folder = Path(temporary)
        while whole.done < inputs:
            asked = {
                "reader": name,
                "first": whole.done,
                "stop": inputs,
                "seed": seed,
                "folder": str(folder),
                "seconds": limits.seconds,
                "memory": limits.memory,
                "skip": skip,
            }
            before = whole.done
            died = _run(asked, ENGINES[engine], folder, limits)
            _take(whole, folder)
            if died is None and whole.done == before:
                raise RuntimeError(f"{name}: the process ended before its inputs did")
            if died is not None:
                number, how = died
                if number in skip:
                    raise RuntimeError(f"{name}: the process ends {how} without an input; last {number}")
                skip.append(number)
                whole.add(number, how, "the process")
                if engine != "random":
                    _keep_last(whole, number, folder / "files")
    return {
        "reader": [name],
        "inputs": [whole.done],
        "refused": [whole.refused],
        "accepted": [whole.accepted],
        "faults": [whole.faulty],
        "kinds": [len(whole.faults)],
        "slowest_s": [round(whole.slowest_s, 4)],
        "slowest_input": [whole.slowest],
        "peak_mb": [round(whole.peak_bytes / 1e6, 1)],
        "wall_s": [round(time.perf_counter() - begun, 1)],
        "found": [json.dumps([vars(fault) for fault in whole.faults.values()])],
    }


def _keep_last(whole: Tally, number: int, files: Path) -> None:
    """Keep the input that ended its process: the file that was written last."""
    for fault in whole.faults.values():
        if number in fault.numbers:
            last = max(
                (path for path in files.iterdir() if path.is_file()), key=lambda path: path.stat().st_ctime_ns
            )
            fault.contents[str(number)] = [last.name, base64.b64encode(last.read_bytes()).decode()]


def _run(asked: dict[str, Any], module: str, folder: Path, limits: Limits) -> tuple[int, str] | None:
    """Let a process read; the input at which it died and how, None where it came to the end."""
    for file in (AT, TALLY):
        (folder / file).unlink(missing_ok=True)
    environment = os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    command = [sys.executable, "-m", module, json.dumps(asked)]
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=errors, stdin=subprocess.DEVNULL
        )
        try:
            hung = _wait(process, folder / AT, limits)
        finally:
            process.kill()
            process.wait()
    if process.returncode == 0:
        return None
    try:
        number = int((folder / AT).read_text())
        # What readers raise is counted; what else is raised is our own.
        known = process.returncode != 1
    except (OSError, ValueError):
        known = False
    if not known:
        said = (folder / "errors").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{asked['reader']}: its process failed by itself: {said}")
    if hung:
        return number, "no answer"
    code = process.returncode
    return number, signal.Signals(-code).name if code < 0 else f"status {code}"


def _wait(process: subprocess.Popen[bytes], at: Path, limits: Limits) -> bool:
    """Wait for its end; True where there was no progress for too long."""
    seen, since = "", time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        now = ""
        with suppress(OSError):
            now = at.read_text()
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > (PATIENCE * limits.seconds if seen else START_S):
            return True
    return False


def _take(whole: Tally, folder: Path) -> None:
    """Add what a process wrote down; what it had not yet is read again."""
    with suppress(FileNotFoundError):
        part = Tally.of(json.loads((folder / TALLY).read_text()))
        whole.done = part.done
        whole.refused += part.refused
        whole.accepted += part.accepted
        whole.peak_bytes = max(whole.peak_bytes, part.peak_bytes)
        if part.slowest_s > whole.slowest_s:
            whole.slowest_s, whole.slowest = part.slowest_s, part.slowest
        for key, fault in part.faults.items():
            known = whole.faults.setdefault(key, Fault(fault.error, fault.where, message=fault.message))
            known.count += fault.count
            known.numbers = (known.numbers + fault.numbers)[:KEPT]
            known.contents |= fault.contents
