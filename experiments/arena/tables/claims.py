"""What is printed of claims: groups, worst settings and single runs, by comparator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from experiments.arena.estimators.runs import BEHIND
from experiments.arena.tables.text import interval_text, table_of


def print_report(console: Console, summary: Mapping[str, Any]) -> None:
    """Tables of each challenger, from `summaries.claims.summarize`, and notes."""
    for row in summary["challengers"]:
        many = row["training_runs"]
        trained = "" if not many else f" ({many} training run{'s' * (many > 1)})"
        console.print(
            f"\n{name_of(row)}{trained}: mean return above others', percent [95 %]; {summary['better']}",
            style="bold",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        labels = labels_of(summary) + (["best run", "worst run"] if many > 1 else [])
        columns = []
        for other in row["against"]:
            columns.append([name_of(other), *(interval_text(figure, "+") for figure in figures_of(other))])
            if many > 1:
                columns[-1] += [_run(other["runs"], which) for which in ("best", "worst")]
        for part in _side_by_side(columns, console.width - max(map(len, labels))):
            table = table_of([column[0] for column in part], summary["grouped_by"])
            for i, label in enumerate(labels, start=1):
                table.add_row(label, *(column[i] for column in part))
            console.print(table)
        console.print()
        table = table_of(("worst [95 %]", "in the setting"), "against")
        for other in row["against"]:
            worst = other["worst"]
            cells = ("-", "") if worst is None else (interval_text(worst, "+"), worst["setting"])
            table.add_row(name_of(other), *cells)
        console.print(table)
        if many > 1:
            console.print()
            titles = (f"over {100 * BEHIND:.0f} % behind", "worst single run", "in the setting")
            table = table_of(titles, "against")
            for other in row["against"]:
                found = other["worst_of_one_run"]
                row_of = ["-", "-", ""]
                if found is not None:
                    count = f"{found['behind']} of {found['pairs']}"
                    row_of = [count, _one_run(found), found["setting"]]
                table.add_row(name_of(other), *row_of)
            console.print(table)
    for note in _notes(summary):
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def name_of(row: Mapping[str, Any]) -> str:
    """An entry's label and what marks it."""
    return f"{row['entry']}{row['marks']}"


def labels_of(summary: Mapping[str, Any]) -> list[str]:
    """Groups with how many settings they have, those at full load where loads are known, and all settings."""
    counts = {group: len(members) for group, members in summary["groups"].items()}
    labels = [f"{group} ({count})" for group, count in counts.items()]
    loaded = summary.get("at_full_load")  # not in folders of earlier versions
    if loaded:
        labels.append(f"{len(loaded)} groups at load 1 and above")
    return [*labels, f"all settings ({sum(counts.values())})"]


def figures_of(other: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Relative differences from a comparator, in the order of `labels_of`."""
    loaded = other.get("at_full_load")
    return [*other["groups"].values(), *([loaded] if loaded else []), other["all"]]


def _run(runs: Mapping[str, Any] | None, which: str) -> str:
    return "-" if runs is None else _one_run(runs[which])


def _one_run(run: Mapping[str, Any]) -> str:
    label = f"run {run['run']}" if run["seed"] is None else f"seed {run['seed']}"
    return f"{interval_text({'value': run['value'], 'low': None, 'high': None}, '+')} ({label})"


def _side_by_side(columns: Sequence[Sequence[str]], width: int) -> list[list[Sequence[str]]]:
    """Columns of text in as few tables as a width allows, one column at least in each."""
    tables: list[list[Sequence[str]]] = []
    left = 0
    for column in columns:
        needed = 1 + max(map(len, column))
        if not tables or needed > left:
            tables.append([])
            left = width
        tables[-1].append(column)
        left -= needed
    return tables


def _notes(summary: Mapping[str, Any]) -> list[str]:
    if not summary["challengers"]:
        return []
    notes = [
        "",
        "groups: the mean over their settings, each weighing the same, of (mean return - other's) / |other's|; "
        "intervals over training runs and instances",
        "worst setting: its own interval, which does not allow for its having been picked",
    ]
    if any(row["training_runs"] > 1 for row in summary["challengers"]):
        notes.append("behind: of all pairs of a training run and a setting, by the mean over instances")
    if summary.get("at_full_load"):
        notes.append("at load 1 and above: each group weighs the same, by its settings there")
    for row in summary["challengers"]:
        for other in row["against"]:
            pair = f"{row['entry']} against {other['entry']}"
            if other["instances"] < summary["instances"]:
                notes.append(f"fewer: {pair}: the first {other['instances']} instances of each setting")
            if other["left_out"]:
                names = ", ".join(other["left_out"])
                notes.append(f"left out: {pair}: {other['entry']} cannot play, or returns 0: {names}")
    return list(dict.fromkeys(notes))
