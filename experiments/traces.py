"""What a trace of requests holds, and what reading it takes: `python -m experiments.traces --help`.

Printed: a line of JSON for each file with its format, its requests, their times and lengths, and the seconds and
memory that reading took, each file in a process of its own. `--make ROWS` writes files to try: made-up requests in the
form of Azure's traces of 2024.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from rich.console import Console

from experiments.capacity.traces import make_trace, measure_reading
from experiments.common.command import command_line, say
from experiments.common.options import Reading, Traces, reading, words
from experiments.common.study import json_text
from papi_env.errors import ConfigurationError

MOST_ROWS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Config(Reading):
    """Say what traces hold, and what reading them takes.

    python -m experiments.traces --trace AzureLLMInferenceTrace_conv.csv
    """

    trace: Traces = ()
    start: Annotated[float | None, words("SECONDS")] = None
    """Read requests from here on, in seconds since the first row of the file (default: from the first)."""
    window: Annotated[float | None, words("SECONDS")] = None
    """Length of what is read (default: to the end)."""
    make: Annotated[int | None, words("ROWS")] = None
    """Write so many made-up requests to --trace first, a file that does not exist; gzip where it ends in .gz."""


def run(config: Config, command: str, console: Console, progress: Console) -> None:
    """Make the file if asked to, read all, and print.

    Raises:
        ConfigurationError, DataError: something cannot be used as asked.
    """
    if not config.trace:
        raise ConfigurationError("--trace names no file, expected at least one")
    if config.make is not None:
        if len(config.trace) > 1 or not 1 <= config.make <= MOST_ROWS:
            raise ConfigurationError(
                f"--make is {config.make} for {len(config.trace)} files, expected 1 to {MOST_ROWS} rows for one"
            )
        with progress.status("making a trace"):
            make_trace(config.trace[0], config.make)
    for path in config.trace:
        found = measure_reading(path, start_s=config.start, window_s=config.window, **reading(config))
        say(console, json_text(found, indent=None).rstrip())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("traces", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
