"""What a scheduler sees, said once: each feature's name, meaning, unit, and how it is scaled into [0, 1].

A problem declares its features in the order of its observations. Names, documentation, the inverse for rules, and the
words of distilled trees all come from the declaration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scale:
    """How a quantity becomes a feature in [0, 1].

    Attributes:
        formula: in x, the quantity in the feature's unit.
        inverse: from the feature to the quantity, increasing; None for a yes or no. Those of open and of linear scales
            take arrays too.
        full: the quantity that becomes 1 on a linear scale, 1/2 on an open one.
    """

    formula: str
    inverse: Callable[[Any], Any] | None
    full: float = 1.0


# A yes or no, or one of a one-hot group.
FLAG = Scale("0 or 1", None)
# Rates and sizes of any machine and model: 20 decades.
DECADES = Scale("log10(x) / 20", lambda feature: 10.0 ** (20 * feature))


def unsquash(feature: Any) -> Any:
    """Invert x / (1 + x): infinite at 1. The values of an array must be less."""
    if isinstance(feature, np.ndarray):
        return feature / (1 - feature)
    return feature / (1 - feature) if feature < 1 else math.inf


def linear(full: float) -> Scale:
    """`full` becomes 1."""
    return Scale("x" if full == 1 else f"x / {full:g}", lambda feature: full * feature, full)


def squash(half: float = 1) -> Scale:
    """[0, inf) onto [0, 1) without a clamp: `half` becomes 1/2."""
    return Scale(f"x / (x + {half:g})", lambda feature: half * unsquash(feature), half)


def signed(unit: float) -> Scale:
    """All numbers onto (0, 1): 0 becomes 1/2, `unit` 3/4, -`unit` 1/4."""

    def inverse(feature: float) -> float:
        z = 2 * feature - 1
        return unit * (z / (1 - abs(z)) if abs(z) < 1 else math.copysign(math.inf, z))

    return Scale(f"1/2 + x / (2 ({unit:g} + |x|))", inverse, unit)


def log2_of(full: float) -> Scale:
    """Counts over many octaves: 2 ** `full` becomes 1, nearly."""
    return Scale(f"log2(1 + x) / {full:g}", lambda feature: 2.0 ** (full * feature) - 1)


def _slowdown(feature: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.exp2(unsquash(feature))


# A ratio of 1 or more: 1 becomes 0, 2 becomes 1/2.
SLOWDOWN = Scale("log2(x) / (1 + log2(x))", _slowdown, 2.0)


@dataclass(frozen=True)
class Feature:
    """One number of an observation.

    Attributes:
        name: as in `observation_names`.
        words: what it is, as a distilled tree says it.
        scale: from the quantity to the number.
        unit: of the quantity; empty for counts and ratios.
    """

    name: str
    words: str
    scale: Scale = FLAG
    unit: str = ""


def names(features: Iterable[Feature]) -> tuple[str, ...]:
    """Their names, in order."""
    return tuple(feature.name for feature in features)


def table(features: Sequence[Feature]) -> str:
    """Their documentation in Markdown: index, name, meaning, unit, scaling. All lie in [0, 1]."""
    rows = [
        f"| {i} | `{f.name}` | {f.words} | {f.unit or '-'} | {f.scale.formula} |"
        for i, f in enumerate(features)
    ]
    return "\n".join(
        ("| index | name | what | unit of x | value, in [0, 1] |", "|---|---|---|---|---|", *rows)
    )
