"""A run folder of LLMServingSim (casys-kaist/LLMServingSim, MIT licence), as its `bench` records real vLLM runs.

The folder, or its folder `vllm`, holds `meta.json` (engine_kwargs, kv_cache, hardware) and `requests.jsonl` (a JSON
object a line: input_toks, output_toks, arrival_time in seconds of the epoch, queued_ts, scheduled_ts, first_token_ts,
last_token_ts of another clock). Measured tables lie in the folder itself, in a folder `tp<GPUs>` in it, or, inside a
checkout, in `profiler/perf/<hardware>/<model>/<variant>/tp<GPUs>`. The link of several GPUs is `link_bw` (GB/s) and
`link_latency` (ns) of the simulator's `config.json`.

What older runs do not say has vLLM's defaults: pages of 16 tokens, prefix caching. Without kv_cache its tokens follow
as in the simulator: mem_size (GiB) times mem_util of `config.json`, less the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.replay.run_folder import (
    MAX_TOKENS,
    MOMENTS,
    Requests,
    Run,
    RunDescription,
    in_order,
    order_of_moments,
    read_document,
    tables_in,
)
from papi_env.errors import DataError, shown, unknown_name
from papi_env.files import JSON_BYTES, read_bounded
from papi_env.hardware.gpus import GPUS
from papi_env.workload.serving import PAGE_TOKENS
from papi_env.workload.transformer import TRANSFORMERS

META, REQUESTS, CLUSTER = "meta.json", "requests.jsonl", "config.json"
MOST_GPUS = 4096
# Of sizes, rates and counts of a cluster; chosen: beyond any machine, far from overflow (range 1e12-1e100).
_LARGEST = 1e18
_TIMES = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")


def meta_path(folder: Path) -> Path | None:
    """Where `meta.json` of such a folder is; None where there is none."""
    return next((path for path in (folder / META, folder / "vllm" / META) if path.is_file()), None)


def read_llmservingsim(folder: Path, meta: Path) -> Run:
    """The run of such a folder.

    Raises:
        ConfigurationError, DataError: a file that is not as expected.
    """
    said = read_document(meta)
    engine = _part(meta, said, "engine_kwargs")
    gpus = engine.get("tensor_parallel_size", 1)
    if not isinstance(gpus, int) or isinstance(gpus, bool) or not 1 <= gpus <= MOST_GPUS:
        raise DataError(
            f"{meta}: engine_kwargs.tensor_parallel_size: found {shown(gpus)}, expected 1 to {MOST_GPUS}"
        )
    for name in ("data_parallel_size", "pipeline_parallel_size"):
        if engine.get(name, 1) != 1:
            raise DataError(f"{meta}: engine_kwargs.{name}: found {shown(engine[name])}, expected 1")
    cluster_path = folder / CLUSTER
    cluster = read_document(cluster_path) if cluster_path.is_file() else {}
    hardware = _hardware(meta, said, cluster)
    model = str(_value(meta, said, "model"))
    link = {}
    if gpus != 1 and "link_bw" in cluster and "link_latency" in cluster:
        bandwidth, latency = cluster["link_bw"], cluster["link_latency"]
        if not _are_numbers(bandwidth, latency):
            raise DataError(
                f"{cluster_path}: link_bw, link_latency: found {shown(bandwidth)}, {shown(latency)}, expected numbers "
                f"of at most {_LARGEST:g}"
            )
        link = {"link": {"bandwidth": 1e9 * bandwidth, "latency_s": 1e-9 * latency}}
    known = registered_model(meta, model)
    pages, kv_tokens, caching = _kv_cache(meta, said, cluster, known, gpus)
    description = RunDescription.define(
        {
            "model": known,
            "gpu": registered_gpu(meta, hardware),
            "gpus": gpus,
            "max_running": _value(meta, engine, "max_num_seqs", "engine_kwargs."),
            "token_budget": _value(meta, engine, "max_num_batched_tokens", "engine_kwargs."),
            "page_tokens": pages,
            "kv_tokens": kv_tokens,
            "prefix_caching": caching,
            **link,
        },
        str(meta),
    )
    return Run(folder, description, _requests(meta.parent / REQUESTS), _tables(folder, hardware, model, gpus))


def _kv_cache(
    meta: Path, said: Mapping[str, Any], cluster: Mapping[str, Any], model: str, gpus: Any
) -> tuple[Any, Any, Any]:
    """Tokens of a page, tokens of all, and whether prefixes are cached."""
    if said.get("kv_cache"):
        cache = _part(meta, said, "kv_cache")
        pages = cache.get("block_size") or PAGE_TOKENS
        blocks = _value(meta, cache, "num_gpu_blocks", "kv_cache.")
        for name, value in (("block_size", pages), ("num_gpu_blocks", blocks)):
            if not isinstance(value, int) or not _are_numbers(value):
                raise DataError(f"{meta}: kv_cache.{name}: found {shown(value)}, expected a whole number")
        return pages, blocks * pages, cache.get("enable_prefix_caching", True)
    try:
        memory = cluster["nodes"][0]["instances"][0]["npu_mem"]
        each, used = memory["mem_size"], memory["mem_util"]
        if not _are_numbers(each, used):
            raise TypeError
    except (KeyError, IndexError, TypeError):
        raise DataError(
            f"{meta}: kv_cache: found none, and no {CLUSTER} with mem_size and mem_util of npu_mem beside it, expected "
            "num_gpu_blocks and block_size"
        ) from None
    shape = TRANSFORMERS[model]
    size = gpus * each * used * 2**30
    left = int((size - shape.weight_bytes) / shape.kv_bytes_per_token)
    return PAGE_TOKENS, left // PAGE_TOKENS * PAGE_TOKENS, True


def _are_numbers(*values: object) -> bool:
    """Whether values are numbers that a machine may have, of either sign."""
    return all(isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) <= _LARGEST for x in values)


def _part(path: Path, data: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = data.get(name)
    if not isinstance(part, dict) or not part:
        raise DataError(f"{path}: {name}: found {shown(part)}, expected a table")
    return part


def _value(path: Path, data: Mapping[str, Any], name: str, where: str = "") -> Any:
    if data.get(name) is None:
        raise DataError(f"{path}: {where}{name}: found none, expected a value")
    return data[name]


def _hardware(meta: Path, said: Mapping[str, Any], cluster: Mapping[str, Any]) -> str:
    """What the GPU is called: by the simulator's configuration, or by its driver."""
    try:
        return str(cluster["nodes"][0]["instances"][0]["hardware"])
    except (KeyError, IndexError, TypeError):
        pass
    device = said.get("hardware")
    if isinstance(device, dict) and isinstance(device.get("device_name"), str):
        return str(device["device_name"])
    raise DataError(
        f"{meta}: hardware.device_name: found none, and no {CLUSTER} with nodes[0].instances[0].hardware beside it, "
        "expected the name of the GPU"
    )


