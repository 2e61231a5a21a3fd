"""Of `experiments.reproduce`: the paper's rows beside what is simulated, under every reading, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.paper.published import bars_and_rows
from experiments.reporting import charts
from experiments.reporting.content import Column, Picture, Table
from experiments.reporting.folder import Run

# Figures whose bars the rows average: of each figure its data's name in figures.json, and the rows.
_ROWS_OF = {"figure-08-speedup": "E", "figure-09-energy": "N"}


def parts(run: Run) -> list[Table | Picture]:
    """Tables and pictures of a reproduction."""
    entries, readings = run.json("reproduction.json"), run.json("readings.json")
    figures = run.json("figures.json") if run.has("figures.json") else {}
    numbers = [entry for entry in entries if not isinstance(entry["paper"], str)]
    facts = [entry for entry in entries if isinstance(entry["paper"], str)]
    found: list[Table | Picture] = [_rows(numbers, readings), _ratios(numbers, readings)]
    for name in ("figure-08-speedup", "figure-09-energy"):
        if name in figures:
            found += _end_to_end(name, figures[name], numbers)
    for name, draw in (
        ("figure-10-sensitivity", _sensitivity),
        ("figure-04-fc-latency", _fc),
        ("figure-03-rlp-decay", _decay),
    ):
        if name in figures:
            found.append(draw(figures[name]))
    return [*found, _facts(facts, readings), _readings(readings)]


def _rows(numbers: Sequence[Mapping[str, Any]], readings: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        Column("row"),
        Column("quantity"),
        Column("role"),
        Column("paper", "", 1, 2),
        Column("ratio", "×", 1, 2),
    ]
    columns += [Column(one["reading"], "", 1, 3) for one in readings]
    columns += [Column("geometric mean", "", 1, 3), Column("source")]
    cells = [
        [
            entry["row"],
            entry["quantity"],
            entry["role"],
            entry["paper"],
            entry["ratio"],
            *(entry["by_reading"][one["reading"]]["simulated"] for one in readings),
            entry["averages"]["geometric"]["simulated"],
            entry["source"],
        ]
        for entry in numbers
    ]
    note = (
        f"Ratio: simulated over paper under the {readings[0]['reading']} reading. Rows of role calibration are what "
        "its constants were fitted on. The geometric mean is of that reading, for rows that average."
    )
    return Table("Rows", columns, cells, note)


def _ratios(numbers: Sequence[Mapping[str, Any]], readings: Sequence[Mapping[str, Any]]) -> Picture:
    """Simulated over published, a column of points for each row."""
    rows = [entry["row"] for entry in numbers]
    series = {}
    for one in readings:
        found = [entry["by_reading"][one["reading"]]["simulated"] / entry["paper"] for entry in numbers]
        series[one["reading"]] = (rows, found, [entry["quantity"] for entry in numbers])
    x = charts.axis("row", type="category", categoryorder="array", categoryarray=rows)
    drawn = charts.points(series, x, charts.axis("simulated / paper (logarithmic)", type="log"))
    drawn["layout"]["shapes"] = [charts.dashed("y", 1.0)]
    return Picture("Simulated over published, by reading", drawn, "1 is the paper's value.", 480)


def _end_to_end(
    name: str, data: Mapping[str, Any], numbers: Sequence[Mapping[str, Any]]
) -> list[Table | Picture]:
    """Figures 8 and 9: gains by setting, and the one set of means that the rows say, by how they are averaged."""
    what = "speed-up" if data["metric"] == "total_s" else "energy efficiency"
    number = int(name.split("-")[1])
    settings = [f"{batch}/{speculation}" for batch, speculation in data["settings"]]
    series = {
        f"{system}, {scenario}": (settings, values, [scenario] * len(values))
        for scenario, gains in data["gains"].items()
        for system, values in gains.items()
        if any(value != 1 for value in values)
    }
    drawn = charts.points(
        series,
        charts.axis("batch / speculation", type="category"),
        charts.axis(f"{what} over A100+AttAcc (×, logarithmic)", type="log"),
        lines=True,
    )
    drawn["layout"]["shapes"] = [charts.dashed("y", 1.0)]
    columns = [
        Column("over"),
        Column("dataset"),
        Column("paper", "×", 1, 2),
        Column("mean of the figure", "×", 1, 3),
    ]
    columns += [
        Column("row"),
        Column("row, as the paper averages", "×", 1, 3),
        Column("row, geometric", "×", 1, 3),
    ]
    columns += [Column("row's quantity")]
    rows = []
    for dataset, over in data["papi_over"].items():
        for rival, gain in over.items():
            paper = data["paper"][dataset].get(rival)
            row = next(
                (
                    entry
                    for entry in numbers
                    if entry["row"].startswith(_ROWS_OF[name])
                    and dataset in entry["quantity"]
                    and entry["quantity"].rpartition("over ")[2].lower().replace("+", "-") == rival
                ),
                None,
            )
            rows.append(
                [
                    rival,
                    dataset,
                    paper,
                    gain,
                    row["row"] if row else "no row",
                    row["simulated"] if row else None,
                    row["averages"]["geometric"]["simulated"] if row else None,
                    row["quantity"] if row else "",
                ]
            )
    first = next((entry for entry in numbers if entry["row"].startswith(_ROWS_OF[name])), None)
    note = "" if first is None else bars_and_rows(first)
    title = f"Figure {number}: {what}"
    return [
        Picture(f"{title} by setting", drawn, "Requests end as their lengths say.", 560),
        Table(f"{title}, means and rows", columns, rows, note),
    ]


def _sensitivity(data: Mapping[str, Any]) -> Picture:
    """Figure 10."""
    series = {
        f"{system}, by RLP": (data["rlp"], values, [system] * len(values))
        for system, values in data["by_rlp"].items()
    }
    series |= {
        f"{system}, by TLP": (data["tlp"], values, [system] * len(values))
        for system, values in data["by_tlp"].items()
    }
    x = charts.axis("initial RLP at speculation 1, or TLP at batch 4 (logarithmic)", type="log")
    y = charts.axis("speed-up over A100+AttAcc (×)")
    return Picture(
        "Figure 10: sensitivity", charts.points(series, x, y, lines=True), f"On {data['scenario']}.", 500
    )


def _fc(data: Mapping[str, Any]) -> Picture:
    """Figure 4."""
    series = {
        name: (data["n"], [1e3 * x for x in values], [name] * len(values))
        for name, values in data["seconds"].items()
    }
    x = charts.axis("n = RLP × TLP (logarithmic)", type="log")
    drawn = charts.points(
        series, x, charts.axis("FC kernels of an iteration (ms, logarithmic)", type="log"), lines=True
    )
    for trace in drawn["data"]:
        trace["mode"] = "lines"
    return Picture("Figure 4: latency of FC kernels", drawn, f"On {data['model']}.", 500)


def _decay(data: Mapping[str, Any]) -> Picture:
    """Figure 3."""
    series = {
        f"{dataset}, batch {batch}": (found["iteration"], found["mean"], [dataset] * len(found["mean"]))
        for dataset, batches in data["datasets"].items()
        for batch, found in batches.items()
    }
    y = charts.axis("RLP (requests that still decode, logarithmic)", type="log")
    drawn = charts.points(series, charts.axis("iteration"), y, lines=True)
    for trace in drawn["data"]:
        trace["mode"] = "lines"
    return Picture("Figure 3: RLP decays", drawn, f"Means over {data['batches']} batches.", 460)


def _facts(facts: Sequence[Mapping[str, Any]], readings: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        Column("row"),
        Column("quantity"),
        Column("paper"),
        *(Column(one["reading"]) for one in readings),
    ]
    said = {True: "holds", False: "does not", None: "–"}
    cells = [
        [
            entry["row"],
            entry["quantity"],
            entry["paper"],
            *(said[entry["by_reading"][one["reading"]].get("holds")] for one in readings),
        ]
        for entry in facts
    ]
    return Table("Orders and facts, by reading", columns, cells)


def _readings(readings: Sequence[Mapping[str, Any]]) -> Table:
    rivals = list(readings[0]["speed_ups"])
    columns = [Column("reading"), Column("what it is"), Column("log rms", "", 1, 3)]
    columns += [Column(f"speed-up over {rival}", "×", 1, 2) for rival in rivals]
    columns += [Column("departs in")]
    cells = [
        [
            one["reading"],
            one["description"],
            one["log_rms"],
            *(one["speed_ups"][rival] for rival in rivals),
            one["departures"],
        ]
        for one in readings
    ]
    return Table("Readings", columns, cells, "log rms: how far a reading is from all rows that are numbers.")
