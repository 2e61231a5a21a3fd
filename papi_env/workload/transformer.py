"""Decoder-only transformers as kernels.

Left out, because they are the same for every scheduling choice and small beside the rest: token
embedding, the LM head, layer norms, residual additions and activation functions.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, model_validator

from papi_env.definition import Definition
from papi_env.errors import lookup
from papi_env.kernel import FP16_BYTES, AttentionKernel, Kernel, KernelClass, Split
from papi_env.quantities import Count, Tokens, Truth

# The FC classes of a decoder layer, in the order of execution around attention.
FC_CLASSES = (KernelClass.QKV, KernelClass.PROJECTION, KernelClass.FEED_FORWARD)


class Transformer(Definition):
    """The shape of a decoder-only transformer in FP16.

    `gated` feed-forward layers have three matrices (LLaMA), others two.
    """

    name: str
    layers: Count = Field(ge=1, le=1000)
    hidden: Count = Field(ge=1, le=1 << 17)
    heads: Count = Field(ge=1, le=1024)
    kv_heads: Count | None = Field(
        None, ge=1, description="heads of keys and values; as many as heads if absent"
    )
    feed_forward: Count = Field(ge=1, le=1 << 20)
    gated: Truth = False
    context_limit: Tokens = Field(2048, ge=2, le=1 << 20)

    @model_validator(mode="after")
    def _divides(self) -> Transformer:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self

    @property
    def head_size(self) -> int:
        """Elements of a head."""
        return self.hidden // self.heads

    @property
    def kv_width(self) -> int:
        """Elements of one token's keys in one layer."""
        return self.head_size * (self.kv_heads or self.heads)

    def fc_kernels(self) -> tuple[Kernel, ...]:
        """The FC kernels of one decode iteration, each with `count` = layers, in order of execution."""
        # Gate and up run as one kernel, as servers launch them.
        up = self.feed_forward * (2 if self.gated else 1)
        shapes: list[tuple[KernelClass, int, int, Split]] = [
            (KernelClass.QKV, self.hidden, self.hidden + 2 * self.kv_width, "outputs"),
            (KernelClass.PROJECTION, self.hidden, self.hidden, "inputs"),
            (KernelClass.FEED_FORWARD, self.hidden, up, "outputs"),
            (KernelClass.FEED_FORWARD, self.feed_forward, self.hidden, "inputs"),
        ]
        return tuple(
            Kernel(kind, inner, outer, count=self.layers, split=split) for kind, inner, outer, split in shapes
        )

    def attention_kernel(self) -> AttentionKernel:
        """Attention of one decode iteration, with `count` = layers."""
        return AttentionKernel(self.heads, self.kv_heads or self.heads, self.head_size, count=self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all FC weights."""
        return sum(kernel.weight_bytes * kernel.count for kernel in self.fc_kernels())

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token's keys and values take in all layers."""
        return 2 * self.kv_width * FP16_BYTES * self.layers


# Shapes: OPT (Zhang et al. 2022), GPT-3 (Brown et al. 2020), LLaMA and Llama 2 (Touvron et al. 2023).
_ALL = (
    Transformer(name="opt-30b", layers=48, hidden=7168, heads=56, feed_forward=4 * 7168),
    Transformer(name="gpt3-66b", layers=64, hidden=9216, heads=72, feed_forward=4 * 9216),
    Transformer(name="gpt3-175b", layers=96, hidden=12288, heads=96, feed_forward=4 * 12288),
    Transformer(name="llama-65b", layers=80, hidden=8192, heads=64, feed_forward=22016, gated=True),
    Transformer(
        name="llama2-70b",
        layers=80,
        hidden=8192,
        heads=64,
        kv_heads=8,
        feed_forward=28672,
        gated=True,
        context_limit=4096,
    ),
)
TRANSFORMERS: Mapping[str, Transformer] = {model.name: model for model in _ALL}


def get_transformer(name: str) -> Transformer:
    """The registered model of that name; an unknown name is answered with the known ones."""
    return lookup("model", name, TRANSFORMERS)
