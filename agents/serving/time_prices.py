"""A price for every moment of a machine's time: how much can be worth doing, at most, whoever decides.

Work of sessions must be put into slots of time, each of which has room for as many seconds of work as it is long. For
any prices `y[m] >= 0` of a second in slot m, nothing that can be done is worth more than

    sum over m of y[m] room[m]  +  sum over sessions of the most that one can gain beyond what its work costs,

where work costs the least price in the window in which it must be done (weak duality: add the room that is left
over at its price, and let every session choose for itself). So every `y` gives a bound; `bound_by_prices` looks for
one that gives a low one, by gradient steps on a smoothed sum, and the value it returns is computed exactly.

A session is a chain of turns that come one after the other. A turn that counts takes its work in its windows. Only as
long as all turns before it counted, it is known when a turn comes at the latest. The first turn that does not count may
be served at any time, so those after it can do their work at any time from when they come at the earliest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from papi_env.kernel import FloatArray

# chosen: steps of the search for prices, and the size of one as a share of the largest price that can matter. More
# steps can only tighten the bound.
STEPS = 300
_STEP = 0.03
# Of Adam (Kingma and Ba, ICLR 2015).
_MEAN, _SQUARE, _TINY = 0.9, 0.99, 1e-30


Mask = npt.NDArray[np.bool_]


class Jobs(NamedTuple):
    """Turns, session by session in their order; arrays [turns], windows by slots, the last one included.

    Attributes:
        first: int64 [sessions], where each session begins.
        worth: float64, gained if a turn counts; `able`: bool, whether it can at all.
        prompt, decode: float64, seconds of work; credit: float64, seconds that a turn that counts adds to the room at
            most, at the largest price in the window of its decoding.
        prompt_from, prompt_to, decode_from, decode_to: int64, slots.
    """

    first: npt.NDArray[np.int64]
    worth: FloatArray
    able: npt.NDArray[np.bool_]
    prompt: FloatArray
    decode: FloatArray
    credit: FloatArray
    prompt_from: npt.NDArray[np.int64]
    prompt_to: npt.NDArray[np.int64]
    decode_from: npt.NDArray[np.int64]
    decode_to: npt.NDArray[np.int64]


def lowest(prices: FloatArray, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> FloatArray:
    """The least price in each window, its last slot included."""
    return _within(_minima(prices), start, stop)


def _minima(prices: FloatArray) -> FloatArray:
    """Minima from each slot on of windows of powers of two slots, [powers, slots]; infinite where one has no room."""
    powers = max(len(prices), 1).bit_length()
    table = np.full((powers, len(prices)), np.inf)
    table[0] = prices
    for power in range(1, powers):
        width = 1 << (power - 1)
        np.minimum(table[power - 1, :-width], table[power - 1, width:], out=table[power, :-width])
    return table


def _within(table: FloatArray, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> FloatArray:
    level = np.log2(stop - start + 1).astype(np.int64)
    found: FloatArray = np.minimum(table[level, start], table[level, stop + 1 - (1 << level)])
    return found


def costs(jobs: Jobs, prices: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What each turn costs in its windows, and at any time after it comes at the earliest; [turns] each."""
    # Bounds ask for hundreds of thousands of prices: each has one table, and what is left is minima from the end on.
    table, left = _minima(prices), np.minimum.accumulate(prices[::-1])[::-1]
    cost = jobs.prompt * _within(table, jobs.prompt_from, jobs.prompt_to)
    cost = cost + jobs.decode * _within(table, jobs.decode_from, jobs.decode_to)
    later = jobs.prompt * left[jobs.prompt_from]
    later = later + jobs.decode * left[jobs.decode_from]
    if jobs.credit.any():
        left = np.minimum.accumulate(-prices[::-1])[::-1]
        cost = cost + jobs.credit * lowest(-prices, jobs.decode_from, jobs.decode_to)
        later = later + jobs.credit * left[jobs.decode_from]
    return cost, later


def chosen(jobs: Jobs, cost: FloatArray, later: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """What sessions gain at most, and how much of each turn's work is then done in its windows, or at any later time.

    Args:
        cost: [turns], of a turn's work in its windows; later: [turns], of the same at any time after the earliest.
    """
    turns = len(jobs.worth)
    session = np.repeat(np.arange(len(jobs.first)), np.diff(np.append(jobs.first, turns)))
    gain = np.where(jobs.able, jobs.worth - cost, -np.inf)
    free = np.where(jobs.able, np.maximum(jobs.worth - later, 0.0), 0.0)
    # Of sessions one turn at a time: those before it count in their windows, it does not, those after it where they
    # gain.
    before = np.zeros(turns)
    after = np.zeros(turns)
    length = np.diff(np.append(jobs.first, turns))
    for k in range(1, int(length.max(initial=0))):
        here = jobs.first[length > k] + k
        before[here] = before[here - 1] + gain[here - 1]
    for k in range(int(length.max(initial=0)) - 2, -1, -1):
        here = jobs.first[length > k + 1] + k
        after[here] = after[here + 1] + free[here + 1]
    last = jobs.first + length - 1
    best = np.maximum.reduceat(before + after, jobs.first)
    everything = before[last] + gain[last]
    whole = everything >= best
    # Where it breaks: the first turn that reaches the best.
    reached = (before + after >= best[session]) & ~whole[session]
    place = np.full(len(jobs.first), turns)
    hits = np.flatnonzero(reached)
    np.minimum.at(place, session[hits], hits)
    position = np.arange(turns)
    counted = whole[session] | (position < place[session])
    anytime = ~counted & (position > place[session]) & (free > 0)
    return float(np.maximum(everything, best).sum()), counted.astype(float), anytime.astype(float)


class _Smooth:
    """Soft minima of prices in windows, and how they follow the prices."""

    def __init__(self, prices: FloatArray, width: float) -> None:
        self.width = width
        self.weight = np.exp(-(prices - prices.min()) / width)
        self.lowest = prices.min()
        self.sums = np.append(0.0, np.cumsum(self.weight))

    def at(self, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]) -> FloatArray:
        """Sums of weights in windows, never zero."""
        sums: FloatArray = np.maximum(self.sums[stop + 1] - self.sums[start], _TINY)
        return sums

    def spread(
        self, work: FloatArray, start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]
    ) -> FloatArray:
        """Work by slot, where each window's is spread by the weights in it."""
        share = work / self.at(start, stop)
        slots = len(self.weight)
        change = np.bincount(start, share, slots + 1) - np.bincount(stop + 1, share, slots + 1)
        found: FloatArray = np.cumsum(change)[:-1] * self.weight
        return found


