"""Run folders and jobs: nothing runs twice, nothing is half written, nothing is mixed."""

import errno
import io
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from experiments.common import runner
from experiments.common.jobs import run_jobs
from experiments.common.options import Workers
from experiments.common.pools import OwnProcess
from experiments.common.runner import Job, RunFolder, differences, write_whole, writing
from experiments.common.workers import started
from papi_env.errors import ConfigurationError, DataError

CONFIGURATION = {"seeds": {"first": 0, "count": 3}, "names": ["a", "b"]}


def square(marks, number):
    """Columns of one job; leaves a mark, to count calls."""
    (marks / f"{number}-{os.getpid()}-{len(list(marks.iterdir()))}").touch()
    return {"number": [number, number + 1], "square": [number**2, 0.1 + number], "none": [None, "a,b"]}


def interrupt(marks, number):
    """A job during which the user presses Ctrl-C."""
    raise KeyboardInterrupt


@pytest.fixture
def marks(tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


@pytest.fixture
def run(tmp_path):
    return RunFolder.open(tmp_path / "run", "demo", CONFIGURATION)


@pytest.fixture
def quiet():
    return Console(file=io.StringIO())


def jobs_of(marks, numbers, function=square):
    return [Job(f"job {i}", {"number": i}, function, (marks, i)) for i in numbers]


@pytest.mark.parametrize("cores", [1, 2])
def test_jobs_run_once_and_are_then_reused(run, marks, quiet, cores):
    jobs = jobs_of(marks, range(3))
    with started(Workers(jobs=cores)) as pool:
        assert run_jobs(run, jobs, pool, quiet) == 0
    assert run_jobs(run, jobs_of(marks, range(4)), OwnProcess(), quiet) == 3
    assert len(list(marks.iterdir())) == 4
    assert run.result(jobs[2]).decode() == 'number,square,none\n2,4,\n3,2.1,"a,b"\n'
    assert not [path for path in run.path.rglob(".*")]


def test_a_lost_job_is_run_again_to_the_same_bytes(run, marks, quiet):
    jobs = jobs_of(marks, range(3))
    run_jobs(run, jobs, OwnProcess(), quiet)
    path = run.job_path(jobs[1])
    before = path.read_bytes()
    path.unlink()
    assert run_jobs(run, jobs, OwnProcess(), quiet) == 2
    assert path.read_bytes() == before


def test_an_interruption_loses_only_the_job_in_flight_and_is_recorded(run, marks, quiet):
    jobs = [*jobs_of(marks, [0, 1]), *jobs_of(marks, [2], interrupt), *jobs_of(marks, [3])]
    with pytest.raises(KeyboardInterrupt), run.session("demo --now", 1):
        run_jobs(run, jobs, OwnProcess(), quiet)
    assert [run.job_path(job).exists() for job in jobs] == [True, True, False, False]
    again = RunFolder.open(run.path, "demo", CONFIGURATION)
    with again.session("demo --again", 1):
        assert run_jobs(again, jobs_of(marks, range(4)), OwnProcess(), quiet) == 2
    record = json.loads((run.path / "run.json").read_text())
    assert [(s["status"], s["command"]) for s in record["sessions"]] == [
        ("interrupted", "demo --now"),
        ("finished", "demo --again"),
    ]
    assert record["configuration"] == CONFIGURATION
    assert {"python", "numpy", "numba", "gymnasium", "papi_env"} <= set(record["sessions"][0]["versions"])
    assert {"digest", "commit", "modified"} <= set(record["sessions"][0]["source"])
    machine = record["sessions"][0]["machine"]
    assert machine["processor"]
    assert machine["instructions"][0] == platform.machine()
    assert not {"sse4.2", "neon", "vsx"}.isdisjoint(machine["instructions"])
    assert machine["cpus"] >= 1


def test_a_failed_session_says_why(run):
    with pytest.raises(ValueError, match="broken"), run.session("demo", 1):
        raise ValueError("broken")
    assert json.loads((run.path / "run.json").read_text())["sessions"][0]["status"] == "failed: broken"


def test_other_inputs_code_or_versions_make_another_job(marks, monkeypatch):
    (job,) = jobs_of(marks, [1])
    keys = [job.key, jobs_of(marks, [2])[0].key, jobs_of(marks, [1], interrupt)[0].key]
    for name, value in (("source_digest", "another"), ("versions", {"numpy": "0"})):
        with monkeypatch.context() as patched:
            patched.setattr(runner, name, lambda value=value: value)
            keys.append(job.key)
    assert len(set(keys)) == len(keys)
    assert job.key == keys[0]


def test_a_folder_of_another_configuration_is_refused(run):
    with run.session("demo", 1):
        pass
    changed = {"seeds": {"first": 0, "count": 5}, "names": ["a", "c"]}
    with pytest.raises(ConfigurationError) as refused:
        RunFolder.open(run.path, "demo", changed)
    assert "seeds.count: 3 there, 5 asked" in str(refused.value)
    assert "names.1: b there, c asked" in str(refused.value)
    with pytest.raises(ConfigurationError, match="'demo', not of 'other'"):
        RunFolder.open(run.path, "other", CONFIGURATION)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="holds no run"):
        RunFolder.open(tmp_path, "demo", CONFIGURATION)
    with pytest.raises(ConfigurationError, match="holds no run"):
        RunFolder.open(tmp_path / "notes.txt", "demo", CONFIGURATION)
    with pytest.raises(ConfigurationError, match="cannot be made"):
        RunFolder.open(tmp_path / "notes.txt" / "run", "demo", CONFIGURATION)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(DataError, match="not the record of a run"):
        RunFolder.open(tmp_path, "demo", CONFIGURATION)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_empty_folder_and_a_new_default_one_are_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert RunFolder.open(tmp_path / "empty", "demo", CONFIGURATION).path.name == "empty"
    default = RunFolder.open(None, "demo", CONFIGURATION).path
    assert default.parent.name == "runs"
    assert default.name.startswith("demo-2")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.txt"
    write_whole(path, "before")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(DataError, match="cannot be written: disk full"):
        write_whole(path, "after")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["result.txt"]


