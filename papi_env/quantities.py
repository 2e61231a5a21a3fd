"""The one table of quantities that users write: unit, plausible range, usual mistakes; and types for fields.

A field is annotated with one of the types at the end of this module. Its unit, its range and the hint of an
error all come from the table; `Field(ge=..., le=...)` narrows the range of one field. Ranges are generous: what a
sweep or a what-if machine may ask for is inside, what is a billion times too small or too large is outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

# The type of an error whose message says by itself what was found and what was expected.
SAYS_ALL = "found_and_expected"


@dataclass(frozen=True)
class Quantity:
    """A kind of quantity, and the check of a field of that kind when it stands in the field's `Annotated`.

    Attributes:
        unit: in words, as in "expected B/s from 1e+09 to 1e+15"; empty for pure numbers.
        low, high: the plausible range; infinite where the model itself judges.
        zero: whether 0 is meant too, though below `low`: an effect that is switched off.
        whole: whether it counts something.
        typical: what a hint should come closest to.
        mistakes: units that are written instead, with what one of them is in `unit`.
        above, below: whether `low` and `high` themselves are outside.
    """

    unit: str
    low: float = -math.inf
    high: float = math.inf
    zero: bool = False
    whole: bool = False
    typical: float = 1.0
    mistakes: tuple[tuple[str, float], ...] = ()
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is in the range."""
        if self.zero and value == 0:
            return True
        low = value > self.low if self.above else value >= self.low
        return low and (value < self.high if self.below else value <= self.high)

    def expected(self) -> str:
        """Unit and range in words."""
        words = f"a whole number of {self.unit}" if self.unit else "a whole number"
        words = words if self.whole else self.unit or "a number"
        zero = ", 0 or" if self.zero and self.low > 0 else ""
        if math.isfinite(self.low):
            words += f"{zero} {'above' if self.above else 'from'} {_shown(self.low)}"
        if math.isfinite(self.high):
            words += f" {'and below' if self.below else 'to'} {_shown(self.high)}"
        return words

    def _kind(self, number: str) -> str:
        """What is said where not even `number` was found."""
        plain = not self.unit and not self.whole
        return number + self.expected().removeprefix("a number") if plain else f"{number}: {self.expected()}"

    def hint(self, value: float) -> str:
        """What may have been meant by a number out of range, or nothing: that nearest to the typical value."""
        if abs(value) > 1e200:  # beyond what a unit explains, and an integer of any length
            return ""
        sizes = [(value * size, name) for name, size in self.mistakes]
        meant = [(right, name) for right, name in sizes if right > 0 and self.holds(right)]
        if not meant:
            return ""
        right, name = min(meant, key=lambda item: abs(math.log(item[0] / self.typical)))
        return f" (did you mean {_shown(right)}, that is {_shown(value)} {name}?)"

    def refusal(self, value: Any) -> str | None:
        """What is wrong with a value, whose numpy type does not matter; None if nothing."""
        value = _plain(value)
        if isinstance(value, bool):
            return f"found the truth value {value}, expected {self._kind('a number')}"
        if isinstance(value, (str, bytes)):
            return f"found the text {_short(value)}, expected {self._kind('a number')}"
        number = _number(value)
        if number is None:
            return f"found {_short(value)}, expected {self._kind('a number')}"
        if isinstance(number, float) and not math.isfinite(number):
            return f"found {number}, expected {self._kind('a finite number')}"
        if not self.holds(number):
            return f"found {_short(value)}, expected {self.expected()}{self.hint(number)}"
        if self.whole and number % 1:
            return f"found {_short(value)}, expected {self.expected()}"
        return None

    def narrowed(self, limits: Iterable[Any]) -> Quantity:
        """The quantity within the limits that a field states besides (`annotated_types`)."""
        found = self
        for limit in limits:
            for name, bound, mark in (("ge", "low", "above"), ("gt", "low", "above")):
                value = getattr(limit, name, None)
                if value is None:
                    continue
                found = replace(found, zero=found.zero and (value < 0 or (value == 0 and name == "ge")))
                if value > found.low or (value == found.low and name == "gt"):
                    found = replace(found, **{bound: value, mark: name == "gt"})
            for name, bound, mark in (("le", "high", "below"), ("lt", "high", "below")):
                value = getattr(limit, name, None)
                if value is not None and (value < found.high or (value == found.high and name == "lt")):
                    found = replace(found, **{bound: value, mark: name == "lt"})
        return found

    def _check(self, value: Any) -> Any:
        wrong = self.refusal(value)
        if wrong is not None:
            raise PydanticCustomError(SAYS_ALL, wrong)
        return _plain(value)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The field's own check, after that of the quantity."""
        return core_schema.no_info_before_validator_function(self._check, handler(source))


