"""Experts under continuous batching: what they add to the FC kernels of an iteration, by unit and rows.

Every row of an iteration is a token, of a decoding request or of a prompt, that its router sends to a few experts. The
experts run where the rows' other FC kernels do, so that they are part of the same look-ups: a split sends some tokens
to FC-PIM with all their experts, and the others to the PUs. Costs are means over routings, which are exact: the tokens
of an expert are binomial, and time on either unit is a sum over experts. Whatever looks an iteration up, such as rules
and bounds, thus sees them, and a model without experts has nothing more to look up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from papi_env.hardware.energy import NUM_CAUSES
from papi_env.hardware.experts import ExpertPlacement
from papi_env.hardware.system import System
from papi_env.kernel import FloatArray
from papi_env.simulation.batch.expert_tables import options_of, unit_costs
from papi_env.simulation.batch.routed import PIM_S, PU_S, READ_S
from papi_env.simulation.serving.binomial import mean_sums
from papi_env.workload.routing import Routing


class ExpertCosts(NamedTuple):
    """Means over routings of the experts of all layers, on PUs and FC-PIM; zero where a unit does not run them.

    Attributes:
        seconds: [2, rows]; causes: joules [2, rows, causes].
        reading_s: [rows], the part of the PUs' seconds in which they read the stacks.
    """

    seconds: FloatArray
    causes: FloatArray
    reading_s: FloatArray


def served_experts(system: System, routing: Routing, rows: int) -> ExpertCosts:
    """`ExpertCosts` of 0 to `rows` tokens; all banks have slices of all experts."""
    layer = routing.layer
    units = unit_costs(system, layer, ExpertPlacement(), rows)
    chance, count = np.unique(routing.chance, return_counts=True)
    columns = np.concatenate([units.one[:, [PU_S, PIM_S, READ_S]], *units.causes], axis=1)
    means = mean_sums(chance, count.astype(np.float64), columns)
    tokens = np.arange(rows + 1)
    seconds = np.ascontiguousarray(means[:, :2].T)
    seconds[0] += units.fixed[0]
    seconds[1] += units.fixed[1] + units.fixed[2] * layer.active * tokens
    causes = np.stack([means[:, 3 : 3 + NUM_CAUSES], means[:, 3 + NUM_CAUSES :]])
    seconds[:, 0] = 0.0
    seconds[~options_of(system)[:2]] = 0.0
    causes[~options_of(system)[:2]] = 0.0
    return ExpertCosts(layer.layers * seconds, layer.layers * causes, layer.layers * means[:, 2])
