"""Compilation that is told of, and done once by processes that start together."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from papi_env.simulation import compiling
from papi_env.simulation.compiling import Compiling

PACKAGE = Path(compiling.__file__).resolve().parents[2]


@pytest.fixture
def said(monkeypatch):
    monkeypatch.setattr(compiling, "TELL_AFTER_S", 0.05)
    return []


def test_what_takes_long_is_told_and_what_is_over_soon_is_not(tmp_path, said):
    made = Compiling(tmp_path, said.append)
    made.begin(), made.end()
    time.sleep(0.15)
    assert said == []
    made.begin()
    made.begin()  # what it calls
    made.end()
    time.sleep(0.3)
    made.end()
    assert len(said) == 1
    assert str(tmp_path) in said[0]


@pytest.mark.skipif(compiling.fcntl is None, reason="no locks of files")
def test_another_process_waits_until_it_is_done(tmp_path, said):
    code = (
        "import sys, time, pathlib\nfrom papi_env.simulation.compiling import Compiling\n"
        "made = Compiling(pathlib.Path(sys.argv[1]), print)\n"
        "made.begin(); print('has it', flush=True); sys.stdin.readline(); made.end()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
    ) as other:
        assert other.stdout.readline() == "has it\n"
        made = Compiling(
            tmp_path, lambda line: (said.append(line), other.stdin.write("\n"), other.stdin.flush())
        )
        assert made.begin()
        made.end()
        assert other.wait(timeout=30) == 0
    assert "waiting for another process" in said[0]


def test_nothing_is_said_where_quiet_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(compiling, "_SAID", set())
    monkeypatch.setenv(compiling.QUIET, "1")
    compiling._say_once("words")
    monkeypatch.setenv(compiling.QUIET, "0")
    compiling._say_once("words"), compiling._say_once("words")
    assert capsys.readouterr().err == "words\n"
