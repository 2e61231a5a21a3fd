"""Locality Injection on tensors: batch norms and convolutions that become part of a matrix.

A convolution is linear. Run on the images of a partition that are 1 at one position and 0 elsewhere (the
identity), it gives the matrix that it multiplies a flattened partition by. That matrix, added to FC3's, does
the convolution's work, and no convolution is left to run. Source: RepMLPNet (Ding et al., CVPR 2022).

The identity need not be convolved: element (i, j) of a kernel stands in the matrix wherever an input position
lies (i, j) minus the kernel's centre away from the output position, and nowhere else. `add_convolution` adds it
there, so the matrix is exact for every kernel size, beyond the partition's own size too.

`randomize_statistics` and `relative_difference` measure that a merged network computes what it did.
`papi_env.workload.vision.repmlp` holds the network, its blocks, and the merging of whole modules.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from papi_env.errors import ConfigurationError

AnyModule = TypeVar("AnyModule", bound=nn.Module)
# The class of batch norms of every kind, synchronised ones too, which torch has no public name for.
BatchNorm = nn.modules.batchnorm._BatchNorm


def fold_batch_norm(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation as y = scale * x + shift.

    Returns scale and shift, float64 on the CPU, shape [features].
    Raises ConfigurationError for a batch norm that keeps no running statistics: it has no such form.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ConfigurationError(
            "a batch norm without running statistics cannot be merged: found track_running_stats=False, expected True"
        )
    scale = torch.rsqrt(_exact(norm.running_var) + norm.eps)
    if norm.weight is not None:
        scale = scale * _exact(norm.weight)
    shift = -_exact(norm.running_mean) * scale
    if norm.bias is not None:
        shift = shift + _exact(norm.bias)
    return scale, shift


def add_convolution(matrix: Tensor, kernel: Tensor) -> None:
    """Add, in place, the matrices of a depth-wise convolution with zero padding of half its size.

    Args:
        matrix: [sets, height, width, height, width]: from an output position (first two) to an input position.
        kernel: [sets, k, l], k and l odd, of the matrix's dtype: a kernel for each set.
    """
    _, height, width, _, _ = matrix.shape
    _, rows, columns = kernel.shape
    for i in range(rows):
        down = i - rows // 2
        if abs(down) >= height:  # reads nothing but padding
            continue
        # [sets, width out, width in, pairs of lines that lie `down` apart]
        lines = matrix.diagonal(down, 1, 3)
        for j in range(columns):
            right = j - columns // 2
            if abs(right) < width:
                lines.diagonal(right, 1, 2).add_(kernel[:, i, j, None, None])


def merged_fc3(
    fc3: nn.Conv2d,
    fc3_norm: BatchNorm,
    branches: Iterable[tuple[nn.Conv2d, BatchNorm]],
    partition: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Weight and bias with which FC3 alone gives batch norm(FC3(x)) + the sum of batch norm(convolution(x)).

    Args:
        fc3: the grouped 1x1 convolution of share-sets x (h w) channels.
        fc3_norm: its batch norm, over the share-sets.
        branches: depth-wise convolutions over the share-sets, each with its batch norm.
        partition: h and w.

    Returns:
        weight [share-sets h w, h w, 1, 1] and bias [share-sets h w], float64 on the CPU, which every machine has
        (not every accelerator does).
    """
    height, width = partition
    scale, shift = fold_batch_norm(fc3_norm)
    sets = len(scale)
    matrix = _exact(fc3.weight).reshape(sets, height, width, height, width) * scale.reshape(-1, 1, 1, 1, 1)
    for convolution, norm in branches:
        branch_scale, branch_shift = fold_batch_norm(norm)
        add_convolution(matrix, _exact(convolution.weight).squeeze(1) * branch_scale.reshape(-1, 1, 1))
        shift = shift + branch_shift
        if convolution.bias is not None:
            shift = shift + _exact(convolution.bias) * branch_scale
    bias = shift.repeat_interleave(height * width)
    if fc3.bias is not None:
        bias = bias + _exact(fc3.bias) * scale.repeat_interleave(height * width)
    return matrix.reshape(fc3.weight.shape), bias


def randomize_statistics(module: AnyModule, seed: int) -> AnyModule:
    """Give every batch norm statistics and affine parameters, and every other layer a bias, as after training.

    A fresh network has means 0, variances 1, scales 1 and shifts 0, on which a wrong merge may look right. In
    place; the same seed gives the same numbers in every dtype, up to rounding. Weights stay as they are.

    Chosen: running means in ±0.5, variances in 0.5..2, scales in 0.5..1.5 (a tenth of them negative), shifts
    and biases in ±0.25: far enough from a fresh network's for every term to matter, and near enough for
    the activations of all six networks to keep their order of magnitude.

    Returns: the module itself.
    """
    generator = torch.Generator().manual_seed(seed)

    def fill(tensor: Tensor | None, low: float, high: float, negative: float = 0.0) -> None:
        if tensor is None:
            return
        values = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low
        signs = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) < negative
        tensor.copy_(torch.where(signs, -values, values))

    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, BatchNorm):
                fill(layer.running_mean, -0.5, 0.5)
                fill(layer.running_var, 0.5, 2.0)
                fill(layer.weight, 0.5, 1.5, negative=0.1)
                fill(layer.bias, -0.25, 0.25)
            elif isinstance(layer, (nn.Conv2d, nn.Linear)):
                fill(layer.bias, -0.25, 0.25)
    return module


def relative_difference(before: nn.Module, after: nn.Module, images: Tensor) -> float:
    """max |after(images) - before(images)| / max |before(images)|: 0 when nothing changed, NaN where one is NaN.

    Raises ConfigurationError in training mode, where batch norms follow the batch, and for outputs that cannot
    be compared: unlike shapes, or all zeros before.
    """
    for name, module in (("before", before), ("after", after)):
        if any(part.training for part in module.modules()):
            raise ConfigurationError(f"{name}: found training mode, expected evaluation; call eval() first")
    with torch.no_grad():
        expected, found = before(images), after(images)
    if expected.shape != found.shape:
        raise ConfigurationError(
            f"outputs of shapes {list(expected.shape)} and {list(found.shape)}: expected one"
        )
    expected, found = _exact(expected), _exact(found)
    largest = expected.abs().max().item() if expected.numel() else 0.0
    if largest == 0.0:
        raise ConfigurationError(
            "before: found no output other than 0, to which a difference could be relative"
        )
    return (found - expected).abs().max().item() / largest


def _exact(tensor: Tensor) -> Tensor:
    """The tensor's values in float64 on the CPU, apart from the graph."""
    return tensor.detach().to("cpu", torch.float64)
