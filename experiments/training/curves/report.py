"""From the validations of training runs to learning curves over groups of runs, a table and a figure.

A group's curve is the interquartile mean over its runs where every one of them has got to: from the latest first
validation to the earliest last one, so that a run that ended early does not make the mean jump. Between two
validations a run's curve is straight.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from experiments.arena.estimators.runs import interquartile_mean, resampled_runs
from experiments.common.command import say
from experiments.common.statistics import interval_levels
from experiments.training.curves.data import Curve, Groups, Validation, XAxis, YAxis, read_groups
from experiments.training.scores import scored
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Band = Literal["bootstrap", "range"]
BANDS: Mapping[Band, str] = {
    "bootstrap": "95 % bootstrap interval",
    "range": "from the lowest to the highest run",
}
# Percent. chosen: regrets below it are rounding (range 1e-6-0.01); a logarithmic axis is linear from there to 0.
_LEAST_REGRET = 1e-3
_DASHES = (
    (0, (5, 2)),
    (0, (1, 1.3)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (2, 2)),
    (0, (9, 2, 2, 2, 2, 2)),
    (0, (10, 3)),
)
_MARKERS_A_LINE = 12


def curves_figure(
    runs: Sequence[str | Path],
    references: Mapping[str, float] | None = None,
    *,
    x: XAxis = "steps",
    y: YAxis = "return",
    band: Band = "bootstrap",
    y_limits: tuple[float, float] | None = None,
) -> bytes:
    """Learning curves of training runs as PNG.

    Args:
        runs: folders of `experiments.train`, or LABEL=FOLDER; a Path is a folder whatever it is called.
        references: values of horizontal lines by label, in the unit of the y axis (regret in percent), such as from
            `reference_values`; a label that ends with * is explained as privileged.
        x: environment steps, or wall-clock seconds of training.
        y: validation return, or regret in percent.
        band: around the interquartile mean of several runs.
        y_limits: ends of the y axis in its unit, the lower one first; None shows everything.

    Raises:
        ConfigurationError, DataError: see `read_groups`; or limits that are none.
    """
    check_limits(y_limits, y)
    groups, validation = read_groups(runs, y)
    return draw(summarize(groups, validation, references or {}, x, y, band), y_limits)


def check_limits(limits: tuple[float, float] | None, y: YAxis) -> None:
    """Raise ConfigurationError where they are no ends of the y axis."""
    if limits is None:
        return
    low, high = limits
    if not -math.inf < low < high < math.inf or (y == "regret" and high <= 0):
        above = ", the upper one above 0" if y == "regret" else ""
        raise ConfigurationError(
            f"--y-limits are {low:g} {high:g}, expected the lower and the upper end{above}"
        )


def curve_frame(groups: Groups) -> pl.DataFrame:
    """A row for every validation of every run: what curves.csv holds."""
    return pl.concat(
        pl.DataFrame(
            {
                "group": [label] * len(curve.steps),
                "run": [str(curve.folder)] * len(curve.steps),
                "seed": [curve.seed] * len(curve.steps),
                "steps": curve.steps.astype(np.int64),
                "simulated_s": curve.simulated_s,
                "wall_s": curve.wall_s,
                "return": curve.returns,
                "regret_percent": np.full(len(curve.steps), np.nan) if curve.regret is None else curve.regret,
            }
        ).with_columns(pl.col("regret_percent").fill_nan(None))
        for label, curves in groups.items()
        for curve in curves
    )


def aggregate_curve(
    curves: Sequence[Curve], x: XAxis, y: YAxis, band: Band
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """A group's curve: x, interquartile mean, and the lower and upper end of its band, float64 [points] each.

    Points are the runs' own where all have the same, else as many as the longest run has, evenly spaced. One run is
    its own mean and band. Empty where the runs have no stretch in common.
    """
    grids = [curve.x(x) for curve in curves]
    if all(np.array_equal(grid, grids[0]) for grid in grids):
        at = grids[0]
    else:
        begin, end = max(grid[0] for grid in grids), min(grid[-1] for grid in grids)
        at = np.linspace(begin, end, max(map(len, grids))) if begin <= end else np.empty(0)
    values = np.stack([np.interp(at, grid, curve.y(y)) for grid, curve in zip(grids, curves, strict=True)])
    mean = interquartile_mean(values)
    if band == "range" or len(curves) == 1:
        return at, mean, values.min(axis=0), values.max(axis=0)
    drawn = resampled_runs(len(curves), 1)[:, 0, 1:]
    levels = interval_levels(len(curves))
    # Point by point: all resamples of all points at once would be large.
    ends = np.array([np.quantile(interquartile_mean(point[drawn]), levels) for point in values.T]).reshape(
        -1, 2
    )
    return at, mean, np.minimum(ends[:, 0], mean), np.maximum(ends[:, 1], mean)


def summarize(
    groups: Groups,
    validation: Validation,
    references: Mapping[str, float],
    x: XAxis,
    y: YAxis,
    band: Band,
) -> dict[str, Any]:
    """What summary.json holds, and table and figure show.

    Args:
        groups: runs by label.
        validation: of all of them.
        references: what is drawn as horizontal lines, in the unit of the y axis (regrets in percent).
        x, y, band: what is drawn.
    """
    rows = []
    for label, curves in groups.items():
        at, mean, low, high = aggregate_curve(curves, x, y, band)
        best = [int(np.argmax(curve.returns)) for curve in curves]
        rows.append(
            {
                "group": label,
                "runs": len(curves),
                "seeds": [curve.seed for curve in curves],
                "steps": float(np.mean([curve.steps[-1] for curve in curves])),
                "wall_s": float(np.mean([curve.wall_s[-1] for curve in curves])),
                "first": _over_runs([curve.y(y)[0] for curve in curves]),
                "best": _over_runs([curve.y(y)[k] for curve, k in zip(curves, best, strict=True)]),
                "last": _over_runs([curve.y(y)[-1] for curve in curves]),
                "curve": {"x": at.tolist(), "iqm": mean.tolist(), "low": low.tolist(), "high": high.tolist()},
                "single": [{"x": curve.x(x).tolist(), "y": curve.y(y).tolist()} for curve in curves],
                "notes": _notes(label, curves),
            }
        )
    return {
        "problem": validation.env_id,
        "settings": len(validation.settings),
        "episodes": validation.episodes,
        "x": x,
        "y": y,
        "band": band,
        "groups": rows,
        "references": dict(references),
    }


def _over_runs(values: Sequence[float]) -> dict[str, float]:
    return {
        "iqm": float(interquartile_mean(np.array(values))),
        "low": float(min(values)),
        "high": float(max(values)),
    }


def _notes(label: str, curves: Sequence[Curve]) -> list[str]:
    """Runs that did not finish, or ended before others of their group, in words."""
    furthest = max(curve.steps[-1] for curve in curves)
    found = []
    for curve in curves:
        ended = (
            f"ended at step {curve.steps[-1]:,.0f} of {furthest:,.0f}"
            if curve.steps[-1] < 0.9 * furthest
            else ""
        )
        text = ", ".join(part for part in (curve.status, ended) if part)
        if text:
            found.append(f"{label}: {curve.folder}: {text}")
    return found


def print_report(console: Console, summary: Mapping[str, Any], notes: Sequence[str] = ()) -> None:
    """The table of groups and references, and what the figures mean."""
    regret = summary["y"] == "regret"
    what = "regret in percent of the oracle's cost" if regret else scored(summary["problem"])
    several = any(row["runs"] > 1 for row in summary["groups"])
    over = ": interquartile mean over runs [lowest, highest]" if several else ""
    say(
        console,
        f"{summary['problem']}, {_size(summary)}: validation {what}{over}",
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in ("runs", "steps", "training s", "first", "best", "last"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary["groups"]:
        figures = [row[name] for name in ("first", "best", "last")]
        table.add_row(
            row["group"],
            str(row["runs"]),
            f"{row['steps']:,.0f}",
            f"{row['wall_s']:,.0f}" if row["wall_s"] >= 100 else f"{row['wall_s']:.1f}",
            *(_number(figure["iqm"]) for figure in figures),
        )
        if row["runs"] > 1:
            ranges = (f"[{_number(figure['low'])}, {_number(figure['high'])}]" for figure in figures)
            table.add_row("", "", "", "", *ranges)
    for label, value in summary["references"].items():
        table.add_row(label, "-", "-", "-", "-", _number(value), "-")
    console.print(table)
    for note in (*(note for row in summary["groups"] for note in row["notes"]), *notes):
        say(console, note)
    for note in _marks(summary):
        say(console, note)


def _number(value: float, digits: int = 5) -> str:
    """In so many digits; what is left of a sum that should be 0 is 0."""
    return f"{0.0 if abs(value) < 1e-9 else value:.{digits}g}"


def _size(summary: Mapping[str, Any]) -> str:
    settings, episodes = summary["settings"], summary["episodes"]
    return f"{settings} setting{'s' * (settings > 1)} x {episodes} episode{'s' * (episodes > 1)}"


def _marks(summary: Mapping[str, Any]) -> list[str]:
    """What is meant by the marks behind references."""
    labels = "".join(summary["references"])
    texts = {
        "*": "* privileged: reads what no scheduler can see",
        "†": "† chosen for each setting on other instances",
    }
    return [text for mark, text in texts.items() if mark in labels]


def draw(summary: Mapping[str, Any], y_limits: tuple[float, float] | None = None) -> bytes:
    """Learning curves with bands, single runs as thin lines, references as horizontal ones; PNG.

    Args:
        summary: from `summarize`.
        y_limits: of the y axis in its unit; None shows everything.
    """
    # Pictures alone need it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from experiments.common.plots import MARKERS, PALETTE, STYLE, png

    groups = summary["groups"]
    unit_of_y = " %" if summary["y"] == "regret" else ""
    references = {
        _wrapped(f"{label}: {_number(value, 4)}{unit_of_y}"): value
        for label, value in sorted(summary["references"].items(), key=lambda item: -item[1])
    }
    labels = [_label(row) for row in groups]
    # The legend stands beside the axes and must fit.
    height = 1.2 + 0.08 * (len(labels) + len(references)) + 0.16 * _lines((*labels, *references))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, max(3.7, height)), dpi=200, layout="constrained")
        axes = figure.subplots()
        end = max(run["x"][-1] for row in groups for run in row["single"])
        unit, words = _unit(end, summary["x"])
        # Neighbours differ most; black is for references.
        colours = cycle(PALETTE[k] for k in (1, 4, 5, 2, 3, 0))
        for i, (row, colour, marker) in enumerate(zip(groups, colours, cycle(MARKERS), strict=False)):
            _curve(axes, row, unit, i, colour, marker)
        _references(axes, references)
        axes.set_xlim(*(np.array((-0.015, 1.015)) * (end / unit or 1.0)))
        axes.set_xlabel(words)
        if summary["y"] == "regret":
            _regret_axis(axes, summary)
        else:
            axes.set_ylabel(f"validation {scored(summary['problem'])} (mean)")
        if y_limits is not None:
            # A logarithmic axis cannot begin at 0.
            low = max(y_limits[0], axes.get_ylim()[0]) if axes.get_yscale() == "log" else y_limits[0]
            axes.set_ylim(low, y_limits[1])
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(f"{summary['problem'].rpartition('/')[2]}, validation on {_size(summary)}")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), labelspacing=0.6, handlelength=2.8)
        notes = _marks(summary)
        if any(row["runs"] > 1 for row in groups):
            band = BANDS[summary["band"]]
            notes.insert(0, f"thick: interquartile mean over runs; band: {band}; thin: single runs")
        if notes:
            figure.supxlabel("\n".join(notes), x=0.995, ha="right", fontsize=7.5, color="0.3")
        return png(figure)


def _curve(axes: Axes, row: Mapping[str, Any], unit: float, index: int, colour: str, marker: str) -> None:
    """A group: its runs where there are several, the band, and the curve."""
    curve = row["curve"]
    x = np.array(curve["x"]) / unit
    if row["runs"] > 1:
        for run in row["single"]:
            at = np.array(run["x"]) / unit
            axes.plot(at, run["y"], color=colour, linewidth=0.7, alpha=0.45, zorder=3)
        axes.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.16, linewidth=0, zorder=2)
    every = max(-(-len(x) // _MARKERS_A_LINE), 1)
    axes.plot(
        x,
        curve["iqm"],
        color=colour,
        marker=marker,
        # Groups take turns, so that markers of curves on one another can be told apart.
        markevery=(index % every, every),
        markersize=4.5,
        linewidth=1.8,
        zorder=4,
        label=_label(row),
    )


def _label(row: Mapping[str, Any]) -> str:
    return _wrapped(f"{row['group']} ({row['runs']} runs)" if row["runs"] > 1 else row["group"])


def _wrapped(label: str) -> str:
    return textwrap.fill(label, 26)


def _lines(labels: Sequence[str]) -> int:
    return sum(label.count("\n") + 1 for label in labels)


def _references(axes: Axes, references: Mapping[str, float]) -> None:
    """Dashed lines in greys, in the order of the legend; the values in the labels tell those that coincide."""
    for i, ((label, value), dashes) in enumerate(zip(references.items(), cycle(_DASHES), strict=False)):
        grey = str(0.1 + 0.15 * (i % 4))
        axes.axhline(value, color=grey, linestyle=dashes, linewidth=1.2, zorder=3.5, label=label)


def _unit(end: float, x: XAxis) -> tuple[float, str]:
    """What one unit of the x axis is, and its label."""
    if x == "steps":
        scales = ((1e6, " (millions)"), (1e3, " (thousands)"), (1.0, ""))
        words, least = "environment steps", 2.0
    else:
        scales = ((3600.0, " (h)"), (60.0, " (min)"), (1.0, " (s)"))
        words, least = "training time, validations included", 3.0
    unit, suffix = next(((unit, name) for unit, name in scales if end >= least * unit), scales[-1])
    return unit, words + suffix


def _regret_axis(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Logarithmic; linear around 0 where something has no regret, or less than none."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_ylabel("validation regret:\ncost above the oracle (%)")
    values = np.array([y for row in summary["groups"] for run in row["single"] for y in run["y"]])
    values = np.append(values, list(summary["references"].values()))
    visible = values[values >= _LEAST_REGRET]
    if not visible.size:
        return
    lowest, highest = float(values.min()), float(visible.max())
    if len(visible) == len(values):
        axes.set_yscale("log")
        # Where the axis spans little, decades alone would leave it without labels.
        subs = (1, 2, 5) if highest < 30 * lowest else (1,)
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=subs, numticks=50))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        first = math.floor(math.log10(visible.min()))
        decades = [10.0**k for k in range(first, math.ceil(math.log10(highest)) + 1)]
        axes.set_yscale("symlog", linthresh=decades[0], linscale=0.6)
        below = [-decade for decade in reversed(decades) if lowest <= -0.5 * decade]
        axes.set_yticks([*below, 0.0, *decades])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(min(-0.15 * decades[0], 1.3 * lowest), 1.5 * highest)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
