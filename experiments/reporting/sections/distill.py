"""Of `experiments.distill`: what a decision tree keeps of its teacher, how quickly it decides, and the rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.arena.measures import BATCH
from experiments.common.statistics import Estimate
from experiments.distilling.files import RULE
from experiments.distilling.rules import PAPI_RULES
from experiments.reporting import charts
from experiments.reporting.content import Column, Lines, Part, Picture, Table, estimate
from experiments.reporting.folder import Run

_ROLES = ("tree", "teacher", "baseline")


def parts(run: Run) -> list[Part]:
    """Tables, a picture and the rule of a distilled policy."""
    summary = run.json("summary.json")
    return [
        _kept(summary),
        *_sizes(summary),
        _times(summary),
        Lines("The rule", run.text(RULE).rstrip(), "In brackets the share of decisions."),
        Lines("PAPI's", PAPI_RULES[summary["problem"]]),
    ]


def _kept(summary: Mapping[str, Any]) -> Table:
    """Mean returns of tree, teacher and baseline."""
    columns = [
        Column("policy"),
        Column("which"),
        Column("mean return"),
        Column("gain kept [95 %]", "%", 100, 1),
        Column("return lost", "%", 100, 3),
    ]
    which = {
        "tree": f"{summary['leaves']} leaves, depth {summary['depth']}",
        "teacher": summary["teacher"],
        "baseline": summary["baseline"],
    }
    kept = estimate(summary["kept"])
    rows: list[list[float | str | Estimate | None]] = [
        [
            role,
            which[role],
            summary["returns"][role],
            kept if role == "tree" else None,
            summary["loss_of_return"] if role == "tree" else None,
        ]
        for role in _ROLES
    ]
    settings = ", ".join(summary["settings"])
    note = f"{summary['problem']}: {settings}; on instances that neither growing nor choosing the tree met."
    return Table("What is kept", columns, rows, note)


def _sizes(summary: Mapping[str, Any]) -> list[Part]:
    """Return by number of leaves, beside the teacher's and the baseline's, drawn and as a table."""
    found = {int(leaves): value for leaves, value in summary["returns_by_leaves"].items()}
    sizes = sorted(found)
    series = {"tree": (sizes, [found[size] for size in sizes], [f"{size} leaves" for size in sizes])}
    ends = [min(sizes), max(sizes)]
    for role, value in summary["chosen_with"].items():
        series[f"{role}: {summary[role]}"] = (ends, [value, value], [role] * 2)
    drawn = charts.points(
        series, charts.axis("leaves"), charts.axis("mean return", rangemode="normal"), lines=True
    )
    columns = [Column("leaves"), Column("mean return")]
    cells = [[size, found[size]] for size in sizes]
    return [
        Picture("Return by leaves", drawn, "Where the size was chosen."),
        Table("Trees by leaves", columns, cells, "Mean return where the size was chosen."),
    ]


def _times(summary: Mapping[str, Any]) -> Table:
    """Bytes and decision times."""
    columns = [
        Column("policy"),
        Column("size", "bytes"),
        Column("one of a compiled loop", "µs", 1e6, 4),
        Column("one call", "µs", 1e6, 1),
        Column(f"one of {BATCH}", "µs", 1e6, 3),
    ]
    sizes = {"tree": summary["bytes"].get("tables"), "teacher": summary["bytes"].get("network")}
    times = summary.get("decision_s", {})
    rows = [
        [
            role,
            sizes.get(role),
            times.get("compiled") if role == "tree" else None,
            *(times.get(role, {}).get(how) for how in ("single", "batched")),
        ]
        for role in _ROLES
    ]
    return Table("Sizes and decision times", columns, rows, "Medians on the machine of the run.")
