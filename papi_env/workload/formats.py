"""How the numbers of a model are stored: bits of an element, and the scales that groups of elements share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from papi_env.definition import Definition
from papi_env.errors import lookup
from papi_env.quantities import Count, Number


class _Elements(NamedTuple):
    """Bits of an element, and by default the elements of a group (0: no scales) and the bytes of its scale."""

    bits: int
    group_size: int = 0
    scale_bytes: float = 0.0


# Scales of whole tensors or channels of 8-bit formats are left out: a few bytes in thousands. INT4: groups of 128 with
# an FP16 scale, as GPTQ (Frantar et al. 2023) and AWQ (Lin et al. 2024) use them; MXFP4: an 8-bit exponent for 32
# elements (OCP Microscaling Formats 1.0, section 5.2).
ELEMENTS: Mapping[str, _Elements] = {
    "fp16": _Elements(16),
    "bf16": _Elements(16),
    "fp8": _Elements(8),
    "int8": _Elements(8),
    "int4": _Elements(4, 128, 2.0),
    "mxfp4": _Elements(4, 32, 1.0),
}
ElementName = Literal["fp16", "bf16", "fp8", "int8", "int4", "mxfp4"]


class ElementFormat(Definition):
    """The format of weights, activations, or keys and values; a name alone, such as "fp8", means its usual groups.

    `group_size` elements share `scale_bytes` of scale (and zero point, where there is one).
    """

    elements: ElementName = "fp16"
    group_size: Count | None = Field(
        None, ge=8, le=1 << 24, description="as usual for the elements if absent"
    )
    scale_bytes: Number | None = Field(
        None,
        ge=0,
        le=16,
        description="as usual for the elements if absent; 2 with a group_size where those have none",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"elements": value} if isinstance(value, str) else value

    @field_validator("elements", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        lookup("element format", value, ELEMENTS)
        return value

    @model_validator(mode="after")
    def _scales(self) -> ElementFormat:
        if self.scale_bytes is not None and not self._group:
            raise ValueError(f"scale_bytes {self.scale_bytes} without a group_size")
        return self

    @property
    def _group(self) -> int:
        return ELEMENTS[self.elements].group_size if self.group_size is None else self.group_size

    @property
    def bytes_per_element(self) -> float:
        """Bytes of an element with its part of the scales."""
        found = ELEMENTS[self.elements]
        if not self._group:
            return found.bits / 8
        scale = (found.scale_bytes or 2.0) if self.scale_bytes is None else self.scale_bytes
        return found.bits / 8 + scale / self._group


FP16 = ElementFormat()
