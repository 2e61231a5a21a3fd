"""The kernel: what a policy dispatches and what a unit is asked to run.

An FC kernel multiplies `rows` input vectors of length `inner` by a weight matrix of
`inner x outer`; `groups` independent matrices (the share-sets of RepMLP's FC3) see `rows`
vectors each. A convolution is such a kernel too: its input vectors are the patches under its window
(im2col), which overlap where the window is wider than its stride. A kernel knows shapes and bytes,
never hardware.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
Rows: TypeAlias = int | npt.NDArray[np.integer[Any]]

Split: TypeAlias = Literal["outputs", "inputs"]

FP16_BYTES = 2


class KernelClass(StrEnum):
    """The classes that a scheduler tells apart: those of a decoder layer, experts last, then those of RepMLPNet."""

    QKV = "qkv"
    ATTENTION = "attention"
    PROJECTION = "projection"
    FEED_FORWARD = "feed_forward"
    EXPERTS = "experts"
    REPMLP_FC1 = "repmlp_fc1"
    REPMLP_FC2 = "repmlp_fc2"
    REPMLP_FC3 = "repmlp_fc3"
    REPMLP_FFN = "repmlp_ffn"
    CONVOLUTION = "convolution"


@dataclass(frozen=True)
class Kernel:
    """One FC kernel: `rows` vectors times each of `groups` weight matrices of `inner x outer`.

    Args:
        kernel_class: what the scheduler calls it.
        inner: length of an input vector (the reduction dimension).
        outer: length of an output vector.
        rows: input vectors per weight matrix; for decoding, n = RLP x TLP.
        groups: independent weight matrices.
        count: how often the kernel runs in one step (the number of layers, say).
        element_bytes: bytes of an element of the vectors, and of the weights if they have none of their own; FP16 by
            default.
        taps: how many input vectors each input element appears in: k * k for a k x k convolution of stride
            1, else 1. It divides `inner`. The element is moved once, and multiplied every time.
        split: what GPUs divide of a matrix: its outputs, or its inputs, which leaves every GPU with a partial
            sum of all outputs. Tensor parallelism cuts a block's first matrix by outputs, its last by inputs.
        weight_element_bytes: bytes of a weight with its part of scales (0.5 and more for 4-bit formats); as
            `element_bytes` if None.
    """

    kernel_class: KernelClass
    inner: int
    outer: int
    rows: int = 1
    groups: int = 1
    count: int = 1
    element_bytes: int = FP16_BYTES
    taps: int = 1
    split: Split = "outputs"
    weight_element_bytes: float | None = None

    def __post_init__(self) -> None:
        for name in ("inner", "outer", "rows", "groups", "count", "element_bytes", "taps"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"Kernel {self.kernel_class}: {name} is {value!r}, expected an integer >= 1")
            # Python's integers do not overflow; NumPy's do.
            object.__setattr__(self, name, int(value))
        if self.inner % self.taps:
            raise ValueError(
                f"Kernel {self.kernel_class}: {self.taps} taps do not divide an inner size of {self.inner}"
            )
        _check_width(f"Kernel {self.kernel_class}", "weight_element_bytes", self.weight_element_bytes)

    def with_rows(self, rows: int) -> Kernel:
        """The same kernel for another number of rows."""
        return replace(self, rows=rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights of one run, with their scales."""
        return math.ceil(self.groups * self.inner * self.outer * self.bytes_per_weight)

    @property
    def bytes_per_weight(self) -> float:
        """Bytes of a weight with its part of scales."""
        return self.element_bytes if self.weight_element_bytes is None else self.weight_element_bytes

    @property
    def activation_bytes(self) -> int:
        """Bytes of the inputs and outputs of one run."""
        return int(activation_bytes(self, self.rows))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return self.rows * self.groups * self.inner * self.outer

    @property
    def flops(self) -> int:
        """Floating-point operations of one run; a multiply-accumulate is two."""
        return 2 * self.macs

    @property
    def arithmetic_intensity(self) -> float:
        """FLOP per byte of weights and activations, each moved once (PAPI, section 3.1)."""
        return self.flops / (self.weight_bytes + self.activation_bytes)


def _check_width(where: str, name: str, value: float | None) -> None:
    if value is not None and not (isinstance(value, (int, float)) and 0 < value < math.inf):
        raise ValueError(f"{where}: {name} is {value!r}, expected a number of bytes above 0")


def blocks(kernels: Sequence[Kernel]) -> tuple[tuple[Kernel, ...], ...]:
    """FC kernels in order, cut after each that leaves partial sums of its outputs: what is combined at once."""
    ends = [i + 1 for i, kernel in enumerate(kernels) if kernel.split == "inputs"]
    return tuple(tuple(kernels[start:end]) for start, end in zip([0, *ends], ends, strict=False))


