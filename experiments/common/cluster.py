"""Processes of a Ray cluster: what runs on them is handed out by joblib through Ray's backend for it.

joblib puts calls that take less than about a second together, so that many short ones do not become many tasks. Ray
starts a process that died anew, on another node where it must, and gives it its task again; the others work on. Where
a node is gone for good, the work goes on with as many processes as there are cores left; where it was that of this
process, or the cluster's head, the command ends. A result goes back to this process: nodes share no folder, but each
needs this project, in the same version.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import joblib

from experiments.common.pools import TRIES, Call, Pool, ProcessesLostError, died
from experiments.common.runner import ROOT, listed, source_digest, versions
from papi_env.errors import ConfigurationError

# Ray tells its makers how it is used, unless it is asked not to; the other silences a warning about GPUs.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
# Results are texts of some kB. chosen: the least that Ray takes is 75 MB; its default, a third of the memory, is not
# used.
_STORE_BYTES = 128 << 20
# chosen: seconds that a node takes to answer at most; range 1-30.
_ANSWER_S = 5.0
# Without a result for so long, and whenever something fails, one looks whether the cluster is still there. chosen: a
# fraction of what Ray takes to find that a node is gone; range 0.5-10.
_LOOK_S = 2.0
# In a row, before a head that does not answer is taken for gone. chosen: a restart of a second is waited for.
_LOOKS = 3


class _SmallerError(Exception):
    """The cluster has fewer cores than there are processes: some of them are not started again."""


class Cluster(Pool):
    """Processes of a Ray cluster, a core each.

    Args:
        jobs: how many; 0 for one on each core of the cluster.
        address: of the cluster; "auto" for the one that this machine belongs to, None for a new one of this machine.

    Raises:
        ConfigurationError: ray is not installed, no cluster answers, or it has fewer cores.
    """

    def __init__(self, jobs: int, address: str | None) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        try:
            import ray
            from ray.util.joblib.ray_backend import RayBackend
        except ImportError:
            raise ConfigurationError(
                "--backend ray: ray is not installed; pip install 'papi-env[ray]' brings it"
            ) from None

        class Streaming(RayBackend):  # type: ignore[misc,unused-ignore]
            """Gives results as they are done, which the pool that it stands on does as well as others."""

            supports_return_generator = True

            def abort_everything(self, ensure_ready: bool = True) -> None:
                """Not ready for more afterwards: that would start a Ray anew where its nodes are gone."""
                super().abort_everything(ensure_ready=False)

        self._ray, self._backend = ray, Streaming
        # It prints them on standard output, where results go.
        ray._private.worker.print_to_stdstream = _on_errors
        self._connect(jobs, address)
        cores = int(ray.cluster_resources().get("CPU", 0))
        self.size = jobs or cores
        if not 1 <= self.size <= cores:
            ray.shutdown()
            raise ConfigurationError(f"--jobs is {jobs}, but the Ray cluster has {cores} cores")
        self._parallel: joblib.Parallel | None = None
        here = ray.get_runtime_context()
        self._node, self._head, self._lost = here.get_node_id(), here.gcs_address, False

    def _connect(self, jobs: int, address: str | None) -> None:
        # Nodes may have no such variable, and this process may not be in the project's folder.
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        asked: dict[str, Any] = {
            "runtime_env": {"env_vars": {"PYTHONPATH": path}},
            "log_to_driver": False,
            "logging_level": "error",
        }
        if address is not None:
            _check_address(address)
        else:
            asked |= {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
            asked |= {"num_cpus": jobs or joblib.cpu_count()}
        try:
            self._ray.init(address=address or "local", **asked)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            if address is None:
                raise ConfigurationError(f"--backend ray: no Ray can be started here: {error}") from None
            raise ConfigurationError(
                f"--address {address}: this Ray cluster is not joined: {error}; where it has a token, "
                "RAY_AUTH_MODE=token and the same token are needed here too"
            ) from None

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        """See `Pool`."""
        waiting = dict(enumerate(calls))
        while waiting:
            alone, tries = list(waiting), TRIES
            if self.size > 1 and len(waiting) > 1:
                begun = set[int]()
                try:
                    for number, result in self._together(waiting, begun):
                        begun.discard(number)
                        del waiting[number]
                        yield number, result
                except _SmallerError:
                    self._stop()
                    self.size = self._cores()
                    continue
                except self._ray.exceptions.RayError:
                    with suppress(_SmallerError):  # seen when all run together again
                        self._look()
                    self._stop()
                    # Which call ended its processes is not said.
                except BaseException:
                    self._stop()
                    raise
                alone, tries = sorted(begun), 1  # after those that it had
            for number in alone:
                yield number, self._alone(waiting.pop(number), tries)

    def _together(self, calls: Mapping[int, Call], begun: set[int]) -> Iterator[tuple[int, Any]]:
        """Run calls on all processes; a number is in `begun` from when its call is handed out."""
        if self._parallel is None:
            again = {"max_restarts": -1, "max_task_retries": TRIES - 1}
            self._parallel = joblib.Parallel(
                n_jobs=self.size,
                backend=self._backend(ray_remote_args=again),
                return_as="generator_unordered",
            )
            self._parallel.__enter__()

        def handed_out() -> Iterable[Any]:
            for number, call in tuple(calls.items()):
                begun.add(number)
                yield joblib.delayed(_answer)(_Task(number, call, _code()))

        # In a thread of its own: it waits for processes that may never be there again.
        found: SimpleQueue[tuple[int, Any] | BaseException | None] = SimpleQueue()
        thread = threading.Thread(
            target=self._collect, args=(self._parallel, handed_out(), found), daemon=True
        )
        thread.start()
        while True:
            try:
                one = found.get(timeout=_LOOK_S)
            except Empty:
                self._look()
                continue
            if one is None:
                return
            if isinstance(one, BaseException):
                raise one
            yield one

    def _collect(self, parallel: joblib.Parallel, tasks: Iterable[Any], found: SimpleQueue[Any]) -> None:
        """Put results where they are waited for, and in the end None, or what was raised."""
        try:
            for result in parallel(tasks):
                found.put(result)
            found.put(None)
        except BaseException as error:
            found.put(error)

    def _alone(self, call: Call, tries: int) -> Any:
        """Run a call in a process of its own."""
        ray = self._ray
        result = ray.remote(max_retries=tries - 1)(_answer).remote(_Task(0, call, _code()))
        while True:
            try:
                return ray.get(result, timeout=_LOOK_S)[1]
            except ray.exceptions.GetTimeoutError:
                with suppress(_SmallerError):  # one core is left
                    self._look()
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError:
                with suppress(_SmallerError):
                    self._look()
                raise died(call) from None

    def _cores(self) -> int:
        return int(self._ray.cluster_resources().get("CPU", 0))

    def _look(self) -> None:
        """Whether the cluster is still there.

        Raises:
            ProcessesLostError: it is not.
            _SmallerError: it has fewer cores than this pool has processes.
        """
        # Asking a head that is gone ends this process.
        if not any(self._answers(k) for k in range(_LOOKS)):
            raise self._broken(f"its head {self._head} does not answer any more")
        here = [node for node in self._ray.nodes() if node["NodeID"] == self._node]
        if not any(node["Alive"] for node in here):
            raise self._broken("the node of this machine ended")
        cores = self._cores()
        if cores < 1:
            raise self._broken("no node is left")
        if cores < self.size:
            raise _SmallerError

    def _answers(self, tries: int) -> bool:
        """Whether somebody is at the head's address, after so many times that nobody was."""
        host, _, port = self._head.rpartition(":")
        time.sleep(_LOOK_S / 2 if tries else 0.0)
        with suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
            return True
        return False

    def _broken(self, why: str) -> ProcessesLostError:
        self._lost = True
        return ProcessesLostError(f"the Ray cluster broke down: {why}; what was done is kept")

    def _stop(self) -> None:
        if self._parallel is not None:
            parallel, self._parallel = self._parallel, None
            if not self._lost:
                with suppress(self._ray.exceptions.RayError):  # of nodes that are gone
                    parallel.__exit__(None, None, None)

    def close(self) -> None:
        """See `Pool`."""
        self._stop()
        self._ray.shutdown()


