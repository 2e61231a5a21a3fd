"""The process that reads what atheris makes, which goes on from inputs that reach lines that no earlier one did.

`python -m experiments.fuzzing.guided`, for `watch`. Inputs are made as those of `play`, or by libFuzzer's own changes
of bytes; the valid files are the first corpus. Compiled code is not watched: numba would not know it again.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import sys
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

from experiments.common.runner import write_whole
from experiments.fuzzing.tally import AT, TALLY, Tally

# Modules whose lines lead: those that read, none of which is compiled.
LED = [
    "papi_env.files",
    "papi_env.definition",
    "papi_env.quantities",
    "papi_env.scenario",
    "papi_env.workload",
    "papi_env.hardware.measured",
    "papi_env.hardware.server_tables",
    "papi_env.hardware.definition",
    "agents.learned.checkpoint",
    "agents.learned.networks",
    "agents.serving.tuned",
    "experiments.common.fields",
    "experiments.common.runner",
    "experiments.attacc",
    "experiments.gpus",
    "experiments.replay",
    "experiments.reporting",
    "experiments.sweeping",
    "experiments.splitting.splits",
    "experiments.training.hyperparameter_files",
    "experiments.training.hyperparameters",
    "experiments.training.curves",
    "experiments.training.state",
    "experiments.training.state_bounds",
    "experiments.arena.trained",
    "experiments.tuning.journal",
]
# Inputs from one writing of what came of them to the next. chosen: some seconds of work (range 100-5000).
EVERY = 500
# Share of inputs that are changed as their form has it, the others byte by byte. chosen: most bytes that change make
# no document any more (range 0.3-0.95).
BY_FORM = 0.7
# Bytes of an input that met a fault, to be kept, and of any input. chosen: valid files have some thousands (range
# 1e5-1e7, and 1e4-1e6).
KEPT_BYTES, LONGEST = 1 << 20, 1 << 17


def main() -> None:
    """Read the inputs that the JSON in the first argument asks for; atheris ends the process."""
    import atheris

    with atheris.instrument_imports(include=LED):
        from experiments.fuzzing.mutations import FORMS
        from experiments.fuzzing.play import forget_peak, meet, peak, prepare, valid_files
        from experiments.fuzzing.readers import READERS
    asked: dict[str, Any] = json.loads(sys.argv[1])
    reader, folder = READERS[asked["reader"]], Path(asked["folder"])
    files, corpus = folder / "files", folder / "corpus"
    prepare(reader, files)
    valid = valid_files(reader)
    for content in valid.contents:
        (files / reader.file).write_bytes(content)
        reader.read(files)
    # Of each file that is changed as many inputs, one file after the other.
    forms = {reader.file: reader.form, **reader.others}
    which = asked["first"] * len(forms) // asked["stop"]
    stop = -(-asked["stop"] * (which + 1) // len(forms))
    name = list(forms)[which]
    corpus.mkdir(exist_ok=True)
    for old in corpus.iterdir():
        old.unlink()
    for k, content in enumerate(valid.contents if which == 0 else (valid.beside[name],)):
        (corpus / str(k)).write_bytes(content)
    with open("/proc/self/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + asked["memory"],) * 2)
    forget_peak()
    base = peak()
    at = os.open(folder / AT, os.O_CREAT | os.O_WRONLY)
    tally, path = Tally(done=asked["first"]), files / name

    def one(data: bytes) -> None:
        number = tally.done
        # Readers that keep what they have read tell files apart by this time, which disks keep to some ms.
        content = data if reader.stamp is None or number % 5 == 0 else reader.stamp(files, data)
        path.write_bytes(content)
        os.utime(path, ns=(number * 1000, number * 1000))
        os.pwrite(at, f"{number:20d}".encode(), 0)
        start = process_time()
        meet(reader, files, number, asked["seconds"], tally)
        took = process_time() - start
        if took > tally.slowest_s:
            tally.slowest_s, tally.slowest = took, number
        for fault in tally.faults.values():
            if number in fault.numbers and len(content) <= KEPT_BYTES:
                fault.contents[str(number)] = [name, base64.b64encode(content).decode()]
        tally.done = number + 1
        if tally.done == stop or tally.done % EVERY == 0:
            tally.peak_bytes = max(tally.peak_bytes, peak() - base)
            write_whole(folder / TALLY, json.dumps(tally.plain()))
        if tally.done == stop:
            os._exit(0)

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < BY_FORM:
            try:
                return FORMS[forms[name]](data, rng)[:most]
            except Exception:  # of its form no more
                pass
        return bytes(atheris.Mutate(data, most))

    # Of a process that follows one that died other inputs.
    seed = 1 + asked["seed"] + 7919 * len(asked["skip"]) + asked["first"]
    options = [f"-seed={seed % 2**31}", "-runs=-1", f"-max_len={LONGEST}", "-mutate_depth=2"]
    # Memory, time and signals are this harness's own to judge.
    options += ["-rss_limit_mb=0", "-timeout=1000000"]
    options += [
        f"-handle_{signal}=0" for signal in ("segv", "abrt", "bus", "fpe", "ill", "int", "term", "xfsz")
    ]
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", str(corpus)], one, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
