"""Entries on a split: positions between the floor and the ceiling, with intervals over training runs and instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from experiments.arena.entries import FLOOR, Entry
from experiments.arena.estimators.runs import (
    RESAMPLES,
    Earnings,
    aggregate,
    improvement,
    mean_over,
    paired_difference,
    performance_profile,
    resampled_positions,
)
from experiments.arena.estimators.seeds import number, plain
from experiments.splitting.definition import SHIFTS, Setting
from papi_env.kernel import FloatArray

# Of the frame, what results.csv holds.
COLUMNS = ("entry", "run", "setting", "shift", "seed", "played", "return", "note")
# Positions at which performance profiles are drawn. chosen: from well below random choice to just above the ceiling.
LEVELS = np.round(np.arange(-0.5, 1.1001, 0.02), 2)


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
    entries: Sequence[Entry],
    settings: Sequence[Setting],
    instances: int,
    ceiling: str,
    baseline: str,
    latencies: Mapping[str, Mapping[str, float | None]],
) -> dict[str, Any]:
    """What summary.json holds, but for the split.

    Args:
        frame: from `collect`.
        entries, settings: in the order of the tables.
        instances: of every setting.
        ceiling, baseline: entries of the frame.
        latencies: seconds of a decision by policy.
    """
    floor, top = (returns_of(frame, label, settings, instances)[0] for label in (FLOOR, ceiling))

    def earnings_of(label: str) -> Earnings:
        returns = returns_of(frame, label, settings, instances)
        played = min(returns.shape[2], top.shape[1])
        return Earnings(returns[..., :played], floor[:, :played], top[:, :played])

    other = earnings_of(baseline)
    shifts = [setting.shift for setting in settings]
    rows = []
    for entry in entries:
        earned = earnings_of(entry.label)
        positions, played = resampled_positions(earned), earned.instances
        # Differences are between what both played.
        common = min(played, other.instances)
        ours, theirs = earned.first(common), other.first(common)
        profile = performance_profile(positions, played, LEVELS)
        failed = frame.filter((pl.col("entry") == entry.label) & pl.col("note").is_not_null())
        timed = [latencies[p] for p in entry.policies if p is not None and p in latencies]
        rows.append(
            {
                "entry": entry.label,
                "marks": entry.marks,
                "policies": list(entry.policies),
                "runs": earned.returns.shape[0],
                "training_runs": len(entry.runs),
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
                "failures": earned.failures,
                "failed": sorted(
                    {f"{s}: {note}" for s, note in failed.select("setting", "note").iter_rows()}
                ),
                "training": _training(entry),
                "tuning": entry.tuning,
                "latency_s": dict(timed[0]) if timed else {"single_s": None, "batched_s": None},
            }
        )
    ways = resampled_positions(earnings_of(ceiling))[0, :, 0]
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


def _training(entry: Entry) -> dict[str, Any]:
    """Means over the training runs for which they are known."""
    found: dict[str, Any] = {}
    for name in ("steps", "wall_s"):
        values = [getattr(run, name) for run in entry.runs if getattr(run, name) is not None]
        found[name] = float(np.mean(values)) if values else None
    found["seeds"] = [run.seed for run in entry.runs]
    found["unfinished"] = sum(bool(run.status) for run in entry.runs)
    return found
