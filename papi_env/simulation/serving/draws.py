"""Arrival times of an episode, drawn in compiled code and keyed as all draws are (see `draws`).

The gap before a request is a function of (seed, episode, request), where the episode starts in a profile or
trace of (seed, episode). Both hash with a constant of their own, so that they are independent of the draws
of lengths and acceptance.
"""

from __future__ import annotations

import math

import numpy as np

from papi_env.simulation.compiled import inner, lean, seldom
from papi_env.simulation.draws import mix, request_key
from papi_env.workload.arrivals import GAMMA, TOGETHER, TRACE

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Any odd constant other than those of other streams; this one is next to 2^64 / sqrt(2).
_ARRIVALS = np.uint64(0xB504F333F9DE6485)
_NO_REQUEST = np.uint64(2**64 - 1)  # stands for the episode itself
_12 = np.uint64(12)


@lean
def arrival_stream(seed, episode, request):
    """uint64 key of the draws for one request's arrival."""
    return mix(request_key(seed, episode, request) ^ _ARRIVALS)


@lean
def uniform(stream, counter):
    """Draw `counter` of a stream: one of 2^52 even steps inside (0, 1), never at its ends."""
    bits = mix(stream + np.uint64(counter) * _GOLDEN) >> _12
    return (np.float64(bits) + 0.5) * 2.0**-52


@lean
def exponential(stream, counter):
    """Exponential draw of mean 1, by inversion."""
    return -math.log(uniform(stream, counter))


@lean
def standard_gamma(stream, counter, shape):
    """Gamma draw of the given shape (mean and variance), from draws `counter` on.

    Rejection by Marsaglia and Tsang (ACM TOMS 26(3), 2000), exact for shape >= 1: three draws a proposal,
    more than 95 % accepted. Below 1, their boost: a gamma of shape + 1 times U^(1 / shape).
    """
    boosted = shape < 1.0
    d = (shape + 1.0 if boosted else shape) - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    while True:
        radius = math.sqrt(-2.0 * math.log(uniform(stream, counter)))
        normal = radius * math.cos(2.0 * math.pi * uniform(stream, counter + 1))  # Box and Muller
        log_u = math.log(uniform(stream, counter + 2))
        counter += 3
        v = 1.0 + c * normal
        if v <= 0.0:
            continue
        v = v * v * v
        if log_u < 0.5 * normal * normal + d - d * v + d * math.log(v):
            break
    if boosted:
        return d * v * uniform(stream, counter) ** (1.0 / shape)
    return d * v


@lean
def gap(stream, kind, shape):
    """Gap between two requests, in units of the mean gap."""
    if kind == GAMMA:
        return standard_gamma(stream, 1, shape) / shape
    return exponential(stream, 1)


@lean
def first_gap(stream, kind, shape):
    """Time from the start of an episode to its first request, in units of the mean gap.

    What remains, at a random time, of the gap that this time fell into. Such a gap is drawn in proportion
    to its length, which for a gamma adds 1 to the shape, and is uniformly cut.
    """
    if kind == GAMMA:
        return uniform(stream, 1) * standard_gamma(stream, 2, shape + 1.0) / shape
    return exponential(stream, 1)  # without memory


@inner
def after(values, x):
    """How many of the ascending values are at most x."""
    low = 0
    high = len(values)
    while low < high:
        middle = (low + high) // 2
        if x < values[middle]:
            high = middle
        else:
            low = middle + 1
    return low


@inner
def operational_time(within_s, knots_s, operational_s, stretch):
    """Operational seconds that have passed `within_s` seconds after a period's start; less than a period."""
    segment = after(knots_s, within_s) - 1
    if stretch[segment] == 0.0:
        return operational_s[segment]
    return operational_s[segment] + (within_s - knots_s[segment]) / stretch[segment]


@inner
def real_time(operational, period_s, knots_s, operational_s, stretch):
    """The time at which `operational` seconds of operational time have passed since a period's start."""
    periods = math.floor(operational / period_s)
    within = max(0.0, operational - periods * period_s)
    # The last knot at or before it: at the end of a time without arrivals, not at its start.
    segment = after(operational_s, within) - 1
    segment = min(segment, len(stretch) - 1)
    return periods * period_s + knots_s[segment] + (within - operational_s[segment]) * stretch[segment]


@inner
def phase(seed, episode, tables):
    """Seconds after the start of a profile's period at which an episode starts."""
    if not tables.random_phase:
        return 0.0
    return tables.period_s * uniform(arrival_stream(seed, episode, _NO_REQUEST), 1)


