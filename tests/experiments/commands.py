"""Commands called in this process, as tests of every command do."""

import contextlib
import io
import json


def called(main, *arguments):
    """(exit status, standard output, standard error) of a command's `main`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


def lose_a_job(folder):
    """Take a job's result out of a finished run."""
    file = folder / "jobs.json"
    results = json.loads(file.read_text())
    results.popitem()
    file.write_text(json.dumps(results))
