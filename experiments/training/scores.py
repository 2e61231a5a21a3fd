"""What a validation scores: the mean return, or of Serving-v1 the share of the worth that was offered."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from papi_env.envs.registration import SERVING_V1
from papi_env.scenario import Scenario
from papi_env.simulation.serving.state import REFERENCE_TOKENS
from papi_env.simulation.serving.tables import build_serving_tables


def scored(env_id: str) -> str:
    """What the score of a problem is, in a word or two."""
    return "share of worth" if env_id == SERVING_V1 else "return"


def score(env_id: str, setting: Scenario, returns: npt.ArrayLike, offered: npt.ArrayLike) -> float:
    """The score of a setting.

    Args:
        env_id: the problem.
        setting: with classes of requests where the problem is Serving-v1.
        returns: of episodes, [episodes]; offered: worth, [episodes], of Serving-v1 alone.
    """
    mean = float(np.mean(np.asarray(returns, dtype=np.float64)))
    if env_id != SERVING_V1:
        return mean
    # Returns are in mean requests' worth.
    reference = float(build_serving_tables(setting).scalars[REFERENCE_TOKENS])
    return mean * reference / max(float(np.mean(np.asarray(offered, dtype=np.float64))), reference)
