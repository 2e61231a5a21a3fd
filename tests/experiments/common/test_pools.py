"""Pools: the same results in each, a process that dies takes its own call alone, and nobody is left behind."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from experiments.common import cluster, runner
from experiments.common.cluster import _answer, _check_address, _code, _Task
from experiments.common.command import can_go_on
from experiments.common.machine import Machine
from experiments.common.options import Workers
from experiments.common.pools import TRIES, Call, OwnProcess, ProcessesLostError
from experiments.common.workers import started
from papi_env.errors import ConfigurationError, DataError

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")


def square(number):
    return number * number


def refuse(number):
    raise DataError(f"{number} is not liked")


def dies(marks, number, times):
    """Ends its process so many times; leaves a mark for each call."""
    mine = len(list(marks.glob(f"{number}-*")))
    (marks / f"{number}-{mine}").touch()
    if mine < times:
        os.kill(os.getpid(), 9)
    return number


def interrupted(number):
    os.kill(os.getpid(), signal.SIGINT)
    return number


def calls_of(numbers, function=square):
    return [Call(f"call {number}", function, (number,)) for number in numbers]


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_calls(jobs):
    with started(Workers(jobs=jobs)) as pool:
        assert pool.size == jobs
        for _ in range(2):
            assert pool.map(calls_of(range(20))) == [number * number for number in range(20)]
        assert pool.map([]) == []


def test_a_process_that_dies_takes_its_own_call_alone(tmp_path):
    calls = [Call(f"call {n}", dies, (tmp_path, n, 1 if n == 3 else 0)) for n in range(8)]
    with started(Workers(jobs=2)) as pool:
        assert pool.map(calls) == list(range(8))
    # All others ran once.
    assert len(list(tmp_path.iterdir())) == 8 + 1


def test_a_call_that_ends_every_process_is_named(tmp_path):
    calls = [Call(f"call {n}", dies, (tmp_path, n, 9 if n == 1 else 0)) for n in range(3)]
    with started(Workers(jobs=2)) as pool, pytest.raises(DataError, match=r"call 1: .* died 3 times"):
        pool.map(calls)
    assert len(list(tmp_path.glob("1-*"))) == TRIES


def test_ctrl_c_is_for_the_process_that_hands_out_calls():
    with started(Workers(jobs=2)) as pool:
        assert pool.map(calls_of(range(4), interrupted)) == list(range(4))


@pytest.mark.parametrize("pool", [OwnProcess(), Machine(2)])
def test_what_a_call_raises_is_raised(pool):
    with pytest.raises(DataError, match="2 is not liked"):
        pool.map([*calls_of(range(2)), *calls_of([2], refuse)])
    pool.close()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"jobs": -1}, "--jobs is -1, expected a number of processes"),
        ({"address": "10.0.0.1:6379"}, "it needs --backend ray"),
        ({"backend": "rai"}, "ray"),
    ],
)
def test_workers_that_there_are_not_are_refused(asked, said):
    with pytest.raises(ConfigurationError, match=said), started(Workers(**asked)):
        raise AssertionError("started")


def test_without_ray_its_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ConfigurationError, match=r"pip install 'papi-env\[ray\]'"),
        started(Workers(backend="ray")),
    ):
        raise AssertionError("started")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster answers"),
        ("somewhere", "expected HOST:PORT"),
        ("a:70000", "expected HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(address, said):
    with pytest.raises(ConfigurationError, match=said):
        _check_address(address)


def test_a_node_with_another_version_is_refused():
    call = Call("call 1", square, (3,))
    assert _answer(_Task(7, call, _code())) == (7, 9)
    with pytest.raises(ConfigurationError, match="runs another version of the project: source is"):
        _answer(_Task(7, call, _code() | {"source": "0" * 64}))


ORPHANS = """
import os, sys, time
from pathlib import Path
from experiments.common.cluster import _answer, _check_address, _code, _Task
from experiments.common.machine import Machine
from experiments.common.pools import Call
from tests_sleep import sleep

if __name__ == "__main__":
    Machine(2).map([Call(str(n), sleep, (sys.argv[1], n)) for n in range(2)])
"""
SLEEP = """
import os, time
from pathlib import Path

