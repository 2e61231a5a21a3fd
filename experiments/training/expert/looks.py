"""Looks ahead from states that the network visits: what else it might have put out, and what that would have earned.

An expert, the fair planner with the network as its base, tries plans on imagined futures: for some seconds the network
plays with something added to one of its outputs or taken from it, then goes on by itself. So the expert learns about
outputs, not about weights, and of each in the state that it is looked at from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agents.learned.networks import Float32Array
from agents.serving.inside import network as layout
from agents.serving.inside.memory import NUM_MEMORY, SCRATCH
from agents.serving.inside.play import CompiledPolicy, decide_all, play_range
from agents.serving.network import SeesRequests
from agents.serving.planning.fair import Imagining
from agents.serving.planning.planner import Followed, Futures
from agents.serving.planning.space import ADJUST_STEP, SCORE_STEP, IntArray, outputs
from experiments.training.episodes import Metrics, Place, environments, measured
from experiments.training.expert.leaves import Leaves
from experiments.training.hyperparameters import ExpertIteration
from papi_env.envs.problem import Problem
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.rollout import roll

# What a look varies: scores of each class, the weights of all traits but the constant, what is adjusted.
NUM_VARIED = at.MAX_CLASSES + at.NUM_TRAITS - 1 + layout.NUM_ADJUSTED
FIRST_TRAIT, FIRST_ADJUSTED = at.MAX_CLASSES, NUM_VARIED - layout.NUM_ADJUSTED
STEPS = np.full(NUM_VARIED, SCORE_STEP)
STEPS[FIRST_ADJUSTED:] = ADJUST_STEP
# Simulated seconds after which arrivals are noted again while nobody looks. chosen: 0.5, a fiftieth of the seconds by
# which a rate is estimated; range 0.05-2.
_NOTE_S = 0.5
# Of so many looks one plays copies to their end where others stop at leaves, which are learned from it, by so many
# copies of those that are rolled out together. chosen: 4 (range 2-10) and 16 (range 4-64).
DRAINED, _STOPPED = 4, 16
_QUERIES = (at.MAX_CLASSES, at.NUM_TRAITS)


class Looks(NamedTuple):
    """What `n` looks found.

    Attributes:
        settings: int64 [n], of which setting.
        observations: float32 [n, features]; waiting: float64 [n], how much waits for how long, as the network reads it.
        gains: float64 [n, NUM_VARIED, 2], what less and what more of each output would earn than the network, on
            average over the futures; 0 where it changes nothing.
        doubts: of these the standard errors.
        tried: bool [n, NUM_VARIED], which outputs a look varied.
    """

    settings: IntArray
    observations: Float32Array
    waiting: FloatArray
    gains: FloatArray
    doubts: FloatArray
    tried: npt.NDArray[np.bool_]

    @staticmethod
    def empty(features: int) -> Looks:
        """No looks."""
        pairs = np.zeros((0, NUM_VARIED, 2))
        return Looks(
            np.zeros(0, dtype=np.int64),
            np.zeros((0, features), dtype=np.float32),
            np.zeros(0),
            pairs,
            pairs.copy(),
            np.zeros((0, NUM_VARIED), dtype=np.bool_),
        )

    @staticmethod
    def joined(parts: Sequence[Looks]) -> Looks:
        """All of them."""
        return Looks._make(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


class Looked(NamedTuple):
    """What a planner found in the episodes of a setting.

    Attributes:
        looks: all of them.
        stopped: see `Looking`; steps: likewise.
        metrics: of the episodes themselves.
    """

    looks: Looks
    stopped: list[tuple[Float32Array, FloatArray]]
    steps: int
    metrics: Metrics


class Looking(Imagining):
    """The network, which notes what a planner finds where it looks, and goes on as it would have.

    Args:
        network: with weights for all environments.
        parameters: of the training.
        seed: of the futures.
        leaves: what values copies that stop early; None: copies are played to their end.

    Attributes:
        looks: so far, each of one row.
        steps: iterations of copies.
        stopped: observations of copies that were played to their end, where they would have stopped, and their returns
            from there.
    """

    def __init__(
        self, network: SeesRequests, parameters: ExpertIteration, seed: int, leaves: Leaves | None = None
    ) -> None:
        super().__init__(parameters.seconds, parameters.futures, network, None, seed)
        self.leaf_s, self.leaves, self.vary = parameters.leaf_s, leaves, parameters.vary
        self.looks: list[Looks] = []
        self.steps = 0
        self.stopped: list[tuple[Float32Array, FloatArray]] = []

    def supports(self, env: Problem) -> None:
        """As all planners; varies the network's outputs."""
        super().supports(env)
        self.space = replace(self.space, coordinates=outputs(self.space.row, self.tables))
        others = FIRST_TRAIT + np.arange(at.NUM_TRAITS - 1 + layout.NUM_ADJUSTED)
        classes = np.arange(len(self.space.coordinates) - len(others))
        self._varied = np.concatenate([classes, others])

    def search(self, futures: Futures, memory: FloatArray, before: IntArray) -> tuple[IntArray, IntArray]:
        """Note what less and more of each output is worth, and go on."""
        base = self.space.base
        # Drawn anew for each look: different states say more than all outputs in the same.
        rng = np.random.default_rng([self.seed, futures.env, len(self.looks)])
        some = np.sort(rng.permutation(len(base))[: self.vary or len(base)])
        plans = np.repeat(base[None], 1 + 2 * len(some), axis=0)
        for row, k in enumerate(some):
            plans[1 + 2 * row : 3 + 2 * row, k] = 1, 2
        then = np.repeat(base[None], len(plans), axis=0)
        earned = np.zeros((len(plans), self.samples))
        earned[:, :1] = self.values(futures, memory, plans, then, 0, 1)
        # Others play as the network does, and would on all futures that are as close.
        changes = np.flatnonzero(earned[:, 0] != earned[0, 0])
        tried = np.concatenate([[0], changes])
        found = self.values(futures, memory, plans[tried], then[tried], 1, self.samples)
        earned[:, 1:], earned[tried, 1:] = found[0], found
        more = earned[1:] - earned[0]
        gains, doubts = np.zeros((2, NUM_VARIED, 2))
        gains[self._varied[some]] = more.mean(axis=1).reshape(-1, 2)
        doubts[self._varied[some]] = (more.std(axis=1, ddof=1) / np.sqrt(self.samples)).reshape(-1, 2)
        observations = futures.engine.observations[futures.env : futures.env + 1].copy()
        waiting = self._waiting(observations, memory)
        varied = np.zeros((1, NUM_VARIED), dtype=np.bool_)
        varied[0, self._varied[some]] = True
        setting = np.zeros(1, dtype=np.int64)
        self.looks.append(Looks(setting, observations, waiting, gains[None], doubts[None], varied))
        self.steps += futures.steps
        return base, base

    def rest(self, futures: Futures, twin: ServingEngine, policy: CompiledPolicy) -> FloatArray:
        """To the end, or to where a leaf is valued."""
        if not self.leaf_s:
            return super().rest(futures, twin, policy)
        earned = futures.roll(twin, policy, self.leaf_s)
        seen, over = twin.observations.copy(), twin.counters[:, at.DONE] > 0
        if self.leaves is not None and futures.env % DRAINED:
            return earned + np.where(over, 0.0, self.leaves(seen))
        last = futures.roll(twin, policy, None)
        kept = np.flatnonzero(~over)[:_STOPPED]
        self.stopped.append((seen[kept], last[kept]))
        return earned + last

    def _waiting(self, observations: Float32Array, memory: FloatArray) -> FloatArray:
        """What the network reads besides an observation, which it leaves in its scratch; [1]."""
        policy = self.space.policy(self.base, self.space.base[None], memory[None].copy())
        actions = np.zeros((1, self._columns), dtype=np.int64)
        decide_all(policy[:], observations, self._look, actions, np.zeros((1, *_QUERIES)), self._busy)
        return policy.memory[:, SCRATCH].copy()


