"""What rules of Serving-v0 make of observations: quantities in physical units, the chance that a draft passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agents.policy import Observations, unsquash
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.workload.serving import SPECULATION_LENGTHS

_COLUMN = {name: i for i, name in enumerate(at.OBSERVATION_NAMES)}
_SCALE = {feature.name: feature.scale for feature in at.FEATURES}
# The largest float32 below 1: what an open range is squashed to at most.
_ALMOST_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ServingView:
    """A batch of observations in physical units, arrays [num_envs].

    `scalars` are the offline profile's (objectives, context limit, chunk size). Counts are exact; what is
    squashed comes back to the float32's precision.
    """

    observations: Observations
    scalars: FloatArray

    def feature(self, name: str) -> FloatArray:
        """A named feature as it stands, float64."""
        return self.observations[:, _COLUMN[name]].astype(np.float64)

    def quantity(self, name: str) -> FloatArray:
        """A named feature in its unit (see `papi_env.simulation.serving.state`), float64; always finite."""
        inverse = _SCALE[name].inverse
        assert inverse is not None
        return np.asarray(inverse(np.minimum(self.feature(name), _ALMOST_ONE)))

    def _count(self, name: str) -> IntArray:
        return np.rint(self.quantity(name)).astype(np.int64)

    def _tokens(self, name: str) -> FloatArray:
        """A context, observed in % of the limit."""
        open_scale = unsquash(np.minimum(self.feature(name), _ALMOST_ONE))
        return open_scale * self.scalars[at.CONTEXT_LIMIT] * (_SCALE[name].full / 100)

    @property
    def rlp(self) -> IntArray:
        """Requests decoding."""
        return self._count("rlp")

    @property
    def prefilling(self) -> IntArray:
        """Admitted requests whose prompt is not yet processed."""
        return self._count("prefilling")

    @property
    def queued(self) -> IntArray:
        """Requests that wait for admission."""
        return self._count("queued")

    @property
    def backlog(self) -> IntArray:
        """Prompt tokens still to process of all admitted requests."""
        return self._count("prefill_backlog")

    @property
    def coming_chunk(self) -> IntArray:
        """Prompt tokens of the coming iteration if whoever waits is admitted; a full chunk where anyone does.

        Prompt lengths of the queue are not observed, so a queue counts as a full chunk.
        """
        chunk = int(self.scalars[at.CHUNK]) if self.scalars[at.PREFILL_ON] > 0 else 0
        return np.where(self.queued > 0, chunk, np.minimum(self.backlog, chunk))

    @property
    def mean_context(self) -> FloatArray:
        """Tokens held by a decoding request, on average."""
        return self._tokens("mean_context")

    @property
    def longest_context(self) -> FloatArray:
        """Tokens held by the decoding request that holds most, up to a group of the memory."""
        return self._tokens("longest_context")

    @property
    def oldest_wait_s(self) -> FloatArray:
        """Seconds since the arrival of the request that would be admitted next."""
        return self.quantity("oldest_wait") * self.scalars[at.TTFT_S]

    @property
    def slack_s(self) -> FloatArray:
        """Mean over decoding requests of the seconds by which they are ahead of their pace."""
        z = 2 * self.feature("tpot_slack_mean") - 1
        return (
            _SCALE["tpot_slack_mean"].full
            * self.scalars[at.TPOT_S]
            * z
            / np.maximum(1 - np.abs(z), 1 - _ALMOST_ONE)
        )

    @property
    def drift(self) -> FloatArray:
        """Observed over profiled time of PUs, FC-PIM and Attn-PIM when last used, [num_envs, 3]."""
        return np.stack([self.quantity(f"drift_{unit}") for unit in at.DRIFTING], axis=1)

    @property
    def last_speculation(self) -> IntArray:
        """Tokens verified per request in the last iteration; 0 before the first."""
        return np.sum(
            [t * self.feature(f"last_speculation_{t}") for t in SPECULATION_LENGTHS], axis=0
        ).astype(int)

    def acceptance(self) -> FloatArray:
        """Chance that a drafted token is accepted, from the moving averages of tokens gained; NaN where none was.

        If each draft passes with chance a, t verified tokens advance a request by (1 - a^t) / (1 - a), which
        is inverted for every length tried; those are averaged by drafted tokens.
        """
        gained = np.stack([self.quantity(f"tokens_at_{t}") for t in SPECULATION_LENGTHS[1:]], axis=1)
        weights = np.where(gained > 0, np.array(SPECULATION_LENGTHS[1:]) - 1.0, 0.0)
        rates = np.stack([np.interp(gained[:, k], _GAINED[t], _RATES) for k, t in enumerate(_GAINED)], axis=1)
        total = weights.sum(axis=1)
        return np.where(total > 0, (weights * rates).sum(axis=1) / np.maximum(total, 1.0), np.nan)


# Tokens gained per request and iteration at each speculation length from 2 on, on a grid of acceptances.
_RATES = np.linspace(0.0, 1.0, 201)
_GAINED = {t: sum(_RATES**j for j in range(t)) for t in SPECULATION_LENGTHS[1:]}


# Acceptance before anything was drafted: the measured rates of small models lie between 0.5 and 0.84. It counts
# as much as so many drafted tokens. chosen: 64, a few iterations; range 8-512.
PRIOR_ACCEPTANCE = 0.65
PRIOR_DRAFTS = 64.0
# Share of the evidence that is forgotten in an iteration, so that drafting is tried again some time after it
# did not pay: requests change. chosen: 1/128, some seconds; range 1/1024-1/16.
FORGETTING = 1.0 / 128.0


class AcceptanceEstimate:
    """What a scheduler makes of the drafts it has seen, for each environment of a batch.

    The moving averages of the observation, weighed by how many tokens were drafted lately against a prior:
    a single early rejection does not end drafting for good.
    """

    def __init__(self, num_envs: int) -> None:
        self._evidence = np.zeros(num_envs)
        self._rlp = np.zeros(num_envs)

    def update(self, view: ServingView, episode_start: npt.NDArray[np.bool_]) -> FloatArray:
        """Take the last iteration into account; the chance that a drafted token is accepted, [num_envs]."""
        drafted = np.maximum(view.last_speculation - 1, 0) * self._rlp
        self._evidence = np.where(episode_start, 0.0, (1 - FORGETTING) * self._evidence + drafted)
        self._rlp = view.rlp.astype(np.float64)
        seen = np.nan_to_num(view.acceptance(), nan=PRIOR_ACCEPTANCE)
        return (PRIOR_DRAFTS * PRIOR_ACCEPTANCE + self._evidence * seen) / (PRIOR_DRAFTS + self._evidence)

    def repeated(self, env: int, copies: int) -> AcceptanceEstimate:
        """What is known of environment `env`, for so many copies of it."""
        twin = AcceptanceEstimate(copies)
        twin._evidence[:], twin._rlp[:] = self._evidence[env], self._rlp[env]
        return twin
