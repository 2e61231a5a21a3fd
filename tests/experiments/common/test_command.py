"""How commands end: with a line and a status, never with a traceback."""

import ctypes
import errno
import io
import os
import signal
import sys
import time

import pytest

from experiments.common.command import command_line, exit_status
from experiments.common.ending import Terminated, terminable
from papi_env.errors import ConfigurationError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENAMETOOLONG, errno.EACCES])
def test_a_disk_that_takes_nothing_is_named_in_a_line(capsys, number):
    def run():
        raise OSError(number, os.strerror(number), "results.csv")

    assert exit_status(run) == 2
    assert capsys.readouterr().err == f"error: results.csv: {os.strerror(number)}\n"


def test_a_request_to_end_is_an_interruption_with_a_status_of_its_own():
    before = signal.getsignal(signal.SIGTERM)
    assert exit_status(lambda: os.kill(os.getpid(), signal.SIGTERM)) == 143
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(Terminated), terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert issubclass(Terminated, KeyboardInterrupt)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_request_to_end_is_not_lost_in_a_callback(number, status):
    """A compiler's callback prints what is raised in it and goes on: a command lived on for minutes after SIGTERM."""

    @ctypes.CFUNCTYPE(None)
    def callback():
        signal.raise_signal(number)
        time.sleep(0)  # where the handler runs at the latest

    after = []

    def run():
        callback()
        after.append("the callback")
        time.sleep(10)
        after.append("everything")

    # A shell ignores Ctrl-C for what it starts in the background, and so would this process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert exit_status(run) == status
    finally:
        signal.signal(signal.SIGINT, before)
    assert after == ["the callback"]


def test_what_else_goes_no_further_is_told_as_before(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    @ctypes.CFUNCTYPE(None)
    def callback():
        raise ValueError("of a callback")

    assert exit_status(callback) == 0
    assert [what.exc_type for what in told] == [ValueError]


def test_an_encoding_without_the_signs_of_a_table_does_not_end_a_command(monkeypatch):
    class Config:
        """Nothing is asked."""

    monkeypatch.setattr("tyro.cli", lambda config, **_: config())
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)

    def run(config, command, console, progress):
        console.print("α ≤ 3 ─ end")
        raise ConfigurationError("no α")

    assert command_line("demo", Config, run, []) == 2
    output.flush()
    errors.flush()
    assert output.buffer.getvalue().decode("cp1252").rstrip() == "? ? 3 ? end"
    assert errors.buffer.getvalue().decode("cp1252") == "error: no ?\n"
