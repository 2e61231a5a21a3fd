"""Measured FC kernels of decoder layers, from this project's columns or those of Vidur's `mlp.csv`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from experiments.common.fields import Fields, Header, read_table
from papi_env.errors import DataError, lookup
from papi_env.hardware.gpu_kernels import KERNEL_CONSTANTS
from papi_env.kernel import FloatArray

IntArray = npt.NDArray[np.int64]

# The four FC kernels of a layer; `up` is gate and up together where the feed-forward is gated.
KERNELS = ("qkv", "projection", "up", "down")

MAX_TOKENS, MAX_PARALLEL, MAX_WIDTH = 2**20, 4096, 2**24


@dataclass(frozen=True)
class Layout:
    """What a file calls its columns, and the seconds of its unit of time."""

    tokens: str
    tp: str
    heads: str
    kv_heads: str
    hidden: str
    feed_forward: str
    times: tuple[str, str, str, str]
    unit_s: float

    @property
    def required(self) -> tuple[str, ...]:
        """All columns that a file must have, but for the GPU's."""
        sizes = (self.tokens, self.tp, self.heads, self.kv_heads, self.hidden, self.feed_forward)
        return (*sizes, *self.times)


OWN = Layout(
    *("n", "tp", "heads", "kv_heads", "hidden", "feed_forward"),
    times=("qkv_us", "projection_us", "up_us", "down_us"),
    unit_s=1e-6,
)
# Vidur (microsoft/vidur, data/profiling/compute/GPU/MODEL/mlp.csv): medians in ms; the GPU is a folder's name.
VIDUR = Layout(
    *("num_tokens", "num_tensor_parallel_workers", "n_head", "n_kv_head", "n_embd", "n_expanded_embd"),
    times=(
        "time_stats.attn_pre_proj.median",
        "time_stats.attn_post_proj.median",
        "time_stats.mlp_up_proj.median",
        "time_stats.mlp_down_proj.median",
    ),
    unit_s=1e-3,
)
# Either layout may have these.
GPU, MODEL, GATED = "gpu", "model", "use_gated_mlp"


@dataclass(frozen=True, eq=False)
class KernelRows:
    """Lines of a file, N, each with its four kernels in the order of `KERNELS`."""

    gpu: npt.NDArray[np.str_]  # [N]
    model: npt.NDArray[np.str_]  # [N]
    tp: IntArray  # [N]
    tokens: IntArray  # [N]
    outputs: IntArray  # [N, 4] of one GPU
    inputs: IntArray  # [N, 4] of one GPU
    seconds: FloatArray  # [N, 4] measured

    def __len__(self) -> int:
        return len(self.tp)

    def where(self, lines: npt.NDArray[np.bool_]) -> KernelRows:
        """Some of the lines."""
        return KernelRows(**{name: values[lines] for name, values in vars(self).items()})


def read_kernels(path: Path, gpu: str | None = None) -> KernelRows:
    """Read a CSV file of measured kernels; columns that no layout names are ignored.

    The GPU is in the column `gpu`, or else the argument, or a word of the file's path: Vidur's folders are
    called by it. A file without `use_gated_mlp` has gated feed-forwards. The model is in the column `model`
    or else told by its sizes.

    Raises:
        DataError: the file or a field is not as expected; the message has the file, line and field.
        ConfigurationError: `gpu` is not known.
    """
    header, rows = read_table(path)
    layout = max((OWN, VIDUR), key=lambda known: len(set(known.required) & set(header.names)))
    header.require(*layout.required, *(name for name in (GPU, MODEL, GATED) if name in header))
    gpu_of = _gpu_of(header, gpu)
    lines = [_line(fields, layout, gpu_of) for fields in rows]
    columns = zip(*lines, strict=True)
    return KernelRows(*(np.array(values) for values in columns))


def _gpu_of(header: Header, gpu: str | None) -> Callable[[Fields], str]:
    """Where a line's GPU is said."""
    names = {name: name for name in KERNEL_CONSTANTS}
    if GPU in header:
        return lambda fields: fields.one_of(GPU, names, fold=str.lower)
    if gpu is None:
        words = re.split(r"[^a-z0-9]+", str(header.path.resolve()).lower())
        gpu = next((word for word in reversed(words) if word in names), None)
    if gpu is None:
        raise DataError(
            f"{header.path}:{header.line}: field {GPU!r}: found no such column, and no GPU in the file's path; "
            f"expected the column, or a folder called by one of {', '.join(names)}"
        )
    known = lookup("GPU", gpu, names)
    return lambda fields: known


def _line(
    fields: Fields, layout: Layout, gpu_of: Callable[[Fields], str]
) -> tuple[str, str, int, int, list[int], list[int], list[float]]:
    """A line as `KernelRows` has it; a size that the GPUs don't divide is that of the fullest."""
    tp = fields.integer(layout.tp, 1, MAX_PARALLEL)
    heads = fields.integer(layout.heads, 1, MAX_WIDTH)
    kv_heads = fields.integer(layout.kv_heads, 1, heads)
    hidden = fields.integer(layout.hidden, heads, MAX_WIDTH)
    feed_forward = fields.integer(layout.feed_forward, 1, MAX_WIDTH)
    gated = fields.flag(GATED) if GATED in fields.values else True
    head_size = hidden // heads
    if head_size * heads != hidden:
        raise fields.error(layout.hidden, f"a multiple of {layout.heads} ({heads})")
    query, key, narrow = (-(-size // tp) for size in (heads, kv_heads, feed_forward))
    model = fields.values.get(MODEL) or f"{hidden}x{feed_forward}, {heads} and {kv_heads} heads"
    return (
        gpu_of(fields),
        model,
        tp,
        fields.integer(layout.tokens, 1, MAX_TOKENS),
        [(query + 2 * key) * head_size, hidden, (2 if gated else 1) * narrow, hidden],
        [hidden, query * head_size, hidden, narrow],
        [fields.number(name) * layout.unit_s for name in layout.times],
    )
