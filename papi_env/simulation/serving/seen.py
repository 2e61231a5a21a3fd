"""What an observation says, compiled: quantities in physical units; the inverse of `observe`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from papi_env.simulation.compiled import exposed, inlined, unlocked
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.state import COLUMN
from papi_env.workload.serving import SPECULATION_LENGTHS

# The largest float32 below 1: what an open range is squashed to at most.
ALMOST_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
# How each feature is scaled: what becomes 1 on a linear scale, 1/2 on an open one.
_FULL = {feature.name: float(feature.scale.full) for feature in at.FEATURES}
_QUEUED, _BACKLOG, _RLP = _FULL["queued"], _FULL["prefill_backlog"], _FULL["rlp"]
_PREFILLING, _CHUNK, _SLACK = _FULL["prefilling"], _FULL["last_chunk"], _FULL["tpot_slack_mean"]
# Contexts are in per cent of the limit.
_MEAN_CONTEXT, _LONGEST_CONTEXT = _FULL["mean_context"] / 100, _FULL["longest_context"] / 100
_GAINED_FULL = tuple(_FULL[f"tokens_at_{length}"] for length in SPECULATION_LENGTHS[1:])
# Tokens gained per request and iteration at each speculation length from 2 on, on a grid of acceptances.
_RATES = np.linspace(0.0, 1.0, 201)
_GAINED: Any = np.array([sum(_RATES**j for j in range(t)) for t in SPECULATION_LENGTHS[1:]])


class Seen(NamedTuple):
    """An observation in physical units. Counts are exact; what is squashed comes back to the float32's precision.

    Attributes:
        rlp, prefilling, queued: requests that decode, have their prompt processed, wait.
        backlog: prompt tokens still to process of all admitted requests; last_chunk: those of the last iteration.
        last_speculation: tokens verified per request in the last iteration; 0 before the first.
        running_share, kv_use: of slots and KV pages.
        mean_context, longest_context: tokens held by a decoding request.
        oldest_wait_s: since the arrival of the request that would be admitted next; last_s: of the last iteration.
        slack_s: mean over decoding requests of the seconds by which they are ahead of their pace.
        drift_pu, drift_fc_pim, drift_attention: observed over profiled time when last used.
        on_pu, on_pim, on_split: 1.0 where decode FC kernels ran there in the last iteration.
    """

    rlp: np.int64
    prefilling: np.int64
    queued: np.int64
    backlog: np.int64
    last_chunk: np.int64
    last_speculation: np.int64
    running_share: float
    kv_use: float
    mean_context: float
    longest_context: float
    oldest_wait_s: float
    last_s: float
    slack_s: float
    drift_pu: float
    drift_fc_pim: float
    drift_attention: float
    on_pu: float
    on_pim: float
    on_split: float


@inlined
def _value(e, column, observations):
    """A feature as it stands."""
    return np.float64(observations[e, column])


@inlined
def _below_one(e, column, observations):
    """A feature, less than 1."""
    return min(np.float64(observations[e, column]), ALMOST_ONE)


@inlined
def _open(e, column, observations):
    """A feature on an open scale, in units of what becomes 1/2."""
    x = _below_one(e, column, observations)
    return x / (1.0 - x)


@inlined
def _whole(x):
    return np.int64(np.rint(x))


@exposed
def see(e, observations, scalars):
    """The `Seen` of row e."""
    speculation = 0.0
    for k in range(len(SPECULATION_LENGTHS)):
        speculation += SPECULATION_LENGTHS[k] * _value(e, COLUMN.last_speculation_1 + k, observations)
    z = 2.0 * _value(e, COLUMN.tpot_slack_mean, observations) - 1.0
    limit = scalars[at.CONTEXT_LIMIT]
    return Seen(
        _whole(_RLP * _below_one(e, COLUMN.rlp, observations)),
        _whole(_PREFILLING * _below_one(e, COLUMN.prefilling, observations)),
        _whole(_QUEUED * _open(e, COLUMN.queued, observations)),
        _whole(_BACKLOG * _open(e, COLUMN.prefill_backlog, observations)),
        _whole(_CHUNK * _below_one(e, COLUMN.last_chunk, observations)),
        np.int64(speculation),
        _value(e, COLUMN.running_share, observations),
        _value(e, COLUMN.kv_use, observations),
        _open(e, COLUMN.mean_context, observations) * limit * _MEAN_CONTEXT,
        _open(e, COLUMN.longest_context, observations) * limit * _LONGEST_CONTEXT,
        _open(e, COLUMN.oldest_wait, observations) * scalars[at.TTFT_S],
        _open(e, COLUMN.last_time, observations) * scalars[at.REFERENCE_S],
        _SLACK * scalars[at.TPOT_S] * z / max(1.0 - abs(z), 1.0 - ALMOST_ONE),
        np.exp2(_open(e, COLUMN.drift_pu, observations)),
        np.exp2(_open(e, COLUMN.drift_pu + 1, observations)),
        np.exp2(_open(e, COLUMN.drift_pu + 2, observations)),
        _value(e, COLUMN.last_fc_pu, observations),
        _value(e, COLUMN.last_fc_pu + 1, observations),
        _value(e, COLUMN.last_fc_pu + 2, observations),
    )


@inlined
def _rate(gained, k):
    """The chance of a draft at which so many tokens are gained with `SPECULATION_LENGTHS[k + 1]` verified."""
    last = _RATES.shape[0] - 1
    if gained >= _GAINED[k, last]:
        return _RATES[last]
    if gained < _GAINED[k, 0]:
        return _RATES[0]
    low = 0
    high = last
    while high - low > 1:
        middle = (low + high) // 2
        if gained >= _GAINED[k, middle]:
            low = middle
        else:
            high = middle
    if gained == _GAINED[k, low]:
        return _RATES[low]
    slope = (_RATES[low + 1] - _RATES[low]) / (_GAINED[k, low + 1] - _GAINED[k, low])
    return slope * (gained - _GAINED[k, low]) + _RATES[low]


@inlined
def seen_acceptance(e, observations):
    """Chance that a drafted token is accepted, from the moving averages of tokens gained; NaN where none was.

    If each draft passes with chance a, t verified tokens advance a request by (1 - a^t) / (1 - a), which is
    inverted for every length tried; those are averaged by drafted tokens.
    """
    total = 0.0
    weighted = 0.0
    for k in range(len(_GAINED_FULL)):
        gained = _GAINED_FULL[k] * _below_one(e, COLUMN.tokens_at_2 + k, observations)
        weight = SPECULATION_LENGTHS[k + 1] - 1.0 if gained > 0.0 else 0.0
        weighted += weight * _rate(gained, k)
        total += weight
    return weighted / max(total, 1.0) if total > 0.0 else np.nan


@unlocked
def read(observations, scalars, out):
    """Every row's `Seen` and then its acceptance into `out`, float64 [num_envs, len(Seen) + 1]."""
    for e in range(observations.shape[0]):
        seen = see(e, observations, scalars)
        out[e, 0], out[e, 1], out[e, 2], out[e, 3] = seen.rlp, seen.prefilling, seen.queued, seen.backlog
        out[e, 4], out[e, 5] = seen.last_chunk, seen.last_speculation
        out[e, 6], out[e, 7] = seen.running_share, seen.kv_use
        out[e, 8], out[e, 9] = seen.mean_context, seen.longest_context
        out[e, 10], out[e, 11], out[e, 12] = seen.oldest_wait_s, seen.last_s, seen.slack_s
        out[e, 13], out[e, 14], out[e, 15] = seen.drift_pu, seen.drift_fc_pim, seen.drift_attention
        out[e, 16], out[e, 17], out[e, 18] = seen.on_pu, seen.on_pim, seen.on_split
        out[e, 19] = seen_acceptance(e, observations)
