"""The requests of an episode with classes, as they are before anybody decides: what every policy meets.

In an engine sessions are drawn as they come and turns as conversations go on, so that nothing grows with the length of
an episode. Here the same compiled draws are made all at once, for whoever is privileged to know them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.errors import ConfigurationError
from papi_env.kernel import FloatArray
from papi_env.simulation.compiled import inner, njit
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.draws import next_arrival
from papi_env.simulation.serving.sessions import (
    drawn_class,
    fits,
    follows,
    patience_of,
    session_key,
    think_s,
    turn_key,
    turn_lengths,
    turns_of,
    worth_of,
)
from papi_env.simulation.serving.tables import ServingTables, framed

Whole = npt.NDArray[np.int64]


class ServingInstance(NamedTuple):
    """The requests of one episode, session by session and turn by turn; arrays [requests].

    Attributes:
        session, turn, kind, number: int64; `number` is that of the class (see `state.OF_CLASS` of kinds).
        arrival_s: float64, seconds from the episode's start, of first turns. Of later ones NaN: they come `think_s`
            after the turn before them is done, which is up to the policy, and not at all if it never is; and no earlier
            than `gap_s` after it came.
        fresh, prompt, output: int64 tokens: those of the prompt that were not there in the turn before, the whole
            prompt, and the answer.
        think_s: float64, seconds from the end of this turn to the next one; infinite of a session's last turn.
        gap_s: float64, of a turn that a trace has, seconds from its arrival to the next one's at least, and `think_s`
            is 0; else minus infinity.
        patience_s: float64, seconds that the sender waits to be admitted.
        worth: float64, what the request is worth within its objectives.
        refused: bool, turned away as it comes, whatever is done.
    """

    session: Whole
    turn: Whole
    kind: Whole
    number: Whole
    arrival_s: FloatArray
    fresh: Whole
    prompt: Whole
    output: Whole
    think_s: FloatArray
    gap_s: FloatArray
    patience_s: FloatArray
    worth: FloatArray
    refused: npt.NDArray[np.bool_]


def serving_instance(tables: ServingTables, seed: int, episode: int) -> ServingInstance:
    """The instance of (seed, episode), as an engine with these tables plays it.

    Args:
        tables: of a scenario with classes of requests.
        seed, episode: an engine's counters `SEED` and `EPISODE`.

    Raises:
        ConfigurationError: the scenario has no classes of requests.
    """
    if not tables.scalars[at.SERVICE]:
        raise ConfigurationError("the scenario has no classes of requests, expected one with a `service`")
    counters = np.zeros((1, at.NUM_COUNTERS), dtype=np.int64)
    counters[0, at.SEED], counters[0, at.EPISODE] = seed, episode
    frame = framed(tables)
    found = _nothing(_enumerate(counters, frame, _nothing(0)))
    _enumerate(counters, frame, found)
    return ServingInstance(*found)


def _nothing(requests: int) -> tuple[npt.NDArray[Any], ...]:
    whole, real = np.int64, np.float64
    types = (whole, whole, whole, whole, real, whole, whole, whole, real, real, real, real, np.bool_)
    return tuple(np.zeros(requests, dtype=dtype) for dtype in types)


@inner
def _write_turn(
    e: Any,
    i: Any,
    session: Any,
    turn: Any,
    kind: Any,
    row: Any,
    context: Any,
    counters: Any,
    served: Any,
    scalars: Any,
    found: Any,
) -> Any:
    """Write request i of an instance, after a context of so many tokens; returns the context that it leaves."""
    sessions, turns, kinds, numbers, arrivals, fresh, prompts, outputs, thinks, gaps, patience, worths, _ = (
        found
    )
    key = turn_key(e, session, turn, counters)
    fresh[i], outputs[i] = turn_lengths(key, kind, turn, row, served)
    sessions[i] = session
    turns[i] = turn
    kinds[i] = kind
    numbers[i] = np.int64(served.kinds[kind, at.OF_CLASS])
    arrivals[i] = np.nan
    prompts[i] = context + fresh[i]
    following = follows(row, served)
    thinks[i] = think_s(key, kind, served) if following < 0 else 0.0
    gaps[i] = -np.inf if following < 0 else served.trace_gaps[following]
    patience[i] = patience_of(key, kind, served)
    worths[i] = worth_of(kind, outputs[i], served, scalars)
    return prompts[i] + outputs[i]


@njit
def _enumerate(counters: Any, tables: Any, found: Any) -> Any:
    """Draw an instance; written into `found` as far as there is room. Returns how many requests it has."""
    scalars = tables.scalars
    arrivals, prompts, outputs = found[4], found[6], found[7]
    thinks, gaps, refusals = found[8], found[9], found[12]
    seed, episode = counters[0, at.SEED], counters[0, at.EPISODE]
    operational = 0.0
    time = 0.0
    session = np.int64(0)
    i = 0
    while True:
        time, drawn, operational = next_arrival(seed, episode, session, operational, time, tables.arrivals)
        if not np.isfinite(time):
            return i
        row = np.int64(-1)
        refused = False
        if tables.trace_lengths.shape[0] > 0:
            row = drawn
            refused = row >= 0 and tables.trace_refused[row]
        key = session_key(0, session, counters)
        kind = drawn_class(key, tables.class_shares)
        turns, _ = turns_of(key, kind, row, tables, scalars)
        if i + turns <= len(arrivals):
            context = np.int64(0)
            for turn in range(turns):
                k = i + turn
                context = _write_turn(
                    0, k, session, turn, kind, row, context, counters, tables, scalars, found
                )
                row = follows(row, tables)
                refusals[k] = False
            arrivals[i] = time
            thinks[i + turns - 1] = np.inf
            gaps[i + turns - 1] = -np.inf
            refusals[i] = refused or not fits(prompts[i], outputs[i], scalars)
        i += turns
        session += 1
