"""What a scheduler of Serving-v1 has seen of an episode beside the present: arrivals, and conversations at rest.

The state of the simulation says of a conversation at rest whether it goes on; a scheduler does not know, and so keeps a
list of its own of all turns that were done.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.requests import ServingState

# Seconds of arrivals that are remembered. chosen: 20, a third of the shortest period of a day that is simulated; range
# 5-120.
WINDOW_S = 20.0
# Conversations at rest that are remembered, the latest to rest first. chosen: as many as may be open; what is forgotten
# is taken to be over.
MOST_RESTING = 512


class Rest(NamedTuple):
    """A conversation whose last turn is done: the next turn's number, tokens so far, its kind, and since when."""

    turn: int
    told: int
    kind: int
    done_s: float


class Live(NamedTuple):
    """A turn that waits or is served: its number, the record it has, and tokens of its prompt and its answer.

    The answer's length is looked at once the turn is done, and everybody knows it.
    """

    turn: int
    record: int
    kind: int
    prompt: int
    output: int


class Known:
    """What has been seen of one environment's episode.

    Attributes:
        resting: conversations at rest, by the number of their session, in the order in which they came to it.
        last_arrival_s: when the last session came, to within an iteration.
        drafted: drafts for a request in the last iteration that had any.
    """

    def __init__(self) -> None:
        self.resting: dict[int, Rest] = {}
        self.last_arrival_s = 0.0
        self.drafted = 0
        self._live: dict[int, Live] = {}
        self._arrivals: list[tuple[float, int]] = [(0.0, 0)]

    def watch(self, engine: ServingEngine, env: int) -> None:
        """Take in what happened since the last decision."""
        state, tables = engine.state, engine.tables
        counters, clocks = state.counters[env], state.clocks[env]
        now, sessions = float(clocks[at.TIME_S]), int(counters[at.SESSIONS])
        if sessions > self._arrivals[-1][1]:
            self.last_arrival_s = now
        self._arrivals.append((now, sessions))
        while len(self._arrivals) > 2 and self._arrivals[1][0] <= now - WINDOW_S:
            del self._arrivals[0]
        length = int(counters[at.LAST_ACTION + at.SPECULATION])
        if counters[at.ITERATION] > 0 and length > 0:
            self.drafted = (1 << length) - 1
        if (tables.kinds[:, at.MOST_TURNS] > 1).any():
            self._watch_turns(state, env)

    def recent_rate(self) -> tuple[float, float]:
        """Sessions that came lately, and in how many seconds."""
        (first_s, first), (last_s, last) = self._arrivals[0], self._arrivals[-1]
        return float(last - first), last_s - first_s

    def _watch_turns(self, state: ServingState, env: int) -> None:
        facts, more, clocks = state.facts[env], state.more[env], state.clocks[env]
        live: dict[int, Live] = {}
        for record in unfinished(state, env).tolist():
            place = int(more[record, at.PLACE])
            if place >= 0:
                live[int(more[record, at.SESSION])] = Live(
                    int(state.places[env, at.NEXT_TURN, place]),
                    record,
                    *(int(facts[record, column]) for column in (at.CLASS, at.INPUT, at.OUTPUT)),
                )
        done_s = float(clocks[at.LAST_START_S] + clocks[at.LAST_TIME_S])
        for session, turn in self._live.items():
            again = live.get(session)
            if again is not None and again.turn == turn.turn:
                continue
            # Given up, or done: what came of a record that another request has by now was done.
            if facts[turn.record, at.STATUS] not in (at.DROPPED, at.LEFT):
                self.resting[session] = Rest(turn.turn + 1, turn.prompt + turn.output, turn.kind, done_s)
        for session in live:
            self.resting.pop(session, None)
        while len(self.resting) > MOST_RESTING:
            del self.resting[next(iter(self.resting))]
        self._live = live


def unfinished(state: ServingState, env: int) -> np.ndarray:
    """Records of requests that wait or are served, int64 [requests]."""
    status = state.facts[env, :, at.STATUS]
    return np.flatnonzero((status == at.WAITING) | (status == at.RUNNING))
