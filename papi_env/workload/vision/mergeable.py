"""What of a block Locality Injection knows how to merge; all else is refused by name, not dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from papi_env.errors import ConfigurationError, shown
from papi_env.workload.vision.injection import BatchNorm

# What torch keeps of functions that a module calls around its own; merged layers would not.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def check_layers(
    where: str,
    fc3: nn.Module,
    fc3_norm: nn.Module,
    branches: Iterable[tuple[str, nn.Module, nn.Module]],
    sets: int,
) -> None:
    """Raise ConfigurationError for the first part of a block that a merge would leave out.

    Args:
        where: the block.
        fc3, fc3_norm: its grouped 1x1 convolution and batch norm.
        branches: name, convolution and batch norm of each branch of the local perceptron.
        sets: share-sets, which both are grouped by.
    """
    _check(f"{where}.fc3", fc3, {"kernel_size": (1, 1), "stride": (1, 1), "padding": (0, 0), "groups": sets})
    _check_norm(f"{where}.fc3_bn", fc3_norm)
    for name, convolution, norm in branches:
        at = f"{where}.{name}.conv"
        sizes = getattr(convolution, "kernel_size", (1, 1))
        if any(size % 2 == 0 for size in sizes):
            raise _refusal(at, "kernel_size", sizes, "odd sizes")
        same = {"stride": (1, 1), "padding": tuple(size // 2 for size in sizes), "groups": sets}
        _check(at, convolution, {**same, "dilation": (1, 1), "padding_mode": "zeros"})
        _check_norm(f"{where}.{name}.bn", norm)


def _check(where: str, layer: nn.Module, expected: Mapping[str, Any]) -> None:
    if type(layer) is not nn.Conv2d and not _parametrized(layer):
        raise _refusal(where, "type", type(layer).__name__, "Conv2d")
    for name, value in expected.items():
        found = getattr(layer, name)
        if found == "same" and name == "padding":
            continue  # with stride 1 half of an odd size, as expected
        if found != value:
            raise _refusal(where, name, found, value)
    _check_hooks(where, layer)


def _check_norm(where: str, norm: nn.Module) -> None:
    if not isinstance(norm, BatchNorm):
        raise _refusal(where, "type", type(norm).__name__, "a batch norm")
    _check_hooks(where, norm)


def _check_hooks(where: str, layer: nn.Module) -> None:
    for name in _HOOKS:
        if getattr(layer, name, None):
            raise _refusal(where, name.lstrip("_"), f"{len(getattr(layer, name))} of them", "none")


def _parametrized(layer: nn.Module) -> bool:
    """Whether it is a convolution whose weight is worked out from others, and reads as any."""
    return isinstance(layer, nn.Conv2d) and hasattr(layer, "parametrizations")


def _refusal(where: str, name: str, found: object, expected: object) -> ConfigurationError:
    said = found if isinstance(found, str) else shown(found)
    return ConfigurationError(
        f"Locality Injection: {where}: {name}: found {said}, expected {expected}: it would change what is computed"
    )
