"""Registration of the environments, by string, so that importing the package stays cheap."""

from __future__ import annotations

import warnings
from typing import Final

import gymnasium as gym

DECODE: Final = "papi_env/Decode-v0"
KERNELS: Final = "papi_env/Kernels-v0"
SERVING: Final = "papi_env/Serving-v0"
SERVING_V1: Final = "papi_env/Serving-v1"
# By id: the module, and what its single and vector environments are called without `Env` and `VectorEnv`.
_PROBLEMS = {
    DECODE: "papi_env.envs.decode:Decode",
    KERNELS: "papi_env.envs.kernels:Kernels",
    SERVING: "papi_env.envs.serving:Serving",
    SERVING_V1: "papi_env.envs.serving_v1:ServingV1",
}
ENV_IDS = tuple(_PROBLEMS)


def register_all() -> None:
    """Register every id once; calling it again changes nothing."""
    # gymnasium takes every earlier version for out of date; Serving-v0 is another problem on the same engine and stays.
    warnings.filterwarnings("ignore", f".*{SERVING} is out of date", DeprecationWarning)
    for env_id, entry in _PROBLEMS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=f"{entry}Env", vector_entry_point=f"{entry}VectorEnv")
