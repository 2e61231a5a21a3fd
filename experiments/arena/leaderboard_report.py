"""From finished jobs of `experiments.leaderboard` to aggregates, tables and a figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from experiments.arena.latency import BATCH
from experiments.arena.leaderboard_entries import FLOOR, Contender
from experiments.arena.leaderboard_statistics import (
    RESAMPLES,
    Entry,
    aggregate,
    improvement,
    mean_over,
    paired_difference,
    performance_profile,
    resampled_positions,
)
from experiments.common.runner import Job, RunFolder
from experiments.common.statistics import Estimate
from experiments.splitting.definition import SHIFTS, Setting
from papi_env.kernel import FloatArray

SCHEMA = {"seed": pl.Int64, "played": pl.String, "return": pl.Float64, "note": pl.String}
# Positions at which performance profiles are drawn. chosen: from well below random choice to just above the ceiling.
LEVELS = np.round(np.arange(-0.5, 1.1001, 0.02), 2)


def collect(
    folder: RunFolder,
    contenders: Sequence[Contender],
    references: Sequence[str],
    settings: Sequence[Setting],
    jobs: Mapping[tuple[str, str], Job],
) -> pl.DataFrame:
    """One row per entry, training run, setting and seed; references are entries of one run. `jobs` by policy, setting.

    A training run that left no policy has a row per setting, without seed and return, with the reason in `note`.
    """
    parts = []
    for label, policies, marks in (
        *((entry.label, entry.policies, entry) for entry in contenders),
        *((name, (name,), None) for name in references),
    ):
        for k, policy in enumerate(policies):
            for setting in settings:
                if policy is None:
                    assert marks is not None
                    note = f"training left no policy: {marks.runs[k].status or 'not begun'}"
                    row = {"seed": [None], "played": [None], "return": [None], "note": [note]}
                    rows = pl.DataFrame(row, schema=SCHEMA)
                else:
                    rows = pl.read_csv(folder.job_path(jobs[policy, setting.name]), schema=SCHEMA)
                parts.append(
                    rows.select(
                        pl.lit(label).alias("entry"),
                        pl.lit(k).alias("run"),
                        pl.lit(setting.name).alias("setting"),
                        pl.lit(setting.shift).alias("shift"),
                        pl.all(),
                    )
                )
    return pl.concat(parts)


def returns_of(frame: pl.DataFrame, label: str, settings: Sequence[Setting], instances: int) -> FloatArray:
    """Returns of an entry, float64 [runs, settings, instances]; NaN where it failed.

    Where the frame holds fewer instances of it, the first ones, there are so many.
    """
    rows = frame.filter(pl.col("entry") == label)
    instances = rows["seed"].drop_nulls().n_unique() or instances
    found = np.full((int(rows["run"].max()) + 1, len(settings), instances), np.nan)  # type: ignore[arg-type]
    for (run, name), part in rows.partition_by("run", "setting", as_dict=True).items():
        if part["note"].null_count() == len(part):
            index = next(i for i, setting in enumerate(settings) if setting.name == name)
            found[int(run), index] = part["return"].to_numpy()
    return found


def summarize(
    frame: pl.DataFrame,
    contenders: Sequence[Contender],
    settings: Sequence[Setting],
    instances: int,
    ceiling: str,
    baseline: str,
    latencies: Mapping[str, Mapping[str, float | None]],
) -> dict[str, Any]:
    """What summary.json holds, but for the split.

    Args:
        frame: from `collect`.
        contenders, settings: in the order of the tables.
        instances: of every setting.
        ceiling, baseline: entries of the frame.
        latencies: seconds of a decision by policy.
    """
    floor, top = (returns_of(frame, label, settings, instances)[0] for label in (FLOOR, ceiling))

    def entry_of(label: str) -> Entry:
        returns = returns_of(frame, label, settings, instances)
        played = returns.shape[2]
        return Entry(returns, floor[:, :played], top[:, :played])

    other = entry_of(baseline)
    shifts = [setting.shift for setting in settings]
    rows = []
    for contender in contenders:
        entry = entry_of(contender.label)
        positions, played = resampled_positions(entry), entry.instances
        # Differences are between what both played.
        common = min(played, other.instances)
        ours, theirs = entry.first(common), other.first(common)
        profile = performance_profile(positions, played, LEVELS)
        failed = frame.filter((pl.col("entry") == contender.label) & pl.col("note").is_not_null())
        timed = [latencies[p] for p in contender.policies if p is not None and p in latencies]
        rows.append(
            {
                "entry": contender.label,
                "marks": contender.marks,
                "policies": list(contender.policies),
                "runs": entry.returns.shape[0],
                "training_runs": len(contender.runs),
                "instances": played,
                "iqm": plain(aggregate(positions, played)),
                "mean": plain(mean_over(positions, played)),
                "over_baseline": plain(
                    paired_difference(resampled_positions(ours), resampled_positions(theirs), common)
                ),
                "improvement": plain(improvement(ours, theirs)),
                "by_shift": {
                    shift: plain(mean_over(positions, played, np.array([found == shift for found in shifts])))
                    for shift in SHIFTS
                    if shift in shifts
                },
                "by_setting": {
                    setting.name: number(float(np.mean(positions[:, i, 0])))
                    for i, setting in enumerate(settings)
                },
                "profile": {
                    "levels": profile.levels.tolist(),
                    **{
                        name: [number(float(x)) for x in getattr(profile, name)]
                        for name in ("share", "low", "high")
                    },
                },
                "failures": entry.failures,
                "failed": sorted(
                    {f"{s}: {note}" for s, note in failed.select("setting", "note").iter_rows()}
                ),
                "training": _training(contender),
                "tuning": contender.tuning,
                "latency_s": dict(timed[0]) if timed else {"single_s": None, "batched_s": None},
            }
        )
    ways = resampled_positions(entry_of(ceiling))[0, :, 0]
    without = [setting.name for setting, way in zip(settings, ways, strict=True) if np.isnan(way)]
    return {
        "floor": FLOOR,
        "ceiling": ceiling,
        "baseline": baseline,
        "instances": instances,
        "settings": {setting.name: setting.shift for setting in settings},
        "resamples": RESAMPLES,
        "no_way": without,
        "entries": rows,
    }


def _training(contender: Contender) -> dict[str, Any]:
    """Means over the training runs for which they are known."""
    found: dict[str, Any] = {}
    for name in ("steps", "wall_s"):
        values = [getattr(run, name) for run in contender.runs if getattr(run, name) is not None]
        found[name] = float(np.mean(values)) if values else None
    found["seeds"] = [run.seed for run in contender.runs]
    found["unfinished"] = sum(bool(run.status) for run in contender.runs)
    return found


def number(value: float) -> float | None:
    """A number as JSON has it: None for NaN."""
    return None if np.isnan(value) else value


def plain(estimate: Estimate) -> dict[str, float | None]:
    """`value`, `low` and `high` as JSON has them."""
    return {name: number(float(x)) for name, x in vars(estimate).items()}


def print_report(console: Console, summary: Mapping[str, Any]) -> None:
    """The ranking, positions by what is new in a setting, failures, and what the figures mean."""
    rows = sorted(summary["entries"], key=lambda row: -(row["iqm"]["value"] or 0))
    split = summary["split"]
    console.print(
        f"{split['problem']}, {split['name']} split {split['sha256']}: {len(summary['settings'])} settings x "
        f"{summary['instances']} instances. Percent of the way from {summary['floor']} to {summary['ceiling']}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    # Where some entries played fewer instances than others, how many is a column.
    fewer = any(row["instances"] < summary["instances"] for row in rows)
    columns = ("runs", "IQM [95 %]", f"mean over {summary['baseline']} [95 %]", "better", "failures")
    table = table_of((*columns, "n") if fewer else columns)
    for row in rows:
        cells = [
            row["entry"] + row["marks"],
            str(row["training_runs"] or "-"),
            interval_text(row["iqm"]),
            interval_text(row["over_baseline"], "+"),
            _one(row["improvement"]["value"], 100, ".0f"),
            str(row["failures"] or "-"),
        ]
        table.add_row(*cells, *([str(row["instances"])] if fewer else []))
    console.print(table)
    console.print(
        f"better: percent of instances on which it returns more than {summary['baseline']}, ties counting half\n",
        markup=False,
        highlight=False,
    )
    console.print("Cost", style="bold", markup=False)
    table = table_of(("steps", "training s", "decision us", f"us, one of {BATCH}"))
    for row in rows:
        training, latency = row["training"], row["latency_s"]
        table.add_row(
            row["entry"] + row["marks"],
            _one(training["steps"], 1, ",.0f"),
            _one(training["wall_s"], 1, ",.0f"),
            _one(latency["single_s"], 1e6, ".1f"),
            _one(latency["batched_s"], 1e6, ".2f"),
        )
    console.print(table)
    shifts = list(rows[0]["by_shift"])
    console.print("\nMean position by what is new in a setting", style="bold", markup=False)
    counts = list(summary["settings"].values())
    table = table_of([f"{shift} ({counts.count(shift)})" for shift in shifts])
    for row in rows:
        table.add_row(
            row["entry"] + row["marks"], *(_one(row["by_shift"][s]["value"], 100, ".1f") for s in shifts)
        )
    console.print(table)
    _notes(console, summary, rows)


def table_of(columns: Sequence[str], first: str = "entry") -> Table:
    """A table of the report: names on the left under `first`, then columns of figures."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _notes(console: Console, summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    notes = [f"tuned: {row['entry']}: {row['tuning']}" for row in rows if row["tuning"]]
    for row in rows:
        failed = row["failed"]
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            notes.append(f"failed, counted as {summary['floor']}: {row['entry']}: {failed[0]}{more}")
    notes += [
        f"fewer: {row['entry']}: the first {row['instances']} of {summary['instances']} instances of each setting; "
        f"its differences from {summary['baseline']} are on the instances that both played"
        for row in rows
        if row["instances"] < summary["instances"]
    ]
    notes += [f"short: {text}" for text in summary["shortages"]]
    notes += [f"left out: {name} needs the trace {trace}" for name, trace in summary["left_out"].items()]
    notes += [f"no way from floor to ceiling, left out of positions: {name}" for name in summary["no_way"]]
    marks = "".join(row["marks"] for row in rows)
    if "*" in marks:
        notes.append("* privileged: reads what no scheduler can see")
    if "†" in marks:
        notes.append("† tuned on settings of this split, or on what it holds out")
    if summary["ceiling"] == "oracle":
        notes.append("oracle: the best next step, not the best episode, so other entries may exceed it")
    if notes:
        console.print()
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _one(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else f"{factor * value:{form}}"


def interval_text(figure: Mapping[str, float | None], sign: str = "") -> str:
    """A share and its interval in percent; without a decimal where an end is 1000 % and more."""
    value, low, high = (figure[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    digits = 1 if max(abs(x) for x in (value, low, high) if x is not None) < 10 else 0

    def text(share: float, sign: str = "") -> str:
        return f"{round(100 * share, digits) + 0.0:{sign}.{digits}f}"  # -0.0 is 0

    return (
        text(value, sign)
        if low is None or high is None
        else f"{text(value, sign)} [{text(low)}, {text(high)}]"
    )


def leaderboard_figure(summary: Mapping[str, Any]) -> bytes:
    """Interquartile means with intervals, and performance profiles with bands; PNG."""
    # Pictures alone need it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from experiments.common.plots import MARKERS, PALETTE, STYLE

    rows = sorted(summary["entries"], key=lambda row: -(row["iqm"]["value"] or 0))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.2 + 0.28 * len(rows)), dpi=200, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        for i, row in enumerate(rows):
            colour, marker = PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]
            face = "white" if row["marks"] else colour
            value = row["iqm"]["value"]
            if value is not None:
                low, high = (value if row["iqm"][end] is None else row["iqm"][end] for end in ("low", "high"))
                left.errorbar(
                    [value],
                    [i],
                    xerr=[[value - low], [high - value]],
                    color=colour,
                    marker=marker,
                    markerfacecolor=face,
                    markersize=5,
                    elinewidth=1.2,
                )
            if row["entry"] in (summary["floor"], summary["ceiling"]):
                continue
            profile = row["profile"]
            if profile["share"][0] is None:
                continue
            right.plot(
                profile["levels"],
                profile["share"],
                "--" if row["marks"] else "-",
                color=colour,
                linewidth=1.3,
                marker=marker,  # of panel a, for colours recur; from another level on where lines lie together
                markerfacecolor=face,
                markersize=4,
                markevery=(i % 8, 8),
                label=_label(row),
            )
            if profile["low"][0] is not None:
                right.fill_between(
                    profile["levels"], profile["low"], profile["high"], color=colour, alpha=0.1, linewidth=0
                )
        left.set_yticks(range(len(rows)), [_label(row) for row in rows])
        left.invert_yaxis()
        left.tick_params(axis="y", length=0)
        for x in (0, 1):
            left.axvline(x, color="0.4", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        left.set_xlabel(f"interquartile mean, {summary['floor']} = 0, {summary['ceiling']} = 1")
        left.set_title("a  Position (95 % intervals)")
        right.set_xlim(float(LEVELS[0]), float(LEVELS[-1]))
        right.set_ylim(0, 1.02)
        right.set_xlabel("position")
        right.set_ylabel("share of runs and settings above it")
        right.set_title("b  Performance profiles (pointwise 95 % bands)")
        right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        for axes in (left, right):
            axes.grid(axis="x", color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
        image = io.BytesIO()
        figure.savefig(image, format="png")
    return image.getvalue()


def _label(row: Mapping[str, Any]) -> str:
    runs = f" ({row['training_runs']})" if row["training_runs"] else ""
    return f"{row['entry']}{row['marks']}{runs}"
