"""The model of FC kernels on GPUs against measured ones, and the fit that gave it its constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.gpus.kernels import KERNELS, KernelRows, read_kernels
from experiments.gpus.search import minimise
from papi_env.errors import DataError
from papi_env.hardware.gpu_kernels import FITTED, KERNEL_CONSTANTS, RANGES, KernelConstants, fc_s
from papi_env.kernel import FP16_BYTES, FloatArray

Mask = npt.NDArray[np.bool_]

# Ranges of tokens that errors are split by: up to and including.
TOKEN_RANGES = (16, 64, 128, 256, 1024)
# The roofline that the model takes the place of: AttAcc's simulator's sustained shares.
ROOFLINE_COMPUTE, ROOFLINE_MEMORY = 0.80, 0.85
# Constants that differ by factors are sought on a logarithmic scale.
_LOGARITHMIC = ("start_s", "l2_bandwidth", "choice")
_EVALUATIONS = 1200


def predict(rows: KernelRows, constants: Mapping[str, KernelConstants]) -> FloatArray:
    """Seconds [N, 4] of every kernel by the model, at its card's own bandwidth."""
    return _by_gpu(
        rows, lambda gpu, part: fc_s(constants[gpu], part.tokens[:, None], part.outputs, part.inputs)
    )


def roofline(rows: KernelRows) -> FloatArray:
    """Seconds [N, 4] by fixed shares of the card's peak and bandwidth, the larger time of the two."""

    def of(gpu: str, part: KernelRows) -> FloatArray:
        card, tokens = KERNEL_CONSTANTS[gpu], part.tokens[:, None]
        weights = part.inputs * part.outputs
        size = (weights + tokens * (part.inputs + part.outputs)) * FP16_BYTES
        compute = 2 * tokens * weights / (card.peak_flops * ROOFLINE_COMPUTE)
        return np.maximum(compute, size / (card.memory_bandwidth * ROOFLINE_MEMORY))

    return _by_gpu(rows, of)


def _by_gpu(rows: KernelRows, seconds: Callable[[str, KernelRows], FloatArray]) -> FloatArray:
    result = np.empty(rows.seconds.shape)
    for gpu in np.unique(rows.gpu):
        lines = rows.gpu == gpu
        result[lines] = seconds(str(gpu), rows.where(lines))
    return result


def validate_kernels(path: Path, gpu: str | None = None, *, refit: bool = False) -> dict[str, Any]:
    """Compare every kernel of a file with the model.

    Args:
        path: CSV file; see `experiments.gpus.kernels.read_kernels`.
        gpu: the card, for a file that does not say it.
        refit: fit the constants on the file, and show the errors on lines left out of the fit.

    Returns:
        Plain data. `rows` kernels with `mape`, `p95` and `max` of the relative error, as fractions; `sums` the
        same for the four kernels of a line together; `by` what they are split by; `roofline` what fixed shares
        of the peaks miss. With `refit`, the constants in use and fitted, and `left_out`: errors on the lines of
        one tensor parallelism, or one model, by constants fitted on all others.

    Raises:
        DataError: the file is not as expected.
        ConfigurationError: `gpu` is not known.
    """
    rows = read_kernels(path, gpu)
    seconds = predict(rows, KERNEL_CONSTANTS)
    result = _summary(rows, seconds)
    result["by"] = {
        name: {label: _summary(rows, seconds, labels == label) for label in dict.fromkeys(labels.tolist())}
        for name, labels in {
            "gpu": rows.gpu,
            "model": rows.model,
            "tp": rows.tp.astype(str),
            "n": _token_ranges(rows.tokens),
        }.items()
    }
    result["by"]["kernel"] = {
        name: _errors(seconds[:, at] / rows.seconds[:, at] - 1) for at, name in enumerate(KERNELS)
    }
    result["roofline"] = _summary(rows, roofline(rows))
    if refit:
        result["constants"] = {
            name: {"used": _plain(KERNEL_CONSTANTS[name]), "fitted": _plain(constants)}
            for name, constants in fit_all(rows).items()
        }
        result["left_out"] = {"tp": _left_out(rows, rows.tp), "model": _left_out(rows, rows.model)}
    return result