def test_results_are_readable_as_the_users_other_files(tmp_path):
    (tmp_path / "own").touch()
    write_whole(tmp_path / "written", b"bytes")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "own").stat().st_mode


def test_differences_name_the_field_and_both_values():
    assert list(differences({"a": [1, 2], "b": 1}, {"a": [1, 3], "c": 2})) == [
        "a.1: 2 there, 3 asked",
        "b: 1 there, None asked",
        "c: None there, 2 asked",
    ]
    assert list(differences({"a": "x" * 70 + "1"}, {"a": "x" * 70 + "2"})) == [
        "a: not the same there as asked"
    ]
    assert list(differences(CONFIGURATION, CONFIGURATION)) == []


def test_a_damaged_job_file_is_named_and_its_job_run_again(run, marks):
    jobs = jobs_of(marks, range(3))
    console = Console(file=io.StringIO(), width=500)
    run_jobs(run, jobs, OwnProcess(), console)
    before = [run.job_path(job).read_bytes() for job in jobs]
    changed, cut = run.job_path(jobs[0]), run.job_path(jobs[1])
    changed.write_bytes(before[0].replace(b"0.1", b"0.2"))
    cut.write_bytes(before[1][:-20])
    with pytest.raises(DataError, match=f"{changed.name}: cut off, or changed"):
        run.result(jobs[0])
    assert run_jobs(run, jobs, OwnProcess(), console) == 1
    assert [run.job_path(job).read_bytes() for job in jobs] == before
    said = console.file.getvalue()
    for path, job in ((changed, jobs[0]), (cut, jobs[1])):
        assert str(path) in said
        assert f"{job.label} is run again" in said


def test_two_runs_do_not_share_a_folder(run):
    with run.session("demo", 1):
        other = RunFolder.open(run.path, "demo", CONFIGURATION)
        with pytest.raises(ConfigurationError, match="another run works in it"), other.session("demo", 1):
            raise AssertionError("not alone")
        record = json.loads((run.path / "run.json").read_text())
        assert len(record["sessions"]) == 1
    # And what the first wrote is kept by the second, though that was opened before.
    with other.session("demo", 1):
        pass
    record = json.loads((run.path / "run.json").read_text())
    assert [session["status"] for session in record["sessions"]] == ["finished", "finished"]


