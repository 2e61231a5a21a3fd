"""What an entry's joules are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from experiments.arena.estimators.seeds import known_mean
from experiments.arena.measures import ENERGY_CAUSES
from papi_env.kernel import FloatArray


def shares_of_energy(of: Callable[[str], FloatArray]) -> dict[str, float | None]:
    """Joules of each cause over all joules, means over instances; their sum is 1.

    Args:
        of: values of a measure by its name, of any shape, the same for all.
    """
    total = of("total_j")
    known = np.where(total > 0, total, np.nan)
    return {cause: known_mean(of(f"{cause}_j") / known) for cause in ENERGY_CAUSES}
