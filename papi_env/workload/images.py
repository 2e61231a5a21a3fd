"""What images a scenario encodes, and with which network."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from papi_env.definition import Definition
from papi_env.quantities import Count, Truth, Whole
from papi_env.registry import resolve
from papi_env.workload.vision.network import (
    REPMLPNETS,
    RepMLPNet,
    get_repmlpnet,
    names_a_file,
    weight_bytes,
)

MAX_IMAGES = 128  # of one encode: as many as requests in a batch
MAX_STAGES = 4  # of a network that a scheduler meets: observations have a place for each


class Images(Definition):
    """What a RepMLPNet encodes.

    Without a workload, an episode is a stream of `encodes` encodes, each of as many images as one of
    `batch_sizes`, drawn evenly (a size named twice comes twice as often). With a workload, each request of
    the batch brings `per_request` images; they are encoded together before decoding, and the positions of
    the last stage join the request's prompt (the projection between the two models is left out).
    `network` is a registered name, the path of a .toml file (`load_repmlpnet`), or a table of its fields.
    `image_size` is the side of an image in pixels, the network's own if absent; `reparameterized` is the
    form after Locality Injection, else the training form with its local perceptron.
    """

    network: RepMLPNet
    image_size: Count | None = Field(None, ge=1, le=1 << 14)
    batch_sizes: tuple[Whole, ...] | None = None
    encodes: Count | None = Field(None, ge=1, le=4096)
    per_request: Count | None = Field(None, ge=1, le=MAX_IMAGES)
    reparameterized: Truth = True

    @field_validator("network", mode="before")
    @classmethod
    def _network(cls, value: Any) -> Any:
        return get_repmlpnet(value) if names_a_file(value) else resolve(value, REPMLPNETS, "RepMLPNet")

    @model_validator(mode="after")
    def _usable(self) -> Images:
        if self.network.stages > MAX_STAGES:
            raise ValueError(
                f"{self.network.name} has {self.network.stages} stages, expected at most {MAX_STAGES}"
            )
        self.network.positions(self.image_size)  # refuses sizes that the partitions do not divide
        stream = self.batch_sizes is not None or self.encodes is not None
        if stream == (self.per_request is not None):
            raise ValueError("expected batch_sizes with encodes (a stream), or per_request (with a workload)")
        if stream and (not self.batch_sizes or self.encodes is None):
            raise ValueError("a stream needs both batch_sizes, at least one, and encodes")
        for size in self.batch_sizes or ():
            if not 1 <= size <= MAX_IMAGES:
                raise ValueError(f"batch size {size} is outside 1..{MAX_IMAGES} images")
        return self

    @property
    def tokens_per_request(self) -> int:
        """Positions that the images of a request add to its prompt; 0 in a stream."""
        return (self.per_request or 0) * self.network.positions(self.image_size)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the network's parameters in its form, FP16."""
        return weight_bytes(self.network, self.reparameterized)
