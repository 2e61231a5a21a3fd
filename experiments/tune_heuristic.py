"""Search the parameters of a rule of Serving-v0 on the training split, with a stated budget, by family of presets.

python -m experiments.tune_heuristic --policy heuristic --write

The search is Optuna's tree-structured Parzen estimator (Akiba et al., KDD 2019; Bergstra et al., NIPS 2011),
started from hand-made guesses, among them the likes of good fixed actions, and from what is stored. A first search,
`default`, is over all training settings; each family then goes on from it by itself, on its own presets. The best
sets of a search and all guesses play again on other training seeds, and the best there is what is stored: not the
luckiest of many. Models, families and seeds that the split holds out are never met.

A set is scored by its return per request that arrived, averaged over presets: by the unit of the reward, a request
served in time. Returns over the best guess's would weigh presets alike in which little can be won, and lose their
meaning where the price of energy brings returns near zero or below.

Searches are kept in the run folder trial by trial, so that an interrupted one goes on. `--write` puts the
parameters where the policy finds them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import optuna
import tyro
from gymnasium.vector import AutoresetMode
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import papi_env
from agents.evaluate import evaluate
from agents.serving.tuned import DEFAULT, TunedRule, as_table, parameters_from, stored_entries
from experiments.common.command import exit_status, output
from experiments.common.runner import RUNS, canonical, digest, write_whole
from experiments.splitting.definition import SERVING
from experiments.splitting.splits import Split, load_split
from experiments.training.guesses import RULES, spent_before, starting_points, usable_entries
from papi_env.envs.serving import ServingVectorEnv
from papi_env.errors import ConfigurationError, lookup, unknown_name
from papi_env.scenario import Scenario
from papi_env.workload.presets import FAMILIES

# Sets that play at once, which costs little more than one. Affects the course of a search: an option would be one more
# thing to record.
BATCH = 24
# The best sets of a search that play again on other seeds.
FINALISTS = 5
# Where their seeds begin in the split's range: far from those of any search.
FINAL_OFFSET = 1 << 19


@dataclass(frozen=True)
class Arguments:
    """Tune a rule of Serving-v0 on the training split."""

    policy: str = "heuristic"
    """Whose parameters: heuristic or profile-greedy."""

    families: tuple[str, ...] = ()
    """Families of training settings; by default all. Each that has presets is tuned by itself too."""

    trials: int = 48
    """Parameter sets tried over all training settings together."""

    family_trials: int = 24
    """Further ones for each family by itself."""

    seeds: int = 8
    """Training episodes of every preset in a trial."""

    final_seeds: int = 16
    """Other training episodes of every preset, on which the best and the guesses are compared in the end."""

    seed: int = 0
    """Seeds the search."""

    default: bool = True
    """Tune one set over all settings, for scenarios of other families, and start the families from it."""

    traces: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")] = ()
    """Published traces, whose training windows then count for the set over all settings."""

    horizon_s: float | None = None
    """Simulated seconds of an episode; by default the preset's."""

    out: Path = RUNS / "tune-heuristic"
    """Run folder; a search found there goes on."""

    write: bool = False
    """Store the parameters beside the policy."""


@dataclass(frozen=True)
class Played:
    """A parameter set, and what it did on some presets.

    Attributes:
        parameters: as a table.
        returns: sum over episodes, by preset.
        arrived: requests that arrived in them, by preset.
    """

    parameters: Mapping[str, float]
    returns: dict[str, float]
    arrived: dict[str, int]

    @property
    def score(self) -> float:
        """The mean over presets of the return per request that arrived."""
        return float(np.mean([self.returns[name] / self.arrived[name] for name in self.returns]))

    def on(self, names: Sequence[str]) -> Played:
        """What it did on some of the presets."""
        return Played(
            self.parameters,
            {name: self.returns[name] for name in names},
            {name: self.arrived[name] for name in names},
        )


def play(
    rule: type[TunedRule[Any]],
    sets: Sequence[Mapping[str, float]],
    scenarios: Sequence[Scenario],
    seeds: Sequence[int],
) -> list[Played]:
    """Every parameter set on every scenario and seed, in the order of `sets`."""
    found: list[Played] = []
    for start in range(0, len(sets), BATCH):
        batch = [Played(values, {}, {}) for values in sets[start : start + BATCH]]
        given = [parameters_from("a set", dict(one.parameters), rule.kind) for one in batch]
        for scenario in scenarios:
            # Sets share the environments of one evaluation, which costs little more than one set would.
            count = len(batch) * len(seeds)
            env = ServingVectorEnv(scenario, num_envs=count, autoreset_mode=AutoresetMode.DISABLED)
            metrics = evaluate(rule(*given), env, list(seeds) * len(batch))
            returns = metrics["return"].reshape(len(batch), -1).sum(axis=1)
            arrived = metrics["arrived"].reshape(len(batch), -1).sum(axis=1)
            for k, one in enumerate(batch):
                one.returns[scenario.name] = float(returns[k])
                one.arrived[scenario.name] = max(int(arrived[k]), 1)
        found += batch
    return found


