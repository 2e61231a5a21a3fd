"""The documented names of `papi_env.workload.vision.repmlp`, for code that imports them from here."""

from papi_env.workload.vision.repmlp import (
    RepMLPNetwork,
    create_repmlpnet,
    inject_locality,
    locality_injected,
)

__all__ = ["RepMLPNetwork", "create_repmlpnet", "inject_locality", "locality_injected"]
