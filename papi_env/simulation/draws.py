"""Random draws keyed by what they belong to, so that every policy meets the same instance.

A draw is a hash of (seed, episode, request, token position), mixed with the finaliser of SplitMix64
(Steele, Lea and Flood, OOPSLA 2014); it never depends on what a policy did.
"""

from __future__ import annotations

import numba as nb
import numpy as np

njit = nb.njit(cache=True)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_LENGTHS = np.uint64(0x5851F42D4C957F2D)
_30, _27, _31, _11, _32 = (np.uint64(bits) for bits in (30, 27, 31, 11, 32))


@njit
def mix(x):
    """A bijection of uint64 in which every input bit moves every output bit."""
    x = (x ^ (x >> _30)) * _FIRST
    x = (x ^ (x >> _27)) * _SECOND
    return x ^ (x >> _31)


@njit
def request_key(seed, episode, request):
    """uint64 key of a request. Mixed after each part, so that seed + 1 is not seed shifted by an episode."""
    key = mix(np.uint64(seed) + _GOLDEN)
    key = mix((key ^ np.uint64(episode)) + _GOLDEN)
    return mix((key ^ np.uint64(request)) + _GOLDEN)


@njit
def request_row(key, rows):
    """Uniform index below `rows` (< 2**32) from a request's key: high bits times rows."""
    high = mix(key ^ _LENGTHS) >> _32
    return np.int64((high * np.uint64(rows)) >> _32)


@njit
def accepted_drafts(key, position, drafted, threshold):
    """Accepted prefix of `drafted` tokens after `position`; each passes if its 53-bit draw is below `threshold`."""
    accepted = 0
    while accepted < drafted:
        token = np.uint64(position + accepted + 1)
        if (mix(key + token * _GOLDEN) >> _11) >= threshold:
            break
        accepted += 1
    return accepted
