"""The processes that a command's options ask for: on this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import joblib

from experiments.common.machine import Machine
from experiments.common.options import Workers
from experiments.common.pools import OwnProcess, Pool
from papi_env.errors import lookup


def _machine(workers: Workers) -> Pool:
    size = workers.jobs or joblib.cpu_count()
    return OwnProcess() if size == 1 else Machine(size)


def _cluster(workers: Workers) -> Pool:
    # Ray alone needs ray.
    from experiments.common.cluster import Cluster

    return Cluster(workers.jobs, workers.address)


BACKENDS: Mapping[str, Callable[[Workers], Pool]] = {"local": _machine, "ray": _cluster}


@contextmanager
def started(workers: Workers) -> Iterator[Pool]:
    """The pool that is asked for, closed in the end.

    Raises:
        ConfigurationError: it cannot be had: ray is not installed, no cluster answers, or it is too small.
    """
    workers.check()
    pool = lookup("backend", workers.backend, BACKENDS)(workers)
    try:
        yield pool
    finally:
        pool.close()
