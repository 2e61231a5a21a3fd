"""What reading a trace takes: seconds and the most memory, measured in a process of its own."""

from __future__ import annotations

import gzip
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from papi_env.errors import ConfigurationError, DataError
from papi_env.workload.traces import Trace, read_trace, sessions_of

# Rows that are made at once.
ROWS = 1_000_000
# Of made-up requests, a second; chosen: Azure's week of 2024 has 44 million requests, 73 a second.
RATE = 73.0
# Of prompts by length. chosen: enough to see a bend, with a thousand requests in each part of Azure's (range 5-50).
PARTS = 20
Int32s = npt.NDArray[np.int32]


def measure_reading(path: Path, **arguments: Any) -> dict[str, Any]:
    """What `read_trace` finds in a file, with `seconds` and memory in MiB as plain data.

    `peak_mib` is the most memory of a new process that does nothing else, `before_mib` what it had before reading.

    Raises:
        ConfigurationError, DataError: see `read_trace`.
    """
    # A new interpreter: memory that others used is not counted.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, path, arguments).result()


def make_trace(path: Path, rows: int, seed: int = 0) -> None:
    """Write made-up requests as Azure's traces of 2024 are written: Poisson arrivals, log-normal lengths.

    Raises:
        ConfigurationError: the file exists, or cannot be written.
    """
    generator = np.random.default_rng(seed)
    microseconds = np.datetime64("2024-05-10T00:00:00.009930", "us").astype(np.int64)
    try:
        with path.open("xb") as raw:
            packed = gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1) if path.suffix == ".gz" else None
            for start in range(0, rows, ROWS):
                count = min(ROWS, rows - start)
                gaps = np.rint(generator.exponential(1e6 / RATE, count)).astype(np.int64)
                times = microseconds + np.cumsum(gaps)
                microseconds = times[-1]
                frame = pl.DataFrame(
                    {
                        "TIMESTAMP": pl.Series(times)
                        .cast(pl.Datetime("us"))
                        .dt.strftime("%Y-%m-%d %H:%M:%S%.6f+00:00"),
                        "ContextTokens": np.clip(generator.lognormal(7.0, 1.0, count), 1, 100_000).astype(
                            np.int64
                        ),
                        "GeneratedTokens": np.clip(generator.lognormal(5.0, 1.0, count), 1, 8_000).astype(
                            np.int64
                        ),
                    }
                )
                (packed or raw).write(frame.write_csv(include_header=start == 0).encode())
            if packed is not None:
                packed.close()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be made: {error.strerror}") from None


def _measured(path: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    before = _peak_mib()
    start = time.perf_counter()
    trace = read_trace(path, **arguments)
    seconds, peak = time.perf_counter() - start, _peak_mib()
    times = trace.timestamps_s
    return {
        "trace": str(path),
        "file_mib": round(path.stat().st_size / 2**20, 1),
        "format": trace.format,
        "requests": len(trace),
        "without_tokens": trace.skipped,
        "note": trace.note,
        "first_s": None if times is None else float(times[0]),
        "last_s": None if times is None else float(times[-1]),
        "input_mean": round(float(trace.input_lengths.mean()), 3),
        "output_mean": round(float(trace.output_lengths.mean()), 3),
        "explained": round(explained(trace.input_lengths, trace.output_lengths), 4),
        "hashed_blocks": None if trace.hash_ids is None else sum(map(len, trace.hash_ids)),
        "seconds": round(seconds, 3),
        "before_mib": round(before, 1),
        "peak_mib": round(peak, 1),
        **_conversations(trace),
    }


def explained(inputs: Int32s, outputs: Int32s) -> float:
    """The share of the variance of outputs that prompts' lengths explain: of means in twenty parts of as many prompts.

    Args:
        inputs, outputs: int32 [requests]. A part has as many requests as another, but for equal prompts.
    """
    values = outputs.astype(np.float64)
    if not values.var():
        return 0.0
    borders = np.quantile(inputs, np.linspace(0, 1, PARTS + 1)[1:-1])
    part = np.searchsorted(borders, inputs, side="right")
    sizes = np.bincount(part, minlength=PARTS)
    means = np.bincount(part, values, PARTS) / np.maximum(sizes, 1)
    return float((sizes * (means - values.mean()) ** 2).sum() / len(values) / values.var())


def _conversations(trace: Trace) -> dict[str, Any]:
    """How many conversations hashes show, the most turns of one, and the share of prompt tokens that earlier turns had.

    Nothing where a trace has no hashes, or they are of blocks of another size than Mooncake's.
    """
    if trace.hash_ids is None:
        return {}
    with suppress(DataError):
        found = sessions_of(trace)
        return {
            "sessions": found.sessions,
            "most_turns": int(found.turn.max()) + 1,
            "shared": round(float(found.shared.sum() / trace.input_lengths.sum(dtype=np.int64)), 4),
        }
    return {}


def _peak_mib() -> float:
    """The most memory that this process had so far, without that of the process which started it."""
    with suppress(OSError):  # only Linux has it
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    # macOS counts in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
