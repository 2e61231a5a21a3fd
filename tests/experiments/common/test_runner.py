"""Run folders and jobs: nothing runs twice, nothing is half written, nothing is mixed."""

import io
import json
import os

import pytest
from rich.console import Console

from experiments.common import runner
from experiments.common.runner import Job, RunFolder, differences, run_jobs, write_whole
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
    assert run_jobs(run, jobs, cores, quiet) == 0
    assert run_jobs(run, jobs_of(marks, range(4)), 1, quiet) == 3
    assert len(list(marks.iterdir())) == 4
    assert run.job_path(jobs[2]).read_text() == 'number,square,none\n2,4,\n3,2.1,"a,b"\n'
    assert not [path for path in run.path.rglob(".*")]


def test_a_lost_job_is_run_again_to_the_same_bytes(run, marks, quiet):
    jobs = jobs_of(marks, range(3))
    run_jobs(run, jobs, 1, quiet)
    path = run.job_path(jobs[1])
    before = path.read_bytes()
    path.unlink()
    assert run_jobs(run, jobs, 1, quiet) == 2
    assert path.read_bytes() == before


def test_an_interruption_loses_only_the_job_in_flight_and_is_recorded(run, marks, quiet):
    jobs = [*jobs_of(marks, [0, 1]), *jobs_of(marks, [2], interrupt), *jobs_of(marks, [3])]
    with pytest.raises(KeyboardInterrupt), run.session("demo --now", 1):
        run_jobs(run, jobs, 1, quiet)
    assert [run.job_path(job).exists() for job in jobs] == [True, True, False, False]
    again = RunFolder.open(run.path, "demo", CONFIGURATION)
    with again.session("demo --again", 1):
        assert run_jobs(again, jobs_of(marks, range(4)), 1, quiet) == 2
    record = json.loads((run.path / "run.json").read_text())
    assert [(s["status"], s["command"]) for s in record["sessions"]] == [
        ("interrupted", "demo --now"),
        ("finished", "demo --again"),
    ]
    assert record["configuration"] == CONFIGURATION
    assert {"python", "numpy", "numba", "gymnasium", "papi_env"} <= set(record["sessions"][0]["versions"])
    assert {"digest", "commit", "modified"} <= set(record["sessions"][0]["source"])


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
    with pytest.raises(OSError, match="disk full"):
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
