"""Numbers and tables as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

# Units as the table of quantities has them, and as they are written here; those with a prefix first.
_PREFIXED = {
    "bytes": "B",
    "seconds": "s",
    "B/s": "B/s",
    "FLOP/s": "FLOP/s",
    "W": "W",
    "J": "J",
    "J/B": "J/B",
    "J per MAC": "J/MAC",
}
_PREFIXES = {
    -18: "a",
    -15: "f",
    -12: "p",
    -9: "n",
    -6: "µ",
    -3: "m",
    0: "",
    3: "k",
    6: "M",
    9: "G",
    12: "T",
    15: "P",
}
_DIGITS = 4


def quantity(value: float, unit: str) -> str:
    """A number with its unit, with a prefix where the unit takes one: 3.352 TB/s."""
    symbol = _PREFIXED.get(unit)
    if isinstance(value, bool) or symbol is None or not math.isfinite(value) or value == 0:
        shown = str(value) if isinstance(value, int) else f"{value:.{_DIGITS}g}"
        words = "" if unit.startswith("a share") else unit
        return f"{shown} {symbol or words}".strip()
    power = min(max(3 * math.floor(math.log10(abs(value)) / 3 + 1e-9), min(_PREFIXES)), max(_PREFIXES))
    return f"{value / 10.0**power:.{_DIGITS}g} {_PREFIXES[power]}{symbol}"


def rows(table: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Lines of a table whose columns are as wide as their longest cell; the last one is as long as it is."""
    kept = [list(row) for row in table]
    if not kept:
        return []
    widths = [max(len(row[column]) for row in kept) for column in range(len(kept[0]) - 1)]
    return [
        (
            indent
            + "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]])
        ).rstrip()
        for row in kept
    ]
