"""RepMLPNet as kernels: what each network is, and what an encode of some images runs. No torch here.

A stage is an embedding convolution, then units of a RepMLP block and an FFN block. A RepMLP block has a
global perceptron (FC1, FC2 on pooled channels), FC3 on the partitions of the map, and in its training
form a local perceptron (convolutions on the same partitions), which Locality Injection merges into FC3.

Left out of time and bytes, as in `transformer`: batch norms, activation functions, pooling, the scaling by
the global perceptron and residual additions. Parameters count everything that is learned.

Source: RepMLPNet (Ding et al., CVPR 2022, sections 3 and 4) and its released models.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from papi_env.definition import Definition
from papi_env.errors import ConfigurationError, lookup
from papi_env.files import read_toml
from papi_env.kernel import FP16_BYTES, Kernel, KernelClass
from papi_env.quantities import Count, Whole
from papi_env.registry import resolve

PATCH = 4  # size and stride of the patch embedding
STRIDE = 2  # size and stride of the convolution between stages
# Beyond what anyone builds, so that a mistake in a file is an error and not a computer out of memory.
MOST_STAGES = 8
LARGEST = 1 << 20


class RepMLPNet(Definition):
    """A hierarchical vision MLP: a patch embedding of stride 4, then stages of RepMLP and FFN units.

    Attributes:
        channels, share_sets, blocks: by stage; share-sets divide channels.
        partitions: h = w of a partition by stage; FC3 of a share-set is (h*w) x (h*w). If not given, one partition
            covers the map of every stage at the native resolution.
        image_size: native resolution, whose maps the partitions divide.
        local_kernels: odd sizes of the local perceptron's convolutions, which deploy form has merged away.
        reduction: channels over neurons of the global perceptron; expansion: of the FFN.
    """

    name: str
    channels: tuple[Whole, ...]
    share_sets: tuple[Whole, ...]
    blocks: tuple[Whole, ...]
    partitions: tuple[Whole, ...]
    image_size: Count = Field(ge=1)
    local_kernels: tuple[Whole, ...] = (1, 3)
    image_channels: Count = Field(3, ge=1)
    classes: Count = Field(1000, ge=1)
    reduction: Count = Field(4, ge=1)
    expansion: Count = Field(4, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _one_partition(cls, data: Any) -> Any:
        """Partitions that cover the maps, where none are given and the rest tells how many pixels those have."""
        if not isinstance(data, dict) or data.get("partitions") is not None:
            return data
        size, channels = data.get("image_size"), data.get("channels")
        if not isinstance(size, int) or not isinstance(channels, list | tuple) or not channels:
            return {**data, "partitions": ()}  # refused for the others
        stages = min(len(channels), MOST_STAGES)
        step = PATCH * STRIDE ** (stages - 1)
        if isinstance(size, bool) or size < 1 or size % step:
            raise ValueError(
                f"image_size: found {size}, expected a multiple of {step} ({PATCH} pixels a patch, {stages} stages, "
                f"each of half the sides), such as {_nearest_multiple(size, step)}, or partitions of one's own"
            )
        return {
            **data,
            "partitions": tuple(size // (PATCH * STRIDE**stage) for stage in range(len(channels))),
        }

    @model_validator(mode="after")
    def _consistent(self) -> RepMLPNet:
        parts = {
            name: len(getattr(self, name)) for name in ("channels", "share_sets", "blocks", "partitions")
        }
        if len(set(parts.values())) != 1 or not 0 < len(self.channels) <= MOST_STAGES:
            raise ValueError(
                "channels, share_sets, blocks and partitions must name the same stages, at least one and at most "
                f"{MOST_STAGES}: found {', '.join(f'{count} {name}' for name, count in parts.items())}"
            )
        for name in parts:
            if min(getattr(self, name)) < 1 or max(getattr(self, name)) > LARGEST:
                raise ValueError(f"{name} {getattr(self, name)}: expected numbers >= 1, at most {LARGEST}")
        for stage, (channels, sets) in enumerate(zip(self.channels, self.share_sets, strict=True), start=1):
            if channels % sets:
                raise ValueError(
                    f"stage {stage}: {sets} share-sets do not divide {channels} channels, expected a divisor such as "
                    f"{nearest_divisor(channels, sets)}"
                )
            if channels < self.reduction:
                raise ValueError(
                    f"stage {stage}: reduction {self.reduction} leaves no neuron of {channels} channels, expected at "
                    f"most {channels}"
                )
        for size in self.local_kernels:
            if size < 1 or size % 2 == 0:
                raise ValueError(f"local kernel {size}: expected an odd size such as {max(size - 1, 1)}")
        if len(set(self.local_kernels)) < len(self.local_kernels):
            raise ValueError(f"local_kernels {self.local_kernels}: expected each size once")
        if self.image_size % self.resolution_step:
            raise ValueError(
                f"image_size: found {self.image_size}, whose maps partitions of {_listed(self.partitions)} do not "
                f"divide: expected a multiple of {self.resolution_step}, such as "
                f"{_nearest_multiple(self.image_size, self.resolution_step)}, or no partitions, one then covers a map"
            )
        return self

    @property
    def stages(self) -> int:
        """How many stages there are."""
        return len(self.channels)

    @property
    def resolution_step(self) -> int:
        """The side of an image is a multiple of this, lest a partition be cut: pixels."""
        sides = (PATCH * STRIDE**stage * part for stage, part in enumerate(self.partitions))
        return math.lcm(*sides)

    def map_size(self, stage: int, image_size: int | None = None) -> int:
        """Height = width of the map in a stage, in positions; `image_size` is native if absent.

        Raises ConfigurationError where the partitions do not divide it.
        """
        size = self.image_size if image_size is None else image_size
        step = self.resolution_step
        if isinstance(size, bool) or size < 1 or size % step:
            raise ConfigurationError(
                f"{self.name}: partitions of {_listed(self.partitions)} do not divide the maps of "
                f"{size} x {size} images; expected a multiple of {step}, such as {_nearest_multiple(size, step)}"
            )
        return size // (PATCH * STRIDE**stage)

    def positions(self, image_size: int | None = None) -> int:
        """Positions of the last stage's map: what one image adds to the prompt of a language model."""
        return self.map_size(self.stages - 1, image_size) ** 2