def registered_gpu(path: Path, name: str) -> str:
    """The registered GPU that a name such as "RTX4090" or "NVIDIA GeForce RTX 4090" means.

    Raises:
        ConfigurationError: none.
    """
    plain = re.sub("[^a-z0-9]", "", name.lower())
    fitting = [known for known in GPUS if known.replace("-", "") in plain]
    if not fitting:
        error = unknown_name("GPU", name, GPUS)
        raise type(error)(f"{path}: {error}")
    return max(fitting, key=len)


def registered_model(path: Path, name: str) -> str:
    """The registered model that a hub's name or a path such as "meta-llama/Llama-3.1-8B-Instruct" means.

    Raises:
        ConfigurationError: none.
    """
    plain = re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()
    fitting = [known for known in TRANSFORMERS if plain == known or plain.startswith(f"{known}-")]
    if not fitting:
        error = unknown_name("model", plain, TRANSFORMERS)
        raise type(error)(f"{path}: {error}")
    return max(fitting, key=len)


def _requests(path: Path) -> Requests:
    try:
        lines = read_bounded(path, JSON_BYTES).decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: found bytes that are no UTF-8 text, expected the requests of the run"
        ) from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            request = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: found {error}, expected a JSON object") from None
        if not isinstance(request, dict):
            raise DataError(f"{where}: found {type(request).__name__}, expected a JSON object")
        tokens = [_number(where, request, name, whole=True) for name in ("input_toks", "output_toks")]
        times = [_number(where, request, name) for name in _TIMES]
        # The arrival is of another clock, and no latency counts from it.
        moments = order_of_moments(path, number, (times[0], *times))
        rows.append((number, int(tokens[0]), int(tokens[1]), moments))
    if not rows:
        raise DataError(f"{path}: found no request, expected one a line")
    return in_order(path, rows)


def _number(where: str, request: Mapping[str, Any], name: str, whole: bool = False) -> float:
    value = request.get(name)
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    # Whole numbers of JSON may be larger than any float.
    least, most = (1, MAX_TOKENS) if whole else (0, _LARGEST)
    if not good or value is None or not least <= value <= most:
        expected = f"a whole number from 1 to {MAX_TOKENS}" if whole else f"seconds from 0 to {_LARGEST:g}"
        raise DataError(f"{where}: field {name!r}: found {shown(value)}, expected {expected}")
    return value


def _tables(folder: Path, hardware: str, model: str, gpus: int) -> Path | None:
    """The folder of the measured tables."""
    rank = f"tp{gpus}"
    for near in (folder, folder / rank):
        found = tables_in(near)
        if found is not None:
            return found
    name = model.strip("/\\").replace("\\", "/").split("/")[-1]
    # Both become names of folders, and lead nowhere else.
    if not all(re.fullmatch(r"(?!\.)[\w.+ -]{1,200}", part, re.ASCII) for part in (hardware, name)):
        return None
    for parent in folder.resolve().parents:
        perf = parent / "profiler" / "perf" / hardware
        if perf.is_dir():
            return next(
                (
                    found
                    for at in sorted(perf.glob(f"*/{name}/*/{rank}"))
                    if (found := tables_in(at)) is not None
                ),
                None,
            )
    return None


# Moments of such a file, under the names of the others.
assert len(_TIMES) == len(MOMENTS) - 1
