"""Expert iteration (Anthony, Tian and Barber, NeurIPS 2017): looks by a planner, a fit to what they found, a move.

A round plays episodes of all settings of the phase with the network as it is. In these the expert looks ahead, at
moments drawn from the time in which requests arrive, on futures that a scheduler may imagine. The network is fitted to
what the looks found, its outputs by the same everywhere or by what the state is, and moved by as much of a fit as earns
most in episodes that nothing was fitted to, or not at all; the next expert plans with the network that came of it.
Looks are kept until the network moves.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch

from agents.serving.network import SeesRequests
from experiments.common.pools import Call, Pool
from experiments.common.runner import write_whole
from experiments.splitting.definition import SEEDS_PER_RUN
from experiments.training.expert.apprentice import fit
from experiments.training.expert.leaves import Leaves
from experiments.training.expert.looks import DRAINED, Looking, Looks, look
from experiments.training.hyperparameters import ExpertIteration
from experiments.training.phased import Phased
from experiments.training.plan import Training
from experiments.training.record import Record
from experiments.training.settings import training_seed
from experiments.training.state import check_array
from experiments.training.state_bounds import Arrays
from papi_env.errors import ConfigurationError, DataError
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at

ROUNDS = "rounds.csv"
NOTED = ("round", "traffic", "looks", "explained", "moved", "score", "leaves explained", "steps")
# So many times a fit is tried, for one to doubtful gains is timid, and one to sure gains goes all the way. chosen: 0.3
# to 3; range 0.1-10.
MOVES = (0.3, 1.0, 3.0)
# Settings on which they are compared, lest that takes longer than looking. chosen: 8; range 2-30.
_MOST_SCORED = 8

# Fewer looks say nothing of which outputs to move where. chosen: 8; range 4-100.
LEAST_LOOKS = 8
# Copies to which values of leaves are fitted, the last ones and no fewer. chosen: 32768, 10 MB (range 4096-262144), and
# 32 (range 16-1024).
_MOST_STOPPED, _LEAST_STOPPED = 32768, 32


class Expert(Phased):
    """A training by expert iteration, from where it stands; a step is a round.

    Attributes:
        looks: since the network last moved.
        leaves: the values of leaves; None before the first are fitted, or where copies are played to their end.
        stopped: what they were fitted to, see `Looking`.
    """

    algorithm = "ExpertIteration"

    def __init__(self, training: Training, record: Record, pool: Pool | None = None) -> None:
        assert isinstance(training.parameters, ExpertIteration)
        torch.set_num_threads(training.config.threads)
        self.parameters: ExpertIteration = training.parameters
        super().__init__(training, record, self.parameters.checks, pool)
        self.leaves: Leaves | None = None
        self.stopped = (np.zeros((0, len(at.OBSERVATION_NAMES_V1)), dtype=np.float32), np.zeros(0))
        self.begin_phase()

    def begin_phase(self) -> None:
        """Looks of another phase are forgotten."""
        self.looks = Looks.empty(len(at.OBSERVATION_NAMES_V1))

    def step(self) -> None:
        """One round.

        Raises:
            ConfigurationError: the looks of the first round take more than there is for all rounds of its phase.
        """
        phase, seed = self.phase, self.training.config.seed
        if self.best_score == -np.inf:
            self.check()
        before = self.steps
        rng = np.random.default_rng([seed, self.generation])
        looked = self.pool.map([self._look(k, rng) for k in phase.settings])
        for one in looked:
            self.count(one.metrics)
            self.steps += one.steps
        self.looks = Looks.joined([self.looks, *(one.looks for one in looked)])
        if not len(self.looks.waiting) or (self.generation == 0 and self.steps > phase.stop):
            raise ConfigurationError(
                f"timesteps is {self.training.parameters.timesteps}: {len(self.looks.waiting)} looks of a round took "
                f"{self.steps - before} iterations of the {phase.stop} that its part of the training has; expected "
                "iterations for one round at least, and requests that last till one looks"
            )
        start = self.weights
        tried, explained = [("stay", start)], 0.0
        if len(self.looks.waiting) >= LEAST_LOOKS:
            for name, everywhere in (("everywhere", True), ("by state", False)):
                fitted, share = fit(start, self.looks, self.parameters, seed, everywhere)
                explained = max(explained, share)
                if share > 0:
                    tried += [(f"{name} x {by:g}", start + by * (fitted - start)) for by in MOVES]
        # On the episodes in which the next round looks, which have no say in this one's fit.
        coming = self._first_seed(self.generation + 1)
        some = [int(k) for k in rng.permutation(phase.settings)[:_MOST_SCORED]]
        scores = self.scores([weights for _, weights in tried], some, coming) if len(tried) > 1 else [0.0]
        moved, self.weights = tried[int(np.argmax(scores))]
        if self.weights is not start:
            self.check()
        stopped = [self.stopped, *(part for one in looked for part in one.stopped)]
        seen, returns = (np.concatenate(arrays)[-_MOST_STOPPED:] for arrays in zip(*stopped, strict=True))
        self.stopped = seen, returns
        if len(returns) >= _LEAST_STOPPED:
            self.leaves = Leaves.fitted(seen, returns, seed)
        self.notes.append(
            {
                "round": self.generation,
                "traffic": phase.traffic,
                "looks": len(self.looks.waiting),
                "explained": explained,
                "moved": moved,
                "score": self.best_score / len(phase.settings),
                "leaves explained": "" if self.leaves is None else float(self.leaves.explained[0]),
                "steps": self.steps,
            }
        )
        if self.weights is not start:
            self.looks = Looks.empty(len(at.OBSERVATION_NAMES_V1))
        self.generation += 1
        self._write_notes()
        if self.steps + (self.steps - before) / 2 > phase.stop:
            self.finish_phase()

    def _look(self, k: int, rng: np.random.Generator) -> Call:
        """The call that looks ahead in the episodes of setting k; all that is drawn is drawn here."""
        place, first = self.places[k], self._first_seed(self.generation)
        times = self._times(rng, place.count, self.horizons_s[k])
        if self.parameters.leaf_s and self.leaves is None:
            times[np.arange(place.count) % DRAINED != 0] = np.inf  # those that need leaves
        seed = int(rng.integers(1 << 62))
        planner = Looking(SeesRequests(self.weights), self.parameters, seed, self.leaves)
        seeds = range(first, first + place.count)
        return Call(f"looks on {place.label}", look, (place, k, planner, seeds, times))

    def kept(self) -> Arrays:
        """Looks, and what values leaves."""
        arrays: Arrays = {f"looks/{name}": array for name, array in self.looks._asdict().items()}
        arrays["stopped/observations"], arrays["stopped/returns"] = self.stopped
        if self.leaves is not None:
            arrays |= {f"leaves/{name}": array for name, array in self.leaves.arrays.items()}
        return arrays

    def take(self, path: Path, arrays: Arrays) -> None:
        """Looks and leaves of a state that was kept.

        Raises:
            DataError: they are not of this training.
        """
        if any(tuple(note) != NOTED for note in self.notes):
            raise DataError(f"{path}: notes have other fields than {', '.join(NOTED)}")
        one = Looks.empty(len(at.OBSERVATION_NAMES_V1))
        shapes = {f"looks/{name}": empty for name, empty in one._asdict().items()}
        shapes |= {"stopped/observations": one.observations, "stopped/returns": one.waiting}
        for name, empty in shapes.items():
            of = "looks/waiting" if name.startswith("looks/") else "stopped/returns"
            expected = np.zeros((len(np.atleast_1d(arrays.get(of, ()))), *empty.shape[1:]), dtype=empty.dtype)
            check_array(path, name, arrays.get(name), expected)
        self.looks = Looks._make(arrays[f"looks/{name}"] for name in Looks._fields)
        self.stopped = arrays["stopped/observations"], arrays["stopped/returns"]
        self.leaves = None
        if "leaves/hidden" in arrays:
            for name, expected in Leaves.shapes(one.observations.shape[1]).items():
                check_array(path, f"leaves/{name}", arrays.get(f"leaves/{name}"), expected)
            self.leaves = Leaves(*(arrays[f"leaves/{name}"] for name in Leaves.NAMES))
        found = [
            array for name, array in arrays.items() if name.startswith(("looks/", "leaves/", "stopped/"))
        ]
        if not all(np.isfinite(array).all() for array in found):
            raise DataError(f"{path}: looks or leaves hold numbers that are not finite")

    def _times(self, rng: np.random.Generator, episodes: int, horizon_s: float) -> FloatArray:
        """When to look in the episodes of a setting, infinity where there are enough looks; [episodes, looks]."""
        looks = -(-self.parameters.looks // len(self.phase.settings))
        most = -(-looks // episodes)
        times = np.sort(rng.uniform(0.0, horizon_s, (episodes, most)), axis=1)
        for episode in rng.permutation(episodes)[: most * episodes - looks]:
            times[episode, -1] = np.inf
        return times

    def _first_seed(self, generation: int) -> int:
        """Of the episodes in which a round looks."""
        return training_seed(self.training.config.seed) + generation * self.parameters.checks % (
            SEEDS_PER_RUN // 2
        )

    def _write_notes(self) -> None:
        if self.record.folder is not None:
            text = io.StringIO()
            writer = csv.DictWriter(text, NOTED, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.notes)
            write_whole(self.record.folder / ROUNDS, text.getvalue())
