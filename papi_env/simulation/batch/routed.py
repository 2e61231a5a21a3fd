"""What the experts of all layers cost under drawn routings, compiled: on either unit, and split between both.

A routing is a stream of tokens of one layer, each of which goes to a few different experts, keyed by (stream, token,
expert). The first n tokens of a stream are a routing of n tokens, so that one stream serves all n.
"""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import njit
from papi_env.simulation.draws import mix, request_key

# Columns of what one expert takes by its tokens: seconds on all PUs, of which reading; on its FC-PIM stacks, of which
# PUs cannot read there.
PU_S, READ_S, PIM_S, HELD_S = range(4)
NUM_ONE = 4
# Options: the units, and hot experts on the PUs with cold ones on FC-PIM.
ON_PU, ON_PIM, SPLIT = range(3)
NUM_OPTIONS = 3
# Columns of what all layers take: seconds from start to end, joules, seconds in which PUs and FC-PIM work, experts on
# the PUs, and joules by cause.
SECONDS, JOULES, PU_BUSY_S, PIM_BUSY_S, HOT, CAUSES = range(6)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_11 = np.uint64(11)
_UNIT = 2.0**-53
# Streams of tokens, and places of experts, are keyed apart.
_TOKENS, _PLACES = 0x45585054, 0x504C4143


@njit
def route(key, weights, active, counts, ring):
    """Send a token to `active` different experts, with chances in proportion to `weights`; adds to `counts`.

    A race of exponential clocks, in which the first to ring are taken. `ring` is scratch, float64 [experts].
    """
    experts = weights.shape[0]
    for e in range(experts):
        u = (mix(key + np.uint64(e) * _GOLDEN) >> _11) * _UNIT
        ring[e] = -np.log1p(-u) / weights[e]
    for _ in range(active):
        first = 0
        for e in range(1, experts):
            if ring[e] < ring[first]:
                first = e
        ring[first] = np.inf
        counts[first] += 1


@njit
def place(stream, groups, group_of, order):
    """Deal the experts of a layer to groups of stacks in turn, in an order keyed by the layer's stream."""
    experts = group_of.shape[0]
    keys = np.empty(experts)
    for e in range(experts):
        keys[e] = (mix(request_key(_PLACES, stream, e)) >> _11) * _UNIT
    order[:] = np.argsort(keys)
    for i in range(experts):
        group_of[order[i]] = i % groups


@njit
def hottest_first(counts, most, order, starts):
    """Write the experts with tokens into `order`, those with most first. Returns how many there are.

    Of equal ones the first is first. `starts` is scratch, int64 [most + 2].
    """
    starts[:] = 0
    for count in counts:
        starts[count] += 1
    # Where the experts with so many tokens begin.
    before = 0
    for count in range(most, 0, -1):
        here = starts[count]
        starts[count] = before
        before += here
    for e in range(counts.shape[0]):
        if counts[e] > 0:
            order[starts[counts[e]]] = e
            starts[counts[e]] += 1
    return before


@njit
def add_layer(counts, order, found, group_of, one, causes, fixed, loads, out):
    """Add what one layer costs to `out`, [NUM_OPTIONS, columns].

    Args:
        counts: tokens of each expert, int64 [experts]; order: the `found` ones that have any, hottest first.
        group_of: int64 [experts].
        one: float64 [tokens, NUM_ONE]; causes: joules of one expert on PUs and FC-PIM, [2, tokens, causes].
        fixed: seconds of the PUs' start, of FC-PIM's, and of FC-PIM per token.
        loads: scratch, float64 [groups, NUM_ONE], zero.
    """
    groups = loads.shape[0]
    rows = 0
    for i in range(found):
        e = order[i]
        loads[group_of[e], PIM_S] += one[counts[e], PIM_S]
        loads[group_of[e], HELD_S] += one[counts[e], HELD_S]
        rows += counts[e]
    best, best_hot, best_pu, best_pim = np.inf, 0, 0.0, 0.0
    pu_s = 0.0
    # From all on FC-PIM to all on the PUs, one expert after the other.
    for hot in range(found + 1):
        if hot > 0:
            e = order[hot - 1]
            g = group_of[e]
            loads[g, PIM_S] -= one[counts[e], PIM_S]
            loads[g, HELD_S] -= one[counts[e], HELD_S]
            loads[g, PU_S] += one[counts[e], PU_S]
            loads[g, READ_S] += one[counts[e], READ_S]
            rows -= counts[e]
        pu, pim, stacks = 0.0, 0.0, 0.0
        for g in range(groups):
            pu = max(pu, groups * loads[g, PU_S])
            pim = max(pim, loads[g, PIM_S])
            stacks = max(stacks, groups * loads[g, READ_S] + loads[g, HELD_S])
        pu_s = fixed[0] + pu if hot > 0 else 0.0
        pim_s = fixed[1] + fixed[2] * rows + pim if hot < found else 0.0
        seconds = max(pu_s, pim_s)
        if 0 < hot < found:
            seconds = max(seconds, stacks)
        if hot == 0:
            out[ON_PIM, SECONDS] += pim_s
            out[ON_PIM, PIM_BUSY_S] += pim_s
        if seconds < best:
            best, best_hot, best_pu, best_pim = seconds, hot, pu_s, pim_s
    out[ON_PU, SECONDS] += pu_s
    out[ON_PU, PU_BUSY_S] += pu_s
    out[ON_PU, HOT] += found
    out[SPLIT, SECONDS] += best
    out[SPLIT, PU_BUSY_S] += best_pu
    out[SPLIT, PIM_BUSY_S] += best_pim
    out[SPLIT, HOT] += best_hot
    for i in range(found):
        tokens = counts[order[i]]
        for k in range(causes.shape[2]):
            out[ON_PU, CAUSES + k] += causes[0, tokens, k]
            out[ON_PIM, CAUSES + k] += causes[1, tokens, k]
            out[SPLIT, CAUSES + k] += causes[0 if i < best_hot else 1, tokens, k]
    loads[:] = 0.0


@njit
def routed_costs(samples, layers, wanted, weights, active, groups, one, causes, fixed):
    """What the experts of all layers cost, float64 [NUM_OPTIONS, rows, samples, columns].

    Every sample is the sum of `layers` independent draws of a layer. Zero for rows that are not `wanted`.

    Args:
        wanted: bool [rows]; weights: of the experts, float64 [experts]; others as in `add_layer`.
    """
    experts, rows = weights.shape[0], wanted.shape[0]
    out = np.zeros((samples, rows, NUM_OPTIONS, CAUSES + causes.shape[2]))
    counts, order = np.zeros(experts, dtype=np.int64), np.zeros(experts, dtype=np.int64)
    group_of, starts = np.zeros(experts, dtype=np.int64), np.zeros(rows + 1, dtype=np.int64)
    ring, loads = np.empty(experts), np.zeros((groups, NUM_ONE))
    for sample in range(samples):
        for layer in range(layers):
            stream = sample * layers + layer
            counts[:] = 0
            place(stream, groups, group_of, order)
            for n in range(1, rows):
                route(request_key(_TOKENS, stream, n), weights, active, counts, ring)
                if wanted[n]:
                    found = hottest_first(counts, n, order, starts[: n + 2])
                    add_layer(counts, order, found, group_of, one, causes, fixed, loads, out[sample, n])
    for sample in range(samples):
        for n in range(rows):
            for option in range(NUM_OPTIONS):
                row = out[sample, n, option]
                row[JOULES] = row[CAUSES:].sum()
    return out.transpose((2, 1, 0, 3)).copy()
