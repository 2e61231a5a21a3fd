"""What `experiments.reparameterize` measures in jobs, and what it writes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import polars as pl

from experiments.arena.comparison import readings_of
from experiments.common.runner import Job, RunFolder
from experiments.vision.data import (
    Network,
    Row,
    kernel_rows,
    network_row,
    output_difference,
    rule_row,
    stage_rows,
)
from papi_env.errors import DataError
from papi_env.workload.vision.network import REPMLPNETS, RepMLPNet

# chosen: 2000 logits to find the largest difference among (range: any); more images take as much longer.
DIFFERENCE_IMAGES = 2


def difference_jobs(networks: Sequence[RepMLPNet], seed: int, float64: bool) -> list[Job]:
    """A job for each network and precision whose output's difference is measured; none without torch."""
    if importlib.util.find_spec("torch") is None:
        return []
    from importlib.metadata import version

    return [
        Job(
            f"{net.name} · output in {dtype}",
            {"call": (named(net), dtype, DIFFERENCE_IMAGES, seed), "torch": version("torch")},
            output_difference,
            (net, dtype, DIFFERENCE_IMAGES, seed),
        )
        for dtype in ("float32", "float64")[: 1 + float64]
        for net in networks
    ]


def named(net: RepMLPNet) -> str | dict[str, Any]:
    """A network as plain data: its name where that says all, since it is registered."""
    return net.name if REPMLPNETS.get(net.name) == net else net.model_dump(mode="json")


def write_results(
    folder: RunFolder, networks: Sequence[Network], image_counts: Sequence[int], jobs: Sequence[Job]
) -> dict[str, Any]:
    """Write tables and pictures from finished jobs; returns what is printed, and kept in summary.json."""
    # Only the process that reports needs it.
    from experiments.vision.figures import threshold_figure, units_figure

    differences = _differences(folder, jobs)
    rows: dict[str, list[Row]] = {
        "networks": [network_row(network) | differences.get(network.net.name, {}) for network in networks],
        "kernels": [row for network in networks for row in kernel_rows(network, image_counts)],
        "stages": [row for network in networks for row in stage_rows(network, image_counts)],
        "rules": [rule_row(network) for network in networks],
    }
    for name, table in rows.items():
        folder.write(f"{name}.csv", pl.DataFrame(table, infer_schema_length=None).write_csv())
    folder.write("threshold.png", threshold_figure(rows["kernels"], rows["rules"]))
    folder.write("units.png", units_figure(rows["kernels"]))
    system = networks[0].scenarios["deploy"].system
    return {
        "system": system.name,
        "readings": readings_of([system]),
        "static_w": system.static_power_w,
        "mode_switch_s": system.mode_switch_s,
        "images": sorted(image_counts),
        **rows,
    }


def _differences(folder: RunFolder, jobs: Sequence[Job]) -> dict[str, Row]:
    """Relative differences by network, then by `difference_DTYPE`."""
    found: dict[str, Row] = {}
    for job in jobs:
        path = folder.job_path(job)
        try:
            ((name, dtype, value),) = pl.read_csv(folder.result(job)).rows()
        except (pl.exceptions.PolarsError, ValueError) as error:
            raise DataError(
                f"{path}: not a job's result ({error}); delete it, or jobs.json, and run again"
            ) from None
        found.setdefault(name, {})[f"difference_{dtype}"] = value
    return found
