"""Compiled policies by their kind: a decision for each environment of a batch, or whole episodes.

A policy is a kind, parameters by environment, and what it remembers by environment. The kind decides where kernels run
and whom to admit; on Serving-v1 the further choices are constants by environment, or decided by the kind too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agents.serving.inside.choices import given_service, plain_service
from agents.serving.inside.compiled import inlined, unlocked
from agents.serving.inside.memory import Known, chunk_tokens, know, remember
from agents.serving.inside.network import network
from agents.serving.inside.rules import adaptive, fixed, mend, prefill_threshold, threshold
from agents.serving.inside.slack import admits_by_class, slack_aware
from agents.serving.inside.tuned import ACCEPTANCE, GREEDY_SLACK, GREEDY_URGENT, admits, greedy, heuristic
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.rolling import roller
from papi_env.simulation.serving.seen import see

# From ESTIMATING on, kinds have estimates of drafts and prompts.
FIXED, THRESHOLD, PREFILL_THRESHOLD, ADAPTIVE, GREEDY, HEURISTIC, SLACK_AWARE, NETWORK = range(8)
ESTIMATING = GREEDY


class CompiledPolicy(NamedTuple):
    """What compiled code needs to play a policy on `E` environments.

    Attributes:
        kind: one of those above.
        parameters: float64 [E, columns]; the kind says what they are.
        options: int64 [options, 5], the joint actions that profile-greedy compares and the rank of each, those of one
            speculation side by side, and of these those of one overlap; of one row where nothing is compared.
        service: int64 [E, 7], the further choices on Serving-v1 from `state.ORDER` on, or `choices.LEFT` to the kind:
            all but `SLACK_AWARE` and `NETWORK` do what Serving-v0 does.
        memory: float64 [E, NUM_MEMORY], see `memory`; changed by every decision.
    """

    kind: int
    parameters: FloatArray
    options: npt.NDArray[np.int64]
    service: npt.NDArray[np.int64]
    memory: FloatArray


@inlined
def decide(e, forced, policy, first, observations, look, actions, queries, busy):
    """Write the joint action of environment e; where it is `forced`, that is the row of `first`.

    A policy whose action is forced learns from the observation all the same, and knows what was done.
    """
    kind, parameters, memory, scalars = policy.kind, policy.parameters, policy.memory, look.scalars
    seen = see(e, observations, scalars)
    if kind == FIXED:
        fixed(e, parameters, actions)
    elif kind == THRESHOLD:
        threshold(e, seen, parameters, look, actions)
    elif kind == PREFILL_THRESHOLD:
        prefill_threshold(e, seen, parameters, look, actions)
    elif kind == ADAPTIVE:
        adaptive(e, seen, policy, look, actions)
    else:
        known = know(e, seen, observations, memory, scalars)
        if kind == GREEDY:
            admitting = admits(seen, parameters[e, GREEDY_SLACK], parameters[e, GREEDY_URGENT], scalars)
            greedy(e, admitting, seen, known, policy, look, actions, busy)
        elif kind == SLACK_AWARE:
            admitting = admits_by_class(e, seen, policy, observations, scalars)
            greedy(e, admitting, seen, known, policy, look, actions, busy)
            slack_aware(e, seen, known, policy, observations, look, actions)
        elif kind == NETWORK:
            network(e, seen, known, policy, observations, look, actions, queries, busy)
        else:
            if not np.isnan(parameters[e, ACCEPTANCE]):
                known = Known(parameters[e, ACCEPTANCE], chunk_tokens(scalars))
            heuristic(e, seen, known, policy, look, actions)
    if actions.shape[1] > at.ORDER:
        if kind != SLACK_AWARE and kind != NETWORK:
            plain_service(e, actions)
        given_service(e, policy.service, actions)
    if forced:
        for k in range(actions.shape[1]):
            actions[e, k] = first[e, k]
    if kind >= ESTIMATING:
        remember(e, seen, actions[e, at.ADMISSION] == at.ALL, memory)
    if not forced:
        mend(e, seen, scalars, actions)


@unlocked
def decide_all(policy_parts, observations, look, actions, queries, busy):
    """Write a decision for every row of the observations, and by policies that score requests the `queries` of classes.

    `busy` is scratch. Tuples are plain ones of `play_range`.
    """
    policy = CompiledPolicy(*policy_parts)
    for e in range(observations.shape[0]):
        decide(e, False, policy, actions, observations, look, actions, queries, busy)


_roll = roller(decide)


@unlocked
def play_range(start: int, stop: int, policy_parts: Any, plan: Any, engine_parts: Any, played: Any) -> None:
    """Play environments `start` to `stop`; see `papi_env.simulation.serving.rollout.roll`, which calls it."""
    _roll(start, stop, CompiledPolicy(*policy_parts), plan, engine_parts, played)
