"""What a distilled tree keeps of its teacher, which size keeps enough, and how it is printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.arena.estimators.seeds import position_estimate
from experiments.arena.measures import BATCH
from experiments.common.command import say
from experiments.common.statistics import Estimate
from experiments.distilling.rules import PAPI_RULES
from papi_env.kernel import FloatArray

# What may be lost where there is no gain to keep, as a share of the return. chosen: a thousandth (range 1e-4 to 1e-2).
NO_GAIN_LOSS = 1e-3


def choose_size(
    returns: Mapping[int, FloatArray], teacher: FloatArray, baseline: FloatArray, keep: float
) -> int:
    """The fewest leaves that keep the share of the gain; if none does, those with the highest return.

    Of many sizes one looks better than it is, so the low end of the interval over seeds must keep the share, not the
    mean alone (with one seed there is no interval, and the mean must).

    Args:
        returns: by leaves, [settings, seeds].
        teacher, baseline: on the same instances.
        keep: share of teacher - baseline; where that is no gain, all but a thousandth of the return is kept.
    """
    least = teacher.mean() - NO_GAIN_LOSS * abs(teacher.mean())

    def enough(values: FloatArray) -> bool:
        kept = kept_figures({"teacher": teacher, "baseline": baseline, "tree": values})["kept"]
        if kept["value"] is None:
            return bool(values.mean() >= least)
        return bool((kept["value"] if kept["low"] is None else kept["low"]) >= keep)

    sizes = [size for size, values in returns.items() if enough(values)]
    return min(sizes) if sizes else max(returns, key=lambda size: (returns[size].mean(), -size))


def kept_figures(returns: Mapping[str, FloatArray]) -> dict[str, Any]:
    """Gain kept and return lost, from returns [settings, seeds] of "teacher", "baseline" and "tree".

    Returns:
        `returns`: means; `kept`: (tree - baseline) / (teacher - baseline) of the means over settings, with the 95 %
        interval over seeds, None where the teacher gains nothing; `loss_of_return`: (teacher - tree) / |teacher|.
    """
    means = {name: float(values.mean()) for name, values in returns.items()}
    by_seed = {name: values.mean(axis=0) for name, values in returns.items()}
    kept = position_estimate(by_seed["tree"], by_seed["baseline"], by_seed["teacher"])
    return {
        "returns": means,
        "kept": _plain(kept),
        "loss_of_return": (means["teacher"] - means["tree"]) / max(abs(means["teacher"]), 1e-300),
    }


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {name: None if np.isnan(x) else float(x) for name, x in vars(estimate).items()}


def print_report(console: Console, summary: Mapping[str, Any], rule: str) -> None:
    """What is kept, sizes, times, and the rule beside PAPI's."""
    settings = len(summary["settings"])
    console.print(
        f"{summary['teacher']} on {summary['problem']}, {settings} setting(s): {summary['leaves']} leaves, "
        f"depth {summary['depth']}, from {summary['samples']:,} samples",
        markup=False,
        highlight=False,
    )
    returns, kept = summary["returns"], summary["kept"]
    if kept["value"] is None:
        text = f"the teacher gains nothing over {summary['baseline']}"
    else:
        between = "" if kept["low"] is None else f" [{kept['low']:.1%}, {kept['high']:.1%}]"
        text = f"keeps {kept['value']:.1%}{between} of the gain over {summary['baseline']}"
    say(
        console,
        f"{text}; return {returns['baseline']:.6g} ({summary['baseline']}), {returns['teacher']:.6g} (teacher), "
        f"{returns['tree']:.6g} (tree): {summary['loss_of_return']:.3%} lost",
    )
    by_leaves = ", ".join(f"{leaves}: {value:.6g}" for leaves, value in summary["returns_by_leaves"].items())
    say(console, f"return by leaves, where the size was chosen: {by_leaves}")
    table = Table(box=None, pad_edge=False)
    for name in ("", "bytes", "us, one of a compiled loop", "us, one call", f"us, one of {BATCH}"):
        table.add_column(name, justify="right" if name else "left")
    times = summary["decision_s"]
    for name, size, compiled in (
        ("tree", summary["bytes"]["tables"], times["compiled"]),
        ("teacher", summary["bytes"].get("network"), None),
        ("baseline", None, None),
    ):
        row = times[name]
        table.add_row(
            name,
            "-" if size is None else f"{size:,}",
            "-" if compiled is None else f"{1e6 * compiled:.4f}",
            f"{1e6 * row['single']:.1f}",
            "-" if row["batched"] is None else f"{1e6 * row['batched']:.3f}",
        )
    console.print(table)
    console.print("\nThe rule [share of decisions]", style="bold", markup=False)
    say(console, rule)
    console.print("\nPAPI's", style="bold", markup=False)
    say(console, PAPI_RULES[summary["problem"]])