class Search:
    """A search of one set of parameters, kept in a journal.

    Args:
        name: of the family, or `default`.
        scenarios: that are averaged.
        guesses: starting points by name.
        shared: trials of a search over more presets, guesses first, which this one begins with.

    Raises:
        ConfigurationError: the run folder holds a search of something else.
    """

    def __init__(
        self,
        name: str,
        scenarios: Sequence[Scenario],
        guesses: Mapping[str, Mapping[str, float]],
        arguments: Arguments,
        split: Split,
        shared: Sequence[Played] = (),
    ) -> None:
        self.rule = RULES[arguments.policy]
        self.scenarios, self.guesses = scenarios, guesses
        self.arguments, self.split = arguments, split
        first = split.seeds.start
        self.seeds = range(first, first + arguments.seeds)
        self.final_seeds = range(first + FINAL_OFFSET, first + FINAL_OFFSET + arguments.final_seeds)
        self._distributions: dict[str, BaseDistribution] = {
            key: FloatDistribution(span.low, span.high, log=span.log)
            for key, span in self.rule.ranges.items()
        }
        self._open(name, shared)

    def _open(self, name: str, shared: Sequence[Played]) -> None:
        """Begin a journal with the guesses and what is shared, or take up one that was asked for the same."""
        self.asked = {
            "scenarios": {
                scenario.name: digest(canonical(scenario.model_dump(mode="json")))[:12]
                for scenario in self.scenarios
            },
            "training_seeds": [self.seeds[0], self.seeds[-1]],
            "search_seed": self.arguments.seed,
            "horizon_s": self.arguments.horizon_s,
            "guesses": {guess: dict(table) for guess, table in self.guesses.items()},
        }
        folder = self.arguments.out / self.arguments.policy
        folder.mkdir(parents=True, exist_ok=True)
        journal = folder / f"{name}.journal"
        storage = JournalStorage(JournalFileBackend(str(journal)))
        self.study = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
        known = self.study.user_attrs.get("asked")
        if known is not None and known != self.asked:
            changed = [key for key in self.asked if known.get(key) != self.asked[key]]
            raise ConfigurationError(
                f"{journal}: holds a search with other {', '.join(changed)}; expected another --out"
            )
        self.study.set_user_attr("asked", self.asked)
        if "shared_trials" not in self.study.user_attrs:
            known_trials = [one.on([scenario.name for scenario in self.scenarios]) for one in shared]
            begin = known_trials or play(self.rule, list(self.guesses.values()), self.scenarios, self.seeds)
            self.study.add_trials([self._trial(one) for one in begin])
            self.study.set_user_attr("shared_trials", len(shared))
        self.shared_trials = int(self.study.user_attrs["shared_trials"])

    def _trial(self, played: Played) -> optuna.trial.FrozenTrial:
        return optuna.trial.create_trial(
            params=dict(played.parameters),
            distributions=self._distributions,
            value=played.score,
            user_attrs={"returns": played.returns, "arrived": played.arrived},
        )

    def played(self) -> list[Played]:
        """All trials so far, those that it began with first."""
        return [
            Played(trial.params, trial.user_attrs["returns"], trial.user_attrs["arrived"])
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ]

    def run(self, trials: int) -> None:
        """Try sets until there are `trials`, guesses included, beside those that are shared."""
        done = len(self.played()) - self.shared_trials
        while done < trials:
            self.study.sampler = optuna.samplers.TPESampler(seed=self.arguments.seed + done)
            asked = [self.study.ask(self._distributions) for _ in range(min(BATCH, trials - done))]
            played = play(self.rule, [trial.params for trial in asked], self.scenarios, self.seeds)
            for trial, one in zip(asked, played, strict=True):
                trial.set_user_attr("returns", one.returns)
                trial.set_user_attr("arrived", one.arrived)
                self.study.tell(trial, one.score)
            done += len(asked)

    def best(self, also: Sequence[Mapping[str, float]] = ()) -> dict[str, Any]:
        """What is stored: the best on other seeds of the best sets, the guesses and `also`."""
        trials = self.played()
        own = trials[self.shared_trials :]
        ranked = sorted(trials, key=lambda one: one.score, reverse=True)
        sets = [dict(table) for table in self.guesses.values()]
        for table in (*(one.parameters for one in ranked[:FINALISTS]), *also):
            rounded = as_table(parameters_from("a trial", dict(table), self.rule.kind))
            if rounded not in sets:
                sets.append(rounded)
        finals = play(self.rule, sets, self.scenarios, self.final_seeds)
        winner = max(finals, key=lambda one: one.score)
        scores = {name: one.score for name, one in zip(self.guesses, finals, strict=False)}
        guess = max(scores, key=lambda name: scores[name])
        episodes = len(self.final_seeds)
        return {
            "parameters": dict(winner.parameters),
            "score": round(winner.score, 5),
            "best_guess": {"name": guess, "score": round(scores[guess], 5)},
            "returns": {name: round(value / episodes, 2) for name, value in winner.returns.items()},
            "trials": len(own),
            "shared_trials": self.shared_trials,
            "simulated_requests": sum(sum(one.arrived.values()) for one in (*own, *finals)),
            **self.asked,
            "guesses": list(self.guesses),
            "final_seeds": [self.final_seeds[0], self.final_seeds[-1]],
            "split": self.split.describe(),
            "command": command_of(self.arguments),
            "versions": {"papi_env": papi_env.__version__, "optuna": optuna.__version__},
        }


