"""By when a request is to be served."""

from __future__ import annotations

from pydantic import Field

from papi_env.definition import Definition
from papi_env.quantities import ObjectiveSeconds


class Objectives(Definition):
    """Latency objectives of a request: time to its first token, and mean time per output token after it."""

    ttft_s: ObjectiveSeconds = Field(gt=0, le=1e6)
    tpot_s: ObjectiveSeconds = Field(gt=0, le=1e6)
