"""What a claim about an entry rests on: its mean return relative to others', by group of settings, with intervals.

A position between random choice and a ceiling says little of how much is gained over the best rule at hand. Here a
challenger meets comparators: the relative difference of mean returns in each setting, its mean over groups of settings
in which each setting weighs the same, the challenger's worst setting, and its best and worst training run.
`experiments.leaderboard` prints, stores and draws it.

Such a mean is of ratios: settings in which a comparator returns next to nothing pull it up, so look at the groups, and
where two entries lie far apart, at both directions.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from experiments.arena.headroom_report import BEST_FIXED, BEST_THRESHOLD
from experiments.arena.leaderboard_entries import BOUND, CEILINGS, FLOOR, Contender, rules
from experiments.arena.leaderboard_report import interval_text, number, plain, returns_of, table_of
from experiments.arena.leaderboard_statistics import mean_over, resampled_relative
from experiments.splitting.definition import DECODE, KERNELS, SERVING, SHIFTS, Setting
from experiments.splitting.splits import Split
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray

# Comparators where none are named; those that are played are taken.
DEFAULT_AGAINST: Mapping[str, tuple[str, ...]] = {
    DECODE: ("oracle", "optimum", "threshold"),
    KERNELS: ("oracle", "threshold"),
    SERVING: (
        BEST_THRESHOLD,
        "heuristic",
        "profile-greedy",
        "threshold-prefill-spec2",
        BEST_FIXED,
        "oracle",
        "search",
        "portfolio",
        BOUND,
    ),
}
# Groups of Serving-v0 by what is new in a setting; the others are grouped by family of preset.
SERVING_GROUPS = {"model": "unseen model", "window": "trace window", "trace": "unseen trace"}
VISION_STREAM = "vision-stream"
# From which share on a single run in a single setting is counted as behind. chosen: what is asked of Kernels-v0.
BEHIND = 0.02
# Of the picture: panels in a row; the percentage from which on an axis is logarithmic, but for its middle, and the
# half-width of that. chosen: that differences of a few per cent can be read beside those of thousands.
_PANELS, _FAR, _LINEAR = 4, 300.0, 10.0


@dataclass(frozen=True)
class Claims:
    """Who is compared with whom.

    Attributes:
        challengers, against: names of entries, or of policies that are played besides.
        marks: what is printed after a name, for all of them.
    """

    challengers: tuple[str, ...]
    against: tuple[str, ...]
    marks: Mapping[str, str]

    def comparators(self, challenger: str) -> list[str]:
        """Whom a challenger is compared with: everyone but itself."""
        return [name for name in self.against if name != challenger]


def resolve_claims(
    challengers: Sequence[str],
    against: Sequence[str],
    contenders: Sequence[Contender],
    references: Sequence[str],
    split: Split,
) -> Claims:
    """Look up who is compared with whom.

    Args:
        challengers: names; empty: every learned entry.
        against: names; empty: those of `DEFAULT_AGAINST` that are played.
        contenders, references: what is played anyway.
        split: on which.

    Raises:
        ConfigurationError: a name is neither an entry's nor a policy's, or there is nobody to compare.
    """
    marks = {entry.label: entry.marks for entry in contenders}
    played = (*marks, *references)
    who = tuple(dict.fromkeys(challengers or [entry.label for entry in contenders if entry.runs]))
    whom = tuple(dict.fromkeys(against or [name for name in DEFAULT_AGAINST[split.env_id] if name in played]))
    if against and not who:
        raise ConfigurationError(
            "--against: there is nobody to compare; name entries in --claims or --learned"
        )
    for option, names in (("--claims", who), ("--against", whom)):
        for name in names:
            if name not in marks:
                marks[name] = _marks_of(name, option, tuple(played), split)
    claims = Claims(who, whom if who else (), {name: marks[name] for name in (*who, *whom)})
    for name in who:
        if not claims.comparators(name):
            raise ConfigurationError(f"--claims {name}: there is nobody to compare it with; see --against")
    return claims


def _marks_of(name: str, option: str, played: Sequence[str], split: Split) -> str:
    """What is printed after the name of a policy that is no entry.

    Raises:
        ConfigurationError: there is no such policy.
    """
    if name == BOUND and CEILINGS[split.env_id] == BOUND:
        return ""
    try:
        return rules([name], split)[0].marks
    except ConfigurationError as error:
        entries = ", ".join(played)
        raise ConfigurationError(f"{option} {name}: none of the entries ({entries}). {error}") from None


def groups_of(env_id: str, settings: Sequence[Setting]) -> dict[str, list[str]]:
    """Names of settings by group, every setting in one of them.

    In Serving-v0 families of presets with known models, then all presets of an unseen model, the later window of a
    known trace, and unseen traces. In the other problems by what is new (`SHIFTS`); streams of images, which decode
    nothing, are a group of their own, whatever is new in them.
    """
    groups: dict[str, list[str]] = {}
    if env_id == SERVING:
        for setting in settings:
            group = SERVING_GROUPS.get(setting.shift, setting.name.partition("/")[0])
            groups.setdefault(group, []).append(setting.name)
        last = [group for group in SERVING_GROUPS.values() if group in groups]
        return {group: groups[group] for group in (*(g for g in groups if g not in last), *last)}
    for setting in settings:
        stream = setting.scenario.images is not None and setting.scenario.model is None
        groups.setdefault(VISION_STREAM if stream else setting.shift, []).append(setting.name)
    return {group: groups[group] for group in (*SHIFTS, VISION_STREAM) if group in groups}


def summarize_claims(
    frame: pl.DataFrame,
    claims: Claims,
    contenders: Sequence[Contender],
    settings: Sequence[Setting],
    instances: int,
    env_id: str,
) -> dict[str, Any]:
    """What summary.json holds under "claims".

    Args:
        frame: from `leaderboard_report.collect`, with rows of all challengers and comparators.
        claims: who is compared with whom.
        contenders: entries of the table.
        settings: of the split.
        instances: of every setting; two entries are compared on those that both played.
        env_id: the problem.
    """
    groups = groups_of(env_id, settings) if claims.challengers else {}
    floor = returns_of(frame, FLOOR, settings, instances)[0]

    def returns(label: str) -> tuple[FloatArray, list[int]]:
        """Returns in which a failure counts as the floor, and the settings that no run of the entry can play."""
        found = returns_of(frame, label, settings, instances)
        out = np.isnan(found).any(axis=2)
        counted = np.where(np.isnan(found), floor[:, : found.shape[2]], found)
        return counted, np.flatnonzero(out.all(axis=0)).tolist()

    challengers = []
    for label in claims.challengers:
        ours, _ = returns(label)
        entry = next((entry for entry in contenders if entry.label == label), Contender(label, (label,)))
        comparisons = []
        for other in claims.comparators(label):
            theirs, out = returns(other)
            # A comparator that cannot play a setting is no yardstick there; a challenger that cannot is no better than
            # random choice.
            theirs[:, out] = np.nan
            common = min(ours.shape[2], theirs.shape[2])
            relative = resampled_relative(ours[..., :common], theirs[..., :common])
            row = _comparison(relative, entry, common, settings, groups)
            comparisons.append({"entry": other, "marks": claims.marks[other], **row})
        challengers.append(
            {
                "entry": label,
                "marks": claims.marks[label],
                "training_runs": len(entry.runs),
                "against": comparisons,
            }
        )
    return {
        "better": "+1: 1 % more return" if env_id == SERVING else "+1: 1 % less cost",
        "instances": instances,
        "grouped_by": "group" if env_id == SERVING else "what is new",
        "groups": groups,
        "challengers": challengers,
    }


def _comparison(
    relative: FloatArray,
    entry: Contender,
    instances: int,
    settings: Sequence[Setting],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Of one challenger and one comparator, from `resampled_relative`."""
    names = np.array([setting.name for setting in settings])

    def mean(kept: Sequence[str]) -> dict[str, float | None]:
        return plain(mean_over(relative, instances, np.isin(names, kept)))

    by_setting = {name: mean([name]) for name in names.tolist()}
    known = {name: figure for name, figure in by_setting.items() if figure["value"] is not None}
    worst = min(known, key=lambda name: float(known[name]["value"] or 0), default=None)
    runs = []
    unlucky = None
    if entry.runs and known:
        kept = np.isin(names, list(known))
        each = relative[:, kept, 0]  # [runs, settings]
        for k, value in enumerate(each.mean(axis=1).tolist()):
            runs.append({"run": k, "seed": entry.runs[k].seed, "value": number(value)})
        # A mean over runs hides the run that fails where the others do not.
        k, setting = divmod(int(np.argmin(each)), each.shape[1])
        unlucky = {
            "run": k,
            "seed": entry.runs[k].seed,
            "setting": str(names[kept][setting]),
            "value": number(each[k, setting]),
            "behind": int((each < -BEHIND).sum()),
            "pairs": int(each.size),
        }
    runs.sort(key=lambda run: -float(run["value"] or 0))
    return {
        "instances": instances,
        "all": plain(mean_over(relative, instances)),
        "groups": {group: mean(members) for group, members in groups.items()},
        "worst": None if worst is None else {"setting": worst, **known[worst]},
        "runs": {"best": runs[0], "worst": runs[-1]} if runs else None,
        "worst_of_one_run": unlucky,
        "by_setting": by_setting,
        "left_out": [name for name in by_setting if name not in known],
    }


