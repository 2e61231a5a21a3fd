"""Futures of a serving machine with classes of requests as a scheduler may imagine them: nothing hidden is looked at.

A scheduler sees which requests wait and run, their class, arrival, prompt and the tokens they have so far; KV pages and
what is kept in them; conversations that it has answered and since when they rest; sessions that have come; what drafts
passed, by class; and how slow units were when last used. It knows the machine's profile, and what a class is like:
lengths, chances of another turn, think times and patience. All else is drawn anew from that.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from agents.serving.inside.memory import PRIOR_ACCEPTANCE
from agents.serving.planning.known import Known, unfinished
from agents.serving.planning.turns import count_turns
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.requests import ServingState
from papi_env.simulation.serving.sessions import NOBODY
from papi_env.simulation.serving.tables import ServingTables, framed, freeze
from papi_env.workload.arrivals import GAMMA, MAX_REQUESTS, POISSON, TOGETHER, TRACE, ArrivalTables
from papi_env.workload.serving import SPECULATION_LENGTHS

IntArray = npt.NDArray[np.int64]

# Where the rate of arrivals changes over time, the mean rate counts as much as what was seen in so many seconds.
# chosen: 5; range 1-60.
PRIOR_S = 5.0
_NORMAL = NormalDist()
# Gaps that are drawn to find one that is longer than the time since the last arrival.
_TRIES = 256


def imagine_service(
    engine: ServingEngine, env: int, samples: int, known: Known, ahead_s: float, seed: int
) -> ServingEngine:
    """An engine of `samples` copies of environment `env` whose futures are imagined, each in another way.

    * Sessions go on to come for `ahead_s` seconds, at the mean rate of the scenario where that is constant, else at one
      between the mean and that of late; then the copies drain. A scheduler does not know when arrivals end.
    * Outputs of requests are drawn from those of their class, given that they exceed what was generated.
    * Every conversation at rest, kept or not, goes on or is over by the chance that is left after its time at rest;
      those being served go on by chance.
    * Drafts pass with one chance in each class, as observed.
    * Senders who wait have a patience that exceeds their wait. Units stay as slow as they were when last used.

    Args:
        engine: is not changed.
        env: which of its environments.
        samples: how many.
        known: what was seen of the episode, up to now.
        ahead_s: seconds for which sessions come.
        seed: of all draws: the same seed and the same observables give the same futures.
    """
    twin = engine.fork(env, samples)
    state, tables = twin.state, engine.tables
    rng = np.random.default_rng(seed)
    state.counters[:, at.SEED] = rng.integers(0, 2**62, samples)
    state.counters[:, at.EPISODE] = 0
    now = float(state.clocks[0, at.TIME_S])
    twin.tables = _as_seen(tables, state, known, now + ahead_s)
    _forget_kinds(state, tables)
    _arrive(state, twin.tables.arrivals, known, now, rng)
    outputs = draw_outputs(state, tables, rng)
    _converse(state, tables, known, outputs, rng)
    _lose_patience(state, tables, now, rng)
    clocks = state.clocks
    clocks[:, at.NEXT_RETURN_S] = state.place_s[:, at.RETURN_S].min(axis=1)
    clocks[:, at.NEXT_ARRIVAL_S] = np.minimum(clocks[:, at.NEXT_SESSION_S], clocks[:, at.NEXT_RETURN_S])
    slots = state.requests.shape  # rows of keys may be longer
    state.keys[:, : slots[1]] = rng.integers(0, 2**63, slots, dtype=np.uint64)
    return twin


def first_kinds(tables: ServingTables) -> IntArray:
    """Of each kind the first of its class, int64 [kinds]. It stands for all: they differ in what drafts pass alone."""
    classes = tables.kinds[:, at.OF_CLASS].astype(np.int64)
    return np.array([int(np.argmax(classes == number)) for number in classes], dtype=np.int64)


# --- what is known of machine and arrivals ---------------------------------------------------------------------


def _as_seen(tables: ServingTables, state: ServingState, known: Known, until_s: float) -> ServingTables:
    """The tables with drift, acceptance and arrivals as far as they are seen."""
    scalars, acceptance = tables.scalars.copy(), tables.acceptance.copy()
    scalars[at.HORIZON_S] = np.inf
    clocks = state.clocks[0]
    if scalars[at.DRIFT_PERIOD_S] > 0:
        scalars[at.DRIFT_PERIOD_S] = np.inf
        for unit in range(at.NUM_DRIFTING):
            scalars[at.DRIFT_LOG + unit] = np.log(max(clocks[at.SEEN_DRIFT + unit], 1.0))
    for kind, row in enumerate(tables.kinds):
        seen = float(clocks[at.CLASS_ACCEPTED + int(row[at.OF_CLASS])]) or float(clocks[at.SEEN_ACCEPTED])
        acceptance[kind] = int(chance_of_draft(seen, known.drafted) * 2.0**53)
    made = tables._replace(
        scalars=scalars, acceptance=acceptance, arrivals=_arrivals_as_seen(tables.arrivals, known, until_s)
    )
    freeze(made)
    return made


def chance_of_draft(accepted: float, drafted: int) -> float:
    """The chance that a draft passes, if of so many in a row the share `accepted` does; a prior where none was seen.

    Drafts after the first that fails do not count: of d the share (a + a^2 + ... + a^d) / d passes on average.
    """
    if drafted < 1 or accepted <= 0.0:
        return PRIOR_ACCEPTANCE
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        if sum(middle**k for k in range(1, drafted + 1)) < accepted * drafted:
            low = middle
        else:
            high = middle
    return low


def _arrivals_as_seen(arrivals: ArrivalTables, known: Known, until_s: float) -> ArrivalTables:
    """A renewal process of a constant rate: the known one, or where the rate changes one between that and the last."""
    count, seconds = known.recent_rate()
    if arrivals.kind == TOGETHER:
        rate = 0.0
    elif arrivals.kind == TRACE:
        rate = count / seconds if seconds > 0 else 0.0
    elif len(arrivals.stretch):
        rate = (count + PRIOR_S / arrivals.mean_gap_s) / (seconds + PRIOR_S)
    else:
        rate = 1.0 / arrivals.mean_gap_s
    return arrivals._replace(
        kind=GAMMA if arrivals.kind == GAMMA else POISSON,
        capacity=MAX_REQUESTS,
        horizon_s=float(until_s),
        mean_gap_s=1.0 / rate if rate > 0 else np.inf,
        random_phase=False,
        knots_s=np.zeros(1),
        operational_s=np.zeros(1),
        stretch=np.zeros(0),
        rows_s=np.zeros(0),
    )


def _arrive(
    state: ServingState, arrivals: ArrivalTables, known: Known, now: float, rng: np.random.Generator
) -> None:
    """Draw when the next session comes, given that none has come since the last."""
    samples = len(state.clocks)
    next_s = np.full(samples, np.inf)
    if np.isfinite(arrivals.mean_gap_s):
        since = (now - known.last_arrival_s) / arrivals.mean_gap_s
        if arrivals.kind == GAMMA:
            gaps = rng.gamma(arrivals.shape, 1.0 / arrivals.shape, (samples, _TRIES))
            longer = gaps > since
            first = np.where(
                longer.any(axis=1), gaps[np.arange(samples), longer.argmax(axis=1)], since + gaps[:, 0]
            )
            next_s = now + (first - since) * arrivals.mean_gap_s
        else:
            next_s = now + rng.exponential(arrivals.mean_gap_s, samples)
    state.clocks[:, at.OPERATIONAL_S] = next_s
    state.clocks[:, at.NEXT_SESSION_S] = np.where(next_s < arrivals.horizon_s, next_s, np.inf)


# --- what is known of requests -----------------------------------------------------------------------------------


def _forget_kinds(state: ServingState, tables: ServingTables) -> None:
    """A scheduler knows the class of a request, but not which of its kinds of text it is."""
    first = first_kinds(tables).astype(np.int32)
    last = len(first) - 1
    for array in (
        state.facts[..., at.CLASS],
        state.classes,
        state.queue_facts[..., at.QUEUED_KIND],
        state.places[:, at.KIND],
    ):
        # Entries that are nobody's may hold anything.
        array[:] = first[np.clip(array, 0, last)]


def _turns_of_requests(state: ServingState, records: IntArray) -> IntArray:
    place = state.more[0, records, at.PLACE]
    return np.where(place >= 0, state.places[0, at.NEXT_TURN, np.maximum(place, 0)], 0).astype(np.int64)


def draw_outputs(state: ServingState, tables: ServingTables, rng: np.random.Generator) -> IntArray:
    """Draw the outputs of requests that wait or are served, in each copy of one environment in another way.

    They are drawn from those of their class, given that they exceed what was generated. Returns their records, int64
    [requests].
    """
    records = unfinished(state, 0)
    samples = len(state.facts)
    generated = state.facts[0, records, at.GENERATED].astype(np.int64)
    rlp = int(state.counters[0, at.RLP])
    decoding = state.requests[0, :rlp]
    slots = np.full(state.facts.shape[1], -1)
    slots[decoding] = np.arange(rlp)
    slot = slots[records]
    produced = state.facts[0, decoding, at.OUTPUT] - state.left[0, :rlp]
    generated[slot >= 0] = produced[slot[slot >= 0]]
    prompts = state.facts[0, records, at.INPUT].astype(np.int64)
    turns = _turns_of_requests(state, records)
    kinds = state.facts[0, records, at.CLASS]
    most = int(tables.scalars[at.CONTEXT_LIMIT]) - prompts
    uniforms = rng.random((samples, len(records)))
    drawn = np.zeros((samples, len(records)), dtype=np.int64)
    for kind in np.unique(kinds):
        for later in (False, True):
            row, count = at.LATER_ROW if later else at.FIRST_ROW, at.LATER_ROWS if later else at.FIRST_ROWS
            who = np.flatnonzero((kinds == kind) & ((turns > 0) == later))
            if len(who):
                first = int(tables.spans[kind, row])
                known = np.sort(tables.service_lengths[first : first + int(tables.spans[kind, count]), 1])
                drawn[:, who] = between(generated[who], most[who], known, uniforms[:, who])
    state.facts[:, records, at.OUTPUT] = drawn
    left = np.zeros((samples, rlp), dtype=np.int64)
    left[:, slot[slot >= 0]] = (drawn - generated)[:, slot >= 0]
    state.left[:, :rlp] = left
    return records


def between(
    generated: IntArray, most: IntArray, outputs: npt.NDArray[np.int32], uniforms: FloatArray
) -> IntArray:
    """Outputs [samples, requests] drawn from sorted `outputs`: each exceeds `generated`, and is at most `most`.

    Where there is none, a token is left.
    """
    first = np.searchsorted(outputs, generated, side="right")
    end = np.searchsorted(outputs, most, side="right")
    rank = first + (uniforms * (end - first)).astype(np.int64)
    return np.where(end > first, outputs[np.minimum(rank, len(outputs) - 1)], generated + 1)


def _lose_patience(state: ServingState, tables: ServingTables, now: float, rng: np.random.Generator) -> None:
    """Draw when those who wait give up, given that they have not."""
    counters = state.counters[0]
    count = int(counters[at.QUEUED] - counters[at.PREEMPTED])
    queued = slice(counters[at.QUEUE_FRONT], counters[at.QUEUE_FRONT] + count)
    waiting = state.queue[0, queued]
    arrival_s = state.moments[0, waiting, at.ARRIVAL_S]
    kind = tables.kinds[state.facts[0, waiting, at.CLASS]]
    low = np.maximum(kind[:, at.PATIENCE_S], now - arrival_s)
    high = np.maximum(kind[:, at.LONGEST_S], low)
    finite = np.isfinite(kind[:, at.PATIENCE_S])
    with np.errstate(invalid="ignore"):
        width = np.where(finite, high - low, 0.0)
    until = np.where(finite, arrival_s + low + rng.random((len(state.clocks), count)) * width, np.inf)
    state.queue_until_s[:, queued] = until
    state.clocks[:, at.NEXT_LEAVE_S] = until.min(axis=1) if count else np.inf


# --- what is known of conversations -------------------------------------------------------------------------------


def _converse(
    state: ServingState, tables: ServingTables, known: Known, records: IntArray, rng: np.random.Generator
) -> None:
    """Draw of every conversation whether and when it goes on, and give each that does a place."""
    if not (tables.kinds[:, at.MOST_TURNS] > 1).any():
        return
    samples, _, count = state.places.shape
    now = float(state.clocks[0, at.TIME_S])
    most = int(tables.kinds[:, at.MOST_TURNS].max())
    of_class = first_kinds(tables)
    # Those that are served or wait, and stay where they are.
    served = records[state.more[0, records, at.PLACE] >= 0]
    at_place = state.more[0, served, at.PLACE].astype(np.int64)
    # Those at rest: with pages at a place of their own; without, whether or not they have one, a scheduler sees none.
    places = {
        int(state.places[0, at.NUMBER, place]): place for place in np.flatnonzero(state.places[0, at.PAGES])
    }
    sessions = np.array(list(known.resting), dtype=np.int64)
    rests = list(known.resting.values())
    kept = np.array([places.get(int(session), NOBODY) for session in sessions], dtype=np.int64)

    frame = framed(tables)
    scalars = tables.scalars

    def turns(
        numbers: IntArray, following: IntArray, contexts: IntArray, kinds: IntArray, first: FloatArray
    ) -> IntArray:
        """Turns in all, int64 [samples, conversations]; `first` decides whether turn `following` comes."""
        chances = rng.random((samples, len(numbers), most + 1))
        chances[:, np.arange(len(numbers)), following] = first
        found = np.zeros((samples, len(numbers)), dtype=np.int64)
        count_turns(state.counters, numbers, following, contexts, kinds, chances, frame, scalars, found)
        return found

    this = state.places[0, at.NEXT_TURN, at_place].astype(np.int64)
    after = (state.facts[:, served, at.INPUT] + state.facts[:, served, at.OUTPUT]).astype(np.int64)
    uniforms = rng.random((samples, len(served)))
    numbers = state.more[0, served, at.SESSION].astype(np.int64)
    state.places[:, at.TURNS, at_place] = turns(
        numbers, this + 1, after, state.facts[0, served, at.CLASS].astype(np.int64), uniforms
    )
    taken = np.zeros(count, dtype=np.bool_)
    taken[at_place] = True
    taken[kept[kept >= 0]] = True
    # Places that nobody sees.
    state.places[:, at.NUMBER, ~taken] = NOBODY
    state.places[:, at.PAGES, ~taken] = 0
    state.place_s[:, at.RETURN_S] = np.inf
    if len(rests):
        following = np.array([rest.turn for rest in rests], dtype=np.int64)
        told = np.array([rest.told for rest in rests], dtype=np.int64)
        kinds = of_class[[rest.kind for rest in rests]]
        done_s = np.array([rest.done_s for rest in rests])
        alive, returns = _go_on(tables, kinds, following, told, done_s, now, samples, rng)
        contexts = np.repeat(told[None], samples, axis=0)
        total = turns(sessions, following, contexts, kinds, np.where(alive, -1.0, 2.0))
        _place(state, sessions, following, told, kinds, done_s, kept, total, returns)
    for sample in range(samples):
        free = np.flatnonzero(state.places[sample, at.NUMBER] == NOBODY)
        state.places[sample, at.TOLD, free] = np.append(free[1:], NOBODY)[: len(free)]
        state.counters[sample, at.FREE_PLACE] = free[0] if len(free) else NOBODY
        state.counters[sample, at.PLACES_USED] = count
        state.counters[sample, at.OPEN] = count - len(free)


def _go_on(
    tables: ServingTables,
    kinds: IntArray,
    following: IntArray,
    told: IntArray,
    done_s: FloatArray,
    now: float,
    samples: int,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Whether conversations at rest go on if the next turn's lengths fit, and when; [samples, conversations].

    A conversation that rested for so long is over by chance, or since no next turn would fit.
    """
    rows = tables.kinds[kinds]
    fits = room_for_turn(tables, kinds, told)
    chance = np.where(following < rows[:, at.MOST_TURNS], rows[:, at.GOES_ON], 0.0) * fits
    sigma = np.maximum(rows[:, at.THINK_SIGMA], 1e-3)
    passed = np.maximum(now - done_s, 1e-9)
    z = (np.log(passed) - rows[:, at.THINK_MU]) / sigma
    waits = np.array([_NORMAL.cdf(-x) for x in z])  # chance that a think time is longer
    left = chance * waits / np.maximum(1 - chance + chance * waits, 1e-300)
    alive = rng.random((samples, len(kinds))) * fits < left
    # The rest of a think time, by its inverse: a uniform share of the chance that is left.
    later = np.clip(rng.random((samples, len(kinds))) * waits, 1e-300, 1 - 1e-16)
    quantile = np.array([[-_NORMAL.inv_cdf(x) for x in row] for row in later.tolist()])
    returns = done_s + np.exp(rows[:, at.THINK_MU] + sigma * quantile.reshape(samples, len(kinds)))
    return alive, np.maximum(returns, now)


