"""Where `papi_env.workload.vision.weights` used to be: the documented names, for code that imports them here."""

from papi_env.workload.vision.weights import CheckpointError, load_weights, save_weights

__all__ = ["CheckpointError", "load_weights", "save_weights"]
