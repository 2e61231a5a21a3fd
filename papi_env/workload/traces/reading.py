"""`read_trace`: from a file of any known form to a trace, in bounded memory where a window is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from papi_env.errors import ConfigurationError, DataError, nearest
from papi_env.workload.traces.batches import Source, listed
from papi_env.workload.traces.columns import TimeUnit
from papi_env.workload.traces.documents import Conversations, Records, Result, open_json, opens_json
from papi_env.workload.traces.files import TextFile, is_parquet
from papi_env.workload.traces.formats import SHAREGPT, VLLM, Columns, Format, recognised
from papi_env.workload.traces.gather import Asked, Rows
from papi_env.workload.traces.parquet import Parquet
from papi_env.workload.traces.tables import Table
from papi_env.workload.traces.trace import Trace

# Characters of a token of English text are about 4 (OpenAI's tokenizer page); 1 to 16 allow for any language.
CHARACTERS = (1.0, 16.0)


def read_trace(
    path: str | Path,
    *,
    input_column: str | None = None,
    output_column: str | None = None,
    time_column: str | None = None,
    category_column: str | None = None,
    categories: Sequence[str] | None = None,
    delimiter: str | None = None,
    time_unit: TimeUnit | None = None,
    characters_per_token: float | None = None,
    start_s: float | None = None,
    window_s: float | None = None,
) -> Trace:
    """Read a file of requests: CSV, JSON lines, JSON, each also in gzip, or Parquet, found by its content.

    Text is UTF-8. A CSV file has one header line and blank lines at most at the end. Without `input_column` and
    `output_column` the names of the columns decide which of `FORMATS` it is, and it must hold every column of that
    format; with them, only the columns named are read. Lengths are whole numbers of tokens from 1 to 1,000,000; rows
    with none are left out and counted for formats in which failed requests have none, and errors elsewhere. Times
    never go back; they are either ISO 8601 dates and times with up to nine decimals of a second, or plain
    numbers, and differences are taken in whole nanoseconds. `categories` keeps the requests of these categories
    only; the rows it leaves out are checked all the same.

    Args:
        path: of the file.
        input_column, output_column: tokens of the prompt and of the answer.
        time_column, category_column: arrival times and categories, beside those of a known format too.
        categories: those to keep.
        delimiter: between the fields of a CSV file (default: a comma, or a tab where the header has only those).
        time_unit: "s", "ms", "us" or "ns", of times that are numbers (default: the format's, else seconds).
        characters_per_token: to estimate the lengths of conversations that are text, from 1 to 16.
        start_s, window_s: keep requests from `start_s` on (default: 0) for `window_s` seconds (default: to the end),
            both in seconds since the file's first row. What comes after the window is not looked at, and a file of
            any size is read in bounded memory.

    Raises DataError for a file that is not like this, naming file, line or row and field, what was found and
    what was expected; ConfigurationError for arguments that do not go together, for categories and windows that
    the file does not hold, and for more than 20,000,000 requests.
    """
    path = Path(path)
    asked = Asked(
        input_column,
        output_column,
        time_column,
        category_column,
        categories,
        delimiter,
        time_unit,
        start_s,
        window_s,
    )
    asked.check(path)
    if is_parquet(path):
        return _read(Parquet(path), None, asked)
    with TextFile(path) as file:
        if not opens_json(file.start):
            return _read(_table(file, asked), None, asked)
        source = open_json(file)
        if isinstance(source, Result):
            return _read(source, VLLM, asked)
        if "conversations" in source.first and input_column is None:
            trace = _read(_conversations(source, characters_per_token), SHAREGPT, asked)
            return replace(trace, note=f"tokens estimated, {characters_per_token:g} characters each")
        return _read(source, None, asked)


def _read(source: Source, known: Format | None, asked: Asked) -> Trace:
    """The rows of a source, of a known format where the form of the file says which."""
    path = source.path
    columns, unit, known = _columns(path, source, known, asked)
    for name in columns.named:
        _check_column(source, name, columns)
    if asked.windowed and columns.time is None:
        raise ConfigurationError(f"{path}: a window is asked for, and no time_column holds times")
    found = Rows(path, columns, unit, known, asked)
    lists = () if columns.hash_ids is None else (columns.hash_ids,)
    runs = () if known is None else tuple(name for name in known.one_of if name in source.header)
    names = dict.fromkeys((*(name for name in columns.named if name not in lists), *runs))
    for batch in source.rows(list(names), lists):
        found.add(found.first_run(batch, runs))
        if found.beyond:
            break
    return found.trace(source)


def _conversations(source: Records, characters: float | None) -> Conversations:
    low, high = CHARACTERS
    if characters is None:
        raise ConfigurationError(
            f"{source.path}: found conversations as text, which hold no token counts; "
            f"expected characters_per_token, an estimate from {low:g} to {high:g} (English text has about 4)"
        )
    if not low <= characters <= high:
        raise ConfigurationError(
            f"{source.path}: characters_per_token is {characters!r}, expected a number from {low:g} to {high:g}"
        )
    return Conversations(source, characters)


def _table(file: TextFile, asked: Asked) -> Table:
    """A CSV file; tabs are recognised where the header has no comma and is of a known format with them."""
    if asked.delimiter is not None:
        return Table(file, asked.delimiter)
    header = file.start.partition(b"\n")[0]
    if b"\t" in header and b"," not in header:
        return Table(file, "\t")
    return Table(file)


def _columns(
    path: Path, source: Source, known: Format | None, asked: Asked
) -> tuple[Columns, TimeUnit, Format | None]:
    """The columns to read, the unit of times that are numbers, and the format, None where columns are named."""
    if asked.input_column is not None and asked.output_column is not None:
        columns = Columns(
            input=asked.input_column,
            output=asked.output_column,
            time=asked.time_column,
            category=asked.category_column,
        )
        known = None
    else:
        known = known or recognised(source.head, source.header)
        own = known.present(source.header)
        columns = replace(
            own, time=asked.time_column or own.time, category=asked.category_column or own.category
        )
    if asked.categories is not None and columns.category is None:
        raise ConfigurationError(f"{path}: categories are asked for, and no category_column holds them")
    own_time = known is not None and columns.time == known.columns.time
    unit = asked.time_unit or (known.time_unit if known is not None and own_time else "s")
    return columns, unit, known


def _check_column(source: Source, name: str, columns: Columns) -> None:
    """Refuse a file that lacks the column `name`, or has it twice."""
    header, place = source.header, source.head
    count = list(header).count(name)
    if count > 1:
        raise DataError(f"{place}: field {name!r}: found {count} such columns, expected one")
    if not count:
        # `nearest` compares in lower case, and a column that is in use is not the one that is missing.
        free = {other.lower(): other for other in header if other not in columns.named}
        close = nearest(name, free)
        hint = f"did you mean {free[close]!r}? " if close else ""
        raise DataError(
            f"{place}: field {name!r}: found no such column, {hint}expected one of {listed(header)}"
        )