@inner
def first_operational(seed, episode, tables):
    """The operational time at which an episode starts."""
    if not tables.random_phase:
        return 0.0
    phase_s = phase(seed, episode, tables)
    return operational_time(phase_s, tables.knots_s, tables.operational_s, tables.stretch)


@inner
def next_renewal(seed, episode, i, operational, before, tables):
    """Request i of a Poisson or gamma process: its seconds since the episode's start, and its operational time.

    `operational` and `before` are those of the request before it, or `first_operational` and 0.
    """
    stream = arrival_stream(seed, episode, np.uint64(i))
    gaps = first_gap(stream, tables.kind, tables.shape) if i == 0 else gap(stream, tables.kind, tables.shape)
    operational += gaps * tables.mean_gap_s
    time = operational
    if len(tables.stretch) > 0:
        real = real_time(operational, tables.period_s, tables.knots_s, tables.operational_s, tables.stretch)
        time = real - phase(seed, episode, tables)
    return max(time, before), operational  # rounding at the knots must not reorder


@seldom
def draw_renewal(seed, episode, tables, limit, times, rows):
    """`draw_arrivals` of a Poisson or gamma process, at most `limit` requests."""
    operational = first_operational(seed, episode, tables)
    before = 0.0
    for i in range(limit):
        before, operational = next_renewal(seed, episode, i, operational, before, tables)
        if before >= tables.horizon_s:
            return i
        times[i] = before
        rows[i] = -1
    return limit


@seldom
def window_start(seed, episode, tables):
    """Where the window of a trace begins: seconds, and the first of its rows."""
    rows_s = tables.rows_s
    u = uniform(arrival_stream(seed, episode, _NO_REQUEST), 1)
    if tables.start_rows > 0:
        first = min(np.int64(u * tables.start_rows), tables.start_rows - 1)
        return rows_s[first], first
    low, high = tables.first_start_s, tables.last_start_s
    start_s = min(low + u * (high - low), high)
    # The first row at that time or later.
    first = after(rows_s, start_s)
    while first > 0 and rows_s[first - 1] == start_s:
        first -= 1
    return start_s, first


@seldom
def draw_window(seed, episode, tables, limit, times, rows):
    """`draw_arrivals` of a trace: the rows of a window that starts at a drawn time or row."""
    rows_s, horizon_s, first_row = tables.rows_s, tables.horizon_s, tables.first_row
    start_s, first = window_start(seed, episode, tables)
    count = 0
    while count < limit and first + count < len(rows_s):
        time = rows_s[first + count] - start_s
        if time >= horizon_s:
            break
        times[count] = time
        rows[count] = first_row + first + count
        count += 1
    return count


@lean
def draw_arrivals(seed, episode, tables, times, rows):
    """The requests of an episode, in order of arrival; returns how many there are.

    Writes float64 seconds since the episode's start into `times[:count]`, never decreasing and before
    `tables.horizon_s`, and int64 rows of the trace into `rows[:count]`, -1 where there is none. No more
    than `tables.capacity`, nor than the arrays hold. `tables` is an `ArrivalTables`; nothing is allocated.
    """
    limit = min(tables.capacity, len(times), len(rows))
    if tables.kind == TRACE:
        return draw_window(seed, episode, tables, limit, times, rows)
    if tables.kind == TOGETHER:
        for i in range(limit):
            times[i] = 0.0
            rows[i] = -1
        return limit
    return draw_renewal(seed, episode, tables, limit, times, rows)


@seldom
def row_of(seed, episode, i, tables):
    """The row of the trace of request i of an episode, one that comes; -1 where there is no trace."""
    if tables.kind != TRACE:
        return np.int64(-1)
    _, first = window_start(seed, episode, tables)
    return np.int64(tables.first_row + first + i)


@inner
def next_arrival(seed, episode, i, operational, before, tables):
    """Request i of an episode, drawn one by one: its time, infinite where there is none; its row; operational time.

    As `draw_arrivals` has them. `operational` and `before` are of the request before it; of the first one the former is
    not read.
    """
    row = np.int64(-1)
    if i >= tables.capacity:
        return np.inf, row, operational
    if tables.kind == TOGETHER:
        return 0.0, row, operational
    if tables.kind == TRACE:
        start_s, first = window_start(seed, episode, tables)
        if first + i >= len(tables.rows_s):
            return np.inf, row, operational
        time = tables.rows_s[first + i] - start_s
        row = np.int64(tables.first_row + first + i)
    else:
        if i == 0:
            operational = first_operational(seed, episode, tables)
        time, operational = next_renewal(seed, episode, i, operational, before, tables)
    if time >= tables.horizon_s:
        return np.inf, row, operational
    return time, row, operational