def gpu_share(kernel: Kernel, gpus: int) -> tuple[float, float, float]:
    """Inputs, outputs and matrices of one GPU's even share of a kernel; none below one, and not always whole.

    Outputs or inputs are divided as Megatron-LM does (Shoeybi et al. 2019, see `Kernel.split`), independent
    matrices are dealt whole.
    """
    if kernel.groups > 1:
        return kernel.inner, kernel.outer, max(kernel.groups / gpus, 1.0)
    if kernel.split == "inputs":
        return max(kernel.inner / gpus, 1.0), kernel.outer, 1.0
    return kernel.inner, max(kernel.outer / gpus, 1.0), 1.0


def activation_bytes(kernel: Kernel, rows: Rows) -> FloatArray:
    """Bytes of inputs and outputs of one run of `kernel` with `rows` rows (same shape as `rows`)."""
    # A row of an overlapping convolution brings `inner / taps` elements that no other row has.
    per_row = kernel.groups * (kernel.inner // kernel.taps + kernel.outer) * kernel.element_bytes
    return np.asarray(rows, dtype=np.float64) * per_row


def macs(kernel: Kernel, rows: Rows) -> FloatArray:
    """Multiply-accumulates of one run of `kernel` with `rows` rows (same shape as `rows`)."""
    return np.asarray(rows, dtype=np.float64) * (kernel.groups * kernel.inner * kernel.outer)


@dataclass(frozen=True)
class AttentionKernel:
    """Multi-head attention of decoding: every request reads its own keys and values once.

    `rows_per_kv_head` query rows share a read: the query heads of a group (grouped queries) times
    the tokens verified together (TLP).

    Args:
        heads: query heads.
        kv_heads: heads of keys and values; `heads` divided by it is the group size.
        head_size: elements of a head's query and key.
        count: how often the kernel runs in one step (the number of layers).
        element_bytes: bytes of an element of queries, scores and outputs, and of keys and values if those have none of
            their own; FP16 by default.
        value_size: elements of a head's value; as `head_size` if None.
        shared_values: values are the first elements of the keys, and stored once (latent attention).
        kv_element_bytes: bytes of an element of keys and values; as `element_bytes` if None.
        most_copies: places that there is room to keep a KV head's keys and values in; any number if None.
    """

    heads: int
    kv_heads: int
    head_size: int
    count: int = 1
    element_bytes: int = FP16_BYTES
    kernel_class: KernelClass = KernelClass.ATTENTION
    value_size: int | None = None
    shared_values: bool = False
    kv_element_bytes: float | None = None
    most_copies: int | None = None

    def __post_init__(self) -> None:
        for name in ("heads", "kv_heads", "head_size", "count", "element_bytes"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"AttentionKernel: {name} is {value!r}, expected an integer >= 1")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"AttentionKernel: {self.heads} heads over {self.kv_heads} KV heads do not divide evenly"
            )
        if self.value_elements < 1 or (self.shared_values and self.value_elements > self.head_size):
            most = f" to {self.head_size}, of which they are a part" if self.shared_values else ""
            raise ValueError(f"AttentionKernel: value_size is {self.value_size}, expected 1 or more{most}")
        _check_width("AttentionKernel", "kv_element_bytes", self.kv_element_bytes)
        if self.most_copies is not None and self.most_copies < 1:
            raise ValueError(f"AttentionKernel: most_copies is {self.most_copies}, expected at least 1")

    @property
    def value_elements(self) -> int:
        """Elements of a head's value."""
        return self.head_size if self.value_size is None else self.value_size

    @property
    def bytes_per_kv(self) -> float:
        """Bytes of an element of keys and values."""
        return self.element_bytes if self.kv_element_bytes is None else self.kv_element_bytes

    def rows_per_kv_head(self, tlp: int) -> int:
        """Query rows that one read of a KV head serves when `tlp` tokens are verified together."""
        return tlp * (self.heads // self.kv_heads)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token in one run (one layer)."""
        kept = self.head_size + (0 if self.shared_values else self.value_elements)
        return math.ceil(self.kv_heads * kept * self.bytes_per_kv)

    @property
    def pim_bytes_per_token(self) -> int:
        """Bytes that the banks read of one token in one run: keys, and values in a pass of their own."""
        return math.ceil(self.kv_heads * (self.head_size + self.value_elements) * self.bytes_per_kv)

    @property
    def query_bytes(self) -> int:
        """Bytes of the queries of one token in one run."""
        return self.heads * self.head_size * self.element_bytes

    @property
    def output_bytes(self) -> int:
        """Bytes of the outputs of one token in one run."""
        return self.heads * self.value_elements * self.element_bytes

    @property
    def macs_per_context_token(self) -> int:
        """Multiply-accumulates (scores and weighted values) per context token and query token, one run."""
        return self.heads * (self.head_size + self.value_elements)
