"""Of `experiments.headroom`: where policies stand between random and the bound, and what choices are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.arena.entries import FLOOR, REFERENCE
from experiments.reporting import charts
from experiments.reporting.content import Cell, Column, Picture, Table, estimate
from experiments.reporting.folder import Run
from experiments.reporting.instances import instances

_PRIVILEGED = "* privileged: reads what no scheduler can see."
_INTERVALS = "95 % intervals, paired for differences and ratios."


def parts(run: Run) -> list[Table | Picture]:
    """Tables and pictures of Serving-v0's positions, or of Serving-v1's G."""
    summary, rows = run.json("summary.json"), instances(run.table("results.csv"))
    if "alone" in summary:
        return [*_alone(summary), rows]
    return [*(_service(summary) if "leads" in summary else _positions(summary)), rows]


def _marked(summary: Mapping[str, Any], policy: str) -> str:
    return policy + "*" * (policy in summary["privileged"])


def _positions(summary: Mapping[str, Any]) -> list[Table | Picture]:
    presets = summary["presets"]
    shown = [policy for policy in summary["policies"] if policy != FLOOR]
    series = {
        _marked(summary, policy): [estimate(row["policies"][policy]["position"]) for row in presets.values()]
        for policy in shown
    }
    axis = charts.axis("way from random (0) to the bound (1), by return")
    drawn, height = charts.intervals(series, list(presets), axis, [p for p in series if p.endswith("*")], 1.0)
    columns = [
        Column("preset"),
        Column("policy"),
        Column("played"),
        Column("position", "%", 100, 1),
        Column("goodput", "tokens/s", 1, 1),
        Column("lead over the threshold", "tokens/s", 1, 1),
        Column("within objectives", "%", 100, 1),
        Column("TTFT p99", "s", 1, 3),
        Column("TPOT p99", "ms", 1e3, 1),
        Column("energy", "J/token"),
    ]
    cells: list[list[Cell]] = []
    for preset, row in presets.items():
        for policy, found in row["policies"].items():
            measures = ("attainment", "ttft_p99_s", "tpot_p99_s", "j_per_token")
            cells.append(
                [
                    preset,
                    _marked(summary, policy),
                    found["played"],
                    estimate(found["position"]),
                    found["goodput"],
                    estimate(found["goodput_lead"]),
                    *(found[name] for name in measures),
                ]
            )
    best = [Column("preset"), Column("threshold", "tokens/s", 1, 1), Column("best scheduler")]
    best += [Column("its goodput", "tokens/s", 1, 1), Column("bound", "tokens/s", 1, 1), Column("finding")]
    found_best = [
        [
            preset,
            row["policies"][REFERENCE]["goodput"],
            row["policies"][row["best"]]["played"],
            row["policies"][row["best"]]["goodput"],
            row["bound"]["goodput"],
            row["finding"],
        ]
        for preset, row in presets.items()
    ]
    return [
        Picture(
            "Headroom by preset",
            drawn,
            f"The bound need not be within reach. {_INTERVALS} {_PRIVILEGED}",
            height,
        ),
        Table(
            "Best scheduler of each preset",
            best,
            found_best,
            "The finding says where there is little to win.",
        ),
        Table("Policies by preset", columns, cells, f"Means over seeds. {_INTERVALS} {_PRIVILEGED}"),
    ]


def _service(summary: Mapping[str, Any]) -> list[Table | Picture]:
    presets = summary["presets"]
    shown = [policy for policy in summary["policies"] if policy != FLOOR]
    series = {
        _marked(summary, policy): [estimate(row["policies"][policy]["ratio"]) for row in presets.values()]
        for policy in shown
    }
    best_g = {preset: row["policies"][row["best"]]["g"]["value"] for preset, row in presets.items()}
    axis = charts.axis("G over that of the preset's best rule")
    drawn, height = charts.intervals(series, list(presets), axis, [p for p in series if p.endswith("*")], 1.0)
    drawn["data"].append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "bound",
            "x": [
                row["bound"]["g"] / best_g[preset] for preset, row in presets.items() if best_g[preset] > 0
            ],
            "y": [preset for preset in presets if best_g[preset] > 0],
            "marker": {"symbol": "line-ns-open", "size": 18, "color": "#8a8a8a"},
            "hovertemplate": "%{y}: %{x:.3f}<extra>bound</extra>",
        }
    )
    leads = [Column("policy"), Column("ratio", "×", 1, 3), Column("presets"), Column("seeds")]
    lead_rows = [
        [_marked(summary, policy), estimate(lead["ratio"]), lead.get("presets"), lead.get("seeds")]
        for policy, lead in summary["leads"].items()
    ]
    columns = [
        Column("preset"),
        Column("policy"),
        Column("played"),
        Column("load", "× capacity", 1, 2),
        Column("G", "%", 100, 2),
        Column("ratio to the best rule", "×", 1, 3),
        Column("position", "%", 100, 1),
        Column("bound", "%", 100, 2),
    ]
    cells = [
        [
            preset,
            _marked(summary, policy),
            found["played"],
            summary["loads"].get(preset),
            estimate(found["g"]),
            estimate(found["ratio"]),
            estimate(found["position"]),
            row["bound"]["g"],
        ]
        for preset, row in presets.items()
        for policy, found in row["policies"].items()
    ]
    note = "G: worth served within objectives over worth offered."
    return [
        Picture("Headroom by preset", drawn, f"{note} {_INTERVALS} {_PRIVILEGED}", height),
        Table(
            "Ratio to the best rule over presets at capacity and above",
            leads,
            lead_rows,
            f"Geometric means over the presets that count: {', '.join(summary['counted']) or 'none'}. {_INTERVALS}",
        ),
        Table("Policies by preset", columns, cells, f"{note} {_INTERVALS} {_PRIVILEGED}"),
    ]


def _alone(summary: Mapping[str, Any]) -> list[Table | Picture]:
    found = summary["alone"]
    choices = list(next(iter(found.values()))["worth"]) if found else []
    series = {
        choice.replace("_", " "): [_points(row["worth"][choice]) for row in found.values()]
        for choice in choices
    }
    drawn, height = charts.intervals(
        series, list(found), charts.axis("points of G that the best rule loses without the choice"), (), 0.0
    )
    columns = [Column("preset"), Column("best rule"), Column("G", "%", 100, 2)]
    columns += [Column(choice.replace("_", " "), "points of G", 100, 2) for choice in choices]
    cells = [
        [preset, row["played"], estimate(row["g"]), *(estimate(row["worth"][choice]) for choice in choices)]
        for preset, row in found.items()
    ]
    note = f"With the choice as in Serving-v0. {_INTERVALS}"
    return [
        Picture("What each choice is worth alone", drawn, note, height),
        Table("Worth of choices by preset", columns, cells, note),
    ]


def _points(worth: Mapping[str, Any]) -> Any:
    """An estimate in points of per cent."""
    return estimate(
        {end: None if worth[end] is None else 100 * worth[end] for end in ("value", "low", "high")}
    )