def print_claims(console: Console, summary: Mapping[str, Any]) -> None:
    """Tables of each challenger, from `summarize_claims`: groups and training runs by comparator; its worst setting."""
    for row in summary["challengers"]:
        many = row["training_runs"]
        trained = "" if not many else f" ({many} training run{'s' * (many > 1)})"
        console.print(
            f"\n{_name(row)}{trained}: mean return above others', percent [95 %]; {summary['better']}",
            style="bold",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        labels = _labels(summary) + (["best run", "worst run"] if many > 1 else [])
        columns = []
        for other in row["against"]:
            columns.append([_name(other), *(interval_text(figure, "+") for figure in _figures(other))])
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
            table.add_row(_name(other), *cells)
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
                table.add_row(_name(other), *row_of)
            console.print(table)
    for note in _notes(summary):
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['entry']}{row['marks']}"


def _labels(summary: Mapping[str, Any]) -> list[str]:
    """Groups with how many settings they have, and all settings."""
    counts = {group: len(members) for group, members in summary["groups"].items()}
    counts["all settings"] = sum(counts.values())
    return [f"{group} ({count})" for group, count in counts.items()]


def _figures(other: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Relative differences from a comparator, in the order of `_labels`."""
    return [*other["groups"].values(), other["all"]]


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
    for row in summary["challengers"]:
        for other in row["against"]:
            pair = f"{row['entry']} against {other['entry']}"
            if other["instances"] < summary["instances"]:
                notes.append(f"fewer: {pair}: the first {other['instances']} instances of each setting")
            if other["left_out"]:
                names = ", ".join(other["left_out"])
                notes.append(f"left out: {pair}: {other['entry']} cannot play, or returns 0: {names}")
    return list(dict.fromkeys(notes))


def claims_figure(summary: Mapping[str, Any]) -> bytes:
    """Relative differences with intervals by group, a panel for each comparator, a colour for each challenger; PNG."""
    # Pictures alone need it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from experiments.common.plots import STYLE

    challengers = summary["challengers"]
    against = list(dict.fromkeys(_name(other) for row in challengers for other in row["against"]))
    labels = _labels(summary)
    down = -(-len(against) // _PANELS)
    across = -(-len(against) // down)
    height = 0.8 + len(labels) * (0.14 + 0.1 * len(challengers))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.2 + 2.6 * across, 0.5 + height * down), dpi=200, layout="constrained")
        panels = figure.subplots(down, across, sharey=True, squeeze=False)
        for axes in panels.flat[len(against) :]:
            axes.set_visible(False)
        drawn: dict[str, Any] = {}
        for axes, name in zip(panels.flat, against, strict=False):
            found = [
                next((_figures(other) for other in row["against"] if _name(other) == name), [])
                for row in challengers
            ]
            points = _draw(axes, found, [bool(row["marks"]) for row in challengers])
            drawn.update({_name(challengers[k]): point for k, point in points.items()})
            axes.set_title(f"against {name}", fontsize=9)
            axes.axhspan(len(labels) - 1.5, len(labels) - 0.5, color="0.95", zorder=0)
        panels[0, 0].set_yticks(range(len(labels)), labels)
        figure.supylabel(summary["grouped_by"], fontsize=9)
        panels[0, 0].set_ylim(len(labels) - 0.5, -0.5)
        figure.supxlabel(f"mean return above the other's, percent of it ({summary['better']})", fontsize=9)
        title = _name(challengers[0]) if len(challengers) == 1 else "Challengers"
        figure.suptitle(f"{title} against others (95 % intervals)", x=0.01, ha="left", fontweight="bold")
        if len(challengers) > 1:
            figure.legend(list(drawn.values()), list(drawn), loc="outside upper right", ncols=len(drawn))
        image = io.BytesIO()
        figure.savefig(image, format="png")
    return image.getvalue()


def _draw(axes: Any, found: Sequence[Sequence[Mapping[str, Any]]], hollow: Sequence[bool]) -> dict[int, Any]:
    """Draw figures of challengers against one comparator, from the top down; returns the points by challenger."""
    from experiments.common.plots import MARKERS, PALETTE

    drawn, reach = {}, 0.0
    for k, figures in enumerate(found):
        rows = [i for i, figure in enumerate(figures) if figure["value"] is not None]
        if not rows:
            continue
        low, value, high = (
            np.array(
                [100 * (figures[i]["value"] if figures[i][end] is None else figures[i][end]) for i in rows]
            )
            for end in ("low", "value", "high")
        )
        reach = max(reach, -low.min(), high.max())
        colour = PALETTE[(k + 1) % len(PALETTE)]
        drawn[k] = axes.errorbar(
            value,
            np.array(rows) + (k - (len(found) - 1) / 2) * 0.5 / len(found),
            xerr=[value - low, high - value],
            linestyle="none",
            color=colour,
            marker=MARKERS[k % len(MARKERS)],
            markerfacecolor="white" if hollow[k] else colour,
            markersize=4.5,
            elinewidth=1.2,
        )
    if reach > _FAR:
        axes.set_xscale("symlog", linthresh=_LINEAR)
        axes.xaxis.set_major_formatter("{x:.0f}")
    axes.axvline(0, color="0.2", linewidth=1.0, zorder=1)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    return drawn