def look_around(planner: Looking, env: ProblemVectorEnv, seeds: Sequence[int], times: FloatArray) -> None:
    """Play an episode in each environment, and look ahead in it at some moments.

    Args:
        planner: bound here.
        env: with autoreset disabled.
        seeds: of the episodes.
        times: of looks in simulated seconds, in order, float64 [num_envs, looks]; after an episode's end there is none.
    """
    planner.bind(env)
    env.reset(seed=list(seeds))
    engine: ServingEngine = env.engine
    state: Any = Followed(env.num_envs, planner.space)
    policy = planner.base.compiled(np.zeros((env.num_envs, NUM_MEMORY)))
    state.memory = policy.memory
    state.count[:] = np.arange(env.num_envs) * times.shape[1]  # of which the futures' seed is made
    looked = np.zeros(env.num_envs, dtype=np.int64)
    start = np.ones(env.num_envs, dtype=np.bool_)
    times = np.append(times, np.full((env.num_envs, 1), np.inf), axis=1)
    each = np.arange(env.num_envs)
    while np.isfinite(times[each, looked]).any():
        planner.watch(engine, state, start)
        over = engine.counters[:, at.DONE] > 0
        for k in np.flatnonzero(~over & (engine.clocks[:, at.TIME_S] >= times[each, looked])):
            planner.plan(engine, int(k), state)
            state.count[k] += 1
            looked[k] += 1
        looked[over] = times.shape[1] - 1
        start[:] = False
        roll(engine, play_range, policy[:], seconds=_NOTE_S)


def look(place: Place, k: int, planner: Looking, seeds: Sequence[int], times: FloatArray) -> Looked:
    """Look ahead in the episodes of a place, that of setting `k`; see `look_around`."""
    env = environments(place)
    look_around(planner, env, seeds, times)
    found = [one._replace(settings=np.array([k])) for one in planner.looks]
    looks = Looks.joined([Looks.empty(len(at.OBSERVATION_NAMES_V1)), *found])
    return Looked(looks, planner.stopped, planner.steps, measured(env.metrics()))
