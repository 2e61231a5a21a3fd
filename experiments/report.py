"""One page from run folders: `python -m experiments.report --help`.

Takes folders of compare, curves, distill, fuzz, headroom, kill, leaderboard, presets, reparameterize, reproduce,
scaling, serve, sweep, throughput, train, tune and validate, and writes one file of HTML that needs no network and no
other file: tables to sort and filter, figures to zoom, and where every run comes from. Several trainings stand together
first, with means over their seeds. It needs the extra `report` (Plotly). Where the file's name ends with .md it is a
page of results in Markdown: the command, processor and versions of each run, its tables, and its pictures. With
`--page` the tables go into the blocks of a page that is otherwise written by hand, such as RESULTS.md; a block may
hold one run or a loop of them. The same folders give the same file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from experiments.common.command import command_line, say
from experiments.common.options import words
from experiments.common.runner import write_whole
from papi_env.errors import ConfigurationError
from papi_env.files import JSON_BYTES, read_text

if TYPE_CHECKING:
    from experiments.reporting.content import Section

# What the extra `report` brings.
_EXTRA = ("jinja2", "markupsafe", "plotly")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Write one page from run folders: HTML to explore, or a page of results in Markdown.

    python -m experiments.report runs/compare-20250101-120000 runs/mine --out mine.html
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...")] = ()
    """Run folders, in the order of the page."""
    out: Annotated[Path, words("FILE.html|FILE.md", "The file to write (default: report.html).")] = Path(
        "report.html"
    )
    page: Annotated[
        Path | None,
        words(
            "FILE.md", "Fill the blocks of this page of Markdown instead, each from the runs of its command."
        ),
    ] = None
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
    if config.page is not None:
        return _fill(config.page, config.runs, console, progress)
    ending = config.out.suffix.lower()
    if config.out.is_dir() or ending not in (".html", ".htm", ".md"):
        raise ConfigurationError(
            f"--out is {config.out}, expected the name of a file that ends with .html or .md"
        )
    # Here, for --help is quick without.
    if ending == ".md":
        from experiments.reporting.markdown import markdown_of

        def write(sections: Sequence[Section]) -> str:
            return markdown_of(config.title, sections, config.out.parent)
    else:
        html_of = _html_of()

        def write(sections: Sequence[Section]) -> str:
            return html_of(config.title, sections)

    from experiments.reporting.registry import sections_of

    with progress.status("reading runs"):
        page = write(sections_of(config.runs))
    write_whole(config.out, page)
    say(
        console,
        f"{config.out}: {len(config.runs)} run{'s' * (len(config.runs) > 1)}, {_size(len(page.encode()))}",
    )
    return config.out


def _fill(path: Path, runs: Sequence[Path], console: Console, progress: Console) -> Path:
    """Fill the blocks of a page.

    Raises:
        ConfigurationError, DataError: as `run`, or a run belongs to no block.
    """
    from experiments.reporting.filling import filled
    from experiments.reporting.registry import section_of

    if not path.is_file():
        raise ConfigurationError(f"--page is {path}: no such file, expected a page with blocks")
    with progress.status("reading runs"):
        sections = [section_of(one) for one in runs]
        page, count = filled(read_text(path, JSON_BYTES), sections, str(path))
    write_whole(path, page)
    say(console, f"{path}: {count} block{'s' * (count > 1)} filled")
    return path


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def _html_of() -> Callable[[str, Sequence[Section]], str]:
    """What writes HTML.

    Raises:
        ConfigurationError: the extra is not installed.
    """
    try:
        from experiments.reporting.page import html_of
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise ConfigurationError(
            f"A report needs {error.name.partition('.')[0]}, which is not installed: pip install 'papi-env[report]'"
        ) from None
    return html_of


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 2 for what cannot be used as asked, 130 if interrupted."""
    return command_line("report", Config, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
