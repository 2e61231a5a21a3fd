"""The problems as gymnasium environments, one file each, single and vector; loaded when they are first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from papi_env.envs.decode import DecodeEnv, DecodeVectorEnv
    from papi_env.envs.kernels import KernelsEnv, KernelsVectorEnv
    from papi_env.envs.serving import ServingEnv, ServingVectorEnv
    from papi_env.envs.serving_v1 import ServingV1Env, ServingV1VectorEnv

_HOMES = {
    "DecodeEnv": "papi_env.envs.decode",
    "DecodeVectorEnv": "papi_env.envs.decode",
    "KernelsEnv": "papi_env.envs.kernels",
    "KernelsVectorEnv": "papi_env.envs.kernels",
    "ServingEnv": "papi_env.envs.serving",
    "ServingVectorEnv": "papi_env.envs.serving",
    "ServingV1Env": "papi_env.envs.serving_v1",
    "ServingV1VectorEnv": "papi_env.envs.serving_v1",
}
__all__ = [
    "DecodeEnv",
    "DecodeVectorEnv",
    "KernelsEnv",
    "KernelsVectorEnv",
    "ServingEnv",
    "ServingV1Env",
    "ServingV1VectorEnv",
    "ServingVectorEnv",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'papi_env.envs' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
