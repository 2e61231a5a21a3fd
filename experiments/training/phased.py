"""Training a network that sees requests in phases: what all algorithms share that play inside the compiled loop.

A phase has settings of its own, for a share of the steps: all together first, then those of each traffic by themselves,
as rules are tuned for all families of presets and then for each. From time to time the weights play a fixed set of
training instances; those that did best there are what a phase leaves. Everything that is drawn follows from the seed
and from numbers in the state, so that a resumed run goes on as if nothing had happened. It is drawn in this process,
others play: what comes of it is the same whichever they are.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from agents.learned.checkpoint import ActionLayout, Checkpoint, Description, ObservationLayout
from agents.learned.networks import Float32Array
from agents.learned.request_network import RequestNetwork
from agents.serving.network import NUM_WEIGHTS, SeesRequests, untrained
from experiments.common.pools import Call, OwnProcess, Pool, ProcessesLostError
from experiments.splitting.definition import SEEDS_PER_RUN
from experiments.training.episodes import Metrics, Place, environments, play
from experiments.training.evaluation import Validator
from experiments.training.hyperparameters import OfNetwork
from experiments.training.interruption import Interruption
from experiments.training.phases import Phase, phases
from experiments.training.plan import Training
from experiments.training.record import STATE, Listener, Record
from experiments.training.scores import score
from experiments.training.settings import training_seed
from experiments.training.state import check_array, read_state, write_state
from experiments.training.state_bounds import Arrays, counts_of, number_of, plain_rows_of, rows_of
from papi_env.envs.registration import SERVING_V1
from papi_env.errors import ConfigurationError, DataError
from papi_env.kernel import FloatArray
from papi_env.scenario import Scenario
from papi_env.simulation.serving import state as layout
from papi_env.workload.service_presets import traffic_of


class Phased(ABC):
    """A training in phases, from where it stands. Subclasses say what a step is.

    Args:
        training: what; on Serving-v1.
        record: of its validations.
        count: environments of each setting side by side.
        pool: what plays; None: this process.

    Attributes:
        places: of the settings; horizons_s: for how long requests come there.
        weights: float64 [NUM_WEIGHTS], where the coming step begins.
        best: those of this phase that scored most on its fixed instances, `best_score`.
        done: the best by traffic of the phases that are over; those of all under the empty name.
        taken: steps of this phase, as far as an algorithm counts them.
        generation: steps of all phases.
        notes: of steps, as plain data.
        steps: iterations of the machine that were played; simulated_s: their seconds.
    """

    algorithm: ClassVar[str]
    # Arrays of the state, by attributes.
    arrays: ClassVar[Mapping[str, str]] = {"weights": "weights", "best": "best"}

    def __init__(self, training: Training, record: Record, count: int, pool: Pool | None = None) -> None:
        assert isinstance(training.parameters, OfNetwork)
        self.training, self.record, self.pool = training, record, pool or OwnProcess()
        self.weights: FloatArray = self._starts("", training.settings)[-1]
        self.best: FloatArray = self.weights
        self.best_score: float = -np.inf
        self.done: dict[str, FloatArray] = {}
        self.notes: list[dict[str, Any]] = []
        self._phases = phases(training.settings, training.parameters.timesteps, training.parameters.apart)
        if self._phases[0].traffic:
            self.done[""] = self.weights
        self.generation: int = 0
        self.steps: int = 0
        self.taken: int = 0
        self._phase: int = 0
        self._next_validation: int = 0
        self._next_check: int = 0
        self.simulated_s: float = 0.0
        self._earlier_s: float = 0.0
        self._start = time.perf_counter()
        horizon_s = training.parameters.horizon_s
        changes: dict[str, Any] = {"serving": {"horizon_s": horizon_s}} if horizon_s else {}
        env_id, changed = training.config.env, [setting.replace(**changes) for setting in training.settings]
        # Processes share the cores among them.
        threads = training.config.threads if self.pool.size == 1 else 1
        self.places = [Place.of(env_id, setting, count, threads) for setting in changed]
        # So one that cannot be played is told now, not in another process.
        alone = [Place.of(env_id, setting, 1, 1).made() for setting in changed]
        self.horizons_s = [float(env.engine.tables.arrivals.horizon_s) for env in alone]

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

    @property
    def phase(self) -> Phase:
        """The one that goes on."""
        return self._phases[self._phase]

    @abstractmethod
    def step(self) -> None:
        """Change the weights once."""

    def finish_phase(self) -> None:
        """Keep what the phase found, and go on to the next."""
        self.done[self.phase.traffic] = self.best
        self._phase += 1
        if not self.over:
            self.best_score, self.taken = -np.inf, 0
            self.begin_phase()
            self.choose_start()

    def choose_start(self) -> None:
        """Let a phase of one traffic begin with the best of what it may start from."""
        settings = [self.training.settings[k] for k in self.phase.settings]
        for start in (*self._starts(self.phase.traffic, settings), self.done[""]):
            self.weights = start
            self.check()
        self.weights = self.best

    def _starts(self, traffic: str, settings: Sequence[Scenario]) -> list[FloatArray]:
        """Untrained weights, those of the policy that is gone on from for all traffics, then those for this one.

        `settings` say which one where `traffic` does not, if all are of the same.
        """
        of = {traffic} if traffic else {traffic_of(setting.serving) or "" for setting in settings}
        begun = self.training.start
        own = begun.get(of.pop()) if len(of) == 1 else None
        found = [begun[""]] if begun else []
        return [untrained(self.training.config.seed), *found, *([] if own is None else [own])]

    @abstractmethod
    def begin_phase(self) -> None:
        """Forget what belongs to the phase before."""

    @abstractmethod
    def kept(self) -> Arrays:
        """Further arrays of the state, of no fixed length."""

    @abstractmethod
    def take(self, path: Path, arrays: Arrays) -> None:
        """Go on from the further arrays of a state.

        Raises:
            DataError: they are not of this training.
        """

    def check(self) -> float:
        """Let the weights play the phase's fixed instances, as many of each setting as there are environments."""
        # The last of the run's seeds: steps take the first.
        last = training_seed(self.training.config.seed) + SEEDS_PER_RUN
        (total,) = self.scores([self.weights], self.phase.settings, last - self.places[0].count)
        if total > self.best_score:
            self.best, self.best_score = self.weights, total
        return total

    def scores(self, candidates: Sequence[FloatArray], settings: Sequence[int], first: int) -> list[float]:
        """What each of several weights scores on settings, the sum, in episodes of seeds from `first` on."""
        calls = []
        for weights in candidates:
            for k in settings:
                place = self.places[k]
                seeds = range(first, first + place.count)
                calls.append(Call(f"episodes on {place.label}", play, (place, SeesRequests(weights), seeds)))
        played = iter(self.pool.map(calls))
        totals = []
        for _ in candidates:
            total = 0.0
            for k in settings:
                total += self._score(k, next(played))
            totals.append(total)
        return totals

    def _score(self, k: int, metrics: Metrics) -> float:
        """What episodes of a setting score, which are counted."""
        self.count(metrics)
        setting = self.training.settings[k]
        return score(self.training.config.env, setting, metrics["return"], metrics["offered"])

    def count(self, metrics: Metrics) -> None:
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
        now = {} if self.over else {self.phase.traffic: self.best}
        return {"": self.best} | self.done | now

    def checkpoint(self) -> Checkpoint:
        """The policy as it is now."""
        found = self.found()
        network = RequestNetwork(traffics=tuple(name for name in found if name))
        description = Description(
            algorithm=self.algorithm,
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

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """What a resumed run starts from; steps that follow leave it as it is."""
        names = ("generation", "steps", "taken", "simulated_s", "wall_s")
        numbers = {name: getattr(self, name) for name in names}
        counts = ("next_validation", "phase", "next_check")
        numbers |= {name: getattr(self, f"_{name}") for name in counts}
        # None has been checked where the score is not finite, which JSON cannot say.
        numbers["best_score"] = self.best_score if np.isfinite(self.best_score) else None
        arrays = {name: getattr(self, attribute) for name, attribute in self.arrays.items()}
        arrays |= {f"done/{traffic}": weights for traffic, weights in self.done.items()}
        content = {"numbers": numbers, "rows": list(self.rows), "notes": list(self.notes)}
        return arrays | self.kept(), content

    def keep_state(self, state: tuple[Arrays, dict[str, Any]] | None = None) -> None:
        """Write a state, that of now or one of before."""
        if self.record.folder is not None:
            write_state(self.record.folder / STATE, *(self.state() if state is None else state))

    def take_over(self, path: Path) -> None:
        """Go on from a state that was kept.

        Raises:
            DataError: the file is damaged, or of another training.
        """
        arrays, content = read_state(path)
        try:
            numbers, rows = content["numbers"], rows_of(path, content["rows"])
            notes = plain_rows_of(path, "notes", content["notes"])
            names = ("generation", "steps", "taken", "next_validation", "phase", "next_check")
            counts = counts_of(path, numbers, names)
            seconds = [number_of(path, name, numbers[name]) for name in ("simulated_s", "wall_s")]
            best = numbers["best_score"]
        except KeyError as error:
            raise DataError(f"{path}: not the state of this training: it has no {error}") from None
        best_score = -np.inf if best is None else number_of(path, "best_score", best)
        if counts[4] > len(self._phases):
            raise DataError(f"{path}: phase is {counts[4]}, expected at most {len(self._phases)}")
        over = [phase.traffic for phase in self._phases[: counts[4]]]
        if self._phases[0].traffic:
            over.insert(0, "")
        for name in (*self.arrays, *(f"done/{traffic}" for traffic in over)):
            check_array(path, name, arrays.get(name), np.zeros(NUM_WEIGHTS))
            # A policy holds them with 32 bits.
            if not (np.abs(arrays[name]) <= np.finfo(np.float32).max).all():
                raise DataError(f"{path}: {name} holds numbers that are not finite, or too large")
        for name, attribute in self.arrays.items():
            setattr(self, attribute, arrays[name])
        self.best_score = best_score
        self.done = {traffic: arrays[f"done/{traffic}"] for traffic in over}
        self.generation, self.steps, self.taken = counts[:3]
        self._next_validation, self._phase, self._next_check = counts[3:]
        self.simulated_s, self._earlier_s = seconds
        self.record.rows, self.notes = rows, notes
        self.take(path, arrays)


@contextmanager
def _kept(run: Phased) -> Iterator[None]:
    """Keep the state from before what runs inside, should that lose its processes."""
    before = run.state()
    try:
        yield
    except ProcessesLostError:
        run.keep_state(before)
        raise


def train_in_phases(
    kind: Callable[[Training, Record, Pool], Phased],
    training: Training,
    folder: Path | None,
    listener: Listener,
    interruption: Interruption,
    pool: Pool,
) -> Phased:
    """Train to the end, from the state in `folder` where there is one, on the processes of `pool`; see `learn.train`.

    Raises:
        ConfigurationError: the problem is not Serving-v1, or the budget is too small.
        DivergedError: returns ceased to be finite.
        KeyboardInterrupt: the interruption was asked for; the state is kept.
        ProcessesLostError: the processes of a call died again and again; the state before the step is kept.
    """
    config = training.config
    if config.env != SERVING_V1:
        raise ConfigurationError(
            f"{config.algorithm} trains a network that sees requests: expected --env {SERVING_V1}, "
            f"found {config.env}"
        )
    validator = Validator(config.env, training.validation, config.episodes, pool=pool)
    record = Record(folder, validator, listener)
    try:
        run = kind(training, record, pool)
        if folder is not None and (folder / STATE).exists():
            run.take_over(folder / STATE)
        if not run.over and run.phase.traffic and run.best_score == -np.inf:
            with _kept(run):
                run.choose_start()
        listener.started(run.steps)
        while not run.over:
            with _kept(run):
                run.at_boundary()
            if interruption.asked:
                run.keep_state()
                raise KeyboardInterrupt
            with _kept(run):
                run.step()
        with _kept(run):
            run.at_boundary(last=True)
        return run
    finally:
        environments.cache_clear()
