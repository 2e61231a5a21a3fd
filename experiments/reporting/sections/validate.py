"""Of `experiments.validate`: a replayed server beside the real one, and the figures of all other comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.reporting.content import Column, Part, Table
from experiments.reporting.folder import Run
from papi_env.errors import DataError

NAMES = ("cycles", "grid", "gpu_kernels", "allreduce", "moe", "published", "serving")
_TIMES = {"measured": "its measured kernels", "datasheet": "data sheet and kernel model"}
_STATISTICS = ("mean", "p50", "p90", "p99")
_SPANS = {"ttft": "TTFT", "tpot": "TPOT", "latency": "latency"}


def parts(run: Run) -> list[Part]:
    """Tables of the comparison that a run made.

    Raises:
        DataError: the folder holds none.
    """
    for name in NAMES:
        if run.has(f"{name}.json"):
            found = run.json(f"{name}.json")
            return _served(found) if name == "serving" else [_figures(found)]
    raise DataError(f"{run.path}: holds no figures, expected those of a comparison")


def _served(found: Mapping[str, Any]) -> list[Part]:
    ratios, counts = [], []
    for name, one in found.items():
        times = _TIMES[name]
        means = [one[span]["mean"]["ratio"] for span in _SPANS]
        ratios.append([times, *means, one["end"]["ratio"], one["preemptions"]])
        counts += [
            [
                f"{label} {of}",
                times,
                one[span][of]["real"],
                one[span][of]["simulated"],
                one[span][of]["ratio"],
            ]
            for span, label in _SPANS.items()
            for of in _STATISTICS
        ]
    columns = [Column("times from"), *(Column(label, digits=3) for label in (*_SPANS.values(), "end"))]
    spans = [Column("figure"), Column("times from"), Column("real", "s"), Column("simulated", "s")]
    return [
        Table(
            "Simulated over real",
            [*columns, Column("preemptions")],
            ratios,
            "Means over all requests; the last end.",
        ),
        Table("Spans", [*spans, Column("ratio", digits=3)], counts),
    ]


def _figures(found: Mapping[str, Any]) -> Table:
    rows = [[name, value] for name, value in _leaves(found, "")]
    return Table("Figures", [Column("figure"), Column("value")], rows, "Errors are fractions.")


def _leaves(found: Any, name: str) -> Iterator[tuple[str, float | int | str]]:
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield from _leaves(value, f"{name}.{key}" if name else key)
    elif isinstance(found, list):
        for number, value in enumerate(found):
            yield from _leaves(value, f"{name}[{number}]")
    elif found is not None:
        yield name, str(found) if isinstance(found, bool) else found
