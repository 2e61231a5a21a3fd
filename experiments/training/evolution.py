"""Evolution strategies on the network that sees requests: whole episodes inside the compiled loop, no gradients.

A generation draws perturbations of the weights in opposite pairs (Salimans et al., 2017), plays all of them on the same
episodes of some settings, ranks what they earn, and moves the weights along the perturbations by rank, by Adam's step.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from agents.serving.network import NUM_WEIGHTS, SeesRequests
from experiments.common.pools import Call, Pool
from experiments.splitting.definition import SEEDS_PER_RUN
from experiments.training.episodes import play
from experiments.training.hyperparameters import Evolution, at
from experiments.training.interruption import DivergedError
from experiments.training.phased import Phased
from experiments.training.plan import Training
from experiments.training.record import Record
from experiments.training.settings import training_seed
from experiments.training.state_bounds import Arrays
from papi_env.kernel import FloatArray

# Adam's, as published (Kingma and Ba, 2015) but for a shorter second memory: generations are few.
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.99, 1e-8
# Steps of training between two checks over steps of a check. chosen: 10; range 3-30.
_STEPS_PER_CHECK = 10


class Evolved(Phased):
    """A training by evolution, from where it stands; a step is a generation."""

    algorithm = "Evolution"
    arrays: ClassVar = {**Phased.arrays, "first": "_first", "second": "_second"}

    def __init__(self, training: Training, record: Record, pool: Pool | None = None) -> None:
        assert isinstance(training.parameters, Evolution)
        self.parameters: Evolution = training.parameters
        super().__init__(training, record, 2 * self.parameters.pairs * self.parameters.episodes, pool)
        self.begin_phase()

    def begin_phase(self) -> None:
        """Adam starts anew."""
        self._first: FloatArray = np.zeros(NUM_WEIGHTS)
        self._second: FloatArray = np.zeros(NUM_WEIGHTS)

    def kept(self) -> Arrays:
        """None: all are of fixed length."""
        return {}

    def take(self, path: Path, arrays: Arrays) -> None:
        """None."""

    def check(self) -> float:
        """As all do, and once more after ten times as many steps."""
        before = self.steps
        total = super().check()
        self._next_check = self.steps + _STEPS_PER_CHECK * (self.steps - before)
        return total

    def step(self) -> None:
        """One generation."""
        parameters, seed, phase = self.parameters, self.training.config.seed, self.phase
        if self.steps >= self._next_check:
            self.check()
        rng = np.random.default_rng([seed, self.generation])
        drawn = rng.normal(size=(parameters.pairs, NUM_WEIGHTS))
        perturbed = self.weights + parameters.sigma * np.concatenate([drawn, -drawn])
        played = min(parameters.settings, len(phase.settings))
        chosen = rng.choice(phase.settings, size=played, replace=False, shuffle=False)
        times = parameters.settings // played
        first = training_seed(seed) + self.generation * times * parameters.episodes % SEEDS_PER_RUN
        begins = [first + time_ * parameters.episodes for time_ in range(times)]
        calls = [self._call(k, perturbed, begin) for k in sorted(chosen) for begin in begins]
        earned = np.zeros(len(perturbed))
        for metrics in self.pool.map(calls):
            self.count(metrics)
            earned += _standardised(metrics["return"].reshape(len(perturbed), -1).mean(axis=1))
        if not np.isfinite(earned).all():
            raise DivergedError(
                f"Training diverged: a return ceased to be finite in generation {self.generation}"
            )
        ranks = np.argsort(np.argsort(earned)) / (len(earned) - 1) - 0.5
        uphill = (ranks[: len(drawn)] - ranks[len(drawn) :]) @ drawn / len(drawn)
        share = (self.steps - phase.begin) / max(phase.stop - phase.begin, 1)
        self._climb(uphill, at(parameters.learning_rate, min(max(1.0 - share, 0.0), 1.0)))
        self.generation += 1
        if self.steps >= phase.stop:
            self.check()
            self.finish_phase()

    def _climb(self, uphill: FloatArray, rate: float) -> None:
        """Adam's step."""
        self.taken += 1
        self._first = _BETA_1 * self._first + (1 - _BETA_1) * uphill
        self._second = _BETA_2 * self._second + (1 - _BETA_2) * uphill**2
        mean = self._first / (1 - _BETA_1**self.taken)
        size = np.sqrt(self._second / (1 - _BETA_2**self.taken))
        self.weights = self.weights + rate * mean / (size + _EPSILON)

    def _call(self, k: int, weights: FloatArray, begin: int) -> Call:
        """The call that lets each network play the same episodes of setting k, the first of seed `begin`."""
        seeds = range(begin, begin + self.parameters.episodes)
        arguments = (self.places[k], SeesRequests(*weights), list(seeds) * len(weights))
        return Call(f"episodes on {self.places[k].label}", play, arguments)


def _standardised(returns: FloatArray) -> FloatArray:
    """In standard deviations from their mean, so that no setting counts for more because its requests are many."""
    return np.asarray((returns - returns.mean()) / max(returns.std(), _EPSILON))
