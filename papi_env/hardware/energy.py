"""Joules by cause: what dynamic energy is split into, everywhere in the same order."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from papi_env.kernel import FloatArray


@dataclass(frozen=True)
class Energy:
    """Joules by cause; static power is accounted over time by the system, links by the link.

    Attributes:
        activation: of DRAM rows.
        read: of columns, to the bank's edge.
        transfer: between banks and buffer die, or a GPU's memory and its cores.
        compute: of multiply-accumulates.
        background: what stacks draw while their banks work, above their idle power.
    """

    activation: FloatArray
    read: FloatArray
    transfer: FloatArray
    compute: FloatArray
    background: FloatArray

    @property
    def total(self) -> FloatArray:
        """Joules of all causes."""
        return np.asarray(sum(self._parts), dtype=np.float64)

    @property
    def by_cause(self) -> FloatArray:
        """Joules [..., NUM_CAUSES] in the order of `CAUSES`; none on links."""
        parts = self._parts
        if all(isinstance(part, float) for part in parts):
            return np.array([*parts, 0.0])  # tables ask for thousands of them
        return np.stack(np.broadcast_arrays(*map(_floats, parts), 0.0), axis=-1)

    @property
    def _parts(self) -> tuple[FloatArray, ...]:
        return self.activation, self.read, self.transfer, self.compute, self.background


def _floats(part: FloatArray) -> FloatArray:
    return np.asarray(part, dtype=np.float64)


# Those of kernels, then what crosses links, whatever it is: vectors, keys and values, partial sums.
CAUSES = (*(field.name for field in fields(Energy)), "link")
ACTIVATION, READ, TRANSFER, COMPUTE, BACKGROUND, LINK = range(6)
NUM_CAUSES = len(CAUSES)
# What each cause is, in words.
CAUSE_WORDS = {
    "activation": "joules of opening DRAM rows",
    "read": "joules of reading columns of open rows",
    "transfer": "joules of moving data in stacks, and between a GPU's memory and its cores",
    "compute": "joules of multiplying and adding",
    "background": "joules that stacks draw above idle while their banks work",
    "link": "joules of links: vectors, keys and values, partial sums",
}
