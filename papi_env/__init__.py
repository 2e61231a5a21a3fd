"""A reinforcement-learning environment for scheduling LLM decoding on GPUs and processing-in-memory.

    import papi_env

    envs = papi_env.make_vec(papi_env.ENV_IDS[0], num_envs=64, scenario="general-qa/gpt3-66b")

Importing the package registers the environments by name and loads no heavy library; what `__all__` names is loaded
when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from papi_env.envs.registration import DECODE, ENV_IDS, KERNELS, SERVING, SERVING_V1, register_all

if TYPE_CHECKING:
    from gymnasium import make_vec

    from papi_env.errors import ConfigurationError, DataError
    from papi_env.hardware.gpus import GPUS, get_gpu
    from papi_env.hardware.system import SYSTEMS, System, get_system
    from papi_env.scenario import SCENARIOS, Scenario, get_scenario
    from papi_env.workload.transformer import TRANSFORMERS, Transformer, get_transformer

__version__ = "0.2.0"

# Where each name comes from.
_HOMES = {
    "make_vec": "gymnasium",
    "SCENARIOS": "papi_env.scenario",
    "Scenario": "papi_env.scenario",
    "get_scenario": "papi_env.scenario",
    "SYSTEMS": "papi_env.hardware.system",
    "System": "papi_env.hardware.system",
    "get_system": "papi_env.hardware.system",
    "GPUS": "papi_env.hardware.gpus",
    "get_gpu": "papi_env.hardware.gpus",
    "TRANSFORMERS": "papi_env.workload.transformer",
    "Transformer": "papi_env.workload.transformer",
    "get_transformer": "papi_env.workload.transformer",
    "ConfigurationError": "papi_env.errors",
    "DataError": "papi_env.errors",
}
__all__ = [
    "DECODE",
    "ENV_IDS",
    "GPUS",
    "KERNELS",
    "SCENARIOS",
    "SERVING",
    "SERVING_V1",
    "SYSTEMS",
    "TRANSFORMERS",
    "ConfigurationError",
    "DataError",
    "Scenario",
    "System",
    "Transformer",
    "get_gpu",
    "get_scenario",
    "get_system",
    "get_transformer",
    "make_vec",
]

register_all()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'papi_env' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
