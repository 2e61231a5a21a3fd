"""What rules of Serving-v0 make of observations: quantities in physical units, the chance that a draft passes.

The arithmetic is in `agents.serving.inside`, compiled; here it meets batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.policy import Observations
from agents.serving.inside.memory import NUM_MEMORY, know_acceptances
from agents.serving.inside.memory import PRIOR_ACCEPTANCE as PRIOR_ACCEPTANCE
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.seen import ALMOST_ONE, Seen, read

_COLUMN = {name: i for i, name in enumerate(at.OBSERVATION_NAMES)}
_SCALE = {feature.name: feature.scale for feature in at.FEATURES}
_SEEN = {name: k for k, name in enumerate(Seen._fields)}
IntArray = npt.NDArray[np.int64]


def as_compiled(array: npt.NDArray[Any], kind: type) -> npt.NDArray[Any]:
    """The array in the layout that compiled code takes: for another, or a read-only one, it would be compiled anew."""
    return np.require(array, kind, ("C", "W"))


@dataclass(frozen=True)
class ServingView:
    """A batch of observations in physical units, arrays [num_envs].

    `scalars` are the offline profile's (objectives, context limit, chunk size). Counts are exact; what is
    squashed comes back to the float32's precision.
    """

    observations: Observations
    scalars: FloatArray

    @cached_property
    def _seen(self) -> FloatArray:
        """`Seen` of every observation, and its acceptance; [num_envs, fields]."""
        observations = as_compiled(self.observations, np.float32)
        out = np.zeros((len(observations), len(Seen._fields) + 1))
        read(observations, self.scalars, out)
        return out

    def _column(self, name: str) -> FloatArray:
        return self._seen[:, _SEEN[name]]

    def _count(self, name: str) -> IntArray:
        return self._column(name).astype(np.int64)

    def feature(self, name: str) -> FloatArray:
        """A named feature as it stands, float64."""
        return self.observations[:, _COLUMN[name]].astype(np.float64)

    def quantity(self, name: str) -> FloatArray:
        """A named feature in its unit (see `papi_env.simulation.serving.state`), float64; always finite."""
        inverse = _SCALE[name].inverse
        assert inverse is not None
        return np.asarray(inverse(np.minimum(self.feature(name), ALMOST_ONE)))

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
        return self._count("backlog")

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
        return self._column("mean_context")

    @property
    def longest_context(self) -> FloatArray:
        """Tokens held by the decoding request that holds most, up to a group of the memory."""
        return self._column("longest_context")

    @property
    def oldest_wait_s(self) -> FloatArray:
        """Seconds since the arrival of the request that would be admitted next."""
        return self._column("oldest_wait_s")

    @property
    def slack_s(self) -> FloatArray:
        """Mean over decoding requests of the seconds by which they are ahead of their pace."""
        return self._column("slack_s")

    @property
    def drift(self) -> FloatArray:
        """Observed over profiled time of PUs, FC-PIM and Attn-PIM when last used, [num_envs, 3]."""
        first = _SEEN["drift_pu"]
        return self._seen[:, first : first + at.NUM_DRIFTING]

    @property
    def last_speculation(self) -> IntArray:
        """Tokens verified per request in the last iteration; 0 before the first."""
        return self._count("last_speculation")

    def acceptance(self) -> FloatArray:
        """Chance that a drafted token is accepted, from the moving averages of tokens gained; NaN where none was."""
        return self._seen[:, len(Seen._fields)]


class AcceptanceEstimate:
    """What a scheduler makes of the drafts it has seen, for each environment of a batch: see `memory`."""

    def __init__(self, num_envs: int) -> None:
        self.memory = np.zeros((num_envs, NUM_MEMORY))

    def update(self, view: ServingView, episode_start: npt.NDArray[np.bool_]) -> FloatArray:
        """Take the last iteration into account; the chance that a drafted token is accepted, [num_envs]."""
        self.memory[episode_start] = 0.0
        acceptance = np.zeros(len(self.memory))
        know_acceptances(as_compiled(view.observations, np.float32), view.scalars, self.memory, acceptance)
        return acceptance
