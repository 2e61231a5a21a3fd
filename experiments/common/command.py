"""What every command line shares: how it is read, how it ends, and where it prints."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console

from experiments.common.ending import Terminated, terminable
from experiments.common.options import Flag, Spelling, respell
from experiments.common.pools import ProcessesLostError
from experiments.common.progress import Progressing
from papi_env.errors import ConfigurationError, DataError

WIDTH = 100
_WATCH = "--watch"
Config = TypeVar("Config")


def command_line(
    name: str,
    config: type[Config],
    run: Callable[[Config, str, Console, Console], object],
    arguments: Sequence[str] | None = None,
    spellings: Sequence[Spelling] = (),
    watched: bool = False,
) -> int:
    """Read a command line and run it; returns the exit status, see `exit_status`.

    Args:
        name: of the module in `experiments`.
        config: a dataclass whose fields are the options.
        run: takes the configuration, the command as recorded, a console for results and one for everything else.
        arguments: without the program's name (default: those of this process).
        spellings: options of earlier versions that are still understood.
        watched: whether there is an option --watch, which changes what is shown and nothing else.
    """
    for stream in (sys.stdout, sys.stderr):
        # An encoding without the signs of a table loses those, not the table.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    program = f"python -m experiments.{name}"
    options: Any = _with_watch(config) if watched else config
    found = tyro.cli(options, args=respell(arguments, spellings), prog=program)
    asked = found
    if watched:
        # What is shown is no part of what is asked for, nor of the command as recorded.
        names = [option.name for option in fields(options) if option.name != "watch"]
        asked = config(**{name: getattr(found, name) for name in names})
    command = f"{program} {shlex.join(word for word in arguments if word != _WATCH)}".strip()
    return exit_status(lambda: run(asked, command, output(), Progressing(getattr(found, "watch", False))))


def _with_watch(config: type[Any]) -> type[Any]:
    """The options of a command, and --watch."""
    watch = Annotated[bool, Flag, tyro.conf.arg(help="Show the rate and what is best so far as well.")]
    more = make_dataclass(
        config.__name__, [("watch", watch, field(default=False))], bases=(config,), frozen=True, kw_only=True
    )
    more.__doc__, more.__module__ = config.__doc__, config.__module__
    return more


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
    """Say how to go on, should what runs inside be interrupted, or lose its processes.

    Raises:
        ProcessesLostError: that of what runs inside, with how to go on.
    """
    try:
        yield
    except ProcessesLostError as error:
        raise ProcessesLostError(f"{error}; {how} goes on") from None
    except KeyboardInterrupt:
        say(progress, f"interrupted; {how} goes on")
        raise
