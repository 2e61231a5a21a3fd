"""A start for training: imitation of what the next step costs, which the simulator knows and no scheduler does.

Policies of continuous batching that begin at random overload the machine within seconds, and from there every
request is late whatever they do: there is nothing to learn from. This start plays episodes of the training settings
and has the simulator try every joint action for one step in the states that are met. The network is then fitted to
choose what costs least, given what it observes: its distribution over joint actions to the softmin of their relative
regrets, so two actions that cost the same are both right (cost-sensitive imitation: AggreVaTe, Ross and Bagnell 2014;
their loss, the expected regret itself, is flat where the network is sure of a wrong action). From the second round
on the network itself acts, and its states are added to those of before
(DAgger: Ross, Gordon and Bagnell, AISTATS 2011).

The costs are read in training alone; what is learned acts on observations, as any other policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from agents.environments import numbering_of, problems_of
from agents.learned.export import ACTOR_CRITIC, export_policy
from agents.learned.policy import LearnedPolicy
from agents.serving.oracles import equivalents, prompt_weight, token_rates
from experiments.distilling.collect import make_envs
from experiments.training.hyperparameters import Imitation
from experiments.training.interruption import Interruption
from experiments.training.record import Listener
from papi_env.envs.flatten import JointActions
from papi_env.envs.problem import Problem
from papi_env.envs.serving import JOINT_ACTIONS, ServingProblem
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Lessons:
    """States that were met, and what each joint action would have cost there.

    Attributes:
        observations: float32 [samples, features].
        regrets: float32 [samples, joint actions]: see `step_regrets`; infinite also beyond the actions of a setting
            that has fewer than others.
        table: int64 [samples], which of the tables of joint actions the columns stand for.
    """

    observations: Float32Array
    regrets: Float32Array
    table: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.observations)

    @staticmethod
    def joined(parts: Sequence[Lessons]) -> Lessons:
        """All samples, one part after the other."""
        width = max(part.regrets.shape[1] for part in parts)
        regrets = [_widened(part.regrets, width) for part in parts]
        return Lessons(
            np.concatenate([part.observations for part in parts]),
            np.concatenate(regrets),
            np.concatenate([part.table for part in parts]),
        )


def _widened(regrets: Float32Array, width: int) -> Float32Array:
    missing = width - regrets.shape[1]
    return np.pad(regrets, ((0, 0), (0, missing)), constant_values=np.inf)


def step_regrets(
    problem: Problem,
    playing: npt.NDArray[np.bool_],
    scratch: ServingEngine | None = None,
    prompts: float = 1.0,
) -> Float32Array:
    """Privileged: what each joint action of the coming step lacks of the best, float32 [playing, joint actions].

    On static batches and image encodes that is the step's cost over the least one, less 1. In Serving-v0 it is what the
    rate of useful tokens lacks of the best rate, as a share of that. Useful are prompt tokens (see
    `agents.serving.oracles.prompt_weight`) and the output tokens that drafts gain on average, these by the share of
    decoding requests that have not missed their first token already. Infinite where an action is not possible.

    Args:
        problem: with as many environments as `playing` has entries.
        playing: bool [num_envs], those to look at.
        scratch: of Serving-v0, a fork of its engine with 72 copies, which is overwritten; made where there is none.
        prompts: of Serving-v0, multiplies what a prompt token counts for.
    """
    if not isinstance(problem, ServingProblem):
        costs = problem.joint_costs()[playing]
        least = costs.min(axis=1, keepdims=True)
        return (costs / np.maximum(least, 1e-300) - 1).astype(np.float32)
    masks = problem.joint_masks()
    weight = prompts * prompt_weight(problem.engine.tables)
    scratch = problem.engine.fork(0, at.NUM_ACTIONS) if scratch is None else scratch
    rows = [
        _serving_regrets(problem, int(env), masks[env], weight, scratch) for env in np.flatnonzero(playing)
    ]
    return np.stack(rows).astype(np.float32)


def _serving_regrets(
    problem: ServingProblem, env: int, mask: npt.NDArray[np.bool_], weight: float, scratch: ServingEngine
) -> npt.NDArray[np.float64]:
    same = equivalents(problem.engine, env)
    tried = np.unique(same[mask])
    in_time = 1.0 - float(problem.engine.clocks[env, at.LOST])
    rates = np.zeros(len(mask))
    rates[tried] = token_rates(
        problem.engine, env, JOINT_ACTIONS[tried], weight, in_time, scratch, expected=True
    )
    rates = rates[same]
    best = rates[mask].max()
    # An iteration without useful work gains nothing by any action.
    regrets = 1.0 - rates / best if best > 0 else np.zeros(len(mask))
    return np.where(mask, regrets, np.inf)


def imitate(
    model: BaseAlgorithm,
    settings: Sequence[Scenario],
    env_id: str,
    parameters: Imitation,
    seeds: Sequence[int],
    interruption: Interruption,
    listener: Listener,
) -> list[float]:
    """Fit the actor of a model to the costs of steps; the critic stays as it is.

    Args:
        model: PPO, A2C or MaskablePPO, with its environments.
        settings: what is played, each by itself.
        env_id: the problem.
        parameters: how much.
        seeds: of the episodes, `parameters.rounds * parameters.episodes` of them.
        interruption: asked between rounds; a training that goes on starts its imitation anew.
        listener: told of every round.

    Returns:
        The expected regret on the samples of each round before they were learned from (of the first: after).

    Raises:
        ConfigurationError: an algorithm without an actor of this kind, or a stride longer than all episodes.
        KeyboardInterrupt: the interruption was asked for.
    """
    name = type(model).__name__
    if name not in ACTOR_CRITIC or name == "RecurrentPPO":
        raise ConfigurationError(
            f"{name} cannot start from imitation; expected one of PPO, A2C, MaskablePPO, or no imitation"
        )
    envs = make_envs(env_id, settings, parameters.episodes)
    tables, which = _tables(envs)
    actor = _Actor(model, tables, parameters)
    rng = np.random.default_rng(seeds[0])
    lessons: list[Lessons] = []
    expected: list[float] = []
    pupil: LearnedPolicy | None = None
    for number in range(parameters.rounds):
        first = number * parameters.episodes
        episodes = seeds[first : first + parameters.episodes]
        found = _played(envs, which, pupil, episodes, parameters, rng, interruption)
        if not len(found):
            raise ConfigurationError(
                f"imitation: no episode lasted until a step was sampled, found stride {parameters.stride}, expected a "
                "smaller one"
            )
        if pupil is not None:
            expected.append(actor.regret(found))
        lessons.append(found)
        every = Lessons.joined(lessons)
        actor.fit(every, number == parameters.rounds - 1)
        if pupil is None:
            expected.append(actor.regret(found))
        listener.imitated(number + 1, parameters.rounds, len(every), expected[-1])
        pupil = LearnedPolicy(export_policy(model, env_id=env_id))
    return expected


def _tables(envs: Sequence[ProblemVectorEnv]) -> tuple[list[npt.NDArray[np.int64]], list[int]]:
    """The different tables of joint actions, and which one each setting has."""
    tables: list[npt.NDArray[np.int64]] = []
    which = []
    for env in envs:
        table = env.joint_actions()
        number = next((i for i, known in enumerate(tables) if np.array_equal(known, table)), None)
        if number is None:
            number = len(tables)
            tables.append(table)
        which.append(number)
    return tables, which


class _Game:
    """An environment of the first episodes to the last, with the samples that were taken of it.

    Args:
        env: is reset here.
        table: number of its table of joint actions.
        seeds: of its episodes.
        parameters: what is sampled, and how it counts.
        step: where counting begins; multiples of the stride are sampled.
    """

    def __init__(
        self, env: ProblemVectorEnv, table: int, seeds: Sequence[int], parameters: Imitation, step: int
    ) -> None:
        self.env, self.step, self._table, self._parameters = env, step, table, parameters
        self.observations, _ = env.reset(seed=list(seeds))
        self.playing = np.ones(env.num_envs, dtype=np.bool_)
        self._joint = env.joint_actions()
        # None where every episode ends before the first step that is sampled.
        nothing = np.zeros((0, len(self._joint)), dtype=np.float32)
        self.lessons = [Lessons(self.observations[:0].copy(), nothing, np.zeros(0, dtype=np.int64))]
        self._scratch = env.engine.fork(0, at.NUM_ACTIONS) if isinstance(env, ServingProblem) else None

    def look(self, always: bool) -> npt.NDArray[np.int64] | None:
        """Take the samples of this step, if it is one to sample; the actions that cost least, if it was looked."""
        sampled = self.step % self._parameters.stride == 0
        if not (sampled or always):
            return None
        regrets = step_regrets(self.env, self.playing, self._scratch, self._parameters.prompts)
        if sampled:
            rows = self.observations[self.playing].copy()
            self.lessons.append(Lessons(rows, regrets, np.full(len(rows), self._table)))
        actions = np.zeros((self.env.num_envs, self._joint.shape[1]), dtype=np.int64)
        actions[self.playing] = self._joint[regrets.argmin(axis=1)]
        return actions[:, 0] if actions.shape[1] == 1 else actions

    def play(self, actions: npt.NDArray[np.int64]) -> None:
        """Advance by a step."""
        self.observations, _, terminated, truncated, _ = self.env.step(actions)
        self.playing &= ~(terminated | truncated)
        self.step += 1


def _played(
    envs: Sequence[ProblemVectorEnv],
    which: Sequence[int],
    pupil: LearnedPolicy | None,
    seeds: Sequence[int],
    parameters: Imitation,
    rng: np.random.Generator,
    interruption: Interruption,
) -> Lessons:
    """Samples of an episode for each seed of every environment, every so many steps, one environment after the other.

    All are played at the same time, so that the pupil decides for all at once; without one the least cost acts.
    """
    if pupil is not None:
        for env in envs:
            pupil.bind(env)  # refuses one that it cannot play
    games = [
        _Game(env, table, seeds, parameters, int(rng.integers(parameters.stride)))
        for env, table in zip(envs, which, strict=True)
    ]
    going = games
    while going:
        if interruption.asked:
            raise KeyboardInterrupt
        best = [game.look(always=pupil is None) for game in going]
        if pupil is not None:
            chosen, _ = pupil.predict(
                np.concatenate([game.observations for game in going]),
                action_masks=np.concatenate([game.env.step_masks() for game in going]),
            )
            stops = np.cumsum([game.env.num_envs for game in going])[:-1]
            best = list(np.split(chosen, stops))
        for game, actions in zip(going, best, strict=True):
            assert actions is not None
            game.play(actions)
        going = [game for game in going if game.playing.any()]
    return Lessons.joined([part for game in games for part in game.lessons])


class _Actor:
    """The actor of a model as a distribution over joint actions, and its fitting."""

    def __init__(
        self, model: BaseAlgorithm, tables: Sequence[npt.NDArray[np.int64]], parameters: Imitation
    ) -> None:
        policy: Any = model.policy
        self._layers, self._head = policy.mlp_extractor.policy_net, policy.action_net
        self._parameters = parameters
        sizes = problem_sizes(model)
        flat = len(sizes) == 1 and tables[0].shape[1] > 1
        # Columns of the head's scores that each joint action adds up, [tables, joint actions, choices].
        if flat:
            playing: Any = model.get_env()
            space: Any = problems_of(playing)[0].single_space()
            numbering = JointActions(space, numbering_of(playing))
            columns = [numbering.numbers(table)[:, None] for table in tables]
        else:
            starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
            columns = [table + starts for table in tables]
        widest = max(map(len, tables))
        self._columns = torch.from_numpy(
            np.stack([np.pad(each, ((0, widest - len(each)), (0, 0))) for each in columns])
        )

    def _log_probabilities(self, observations: Tensor, possible: Tensor, table: Tensor) -> Tensor:
        scores = self._head(self._layers(observations))
        columns = self._columns[table]
        batch, joint, choices = columns.shape
        picked = scores.gather(1, columns.reshape(batch, joint * choices)).reshape(batch, joint, choices)
        logits = picked.sum(dim=2).masked_fill(~possible, -torch.inf)
        return torch.log_softmax(logits, dim=1)

    def _loss(self, lessons: Lessons, rows: npt.NDArray[np.int64] | slice) -> tuple[Tensor, Tensor]:
        """Mean expected regret and mean cross-entropy to the softmin of regrets, of some samples."""
        regrets = torch.from_numpy(lessons.regrets[rows])
        possible = torch.isfinite(regrets)
        logs = self._log_probabilities(
            torch.from_numpy(lessons.observations[rows]), possible, torch.from_numpy(lessons.table[rows])
        )
        expected = (logs.exp() * torch.where(possible, regrets, 0.0)).sum(dim=1)
        wanted = torch.softmax(-regrets / self._parameters.temperature, dim=1)
        difference = -(wanted * torch.where(possible, logs, 0.0)).sum(dim=1)
        return expected.mean(), difference.mean()

    @torch.no_grad()
    def regret(self, lessons: Lessons) -> float:
        """Mean expected regret of the actor's distribution."""
        total = 0.0
        for start in range(0, len(lessons), 8192):
            rows = slice(start, start + 8192)
            total += self._loss(lessons, rows)[0].item() * len(lessons.observations[rows])
        return total / len(lessons)

    def fit(self, lessons: Lessons, last: bool) -> None:
        """Take gradient steps on random batches; three times as many after the last round."""
        own = self._parameters
        tensors = [*self._layers.parameters(), *self._head.parameters()]
        optimizer = torch.optim.Adam(tensors, lr=own.learning_rate)
        updates = own.updates * (3 if last else 1)
        for k in range(updates):
            for group in optimizer.param_groups:
                group["lr"] = own.learning_rate * (1 - k / updates)
            rows = torch.randint(len(lessons), (own.batch_size,)).numpy()
            _, difference = self._loss(lessons, rows)
            optimizer.zero_grad()
            difference.backward()
            optimizer.step()


def problem_sizes(model: BaseAlgorithm) -> tuple[int, ...]:
    """Options of each choice of the model's action space."""
    space: Any = model.action_space
    return (int(space.n),) if hasattr(space, "n") else tuple(int(n) for n in space.nvec)
