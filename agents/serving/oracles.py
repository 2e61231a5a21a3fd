"""The one-step oracle of Serving-v0, and what look-aheads share: which choices are worth a try, and what they yield."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from agents.policy import Actions, Observations
from agents.serving.rules import ServingRule
from agents.serving.view import PRIOR_ACCEPTANCE, AcceptanceEstimate, ServingView
from papi_env.envs.problem import Problem
from papi_env.envs.serving import JOINT_ACTIONS, ServingProblem
from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.batch import state as layout
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.tables import ServingTables
from papi_env.workload.serving import SPECULATION_LENGTHS

# Ties go to the action that admits most, then speculates least, without overlap, on the first unit.
_PREFERENCE = np.lexsort(
    (
        JOINT_ACTIONS[:, at.FC],
        JOINT_ACTIONS[:, at.SPECULATION],
        JOINT_ACTIONS[:, at.OVERLAP],
        -JOINT_ACTIONS[:, at.ADMISSION],
    )
)
ORDERED_ACTIONS = JOINT_ACTIONS[_PREFERENCE]


def prompt_weight(tables: ServingTables) -> float:
    """Output tokens that a processed prompt token is worth to a look-ahead, for it gains none by itself.

    The ratio of profiled FC seconds that each takes: of a prompt token in a full chunk on the unit that
    processes prompts, to an output token on the faster unit of a machine that is a quarter full (as full as
    the environment's reference). Without a credit for prompts nothing would ever be admitted beside a
    running batch, since prompts lengthen the iteration and gain at most one token.
    """
    scalars = tables.scalars
    if not scalars[at.PREFILL_ON]:
        return 0.0
    chunk = int(scalars[at.CHUNK])
    prompt_s = tables.fc_s[int(scalars[at.PREFILL_UNIT]), chunk] + tables.moves[chunk, layout.COMBINE_S]
    rows = max(int(scalars[at.MAX_RUNNING]) // 4, 1)
    only = int(scalars[at.ONLY_UNIT])
    units = [only] if only >= 0 else [at.PU, at.FC_PIM]
    decode_s = tables.fc_s[units, rows].min() + tables.moves[rows, layout.COMBINE_S]
    return float((prompt_s / chunk) / (decode_s / rows))


class LookAhead(ServingRule):
    """What look-aheads share: a decision for one environment after the other, over its valid joint actions."""

    privileged = True

    def supports(self, env: Problem) -> None:
        """Every machine; notes what a prompt token is worth."""
        self._prompt_weight = prompt_weight(self.tables)
        self._scratch = env.engine.fork(0, at.NUM_ACTIONS)
        self._acceptance = np.full(env.engine.num_envs, PRIOR_ACCEPTANCE)

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Decide for every environment whose episode goes on; the others get the first valid action."""
        assert isinstance(self.env, ServingProblem)
        masks = self.env.joint_masks()[:, _PREFERENCE]
        actions = ORDERED_ACTIONS[np.argmax(masks, axis=1)].copy()
        engine = self.env.engine
        state = AcceptanceEstimate(len(observations)) if state is None else state
        self._acceptance = state.update(ServingView(observations, self.tables.scalars), episode_start)
        for env in np.flatnonzero(engine.counters[:, at.DONE] == 0):
            options = distinct(engine, int(env), ORDERED_ACTIONS[masks[env]])
            actions[env] = self.decide(engine, int(env), options)
        return actions, state

    def decide(self, engine: ServingEngine, env: int, options: Actions) -> Actions:
        """The best of the joint actions `options` [n, 4] for environment `env`."""
        raise ConfigurationError(f"{type(self).__name__} defines no decide()")


def equivalents(engine: ServingEngine, env: int) -> npt.NDArray[np.int64]:
    """The number in JOINT_ACTIONS of what each joint action comes to now, int64 [72]; its own where it is distinct.

    Without a queue admissions are alike; of one request too, "one" and "all" are. Overlap needs two requests.
    """
    counters = engine.counters[env]
    queued, rlp = counters[at.QUEUED], counters[at.RLP]
    actions = JOINT_ACTIONS.copy()
    if queued == 0:
        actions[:, at.ADMISSION] = at.ALL
    elif queued == 1:
        actions[actions[:, at.ADMISSION] == at.ONE, at.ADMISSION] = at.ALL
    if engine.tables.scalars[at.PREFILL_ON]:
        if rlp < 2:
            actions[:, at.OVERLAP] = 0
        if rlp == 0:
            actions[:, at.SPECULATION] = 0
    return np.asarray(np.ravel_multi_index(tuple(actions.T), at.NVEC), dtype=np.int64)


def distinct(engine: ServingEngine, env: int, options: Actions) -> Actions:
    """Leave out joint actions that differ from another only in what means nothing now (see `equivalents`)."""
    numbers = np.ravel_multi_index(tuple(options.T), at.NVEC)
    return options[equivalents(engine, env)[numbers] == numbers]


class ServingOracle(LookAhead):
    """Takes the joint action with the least true time per useful token in the coming iteration.

    Useful tokens are the output tokens gained, those that prompts yield included, and a credit for every
    prompt token processed (see `prompt_weight`). Where decisions are coupled over time this is a reference,
    not a ceiling: it looks at no objective and no further than one iteration.
    """

    def decide(self, engine: ServingEngine, env: int, options: Actions) -> Actions:
        """Play every option for one iteration."""
        return options[
            int(np.argmax(token_rates(engine, env, options, self._prompt_weight, scratch=self._scratch)))
        ]


def token_rates(
    engine: ServingEngine,
    env: int,
    options: Actions,
    weight: float,
    token: float = 1.0,
    scratch: ServingEngine | None = None,
    expected: bool = False,
) -> FloatArray:
    """Useful tokens per true second of the coming iteration of environment `env` after each option, [options].

    Args:
        engine: is not changed.
        env: which of its environments.
        options: int64 [options, 4], valid joint actions.
        weight: output tokens that a processed prompt token is worth (see `prompt_weight`).
        token: what an output token counts for.
        scratch: an earlier fork of the engine with at least as many copies, which is overwritten.
        expected: count the drafts that pass on average in place of those that will pass, except in an iteration that
            preempts, or whose admitted requests decode at once (as without prefill).
    """
    twin = engine.fork(env, len(options), scratch)
    twin.actions[:] = options
    twin.advance()
    gained = twin.counters - engine.counters[env]
    tokens = gained[:, at.TOKENS].astype(np.float64)
    if expected and engine.counters[env, at.RLP] > 0:
        mean = expected_tokens(engine, env)[options[:, at.SPECULATION]]
        lengths = np.array(SPECULATION_LENGTHS)[options[:, at.SPECULATION]]
        same = twin.counters[:, at.LAST_N] == lengths * engine.counters[env, at.RLP]
        same &= gained[:, at.PREEMPTIONS] == 0
        tokens[same] += (mean - twin.counters[:, at.LAST_DECODED])[same]
    useful = token * tokens + weight * gained[:, at.PREFILLED]
    return np.asarray(useful / np.maximum(twin.clocks[:, at.LAST_TIME_S], 1e-12))


def expected_tokens(engine: ServingEngine, env: int) -> FloatArray:
    """Output tokens that environment `env` gains on average if all who decode now do so once, by speculation, [4].

    Privileged: reads each request's class and how many tokens it has left.
    """
    rlp = int(engine.counters[env, at.RLP])
    chances = engine.tables.acceptance.astype(np.float64) / 2.0**53
    # [classes, drafts + 1]: drafts that pass in a row, on average.
    passed = np.zeros((chances.shape[0], chances.shape[1] + 1))
    np.cumsum(np.cumprod(chances, axis=1), axis=1, out=passed[:, 1:])
    classes, left = engine.state.classes[env, :rlp], engine.state.left[env, :rlp].astype(np.int64)
    lengths = np.array(SPECULATION_LENGTHS)[:, None]
    return np.asarray((1.0 + passed[classes, np.minimum(lengths, left) - 1]).sum(axis=1))
