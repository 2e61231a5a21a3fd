"""The hardware model against AttAcc's output columns: relative errors, nothing fitted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.attacc import counterpart, simulate
from experiments.attacc.grid import COMPONENTS, ENERGY, ITERATION, PREFILL, GridRow, read_grid
from papi_env.errors import ConfigurationError

# What is predicted under the first column is compared with AttAcc's figure under the second.
TARGETS = {
    "iteration": (ITERATION, ITERATION),
    "prefill": (PREFILL, PREFILL),
    "energy": (ENERGY, ENERGY),
    "dynamic_energy": (counterpart.DYNAMIC_ENERGY, ENERGY),
}
NOT_MODELLED = ("norms", "activation functions", "softmax on GPUs")

# A row, and what is predicted for it by column (ms, nJ).
Prediction = tuple[GridRow, Mapping[str, float]]


def validate_grid(path: Path, compatible: bool) -> dict[str, Any]:
    """Compare every row of a file with AttAcc's columns with a prediction of it.

    Args:
        path: CSV file; see `experiments.attacc.grid.read_grid`.
        compatible: predict by AttAcc's equations and assumptions instead of papi_env's own model.

    Returns:
        Plain data. `rows`; `iteration`, `prefill` and `energy` with `mape`, `p95` and `max` of the relative
        error, as fractions; the same for rows that AttAcc's memory holds (`fits`) and does not
        (`does_not_fit`), and `by` the values of some columns. `components` has errors of single columns over
        rows where AttAcc's is not 0. With papi_env's own model, beside every `energy`, which includes static
        power, stands `dynamic_energy`, which does not; `left_out` counts rows by what of them it does not
        model, and `not_modelled` is what it leaves out of all rows.

    Raises:
        DataError: the file is not as expected.
        ConfigurationError: papi_env models none of its rows.
    """
    rows = read_grid(path)
    predictions: list[Prediction] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        try:
            columns = simulate.simulate(row.run) if compatible else counterpart.predict(row.run)
        except ConfigurationError as error:
            left_out[str(error)] += 1
        else:
            predictions.append((row, columns))
    if not predictions:
        raise ConfigurationError(
            f"{path}: papi_env models none of the rows ({', '.join(left_out)}); try --attacc-compatible"
        )
    result = {"mode": "attacc-compatible" if compatible else "papi_env"} | _summary(predictions)
    result |= {
        "fits": _summary([prediction for prediction in predictions if prediction[0].fits]),
        "does_not_fit": _summary([prediction for prediction in predictions if not prediction[0].fits]),
        "by": {name: _split(predictions, label) for name, label in _LABELS.items()},
        "components": _components(predictions),
    }
    if not compatible:
        result |= {"left_out": dict(left_out), "not_modelled": list(NOT_MODELLED)}
    return result


_LABELS: Mapping[str, Callable[[GridRow], str]] = {
    "system": lambda row: "dgx" if row.run.pim is None else "dgx-attacc",
    "ffopt": lambda row: str(row.run.share_feed_forward),
    "pipeopt": lambda row: str(row.run.pipeline),
    "model": lambda row: row.run.model.name,
    "xpu": lambda row: row.run.gpu.name,
    "hw": lambda row: "NONE" if row.run.pim is None else row.run.pim.level,
}


def _errors(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Mean, 95th percentile and largest relative error of (predicted, reference) pairs."""
    predicted, reference = np.array(pairs).T
    errors = np.abs(predicted / reference - 1)
    return {"mape": float(errors.mean()), "p95": float(np.percentile(errors, 95)), "max": float(errors.max())}


def _summary(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Rows, and the errors of the targets that are predicted for them."""
    summary: dict[str, Any] = {"rows": len(predictions)}
    for name, (column, compared) in TARGETS.items():
        pairs = [
            (columns[column], row.reference[compared]) for row, columns in predictions if column in columns
        ]
        if pairs:
            summary[name] = _errors(pairs)
    return summary


def _split(predictions: Sequence[Prediction], label: Callable[[GridRow], str]) -> dict[str, Any]:
    """Summaries of the rows of each label."""
    labels = sorted({label(row) for row, _ in predictions})
    return {name: _summary([(row, c) for row, c in predictions if label(row) == name]) for name in labels}


def _components(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Errors of other columns, or of sums of them such as `a + b`, over rows where AttAcc's is not 0."""
    result: dict[str, Any] = {}
    for name in predictions[0][1]:
        parts = name.split(" + ")
        if not all(part in COMPONENTS and part in predictions[0][0].reference for part in parts):
            continue
        pairs = [(c[name], sum(row.reference[part] for part in parts)) for row, c in predictions]
        pairs = [pair for pair in pairs if pair[1] > 0]
        if pairs:
            result[name] = {"rows": len(pairs)} | _errors(pairs)
    return result
