"""What tables share: names with their marks, figures with their intervals, and notes below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from experiments.common.statistics import (
    ENOUGH_SEEDS,
)

# Letters of an entry's name in a picture. chosen: what leaves the axes half of the narrowest one; range 30-60.
_LONGEST = 48


def marked(row: Mapping[str, Any]) -> str:
    """An entry's name with what its row says of it: * for privileged, † where it does not fit every setting."""
    return row["entry"] + "*" * row["privileged"] + "†" * bool(row["does_not_fit"])


def picture_label(row: Mapping[str, Any]) -> str:
    """The same for a picture: of a long path to a learned policy its end, or nothing is left of the axes."""
    entry = row["entry"]
    return marked(row if len(entry) <= _LONGEST else {**row, "entry": "…" + entry[1 - _LONGEST :]})


def notes_on_rows(
    rows: Sequence[Mapping[str, Any]], seeds: int, seen: str, noun: str, whole: int
) -> list[str]:
    """Lines about too few seeds, privileged entries, and entries that do not fit everywhere.

    Args:
        rows: of the table.
        seeds: how many.
        seen: what privileged entries read, in words.
        noun: what an entry is played on, "settings" or "scenarios", also the name of the rows' count of them.
        whole: how many of them there are.
    """
    lines = []
    if seeds < ENOUGH_SEEDS:
        lines.append(
            f"Fewer than {ENOUGH_SEEDS} seeds are too few for a 95 % interval: these hold less often."
        )
    if any(row["privileged"] for row in rows):
        lines.append(f"* privileged: reads {seen}.")
    for row in rows:
        if row["does_not_fit"]:
            more = len(row["does_not_fit"]) - 1
            also = f" (and {more} more, in summary.json)" if more else ""
            lines.append(
                f"† {row['entry']} does not fit everywhere: {row['does_not_fit'][0]}{also} Its row covers "
                f"{row[noun]} of {whole} {noun}."
            )
    return lines


def table_of(columns: Sequence[str], first: str = "entry") -> Table:
    """A table of the report: names on the left under `first`, then columns of figures."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def interval_text(figure: Mapping[str, float | None], sign: str = "") -> str:
    """A share and its interval in percent; without a decimal where an end is 1000 % and more."""
    value, low, high = (figure[name] for name in ("value", "low", "high"))
    if value is None:
        return "-"
    digits = 1 if max(abs(x) for x in (value, low, high) if x is not None) < 10 else 0

    def text(share: float, sign: str = "") -> str:
        return f"{round(100 * share, digits) + 0.0:{sign}.{digits}f}"  # -0.0 is 0

    return bracketed(
        text(value, sign), None if low is None else text(low), None if high is None else text(high)
    )


def bracketed(value: str | None, low: str | None, high: str | None) -> str:
    """`value [low, high]`, without the brackets where there is no interval; a dash for no value."""
    if value is None:
        return "-"
    return value if low is None or high is None else f"{value} [{low}, {high}]"


def scaled(value: float | None, factor: float, form: str) -> str:
    """A figure in another unit, as the format says; a dash for none."""
    return "-" if value is None else f"{factor * value:{form}}"


def shown(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries that were asked for."""
    return [row for row in summary["entries"] if not row["reference"]]


def of_baseline(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of the entry that the others are measured against."""
    return next(row for row in summary["entries"] if row["entry"] == summary["baseline"])


def own_systems(summary: Mapping[str, Any]) -> list[str]:
    """Where a name means another machine than the registered one, a line each."""
    return [
        f"In {name}, {system} is the scenario's own system, not the registered one."
        for name, system in summary["own_systems"].items()
    ]


def how_it_ran(summary: Mapping[str, Any], session: Mapping[str, Any], assumed: str = "") -> list[str]:
    """The last lines below the tables of a comparison: what was assumed of the machines, and the time it took.

    Args:
        summary: of the comparison.
        session: its entry in run.json.
        assumed: a sentence besides.
    """
    used = [*summary["readings"]["gpu_bandwidth"], *summary["readings"]["bank_rate"]]
    if summary["constants"] != "plain":
        used.append("constants of experiments.reproduce")
    reused = session["jobs_reused"]
    again = f", {reused} jobs taken from earlier sessions" if reused else ""
    return [
        f"Readings: {', '.join(used)}. {assumed}{summary['problem']}.",
        f"{session['wall_s']:.1f} s on {session['cores']} cores{again}.",
    ]