def _check_address(address: str) -> None:
    """Raise ConfigurationError where nobody is at an address: Ray itself tries for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigurationError(f"--address is {address!r}, expected HOST:PORT of a Ray cluster, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise ConfigurationError(f"--address {address}: no Ray cluster answers: {error}") from None


def _on_errors(data: Mapping[str, Any], ignore_prefix: bool = False) -> None:
    """What Ray says of processes, that one died alone, in a line on standard error."""
    for line in data["lines"]:
        if line.startswith("A worker died"):
            print(f"Ray: {line.partition('. ')[0]}; what it ran is run again", file=sys.stderr)


class _Task:
    """What goes to a node. Ray keeps arguments that are larger than this object seems in a store of its own."""

    __slots__ = ("call", "code", "number")

    def __init__(self, number: int, call: Call, code: Mapping[str, str]) -> None:
        self.number, self.call, self.code = number, call, code


def _code() -> dict[str, str]:
    """What moves a number, and must be the same on every node."""
    return {"source": source_digest(), **versions()}


def _answer(task: _Task) -> tuple[int, Any]:
    """The number and the result of a call, on the node that runs it."""
    here = _code()
    if here != task.code:
        changed = [
            f"{name} is {str(here.get(name))[:12]}, expected {value[:12]}"
            for name, value in task.code.items()
            if here.get(name) != value
        ]
        raise ConfigurationError(
            f"node {os.uname().nodename}: runs another version of the project: {listed(changed)}; every node needs the "
            "same checkout and packages"
        )
    return task.number, task.call.run()
