"""Look-ahead policies for Serving-v0: the one-step oracle, model-predictive search, and the clairvoyant one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from agents.policy import Actions, Observations
from agents.serving.belief import imagine
from agents.serving.heuristic import ServingHeuristic
from agents.serving.rules import PRIOR_ACCEPTANCE, AcceptanceEstimate, ServingRule, ServingView
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

# A late request can catch up by decoding faster than its objective: by this share of the objective's time for
# its remaining tokens. chosen: a half, twice as fast; range 0.1-0.9.
CATCH_UP = 0.5
# Worth of a token still to come of a request that is on pace, in tokens already there: what a first token in
# time is good for beyond itself. chosen: a quarter; range 0-1 (from a half on, decoding slows for prompts).
PROMISE = 0.25
# Iterations for which an action is held in a look-ahead before the rule goes on: an action that pays only if
# repeated shows. chosen: 2; range 1-8.
HOLD = 2


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
    twin.step()
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


class ServingSearch(LookAhead):
    """Model-predictive search over all joint actions, on true costs, without seeing the future.

    Before each iteration every joint action is tried on imagined futures (see `serving_belief.imagine`): it is
    held for two iterations, then the rule `heuristic` goes on. The best candidates of a short look are compared
    in a long one, and the best of those is played for one iteration (a rollout over a base policy, Bertsekas,
    Tsitsiklis and Wu, J. Heuristics 3, 1997). What is compared is the gain in `worth` per second of work, over
    all samples together. Reading the machine's true costs makes it privileged.

    Args:
        candidates: joint actions that survive the short look. chosen: 16; range 1-72.
        samples: imagined futures. chosen: 1, common to all candidates; range 1-16.
        iterations: of the long look; the short one takes a quarter. chosen: 16, about half a second; range 1-256.
        seed: of the imagined futures.

    A decision simulates at most 72 x samples x iterations / 4 + candidates x samples x iterations iterations.
    """

    def __init__(self, candidates: int = 16, samples: int = 1, iterations: int = 16, seed: int = 0) -> None:
        budget = {"candidates": candidates, "samples": samples, "iterations": iterations}
        for name, value in budget.items():
            if value < 1:
                raise ConfigurationError(f"search: {name} is {value}, expected at least 1")
        self.candidates, self.samples, self.iterations, self.seed = candidates, samples, iterations, seed

    def supports(self, env: Problem) -> None:
        """Every machine; binds the rule that goes on after the action tried."""
        super().supports(env)
        self._base = ServingHeuristic()
        self._base.bind(env)

    def decide(self, engine: ServingEngine, env: int, options: Actions) -> Actions:
        """Screen all options by a short look, compare the best by a long one."""
        if len(options) > self.candidates:
            rates = self._rates(engine, env, options, -(-self.iterations // 4))
            options = options[np.argsort(-rates, kind="stable")[: self.candidates]]
        if len(options) == 1:
            return options[0]
        return options[int(np.argmax(self._rates(engine, env, options, self.iterations)))]

    def _rates(self, engine: ServingEngine, env: int, options: Actions, iterations: int) -> FloatArray:
        """Gain in worth per second of work after each option, [options]."""
        twin = self._future(engine, env, len(options))
        samples = twin.num_envs // len(options)
        twin.actions[:] = np.repeat(options, samples, axis=0)
        acceptance = np.full(twin.num_envs, self._acceptance[env])
        before = worth(twin, self._prompt_weight)
        start = twin.clocks[:, at.TIME_S] - twin.clocks[:, at.IDLE_S]
        for _ in range(min(HOLD, iterations)):
            twin.step()
        for _ in range(iterations - HOLD):  # none where the look is shorter
            view = ServingView(twin.observations, self.tables.scalars)
            twin.actions[:] = self._base.mended(self._base.rule(view, acceptance), view)
            twin.step()
        gain = worth(twin, self._prompt_weight) - before
        work = twin.clocks[:, at.TIME_S] - twin.clocks[:, at.IDLE_S] - start
        return gain.reshape(-1, samples).sum(axis=1) / np.maximum(
            work.reshape(-1, samples).sum(axis=1), 1e-12
        )

    def _future(self, engine: ServingEngine, env: int, copies: int) -> ServingEngine:
        return imagine(engine, env, copies, self.samples, float(self._acceptance[env]), self.seed)


class ServingClairvoyant(ServingSearch):
    """The same search on the true future: arrivals, lengths, acceptance and drift. One sample is enough.

    A reference for what knowing the instance is worth to a search of this kind; no ceiling.
    """

    def __init__(self, candidates: int = 16, iterations: int = 16) -> None:
        super().__init__(candidates, 1, iterations)

    def _future(self, engine: ServingEngine, env: int, copies: int) -> ServingEngine:
        return engine.fork(env, copies)


def worth(engine: ServingEngine, weight: float) -> FloatArray:
    """What each environment's state is worth, in output tokens, [num_envs].

    The good tokens of finished requests; of those decoding, the tokens generated so far and a part of those
    still to come (`PROMISE`), times how far the request can still meet its objectives: 1 on pace, less by what
    it is behind relative to what it can catch up (`CATCH_UP`), 0 after a missed first token; and `weight` for
    every prompt token processed once. Less the dynamic energy at the scenario's price.
    """
    state, scalars = engine.state, engine.tables.scalars
    counters, clocks = state.counters, state.clocks
    most = int(counters[:, at.RLP].max())
    decoding = np.arange(most) < counters[:, at.RLP, None]
    left = state.left[:, :most]
    copies = np.arange(engine.num_envs)[:, None]
    generated = state.facts[copies, state.requests[:, :most], at.OUTPUT] - left
    slack = state.deadlines[:, :most] - clocks[:, at.TIME_S, None]
    reserve = CATCH_UP * scalars[at.TPOT_S] * np.maximum(left, 1)
    promised = generated + PROMISE * left
    credit = np.where(decoding, promised * np.clip(1 + slack / reserve, 0, 1), 0.0).sum(axis=1)
    prompts = counters[:, at.PREFILLED] - counters[:, at.RECOMPUTED]
    energy = scalars[at.ENERGY_WEIGHT] * clocks[:, at.DYNAMIC_J]
    return counters[:, at.GOOD_TOKENS] + credit + weight * prompts - energy