def room_for_turn(tables: ServingTables, kinds: IntArray, told: IntArray) -> FloatArray:
    """Share of the later turns of a kind that fit into context and memory after so many tokens, [conversations]."""
    scalars = tables.scalars
    tokens = scalars[at.TOTAL_PAGES] * 2.0 ** scalars[at.PAGE_LOG2] - SPECULATION_LENGTHS[-1]
    room = min(scalars[at.CONTEXT_LIMIT], tokens) - told
    found = np.zeros(len(kinds))
    for kind in np.unique(kinds):
        first, count = (int(tables.spans[kind, column]) for column in (at.LATER_ROW, at.LATER_ROWS))
        totals = np.sort(tables.service_lengths[first : first + count].sum(axis=1))
        who = kinds == kind
        found[who] = np.searchsorted(totals, room[who], side="right") / count
    return found


def _place(
    state: ServingState,
    sessions: IntArray,
    following: IntArray,
    told: IntArray,
    kinds: IntArray,
    done_s: FloatArray,
    kept: IntArray,
    total: IntArray,
    returns: FloatArray,
) -> None:
    """Write conversations at rest into their places, or free ones; those that are over and keep nothing have none."""
    for sample in range(len(state.places)):
        goes_on = total[sample] > following
        free = np.flatnonzero(state.places[sample, at.NUMBER] == NOBODY)
        need = (
            np.flatnonzero(goes_on & (kept < 0))[-len(free) :] if len(free) else np.zeros(0, dtype=np.int64)
        )
        where = kept.copy()
        where[need] = free[: len(need)]
        who = np.flatnonzero(where >= 0)
        at_place = where[who]
        places, place_s = state.places[sample], state.place_s[sample]
        places[at.NUMBER, at_place] = sessions[who]
        places[at.NEXT_TURN, at_place] = following[who]
        places[at.TURNS, at_place] = np.where(goes_on[who], total[sample, who], following[who])
        places[at.TOLD, at_place] = told[who]
        places[at.KIND, at_place] = kinds[who]
        place_s[at.DONE_S, at_place] = done_s[who]
        place_s[at.RETURN_S, at_place] = np.where(goes_on[who], returns[sample, who], np.inf)