def _net(
    name: str, image: int, channels: tuple[int, ...], sets: tuple[int, ...], blocks: tuple[int, ...]
) -> RepMLPNet:
    partitions = tuple(image // 4 >> stage for stage in range(4))
    return RepMLPNet(
        name=name, channels=channels, share_sets=sets, blocks=blocks, partitions=partitions, image_size=image
    )


_ALL = (
    _net("repmlpnet-t224", 224, (64, 128, 256, 512), (1, 4, 16, 128), (2, 2, 6, 2)),
    _net("repmlpnet-t256", 256, (64, 128, 256, 512), (1, 4, 16, 128), (2, 2, 6, 2)),
    _net("repmlpnet-b224", 224, (96, 192, 384, 768), (1, 4, 32, 128), (2, 2, 12, 2)),
    _net("repmlpnet-b256", 256, (96, 192, 384, 768), (1, 4, 32, 128), (2, 2, 12, 2)),
    _net("repmlpnet-d256", 256, (80, 160, 320, 640), (1, 4, 16, 128), (2, 2, 18, 2)),
    _net("repmlpnet-l256", 256, (96, 192, 384, 768), (1, 4, 32, 256), (2, 2, 18, 2)),
)
REPMLPNETS: Mapping[str, RepMLPNet] = {net.name: net for net in _ALL}


def get_repmlpnet(network: str | Path | Mapping[str, Any] | RepMLPNet) -> RepMLPNet:
    """A network from a registered name, a path that ends in .toml, a table as in such a file, or itself.

    Raises:
        ConfigurationError: an unknown name, which is answered with the known ones, or sizes that do not fit together.
        DataError: a file that cannot be read.
    """
    if isinstance(network, RepMLPNet):
        return network
    if isinstance(network, Mapping):
        return _define(network, "RepMLPNet")
    if isinstance(network, Path) or names_a_file(network):
        return load_repmlpnet(network)
    return lookup("RepMLPNet", network, REPMLPNETS)


def names_a_file(network: object) -> bool:
    """Whether a text names a network by its file, not as it is registered."""
    return isinstance(network, str) and network.endswith(".toml")


def load_repmlpnet(path: str | os.PathLike[str]) -> RepMLPNet:
    """A network from a TOML file with the fields of `RepMLPNet`, all of them or those that change its `base`.

        name = "three-stages"      # of the file, if not given
        channels = [48, 96, 192]
        share_sets = [2, 8, 48]
        blocks = [2, 4, 2]
        image_size = 128

    Raises:
        DataError: a file that cannot be read, or is no TOML.
        ConfigurationError: sizes that do not fit together, fields that do not exist.
    """
    path = Path(path)
    data = read_toml(path)
    return _define({"name": path.stem, **data}, str(path))


def _define(data: Mapping[str, Any], where: str) -> RepMLPNet:
    try:
        whole = resolve(dict(data), REPMLPNETS, "RepMLPNet")
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: base: {error}") from None
    return RepMLPNet.define(whole, where)


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` that is nearest to `wanted`, the smaller of two."""
    pairs = ((small, number // small) for small in range(1, math.isqrt(number) + 1) if number % small == 0)
    return min((part for pair in pairs for part in pair), key=lambda part: (abs(part - wanted), part))


def _nearest_multiple(number: int, step: int) -> int:
    return max(round(number / step), 1) * step


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def stage_kernels(
    net: RepMLPNet,
    stage: int,
    images: int = 1,
    image_size: int | None = None,
    reparameterized: bool = True,
) -> tuple[Kernel, ...]:
    """The kernels of one stage for `images` images together, in order of execution.

    The embedding first; those of a unit have `count` = the stage's blocks, as if each ran in all units
    before the next; the classifier ends the last stage, as a kernel of its FFN class.

    Args:
        stage: from 0.
        images: encoded together, at least 1.
        image_size: height = width of an image in pixels; native if absent.
        reparameterized: after Locality Injection, else the training form with its local perceptron.

    Raises:
        ConfigurationError: partitions do not divide the maps.
    """
    side = net.map_size(stage, image_size)
    channels, sets, blocks = net.channels[stage], net.share_sets[stage], net.blocks[stage]
    inputs, window = (net.channels[stage - 1], STRIDE) if stage else (net.image_channels, PATCH)
    positions = images * side * side
    neurons = channels // net.reduction
    part = net.partitions[stage] ** 2
    # One row for each image, partition and channel of a share-set.
    parts = positions // part * (channels // sets)
    hidden = net.expansion * channels
    convolution = KernelClass.CONVOLUTION
    kernels = [
        Kernel(convolution, window * window * inputs, channels, positions),
        Kernel(KernelClass.REPMLP_FC1, channels, neurons, images, count=blocks),
        Kernel(KernelClass.REPMLP_FC2, neurons, channels, images, count=blocks, split="inputs"),
    ]
    if not reparameterized:
        # A share-set is convolved with a single filter: one channel in, one out, at every position.
        kernels += [
            Kernel(convolution, k * k, 1, parts * part, groups=sets, count=blocks, taps=k * k)
            for k in net.local_kernels
        ]
    kernels += [
        Kernel(KernelClass.REPMLP_FC3, part, part, parts, groups=sets, count=blocks),
        Kernel(KernelClass.REPMLP_FFN, channels, hidden, positions, count=blocks),
        Kernel(KernelClass.REPMLP_FFN, hidden, channels, positions, count=blocks, split="inputs"),
    ]
    if stage == net.stages - 1:
        kernels.append(Kernel(KernelClass.REPMLP_FFN, channels, net.classes, images))
    return tuple(kernels)


def encode_kernels(
    net: RepMLPNet, images: int = 1, image_size: int | None = None, reparameterized: bool = True
) -> tuple[tuple[Kernel, ...], ...]:
    """The kernels of an encode, stage by stage; see `stage_kernels`."""
    return tuple(
        stage_kernels(net, stage, images, image_size, reparameterized) for stage in range(net.stages)
    )


def macs(net: RepMLPNet, images: int = 1, image_size: int | None = None, reparameterized: bool = True) -> int:
    """Multiply-accumulates of an encode."""
    stages = encode_kernels(net, images, image_size, reparameterized)
    return sum(kernel.macs * kernel.count for stage in stages for kernel in stage)


def parameters(net: RepMLPNet, reparameterized: bool = True) -> int:
    """Learned parameters: weights, biases, and scale and shift of every batch norm.

    Locality Injection takes FC3's batch norm and the local perceptron away and gives FC3 a bias; the batch
    norms of embeddings, units, FFNs and classifier stay.
    """
    total = 0
    inputs, window = net.image_channels, PATCH
    for channels, sets, blocks, partition in zip(
        net.channels, net.share_sets, net.blocks, net.partitions, strict=True
    ):
        neurons, hidden, part = channels // net.reduction, net.expansion * channels, partition**2
        unit = 2 * 2 * channels  # a batch norm before each of the two blocks
        unit += channels * neurons + neurons + neurons * channels + channels
        unit += sets * part**2
        if reparameterized:
            unit += sets * part
        else:
            unit += 2 * sets + sum(sets * k * k + 2 * sets for k in net.local_kernels)
        unit += 2 * channels * hidden + 2 * (hidden + channels)
        total += window * window * inputs * channels + 2 * channels + blocks * unit
        inputs, window = channels, STRIDE
    return total + 2 * inputs + inputs * net.classes + net.classes


def weight_bytes(net: RepMLPNet, reparameterized: bool = True) -> int:
    """Bytes that the network's parameters take in FP16."""
    return FP16_BYTES * parameters(net, reparameterized)
