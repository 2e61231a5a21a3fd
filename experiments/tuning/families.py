"""Tuning a rule family by family: one search over all settings, from which those of the families go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import polars as pl
from rich.console import Console

from agents.serving.tuned import DEFAULT, stored_entries
from experiments.common.command import say
from experiments.common.runner import write_whole
from experiments.common.study import json_text
from experiments.splitting.definition import family_of
from experiments.tuning.guesses import RULES, spent_before, starting_points, usable_entries
from experiments.tuning.play import Played
from experiments.tuning.search import Order, Search
from papi_env.envs.registration import SERVING
from papi_env.scenario import SCENARIOS, Scenario

# What a search leaves in its folder: the best sets by family, and all that were tried.
FOUND, TRIED = "parameters.json", "trials.csv"


def training_families(order: Order, names: Sequence[str] = ()) -> dict[str, list[Scenario]]:
    """Scenarios of the training split by family; of those named, or of all.

    Raises:
        ConfigurationError: a name is no family's.
    """
    serving = None if order.budget.horizon_s is None else {"horizon_s": order.budget.horizon_s}
    found: dict[str, list[Scenario]] = {}
    for setting in order.split.of_families(names).settings:
        found.setdefault(family_of(setting.name), []).append(setting.scenario.replace(serving=serving))
    return {name: found[name] for name in names or found}


def tune(
    order: Order, names: Sequence[str], default: bool, console: Console, progress: Console
) -> dict[str, dict[str, Any]]:
    """Tune families, print what was found, and keep it in the folder.

    Args:
        order: what is searched, and where it is kept.
        names: of families; all where there are none.
        default: whether one set is tuned over all settings first, which the families start from.
        console: for a line a family.
        progress: for what is under way.

    Returns:
        What is stored, by family; `default` is of all settings.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    families = training_families(order, names)
    training = [setting.scenario.name for setting in order.split.settings]
    stored = usable_entries(order.rule, training, order.split.env_id != SERVING)
    guesses = starting_points(order.rule, stored)
    found: dict[str, dict[str, Any]] = {}
    tried: list[dict[str, Any]] = []

    def keep(name: str, entry: dict[str, Any], own: Sequence[Played]) -> None:
        # A set stored before is a starting point: what it took counts.
        found[name] = entry | spent_before(stored.get(name))
        best = entry["best_guess"]
        say(
            console,
            f"{name}: return per request {entry['score']:.3f} (best guess, {best['name']}: {best['score']:.3f}) after "
            f"{entry['trials']} trials, {entry['simulated_requests'] / 1e6:.2f} M requests",
        )
        tried.extend({"search": name, "score": one.score, **one.parameters} for one in own)
        write_whole(order.folder / FOUND, json_text(found))
        write_whole(order.folder / TRIED, pl.DataFrame(tried, infer_schema_length=None).write_csv())

    shared: list[Played] = []
    if default:
        everything = [scenario for scenarios in families.values() for scenario in scenarios]
        with progress.status(f"{DEFAULT}: guesses"):
            search = Search(DEFAULT, everything, guesses, order)
        search.run(order.budget.trials, progress)
        shared = search.played()
        with progress.status(f"{DEFAULT}: comparing the best"):
            best = search.best()
        keep(DEFAULT, best, shared)
    # Windows of traces and settings drawn at random belong to no family that is played elsewhere.
    for family in (name for name in families if is_played(name)):
        with progress.status(f"{family}: guesses"):
            search = Search(family, families[family], guesses, order, shared)
        search.run(order.budget.family_trials if shared else order.budget.trials, progress)
        with progress.status(f"{family}: comparing the best"):
            best = search.best([found[DEFAULT]["parameters"]] if shared else [])
        keep(family, best, search.played()[search.shared_trials :])
    return found


def is_played(family: str) -> bool:
    """Whether there are serving presets of this family."""
    return any(name.startswith(f"{family}/") for name, one in SCENARIOS.items() if one.serving is not None)


def store(order: Order, found: Mapping[str, Mapping[str, Any]], others: bool, console: Console) -> None:
    """Put parameters where the rule finds them; `others` keeps those of families that are not in `found`."""
    file = RULES[order.rule].file_of(order.split.env_id != SERVING)
    kept = stored_entries(file) if others else {}
    write_whole(file, json_text({**kept, **found}))
    say(console, f"written to agents/serving/{file.name}")
