"""What every command line shares: how it ends, and where it prints."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console

from papi_env.errors import ConfigurationError, DataError

WIDTH = 100


def exit_status(run: Callable[[], object]) -> int:
    """Run a command: 0, 2 with one line on standard error for what cannot be used as asked, 130 if interrupted."""
    try:
        run()
    except (ConfigurationError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def output() -> Console:
    """Standard output, as wide as the tables where it is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)
