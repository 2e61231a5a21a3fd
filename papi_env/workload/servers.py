"""Serving on GPUs alone, as vLLM does: presets of a load that is a little more than the server can carry.

Rates and objectives follow from three measurements of the server itself by the rules of the other presets (`presets`):
1.2 times its capacity, 20 times the time to a first token and 10 times the time per further token of a request alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from papi_env.workload.arrivals import Arrivals
from papi_env.workload.presets import FAMILIES, TRAFFIC, rounded
from papi_env.workload.serving import MAX_RUNNING, Objectives, Serving, Speculation

FAMILY, TRAFFIC_NAME = "saturated", "conversation"
# vLLM's default `max_num_batched_tokens` of a server, below 80 GB a card.
TOKEN_BUDGET = 2048
# What unequal contexts cost attention: a share of the way from their mean to the longest, here and in replays.
# chosen: 0.02, with a look at the two replayed runs; range 0.016-0.042, as profiled on an RTX 4090 and an RTX PRO 6000
# (LLMServingSim's skew tables). A replay's mean TPOT moves by 0.3 to 0.6 % for each 0.01.
UNEVEN_CONTEXTS = 0.02


class Server(NamedTuple):
    """A preset: names of its system and model, and what is served.

    Attributes:
        capacity_rps: requests a second that it completes from an endless queue of conversations, in the middle half
            of 4000; ttft_s, tpot_s: of requests that come one at a time. Measured on the scenario with these arrivals,
            admitting all, without speculation.
    """

    system: str
    model: str
    description: str
    capacity_rps: float
    ttft_s: float
    tpot_s: float
    kv_tokens: int | None = None

    def serving(self) -> Serving:
        """What is served."""
        family = FAMILIES[FAMILY]
        rate = rounded(family.load * self.capacity_rps)
        return Serving(
            arrivals=Arrivals(process="poisson", rate_per_s=rate),
            lengths=TRAFFIC[TRAFFIC_NAME].lengths,
            objectives=Objectives(
                ttft_s=rounded(family.ttft_multiple * self.ttft_s),
                tpot_s=rounded(family.tpot_multiple * self.tpot_s),
            ),
            speculation=Speculation(classes=dict(TRAFFIC[TRAFFIC_NAME].classes)),
            horizon_s=rounded(family.requests / rate, 2),
            max_running=MAX_RUNNING,
            token_budget=TOKEN_BUDGET,
            prefix_caching=True,
            kv_tokens=self.kv_tokens,
            uneven_contexts=UNEVEN_CONTEXTS,
        )


SERVERS: Mapping[str, Server] = {
    "gpu-server/llama-3.1-8b": Server(
        "rtx-4090",
        "llama-3.1-8b",
        "an RTX 4090 serves conversations as vLLM does: KV caches run out, and requests are preempted",
        capacity_rps=3.684,
        ttft_s=0.1328,
        tpot_s=0.0172,
        # What vLLM left of 24 GB on such a card (a run of LLMServingSim's repository).
        kv_tokens=41_408,
    ),
    "gpu-server/qwen3-32b": Server(
        "rtx-pro-6000-x2",
        "qwen3-32b",
        "two RTX PRO 6000 serve conversations as vLLM does: every place is taken before the memory is",
        capacity_rps=5.502,
        ttft_s=0.1593,
        tpot_s=0.02511,
    ),
}
