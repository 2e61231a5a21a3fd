"""Three searches behind one face: they give batches of designs, and are told what became of each."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from experiments.sweeping.definition import Axis, Design, Sweep

# Values of the objectives in their order, or None where a design broke a limit.
Scores = Sequence[Sequence[float] | None]
Batches = Generator[list[Design], Scores, None]


def batches(sweep: Sweep, most: int) -> Batches:
    """The designs of a sweep in batches of at most `most`; `send` takes the scores of the last batch.

    The designs depend on the sweep and on the scores alone: a search that is repeated with the same scores goes the
    same way, which is how an interrupted one goes on.
    """
    return {"grid": _grid, "random": _random, "nsga2": _nsga2}[sweep.search](sweep, most)


def _grid(sweep: Sweep, most: int) -> Batches:
    designs = sweep.grid()
    while batch := list(islice(designs, most)):
        yield batch


def _random(sweep: Sweep, most: int) -> Batches:
    for first in range(0, sweep.size, most):
        # Each design has its own luck: batches of another size give the same.
        yield [_drawn(sweep, k) for k in range(first, min(first + most, sweep.size))]


def _drawn(sweep: Sweep, number: int) -> Design:
    rng = np.random.default_rng((sweep.search_seed, number))
    return tuple(
        value
        for axis in sweep.axes
        for value in (_choice(axis, rng) if axis.values else (axis.at(rng.random()),))
    )


def _choice(axis: Axis, rng: np.random.Generator) -> Design:
    return axis.listed()[int(rng.integers(len(axis.values or ())))]


def _nsga2(sweep: Sweep, most: int) -> Batches:
    """Optuna's NSGA-II (Deb et al., IEEE Trans. Evol. Comp. 2002), a generation a batch; what breaks a limit fails."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    size = min(sweep.population, most)
    sampler = optuna.samplers.NSGAIISampler(population_size=size, seed=sweep.search_seed)
    best = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    study = optuna.create_study(directions=[best[one.goal] for one in sweep.objectives], sampler=sampler)
    distributions = {axis.paths[0]: _distribution(axis) for axis in sweep.axes}
    for first in range(0, sweep.size, size):
        trials = [study.ask(distributions) for _ in range(min(size, sweep.size - first))]
        scores = yield [_asked(sweep, trial.params) for trial in trials]
        for trial, values in zip(trials, scores, strict=True):
            if values is None:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, list(values))


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.values is not None:
        return CategoricalDistribution(range(len(axis.values)))
    assert axis.low is not None
    assert axis.high is not None
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _asked(sweep: Sweep, params: dict[str, Any]) -> Design:
    found: list[Any] = []
    for axis in sweep.axes:
        value = params[axis.paths[0]]
        found += [value] if axis.values is None else axis.listed()[value]
    return tuple(found)
