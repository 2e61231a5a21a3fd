"""Of `experiments.reparameterize`: networks before and after merging, what it gains, rules, and the stream's policies.

With `--train` the course of a network from training to schedule; with `--explore` where the choice of a unit matters.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from experiments.reporting import charts
from experiments.reporting.content import Column, Part, Picture, Table
from experiments.reporting.folder import Run
from experiments.reporting.instances import whole
from experiments.reporting.sections import compare

_EXPLORED = "explored.csv"
_STREAMS = ("vision-stream", "stream")


def parts(run: Run) -> list[Part]:
    """Tables and pictures of a run of any of the three kinds."""
    if run.has(_EXPLORED):
        return _explored(run.table(_EXPLORED))
    stages = run.table("stages.csv")
    found: list[Part] = _trained(run) if run.has("training.csv") else _networks(run)
    found += _merging(stages)
    note = "As in stages.csv: seconds and joules with every FC kernel on one unit, and by the best plan."
    found.append(whole(stages, "Stages", note))
    found.append(whole(run.table("kernels.csv"), "Kernels", "As in kernels.csv."))
    for name in _STREAMS:
        if (run.path / name / "run.json").is_file():
            found += compare.parts(Run.open(run.path / name))
    return found


def _networks(run: Run) -> list[Part]:
    """Sizes in both forms, and PAPI's thresholds."""
    network = [
        Column("network"),
        Column("parameters before", "M", 1e-6, 2),
        Column("after", "M", 1e-6, 2),
        Column("MACs an image before", "G", 1e-9, 2),
        Column("after", "G", 1e-9, 2),
        Column("largest difference, float32"),
        Column("float64"),
    ]
    keys = [f"{what}_{form}" for what in ("parameters", "macs") for form in ("training", "deploy")]
    keys += ["difference_float32", "difference_float64"]
    rows = [[row["network"], *map(row.get, keys)] for row in run.table("networks.csv").rows(named=True)]
    about = "Of a logit after merging, over the largest logit; random statistics."
    rules = whole(run.table("rules.csv"), "Thresholds", "As in rules.csv: what each leaves of the best plan.")
    return [Table("Before and after Locality Injection", network, rows, about), rules]


def _trained(run: Run) -> list[Part]:
    """How training went, and what the merged network sees."""
    summary, curve = run.json("summary.json"), run.table("training.csv")
    facts = {
        "training images": summary["training_images"],
        "training (s)": summary["training_s"],
        **{name.replace("_", " "): value for name, value in summary["held_out"].items()},
        **{f"ONNX: {name.replace('_', ' ')}": value for name, value in (summary["onnx"] or {}).items()},
    }
    rows = [
        [name, value if isinstance(value, (int, float, str)) else str(value)] for name, value in facts.items()
    ]
    found: list[Part] = [Table(summary["network"], [Column("what"), Column("value")], rows)]
    for name, called in (("loss", "loss"), ("accuracy", "share of right answers")):
        line = _line(curve, "epoch", name)
        axes = charts.axis("epoch"), charts.axis(called, rangemode="normal")
        found.append(Picture(f"Learning curve: {called}", charts.points({called: line}, *axes, lines=True)))
    return [*found, whole(curve, "Epochs", "As in training.csv.")]


def _merging(stages: pl.DataFrame) -> list[Part]:
    """What merging gains in time and energy, by the number of images."""
    whole_encodes = stages.filter(
        (pl.col("form") == "deploy") & (pl.col("stage").cast(pl.String) == "all")
    ).sort("network", "images", maintain_order=True)
    found: list[Part] = []
    for column, called in (("best_s_gain", "time"), ("best_j_gain", "energy")):
        series = {
            str(name): _line(frame, "images", column)
            for (name,), frame in whole_encodes.group_by("network", maintain_order=True)
        }
        x = charts.axis("images at once (logarithmic)", type="log")
        y = charts.axis(f"{called} before / after", rangemode="normal")
        drawn = charts.points(series, x, y, lines=True)
        found.append(Picture(f"Gain in {called} by merging", drawn, "By the best plan of a whole encode."))
    return found


def _explored(frame: pl.DataFrame) -> list[Part]:
    """Gains over the better single unit, by machine and number of images."""
    pictures: list[Part] = []
    for (network,), rows in frame.group_by("network", maintain_order=True):
        series = {
            f"{machine}, {starts}": _line(own, "images", "gain")
            for (machine, starts), own in rows.group_by("machine", "starts", maintain_order=True)
        }
        x = charts.axis("images at once (logarithmic)", type="log")
        drawn = charts.points(series, x, charts.axis("better single unit / best plan"), lines=True)
        pictures.append(Picture(f"Gain of a choice: {network}", drawn, "Seconds, in merged form.", 560))
    return [*pictures, whole(frame, "Explored", "As in explored.csv.")]


def _line(frame: pl.DataFrame, x: str, y: str) -> tuple[Sequence[float], Sequence[float], Sequence[str]]:
    ordered = frame.sort(x)
    xs = ordered[x].to_list()
    return xs, ordered[y].to_list(), [f"{x} {value}" for value in xs]
