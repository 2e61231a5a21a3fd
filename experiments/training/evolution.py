"""Evolution strategies on the network that sees requests: whole episodes inside the compiled loop, no gradients.

A generation draws perturbations of the weights in opposite pairs (Salimans et al., 2017), plays all of them on the same
episodes of some settings, ranks what they earn, and moves the weights along the perturbations by rank, by Adam's step.
Rules are tuned for all families of presets and then for each; so may weights be, for each traffic. From time to time
the weights play a fixed set of training instances, and those that did best there are what a part of the training
leaves. Everything that a generation draws follows from the seed and its number, so that a resumed run goes on as if
nothing had happened.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.learned.checkpoint import ActionLayout, Checkpoint, Description, ObservationLayout
from agents.learned.networks import Float32Array
from agents.learned.request_network import RequestNetwork
from agents.serving.network import NUM_WEIGHTS, SeesRequests, untrained
from experiments.common.problems import vector_class
from experiments.splitting.definition import SEEDS_PER_RUN
from experiments.training.callbacks import DivergedError
from experiments.training.evaluation import Validator
from experiments.training.hyperparameters import Evolution, at
from experiments.training.interruption import Interruption
from experiments.training.phases import Phase, phases
from experiments.training.plan import Training
from experiments.training.record import STATE, Listener, Record
from experiments.training.scores import score
from experiments.training.settings import training_seed
from experiments.training.state import check_array, read_state, write_state
from papi_env.envs.registration import SERVING_V1
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError, DataError, shown
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as layout

# Adam's, as published (Kingma and Ba, 2015) but for a shorter second memory: generations are few.
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.99, 1e-8
# Steps of training between two checks over steps of a check. chosen: 10; range 3-30.
_STEPS_PER_CHECK = 10
# Arrays of the state, by attributes.
_ARRAYS = {"weights": "weights", "first": "_first", "second": "_second", "best": "best"}


class Evolved:
    """A training by evolution, from where it stands.

    Attributes:
        weights: float64 [NUM_WEIGHTS], the centre of the coming generation.
        best: those of this phase that scored most on its fixed instances, `best_score`.
        done: the best by traffic of the phases that are over; those of all under the empty name.
        generation: how many are done.
        steps: iterations of the machine that were played; simulated_s: their seconds.
    """

    def __init__(self, training: Training, record: Record) -> None:
        assert isinstance(training.parameters, Evolution)
        self.training, self.record = training, record
        self.parameters: Evolution = training.parameters
        self.weights: FloatArray = untrained(training.config.seed)
        self.best: FloatArray = self.weights
        self.best_score: float = -np.inf
        self.done: dict[str, FloatArray] = {}
        self._first: FloatArray = np.zeros(NUM_WEIGHTS)
        self._second: FloatArray = np.zeros(NUM_WEIGHTS)
        self._phases = phases(training.settings, self.parameters.timesteps, self.parameters.apart)
        self.generation: int = 0
        self.steps: int = 0
        self._phase: int = 0
        self._taken: int = 0  # generations, and Adam's steps, in this phase
        self._next_validation: int = 0
        self._next_check: int = 0
        self.simulated_s: float = 0.0
        self._earlier_s: float = 0.0
        self._start = time.perf_counter()
        horizon_s = self.parameters.horizon_s
        changes: dict[str, Any] = {"serving": {"horizon_s": horizon_s}} if horizon_s else {}
        count = 2 * self.parameters.pairs * self.parameters.episodes
        make = vector_class(training.config.env)
        self._envs: list[ProblemVectorEnv] = [
            make(
                setting.replace(**changes),
                num_envs=count,
                autoreset_mode=AutoresetMode.DISABLED,
                threads=training.config.threads,
            )
            for setting in training.settings
        ]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Of all validations so far."""
        return self.record.rows

    @property
    def wall_s(self) -> float:
        """Seconds of training, over all sessions."""
        return self._earlier_s + time.perf_counter() - self._start

    @property
    def over(self) -> bool:
        """Whether all phases are."""
        return self._phase == len(self._phases)

    def step(self) -> None:
        """One generation."""
        parameters, seed, phase = self.parameters, self.training.config.seed, self._phases[self._phase]
        if self.steps >= self._next_check:
            self._check(phase)
        rng = np.random.default_rng([seed, self.generation])
        drawn = rng.normal(size=(parameters.pairs, NUM_WEIGHTS))
        perturbed = self.weights + parameters.sigma * np.concatenate([drawn, -drawn])
        played = min(parameters.settings, len(phase.settings))
        chosen = rng.choice(phase.settings, size=played, replace=False, shuffle=False)
        times = parameters.settings // played
        first = training_seed(seed) + self.generation * times * parameters.episodes % SEEDS_PER_RUN
        earned = np.zeros(len(perturbed))
        for k in sorted(chosen):
            for time_ in range(times):
                begin = first + time_ * parameters.episodes
                earned += self._play(self._envs[k], perturbed, range(begin, begin + parameters.episodes))
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
            self._check(phase)
            self.done[phase.traffic] = self.best
            self._phase += 1
            if not self.over:
                self._begin(self._phases[self._phase])

    def _begin(self, phase: Phase) -> None:
        """Start a further phase from what all settings together left or from untrained weights: from the better."""
        self.best_score, self._taken = -np.inf, 0
        self._first, self._second = np.zeros(NUM_WEIGHTS), np.zeros(NUM_WEIGHTS)
        for start in (untrained(self.training.config.seed), self.done[""]):
            self.weights = start
            self._check(phase)
        self.weights = self.best

    def _check(self, phase: Phase) -> None:
        """Let the weights play the phase's settings on as many instances as a generation has episodes of each."""
        total, before = 0.0, self.steps
        for k in phase.settings:
            env = self._envs[k]
            # The last of the run's seeds: generations take the first.
            last = training_seed(self.training.config.seed) + SEEDS_PER_RUN
            metrics = evaluate(SeesRequests(self.weights), env, range(last - env.num_envs, last))
            self._count(metrics)
            total += score(
                self.training.config.env,
                self.training.settings[k],
                metrics["return"],
                metrics["offered"],
            )
        self._next_check = self.steps + _STEPS_PER_CHECK * (self.steps - before)
        if total > self.best_score:
            self.best, self.best_score = self.weights, total

    def _climb(self, uphill: FloatArray, rate: float) -> None:
        """Adam's step."""
        self._taken += 1
        self._first = _BETA_1 * self._first + (1 - _BETA_1) * uphill
        self._second = _BETA_2 * self._second + (1 - _BETA_2) * uphill**2
        mean = self._first / (1 - _BETA_1**self._taken)
        size = np.sqrt(self._second / (1 - _BETA_2**self._taken))
        self.weights = self.weights + rate * mean / (size + _EPSILON)

    def _play(self, env: ProblemVectorEnv, weights: FloatArray, seeds: range) -> FloatArray:
        """What each network returns, in standard deviations over all of them from their mean, [len(weights)].

        So no setting counts for more because its requests come in larger numbers.
        """
        metrics = evaluate(SeesRequests(*weights), env, list(seeds) * len(weights))
        self._count(metrics)
        returns = metrics["return"].reshape(len(weights), -1).mean(axis=1)
        return np.asarray((returns - returns.mean()) / max(returns.std(), _EPSILON))

    def _count(self, metrics: Mapping[str, Any]) -> None:
        """Episodes that were played."""
        self.steps += int(metrics["iterations"].sum())
        self.simulated_s += float(metrics["time_s"].sum())

    def at_boundary(self, last: bool = False) -> None:
        """Validate and keep the state where it is time."""
        self.record.listener.stepped(self.steps, self.simulated_s)
        if self.rows and self.rows[-1]["steps"] == self.steps:
            return
        if self.steps >= self._next_validation or last:
            every = self.training.every
            self._next_validation = (self.steps // every + 1) * every
            self.record.validate(self.checkpoint(), self.steps, self.simulated_s, self.wall_s)
            self.keep_state()

    def found(self) -> dict[str, FloatArray]:
        """The best weights by traffic as of now, those of all under the empty name first."""
        now = {} if self.over else {self._phases[self._phase].traffic: self.best}
        return {"": self.best} | self.done | now

    def checkpoint(self) -> Checkpoint:
        """The policy as it is now."""
        found = self.found()
        network = RequestNetwork(traffics=tuple(name for name in found if name))
        description = Description(
            algorithm="Evolution",
            env=self.training.config.env,
            observation=ObservationLayout(names=layout.OBSERVATION_NAMES_V1),
            action=ActionLayout(options=layout.NVEC_V1),
            architecture=network,
            masked=False,
            scenarios=tuple(setting.model_dump(mode="json") for setting in self.training.settings),
            training=self.training.summary(),
        )
        tensors: dict[str, Float32Array] = {}
        for traffic, weights in found.items():
            tensors |= network.split(weights, traffic)
        return Checkpoint(description, tensors)

    def keep_state(self) -> None:
        """Write what a resumed run starts from."""
        if self.record.folder is not None:
            numbers = {name: getattr(self, name) for name in ("generation", "steps", "simulated_s", "wall_s")}
            counts = ("next_validation", "phase", "taken", "next_check")
            numbers |= {name: getattr(self, f"_{name}") for name in counts}
            # None has been checked where the score is not finite, which JSON cannot say.
            numbers["best_score"] = self.best_score if np.isfinite(self.best_score) else None
            arrays = {name: getattr(self, attribute) for name, attribute in _ARRAYS.items()}
            arrays |= {f"done/{traffic}": weights for traffic, weights in self.done.items()}
            write_state(self.record.folder / STATE, arrays, {"numbers": numbers, "rows": self.rows})

    def take_over(self, path: Path) -> None:
        """Go on from a state that was kept.

        Raises:
            DataError: the file is damaged, or of another training.
        """
        arrays, content = read_state(path)
        try:
            numbers = content["numbers"]
            names = ("generation", "steps", "next_validation", "phase", "taken", "next_check")
            counts = [int(numbers[name]) for name in names]
            seconds = [float(numbers[name]) for name in ("simulated_s", "wall_s")]
            best_score = -np.inf if numbers["best_score"] is None else float(numbers["best_score"])
            rows = [dict(row) for row in content["rows"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not the state of this training: {error!r}") from None
        wrong = min(counts) < 0 or counts[3] > len(self._phases) or np.isnan(best_score)
        if wrong or not np.isfinite(seconds).all():
            raise DataError(f"{path}: numbers of the training are {shown(numbers)}, expected others")
        over = [phase.traffic for phase in self._phases[: counts[3]]]
        for name in (*_ARRAYS, *(f"done/{traffic}" for traffic in over)):
            check_array(path, name, arrays.get(name), np.zeros(NUM_WEIGHTS))
            if not np.isfinite(arrays[name]).all():
                raise DataError(f"{path}: {name} holds numbers that are not finite")
        for name, attribute in _ARRAYS.items():
            setattr(self, attribute, arrays[name])
        self.best_score = best_score
        self.done = {traffic: arrays[f"done/{traffic}"] for traffic in over}
        self.generation, self.steps, self._next_validation, self._phase, self._taken, self._next_check = (
            counts
        )
        self.simulated_s, self._earlier_s = seconds
        self.record.rows = rows


def evolve(
    training: Training, folder: Path | None, listener: Listener, interruption: Interruption
) -> Evolved:
    """Train to the end, from the state in `folder` where there is one; see `learn.train`.

    Raises:
        ConfigurationError: the problem is not Serving-v1.
        DivergedError: returns ceased to be finite.
        KeyboardInterrupt: the interruption was asked for; the state is kept.
    """
    config = training.config
    if config.env != SERVING_V1:
        raise ConfigurationError(
            f"evolution trains a network that sees requests: expected --env {SERVING_V1}, found {config.env}"
        )
    record = Record(folder, Validator(config.env, training.validation, config.episodes), listener)
    run = Evolved(training, record)
    if folder is not None and (folder / STATE).exists():
        run.take_over(folder / STATE)
    listener.started(run.steps)
    while not run.over:
        run.at_boundary()
        if interruption.asked:
            run.keep_state()
            raise KeyboardInterrupt
        run.step()
    run.at_boundary(last=True)
    return run
