"""One page of HTML from run folders: `python -m experiments.report --help`.

Takes folders of compare, headroom, leaderboard, reproduce, serve, sweep and train, and writes one file that needs no
network and no other file: tables to sort and filter, figures to zoom, and where every run comes from. The same folders
give the same file. Needs the extra `report` (Plotly).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.common.command import command_line, say
from experiments.common.options import words
from experiments.common.runner import write_whole
from papi_env.errors import ConfigurationError

# What the extra `report` brings.
_EXTRA = ("jinja2", "markupsafe", "plotly")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Write one page of HTML from run folders.

    python -m experiments.report runs/compare-20250101-120000 runs/mine --out mine.html
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...")] = ()
    """Run folders, in the order of the page."""
    out: Annotated[Path, words("FILE.html", "The file to write (default: report.html).")] = Path(
        "report.html"
    )
    title: Annotated[str, words("TEXT", "Of the page (default: Report of runs).")] = "Report of runs"


def run(config: Config, command: str, console: Console, progress: Console) -> Path:
    """Write the page, whose path is returned.

    Raises:
        ConfigurationError, DataError: a folder cannot be shown, Plotly is not there, or the file cannot be written.
    """
    if not config.runs:
        raise ConfigurationError("No run folder: name at least one, such as runs/compare-20250101-120000")
    twice = {path for path in config.runs if config.runs.count(path) > 1}
    if twice:
        raise ConfigurationError(f"{sorted(twice)[0]}: named twice, expected each run folder once")
    if config.out.is_dir() or config.out.suffix.lower() not in (".html", ".htm"):
        raise ConfigurationError(f"--out is {config.out}, expected the name of a file that ends with .html")
    try:
        # Here, for --help is quick without.
        from experiments.reporting.page import html_of
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise ConfigurationError(
            f"A report needs {error.name.partition('.')[0]}, which is not installed: pip install 'papi-env[report]'"
        ) from None
    from experiments.reporting.registry import sections_of

    with progress.status("reading runs"):
        page = html_of(config.title, sections_of(config.runs))
    write_whole(config.out, page)
    say(
        console,
        f"{config.out}: {len(config.runs)} run{'s' * (len(config.runs) > 1)}, {len(page.encode()) / 1e6:.1f} MB",
    )
    return config.out


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("report", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
