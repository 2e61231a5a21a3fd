"""What attention of a model may have besides heads: compressed keys and values, and windows."""

from __future__ import annotations

from pydantic import Field, model_validator

from papi_env.definition import Definition
from papi_env.quantities import Count, Tokens


class LatentAttention(Definition):
    """Multi-head latent attention (DeepSeek-V2, 2024, section 2.1).

    A token's keys and values of a layer are one vector of `kv_lora_rank` elements, from which every head has its own by
    a matrix, and `qk_rope` elements of key with the position, which all heads share: kv_lora_rank + qk_rope elements
    are kept. Decoding is by absorbed projections: a head's query goes through its key matrix into the compressed space,
    attends there over the cache as it lies (keys of kv_lora_rank + qk_rope elements, values of kv_lora_rank, which are
    part of the keys and stored once), and its output goes through the value matrix.
    """

    kv_lora_rank: Count = Field(ge=1, le=1 << 14, description="elements of the compressed keys and values")
    qk_nope: Count = Field(ge=1, le=1 << 12, description="elements of a head's query without position")
    qk_rope: Count = Field(ge=1, le=1 << 12, description="elements of a query, or the key, with position")
    v: Count = Field(ge=1, le=1 << 12, description="elements of a head's value")
    q_lora_rank: Count | None = Field(
        None, ge=1, le=1 << 14, description="elements of the compressed query; not compressed if absent"
    )

    @property
    def key_size(self) -> int:
        """Elements that a token keeps in a layer: the key of all heads."""
        return self.kv_lora_rank + self.qk_rope


class SlidingWindows(Definition):
    """Layers whose tokens attend to the last `tokens` only, themselves among them.

    Which layers, by one of two: how many (`layers`, all if absent), or that every `full_every`-th attends to
    everything and the others have windows (Gemma 2 and gpt-oss: 2, Gemma 3: 6).
    """

    tokens: Tokens = Field(ge=1, le=1 << 20)
    layers: Count | None = Field(None, ge=1, le=1000)
    full_every: Count | None = Field(None, ge=2, le=1000)

    @model_validator(mode="after")
    def _one_way(self) -> SlidingWindows:
        if self.layers is not None and self.full_every is not None:
            raise ValueError(
                f"layers {self.layers} and full_every {self.full_every} both say which layers have windows: "
                "expected one of the two"
            )
        return self

    def windowed(self, layers: int) -> int:
        """How many of a model's layers have windows."""
        if self.full_every is not None:
            return layers - layers // self.full_every
        return layers if self.layers is None else self.layers
