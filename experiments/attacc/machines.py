"""What AttAcc's simulator runs: its GPUs, its models, its PIM stacks, and one run of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from papi_env.kernel import FloatArray

# Where the PIM units sit: beside every bank, every bank group, or on the buffer die.
PimLevel: TypeAlias = Literal["BA", "BG", "BUFFER"]

STACKS_PER_DEVICE = 5
PIM_DEVICES = 8  # AttAcc's default, whatever the number of GPUs


@dataclass(frozen=True)
class Gpu:
    """One GPU: FLOP/s in FP16, B/s, streaming multiprocessors, cache bytes, link B/s of both ways together."""

    name: str
    flops: float
    bandwidth: float
    multiprocessors: int
    l1_bytes: int
    l2_bytes: int
    link: float


_ALL_GPUS = (
    Gpu("A100a", 312e12, 3352e9, 108, 192 * 2**10, 40 * 2**20, 600e9),
    Gpu("H100", 989.4e12, 3352e9, 132, 256 * 2**10, 50 * 2**20, 900e9),
)
GPUS: Mapping[str, Gpu] = {gpu.name: gpu for gpu in _ALL_GPUS}


@dataclass(frozen=True)
class Model:
    """A decoder-only transformer; the name decides its feed-forward: gated for LLaMA, with ReLU for OPT.

    `feed_forward` is the published size, of which AttAcc knows only 4 or 8/3 times the hidden size.
    `traced_head_size` is what its traces of PIM commands have where that is not hidden / heads.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    feed_forward: int
    traced_head_size: int = 0

    @property
    def gated(self) -> bool:
        """Three feed-forward matrices instead of two."""
        return "LLAMA" in self.name

    @property
    def expansion(self) -> float:
        """AttAcc's feed-forward size over the hidden size."""
        return 8 / 3 if self.gated else 4.0

    @property
    def head_size(self) -> int:
        """Elements of a head."""
        return self.hidden // self.heads

    @property
    def activation_flops(self) -> int:
        """FLOP per element: gated 9, ReLU 1, GELU 8."""
        return 9 if self.gated else 1 if "OPT" in self.name else 8


# AttAcc's models, then others of these families. GPT-3: Brown et al. 2020; LLaMA: Touvron et al. 2023;
# Megatron-Turing: Narayanan et al. 2021, Smith et al. 2022; OPT: Zhang et al. 2022.
_ALL_MODELS = (
    Model("GPT-175B", 96, 12288, 96, 49152),
    Model("GPT-89B", 48, 12288, 96, 49152),
    Model("GPT-13B", 40, 5120, 40, 20480),
    Model("LLAMA-7B", 32, 4096, 32, 11008),
    Model("LLAMA-65B", 80, 8192, 64, 22016),
    Model("MT-76B", 60, 10240, 40, 40960, traced_head_size=128),
    Model("MT-146B", 80, 12288, 80, 49152, traced_head_size=128),
    Model("MT-310B", 96, 16384, 128, 65536),
    Model("MT-530B", 105, 20480, 128, 81920),
    Model("MT-1008B", 128, 25600, 160, 102400),
    Model("OPT-66B", 64, 9216, 72, 36864),
    Model("LLAMA-13B", 40, 5120, 40, 13824),
    Model("LLAMA-33B", 60, 6656, 52, 17920),
    Model("OPT-6.7B", 32, 4096, 32, 16384),
    Model("OPT-13B", 40, 5120, 40, 20480),
    Model("OPT-30B", 48, 7168, 56, 28672),
    Model("OPT-175B", 96, 12288, 96, 49152),
)
MODELS: Mapping[str, Model] = {model.name: model for model in _ALL_MODELS}


@dataclass(frozen=True)
class Pim:
    """Attention stacks: where their units sit, how many devices of five stacks, whether power is limited.

    `bandwidth_ratio` is the internal bandwidth of a device over that of a GPU: at bank level 9 within the
    power limit, 16 without.
    """

    level: PimLevel
    devices: int
    power_limit: bool
    bandwidth_ratio: float

    @property
    def stacks(self) -> int:
        """Stacks of all devices."""
        return self.devices * STACKS_PER_DEVICE


@dataclass(frozen=True)
class Run:
    """A batch of equal requests on a machine, and which of AttAcc's options are on.

    `share_feed_forward` (its ffopt) lets the PIM devices take part of the feed-forward, `pipeline`
    (pipeopt) runs attention of one head beside QKV and projection of others.
    """

    gpu: Gpu
    gpus: int
    pim: Pim | None
    model: Model
    element_bytes: int
    batch: int
    input_tokens: int
    output_tokens: int
    share_feed_forward: bool = False
    pipeline: bool = False

    @property
    def contexts(self) -> FloatArray:
        """Context length at each decode step, [steps]; prefill gives the first output token."""
        return np.arange(self.input_tokens + 1, self.input_tokens + self.output_tokens, dtype=np.float64)

    @property
    def exposed(self) -> float:
        """The share of overlapped work that stays visible: one head of those that a GPU has."""
        return self.gpus / self.model.heads
