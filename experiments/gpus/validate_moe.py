"""Experts on PUs against a measured block: tokens,activated_experts,time_us of Qwen3-30B-A3B on one RTX PRO 6000.

How the tokens were divided among the activated experts the file does not say; here, evenly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.common.fields import Fields, read_table
from papi_env.errors import DataError
from papi_env.hardware.experts import GROUPED, ExpertLayer, GroupedKernels, pu_expert_s
from papi_env.hardware.gpus import get_gpu
from papi_env.hardware.units import ProcessingUnit
from papi_env.kernel import FloatArray
from papi_env.workload.routing import routing_of
from papi_env.workload.transformer import get_transformer

FIELDS = ("tokens", "activated_experts", "time_us")
GPU, MODEL = "rtx-pro-6000", "qwen3-30b-a3b"
MAX_TOKENS = 2**20
# The grid of a fit; chosen: steps of half a microsecond and a hundredth.
_STARTS, _SHARES = np.arange(0, 40.5, 0.5) * 1e-6, np.arange(40, 101) / 100

Counts = npt.NDArray[np.int64]


def validate_moe(path: Path, *, refit: bool = False) -> dict[str, Any]:
    """Compare every row of a file with the formula of experts on PUs.

    Args:
        path: CSV file with the columns `FIELDS`.
        refit: find both constants with the least mean error on the file, beside those in use.

    Returns:
        Plain data: `rows`; `mape`, `p95`, `max` and `bias` (median, signed) of the relative error, as fractions; `by`
        activated experts; with `refit` the `constants` used and fitted, with the errors of the latter.

    Raises:
        DataError: the file is not as expected.
    """
    layer, unit = _layer(), get_gpu(GPU)
    header, rows = read_table(path)
    header.require(*FIELDS)
    tokens, activated, measured = (
        np.array(column) for column in zip(*(_row(f, layer) for f in rows), strict=True)
    )
    error = predict(unit, layer, tokens, activated) / measured - 1
    result = _errors(error)
    result["by"] = {
        "activated_experts": {str(k): _errors(error[activated == k]) for k in np.unique(activated).tolist()}
    }
    if refit:
        fitted = min(
            (GroupedKernels(float(start), float(share)) for start in _STARTS for share in _SHARES),
            key=lambda grouped: np.abs(
                predict(unit, layer, tokens, activated, grouped) / measured - 1
            ).mean(),
        )
        found = _errors(predict(unit, layer, tokens, activated, fitted) / measured - 1)
        result["constants"] = {"used": vars(GROUPED), "fitted": vars(fitted) | found}
    return result


def predict(
    unit: ProcessingUnit,
    layer: ExpertLayer,
    tokens: Counts,
    activated: Counts,
    grouped: GroupedKernels = GROUPED,
) -> FloatArray:
    """Seconds [rows] of a layer whose tokens are divided evenly among so many of its experts."""
    least, more = np.divmod(tokens * layer.active, activated)
    fewer = (activated - more) * pu_expert_s(unit, layer, least, grouped)
    return np.asarray(grouped.start_s + fewer + more * pu_expert_s(unit, layer, least + 1, grouped))


def _layer() -> ExpertLayer:
    routing = routing_of(get_transformer(MODEL))
    assert routing is not None
    return routing.layer


def _row(fields: Fields, layer: ExpertLayer) -> tuple[int, int, float]:
    tokens = fields.integer("tokens", 1, MAX_TOKENS)
    activated = fields.integer("activated_experts", layer.active, layer.experts)
    if activated > tokens * layer.active:
        raise DataError(
            f"{fields.path}:{fields.line}: field 'activated_experts': found {activated} experts for {tokens} tokens, "
            f"expected at most {tokens * layer.active}: {layer.active} of {layer.experts} a token"
        )
    return tokens, activated, fields.number("time_us") * 1e-6


def _errors(errors: FloatArray) -> dict[str, Any]:
    absolute = np.abs(errors)
    return {
        "rows": len(absolute),
        "mape": float(absolute.mean()),
        "p95": float(np.percentile(absolute, 95)),
        "max": float(absolute.max()),
        "bias": float(np.median(errors)),
    }
