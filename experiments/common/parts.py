"""Rows of many jobs in Parquet files, part by part: what is in memory is one part, what is lost is what a part held.

The jobs of a part are run by `jobs.run_jobs`; when all are there, their rows become a file `parts/NUMBER-KEY-DIGEST`
and the jobs' own files go. KEY is a hash of the jobs' names, DIGEST of the content: a part that was made by other code,
is cut off or was changed is made again.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
from polars.datatypes import DataType
from rich.console import Console

from experiments.common.jobs import run_jobs
from experiments.common.pools import Pool
from experiments.common.runner import Job, RunFolder, canonical, digest
from papi_env.errors import DataError
from papi_env.files import JSON_BYTES, read_bounded
from papi_env.workload.traces import parquet

PARTS = "parts"
_NAMES = "[0-9]" * 6 + "-*-*.parquet"
_LENGTH = 16


def part_of(
    folder: RunFolder,
    number: int,
    jobs: Sequence[Job],
    schema: Mapping[str, type[DataType]],
    pool: Pool,
    console: Console,
) -> tuple[pl.DataFrame, int]:
    """The rows of some jobs, in their order: of the part's file, or of jobs that are run now and become the file.

    Args:
        folder: of the run.
        number: of the part.
        jobs: whose rows it holds.
        schema: the columns of the rows.
        pool: of processes.
        console: for progress and warnings.

    Returns:
        The rows, and how many jobs had a result already.

    Raises:
        DataError: the folder cannot be written to.
    """
    place = folder.path / PARTS
    place.mkdir(exist_ok=True)
    key = digest(canonical([job.key for job in jobs]))[:_LENGTH]
    kept = None
    for path in sorted(place.glob(f"{number:06d}-*.parquet")):
        found = _read(path, key, schema) if kept is None else None
        if found is None:
            path.unlink()  # of other code, or damaged
        else:
            kept = found
    reused = len(jobs)
    if kept is None:
        reused = run_jobs(folder, jobs, pool, console)
        rows = [pl.read_csv(folder.result(job), schema_overrides=schema).select(*schema) for job in jobs]
        kept = pl.concat(rows)
        content = io.BytesIO()
        kept.write_parquet(content)
        data = content.getvalue()
        folder.write(f"{PARTS}/{signed_name(number, key, data)}", data)
    for job in jobs:
        folder.job_path(job).unlink(missing_ok=True)
    return kept, reused


def signed_name(number: int, key: str, data: bytes) -> str:
    """The name of a part's file, which has a digest of its content in it."""
    return f"{number:06d}-{key}-{digest(data)[:_LENGTH]}.parquet"


def _read(path: Path, key: str, schema: Mapping[str, type[DataType]]) -> pl.DataFrame | None:
    """The rows of a part's file; None where it holds other jobs or columns, or is not what was written."""
    names = path.stem.split("-")
    if len(names) != 3 or names[1] != key:
        return None
    try:
        data = read_bounded(path, JSON_BYTES)
    except DataError:
        return None
    # What has the right digest may have been made to end the process that decodes it.
    if digest(data)[:_LENGTH] != names[2] or parquet.decode_apart(path) != 0:
        return None
    try:
        rows = pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, parquet.PANIC, OSError):
        return None
    return rows if dict(rows.schema) == dict(schema) else None


def finish(folder: RunFolder, count: int) -> None:
    """Leave the first `count` parts alone in the folder: no later ones of other code, no files of jobs."""
    for path in (folder.path / PARTS).glob(_NAMES):
        if int(path.stem.partition("-")[0]) >= count:
            path.unlink()
    shutil.rmtree(folder.path / "jobs", ignore_errors=True)


def scan(folder: Path, foreign: bool = False) -> pl.LazyFrame:
    """All rows of a run folder, read as they are needed; of a `foreign` one, which others may have written.

    Raises:
        DataError: a file of them cannot be read, or is not what was written.
    """
    paths = sorted((folder / PARTS).glob(_NAMES))
    for path in paths:
        if digest(read_bounded(path, JSON_BYTES))[:_LENGTH] != path.stem.rpartition("-")[2]:
            raise DataError(f"{path}: cut off, or changed since it was written (its digest is another)")
        if foreign and (status := parquet.decode_apart(path)) not in (0, 1):
            raise DataError(
                f"{path}: reading it ends the process, status {status}; expected a part of a sweep"
            )
    return pl.scan_parquet(paths, glob=False)
