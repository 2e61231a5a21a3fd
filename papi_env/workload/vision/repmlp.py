"""RepMLPNet in torch: the network whose FC3 kernels `vision.py` counts, in training and in deploy form.

    network = create_repmlpnet("repmlpnet-b224").eval()
    network.locality_injection()        # training form to deploy form, in place

Training form: next to each FC3 stand a batch norm and a local perceptron of convolutions. Deploy form: FC3 alone,
with a bias, computes the same (`locality_injection.py` has the algebra). Parameters are named as in the released
checkpoints of RepMLPNet (Ding et al., CVPR 2022), which load in either form; `weights.py` reads them.

Feature maps are [images, channels, height, width]. Needs torch, which `import papi_env` does not.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from papi_env.errors import ConfigurationError
from papi_env.workload.vision.injection import BatchNorm, merged_fc3
from papi_env.workload.vision.mergeable import check_layers
from papi_env.workload.vision.network import PATCH, STRIDE, RepMLPNet, get_repmlpnet, names_a_file

AnyModule = TypeVar("AnyModule", bound=nn.Module)


class ConvBatchNorm(nn.Module):
    """A convolution without bias and its batch norm; `relu` clips the result at 0."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H', W']."""
        y: Tensor = self.bn(self.conv(x))
        return y.relu() if self.relu else y


