"""The process that reads: it may be killed by what it reads. `python -m experiments.fuzzing.child`, for `watch`."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from experiments.common.runner import write_whole
from experiments.fuzzing.play import play, prepare
from experiments.fuzzing.readers import READERS
from experiments.fuzzing.tally import AT, TALLY, Tally

# Inputs from one writing of what came of them to the next.
EVERY = 2000


def main() -> None:
    """Read the inputs that the JSON in the first argument names."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    reader, folder = READERS[asked["reader"]], Path(asked["folder"])
    files = folder / "files"
    prepare(reader, files)
    # What is loaded when it is first needed (torch, compiled code) belongs to no input.
    for content in reader.valid().contents:
        (files / reader.file).write_bytes(content)
        reader.read(files)
    with open("/proc/self/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    limit = size + asked["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    at = os.open(folder / AT, os.O_CREAT | os.O_WRONLY)

    def before(number: int) -> None:
        os.pwrite(at, f"{number:20d}".encode(), 0)

    def after(number: int, tally: Tally) -> None:
        if tally.done % EVERY == 0:
            write_whole(folder / TALLY, json.dumps(tally.plain()))

    numbers = range(asked["first"], asked["stop"])
    tally = play(reader, numbers, asked["seed"], files, asked["seconds"], set(asked["skip"]), after, before)
    write_whole(folder / TALLY, json.dumps(tally.plain()))


if __name__ == "__main__":
    main()
