"""A search of a rule's parameters: Optuna's, in batches, kept trial by trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from rich.console import Console

import papi_env
from agents.serving.tuned import Options, Span, Value, as_table, parameters_from
from experiments.common.pools import OwnProcess, Pool
from experiments.common.progress import JobsView, Score
from experiments.common.runner import canonical, digest
from experiments.splitting.splits import Split
from experiments.tuning.guesses import RULES
from experiments.tuning.journal import WHOLE, open_study
from experiments.tuning.play import BATCH, Played, play
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario

# The best sets of a search that play again on other seeds.
FINALISTS = 5
# Where their seeds begin in the split's range: far from those of any search.
FINAL_OFFSET = 1 << 19


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a search may take.

    Attributes:
        trials: sets tried over all settings together.
        family_trials: further ones for each family by itself.
        seeds: episodes of every preset in a trial.
        final_seeds: other episodes of every preset, on which the best and the guesses are compared in the end.
        seed: of the search.
        horizon_s: simulated seconds of an episode; None for the preset's.
        requests: that every search may simulate, guesses and the comparison in the end included, in place of numbers
            of trials: with it rules that have more parameters or guesses than others have no larger budget.

    Raises:
        ConfigurationError: a number is out of range.
    """

    trials: int
    family_trials: int
    seeds: int
    final_seeds: int
    seed: int = 0
    horizon_s: float | None = None
    requests: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("family_trials", 0), ("seeds", 1), ("final_seeds", 1)):
            if not least <= getattr(self, name) <= FINAL_OFFSET:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}, expected {least} to {FINAL_OFFSET}"
                )
        if self.requests is not None and self.requests < 1:
            raise ConfigurationError(f"requests is {self.requests}, expected at least 1")


@dataclass(frozen=True)
class Order:
    """What is searched, and where it is kept.

    Attributes:
        rule: whose parameters, of `RULES`.
        budget: of all searches.
        split: the training split.
        folder: of the rule's searches.
        command: recorded with what is found.
        pool: whose processes play.
    """

    rule: str
    budget: Budget
    split: Split
    folder: Path
    command: str
    pool: Pool = field(default_factory=OwnProcess)


