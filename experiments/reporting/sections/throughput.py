"""Of `experiments.throughput`: named ratios beside what they must reach, all that was measured, and learning curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from experiments.common.statistics import Estimate
from experiments.reporting import charts
from experiments.reporting.content import Column, Part, Picture, Table
from experiments.reporting.folder import Run
from experiments.reporting.instances import whole


def parts(run: Run) -> list[Part]:
    """Tables and pictures of measured speeds."""
    summary = run.json("summary.json")
    ratios = {name: one for name, one in summary["ratios"].items() if one["value"] is not None}
    found: list[Part] = [_table(summary)]
    if ratios:
        names = list(ratios)
        series: dict[str, list[Estimate | None]] = {
            "measured": [_spread(one) for one in ratios.values()],
            "must": [
                None if one.get("must") is None else Estimate(one["must"], math.nan, math.nan)
                for one in ratios.values()
            ],
        }
        drawn, height = charts.intervals(
            series, names, charts.axis("ratio (logarithmic)", type="log"), ["must"], 1.0
        )
        found.append(
            Picture(
                "Ratios", drawn, "Medians with quartiles over rounds; hollow: what must be reached.", height
            )
        )
    found += _sizes(summary)
    rows = pl.DataFrame(summary["rows"], infer_schema_length=None)
    note = "Medians with quartiles (low, high) over rounds; ratios to the reference within a round."
    return [*found, whole(rows, "Measured", note)]


def _spread(ratio: Mapping[str, Any]) -> Estimate:
    low, high = (math.nan if ratio[end] is None else ratio[end] for end in ("low", "high"))
    return Estimate(ratio["value"], low, high)


def _table(summary: Mapping[str, Any]) -> Table:
    """The named ratios."""
    columns = [
        Column("ratio"),
        Column("what"),
        *map(Column, ("median [quartiles]", "must", "goal", "reached", "note")),
    ]
    rows = [
        [
            name,
            one.get("what", ""),
            None if one["value"] is None else _spread(one),
            one.get("must"),
            one.get("goal"),
            one.get("reached") or "",
            ("at least; " if one["at_least"] else "") + one["note"],
        ]
        for name, one in summary["ratios"].items()
    ]
    quick = " With --quick, so the figures mean nothing." if summary["quick"] else ""
    return Table("Ratios", columns, rows, f"On {summary['processor']}, one pinned core.{quick}")


def _sizes(summary: Mapping[str, Any]) -> list[Part]:
    """Steps per second by the number of environments, where several numbers were measured."""
    series: dict[str, tuple[list[float], list[float], list[str]]] = {}
    for row in summary["rows"]:
        if row["envs"] is None or row["unit"] != "steps/s":
            continue
        others = [
            f"{row[key]} {word}"
            for key, word in (("requests", "requests"), ("tlp", "TLP"))
            if row[key] is not None
        ]
        name = ", ".join(
            [row["part"], row["name"].removeprefix("papi_env/"), *filter(None, [row["variant"]]), *others]
        )
        xs, ys, words = series.setdefault(name, ([], [], []))
        xs.append(row["envs"])
        ys.append(row["value"])
        words.append(f"{row['envs']} environments")
    series = {name: found for name, found in series.items() if len(set(found[0])) > 1}
    if not series:
        return []
    drawn = charts.points(
        series,
        charts.axis("environments (logarithmic)", type="log"),
        charts.axis("steps per second (logarithmic)", type="log"),
        lines=True,
    )
    return [Picture("Speed by batch size", drawn, "Of parts that were measured at several sizes.", 460)]