def test_a_disk_that_takes_nothing_is_an_error_that_names_the_file(run, marks, quiet, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runner.os, "fsync", full)
    with pytest.raises(DataError, match=r"\.csv: cannot be written: No space left on device"):
        run_jobs(run, jobs_of(marks, [0]), OwnProcess(), quiet)
    with pytest.raises(DataError, match=r"run\.json: cannot be written"), run.session("demo", 1):
        raise AssertionError("begun without a record")
    monkeypatch.undo()
    assert not [path for path in run.path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_folder_that_no_system_can_make_is_refused(tmp_path, name):
    with pytest.raises(ConfigurationError, match="cannot be made"):
        RunFolder.open(tmp_path / name, "demo", CONFIGURATION)


@pytest.mark.parametrize(
    "record",
    [
        {"experiment": 1, "configuration": {}, "sessions": []},
        {"experiment": "demo", "configuration": [], "sessions": []},
        {"experiment": "demo", "configuration": {}, "sessions": [1]},
        {"experiment": "demo", "configuration": {}, "sessions": {}},
        [],
    ],
    ids=repr,
)
def test_a_record_of_another_shape_is_refused(run, record):
    (run.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="not the record of a run"):
        RunFolder.open(run.path, "demo", CONFIGURATION)


SLOW = """
import sys, time, os
from pathlib import Path
from rich.console import Console
from experiments.common.command import exit_status
from experiments.common.jobs import run_jobs
from experiments.common.options import Workers
from experiments.common.workers import started
from experiments.common.runner import Job, RunFolder
from tests_slow import sleep

def run():
    folder = RunFolder.open(Path(sys.argv[1]), "demo", {})
    jobs = [Job(str(i), {"i": i}, sleep, (sys.argv[1], i)) for i in range(2)]
    with started(Workers(jobs=2)) as pool, folder.session("demo", 2):
        run_jobs(folder, jobs, pool, Console(stderr=True))

if __name__ == "__main__":
    sys.exit(exit_status(run))
"""
SLEEP = """
import os, time
from pathlib import Path

def sleep(folder, i):
    (Path(folder) / f"pid-{i}").write_text(str(os.getpid()))
    time.sleep(300)
    return {"i": [i]}
"""


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_request_to_end_is_recorded_and_ends_the_workers(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "tests_slow.py").write_text(SLEEP)
    folder = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": f"{runner.ROOT}{os.pathsep}{tmp_path}"}
    child = subprocess.Popen(
        [sys.executable, tmp_path / "slow.py", folder], env=environment, stderr=subprocess.PIPE
    )
    try:
        marks = [folder / f"pid-{i}" for i in range(2)]
        end = time.monotonic() + 60
        while not all(mark.exists() and mark.read_text() for mark in marks):
            assert time.monotonic() < end
            assert child.poll() is None, child.stderr.read().decode()
            time.sleep(0.05)
        workers = [int(mark.read_text()) for mark in marks]
        child.terminate()
        assert child.wait(timeout=30) == 143
        with child.stderr as text:
            assert b"Traceback" not in text.read()
    finally:
        child.kill()
    (session,) = json.loads((folder / "run.json").read_text())["sessions"]
    assert session["status"] == "interrupted"
    end = time.monotonic() + 10
    while any(map(alive, workers)):
        assert time.monotonic() < end, "workers live on"
        time.sleep(0.05)


def test_a_finished_run_has_one_file_for_its_jobs_and_takes_them_up(run, marks):
    console = Console(file=io.StringIO(), width=500)
    jobs = jobs_of(marks, range(3))
    run_jobs(run, jobs, OwnProcess(), console)
    before = [run.result(job) for job in jobs]
    run.pack(jobs)
    assert [path.name for path in run.path.iterdir()] == ["jobs.json"]
    again = RunFolder(run.path, "demo", CONFIGURATION)
    assert run_jobs(again, jobs_of(marks, range(4)), OwnProcess(), console) == 3
    assert [again.result(job) for job in jobs] == before
    # What came since is there beside them, and joins them.
    assert [path.name for path in (run.path / "jobs").iterdir()] == [
        run.job_path(jobs_of(marks, [3])[0]).name
    ]
    again.pack(jobs_of(marks, range(4)))
    whole = (run.path / "jobs.json").read_bytes()
    assert len(list(marks.iterdir())) == 4
    assert not console.file.getvalue().count("warning")
    for damage, said, reused in (
        (whole[:-40], "not JSON, or cut off", 0),
        (b"[1]", "expected fields by name", 0),
        (whole.replace(b"0.1", b"0.2", 1), "changed since it was written", 3),
        (whole.replace(b"0.1", b"\\ud800", 1), "changed since it was written", 3),
    ):
        (run.path / "jobs.json").write_bytes(damage)
        damaged = RunFolder(run.path, "demo", CONFIGURATION)
        assert run_jobs(damaged, jobs_of(marks, range(4)), OwnProcess(), console) == reused
        assert said in console.file.getvalue()
        damaged.pack(jobs_of(marks, range(4)))
        assert (run.path / "jobs.json").read_bytes() == whole
        console.file.truncate(0)


def test_a_run_that_was_killed_before_its_record_goes_on_and_nothing_half_written_stays(tmp_path):
    folder = tmp_path / "run"
    (folder / "jobs").mkdir(parents=True)
    for half in (folder / ".run.json.x1y2.part", folder / "jobs" / ".1.csv.x1y2.part"):
        half.write_text("{")
    with RunFolder.open(folder, "demo", CONFIGURATION).session("demo", 1):
        pass
    assert sorted(path.name for path in folder.rglob("*")) == ["jobs", "run.json"]


def test_a_library_that_cannot_write_is_told_with_the_folder(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}: cannot be written: No space left"), writing(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), writing(tmp_path):
        (tmp_path / "none").read_text()
