"""Random draws keyed by what they belong to, so that every policy meets the same instance.

A draw is a hash of (seed, episode, request, token position), mixed with the finaliser of SplitMix64
(Steele, Lea and Flood, OOPSLA 2014); it never depends on what a policy did.
"""

from __future__ import annotations

import numpy as np

from papi_env.simulation.batch import state as at
from papi_env.simulation.compiled import exposed, inlined, lean

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


@exposed
def draw_gains(drafted, keys, contexts, threshold, gains):
    """Tokens that `state.DRAWN` requests gain: one each, and its accepted prefix of `drafted` tokens.

    As `accepted_prefix`, for a vector of requests: draws that are not needed cost less than finding out.

    Args:
        keys: uint64 [DRAWN]; contexts: int32 [DRAWN], tokens so far.
        gains: int64 [DRAWN], written; as wide as the draws, since a vector is read back as it was written.
    """
    for k in range(at.DRAWN):
        gains[k] = 1
    for d in range(1, drafted + 1):
        for k in range(at.DRAWN):
            passed = draft_draw(keys[k], contexts[k] + d) < threshold
            gains[k] += np.int64(passed and gains[k] == d)
