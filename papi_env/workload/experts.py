"""Mixtures of experts: what a decoder layer has instead of one feed-forward network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from papi_env.definition import Definition
from papi_env.quantities import Count, Number
from papi_env.workload.formats import ElementFormat


class Experts(Definition):
    """The experts of the layers that have them; a router sends every token to `active` of them.

    Shared experts see every token. `dense_layers` layers, usually the first, have one feed-forward network of the
    model's own width instead; which ones makes no difference to costs.

    `routing` says how tokens choose: `uniform`, or `zipf`, by which the expert of rank r is chosen in proportion to
    1 / r^exponent. `draws` says what a simulation makes of it: `expectation`, every layer of every iteration costs the
    mean over routings, or `keyed`, routings are drawn by a hash of seed, episode and iteration, the same for every
    policy. Continuous batching has `expectation` alone.
    """

    experts: Count = Field(ge=2, le=1 << 16)
    active: Count = Field(ge=1, le=1 << 16, description="experts of a token (top-k)")
    feed_forward: Count = Field(ge=1, le=1 << 20, description="width of one expert")
    shared: Count = Field(0, ge=0, le=1 << 10, description="experts that see every token")
    shared_feed_forward: Count | None = Field(
        None, ge=1, le=1 << 20, description="width of one of them; that of the other experts if absent"
    )
    dense_layers: Count = Field(0, ge=0, le=1000, description="layers without experts")
    weight_format: ElementFormat | None = Field(
        None, description="of the routed experts' weights; as the model's if absent"
    )
    routing: Literal["uniform", "zipf"] = "uniform"
    # chosen where asked for: 0.7, range 0-1.5; measured routings lie between uniform and that.
    exponent: Number | None = Field(None, ge=1e-3, le=4, description="of Zipf's law")
    draws: Literal["expectation", "keyed"] = "expectation"

    @model_validator(mode="after")
    def _consistent(self) -> Experts:
        if self.active > self.experts:
            raise ValueError(
                f"active {self.active} exceeds experts {self.experts}: a token has each at most once"
            )
        if self.shared_feed_forward is not None and not self.shared:
            raise ValueError(f"shared_feed_forward {self.shared_feed_forward} without shared experts")
        if (self.routing == "zipf") != (self.exponent is not None):
            raise ValueError(
                f"routing is {self.routing!r} and exponent {self.exponent}: expected routing = 'zipf' with an "
                "exponent, or neither"
            )
        return self

    @property
    def shared_width(self) -> int:
        """Width of all shared experts together, which run as one feed-forward network; 0 without."""
        return self.shared * (self.shared_feed_forward or self.feed_forward)
