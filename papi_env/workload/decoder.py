"""Decoder-only transformers as kernels.

Left out, because they are the same for every scheduling choice and small beside the rest: layer norms, residual
additions, activation functions, biases, position embeddings, and the router of experts (but not its weights). The token
embedding and the LM head are there where a model's `lm_head` is on; the paper's models have it off, as PAPI leaves both
out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from annotated_types import Le
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from papi_env.definition import Definition
from papi_env.errors import ConfigurationError, DataError
from papi_env.kernel import FP16_BYTES, AttentionKernel, Kernel, KernelClass, Split, blocks
from papi_env.quantities import Count, Tokens, Truth
from papi_env.workload.attention import LatentAttention, SlidingWindows
from papi_env.workload.experts import Experts
from papi_env.workload.formats import FP16, ElementFormat
from papi_env.workload.hub.reader import read_config

# The FC classes of a decoder layer, in the order of execution around attention.
FC_CLASSES = (KernelClass.QKV, KernelClass.PROJECTION, KernelClass.FEED_FORWARD)


class Transformer(Definition):
    """The shape of a decoder-only transformer and the formats of its numbers, FP16 by default.

    `gated` feed-forward layers have three matrices (LLaMA), others two. The embedding, the LM head and the router of
    experts keep 16 bits whatever `weight_format` says, as quantised checkpoints have them.
    """

    name: str
    layers: Count = Field(ge=1, le=1000)
    hidden: Count = Field(ge=1, le=1 << 17)
    heads: Count = Field(ge=1, le=1024)
    kv_heads: Count | None = Field(
        None, ge=1, description="heads of keys and values; as many as heads if absent"
    )
    feed_forward: Count = Field(
        ge=1, le=1 << 20, description="width; of layers without experts, where a model has experts"
    )
    gated: Truth = False
    context_limit: Tokens = Field(2048, ge=2, le=1 << 20)
    head_dim: Count | None = Field(
        None, ge=1, le=1 << 14, description="elements of a head; hidden / heads if absent"
    )
    vocabulary: Count | None = Field(None, ge=2, le=1 << 24, description="rows of the embedding")
    tied_embeddings: Truth = Field(False, description="the LM head is the embedding, stored once")
    lm_head: Truth = Field(False, description="whether embedding and LM head count: time, bytes, capacity")
    weight_format: ElementFormat = FP16
    # Of all vectors between kernels. Servers that multiply in 8 bits still keep these in 16.
    activation_format: ElementFormat = FP16
    kv_format: ElementFormat = FP16
    windows: SlidingWindows | None = None
    experts: Experts | None = None
    latent: LatentAttention | None = None

    @classmethod
    def from_hf(cls, path: str | Path) -> Transformer:
        """The model that a hub's `config.json` describes, or the one in the folder `path`; see `hub.reader`.

        Raises:
            DataError: the file is not such a description, or says something that is not understood; it names the field.
        """
        highest = {
            name: limit.le
            for name, known in cls.model_fields.items()
            for limit in known.metadata
            if isinstance(limit, Le) and isinstance(limit.le, int)
        }
        fields, where = read_config(path, highest)
        try:
            return cls.define(fields, where)
        except ConfigurationError as error:
            raise DataError(str(error)) from None

    @field_validator("windows", "experts", "latent", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        """A part that a base has and this model lacks; TOML has no null."""
        return None if value == "none" else value

    @model_validator(mode="after")
    def _divides(self) -> Transformer:
        if self.head_dim is None and self.latent is None and self.hidden % self.heads:
            raise ValueError(
                f"hidden {self.hidden} is not a multiple of heads {self.heads}, and no head_dim is given"
            )
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self

    @model_validator(mode="after")
    def _parts_agree(self) -> Transformer:
        if self.vocabulary is None and (self.lm_head or self.tied_embeddings):
            name = "lm_head" if self.lm_head else "tied_embeddings"
            raise ValueError(f"vocabulary is absent, but {name} is true: expected its size")
        if not self.activation_format.bytes_per_element.is_integer():
            raise ValueError(
                f"activation_format {self.activation_format.elements}: expected whole bytes and no scales, such as fp8"
            )
        if self.latent is not None:
            for name in ("head_dim", "windows"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is not used with latent attention, expected none")
            if self.kv_heads not in (None, self.heads):
                raise ValueError(
                    f"kv_heads {self.kv_heads}: with latent attention every head has its own keys, "
                    f"expected {self.heads}"
                )
        if self.windows is not None and (self.windows.layers or 0) > self.layers:
            raise ValueError(f"windows.layers {self.windows.layers} of {self.layers} layers")
        if self.experts is not None and self.experts.dense_layers >= self.layers:
            raise ValueError(
                f"experts.dense_layers {self.experts.dense_layers} of {self.layers} layers leave none with experts"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What not every model says.
        data: dict[str, Any] = write(self)
        for name in _UNSAID:
            if name in data and getattr(self, name) == type(self).model_fields[name].default:
                del data[name]
        return data

    @property
    def head_size(self) -> int:
        """Elements of a head's query; with latent attention, before it is absorbed."""
        if self.latent is not None:
            return self.latent.qk_nope + self.latent.qk_rope
        return self.hidden // self.heads if self.head_dim is None else self.head_dim

    @property
    def kv_width(self) -> int:
        """Elements of one token's keys in one layer."""
        if self.latent is not None:
            return self.latent.key_size
        return self.head_size * (self.kv_heads or self.heads)

    @property
    def expert_layers(self) -> int:
        """Layers with experts."""
        return 0 if self.experts is None else self.layers - self.experts.dense_layers

    @property
    def windowed_layers(self) -> int:
        """Layers with sliding windows."""
        return 0 if self.windows is None else self.windows.windowed(self.layers)

    @property
    def _activation_bytes(self) -> int:
        return int(self.activation_format.bytes_per_element)

    def _kernel(
        self, kind: KernelClass, inner: int, outer: int, split: Split, count: int, groups: int = 1
    ) -> Kernel:
        routed = kind is KernelClass.EXPERTS and self.experts is not None and self.experts.weight_format
        weights = (routed or self.weight_format).bytes_per_element
        return Kernel(
            kind,
            inner,
            outer,
            groups=groups,
            count=count,
            element_bytes=self._activation_bytes,
            split=split,
            weight_element_bytes=None if weights == self._activation_bytes else weights,
        )

    def _feed_forward(self, kind: KernelClass, width: int, count: int) -> tuple[Kernel, Kernel]:
        # Gate and up run as one kernel, as servers launch them.
        up = width * (2 if self.gated else 1)
        return (
            self._kernel(kind, self.hidden, up, "outputs", count),
            self._kernel(kind, width, self.hidden, "inputs", count),
        )

    def _attention_projections(self) -> tuple[Kernel, ...]:
        qkv, projection, layers = KernelClass.QKV, KernelClass.PROJECTION, self.layers
        latent = self.latent
        if latent is None:
            queries = self.heads * self.head_size
            return (
                self._kernel(qkv, self.hidden, queries + 2 * self.kv_width, "outputs", layers),
                self._kernel(projection, queries, self.hidden, "inputs", layers),
            )
        queries, values = self.heads * self.head_size, self.heads * latent.v
        down: tuple[Kernel, ...]
        if latent.q_lora_rank is None:
            down = (self._kernel(qkv, self.hidden, queries + latent.key_size, "outputs", layers),)
        else:
            # The compressions of query and key run as one kernel.
            compressed = latent.q_lora_rank + latent.key_size
            down = (
                self._kernel(qkv, self.hidden, compressed, "outputs", layers),
                self._kernel(qkv, latent.q_lora_rank, queries, "outputs", layers),
            )
        # Each head's key matrix on its query, and its value matrix on its output: together the matrix that gives keys
        # and values to all heads, and as many multiplications a token.
        return (
            *down,
            self._kernel(qkv, latent.qk_nope, latent.kv_lora_rank, "outputs", layers, self.heads),
            self._kernel(projection, latent.kv_lora_rank, latent.v, "outputs", layers, self.heads),
            self._kernel(projection, values, self.hidden, "inputs", layers),
        )

    def fc_kernels(self) -> tuple[Kernel, ...]:
        """The FC kernels of the layers in one decode iteration, in order of execution.

        Each has as `count` the number of layers that it runs in. Experts that a router chooses among are not here but
        in `expert_kernels`; shared ones are, as a feed-forward network of the width of all.
        """
        kernels, kind = list(self._attention_projections()), KernelClass.FEED_FORWARD
        if self.experts is None:
            return (*kernels, *self._feed_forward(kind, self.feed_forward, self.layers))
        if self.experts.dense_layers:
            kernels += self._feed_forward(kind, self.feed_forward, self.experts.dense_layers)
        if self.experts.shared:
            kernels += self._feed_forward(kind, self.experts.shared_width, self.expert_layers)
        return tuple(kernels)

    def expert_kernels(self) -> tuple[Kernel, ...]:
        """The two FC kernels of one routed expert, with `count` = layers that have experts; none without experts."""
        if self.experts is None:
            return ()
        return self._feed_forward(KernelClass.EXPERTS, self.experts.feed_forward, self.expert_layers)

    def lm_head_kernel(self) -> Kernel | None:
        """The LM head, with one row for each logit vector that is needed; None where it is off.

        Its class is that of feed-forward kernels, with which it is dispatched. Gathering logits from GPUs is left out:
        each can look for the best of its own.
        """
        if not self.lm_head or self.vocabulary is None:
            return None
        return Kernel(
            KernelClass.FEED_FORWARD,
            self.hidden,
            self.vocabulary,
            element_bytes=self._activation_bytes,
            weight_element_bytes=None if self._activation_bytes == FP16_BYTES else FP16_BYTES,
        )

    def decode_kernels(self) -> tuple[Kernel, ...]:
        """All FC kernels of a decode iteration but those of routed experts: `fc_kernels` and the LM head if it is on.

        Every token that is verified needs its logits, so that all have a row for each.
        """
        head = self.lm_head_kernel()
        return self.fc_kernels() if head is None else (*self.fc_kernels(), head)

    def combined_blocks(self) -> tuple[tuple[Kernel, ...], ...]:
        """Blocks of kernels whose outputs units combine (`kernel.blocks`), the `count` of its last kernel times each.

        The outputs of routed experts are added to those of shared ones first, and where there are none stand for
        themselves.
        """
        found = blocks(self.fc_kernels())
        if self.experts is None or self.experts.shared:
            return found
        return (*found, self.expert_kernels())

    @property
    def vector_bytes(self) -> int:
        """Bytes of a token's activations between layers."""
        return self._activation_bytes * self.hidden

    def attention_kernel(self) -> AttentionKernel:
        """Attention of one decode iteration over whole contexts, with `count` = layers, those with windows too.

        Latent keys and values are stored once: who has room for copies says so (`AttentionKernel.most_copies`).
        """
        element_bytes, kv = self._activation_bytes, self.kv_format.bytes_per_element
        kv_bytes = None if kv == element_bytes == FP16_BYTES else kv
        latent = self.latent
        if latent is not None:
            return AttentionKernel(
                self.heads,
                1,
                latent.key_size,
                count=self.layers,
                element_bytes=element_bytes,
                value_size=latent.kv_lora_rank,
                shared_values=True,
                kv_element_bytes=kv_bytes,
                most_copies=1,
            )
        return AttentionKernel(
            self.heads,
            self.kv_heads or self.heads,
            self.head_size,
            count=self.layers,
            element_bytes=element_bytes,
            kv_element_bytes=kv_bytes,
        )

    @property
    def prompt_macs_per_pair(self) -> int:
        """Multiply-accumulates of a (query, key) pair of a prompt in one layer, where keys are at hand for each head.

        With latent attention PUs expand keys and values of a prompt for each head, which takes fewer than attending in
        the compressed space.
        """
        if self.latent is None:
            return self.attention_kernel().macs_per_context_token
        return self.heads * (self.head_size + self.latent.v)

    @property
    def _others(self) -> int:
        """Parameters that are not in `fc_kernels`, but for routed experts: router, embedding and LM head."""
        router = 0 if self.experts is None else self.expert_layers * self.hidden * self.experts.experts
        if not self.lm_head or self.vocabulary is None:
            return router
        return router + self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)

    def _parameters(self, experts: int) -> int:
        fixed = sum(k.count * k.groups * k.inner * k.outer for k in self.fc_kernels())
        return (
            self._others + fixed + experts * sum(k.count * k.inner * k.outer for k in self.expert_kernels())
        )

    @property
    def parameters(self) -> int:
        """Elements of all matrices, embedding and LM head where `lm_head` is on.

        Left out are vectors (norms, biases) and position embeddings: below 0.1 % of a model of billions.
        """
        return self._parameters(0 if self.experts is None else self.experts.experts)

    @property
    def active_parameters(self) -> int:
        """`parameters` without the experts that a token is not sent to."""
        return self._parameters(0 if self.experts is None else self.experts.active)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the matrices in `parameters`, in their formats."""
        size = sum(kernel.weight_bytes * kernel.count for kernel in self.fc_kernels())
        if self.experts is not None:
            size += self.experts.experts * sum(k.weight_bytes * k.count for k in self.expert_kernels())
        return size + self._others * FP16_BYTES

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token's keys and values take in all layers, as long as no window has passed it."""
        kernel = self.attention_kernel()
        return kernel.kv_bytes_per_token * kernel.count

    def kv_bytes(self, context: int) -> int:
        """Bytes of the keys and values of a request with so many tokens, those in windows only where there are any."""
        layer = self.attention_kernel().kv_bytes_per_token
        windowed = self.windowed_layers
        inside = context if self.windows is None else min(context, self.windows.tokens)
        return layer * ((self.layers - windowed) * context + windowed * inside)

    def flops_per_token(self, context: int) -> int:
        """FLOPs of decoding one token that attends to `context` tokens, itself among them.

        Two for each multiply-accumulate of every matrix that a token meets, the LM head if it is on (an embedding is
        only looked up), and of scores and weighted values; with latent attention in the absorbed form. Softmax, norms
        and activation functions are left out.
        """
        macs = self.active_parameters
        if self.lm_head and self.vocabulary is not None and not self.tied_embeddings:
            macs -= self.vocabulary * self.hidden
        windowed = self.windowed_layers
        inside = context if self.windows is None else min(context, self.windows.tokens)
        attended = (self.layers - windowed) * context + windowed * inside
        return 2 * (macs + attended * self.attention_kernel().macs_per_context_token)


# What dumps leave out at its default.
_UNSAID = (
    "head_dim",
    "vocabulary",
    "tied_embeddings",
    "lm_head",
    "weight_format",
    "activation_format",
    "kv_format",
    "windows",
    "experts",
    "latent",
)
