"""Look-ups of the serving engine from the measured layers of a server."""

from __future__ import annotations

from typing import Any

import numpy as np

from papi_env.errors import ConfigurationError, DataError
from papi_env.hardware import costs
from papi_env.hardware.energy import NUM_CAUSES
from papi_env.hardware.server_tables import MIXTURE, AttentionGrid, ServerTables
from papi_env.hardware.system import System
from papi_env.hardware.units import PU, ROOFLINE
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.workload.routing import routing_of
from papi_env.workload.transformer import Transformer

# Tables faster than the peaks by more than this are of another model or GPU, or in another unit; a cache that holds a
# layer's weights makes them faster than the memory by less.
_FASTER = 2.0


def without_layers(system: System) -> tuple[System, ServerTables | None]:
    """The system with GPUs timed by the roofline, and their measured layers if it has them."""
    layers = None if system.pu is None else system.pu.layers
    if layers is None:
        return system, None
    if system.unit_of("attention") != "pu" or system.fc_pim is not None:
        raise ConfigurationError(
            f"System {system.name!r}: {layers.folder} has measured layers of GPUs alone, expected no PIM units"
        )
    assert system.pu is not None
    plain = system.pu.model_copy(update={"kernels": ROOFLINE, "kernel_file": None})
    return system.model_copy(update={"pu": plain}), layers


def as_measured(tables: Any, layers: ServerTables, system: System, model: Transformer) -> dict[str, Any]:
    """Those of `ServingTables` that hold seconds of measured layers, by name; joules stay those of the roofline.

    Writes scalars that say how far was measured.

    Raises:
        DataError: tables that are much faster than the GPUs can be.
    """
    assert system.pu is not None
    kernels = model.fc_kernels()
    if model.windows is not None:
        raise ConfigurationError(
            f"{layers.folder}: model {model.name!r} has windows, but the tables have layers without: expected a model "
            "without windows"
        )
    if (model.experts is None) != (layers.mixture is None):
        has, file = ("no experts", "a") if model.experts is None else ("experts", "no")
        raise ConfigurationError(
            f"{layers.folder}: found {file} {MIXTURE}, but model {model.name!r} has {has}: expected the tables of this "
            "model"
        )
    if len(kernels) != len(layers.fc_layers):
        raise ConfigurationError(
            f"{layers.folder}: model {model.name!r} has {len(kernels)} FC kernels in a layer, but the tables have "
            f"{', '.join(layers.fc_layers)}: expected a model with these"
        )
    for name, kernel in zip(layers.fc_layers, kernels, strict=True):
        curve = layers.dense[name]
        least = costs.pu_peak_s(system.pu, kernel, curve.rows.astype(np.int64))
        if np.any(_FASTER * curve.seconds < least):
            k = int(np.argmax(least / curve.seconds))
            raise DataError(
                f"{layers.folder / 'dense.csv'}: {name} of {curve.rows[k]:.0f} tokens takes {curve.seconds[k]:.3g} s, "
                f"but {model.name} on {system.pu.count} {system.pu.name} at its peaks {least[k]:.3g} s: expected the "
                "tables of this model, GPU and number of GPUs"
            )
    fc_s, head = tables.fc_s.copy(), tables.head
    rows = np.arange(fc_s.shape[1], dtype=np.float64)
    fc_s[PU] = layers.layers_s(rows, model.layers)
    routing = routing_of(model)
    if layers.mixture is not None and routing is not None:
        # Experts that have any of so many tokens, on average over routings: times are all but linear in them.
        activated = np.sum(1.0 - (1.0 - routing.chance) ** rows[1:, None], axis=1)
        fc_s[PU, 1:] += routing.layer.layers * layers.mixture.at(rows[1:], activated)
    if len(head) == 0:
        head = np.zeros((fc_s.shape[1], 2 + NUM_CAUSES))
    head = head.copy()
    head[:, 0] = layers.heads_s(np.arange(len(head), dtype=np.float64))
    tables.scalars[at.MEASURED_ROWS] = layers.most_tokens
    tables.scalars[at.MEASURED_MIXED] = layers.attention.most_mixed
    tables.scalars[at.MEASURED_ALONE] = min(layers.attention.decoding[-1], layers.most_sequences)
    return {
        "fc_s": fc_s,
        "bank_s": np.minimum(tables.bank_s, fc_s[PU]),
        "head": head,
        "grid": pack_grid(layers.attention, model.layers),
    }


def pack_grid(grid: AttentionGrid, layers: int) -> FloatArray:
    """One flat array for `measured.grid_seconds`: lengths of the axes, the axes, seconds of all layers."""
    axes = grid[:4]
    return np.concatenate(
        [np.array([len(axis) for axis in axes], dtype=np.float64), *axes, layers * grid.seconds.ravel()]
    )
