"""What a claim about an entry rests on: its mean return relative to others', by group of settings, with intervals.

A position between random choice and a ceiling says little of how much is gained over the best rule at hand. Here a
challenger meets comparators: the relative difference of mean returns in each setting, its mean over groups of settings
in which each setting weighs the same, the challenger's worst setting, and its best and worst training run.
`experiments.leaderboard` prints, stores and draws it.

Such a mean is of ratios: settings in which a comparator returns next to nothing pull it up, so look at the groups, and
where two entries lie far apart, at both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from experiments.arena.contestants import Claims
from experiments.arena.entries import FLOOR, Entry
from experiments.arena.estimators.runs import BEHIND, mean_of_groups, mean_over, resampled_relative
from experiments.arena.estimators.seeds import number, plain
from experiments.arena.summaries.ranking import returns_of
from experiments.common.problems import SERVED
from experiments.splitting.definition import SHIFTS, Setting, family_of
from papi_env.envs.registration import SERVING_V1
from papi_env.kernel import FloatArray
from papi_env.workload.service_presets import load_of

# Groups of Serving-v0 by what is new in a setting; the others are grouped by family of preset.
SERVING_GROUPS = {"model": "unseen model", "window": "trace window", "trace": "unseen trace"}
VISION_STREAM = "vision-stream"
# From this share of what the best tuned rule can carry on, who is served has to be chosen.
FULL_LOAD = 1.0


def groups_of(env_id: str, settings: Sequence[Setting]) -> dict[str, list[str]]:
    """Names of settings by group, every setting in one of them.

    In serving families of presets with known models, then all presets of an unseen model, the later window of a
    known trace, and unseen traces. In the other problems by what is new (`SHIFTS`); streams of images, which decode
    nothing, are a group of their own, whatever is new in them.
    """
    groups: dict[str, list[str]] = {}
    if env_id in SERVED:
        for setting in settings:
            group = SERVING_GROUPS.get(setting.shift, family_of(setting.name))
            groups.setdefault(group, []).append(setting.name)
        last = [group for group in SERVING_GROUPS.values() if group in groups]
        return {group: groups[group] for group in (*(g for g in groups if g not in last), *last)}
    for setting in settings:
        stream = setting.scenario.images is not None and setting.scenario.model is None
        groups.setdefault(VISION_STREAM if stream else setting.shift, []).append(setting.name)
    return {group: groups[group] for group in (*SHIFTS, VISION_STREAM) if group in groups}


def at_full_load(groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Of the groups of Serving-v1 the presets at capacity and above; groups without one are left out."""
    loaded = {
        group: [name for name in members if (load_of(name) or 0.0) >= FULL_LOAD]
        for group, members in groups.items()
    }
    return {group: members for group, members in loaded.items() if members}


def summarize(
    frame: pl.DataFrame,
    claims: Claims,
    entries: Sequence[Entry],
    settings: Sequence[Setting],
    instances: int,
    env_id: str,
) -> dict[str, Any]:
    """What summary.json holds under "claims".

    Args:
        frame: from `frame.Match.collect`, with rows of all challengers and comparators.
        claims: who is compared with whom.
        entries: entries of the table.
        settings: of the split.
        instances: of every setting; two entries are compared on those that both played.
        env_id: the problem.
    """
    groups = groups_of(env_id, settings) if claims.challengers else {}
    loaded = at_full_load(groups) if env_id == SERVING_V1 else {}
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
        entry = next((entry for entry in entries if entry.label == label), Entry.of(label))
        comparisons = []
        for other in claims.comparators(label):
            theirs, out = returns(other)
            # A comparator that cannot play a setting is no yardstick there; a challenger that cannot is no better than
            # random choice.
            theirs[:, out] = np.nan
            common = min(ours.shape[2], theirs.shape[2])
            relative = resampled_relative(ours[..., :common], theirs[..., :common])
            row = _comparison(relative, entry, common, settings, groups, loaded)
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
        "better": "+1: 1 % more return" if env_id in SERVED else "+1: 1 % less cost",
        "instances": instances,
        "grouped_by": "group" if env_id in SERVED else "what is new",
        "groups": groups,
        "at_full_load": loaded,
        "challengers": challengers,
    }


def _comparison(
    relative: FloatArray,
    entry: Entry,
    instances: int,
    settings: Sequence[Setting],
    groups: Mapping[str, Sequence[str]],
    loaded: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Of one challenger and one comparator, from `resampled_relative`."""
    names = np.array([setting.name for setting in settings])

    def mean(kept: Sequence[str]) -> dict[str, float | None]:
        return plain(mean_over(relative, instances, np.isin(names, kept)))

    masks = [np.isin(names, members) for members in loaded.values()]
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
        "at_full_load": plain(mean_of_groups(relative, instances, masks)) if loaded else None,
        "worst": None if worst is None else {"setting": worst, **known[worst]},
        "runs": {"best": runs[0], "worst": runs[-1]} if runs else None,
        "worst_of_one_run": unlucky,
        "by_setting": by_setting,
        "left_out": [name for name in by_setting if name not in known],
    }
