"""What `experiments.tune` asks and does; its earlier name asks the same."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.common.options import ALL_CORES, OnWorkers, Spelling, Traces, words
from experiments.common.pools import Pool
from experiments.common.runner import RUNS, RunFolder, make_folder, writing
from experiments.common.workers import started
from experiments.splitting.splits import load_split
from experiments.tuning.families import store, tune
from experiments.tuning.guesses import RULES
from experiments.tuning.search import Budget, Order
from papi_env.envs.registration import SERVING, SERVING_V1
from papi_env.errors import ConfigurationError, lookup

SPELLINGS = (Spelling("--traces", "--trace"),)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Tune a rule of Serving-v0 or -v1 on the training split.

    python -m experiments.tune heuristic --families saturated bursty --write
    """

    rule: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RULE")] = "heuristic"
    """Whose parameters: heuristic or profile-greedy; on Serving-v1 also slack-aware or tuned, the best of all with
    fixed further choices."""
    env: Annotated[str | None, words("ID")] = None
    """The problem (default: papi_env/Serving-v0, or -v1 for rules of that alone)."""
    families: Annotated[tuple[str, ...], words("NAME ...")] = ()
    """Families of training settings (default: all). Each that has presets is tuned by itself too."""
    trials: int = 48
    """Parameter sets tried over all training settings together."""
    family_trials: int = 24
    """Further ones for each family by itself."""
    seeds: int = 8
    """Training episodes of every preset in a trial."""
    final_seeds: int = 16
    """Other training episodes of every preset, on which the best and the guesses are compared in the end."""
    requests: Annotated[int | None, words("INT")] = None
    """Simulated requests of each search, guesses and the comparison in the end included, in place of --trials and
    --family-trials: an equal budget for rules with more and with fewer parameters."""
    seed: int = 0
    """Of the search."""
    default: bool = True
    """Tune one set over all settings, for scenarios of other families, and start the families from it."""
    trace: Annotated[
        Traces,
        tyro.conf.arg(
            help="Published traces, whose training windows then count for the set over all settings."
        ),
    ] = ()
    horizon_s: Annotated[float | None, words("FLOAT")] = None
    """Simulated seconds of an episode (default: the preset's)."""
    workers: OnWorkers = ALL_CORES
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = RUNS / "tune"
    """Run folder; a search found there goes on."""
    write: bool = False
    """Store the parameters beside the policy."""


def command_of(config: Config) -> str:
    """The command that gives the same result: options that are not the default, but for where files go."""
    found = [f"python -m experiments.tune {config.rule}"]
    for option in fields(Config):
        value = getattr(config, option.name)
        if option.name in ("rule", "workers", "out", "write") or value == option.default:
            continue
        name = option.name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--no-{name}")
        elif isinstance(value, tuple):
            found += [f"--{name}", *(one.name if isinstance(one, Path) else one for one in value)]
        else:
            found.append(f"--{name} {value}")
    return " ".join(found)


def resolve(config: Config, pool: Pool) -> Order:
    """Look up and check what `config` names.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    rule = lookup("tuned policy", config.rule, RULES)
    env_id = config.env or (SERVING if rule.plays_v0 else SERVING_V1)
    lookup("problem with serving", env_id, dict.fromkeys((SERVING, SERVING_V1)))
    if env_id == SERVING and not rule.plays_v0:
        raise ConfigurationError(f"{config.rule} plays {SERVING_V1} alone, not {SERVING}")
    budget = Budget(**{field.name: getattr(config, field.name) for field in fields(Budget)})
    split = load_split(env_id, "train", config.trace)
    return Order(config.rule, budget, split, config.out / config.rule, command_of(config), pool)


def run(config: Config, command: str, console: Console, progress: Console) -> None:
    """Tune every family, print what was found, and store it where asked.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    with started(config.workers) as pool:
        order = resolve(config, pool)
        make_folder(order.folder)
        # Each search keeps by itself what it was asked, and may be given a larger budget later.
        record = RunFolder(order.folder, "tune", {"rule": order.rule, "env": order.split.env_id})
        with record.session(command, pool.size), writing(order.folder):
            found = tune(order, config.families, config.default, console, progress)
    if config.write:
        store(order, found, bool(config.families), console)