def command_of(arguments: Arguments) -> str:
    """The command that gives the same result: options that are not the default, but for where files go."""
    words = ["python -m experiments.tune_heuristic", f"--policy {arguments.policy}"]
    for option in fields(Arguments):
        value = getattr(arguments, option.name)
        if option.name in ("policy", "out", "write") or value == option.default:
            continue
        name = option.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--no-{name}")
        elif isinstance(value, tuple):
            words += [f"--{name}", *(one.name if isinstance(one, Path) else one for one in value)]
        else:
            words.append(f"--{name} {value}")
    return " ".join(words)


def training_families(arguments: Arguments, split: Split) -> dict[str, list[Scenario]]:
    """Scenarios of the training split by family, the part of a name before the slash."""
    serving = None if arguments.horizon_s is None else {"horizon_s": arguments.horizon_s}
    found: dict[str, list[Scenario]] = {}
    for setting in split.settings:
        family = setting.scenario.name.partition("/")[0]
        found.setdefault(family, []).append(setting.scenario.replace(serving=serving))
    for family in arguments.families:
        if family not in found:
            raise unknown_name("family of training presets", family, found)
    return {name: found[name] for name in arguments.families or found}


def run(arguments: Arguments) -> None:
    """Tune every family, print what was found, and store it where asked.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    rule = lookup("tuned policy", arguments.policy, RULES)
    for name, least in (("trials", 1), ("family_trials", 0), ("seeds", 1), ("final_seeds", 1)):
        if not least <= getattr(arguments, name) <= FINAL_OFFSET:
            raise ConfigurationError(
                f"{name} is {getattr(arguments, name)}, expected {least} to {FINAL_OFFSET}"
            )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    split = load_split(SERVING, "train", arguments.traces)
    families = training_families(arguments, split)
    stored = usable_entries(arguments.policy, split.settings)
    guesses = starting_points(arguments.policy, stored)
    console = output()
    found: dict[str, dict[str, Any]] = {}

    def keep(name: str, entry: dict[str, Any]) -> None:
        # A set stored before is a starting point: what it took counts.
        found[name] = entry | spent_before(stored.get(name))
        best = entry["best_guess"]
        console.print(
            f"{name}: return per request {entry['score']:.3f} (best guess, {best['name']}: {best['score']:.3f}) after "
            f"{entry['trials']} trials, {entry['simulated_requests'] / 1e6:.2f} M requests",
            highlight=False,
            soft_wrap=True,
        )
        text = json.dumps(found, indent=1) + "\n"
        write_whole(arguments.out / arguments.policy / "parameters.json", text)

    shared: list[Played] = []
    if arguments.default:
        everything = [scenario for scenarios in families.values() for scenario in scenarios]
        search = Search(DEFAULT, everything, guesses, arguments, split)
        search.run(arguments.trials)
        shared = search.played()
        keep(DEFAULT, search.best())
    # Windows of traces and settings drawn at random belong to no family that is played elsewhere.
    for family in (name for name in families if name in FAMILIES):
        search = Search(family, families[family], guesses, arguments, split, shared)
        search.run(arguments.family_trials if shared else arguments.trials)
        keep(family, search.best([found[DEFAULT]["parameters"]] if shared else []))
    if arguments.write:
        kept = stored_entries(rule.file) if arguments.families else {}  # of families that were not tuned now
        write_whole(rule.file, json.dumps(kept | found, indent=1) + "\n")
        console.print(f"written to agents/{rule.file.name}", highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 for what cannot be used as asked."""
    parsed = tyro.cli(Arguments, args=arguments, prog="python -m experiments.tune_heuristic")
    return exit_status(lambda: run(parsed))


if __name__ == "__main__":
    sys.exit(main())
