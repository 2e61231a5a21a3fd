"""The rule for all-reduces among GPUs against measured ones: gpu,gpus,bytes,min_us,median_us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.common.fields import Fields, read_table
from papi_env.hardware.collectives import NCCL, all_reduce_s, nccl_s
from papi_env.hardware.links import NVLINK3, NVLINK4
from papi_env.kernel import FloatArray

FIELDS = ("gpu", "gpus", "bytes", "min_us", "median_us")
MAX_GPUS, MAX_BYTES = 4096, 2**40
_FABRICS = {"a100": NVLINK3, "h100": NVLINK4}
# Ranges of bytes that errors are split by: up to and including.
BYTE_RANGES = {"1 MB": 1e6, "4 MB": 4e6, "16 MB": 16e6, "more": np.inf}


def validate_allreduce(path: Path) -> dict[str, Any]:
    """Compare every row of a file of NCCL's times with NCCL's model, and with the rule for all systems.

    Returns:
        Plain data: `rows`; `mape`, `p95` and `max` of the relative error of `nccl_s` against the lowest times, as
        fractions, and `median` against the median ones; `by` GPU and number, and size. `rule` is `all_reduce_s`
        against the lowest times, which it should undercut on small messages: its measurements are other libraries'.

    Raises:
        DataError: the file is not as expected.
    """
    header, rows = read_table(path)
    header.require(*FIELDS)
    names, counts, *columns = zip(*map(_row, rows), strict=True)
    size, lowest, median = (np.array(column, dtype=np.float64) for column in columns)
    groups = np.array([f"{count} {name}" for name, count in zip(names, counts, strict=True)])
    predicted, rule = np.empty_like(size), np.empty_like(size)
    for name, count in dict.fromkeys(zip(names, counts, strict=True)):
        of = groups == f"{count} {name}"
        predicted[of] = nccl_s(size[of], count, name)
        rule[of] = all_reduce_s(size[of], count, _FABRICS[name])
    ranges = np.array(list(BYTE_RANGES))[np.searchsorted(list(BYTE_RANGES.values()), size)]
    error, rule_error = predicted / lowest - 1, rule / lowest - 1
    return _errors(error) | {
        "median": _errors(predicted / median - 1),
        "by": {"gpus": _split(error, groups), "bytes_up_to": _split(error, ranges)},
        "rule": _errors(rule_error) | {"by": {"bytes_up_to": _split(rule_error, ranges)}},
    }


def _row(fields: Fields) -> tuple[str, int, int, float, float]:
    return (
        fields.one_of("gpu", {name: name for name in NCCL}, fold=str.lower),
        fields.integer("gpus", 2, MAX_GPUS),
        fields.integer("bytes", 1, MAX_BYTES),
        fields.number("min_us") * 1e-6,
        fields.number("median_us") * 1e-6,
    )


def _split(errors: FloatArray, labels: npt.NDArray[np.str_]) -> dict[str, Any]:
    return {label: _errors(errors[labels == label]) for label in dict.fromkeys(labels.tolist())}


def _errors(errors: FloatArray) -> dict[str, Any]:
    """Signed `bias` (median) beside the absolute errors."""
    absolute = np.abs(errors)
    return {
        "rows": len(absolute),
        "mape": float(absolute.mean()),
        "p95": float(np.percentile(absolute, 95)),
        "max": float(absolute.max()),
        "bias": float(np.median(errors)),
    }
