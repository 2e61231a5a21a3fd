"""Readers of what others measured or simulated: rows of kernels, runs of servers, output of simulators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.attacc.cycles import read_cycles
from experiments.attacc.grid import read_grid
from experiments.fuzzing import seeds
from experiments.fuzzing.reader import Reader, beside, of, reading
from experiments.gpus.kernels import read_kernels
from experiments.gpus.published import validate_published
from experiments.gpus.validate_allreduce import validate_allreduce
from experiments.gpus.validate_moe import validate_moe
from experiments.replay.validate_serving import read_run
from papi_env.hardware.measured import load_measured
from papi_env.hardware.server_tables import load_server_tables


def _server_run() -> dict[str, bytes]:
    """A server's run of our own form with its measured tables."""
    tables = {name: text.encode() for name, text in seeds.server_tables().items()}
    return tables | {"run.json": seeds.as_json(seeds.RUN), "requests.csv": seeds.RUN_REQUESTS.encode()}


def _simulation() -> dict[str, bytes]:
    """A folder of LLMServingSim."""
    return {
        "meta.json": seeds.as_json(seeds.META),
        "config.json": seeds.as_json(seeds.CLUSTER),
        "requests.jsonl": seeds.as_lines(seeds.META_REQUESTS),
    }


def _published() -> dict[str, bytes]:
    return {"kernels.csv": seeds.ELEMENT_WISE.encode(), "allreduce.csv": seeds.ALLREDUCE.encode()}


def _iterations(folder: Path) -> object:
    return validate_published(folder / "kernels.csv", folder / "allreduce.csv")


MEASURED: Sequence[Reader] = (
    Reader("measured-kernels", "k.csv", "text", of(seeds.MEASURED), reading(load_measured, "k.csv")),
    Reader("server-tables", "dense.csv", "text", beside("dense.csv", _server_run), load_server_tables),
    Reader("server-run", "run.json", "json", beside("run.json", _server_run), read_run),
    Reader("server-requests", "requests.csv", "text", beside("requests.csv", _server_run), read_run),
    Reader("simulator-meta", "meta.json", "json", beside("meta.json", _simulation), read_run),
    Reader("simulator-config", "config.json", "json", beside("config.json", _simulation), read_run),
    Reader(
        "simulator-requests", "requests.jsonl", "json-lines", beside("requests.jsonl", _simulation), read_run
    ),
    Reader("cycles", "cycles.csv", "text", of(seeds.CYCLES), reading(read_cycles, "cycles.csv")),
    Reader("grid", "grid.csv", "text", of(seeds.grid()), reading(read_grid, "grid.csv")),
    Reader("gpu-kernels", "mlp.csv", "text", of(seeds.KERNELS), reading(read_kernels, "mlp.csv")),
    Reader("allreduce", "a.csv", "text", of(seeds.ALLREDUCE), reading(validate_allreduce, "a.csv")),
    Reader("experts", "moe.csv", "text", of(seeds.EXPERTS), reading(validate_moe, "moe.csv")),
    Reader(
        "published",
        "kernels.csv",
        "text",
        beside("kernels.csv", _published),
        _iterations,
        others={"allreduce.csv": "text"},
    ),
)
