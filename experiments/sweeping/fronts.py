"""What a sweep says: designs by scheduler, those that nothing dominates, and the answer to its question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from experiments.arena.entries import is_privileged
from experiments.common.progress import Score
from experiments.sweeping.definition import REFUSALS, Question, Scheduler, Sweep


def scored(rows: pl.LazyFrame, sweep: Sweep, scheduler: Scheduler) -> pl.DataFrame:
    """A row for each design that fits and plays every scenario, with the scheduler's best policy on it.

    Columns: design, the paths, policy, and the objectives: the mean over seeds, then over scenarios.
    """
    names = [one.measure for one in sweep.objectives]
    # The return chooses the policy, and may be an objective too.
    wanted = list(dict.fromkeys((*names, "return")))
    means = (
        rows.filter(pl.col("refused").is_null() & pl.col("policy").is_in(scheduler.policies))
        .group_by("design", *sweep.paths, "policy", "scenario")
        .agg(pl.col(name).mean() for name in wanted)
        .drop_nulls(names)
        .group_by("design", *sweep.paths, "policy")
        .agg(*(pl.col(name).mean() for name in wanted), pl.len().alias("scenarios"))
        .filter(pl.col("scenarios") == len(sweep.scenarios))
        .collect()
    )
    # Of equal policies the one that is named first.
    order = {policy: k for k, policy in enumerate(scheduler.policies)}
    rank = pl.col("policy").replace_strict(order, return_dtype=pl.Int64)
    best = means.with_columns(rank.alias("rank")).sort(
        ["design", "return", "rank"], descending=[False, True, False]
    )
    return best.unique("design", keep="first", maintain_order=True).select(
        "design", *sweep.paths, "policy", *names
    )


def front(designs: pl.DataFrame, sweep: Sweep) -> pl.DataFrame:
    """The designs that no other one dominates, the best in the first objective first."""
    signs = [-1.0 if one.goal == "max" else 1.0 for one in sweep.objectives]
    names = [one.measure for one in sweep.objectives]
    values = designs.select(names).to_numpy() * signs if len(designs) else np.zeros((0, len(names)))
    kept = designs.filter(pl.Series(undominated(values), dtype=pl.Boolean))
    return kept.sort([names[0], "design"], descending=[sweep.objectives[0].goal == "max", False])


def undominated(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which rows no other row dominates, bool [n]; `values` [n, objectives], less is better."""
    kept = np.zeros(len(values), dtype=np.bool_)
    chosen = np.zeros((0, values.shape[1]))
    # What dominates a row comes before it in this order.
    for k in np.lexsort(values.T[::-1]):
        row = values[k]
        if not ((chosen <= row).all(axis=1) & (chosen < row).any(axis=1)).any():
            kept[k] = True
            chosen = np.vstack((chosen, row))
    return kept


def answer(designs: pl.DataFrame, sweep: Sweep, question: Question) -> dict[str, Any]:
    """How the question's values fare wherever all other axes stand the same.

    Returns:
        `settings`: how many settings of the other axes have the asked values; `best`: of them, in how many they are
        the best in the first objective; `undominated`: in how many nothing with other values dominates them; `gain`:
        by how much the best beats them there, the mean ratio in the first objective less 1; `others`: what is best,
        and in how many.
    """
    objective = sweep.objectives[0]
    others = [path for path in sweep.paths if path not in question.paths]
    asked = pl.all_horizontal(
        pl.col(path).cast(pl.String) == pl.lit(value).cast(designs.schema[path]).cast(pl.String)
        for path, value in zip(question.paths, question.values, strict=True)
    )
    counts: dict[str, int] = {}
    settings = best = free = 0
    gains: list[float] = []
    groups = designs.partition_by(others, maintain_order=True) if others else [designs]
    for group in groups:
        at = group.select(asked.alias("asked"))["asked"].to_numpy().astype(bool)
        if not at.any():
            continue
        settings += 1
        values = group[objective.measure].to_numpy()
        top = int(np.argmax(values) if objective.goal == "max" else np.argmin(values))
        mine = values[at].max() if objective.goal == "max" else values[at].min()
        best += bool(mine == values[top])
        ratio = values[top] / mine if objective.goal == "max" else mine / values[top]
        gains.append(float(ratio) - 1)
        name = ", ".join(
            f"{group[path][top]:g}" if group[path].dtype.is_numeric() else str(group[path][top])
            for path in question.paths
        )
        counts[name] = counts.get(name, 0) + 1
        free += bool(set(front(group, sweep)["design"]) & set(group["design"].to_numpy()[at].tolist()))
    return {
        "settings": settings,
        "best": best,
        "undominated": free,
        "gain": float(np.mean(gains)) if gains else None,
        "others": dict(sorted(counts.items(), key=lambda item: -item[1])),
    }


def best_designs(sweep: Sweep, text: bytes) -> Iterator[Score]:
    """Designs of a job by the first objective under the first scheduler, for --watch; `text` is the job's CSV."""
    one, scheduler = sweep.objectives[0], sweep.schedulers[0]
    rows = pl.read_csv(text, infer_schema_length=None)
    for row in scored(rows.lazy(), sweep, scheduler).iter_rows(named=True):
        value = float(row[one.measure])
        shown = f"{one.measure} {value:.4g}"
        yield Score("", f"design {row['design']}", value if one.goal == "max" else -value, shown)


def summarize(rows: pl.LazyFrame, sweep: Sweep) -> tuple[dict[str, Any], Mapping[str, pl.DataFrame]]:
    """What summary.json holds, and the designs by scheduler."""
    # A search may try a design twice.
    designs = {
        one.name: scored(rows, sweep, one).unique(sweep.paths, keep="first", maintain_order=True)
        for one in sweep.schedulers
    }
    counted = (
        rows.filter(pl.col("refused").is_not_null()).group_by("refused").agg(pl.col("design").n_unique())
    )
    refused = dict(counted.collect().iter_rows())
    schedulers = {}
    for one in sweep.schedulers:
        found = designs[one.name]
        fits = rows.filter(pl.col("refused").is_null() & pl.col("policy").is_in(one.policies))
        distinct = fits.select(sweep.paths).unique().select(pl.len()).collect().item()
        schedulers[one.name] = {
            "policies": list(one.policies),
            "privileged": [policy for policy in one.policies if is_privileged(policy)],
            "designs": len(found),
            # They do not fit all scenarios, or nothing was measured that an objective asks for.
            "unscored": distinct - len(found),
            "chosen": dict(found["policy"].value_counts(sort=True).iter_rows()),
            "front": front(found, sweep).to_dicts(),
            "answer": None if sweep.question is None else answer(found, sweep, sweep.question),
        }
    summary = {
        "sweep": sweep.name,
        "designs": sweep.size,
        "refused": {name: refused.get(name, 0) for name in REFUSALS},
        "objectives": [one.model_dump() for one in sweep.objectives],
        "schedulers": schedulers,
    }
    return summary, designs


def scores_of(frame: pl.DataFrame, sweep: Sweep, numbers: Sequence[int]) -> list[list[float] | None]:
    """The objectives of designs under the first scheduler, which a search follows; None for what does not fit."""
    found = scored(frame.lazy(), sweep, sweep.schedulers[0])
    names = [one.measure for one in sweep.objectives]
    values = {row["design"]: [row[name] for name in names] for row in found.iter_rows(named=True)}
    return [values.get(number) for number in numbers]
