"""Where a router sends tokens: how likely each expert is, and how many tokens each gets.

A token goes to `active` different experts, drawn one after the other with chances in proportion to their popularity: 1
for all (uniform), or 1 / rank^exponent (Zipf). Tokens are independent, so an expert's tokens are binomial.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from papi_env.hardware.experts import ExpertLayer
from papi_env.kernel import FloatArray, Rows
from papi_env.workload.transformer import Transformer

# Steps of the integral over the race of experts; chosen: errors of a chance below 1e-6, range 200-4000.
_STEPS = 1000


def popularity(experts: int, exponent: float) -> FloatArray:
    """Weight of each expert, the most popular first, float64 [experts], 1 for the first; exponent 0 is uniform."""
    return np.asarray(np.arange(1, experts + 1, dtype=np.float64) ** -exponent)


@lru_cache(maxsize=64)
def _chances(experts: int, active: int, exponent: float) -> tuple[float, ...]:
    if exponent == 0 or active == experts:
        return (active / experts,) * experts
    weights = popularity(experts, exponent)
    # Drawing without replacement is a race of exponential clocks: an expert is drawn if fewer than `active` others ring
    # before it. The integral over all times t, by t = u / (1 - u) in units of the time until `active` clocks ring.
    u = (np.arange(_STEPS) + 0.5) / _STEPS
    t = (u / (1 - u)) * (active / weights.sum())
    dt = (active / weights.sum()) / (1 - u) ** 2 / _STEPS
    rung = -np.expm1(-np.outer(weights, t))  # [experts, steps]
    found = np.empty(experts)
    for e in range(experts):
        # Chances that 0 .. active - 1 others have rung, [active, steps].
        counts = np.zeros((active, _STEPS))
        counts[0] = 1.0
        for other in range(experts):
            if other != e:
                p = rung[other]
                counts[1:] = counts[1:] * (1 - p) + counts[:-1] * p
                counts[0] *= 1 - p
        found[e] = np.sum(weights[e] * np.exp(-weights[e] * t) * counts.sum(axis=0) * dt)
    return tuple(found * (active / found.sum()))


def chances(experts: int, active: int, exponent: float = 0.0) -> FloatArray:
    """Chance that a token goes to each expert, the most popular first, float64 [experts]; their sum is `active`."""
    return np.array(_chances(experts, active, exponent))


def active_experts(chance: FloatArray, rows: Rows) -> FloatArray:
    """Experts that get any of `rows` tokens, on average (shape of `rows`): the sum of 1 - (1 - chance)^rows."""
    rows = np.asarray(rows, dtype=np.float64)
    return np.asarray(
        np.sum(-np.expm1(np.multiply.outer(rows, np.log1p(-np.minimum(chance, 1 - 1e-16)))), axis=-1)
    )


def tokens_per_active_expert(chance: FloatArray, rows: Rows) -> FloatArray:
    """Tokens that an expert with any has on average (shape of `rows`); 0 without rows.

    What PAPI's n = RLP x TLP is for a kernel that all tokens share.
    """
    rows = np.asarray(rows, dtype=np.float64)
    return np.asarray(rows * chance.sum() / np.maximum(active_experts(chance, rows), 1e-300))


@lru_cache(maxsize=16)
def expected_loads(experts: int, active: int, exponent: float, rows: int) -> FloatArray:
    """How many experts have j tokens when n tokens were routed, on average: float64 [n = 0 .. rows, j = 0 .. rows].

    The exact sum of the experts' binomial laws, so that the mean over routings of any sum over experts of a cost c of
    their tokens is `expected_loads(...)[n] @ c`. Read-only.
    """
    chance = np.array(_chances(experts, active, exponent))
    # Experts with one chance share a law.
    values, count = np.unique(chance, return_counts=True)
    loads = np.zeros((rows + 1, rows + 1))
    laws = np.zeros((len(values), rows + 1))
    laws[:, 0] = 1.0
    loads[0, 0] = experts
    going, staying = values[:, None], 1 - values[:, None]
    for n in range(1, rows + 1):
        laws[:, 1 : n + 1] = staying * laws[:, 1 : n + 1] + going * laws[:, :n]
        laws[:, 0] *= staying[:, 0]
        loads[n, : n + 1] = count @ laws[:, : n + 1]
    loads.flags.writeable = False
    return loads


@dataclass(frozen=True)
class Routing:
    """The experts of a model, and how its router sends tokens to them.

    Attributes:
        layer: the experts of one layer, and how many layers there are.
        exponent: of their popularity (see `popularity`); 0 is uniform.
        keyed: whether routings are drawn anew for each iteration and layer; else costs are means over routings.
    """

    layer: ExpertLayer
    exponent: float
    keyed: bool

    @property
    def weights(self) -> FloatArray:
        """`popularity` of the experts."""
        return popularity(self.layer.experts, self.exponent)

    @property
    def chance(self) -> FloatArray:
        """`chances` of the experts."""
        return chances(self.layer.experts, self.layer.active, self.exponent)

    def loads(self, rows: int) -> FloatArray:
        """`expected_loads` up to so many tokens."""
        return expected_loads(self.layer.experts, self.layer.active, self.exponent, rows)


def routing_of(model: Transformer) -> Routing | None:
    """The routed experts of a model; None without."""
    experts = model.experts
    if experts is None:
        return None
    up, down = model.expert_kernels()
    layer = ExpertLayer(experts.experts, experts.active, up, down)
    return Routing(layer, experts.exponent or 0.0, experts.draws == "keyed")
