"""Of `experiments.leaderboard`: positions, performance profiles, what decisions cost, claims, and every setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.arena.estimators.runs import BEHIND
from experiments.arena.measures import BATCH
from experiments.arena.tables.claims import figures_of, labels_of, name_of
from experiments.reporting import charts
from experiments.reporting.content import Cell, Column, Picture, Table, estimate
from experiments.reporting.folder import Run
from experiments.reporting.instances import instances


def parts(run: Run) -> list[Table | Picture]:
    """Tables and pictures of a ranking."""
    summary = run.json("summary.json")
    rows = sorted(summary["entries"], key=lambda row: -(row["iqm"]["value"] or 0))
    scale = f"{summary['floor']} = 0, {summary['ceiling']} = 1"
    marks = "* privileged: reads what no scheduler can see. † tuned on settings of this split, or on what it holds out."
    hollow = [_name(row) for row in rows if row["marks"]]
    drawn, height = charts.intervals(
        {_name(row): [estimate(row["iqm"])] for row in rows},
        ["all settings"],
        charts.axis(f"interquartile mean position ({scale})"),
        hollow,
        1.0,
    )
    found: list[Table | Picture | None] = [
        Table(
            "Ranking",
            _ranking_columns(summary),
            [_ranking(row) for row in rows],
            f"Position: {scale}. {marks}",
        ),
        Picture("Position", drawn, f"95 % intervals over training runs and instances. {marks}", height + 60),
        _profiles(rows, summary, hollow),
        _latencies(rows, hollow),
        *_claims(summary["claims"]),
        _by_shift(rows, summary),
        _by_setting(rows, summary),
    ]
    kept = [part for part in found if part is not None]
    return [*kept, instances(run.table("results.csv"))]


def _name(row: Mapping[str, Any]) -> str:
    runs = f" ({row['training_runs']})" if row["training_runs"] else ""
    return f"{row['entry']}{row['marks']}{runs}"


def _ranking_columns(summary: Mapping[str, Any]) -> list[Column]:
    baseline = summary["baseline"]
    return [
        Column("entry"),
        Column("interquartile mean", "%", 100, 1),
        Column("mean", "%", 100, 1),
        Column(f"over {baseline}", "points", 100, 1),
        Column(f"better than {baseline}", "% of instances", 100, 1),
        Column("runs"),
        Column("instances"),
        Column("training", "steps"),
        Column("training time", "s", 1, 0),
        Column("decision", "µs", 1e6, 1),
        Column(f"decision, one of {BATCH}", "µs", 1e6, 2),
        Column("failures"),
    ]


def _ranking(row: Mapping[str, Any]) -> list[Cell]:
    training, latency = row["training"], row["latency_s"]
    return [
        row["entry"] + row["marks"],
        *(estimate(row[name]) for name in ("iqm", "mean", "over_baseline", "improvement")),
        row["training_runs"],
        row["instances"],
        training["steps"],
        training["wall_s"],
        latency["single_s"],
        latency["batched_s"],
        row["failures"],
    ]


def _profiles(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], hollow: Sequence[str]
) -> Picture:
    """Shares of runs and settings above a position, with their bands."""
    data = []
    for number, row in enumerate(rows):
        profile, name = row["profile"], _name(row)
        if row["entry"] in (summary["floor"], summary["ceiling"]) or profile["share"][0] is None:
            continue
        colour = charts.COLOURS[number % len(charts.COLOURS)]
        if profile["low"][0] is not None:
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": name,
                    "legendgroup": name,
                    "showlegend": False,
                    "hoverinfo": "skip",
                    "x": [*profile["levels"], *reversed(profile["levels"])],
                    "y": [*profile["low"], *reversed(profile["high"])],
                    "fill": "toself",
                    "fillcolor": colour,
                    "opacity": 0.18,
                    "line": {"width": 0},
                }
            )
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "legendgroup": name,
                "x": profile["levels"],
                "y": profile["share"],
                "line": {"color": colour, "dash": "dash" if name in hollow else "solid"},
                "hovertemplate": "%{y:.1%} above %{x:.2f}<extra>%{fullData.name}</extra>",
            }
        )
    y = charts.axis("share of runs and settings above it", range=[0, 1.02])
    drawn = charts.figure(data, charts.axis("position"), y)
    return Picture("Performance profiles", drawn, "Bands: pointwise 95 % intervals.", 480)


def _latencies(rows: Sequence[Mapping[str, Any]], hollow: Sequence[str]) -> Picture | None:
    """Position against the time that a decision takes; None where that was not measured."""
    known = [
        row for row in rows if row["latency_s"]["single_s"] is not None and row["iqm"]["value"] is not None
    ]
    if not known:
        return None
    series = {
        _name(row): ([1e6 * row["latency_s"]["single_s"]], [row["iqm"]["value"]], [_name(row)])
        for row in known
    }
    x = charts.axis("a decision alone (µs, logarithmic)", type="log")
    drawn = charts.points(series, x, charts.axis("interquartile mean position"), hollow)
    found = [(row["latency_s"]["single_s"] * 1e6, row["iqm"]["value"]) for row in known]
    line = charts.front([x for x, _ in found], [y for _, y in found], ("min", "max"))
    drawn["data"] += [line] if line else []
    return Picture(
        "Position against the time of a decision", drawn, "The dotted line joins the Pareto front.", 460
    )


def _claims(claims: Mapping[str, Any]) -> list[Table]:
    """What each challenger returns above others: by group of settings, then where and in which run it is worst."""
    tables, labels = [], labels_of(claims)
    for row in claims["challengers"]:
        name, others, many = name_of(row), row["against"], row["training_runs"]
        runs = f"{many} training run{'s' * (many > 1)}. " if many else ""
        figures = [figures_of(other) for other in others]
        tables.append(
            Table(
                f"Claims: {name}",
                [Column(claims["grouped_by"]), *(Column(name_of(other), "%", 100, 1) for other in others)],
                [[label, *(estimate(found[k]) for found in figures)] for k, label in enumerate(labels)],
                f"{runs}Mean return above that of the column's entry, relative to it ({claims['better']}); in brackets "
                "how many settings, each weighing the same; 95 % intervals over training runs and instances.",
            )
        )
        tables.append(_worst(name, others))
    return tables


def _worst(name: str, others: Sequence[Mapping[str, Any]]) -> Table:
    """Of one challenger, a row for each comparator."""
    columns = [
        Column("against"),
        Column("worst setting"),
        Column("there", "%", 100, 1),
        Column("best run", "%", 100, 1),
        Column("seed of the best"),
        Column("worst run", "%", 100, 1),
        Column("seed of the worst"),
        Column("pairs of a run and a setting"),
        Column(f"over {100 * BEHIND:.0f} % behind"),
        Column("worst pair", "%", 100, 1),
        Column("setting of the pair"),
        Column("seed of the pair"),
    ]
    cells: list[list[Cell]] = []
    for other in others:
        worst, runs, pair = other["worst"], other["runs"], other["worst_of_one_run"]
        of_runs = [
            runs[which][key] if runs else None for which in ("best", "worst") for key in ("value", "seed")
        ]
        of_pair = [pair[key] if pair else None for key in ("pairs", "behind", "value", "setting", "seed")]
        setting = None if worst is None else worst["setting"]
        cells.append([name_of(other), setting, estimate(worst), *of_runs, *of_pair])
    note = "Worst of many: an interval does not allow for its setting having been picked."
    return Table(f"Worst cases: {name}", columns, cells, note)


def _by_shift(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Table:
    counts = list(summary["settings"].values())
    shifts = list(rows[0]["by_shift"]) if rows else []
    columns = [
        Column("entry"),
        *(Column(f"{shift} ({counts.count(shift)})", "%", 100, 1) for shift in shifts),
    ]
    cells = [
        [row["entry"] + row["marks"], *(estimate(row["by_shift"][one]) for one in shifts)] for row in rows
    ]
    return Table(
        "Mean position by what is new in a setting", columns, cells, "In brackets how many settings."
    )


def _by_setting(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Table:
    columns = [Column("setting"), Column("new"), *(Column(_name(row), "%", 100, 1) for row in rows)]
    cells = [
        [setting, shift, *(row["by_setting"].get(setting) for row in rows)]
        for setting, shift in summary["settings"].items()
    ]
    return Table("Mean position by setting", columns, cells)
