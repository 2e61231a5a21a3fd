"""What a serving scenario says: arrivals, objectives, speculation, drift, and which effects are on.

Every effect of continuous batching can be switched off; with all of them off, requests that arrive together
and one fixed speculation length, an episode is a static batch.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from papi_env.definition import Definition
from papi_env.errors import ConfigurationError, lookup
from papi_env.quantities import (
    Count,
    Number,
    OverheadSeconds,
    Share,
    Slowdown,
    SpanSeconds,
    Tokens,
    Truth,
)
from papi_env.workload.arrivals import Arrivals
from papi_env.workload.heat import Heat
from papi_env.workload.lengths import ContextPolicy
from papi_env.workload.objectives import Objectives as Objectives
from papi_env.workload.requests import Lengths
from papi_env.workload.service import Service
from papi_env.workload.transformer import Transformer

# Concurrent requests of a preset, vLLM's default `max_num_seqs`, and the most of any scenario, vLLM's default on
# cards of 80 GB and more.
MAX_RUNNING = 256
MOST_RUNNING = 1024
# Tokens verified per request that a policy may choose.
SPECULATION_LENGTHS = (1, 2, 4, 8)
MAX_DRAFTED = SPECULATION_LENGTHS[-1] - 1
# vLLM (Kwon et al., SOSP 2023): KV caches in pages of 16 tokens, of which 1 % stay free at admission. Other sizes are
# powers of two, as in vLLM, so that pages are counted by shifting.
PAGE_TOKENS = 16
MAX_PAGE_TOKENS = 1024
WATERMARK = 0.01
# Sarathi-Serve (Agrawal et al., OSDI 2024): a chunk of 512 prompt tokens. At most as vLLM's default
# `max_num_batched_tokens` on cards of 80 GB and more, which budgets of decode and prompt tokens may exceed.
CHUNK_TOKENS = 512
MOST_CHUNK_TOKENS = 8192
MOST_BUDGET = 16384

# Small models of the LLaMA and OPT families used to draft (SpecInfer, ASPLOS 2024, drafts with the first and
# OPT-125M): layers, hidden, heads, feed-forward.
DRAFTS = {
    "llama-160m": Transformer(
        name="llama-160m", layers=12, hidden=768, heads=12, feed_forward=3072, gated=True, context_limit=2048
    ),
    "opt-125m": Transformer(
        name="opt-125m", layers=12, hidden=768, heads=12, feed_forward=3072, context_limit=2048
    ),
}

# Chance that a drafted token is accepted, given that those before it were, at draft positions 1..7: first and
# last value measured with small models, a straight line between them (chosen; only the ends are known).
_ENDS = {
    "writing": (0.64, 0.64),
    "questions": (0.635, 0.635),
    "code": (0.84, 0.74),
    "maths": (0.84, 0.70),
    "tools": (0.73, 0.53),
}
ACCEPTANCE = {
    name: tuple(first + (last - first) * i / (MAX_DRAFTED - 1) for i in range(MAX_DRAFTED))
    for name, (first, last) in _ENDS.items()
}
REQUEST_CLASSES = tuple(ACCEPTANCE)


class Speculation(Definition):
    """Drafting: who drafts, and how often drafted tokens are accepted.

    `classes` gives the shares of request classes (normalised); `acceptance` overrides the measured rates with
    one list per class, by draft position (the last value goes on). A policy sees what was accepted, no rates.
    """

    draft: str = "llama-160m"
    classes: dict[str, Number] = Field({"writing": 1.0})
    acceptance: dict[str, tuple[Number, ...]] = Field({})
    # Kernel launches of one layer of the draft model. chosen: 10 us; range 0-30 (AttAcc has 22 us a layer for
    # norms and activations alone; CUDA graphs save most of the launches).
    draft_layer_overhead_s: OverheadSeconds = Field(10e-6, ge=0, le=1e-3)

    @model_validator(mode="after")
    def _known(self) -> Speculation:
        lookup("draft model", self.draft, DRAFTS)
        known = {**ACCEPTANCE, **self.acceptance}
        if not self.classes or len(self.classes) > 16:
            raise ValueError(f"{len(self.classes)} request classes, expected 1 to 16")
        for name, share in self.classes.items():
            lookup("request class", name, known)
            if share < 0:
                raise ValueError(f"share of class {name!r} is {share}, expected at least 0")
        if not sum(self.classes.values()) > 0:
            raise ValueError("shares of request classes are all 0")
        for name, rates in self.acceptance.items():
            if not rates or any(not 0 <= rate <= 1 for rate in rates):
                raise ValueError(f"acceptance of class {name!r} is {rates}, expected rates from 0 to 1")
        return self

    def rates(self) -> dict[str, tuple[float, ...]]:
        """Acceptance of every class of this scenario at draft positions 1..7."""
        known = {**ACCEPTANCE, **self.acceptance}
        return {
            name: tuple(known[name][min(i, len(known[name]) - 1)] for i in range(MAX_DRAFTED))
            for name in self.classes
        }


class Drift(Definition):
    """True times over profiled ones: a factor per unit that wanders slowly between two bounds.

    The logarithm of the factor is a smooth noise with a new level every `period_s` of simulated time, uniform
    within [0, log(worst)]: a throttled or contended unit is slower than its profile, never faster.
    chosen: a factor of 1.6 over 20 s (thermal throttling of GPUs halves clocks within seconds to minutes;
    DRAM refresh doubles above 85 C); ranges 1-3 and 1-600 s.
    """

    period_s: SpanSeconds = Field(20.0, gt=0, le=1e6)
    pu: Slowdown = Field(1.6, ge=1, le=10)
    fc_pim: Slowdown = Field(1.6, ge=1, le=10)
    attn_pim: Slowdown = Field(1.6, ge=1, le=10)


class Serving(Definition):
    """Continuous batching of one model on one system.

    Effects, each with its switch: `prefill` (prompts are processed in chunks before the first token; off:
    prompts arrive processed), `paging` (KV pages limit admission and cause preemption by recomputation; off:
    memory is unbounded), `draft_cost`, `switching` (mode switches of the FC-PIM stacks), `drift` and `heat`
    (absent: none), `dual_row_buffers` (PU reads and PIM work at once, NeuPIMs, ASPLOS 2024), `decision_s`.

    Two orders of work. Without `token_budget` as Sarathi-Serve: whoever fits is admitted first, and a chunk of
    `chunk_tokens` prompt tokens runs beside the decode rows. With it as vLLM (`scheduler.py` of its engine v1): one
    budget for all tokens of an iteration, requests that run before those that wait, pages for what is processed, not
    for what will be (see `simulation.serving.budget`).
    """

    arrivals: Arrivals
    lengths: Lengths
    beyond_context: ContextPolicy = "refuse"
    objectives: Objectives
    speculation: Speculation = Speculation()
    drift: Drift | None = None
    # An episode ends after so many requests, or after so much simulated time; exactly one is given.
    requests: Count | None = Field(None, ge=1, le=1_000_000)
    horizon_s: SpanSeconds | None = Field(None, gt=0, le=1e6)
    max_running: Count = Field(128, ge=1, le=MOST_RUNNING)
    chunk_tokens: Tokens = Field(CHUNK_TOKENS, ge=1, le=MOST_CHUNK_TOKENS)
    # Tokens of an iteration, decode rows and prompts together (vLLM's `max_num_batched_tokens`).
    token_budget: Tokens | None = Field(None, ge=1, le=MOST_BUDGET)
    # Pages that a request gives back keep their content until they are taken, the page given back first is taken
    # first, and a preempted request that comes back finds what is left of its own (vLLM's prefix caching). Prefixes
    # that several requests share are not found.
    prefix_caching: Truth = False
    # KV tokens that a server was given; None: as many as fit beside the weights.
    kv_tokens: Tokens | None = Field(None, ge=1)
    # Attention of unequal contexts on the PUs: t(mean) + share (t(longest) - t(mean)).
    uneven_contexts: Share = Field(0.0, ge=0, le=1)
    # Take the lengths of a trace's own rows when the arrivals come from it.
    paired: Truth = True
    prefill: Truth = True
    paging: Truth = True
    # Tokens of a KV page. What attention costs is counted in the memory's own groups (`hardware.dram`), not in pages.
    page_tokens: Tokens = Field(PAGE_TOKENS, ge=1, le=MAX_PAGE_TOKENS)
    draft_cost: Truth = True
    switching: Truth = True
    dual_row_buffers: Truth = False
    # Time that a decision adds to every iteration.
    decision_s: OverheadSeconds = Field(0.0, ge=0, le=1)
    reward: Literal["attained", "on-time"] = "attained"
    # Stacks that warm up, are refreshed more and throttled; None: they are always cool.
    heat: Heat | None = None
    # Classes of requests and conversations; None: all are alike, and each stands alone.
    service: Service | None = None

    @field_validator("page_tokens")
    @classmethod
    def _power_of_two(cls, tokens: int) -> int:
        if tokens & (tokens - 1):
            raise ValueError(f"expected a power of two, such as {1 << (tokens.bit_length() - 1)}")
        return tokens

    @model_validator(mode="after")
    def _one_end(self) -> Serving:
        if (self.requests is None) == (self.horizon_s is None):
            raise ValueError("expected exactly one of requests and horizon_s")
        return self

    @model_validator(mode="after")
    def _budget(self) -> Serving:
        if self.kv_tokens is not None and not self.paging:
            raise ValueError("kv_tokens with paging = false: expected paging, or no kv_tokens")
        if self.token_budget is None:
            if self.prefix_caching:
                raise ValueError("prefix_caching is true without a token_budget: expected one, such as 2048")
            return self
        for name, value in (("prefill", self.prefill), ("paging", self.paging)):
            if not value:
                raise ValueError(f"token_budget with {name} = false: expected both on, or no token_budget")
        if self.chunk_tokens != CHUNK_TOKENS:
            raise ValueError(
                f"chunk_tokens is {self.chunk_tokens} with a token_budget, which says how long chunks are: "
                "expected one of the two"
            )
        if self.token_budget < self.max_running:
            raise ValueError(
                f"token_budget is {self.token_budget}, expected at least a token of each of max_running = "
                f"{self.max_running} requests"
            )
        return self

    @model_validator(mode="after")
    def _replayed(self) -> Serving:
        if not self.arrivals.conversations:
            return self
        if self.service is None:
            raise ValueError(
                "arrivals.conversations without service: expected classes that have a conversation each"
            )
        alone = [name for name, entry in self.service.classes.items() if entry.conversation is None]
        if alone:
            raise ValueError(
                f"arrivals.conversations, but service.classes.{alone[0]} has no conversation: expected one, from which "
                "policies know what to expect of its turns"
            )
        if not self.paired:
            raise ValueError(
                "arrivals.conversations with paired = false: expected the lengths of the trace's own rows"
            )
        return self

    @model_validator(mode="after")
    def _served(self) -> Serving:
        if self.service is None:
            return self
        if self.token_budget is not None:
            raise ValueError(
                f"token_budget is {self.token_budget} with service: classes of requests are served in chunks of "
                "chunk_tokens; expected one of the two"
            )
        known = {**ACCEPTANCE, **self.speculation.acceptance}
        for name, entry in self.service.classes.items():
            for text in entry.acceptance or {}:
                try:
                    lookup("kind of text", text, known)
                except ConfigurationError as error:
                    raise ValueError(f"service.classes.{name}.acceptance: {error}") from None
            # Prompts that arrive processed bring their keys with them, whatever is kept.
            for field, given in (
                ("conversation", entry.conversation is not None),
                ("shared_prefix", entry.shared_prefix > 0),
            ):
                if given and not self.prefill:
                    raise ValueError(
                        f"service.classes.{name}.{field} with prefill = false: prompts arrive processed, so that "
                        f"nothing is gained by what is kept; expected prefill = true, or no {field}"
                    )
        return self

    @property
    def most_prompt_rows(self) -> int:
        """Prompt tokens of an iteration at most."""
        return self.chunk_tokens if self.token_budget is None else self.token_budget

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Stored scenarios, and the hashes of those that a split holds, are older than these fields.
        data: dict[str, Any] = write(self)
        for name, default in _LEFT_OUT.items():
            if name in data and data[name] == default:
                del data[name]
        return data


# Fields that dumps say only where they are not these.
_LEFT_OUT: dict[str, Any] = {
    "page_tokens": PAGE_TOKENS,
    "token_budget": None,
    "prefix_caching": False,
    "kv_tokens": None,
    "uneven_contexts": 0.0,
    "heat": None,
    "service": None,
}
