"""What every command line shares: how it is read, how it ends, and where it prints."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import tyro
from rich.console import Console

from experiments.common.ending import Terminated, terminable
from experiments.common.options import Spelling, respell
from papi_env.errors import ConfigurationError, DataError

WIDTH = 100
Config = TypeVar("Config")


def command_line(
    name: str,
    config: type[Config],
    run: Callable[[Config, str, Console, Console], object],
    arguments: Sequence[str] | None = None,
    spellings: Sequence[Spelling] = (),
) -> int:
    """Read a command line and run it; returns the exit status, see `exit_status`.

    Args:
        name: of the module in `experiments`.
        config: a dataclass whose fields are the options.
        run: takes the configuration, the command as recorded, a console for results and one for everything else.
        arguments: without the program's name (default: those of this process).
        spellings: options of earlier versions that are still understood.
    """
    for stream in (sys.stdout, sys.stderr):
        # An encoding without the signs of a table loses those, not the table.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    program = f"python -m experiments.{name}"
    asked = tyro.cli(config, args=respell(arguments, spellings), prog=program)
    command = f"{program} {shlex.join(arguments)}".strip()
    return exit_status(lambda: run(asked, command, output(), Console(stderr=True)))


def exit_status(run: Callable[[], object]) -> int:
    """Run a command: 0, 2 with one line on standard error for what cannot be used as asked or written.

    130 if interrupted, 143 if asked to end (SIGTERM).
    """
    try:
        with terminable():
            run()
    except (ConfigurationError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # A full disk, one that takes no changes, a name that is too long: whatever was being written.
        if error.errno is None:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        return 2
    except Terminated:
        return 143
    except KeyboardInterrupt:
        return 130
    return 0


def output() -> Console:
    """Standard output, as wide as the tables where it is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def say(console: Console, text: str) -> None:
    """Print a line as it is: no markup, no colours, no breaks."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def can_go_on(progress: Console, how: str) -> Iterator[None]:
    """Say how to go on, should what runs inside be interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        say(progress, f"interrupted; {how} goes on")
        raise
