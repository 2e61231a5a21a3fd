"""Reading published request traces: lengths in tokens, with arrival times, categories and block hashes.

A file's format is found by its content: CSV (any delimiter), JSON lines, JSON and Parquet, each also in gzip where
text. Formats known by their columns are in `formats.FORMATS`; any other is read by naming its columns. Text streams
through in pieces of bounded size, so that a window of a file that is larger than memory can be read. A file is read
or refused: an error names its line or row, the field, what was found there and what was expected.
"""

from papi_env.workload.traces.columns import TIME_EXPECTED, TIME_UNITS, TimeUnit
from papi_env.workload.traces.formats import FORMATS, Columns, Format
from papi_env.workload.traces.named import TraceForm, cached_trace, version_of
from papi_env.workload.traces.reading import read_trace
from papi_env.workload.traces.sessions import Sessions, sessions_of
from papi_env.workload.traces.tables import csv_rows, csv_text
from papi_env.workload.traces.trace import ContextCounts, Trace, TraceLengths, trace_lengths

__all__ = [
    "FORMATS",
    "TIME_EXPECTED",
    "TIME_UNITS",
    "Columns",
    "ContextCounts",
    "Format",
    "Sessions",
    "TimeUnit",
    "Trace",
    "TraceForm",
    "TraceLengths",
    "cached_trace",
    "csv_rows",
    "csv_text",
    "read_trace",
    "sessions_of",
    "trace_lengths",
    "version_of",
]
