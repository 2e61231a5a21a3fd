"""Of `experiments.compare`: speed-ups or goodput, latencies, joules, and every instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from experiments.arena.measures import ENERGY_CAUSES
from experiments.arena.tables.energy import LEGEND
from experiments.arena.tables.text import marked, shown
from experiments.reporting import charts
from experiments.reporting.content import Column, Picture, Table, estimate
from experiments.reporting.folder import Run
from experiments.reporting.instances import instances

_MARKS = "* privileged: reads what no scheduler can see. † does not fit every setting."
_GAIN = "95 % bootstrap intervals over seeds, paired for ratios."
_LATENCIES = (("ttft", "TTFT", "s", 1.0), ("tpot", "TPOT", "ms", 1e3))


def parts(run: Run) -> list[Table | Picture]:
    """Tables and pictures of a comparison."""
    summary, frame = run.json("summary.json"), run.table("results.csv")
    batches = "speedup" in summary["entries"][0]
    return _batches(summary, frame) if batches else _served(summary, frame)


def _batches(summary: Mapping[str, Any], frame: pl.DataFrame) -> list[Table | Picture]:
    rows = [row for row in shown(summary) if row["settings"]]
    thing = "token" if any(row["tokens_per_s"] is not None for row in rows) else "image"
    hollow = [marked(row) for row in rows if row["privileged"]]
    columns = [
        Column("entry"),
        Column("system"),
        Column("speed-up", "×", 1, 3),
        Column("energy gain", "×", 1, 3),
        Column(f"{thing}s per second", f"{thing}s/s"),
        Column("energy", f"J/{thing}"),
        Column("regret", "%", 1, 2),
        Column("invalid actions"),
        Column("does not fit"),
    ]
    cells = [
        [
            marked(row),
            row["system"],
            estimate(row["speedup"]),
            estimate(row["energy_gain"]),
            row[f"{thing}s_per_s"],
            row[f"joules_per_{thing}"],
            estimate(row["regret_percent"]),
            row["invalid_actions"],
            "; ".join(row["does_not_fit"]),
        ]
        for row in shown(summary)
    ]
    scenarios = list(rows[0]["by_scenario"]) if rows else []
    groups = [*scenarios, "geometric mean"] if len(scenarios) > 1 else scenarios
    speedups = {
        marked(row): [
            *(estimate(row["by_scenario"][name]["speedup"]) for name in scenarios),
            *([estimate(row["speedup"])] if len(scenarios) > 1 else []),
        ]
        for row in rows
    }
    over = f"speed-up over {summary['baseline']} (×, logarithmic)"
    drawn, height = charts.intervals(speedups, groups, charts.axis(over, type="log"), hollow, 1.0)
    spread = {
        marked(row): frame.filter(pl.col("entry") == row["entry"])["speedup"].drop_nulls().to_list()
        for row in rows
    }
    return [
        Table(
            "Entries",
            columns,
            cells,
            f"Speed-up and energy gain over {summary['baseline']}: {_GAIN} {_MARKS}",
        ),
        Picture("Speed-up by scenario", drawn, f"End to end. {_GAIN}", height),
        _by_scenario(rows, scenarios, [("speedup", columns[2]), ("regret_percent", columns[6])]),
        _pareto(rows, f"{thing}s_per_s", f"{thing}s/s", f"joules_per_{thing}", f"J/{thing}", hollow),
        Picture(
            "Speed-up, instance by instance",
            charts.boxes(spread, charts.axis(over, type="log"), hollow),
            "A box spans the middle half of all settings and seeds.",
            150 + 26 * len(spread),
        ),
        _causes(rows),
        instances(frame),
    ]


def _served(summary: Mapping[str, Any], frame: pl.DataFrame) -> list[Table | Picture]:
    rows = [row for row in shown(summary) if row["scenarios"]]
    measure = summary.get("figure", "goodput")
    called, unit, factor = ("G", "%", 100.0) if measure == "g" else ("goodput", "tokens/s", 1.0)
    hollow = [marked(row) for row in rows if row["privileged"]]
    columns = [
        Column("entry"),
        Column(called, unit, factor, 1),
        Column("ratio", "×", 1, 3),
        Column("within objectives", "%", 100, 1),
        *(
            Column(f"{name} p{q}", u, f, 3 if u == "s" else 1)
            for _, name, u, f in _LATENCIES
            for q in (50, 90, 99)
        ),
        Column("energy", "J/token"),
        Column("does not fit"),
    ]
    cells = []
    for row in rows:
        means = row["means"]
        cells.append(
            [
                marked(row),
                estimate(row[measure]),
                estimate(row["ratio"]),
                means["attainment"],
                *(means[f"{one}_p{q}_s"] for one, *_ in _LATENCIES for q in (50, 90, 99)),
                means["j_per_token"],
                "; ".join(row["does_not_fit"]),
            ]
        )
    scenarios = summary["scenarios"]
    found = {marked(row): [estimate(row["by_scenario"][name][measure]) for name in scenarios] for row in rows}
    axis = charts.axis(
        f"{called} ({'worth served in time / offered' if measure == 'g' else unit})", rangemode="tozero"
    )
    drawn, height = charts.intervals(found, scenarios, axis, hollow)
    flat = [{**row, **row["means"], measure: row[measure]["value"]} for row in rows]
    return [
        Table("Entries", columns, cells, f"Ratio to {summary['baseline']}: {_GAIN} {_MARKS}"),
        Picture(f"{called[0].upper()}{called[1:]} by scenario", drawn, _GAIN, height),
        _by_scenario(rows, scenarios, [(measure, columns[1]), ("ratio", columns[2])]),
        *quantiles({marked(row): row["means"] for row in rows}, hollow),
        _pareto(flat, measure, axis["title"]["text"], "j_per_token", "J/token", hollow),
        _causes(rows),
        instances(frame),
    ]


def _by_scenario(
    rows: Sequence[Mapping[str, Any]], scenarios: Sequence[str], figures: Sequence[tuple[str, Column]]
) -> Table:
    """Figures of every entry in every scenario, a row for each pair."""
    cells = [
        [name, marked(row), *(estimate(row["by_scenario"][name][key]) for key, _ in figures)]
        for name in scenarios
        for row in rows
    ]
    columns = [Column("scenario"), Column("entry"), *(column for _, column in figures)]
    return Table("Entries by scenario", columns, cells, _GAIN)


def quantiles(means: Mapping[str, Mapping[str, Any]], hollow: Sequence[str]) -> list[Picture]:
    """Latencies of served requests: 50th, 90th and 99th percentiles by name, from the measures of serving."""
    pictures = []
    for one, name, unit, factor in _LATENCIES:
        series = {}
        for label, found in means.items():
            values = [(q, found[f"{one}_p{q}_s"]) for q in (50, 90, 99)]
            known = [(q, factor * value) for q, value in values if value is not None]
            series[label] = ([v for _, v in known], [label] * len(known), [f"p{q}" for q, _ in known])
        drawn = charts.points(
            series,
            charts.axis(f"{name} ({unit}), 50th, 90th and 99th percentile"),
            charts.axis(""),
            hollow,
            lines=True,
        )
        drawn["layout"] |= {"showlegend": False}
        drawn["layout"]["yaxis"] |= {"type": "category", "autorange": "reversed"}
        pictures.append(
            Picture(
                f"{name} by entry",
                drawn,
                "Means over seeds of each episode's quantiles.",
                140 + 26 * len(series),
            )
        )
    return pictures


def _pareto(
    rows: Sequence[Mapping[str, Any]],
    fast: str,
    fast_name: str,
    costly: str,
    cost_name: str,
    hollow: Sequence[str],
) -> Picture:
    """What is achieved against the joules that it takes, with the entries that no other one dominates joined."""
    known = [row for row in rows if row[fast] is not None and row[costly] is not None]
    series = {marked(row): ([row[fast]], [row[costly]], [marked(row)]) for row in known}
    drawn = charts.points(series, charts.axis(fast_name), charts.axis(cost_name), hollow)
    line = charts.front([row[fast] for row in known], [row[costly] for row in known], ("max", "min"))
    drawn["data"] += [line] if line else []
    return Picture(
        "Speed against energy",
        drawn,
        "Right and down is better; the dotted line joins the Pareto front.",
        460,
    )


def _causes(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Joules by cause in percent."""
    known = [row for row in rows if row["energy_by_cause"]["idle"] is not None]
    found = {
        cause: [100 * (row["energy_by_cause"][cause] or 0.0) for row in known] for cause in ENERGY_CAUSES
    }
    drawn = charts.stacked(found, [marked(row) for row in known], charts.axis("share of all joules (%)"))
    return Picture("Energy by cause", drawn, LEGEND, 170 + 24 * len(known))