class Search:
    """A search of one set of parameters, kept in a journal.

    Args:
        name: of the family, or `default`.
        scenarios: that are averaged.
        guesses: starting points by name.
        order: what is searched, and where it is kept.
        shared: trials of a search over more presets, guesses first, which this one begins with.

    Raises:
        ConfigurationError: the run folder holds a search of something else.
        DataError: its journal is damaged.
    """

    def __init__(
        self,
        name: str,
        scenarios: Sequence[Scenario],
        guesses: Mapping[str, Mapping[str, Value]],
        order: Order,
        shared: Sequence[Played] = (),
    ) -> None:
        self.rule = RULES[order.rule]
        self.scenarios, self.guesses = scenarios, guesses
        self.order, budget = order, order.budget
        first = order.split.seeds.start
        self.seeds = range(first, first + budget.seeds)
        self.final_seeds = range(first + FINAL_OFFSET, first + FINAL_OFFSET + budget.final_seeds)
        self._distributions: dict[str, BaseDistribution] = {
            key: distribution(span) for key, span in self.rule.ranges.items()
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
            "search_seed": self.order.budget.seed,
            "horizon_s": self.order.budget.horizon_s,
            "guesses": {guess: dict(table) for guess, table in self.guesses.items()},
        }
        journal = self.order.folder / f"{name}.journal"
        self.study = open_study(journal, name)
        known = self.study.user_attrs.get("asked")
        if known is not None and known != self.asked:
            changed = [key for key in self.asked if known.get(key) != self.asked[key]]
            raise ConfigurationError(
                f"{journal}: holds a search with other {', '.join(changed)}; expected another --out"
            )
        self.study.set_user_attr("asked", self.asked)
        if "shared_trials" not in self.study.user_attrs:
            known_trials = [one.on([scenario.name for scenario in self.scenarios]) for one in shared]
            begin = known_trials or self._play(list(self.guesses.values()), self.seeds)
            # An interruption may have come between two of them.
            there = len(self.study.get_trials(deepcopy=False))
            self.study.add_trials([self._trial(one) for one in begin[there:]])
            self.study.set_user_attr("shared_trials", len(shared))
            self.study.set_user_attr(WHOLE, 0)
        self.shared_trials = int(self.study.user_attrs["shared_trials"])

    def _play(self, sets: Sequence[Mapping[str, Value]], seeds: Sequence[int]) -> list[Played]:
        return play(self.rule, sets, self.scenarios, seeds, self.order.pool)

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

    def run(self, trials: int, progress: Console | None = None) -> None:
        """Try sets until there are `trials`, guesses included, beside those that are shared.

        With a budget of requests, until the next one would leave too few of them for the comparison in the end.

        Raises:
            ConfigurationError: the budget does not suffice for guesses and comparison.
        """
        trials = self._affordable() if self.order.budget.requests is not None else trials
        done = len(self.played()) - self.shared_trials
        with JobsView(progress or Console(quiet=True), trials, done, self._scores) as view:
            while done < trials:
                self.study.sampler = optuna.samplers.TPESampler(seed=self.order.budget.seed + done)
                asked = [self.study.ask(self._distributions) for _ in range(min(BATCH, trials - done))]
                played = self._play([trial.params for trial in asked], self.seeds)
                for trial, one in zip(asked, played, strict=True):
                    trial.set_user_attr("returns", one.returns)
                    trial.set_user_attr("arrived", one.arrived)
                    self.study.tell(trial, one.score)
                done += len(asked)
                self.study.set_user_attr(WHOLE, done)
                view.ended(f"{self.study.study_name}: trials", len(asked))

    def _scores(self) -> Iterator[Score]:
        """The best set so far."""
        best = self.study.best_trial
        yield Score(
            "",
            f"{self.study.study_name}, trial {best.number}",
            best.values[0],
            f"return {best.values[0]:.5g}",
        )

    def _affordable(self) -> int:
        """Trials, guesses included, for which the budget of requests suffices."""
        requests = self.order.budget.requests
        assert requests is not None
        # Every set meets the same instances, so all take the same; but for episodes cut at a horizon, which a slow
        # machine ends a request later.
        taken = [sum(one.arrived.values()) for one in self.played()]
        each = max(taken)
        compared = len(self.guesses) + FINALISTS + (1 if self.shared_trials else 0)
        final = -(-compared * each * len(self.final_seeds) // len(self.seeds))
        own = len(taken) - self.shared_trials
        least = final + (0 if self.shared_trials else len(self.guesses)) * each
        if requests < least:
            raise ConfigurationError(
                f"requests is {requests} for each search; expected at least {least}, what the guesses and the "
                f"comparison on {len(self.final_seeds)} final seeds take"
            )
        # What an earlier, larger budget has tried stays.
        return max(int((requests - final) // each), own)

    def best(self, also: Sequence[Mapping[str, Value]] = ()) -> dict[str, Any]:
        """What is stored: the best on other seeds of the best sets, the guesses and `also`."""
        trials = self.played()
        own = trials[self.shared_trials :]
        ranked = sorted(trials, key=lambda one: one.score, reverse=True)
        sets = [dict(table) for table in self.guesses.values()]
        for table in (*(one.parameters for one in ranked[:FINALISTS]), *also):
            rounded = as_table(parameters_from("a trial", dict(table), self.rule.kind))
            if rounded not in sets:
                sets.append(rounded)
        finals = self._play(sets, self.final_seeds)
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
            **({} if self.order.budget.requests is None else {"budget_requests": self.order.budget.requests}),
            **self.asked,
            "guesses": list(self.guesses),
            "final_seeds": [self.final_seeds[0], self.final_seeds[-1]],
            "split": self.order.split.describe(),
            "command": self.order.command,
            "versions": {"papi_env": papi_env.__version__, "optuna": optuna.__version__},
        }


def distribution(span: Span) -> BaseDistribution:
    """Where Optuna looks for a parameter."""
    if isinstance(span, Options):
        return CategoricalDistribution(span.words)
    return FloatDistribution(span.low, span.high, log=span.log)
