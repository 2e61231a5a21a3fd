"""Learning curves in a run folder: references are played once, and curves are drawn anew with what has come since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from rich.console import Console

from experiments.arena.entries import policy_digest
from experiments.arena.measures import schema
from experiments.common.runner import Columns, Job, RunFolder, file_digest, source_digest
from experiments.common.study import Study, json_text
from experiments.training.curves.data import EVALUATIONS, Groups, XAxis, YAxis, plain, read_groups
from experiments.training.curves.references import check_references, plan, values_of
from experiments.training.curves.report import (
    Band,
    check_limits,
    curve_frame,
    draw,
    print_report,
    summarize,
)


class Curves(Study):
    """Learning curves of training runs beside what other policies earn.

    Args:
        runs: folders of `experiments.train`, or LABEL=FOLDER.
        entries: policies to play on the validation instances.
        x, y: the axes.
        band: what is shaded around a group.
        y_limits: ends of the y axis in the picture; None shows everything.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """

    name = "curves"

    def __init__(
        self,
        runs: Sequence[str],
        entries: Sequence[str],
        x: XAxis,
        y: YAxis,
        band: Band,
        y_limits: tuple[float, float] | None,
    ) -> None:
        check_limits(y_limits, y)
        self.x, self.y, self.band, self.y_limits = x, y, band, y_limits
        self.groups, self.validation = read_groups(runs, y)
        self.labels = check_references(entries, self.validation)
        self.plan = plan(tuple(self.labels), self.validation, y)

    def describe(self) -> dict[str, Any]:
        """What was asked as plain data; validations that come later are drawn in the same run folder."""
        return {
            "groups": {label: [str(c.folder) for c in curves] for label, curves in self.groups.items()},
            "validation": plain(self.validation),
            "x": self.x,
            "y": self.y,
            "band": self.band,
            "references": list(self.labels),
            "policy_sources": {n: policy_digest(n) for n in self.labels if ":" in n or "/" in n},
        }

    def rehearse(self) -> None:
        """Nothing: names and settings were checked when they were read."""

    def jobs(self) -> list[Job]:
        """Every reference on every setting."""
        return [job for own in self.plan.values() for job in own]

    def write(self, folder: RunFolder) -> dict[str, Any]:
        """Write curves.csv, summary.json and curves.png; returns what summary.json holds."""
        played = {name: [_stored(folder, job) for job in own] for name, own in self.plan.items()}
        references = values_of(self.labels, played, self.validation, self.y)
        summary = summarize(self.groups, self.validation, references, self.x, self.y, self.band)
        folder.write("curves.csv", curve_frame(self.groups).write_csv())
        folder.write("summary.json", json_text(summary))
        folder.write("curves.png", draw(summary, self.y_limits))
        return summary

    def recorded(self, results: Any) -> dict[str, Any]:
        """Hashes of what is drawn."""
        return {
            "evaluations": {
                str(curve.folder): file_digest(curve.folder / EVALUATIONS)
                for curves in self.groups.values()
                for curve in curves
            }
        }

    def report(self, console: Console, results: Any, session: Mapping[str, Any]) -> None:
        """Print a row for every group."""
        print_report(console, results, _code_notes(self.groups) if self.labels else ())


def _stored(folder: RunFolder, job: Job) -> Columns:
    columns = schema(str(job.spec["problem"]))
    return pl.read_csv(folder.result(job), schema_overrides=columns).to_dict(as_series=False)


def _code_notes(groups: Groups) -> list[str]:
    """Whether runs were validated with other code than references are played with, which may move either."""
    curves = [curve for own in groups.values() for curve in own]
    other = sum(curve.sources != {source_digest()} for curve in curves)
    if not other:
        return []
    return [
        f"{other} of {len(curves)} runs were validated with other source code than the references are played with"
    ]
