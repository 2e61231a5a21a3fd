"""Continuous batching: the engine of Serving-v0, with the module names of `papi_env.simulation.batch`."""