class GlobalPerceptron(nn.Module):
    """A factor in 0..1 for each channel, from the means of all of them: FC1, ReLU, FC2, sigmoid."""

    def __init__(self, channels: int, neurons: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, neurons, 1)
        self.fc2 = nn.Conv2d(neurons, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to [N, channels, 1, 1]."""
        means = x.mean((2, 3), keepdim=True)
        factors: Tensor = self.fc2(self.fc1(means).relu())
        return factors.sigmoid()


class RepMLPBlock(nn.Module):
    """Global, channel and (in training form) local perceptron over the partitions of a map.

    The map is cut into partitions of h x w. Channel c belongs to share-set c mod S; FC3 multiplies each of its
    flattened partitions by the set's (h w) x (h w) matrix. N maps of C channels with P partitions make N P C/S
    rows of S h w: FC3 runs as a 1x1 convolution with S groups. The local perceptron convolves the same
    partitions, padded with zeros at *their* borders, with one kernel for each set.

    Every partition returns to its place. (The released code, run on several partitions where S < C, takes the
    rows in another order and puts parts elsewhere; on one partition, as its networks were trained, both agree.)

    Args:
        channels: C.
        partition: h and w, positions.
        share_sets: S, which divides C.
        local_kernels: odd sizes of the convolutions, each once; any size, beyond the partition's too.
        reduction: channels over neurons of the global perceptron.
        deploy: build the deploy form, which has no local perceptron, whatever `local_kernels` says.

    Raises ConfigurationError for arguments other than these.
    """

    def __init__(
        self,
        channels: int,
        partition: tuple[int, int],
        share_sets: int = 1,
        local_kernels: Sequence[int] = (1, 3),
        reduction: int = 4,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        _check_block(channels, partition, share_sets, local_kernels, reduction)
        self.partition = partition
        self.share_sets = share_sets
        self.local_kernels = () if deploy else tuple(local_kernels)
        width = share_sets * math.prod(partition)
        self.gp = GlobalPerceptron(channels, channels // reduction)
        self.fc3 = nn.Conv2d(width, width, 1, groups=share_sets, bias=deploy)
        self.fc3_bn: nn.Module = nn.Identity() if deploy else nn.BatchNorm2d(share_sets)
        for size in self.local_kernels:
            branch = ConvBatchNorm(share_sets, share_sets, size, padding=size // 2, groups=share_sets)
            setattr(self, f"repconv{size}", branch)

    @property
    def deploy(self) -> bool:
        """Whether FC3 stands alone: built so, or after Locality Injection."""
        return isinstance(self.fc3_bn, nn.Identity)

    def local_branches(self) -> Iterator[ConvBatchNorm]:
        """The convolutions of the local perceptron; none in deploy form."""
        for size in self.local_kernels:
            branch = self.get_submodule(f"repconv{size}")
            assert isinstance(branch, ConvBatchNorm)
            yield branch

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same shape. Raises ConfigurationError where the partitions do not divide H and W."""
        images, channels, map_height, map_width = x.shape
        height, width = self.partition
        if map_height % height or map_width % width or not map_height or not map_width:
            raise ConfigurationError(
                f"RepMLP block: partitions of {height} x {width} do not divide a map of {map_height} x {map_width}; "
                f"expected multiples of {height} and {width}"
            )
        down, across = map_height // height, map_width // width
        shared = channels // self.share_sets
        rows = images * down * across * shared
        # [N, C/S, S, down, h, across, w] to a row for each image, partition and C/S
        parts = x.reshape(images, shared, self.share_sets, down, height, across, width)
        parts = parts.permute(0, 3, 5, 1, 2, 4, 6).reshape(rows, self.share_sets, height, width)
        y: Tensor = self.fc3(parts.reshape(rows, self.share_sets * height * width, 1, 1))
        y = self.fc3_bn(y.reshape(parts.shape))
        for branch in self.local_branches():
            y = y + branch(parts)
        y = y.reshape(images, down, across, shared, self.share_sets, height, width)
        y = y.permute(0, 3, 4, 1, 5, 2, 6).reshape(x.shape)
        return y * self.gp(x)

    def locality_injection(self) -> None:
        """Merge batch norm and local perceptron into FC3, in place (see `inject_locality`)."""
        inject_locality(self)

    def _check_layers(self, name: str) -> None:
        """Raise ConfigurationError for what the merge does not know."""
        layers = []
        for size in self.local_kernels:
            branch = f"repconv{size}"
            module = self.get_submodule(branch)
            if not isinstance(module, ConvBatchNorm) or module.relu:
                raise ConfigurationError(
                    f"Locality Injection: {name}.{branch}: found {type(module).__name__}"
                    f"{' with ReLU' if getattr(module, 'relu', False) else ''}, expected a ConvBatchNorm without"
                )
            layers.append((branch, module.conv, module.bn))
        check_layers(name, self.fc3, self.fc3_bn, layers, self.share_sets)

    def _merged(self) -> tuple[Tensor, Tensor]:
        """FC3's weight and bias in deploy form, of the weight's dtype and device."""
        assert isinstance(self.fc3_bn, BatchNorm)
        branches = [(branch.conv, branch.bn) for branch in self.local_branches()]
        weight, bias = merged_fc3(self.fc3, self.fc3_bn, branches, self.partition)
        return weight.to(self.fc3.weight), bias.to(self.fc3.weight)

    def _adopt(self, weight: Tensor, bias: Tensor) -> None:
        """Become the deploy form with that FC3."""
        trained = self.fc3.weight.requires_grad
        width = self.fc3.in_channels
        # On the meta device the new layer costs no memory and no initialisation before it gets its tensors.
        fc3 = nn.Conv2d(width, width, 1, groups=self.share_sets, bias=True, device="meta")
        fc3.weight = nn.Parameter(weight, requires_grad=trained)
        fc3.bias = nn.Parameter(bias, requires_grad=trained)
        self.fc3 = fc3.train(self.training)
        self.fc3_bn = nn.Identity().train(self.training)
        for size in self.local_kernels:
            delattr(self, f"repconv{size}")
        self.local_kernels = ()


class FFNBlock(nn.Module):
    """Two 1x1 convolutions with batch norms, GELU between them: each position by itself."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.ffn_fc1 = ConvBatchNorm(channels, channels * expansion)
        self.ffn_fc2 = ConvBatchNorm(channels * expansion, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to the same shape."""
        y: Tensor = self.ffn_fc2(nn.functional.gelu(self.ffn_fc1(x)))
        return y


class RepMLPUnit(nn.Module):
    """y = x + RepMLP(BN(x)), then y + FFN(BN(y)); arguments as of `RepMLPBlock`."""

    def __init__(
        self,
        channels: int,
        partition: tuple[int, int],
        share_sets: int,
        local_kernels: Sequence[int],
        reduction: int,
        expansion: int,
        deploy: bool,
    ) -> None:
        super().__init__()
        self.repmlp_block = RepMLPBlock(channels, partition, share_sets, local_kernels, reduction, deploy)
        self.ffn_block = FFNBlock(channels, expansion)
        self.prebn1 = nn.BatchNorm2d(channels)
        self.prebn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] to the same shape."""
        y: Tensor = x + self.repmlp_block(self.prebn1(x))
        return y + self.ffn_block(self.prebn2(y))


class RepMLPNetwork(nn.Module):
    """A `RepMLPNet` as a torch network: patch embedding, stages with embeddings between them, head.

    Args:
        spec: the network's shape, kept as `self.spec`.
        deploy: build the deploy form.
    """

    def __init__(self, spec: RepMLPNet, deploy: bool = False) -> None:
        super().__init__()
        self.spec = spec
        channels = spec.channels
        self.conv_embedding = ConvBatchNorm(spec.image_channels, channels[0], PATCH, stride=PATCH, relu=True)
        self.stages = nn.ModuleList()
        for stage, blocks in enumerate(spec.blocks):
            units = [
                RepMLPUnit(
                    channels[stage],
                    (spec.partitions[stage], spec.partitions[stage]),
                    spec.share_sets[stage],
                    spec.local_kernels,
                    spec.reduction,
                    spec.expansion,
                    deploy,
                )
                for _ in range(blocks)
            ]
            self.stages.append(nn.ModuleList(units))
        self.embeds = nn.ModuleList(
            ConvBatchNorm(inputs, outputs, STRIDE, stride=STRIDE, relu=True)
            for inputs, outputs in itertools.pairwise(channels)
        )
        self.head_norm = nn.BatchNorm2d(channels[-1])
        self.head = nn.Linear(channels[-1], spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        """[N, image_channels, H, W], normalised, to logits [N, classes].

        Raises ConfigurationError for images of other channels, or of sides that the partitions do not divide.
        """
        if images.ndim != 4 or images.shape[1] != self.spec.image_channels:
            raise ConfigurationError(
                f"{self.spec.name}: found images of shape {list(images.shape)}, "
                f"expected [images, {self.spec.image_channels}, height, width]"
            )
        for side in images.shape[2:]:
            self.spec.map_size(0, side)
        x: Tensor = self.conv_embedding(images)
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, nn.ModuleList)
            for unit in stage:
                x = unit(x)
            if index < len(self.embeds):
                x = self.embeds[index](x)
        logits: Tensor = self.head(self.head_norm(x).mean((2, 3)))
        return logits

    def locality_injection(self) -> None:
        """Training form to deploy form, in place, all blocks or none (see `inject_locality`)."""
        inject_locality(self)


def create_repmlpnet(network: str | Path | RepMLPNet, deploy: bool = False) -> RepMLPNetwork:
    """A RepMLPNet with fresh weights.

    Args:
        network: a registered name, in any case ("repmlpnet-t224", "RepMLPNet-T224"), the path of a .toml file, or a
            spec of one's own.
        deploy: build the deploy form: FC3 with a bias, no batch norm after it and no local perceptron.

    Raises:
        ConfigurationError: an unknown name, which is answered with the known ones, or a file of no network.
        DataError: a file that cannot be read.
    """
    if isinstance(network, str) and not names_a_file(network):
        network = network.lower()
    return RepMLPNetwork(get_repmlpnet(network), deploy)


@torch.no_grad()
def inject_locality(module: nn.Module) -> None:
    """Merge the local perceptrons of all `RepMLPBlock`s in a module into their FC3s, in place.

    Afterwards the module, in evaluation, computes what it did before up to rounding: the merge is done in
    float64 and cast to the parameters' dtype. All blocks merge, or, on any error, none. FC3 becomes a new layer:
    its parameters ask for gradients where the old weight did; optimizers and hooks on it must be made anew.

    Raises ConfigurationError for a module that holds no block, holds one in deploy form already (a second run)
    or in training mode, where batch norms do not yet have the statistics that would be merged; and for a
    merged FC3 that is not finite in the parameters' dtype.
    """
    blocks = _mergeable(module)
    merged = []
    for name, block in blocks.items():
        weight, bias = block._merged()
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise ConfigurationError(
                f"Locality Injection: {name}: the merged FC3 is not finite in {weight.dtype}; expected finite "
                "weights, and running variances >= 0"
            )
        merged.append((weight, bias))
    for block, (weight, bias) in zip(blocks.values(), merged, strict=True):
        block._adopt(weight, bias)


def locality_injected(module: AnyModule) -> AnyModule:
    """A deep copy of the module after `inject_locality`, which has the errors; the module itself stays."""
    _mergeable(module)  # before the cost of a copy
    result = copy.deepcopy(module)
    inject_locality(result)
    return result


def _mergeable(module: nn.Module) -> dict[str, RepMLPBlock]:
    """The blocks of a module by their names in it, if all of them can be merged."""
    named = module.named_modules()
    blocks = {name or "the block": block for name, block in named if isinstance(block, RepMLPBlock)}
    if not blocks:
        raise ConfigurationError(
            f"Locality Injection: found no RepMLPBlock in {type(module).__name__}, expected one"
        )
    done = [name for name, block in blocks.items() if block.deploy]
    if done:
        raise ConfigurationError(
            f"Locality Injection: {_some(done)}: found deploy form, expected training form; it runs once"
        )
    training = [name for name, block in blocks.items() if any(part.training for part in block.modules())]
    if training:
        raise ConfigurationError(
            f"Locality Injection: {_some(training)}: found training mode, expected evaluation; call eval() first"
        )
    for name, block in blocks.items():
        block._check_layers(name)
    return blocks


def _some(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _check_block(
    channels: int, partition: tuple[int, int], share_sets: int, local_kernels: Sequence[int], reduction: int
) -> None:
    where = "RepMLP block"
    for name, value in (("channels", channels), ("share_sets", share_sets), ("reduction", reduction)):
        if not _whole(value):
            raise ConfigurationError(f"{where}: {name}: found {value!r}, expected a whole number >= 1")
    if not isinstance(partition, tuple) or len(partition) != 2 or not all(map(_whole, partition)):
        raise ConfigurationError(
            f"{where}: partition: found {partition!r}, expected (height, width), each >= 1"
        )
    if channels % share_sets:
        close = max(sets for sets in range(1, share_sets) if channels % sets == 0)
        raise ConfigurationError(
            f"{where}: share_sets: found {share_sets}, which do not divide {channels} channels; "
            f"expected a divisor, such as {close}"
        )
    if reduction > channels:
        raise ConfigurationError(
            f"{where}: reduction: found {reduction}, expected at most the {channels} channels"
        )
    for size in local_kernels:
        if not _whole(size) or size % 2 == 0:
            raise ConfigurationError(f"{where}: local_kernels: found {size!r}, expected odd sizes >= 1")
    if len(set(local_kernels)) != len(local_kernels):
        raise ConfigurationError(
            f"{where}: local_kernels: found {tuple(local_kernels)}, expected each size once"
        )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