def sleep(folder, number):
    (Path(folder) / f"pid-{number}").write_text(str(os.getpid()))
    time.sleep(300)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_processes_end_with_the_one_that_they_work_for(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    (tmp_path / "tests_sleep.py").write_text(SLEEP)
    environment = os.environ | {"PYTHONPATH": f"{runner.ROOT}{os.pathsep}{tmp_path}"}
    child = subprocess.Popen([sys.executable, tmp_path / "orphans.py", tmp_path], env=environment)
    marks, end = [tmp_path / f"pid-{n}" for n in range(2)], time.monotonic() + 60
    while not all(mark.exists() and mark.read_text() for mark in marks):
        assert time.monotonic() < end
        assert child.poll() is None
        time.sleep(0.05)
    child.kill()
    child.wait()
    while any(Path(f"/proc/{mark.read_text()}").exists() for mark in marks):
        assert time.monotonic() < end
        time.sleep(0.1)


# In a process of its own: Ray's threads and warnings stay there.
ON_RAY = """
import sys
from pathlib import Path
from experiments.common.jobs import run_jobs
from experiments.common.options import Workers
from experiments.common.pools import Call, OwnProcess
from experiments.common.runner import Job, RunFolder
from experiments.common.workers import started
from papi_env.errors import DataError
from rich.console import Console
from tests_rows import dies, refuse, rows

quiet, here = Console(stderr=True), Path(sys.argv[1])
jobs = [Job(f"job {n}", {"n": n}, rows, (n,)) for n in range(40)]

def results(name, pool):
    folder = RunFolder.open(here / name, "demo", {})
    with folder.session("demo", pool.size):
        assert run_jobs(folder, jobs, pool, quiet) == 0
        folder.pack(jobs)
    return (folder.path / "jobs.json").read_bytes()

with started(Workers(jobs=2, backend="ray")) as pool:
    assert pool.size == 2
    found = results("ray", pool)
    assert found == results("local", OwnProcess())
    marks = here / "marks"
    marks.mkdir()
    calls = [Call(f"call {n}", dies, (str(marks), n, 1 if n == 3 else 0)) for n in range(8)]
    assert pool.map(calls) == list(range(8))
    assert len(list(marks.glob("3-*"))) == 2
    try:
        pool.map([Call("one", rows, (1,)), Call("two", refuse, (2,))])
    except DataError as error:
        assert "2 is not liked" in str(error)
    else:
        raise AssertionError("not refused")
    try:
        pool.map([Call("call 9", dies, (str(marks), 9, 99))])
    except DataError as error:
        assert "call 9: the process that ran it died" in str(error)
    else:
        raise AssertionError("not named")
print("done")
"""
ROWS = """
import os
from pathlib import Path
from papi_env.errors import DataError

def rows(n):
    return {"n": [n, n + 1], "share": [n / 3, None], "name": ["a,b", "c"]}

def refuse(n):
    raise DataError(f"{n} is not liked")

def dies(marks, number, times):
    mine = len(list(Path(marks).glob(f"{number}-*")))
    (Path(marks) / f"{number}-{mine}").touch()
    if mine < times:
        os.kill(os.getpid(), 9)
    return number
"""


@needs_ray
def test_a_ray_of_two_processes_gives_the_same_bytes_and_outlives_one_of_them(tmp_path):
    (tmp_path / "on_ray.py").write_text(ON_RAY)
    (tmp_path / "tests_rows.py").write_text(ROWS)
    environment = os.environ | {"PYTHONPATH": f"{runner.ROOT}{os.pathsep}{tmp_path}"}
    ran = subprocess.run(
        [sys.executable, tmp_path / "on_ray.py", tmp_path], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    # Standard output is for results.
    assert ran.stdout == "done\n"


# A node ends while calls are running: on another machine, and then on this one.
NODES = """
import os, signal, sys
from pathlib import Path
from experiments.common.options import Workers
from experiments.common.pools import Call, ProcessesLostError
from experiments.common.workers import started
from ray.cluster_utils import Cluster
from tests_rows import slow

def end(node):
    (raylet,) = [process for name, process in node.live_processes() if name == "raylet"]
    os.kill(raylet.pid, signal.SIGKILL)

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    calls = [Call(f"call {n}", slow, (n,)) for n in range(60)]
    with started(Workers(jobs=2, backend="ray", address=cluster.address)) as pool:
        if sys.argv[1] == "other":
            found = {}
            for number, result in pool.run(calls):
                if not found:
                    cluster.remove_node(other, allow_graceful=False)
                found[number] = result
            assert found == {n: n for n in range(60)}, found
        else:
            found = []
            try:
                for number, result in pool.run(calls):
                    if not found:
                        end(cluster.head_node)
                    found.append(result)
            except ProcessesLostError as error:
                assert found and len(found) < 60
                print(error)
            else:
                raise AssertionError("not told")
    print("done")
"""
SLOW = """
import time

def slow(number):
    time.sleep(0.7)
    return number
"""


# Two real nodes beside other tests start too late, or are taken for lost: run by itself.
@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("other", ""),
        ("own", "the Ray cluster broke down: the node of this machine ended; what was done is kept\n"),
    ],
)
def test_a_node_of_ray_that_ends_costs_what_it_ran(which, said, tmp_path):
    (tmp_path / "nodes.py").write_text(NODES)
    (tmp_path / "tests_rows.py").write_text(SLOW)
    path = f"{runner.ROOT}{os.pathsep}{tmp_path}"
    ran = subprocess.run(
        [sys.executable, tmp_path / "nodes.py", which],
        env=os.environ | {"PYTHONPATH": path, "RAY_worker_niceness": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"{said}done\n"


def test_a_head_that_does_not_answer_is_lost(monkeypatch):
    monkeypatch.setattr(cluster, "_LOOK_S", 0.01)
    pool = cluster.Cluster.__new__(cluster.Cluster)
    pool._head = "127.0.0.1:1"
    with pytest.raises(ProcessesLostError, match=r"its head 127\.0\.0\.1:1 does not answer any more"):
        pool._look()
    assert pool._lost


def test_who_loses_processes_hears_how_to_go_on(tmp_path):
    quiet = Console(quiet=True)
    with (
        pytest.raises(ProcessesLostError, match=r"call 1: .* is kept; the same command goes on"),
        can_go_on(quiet, "the same command"),
        started(Workers(jobs=2)) as pool,
    ):
        pool.map([Call(f"call {n}", dies, (tmp_path, n, 9 if n == 1 else 0)) for n in range(3)])