def _token_ranges(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.str_]:
    """The range [N] that each number of tokens falls in."""
    first = (1, *(last + 1 for last in TOKEN_RANGES))
    labels = [f"{low}-{high}" for low, high in zip(first, TOKEN_RANGES, strict=False)] + [f"{first[-1]}-"]
    return np.array(labels)[np.searchsorted(TOKEN_RANGES, tokens)]


def _summary(rows: KernelRows, seconds: FloatArray, lines: Mask | None = None) -> dict[str, Any]:
    """Errors over single kernels, and over the sums of each line."""
    of = np.ones(len(rows), dtype=bool) if lines is None else lines
    measured, predicted = rows.seconds[of], seconds[of]
    sums = predicted.sum(axis=1) / measured.sum(axis=1) - 1
    return _errors(predicted / measured - 1) | {"sums": _errors(sums)}


def _errors(errors: FloatArray) -> dict[str, Any]:
    absolute = np.abs(errors)
    return {
        "rows": absolute.size,
        "mape": float(absolute.mean()),
        "p95": float(np.percentile(absolute, 95)),
        "max": float(absolute.max()),
    }


def _plain(constants: KernelConstants) -> dict[str, float]:
    return {name: float(f"{getattr(constants, name):.4g}") for name in FITTED}


# --- the fit ---------------------------------------------------------------------------------------


def fit_all(rows: KernelRows) -> dict[str, KernelConstants]:
    """The constants of each GPU in the file, fitted on its lines."""
    return {str(gpu): fit(str(gpu), rows.where(rows.gpu == gpu)) for gpu in np.unique(rows.gpu)}


def fit(gpu: str, rows: KernelRows) -> KernelConstants:
    """The constants in their ranges with the least `loss` on one GPU's lines; the data sheet stays."""
    card = KERNEL_CONSTANTS[gpu]

    def scaled(name: str, values: tuple[float, float]) -> FloatArray:
        return np.log(values) if name in _LOGARITHMIC else np.array(values)

    low, high = np.array([scaled(name, RANGES[name]) for name in FITTED]).T

    def constants(point: FloatArray) -> KernelConstants:
        # Rounding may leave the range by a bit.
        found: dict[str, Any] = {}
        for name, value in zip(FITTED, low + point * (high - low), strict=True):
            value = np.exp(value) if name in _LOGARITHMIC else value
            found[name] = float(np.clip(value, *RANGES[name]))
        return replace(card, **found)

    def objective(point: FloatArray) -> float:
        return loss(rows, fc_s(constants(point), rows.tokens[:, None], rows.outputs, rows.inputs))

    return constants(minimise(objective, np.full(len(FITTED), 0.5), evaluations=_EVALUATIONS))


def loss(rows: KernelRows, seconds: FloatArray) -> float:
    """What the fit makes small: mean and 95th percentile of single kernels, and a little of those of sums."""
    found = _summary(rows, seconds)
    sums = found["sums"]
    return float(found["mape"] + 0.1 * found["p95"] + 0.2 * sums["mape"] + 0.05 * sums["p95"])


def _left_out(rows: KernelRows, groups: npt.NDArray[Any]) -> dict[str, Any]:
    """Errors on each group by constants fitted on the others, per group and `all` together."""
    labels = np.unique(groups)
    for gpu in np.unique(rows.gpu):
        found = np.unique(groups[rows.gpu == gpu]).tolist()
        if len(found) < 2:
            raise DataError(f"--refit: found {found} alone for {gpu}, expected at least two to leave one out")
    seconds = np.empty(rows.seconds.shape)
    for label in labels:
        out = groups == label
        seconds[out] = predict(rows.where(out), {**KERNEL_CONSTANTS, **fit_all(rows.where(~out))})
    parts = {str(label): _summary(rows, seconds, groups == label) for label in labels}
    by_gpu = {str(gpu): _summary(rows, seconds, rows.gpu == gpu) for gpu in np.unique(rows.gpu)}
    return {"all": _summary(rows, seconds), "gpu": by_gpu, "groups": parts}
