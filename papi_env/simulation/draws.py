"""Random draws keyed by what they belong to, so that every policy meets the same instance.

A draw is a hash of (seed, episode, request, token position), mixed with the finaliser of SplitMix64
(Steele, Lea and Flood, OOPSLA 2014); it never depends on what a policy did.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types

from papi_env.simulation.batch import state as at
from papi_env.simulation.compiled import exposed, inlined, lean
from papi_env.simulation.vectors import by_hand, splat

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_LENGTHS = np.uint64(0x5851F42D4C957F2D)
_30, _27, _31, _11, _32 = (np.uint64(bits) for bits in (30, 27, 31, 11, 32))


@lean
def mix(x):
    """A bijection of uint64 in which every input bit moves every output bit."""
    x = (x ^ (x >> _30)) * _FIRST
    x = (x ^ (x >> _27)) * _SECOND
    return x ^ (x >> _31)


@lean
def request_key(seed, episode, request):
    """uint64 key of a request. Mixed after each part, so that seed + 1 is not seed shifted by an episode."""
    key = mix(np.uint64(seed) + _GOLDEN)
    key = mix((key ^ np.uint64(episode)) + _GOLDEN)
    return mix((key ^ np.uint64(request)) + _GOLDEN)


@lean
def request_row(key, rows):
    """Uniform index below `rows` (< 2**32) from a request's key: high bits times rows."""
    high = mix(key ^ _LENGTHS) >> _32
    return np.int64((high * np.uint64(rows)) >> _32)


@inlined
def token_seed(key, token):
    """What the draw of the token at position `token` is made from; of the n-th after it, `token_step(n)` more."""
    return key + token_step(token)


@inlined
def token_step(tokens):
    """By how much the seeds of two draws differ whose tokens are so many positions apart; wraps around."""
    return np.uint64(tokens) * _GOLDEN


@inlined
def seeded_draw(seed):
    """The 53-bit draw of a `token_seed`: the token's draft is accepted where this is below a threshold."""
    return mix(seed) >> _11


@inlined
def draft_draw(key, token):
    """The draw of the token at position `token`. It belongs to the token, whatever was drafted before it."""
    return seeded_draw(token_seed(key, token))


@lean
def accepted_prefix(key, position, drafted, kind, thresholds):
    """Accepted drafts after `position`, up to the first that is not.

    Args:
        drafted: drafts; kind: class of the request; thresholds: uint64 [classes, drafts].
    """
    accepted = 0
    alive = 1
    # Without an early exit: the draws do not wait for one another, and a branch would be guessed wrong.
    for d in range(drafted):
        alive &= int(draft_draw(key, position + d + 1) < thresholds[kind, d])
        accepted += alive
    return accepted


def _plain_below(first, threshold):
    """Which of the draws of as many tokens, from that of the seed `first` on, are below a threshold, bit by bit."""
    found = np.uint32(0)
    for k in range(at.DRAWN):
        accepted = np.uint32(seeded_draw(first + token_step(k)) < threshold)
        found = np.uint32(found | np.uint32(accepted << np.uint32(k)))
    return found


def _below(_, first, threshold):
    """The same as one vector, of whose comparisons a number is made: LLVM makes bits by shifting and adding up."""

    def build(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(64), at.DRAWN)
        steps = [k * int(_GOLDEN) % 2**64 for k in range(at.DRAWN)]

        def constant(number):
            return ir.Constant(vector, [int(number)] * at.DRAWN)

        def moved(x, bits):
            return builder.lshr(x, constant(bits))

        # As `mix` and `seeded_draw`.
        x = builder.add(splat(builder, arguments[0], at.DRAWN), ir.Constant(vector, steps))
        x = builder.mul(builder.xor(x, moved(x, _30)), constant(_FIRST))
        x = builder.mul(builder.xor(x, moved(x, _27)), constant(_SECOND))
        draws = moved(builder.xor(x, moved(x, _31)), _11)
        # Signed, for which all processors have an instruction; neither has a sign.
        below = builder.icmp_signed("<", draws, splat(builder, arguments[1], at.DRAWN))
        return builder.bitcast(below, ir.IntType(at.DRAWN))

    return types.uint32(first, threshold), build


_accepted = by_hand(_plain_below, _below)


@exposed
def draw_ahead(key, position, threshold):
    """Which drafts of a request are accepted, uint32: bit k is that of the token at `position` + 1 + k.

    Draws that belong to one request are a vector, and each is made once: what an iteration rejects, a later one drafts
    again, and finds the same.
    """
    return _accepted(token_seed(key, position + 1), threshold)


@exposed
def accepted_ahead(found, drafted):
    """Accepted drafts up to the first that is not, by bits that begin with the first draft.

    `drafted`, uint32, has ones in the places of the drafts that there are, 7 at most.
    """
    # The lowest zero, past the last draft at most, is a power of two, which a float32 keeps as its exponent.
    ones = np.uint32(found & drafted)
    zero = np.int32(np.uint32(~ones & np.uint32(ones + np.uint32(1))))
    return np.uint32(np.int32(np.int32(np.float32(zero).view(np.int32) >> np.int32(23)) - np.int32(127)))
