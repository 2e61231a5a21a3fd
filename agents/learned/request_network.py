"""A network that sees requests, as a checkpoint describes it: names and shapes of its tensors.

How it reads and what it decides is compiled code, `agents.serving.inside.network`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from agents.learned.networks import Float32Array
from agents.serving.inside import network as layout
from papi_env.kernel import FloatArray
from papi_env.simulation.serving import state as at

_Traffic = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/]+$")]


class RequestNetwork(BaseModel):
    """What determines the names and shapes of its tensors: sizes that compiled code was written for.

    Attributes:
        network: tells it from one that reads an observation as a whole.
        machine, of_class: features that are read of the machine and of each class.
        summary: numbers that sum up all classes.
        hidden, adjusting: hidden units that weigh requests, and that adjust what profile-greedy weighs.
        traits: of a request, that a query weighs.
        adjusted: what is adjusted.
        traffics: that have weights of their own, as tuned rules have parameters for families.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    network: Literal["requests"] = "requests"
    machine: Literal[layout.NUM_MACHINE] = layout.NUM_MACHINE  # type: ignore[valid-type]
    of_class: Literal[layout.NUM_CLASS] = layout.NUM_CLASS  # type: ignore[valid-type]
    summary: Literal[layout.NUM_SUMMARY] = layout.NUM_SUMMARY  # type: ignore[valid-type]
    hidden: Literal[layout.NUM_HIDDEN] = layout.NUM_HIDDEN  # type: ignore[valid-type]
    adjusting: Literal[layout.NUM_GLOBAL_HIDDEN] = layout.NUM_GLOBAL_HIDDEN  # type: ignore[valid-type]
    traits: Literal[at.NUM_TRAITS] = at.NUM_TRAITS  # type: ignore[valid-type]
    adjusted: Literal[layout.NUM_ADJUSTED] = layout.NUM_ADJUSTED  # type: ignore[valid-type]

    traffics: Annotated[tuple[_Traffic, ...], Field(max_length=256, strict=False)] = ()

    @property
    def inputs(self) -> int:
        """Features of an observation, of which it reads some."""
        return len(at.OBSERVATION_NAMES_V1)

    @property
    def options(self) -> tuple[int, ...]:
        """Options of each choice."""
        return at.NVEC_V1

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by name, [outputs, inputs + 1]: the last of a row is its constant."""
        whole: dict[str, tuple[int, ...]] = dict(layout.TENSORS)
        return whole | {
            f"{traffic}/{name}": shape for traffic in self.traffics for name, shape in layout.TENSORS
        }

    def flat(self, weights: Mapping[str, Float32Array], traffic: str = "") -> FloatArray:
        """The tensors of a traffic, or those of all, one after the other, float64 [NUM_WEIGHTS], as code reads them."""
        own = f"{traffic}/" if traffic else ""
        return np.concatenate([weights[own + name].ravel() for name, _ in layout.TENSORS]).astype(np.float64)

    def split(self, weights: FloatArray, traffic: str = "") -> dict[str, Float32Array]:
        """The tensors that stand one after the other in `weights`, float32, named for a traffic or for all."""
        found, start = {}, 0
        for name, shape in layout.TENSORS:
            size = int(np.prod(shape))
            own = f"{traffic}/{name}" if traffic else name
            found[own] = weights[start : start + size].reshape(shape).astype(np.float32)
            start += size
        return found
