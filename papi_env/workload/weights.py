"""The documented names of `papi_env.workload.vision.weights`, for code that imports them from here."""

from papi_env.workload.vision.weights import CheckpointError, load_weights, save_weights

__all__ = ["CheckpointError", "load_weights", "save_weights"]