@dataclass(frozen=True)
class TruthValue:
    """The check of a field that is true or false: neither text nor a number says so."""

    @staticmethod
    def _check(value: Any) -> Any:
        plain = _plain(value)
        if not isinstance(plain, bool):
            what = "the text " if isinstance(plain, (str, bytes)) else ""
            message = f"found {what}{_short(plain)}, expected a boolean, true or false"
            raise PydanticCustomError(SAYS_ALL, message)
        return plain

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The field's own check, after that of the truth value."""
        return core_schema.no_info_before_validator_function(self._check, handler(source))


def _plain(value: Any) -> Any:
    """Python's own number or truth value for one of numpy."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def _number(value: Any) -> float | None:
    """A number as Python compares it, or None for what is none."""
    if isinstance(value, (int, float)):
        return value
    # Other kinds of numbers, such as fractions and decimals.
    if value is None or isinstance(value, (np.ndarray, complex)) or not hasattr(value, "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _shown(value: float) -> str:
    if isinstance(value, int) or value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.10g}" if isinstance(value, float) else str(value)
    digits, exponent = f"{value:.6e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # more digits than Python writes
        return "an integer of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


_SECONDS = (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3))
_BANDWIDTHS = (("GB/s", 1e9), ("TB/s", 1e12), ("MB/s", 1e6))

# chosen: three and more orders of magnitude to both sides of what is built today, where a unit has prefixes.
QUANTITIES: Mapping[str, Quantity] = {
    "memory bandwidth": Quantity("B/s", 1e9, 1e15, typical=2e12, mistakes=_BANDWIDTHS),
    "link bandwidth": Quantity("B/s", 1e6, 1e15, typical=1e11, mistakes=_BANDWIDTHS),
    "compute": Quantity(
        "FLOP/s",
        1e9,
        1e18,
        typical=3e14,
        mistakes=(("TFLOP/s", 1e12), ("GFLOP/s", 1e9), ("PFLOP/s", 1e15)),
    ),
    "memory": Quantity(
        "bytes", 10**6, 10**15, whole=True, typical=8e10, mistakes=(("GB", 1e9), ("TB", 1e12), ("MB", 1e6))
    ),
    "latency": Quantity("seconds", 1e-12, 0.01, zero=True, typical=1e-6, mistakes=_SECONDS),
    "overhead": Quantity("seconds", 1e-12, 1.0, zero=True, typical=1e-6, mistakes=_SECONDS),
    "objective": Quantity("seconds", 1e-6, 1e6, typical=0.3, mistakes=_SECONDS),
    "time span": Quantity("seconds", 1e-6, 1e9, typical=60.0, mistakes=_SECONDS),
    "start": Quantity("seconds", 1e-9, 1e9, zero=True, typical=60.0, mistakes=_SECONDS),
    "arrival rate": Quantity(
        "requests/s",
        1e-6,
        1e6,
        typical=5.0,
        mistakes=(("requests an hour", 1 / 3600), ("requests a ms", 1e3)),
    ),
    "power": Quantity("W", 1e-3, 1e5, zero=True, typical=100.0, mistakes=(("mW", 1e-3), ("kW", 1e3))),
    # Up to what stands for no limit at all.
    "power limit": Quantity("W", 1e-3, 1e9, typical=100.0, mistakes=(("mW", 1e-3), ("kW", 1e3))),
    "energy of a byte": Quantity(
        "J/B",
        1e-18,
        1e-8,
        zero=True,
        typical=1e-11,
        mistakes=(("pJ/B", 1e-12), ("nJ/B", 1e-9), ("fJ/B", 1e-15)),
    ),
    "energy of a MAC": Quantity(
        "J per MAC",
        1e-18,
        1e-8,
        zero=True,
        typical=1e-12,
        mistakes=(("pJ", 1e-12), ("nJ", 1e-9), ("fJ", 1e-15)),
    ),
    "energy of a row": Quantity(
        "J", 1e-15, 1e-4, zero=True, typical=1e-9, mistakes=(("pJ", 1e-12), ("nJ", 1e-9))
    ),
    "energy weight": Quantity("seconds or tokens per joule", 1e-8, 1e6, zero=True),
    "area": Quantity("mm2", 1e-3, 1e4, typical=1.0),
    # From freezing coolant to where silicon fails.
    "temperature": Quantity("degrees Celsius", -40.0, 200.0, typical=85.0),
    "thermal resistance": Quantity("K/W", 1e-3, 1e3, typical=0.5, mistakes=(("K/kW", 1e-3), ("K/mW", 1e3))),
    "heat capacity": Quantity("J/K", 1e-3, 1e5, typical=1.0, mistakes=(("mJ/K", 1e-3), ("kJ/K", 1e3))),
    "clocks": Quantity("clocks", 1.0, 1e3),
    "FPUs": Quantity("FPUs per bank", 1 / 1024, 64.0),
    "efficiency": Quantity("a share of the peak", 1e-6, 1.0),
    # Without units.
    "share": Quantity("a share", 0.0, 1.0),
    "slowdown": Quantity("times as long as profiled", 1.0, 10.0),
    "ratio": Quantity("", 1e-6, 1e6),
    "count": Quantity("", 0, 10**9, whole=True),
    "tokens": Quantity("tokens", 1, 10**7, whole=True),
    # Whose range the models judge themselves, item by item.
    "number": Quantity(""),
    "whole number": Quantity("", whole=True),
}

MemoryBandwidth: TypeAlias = Annotated[float, QUANTITIES["memory bandwidth"]]
LinkBandwidth: TypeAlias = Annotated[float, QUANTITIES["link bandwidth"]]
FlopRate: TypeAlias = Annotated[float, QUANTITIES["compute"]]
MemoryBytes: TypeAlias = Annotated[int, QUANTITIES["memory"]]
LatencySeconds: TypeAlias = Annotated[float, QUANTITIES["latency"]]
OverheadSeconds: TypeAlias = Annotated[float, QUANTITIES["overhead"]]
ObjectiveSeconds: TypeAlias = Annotated[float, QUANTITIES["objective"]]
SpanSeconds: TypeAlias = Annotated[float, QUANTITIES["time span"]]
StartSeconds: TypeAlias = Annotated[float, QUANTITIES["start"]]
RequestRate: TypeAlias = Annotated[float, QUANTITIES["arrival rate"]]
Watts: TypeAlias = Annotated[float, QUANTITIES["power"]]
PowerLimit: TypeAlias = Annotated[float, QUANTITIES["power limit"]]
JoulesPerByte: TypeAlias = Annotated[float, QUANTITIES["energy of a byte"]]
JoulesPerMac: TypeAlias = Annotated[float, QUANTITIES["energy of a MAC"]]
RowJoules: TypeAlias = Annotated[float, QUANTITIES["energy of a row"]]
SquareMillimetres: TypeAlias = Annotated[float, QUANTITIES["area"]]
EnergyWeight: TypeAlias = Annotated[float, QUANTITIES["energy weight"]]
Celsius: TypeAlias = Annotated[float, QUANTITIES["temperature"]]
ThermalResistance: TypeAlias = Annotated[float, QUANTITIES["thermal resistance"]]
HeatCapacity: TypeAlias = Annotated[float, QUANTITIES["heat capacity"]]
Clocks: TypeAlias = Annotated[float, QUANTITIES["clocks"]]
FpusPerBank: TypeAlias = Annotated[float, QUANTITIES["FPUs"]]
Efficiency: TypeAlias = Annotated[float, QUANTITIES["efficiency"]]
Share: TypeAlias = Annotated[float, QUANTITIES["share"]]
Slowdown: TypeAlias = Annotated[float, QUANTITIES["slowdown"]]
Ratio: TypeAlias = Annotated[float, QUANTITIES["ratio"]]
Count: TypeAlias = Annotated[int, QUANTITIES["count"]]
Tokens: TypeAlias = Annotated[int, QUANTITIES["tokens"]]
Number: TypeAlias = Annotated[float, QUANTITIES["number"]]
Whole: TypeAlias = Annotated[int, QUANTITIES["whole number"]]
Truth: TypeAlias = Annotated[bool, TruthValue()]

# What pydantic calls a value beyond a field's own limits.
LIMIT_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
