"""How commands end: with a line and a status, never with a traceback."""

import errno
import io
import os
import signal
import sys

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
