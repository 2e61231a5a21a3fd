"""Whole iterations of real servers against the parts as measured: A100s under lmdeploy and TensorRT-LLM.

An iteration is its FC kernels and its LM head (`gpu_kernels`), decode attention at its share of the bandwidth or
causal attention at the sustained FLOP/s, NCCL's all-reduces and the element-wise kernels as their files have them.
Nothing is fitted to the published times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.fields import read_table
from papi_env.errors import DataError
from papi_env.hardware.gpu_kernels import KERNEL_CONSTANTS, fc_s
from papi_env.hardware.gpus import get_gpu
from papi_env.kernel import FP16_BYTES, gpu_share
from papi_env.workload.transformer import Transformer, get_transformer

GPU = "a100"
VOCABULARY = 32_000
# Kernels between the FC kernels of a layer, and how often each runs.
ELEMENT_WISE = {"activation_us": 1, "norm1_us": 1, "norm2_us": 1, "rope_us": 1, "add_us": 2}
_MODELS = {
    "7B": Transformer(
        name="llama2-7b", layers=32, hidden=4096, heads=32, feed_forward=11008, gated=True, context_limit=4096
    ),
    "13B": Transformer(
        name="llama2-13b",
        layers=40,
        hidden=5120,
        heads=40,
        feed_forward=13824,
        gated=True,
        context_limit=4096,
    ),
    "70B": get_transformer("llama2-70b"),
}


@dataclass(frozen=True)
class Published:
    """A published time of Llama 2 on A100s of 80 GB.

    Attributes:
        source: who measured.
        model: its size.
        gpus: that share it.
        rows: requests of a decode iteration, or tokens of a prompt.
        milliseconds: of an iteration, or to the first token.
        prompt: whether it is the time to the first token.
    """

    source: str
    model: str
    gpus: int
    rows: int
    milliseconds: float
    prompt: bool = False


# lmdeploy's table of decode latencies (input 128, output 2048), TensorRT-LLM's times to the first token.
PUBLISHED = (
    Published("lmdeploy", "7B", 1, 1, 10.0),
    Published("lmdeploy", "7B", 1, 32, 26.0),
    Published("lmdeploy", "13B", 1, 1, 18.0),
    Published("lmdeploy", "70B", 4, 1, 31.0),
    Published("lmdeploy", "70B", 4, 16, 33.0),
    Published("lmdeploy", "70B", 4, 32, 38.0),
    Published("lmdeploy", "70B", 4, 64, 47.0),
    Published("TensorRT-LLM", "70B", 4, 128, 47.0, prompt=True),
    Published("TensorRT-LLM", "70B", 4, 2048, 377.0, prompt=True),
)
# The mean context of a request between its prompt of 128 tokens and its end 2048 tokens later.
CONTEXT = 128 + 2048 // 2


def validate_published(kernels: Path, allreduce: Path) -> dict[str, Any]:
    """Every published time and what its parts come to.

    Args:
        kernels: measured kernels with the columns of `ELEMENT_WISE`; see `experiments.gpus.kernels`.
        allreduce: measured all-reduces; see `experiments.gpus.validate_allreduce`.

    Returns:
        Plain data: `rows`, `mape` and `max` of the relative errors as fractions, and each row of `PUBLISHED` with
        its parts in milliseconds.

    Raises:
        DataError: a file is not as expected, or lacks what a row needs.
    """
    element_wise, sums = _element_wise(kernels), _allreduce(allreduce)
    rows = []
    for published in PUBLISHED:
        parts = _parts(published, element_wise, sums)
        total = sum(parts.values())
        rows.append(
            vars(published)
            | {"simulated": total, "error": total / published.milliseconds - 1}
            | {"parts": {name: float(f"{value:.4g}") for name, value in parts.items()}}
        )
    errors = np.abs([row["error"] for row in rows])
    return {"rows": len(rows), "mape": float(errors.mean()), "max": float(errors.max()), "iterations": rows}


Curves = Mapping[tuple[int, int], tuple[list[int], list[float]]]


def _parts(published: Published, element_wise: Curves, sums: Curves) -> dict[str, float]:
    """Milliseconds by part."""
    model, gpus, rows = _MODELS[published.model], published.gpus, published.rows
    card, unit = KERNEL_CONSTANTS[GPU], get_gpu(GPU, gpus)
    fc = 0.0
    for kernel in model.fc_kernels():
        inputs, outputs, _ = gpu_share(kernel, gpus)
        fc += float(fc_s(card, rows, outputs, inputs))
    attention = model.attention_kernel()
    if published.prompt:
        flops = 2 * attention.macs_per_context_token * rows * (rows + 1) / 2
        attention_s = flops / (unit.total_flops * unit.compute_efficiency)
    else:
        share = unit.attention_bandwidth / unit.memory_bandwidth
        attention_s = rows * CONTEXT * attention.kv_bytes_per_token / (gpus * card.memory_bandwidth * share)
    head = float(fc_s(card, 1 if published.prompt else rows, VOCABULARY / gpus, model.hidden))
    combined = 0.0 if gpus == 1 else 2 * _interpolated(sums, gpus, 0, FP16_BYTES * rows * model.hidden)
    parts = {
        "fc": model.layers * fc,
        "attention": model.layers * attention_s,
        "all_reduce": model.layers * combined,
        "element_wise": model.layers * _by_hidden(element_wise, gpus, model.hidden, rows),
        "lm_head": head,
    }
    return {name: 1e3 * seconds for name, seconds in parts.items()}


def _by_hidden(curves: Curves, gpus: int, hidden: int, rows: int) -> float:
    """Seconds at a hidden size between those measured."""
    known = sorted(size for count, size in curves if count == gpus)
    if not known:
        raise DataError(f"element-wise kernels: found no {GPU} lines of {gpus} GPUs, expected some")
    return float(np.interp(hidden, known, [_interpolated(curves, gpus, size, rows) for size in known]))


def _interpolated(curves: Curves, gpus: int, size: int, at: float) -> float:
    if (gpus, size) not in curves:
        raise DataError(f"all-reduces: found no {GPU} lines of {gpus} GPUs, expected some")
    return float(np.interp(at, *curves[gpus, size]))


def _element_wise(path: Path) -> Curves:
    """Seconds of a layer's element-wise kernels by (GPUs, hidden size) and tokens."""
    header, rows = read_table(path)
    header.require("gpu", "tp", "n", "hidden", *ELEMENT_WISE)
    found = []
    for fields in rows:
        if fields.values["gpu"].lower() == GPU:
            key = fields.integer("tp", 1, 4096), fields.integer("hidden", 1, 2**20)
            seconds = sum(count * fields.number(name) for name, count in ELEMENT_WISE.items()) * 1e-6
            found.append((key, fields.integer("n", 1, 2**20), seconds))
    return _curves(found)


def _allreduce(path: Path) -> Curves:
    """Lowest seconds of an all-reduce by (GPUs, 0) and bytes."""
    header, rows = read_table(path)
    header.require("gpu", "gpus", "bytes", "min_us")
    return _curves(
        [
            (
                (fields.integer("gpus", 2, 4096), 0),
                fields.integer("bytes", 1, 2**40),
                fields.number("min_us") * 1e-6,
            )
            for fields in rows
            if fields.values["gpu"].lower() == GPU
        ]
    )


def _curves(found: list[tuple[tuple[int, int], int, float]]) -> Curves:
    by_key: dict[tuple[int, int], dict[int, float]] = {}
    for key, at, seconds in found:
        by_key.setdefault(key, {})[at] = seconds
    return {key: (sorted(points), [points[at] for at in sorted(points)]) for key, points in by_key.items()}
