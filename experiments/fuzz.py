"""Give every reader of files broken, changed and hostile ones: `python -m experiments.fuzz --help`.

Each reader meets inputs by number, made from a seed: first what is no honest file (devices, bombs, depths), then valid
files changed at random. Only the documented errors may come out, within limits of time and memory. A reader runs in a
process of its own, which may die. With `--engine atheris` inputs are not numbered but found: libFuzzer goes on from
those that reach lines of the readers that no earlier one did, and inputs that meet a fault are kept as they are.

Written to the run folder: run.json, fuzz.csv (a row per reader), summary.json, and for each kind of fault up to three
inputs under faults/, which `--replay FILE` reads again.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import tyro
from rich.console import Console
from rich.table import Table

from experiments.common.command import command_line, say
from experiments.common.jobs import run_jobs
from experiments.common.options import ALL_CORES, OnWorkers, Out, Seed, words
from experiments.common.runner import Job, RunFolder, write_whole
from experiments.common.study import json_text
from experiments.common.workers import started
from experiments.fuzzing.play import meet, place, play, prepare, valid_files
from experiments.fuzzing.readers import READERS
from experiments.fuzzing.tally import Tally
from experiments.fuzzing.watch import ENGINES, Limits, fuzz
from papi_env.errors import ConfigurationError, DataError, lookup
from papi_env.files import read_json

FAULTS = "faults"
SHOWN = ("reader", "inputs", "refused", "accepted", "faults", "kinds", "slowest_s", "peak_mb", "wall_s")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Give every reader of files broken, changed and hostile ones.

    python -m experiments.fuzz --readers scenario hub --inputs 1000
    """

    readers: Annotated[tuple[str, ...], words("NAME ...")] = ()
    """Which (default: all)."""
    inputs: int = 100_000
    """For each reader."""
    seconds: float = 10.0
    """Of the processor that an input may take."""
    memory_mb: int = 2000
    """That an input may take, beside what the process has without it."""
    engine: Annotated[str, tyro.conf.arg(metavar="random|atheris")] = "random"
    """What makes the inputs: numbers alone, or atheris too, led by which lines inputs reach (pip install
    'papi-env[fuzz]'; Linux), without hostile ones."""
    replay: Annotated[Path | None, words("FILE")] = None
    """A kept fault, FAULT.json of a run folder, to be read again."""
    seed: Seed = 0
    workers: OnWorkers = ALL_CORES
    out: Out = None


def run(config: Config, command: str, results: Console, progress: Console) -> None:
    """Do what is asked.

    Raises:
        ConfigurationError: it cannot be done as asked, or readers have faults.
    """
    if config.replay is not None:
        replay(config.replay, config.seconds, results)
        return
    names = config.readers or tuple(READERS)
    for name in names:
        lookup("reader", name, READERS)
    if config.inputs < 1 or not 0 < config.seconds <= 3600 or config.memory_mb < 1:
        raise ConfigurationError(
            f"--inputs is {config.inputs}, --seconds {config.seconds}, --memory-mb {config.memory_mb}, expected "
            "numbers above 0, and at most an hour"
        )
    lookup("engine", config.engine, ENGINES)
    if config.engine == "atheris" and importlib.util.find_spec("atheris") is None:
        raise ConfigurationError(
            "--engine atheris: atheris is not installed; pip install 'papi-env[fuzz]' brings it"
        )
    limits = Limits(config.seconds, config.memory_mb * 1_000_000)
    asked = {
        "readers": list(names),
        "inputs": config.inputs,
        "seed": config.seed,
        "seconds": config.seconds,
        "memory_mb": config.memory_mb,
    }
    if config.engine != "random":
        asked["engine"] = config.engine
    folder = RunFolder.open(config.out, "fuzz", asked)
    jobs = [
        Job(name, {**asked, "readers": name}, fuzz, (name, config.inputs, config.seed, limits, config.engine))
        for name in names
    ]
    with started(config.workers) as pool, folder.session(command, pool.size):
        run_jobs(folder, jobs, pool, progress)
        rows = pl.concat(pl.read_csv(io.BytesIO(folder.result(job))) for job in jobs)
        folder.write("fuzz.csv", rows.select(SHOWN).write_csv())
        found = {row["reader"]: json.loads(row["found"]) for row in rows.iter_rows(named=True)}
        folder.write("summary.json", json_text({"rows": rows.select(SHOWN).to_dicts(), "faults": found}))
        kept = [path for name in names for path in keep(folder.path, name, config.seed, found[name])]
        folder.pack(jobs)
    show(rows, results)
    say(results, f"Results in {folder.path}")
    if kept:
        raise ConfigurationError(
            f"{len(kept)} inputs met faults, expected none; the first: --replay {kept[0]} "
        )


def show(rows: pl.DataFrame, results: Console) -> None:
    """Print the table, and all readers together."""
    table = Table(box=None, pad_edge=False)
    for name in SHOWN:
        table.add_column(name, justify="left" if name == "reader" else "right")
    for row in rows.select(SHOWN).iter_rows():
        table.add_row(*map(str, row))
    results.print(table)
    say(
        results,
        f"{rows['inputs'].sum()} inputs, {rows['faults'].sum()} faults of {rows['kinds'].sum()} kinds",
    )


def keep(folder: Path, name: str, seed: int, faults: Sequence[dict[str, Any]]) -> list[Path]:
    """Write the inputs of faults to the run folder, each with what it is; returns the descriptions."""
    reader, out = READERS[name], []
    for k, fault in enumerate(faults):
        for number in fault["numbers"]:
            home = folder / FAULTS / f"{name}-{k}-{number}"
            about = {"reader": name, "seed": seed, "number": number, **fault}
            prepare(reader, home)
            contents = about.pop("contents", {})
            if (given := contents.get(str(number))) is not None:
                (home / reader.file).write_bytes(valid_files(reader).contents[0])
                about["file"] = given[0]
                (home / given[0]).write_bytes(base64.b64decode(given[1]))
            elif not contents:
                place(reader, home, seed, number)
            path = home.with_suffix(".json")
            write_whole(path, json_text(about))
            out.append(path)
            if (home / reader.file).is_file() and (home / reader.file).stat().st_size > 1 << 20:
                shutil.rmtree(home)  # made again from its number
    return out


def replay(path: Path, seconds: float, results: Console) -> None:
    """Read a kept fault again, in this process, and say what comes of it.

    Raises:
        ConfigurationError: it is still one.
        DataError: the file describes none.
    """
    about = read_json(path)
    name, seed, number = about.get("reader"), about.get("seed"), about.get("number")
    if not isinstance(name, str) or not isinstance(seed, int) or not isinstance(number, int) or number < 0:
        raise DataError(f"{path}: expected reader, seed and number of a fault")
    reader = lookup("reader", name, READERS)
    home = path.with_suffix("")
    if about.get("file") is None:
        prepare(reader, home)
        tally = play(reader, range(number, number + 1), seed, home, seconds)
    else:  # as it was kept
        tally = Tally()
        meet(reader, home, number, seconds, tally)
    for key, fault in tally.faults.items():
        say(results, f"{name}, input {number}: {key}: {fault.message}")
    if tally.faults:
        raise ConfigurationError(f"{path}: still a fault")
    say(results, f"{name}, input {number}: {'refused as documented' if tally.refused else 'accepted'}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    return command_line("fuzz", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