def value(jobs: Jobs, room: FloatArray, prices: FloatArray) -> float:
    """The bound that prices give. The last slot is `room` for what is done after all the others; it may be infinite."""
    paid = float(np.where(prices > 0, prices * np.where(np.isfinite(room), room, 0.0), 0.0).sum())
    return paid + chosen(jobs, *costs(jobs, prices))[0]


def constant_price(jobs: Jobs, room: FloatArray, tries: int = 20) -> tuple[FloatArray, float]:
    """The best prices that are the same in the first slots and 0 in the others, and the bound that they give.

    The first slots are those in which prompts of first turns are due, all with limited room, or something between.
    """
    limited = np.isfinite(room)
    last = int(np.flatnonzero(limited).max(initial=0))
    prompts = int(jobs.prompt_to[jobs.first].max(initial=0)) if jobs.prompt.any() else 0
    ends = {min(prompts, last), (min(prompts, last) + last) // 2, last}
    found = [_constant(jobs, room, limited & (np.arange(len(room)) <= end), tries) for end in sorted(ends)]
    return min(found, key=lambda pair: pair[1])


def _constant(jobs: Jobs, room: FloatArray, busy: Mask, tries: int) -> tuple[FloatArray, float]:
    """The best price that is the same in busy slots, by golden sections: the bound is convex in it."""
    work = jobs.prompt + jobs.decode
    largest = float((jobs.worth / np.maximum(work, _TINY)).max(initial=0.0, where=work > 0))

    def bound(price: float) -> float:
        return value(jobs, room, np.where(busy, price, 0.0))

    low, high = 0.0, largest
    best = min((bound(0.0), 0.0), (bound(high), high))
    ratio = (np.sqrt(5.0) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = bound(left), bound(right)
    for _ in range(tries):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = bound(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = bound(right)
        best = min(best, (at_left, left), (at_right, right))
    return np.where(busy, best[1], 0.0), best[0]


def bound_by_prices(jobs: Jobs, room: FloatArray, steps: int = STEPS) -> float:
    """The most that sessions can gain, bounded by the best prices that are found.

    Args:
        jobs: the sessions.
        room: float64 [slots], seconds of work that each has room for; infinite of the last where nothing limits it.
        steps: of the search.
    """
    if not len(jobs.first):
        return 0.0
    prices, best = constant_price(jobs, room)
    limited = np.isfinite(room)
    seconds = np.where(limited, room, 0.0)
    mean, square = np.zeros(len(room)), np.zeros(len(room))
    end = np.full(len(jobs.worth), len(room) - 1)
    scale = max(float(prices.max()), 1e-3 * float(jobs.worth.sum()) / max(float(seconds.sum()), _TINY))
    for step in range(1, steps + 1):
        fading = 1.0 - step / (steps + 1)
        smooth = _Smooth(prices, scale * (0.002 + 0.05 * fading))
        gained, counted, anytime = chosen(jobs, *costs(jobs, prices))
        best = min(best, float((prices * seconds).sum()) + gained)
        load = smooth.spread(jobs.prompt * counted, jobs.prompt_from, jobs.prompt_to)
        load += smooth.spread(jobs.decode * counted, jobs.decode_from, jobs.decode_to)
        load += smooth.spread(jobs.prompt * anytime, jobs.prompt_from, end)
        load += smooth.spread(jobs.decode * anytime, jobs.decode_from, end)
        if jobs.credit.any():
            highest = _Smooth(-prices, smooth.width)
            load -= highest.spread(jobs.credit * counted, jobs.decode_from, jobs.decode_to)
            load -= highest.spread(jobs.credit * anytime, jobs.decode_from, end)
        gradient = seconds - load
        mean = _MEAN * mean + (1 - _MEAN) * gradient
        square = _SQUARE * square + (1 - _SQUARE) * gradient**2
        move = (mean / (1 - _MEAN**step)) / np.sqrt(square / (1 - _SQUARE**step) + _TINY)
        prices = np.where(limited, np.maximum(prices - _STEP * scale * fading * move, 0.0), 0.0)
    return min(best, value(jobs, room, prices))
