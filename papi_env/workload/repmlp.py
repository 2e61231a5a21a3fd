"""Where `papi_env.workload.vision.repmlp` used to be: the documented names, for code that imports them here."""

from papi_env.workload.vision.repmlp import (
    RepMLPNetwork,
    create_repmlpnet,
    inject_locality,
    locality_injected,
)

__all__ = ["RepMLPNetwork", "create_repmlpnet", "inject_locality", "locality_injected"]
