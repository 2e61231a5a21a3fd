"""Run folders and the jobs in them: what ran is written down, and a finished job is never run twice.

A run folder holds `run.json` (what was asked, and every session that worked on it), one file per finished job under
`jobs/`, and the results; once a run is finished, `jobs.json` holds all jobs' files. Files appear whole or not at all. A
job's file is named by a hash of everything that its result depends on, code and versions included: an interrupted run
goes on where it stopped, and a job whose inputs have changed since is run again. So is one whose file is damaged: its
last line is a digest of the others.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib

import papi_env
from papi_env.errors import ConfigurationError, DataError
from papi_env.files import JSON_BYTES, is_packed, read_bounded, read_json
from papi_env.simulation.processor import instructions, processor

try:
    import fcntl
except ImportError:  # not on Windows, where folders have no such locks
    fcntl = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parents[2]
RUNS = Path("runs")
# What moves a number: the simulator and the policies. Reports and pictures do not.
_SOURCES = (Path(papi_env.__file__).parent, ROOT / "agents")
_SOURCE_SUFFIXES = (".py", ".json", ".safetensors")
_PACKAGES = ("numpy", "numba", "gymnasium")
# Before the digest in the last line of a job's file.
_DIGEST = b"# sha256 "
# Ends the name of a file that is being written, which begins with a dot.
_PART = ".part"

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Job:
    """One call whose result is stored.

    Attributes:
        label: what the progress bar shows.
        spec: plain data that names everything the result depends on, apart from code and versions.
        function: returns columns of equal length, name to values. Other processes import it.
        arguments: of the call; they must pickle.
        scores: how well what the job played did, of the CSV text of its result, as `progress.Score`s.
    """

    label: str
    spec: Mapping[str, Any]
    function: Callable[..., Columns]
    arguments: tuple[Any, ...]
    scores: Callable[[bytes], Iterable[tuple[str, str, float, str]]] | None = None

    @property
    def key(self) -> str:
        """The name of the job's file: a hash of `spec`, the source code and the versions."""
        code = [source_digest(), file_digest(inspect.getfile(self.function)), self.function.__qualname__]
        return digest(canonical({"spec": self.spec, "code": code, "versions": versions()}))[:20]


@dataclass
class RunFolder:
    """A folder in which one configuration of one experiment runs, in one session or several.

    Attributes:
        path: of the folder.
        experiment: the command that runs in it.
        configuration: what was asked, as plain data.
        sessions: entries of run.json.
        damaged: what was found damaged, and what is done about it, a line each.
    """

    path: Path
    experiment: str
    configuration: Mapping[str, Any]
    sessions: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    _packed: dict[str, bytes] | None = None

    @classmethod
    def open(cls, path: Path | None, experiment: str, configuration: Mapping[str, Any]) -> RunFolder:
        """A new folder (`runs/EXPERIMENT-TIME` by default), or one to go on in.

        Raises:
            ConfigurationError: `path` holds a run of another configuration, or something else.
        """
        if path is None:
            path = RUNS / f"{experiment}-{datetime.now():%Y%m%d-%H%M%S}"
        run = cls(path, experiment, json.loads(canonical(configuration)))
        make_folder(path, run._go_on)
        return run

    def _go_on(self) -> None:
        """Take over the sessions of the run that the folder holds, which must be this one."""
        record = self.path / "run.json"
        if not record.exists():
            # A run that was killed at once leaves an empty folder for jobs, or a part of its record.
            begun = ("jobs", *(path.name for path in self.path.glob(f"*{_PART}")))
            if not self.path.is_dir() or any(path.name not in begun for path in self.path.iterdir()):
                raise ConfigurationError(f"{self.path}: exists and holds no run; choose another folder")
            return
        try:
            old = read_record(record)
        except DataError as error:
            raise DataError(f"{error}; choose another folder") from None
        asked, self.sessions, experiment = old["configuration"], old["sessions"], old["experiment"]
        if experiment != self.experiment:
            raise ConfigurationError(
                f"{self.path}: holds a run of {experiment!r}, not of {self.experiment!r}; choose another folder"
            )
        changes = list(differences(asked, self.configuration))
        if changes:
            raise ConfigurationError(
                f"{self.path}: holds a run of another configuration; choose another folder, or repeat its "
                f"options to go on. {listed(changes)}"
            )

    def job_path(self, job: Job) -> Path:
        """Where a job's result is, once it has one."""
        return self.path / "jobs" / f"{job.key}.csv"

    def keep(self, job: Job, text: bytes) -> None:
        """Store the CSV text of a job that has finished.

        Raises:
            DataError: it cannot be written.
        """
        path = self.job_path(job)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, signed(text))

    def has(self, job: Job) -> bool:
        """Whether a job has a result, which may be damaged."""
        return self.job_path(job).exists() or self.job_path(job).name in self._finished()

    def result(self, job: Job) -> bytes:
        """The CSV text of a finished job.

        Raises:
            DataError: it is not there, or is damaged.
        """
        path = self.job_path(job)
        if path.exists() or path.name not in self._finished():
            return checked(path, read_bounded(path, JSON_BYTES))
        return checked(self._pack / path.name, self._finished()[path.name])

    @property
    def _pack(self) -> Path:
        return self.path / "jobs.json"

    def _finished(self) -> dict[str, bytes]:
        """Files of the jobs of a session that has finished, by name."""
        if self._packed is None:
            self._packed = {}
            if self._pack.exists():
                try:
                    found = read_json(self._pack, JSON_BYTES)
                    self._packed = {name: str(text).encode(errors="replace") for name, text in found.items()}
                except DataError as error:
                    self.damaged.append(f"{error}: its jobs are run again")
        return self._packed

    def pack(self, jobs: Sequence[Job]) -> None:
        """Put the results of all jobs of the run in one file in place of their own, unless it would be too large.

        Raises:
            DataError: one is not there, or it cannot be written.
        """
        self._packed = {self.job_path(job).name: signed(self.result(job)) for job in jobs}
        texts = {name: text.decode() for name, text in sorted(self._packed.items())}
        data = (json.dumps(texts, indent=0, ensure_ascii=False) + "\n").encode()
        if len(data) > JSON_BYTES:
            return
        self.write(self._pack.name, data)
        shutil.rmtree(self.path / "jobs", ignore_errors=True)

    def write(self, name: str, content: str | bytes) -> None:
        """Write a result file, whole or not at all."""
        write_whole(self.path / name, content)

    @contextmanager
    def session(self, command: str, cores: int) -> Iterator[dict[str, Any]]:
        """Record a session in run.json: when it starts, and how it ends. Yields its entry, to add to.

        Raises:
            ConfigurationError: another run works in the folder.
            DataError: the folder cannot be written to.
        """
        with alone_in(self.path):
            if (self.path / "run.json").exists():
                self._go_on()  # once more: another run may have ended since
            for path in self.path.rglob(f".*{_PART}"):
                path.unlink(missing_ok=True)  # what a killed run was writing
            yield from self._session(command, cores)

    def _session(self, command: str, cores: int) -> Iterator[dict[str, Any]]:
        entry: dict[str, Any] = {
            "status": "running",
            "command": command,
            "started": _now(),
            "cores": cores,
            "machine": {
                "processor": processor(),
                "instructions": instructions(),
                "cpus": joblib.cpu_count(),
                "platform": platform.platform(),
            },
            "versions": dict(versions()),  # commands add theirs
            "source": {"digest": source_digest(), **git_state()},
        }
        self.sessions.append(entry)
        self._record()
        start = time.perf_counter()
        try:
            yield entry
            entry["status"] = "finished"
        except BaseException as error:
            entry["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else f"failed: {error}"
            with suppress(DataError):  # which would hide the error that came first
                self._end(entry, start)
            raise
        self._end(entry, start)

    def _end(self, entry: dict[str, Any], start: float) -> None:
        entry["finished"] = _now()
        entry["wall_s"] = round(time.perf_counter() - start, 2)
        self._record()

    def _record(self) -> None:
        record = {
            "experiment": self.experiment,
            "configuration": self.configuration,
            "sessions": self.sessions,
        }
        self.write("run.json", json.dumps(record, indent=1) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """What `run.json` says: `experiment`, `configuration` and `sessions`, each of its own type.

    Raises:
        DataError: it cannot be read, or is no such record.
    """
    try:
        found = read_json(path)
    except DataError as error:
        raise DataError(f"{error} (not the record of a run)") from None
    for name, kind in (("experiment", str), ("configuration", dict), ("sessions", list)):
        if not isinstance(found.get(name), kind):
            raise DataError(
                f"{path}: not the record of a run: {name} is {type(found.get(name)).__name__}, "
                f"expected {kind.__name__}"
            )
    for k, session in enumerate(found["sessions"]):
        if not isinstance(session, dict):
            raise DataError(
                f"{path}: not the record of a run: sessions.{k} is {type(session).__name__}, expected fields by name"
            )
    return found


def signed(text: bytes) -> bytes:
    """The content of a job's file: its CSV text, and the digest of that."""
    return text + _DIGEST + digest(text).encode() + b"\n"


def checked(path: Path, data: bytes) -> bytes:
    """The CSV text in the content of a job's file, checked against the digest in its last line.

    Raises:
        DataError: the content is cut off, has changed since it was written, or is packed.
    """
    text, mark, found = data.rpartition(_DIGEST)
    if not mark or found != digest(text).encode() + b"\n":
        raise DataError(f"{path}: cut off, or changed since it was written (its digest is another)")
    if is_packed(text):
        raise DataError(f"{path}: found packed data, expected a table as text")
    return text


def make_folder(path: Path, if_there: Callable[[], None] = lambda: None) -> None:
    """Make a folder and those that it is in; `if_there` is called first where there is something already.

    Raises:
        ConfigurationError: it cannot be made.
    """
    try:
        if path.exists():
            if_there()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        if isinstance(error, (ConfigurationError, DataError)):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"{path}: cannot be made: {reason}") from None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder: nobody else can at the same time. The lock ends with the process, however that ends.

    Raises:
        ConfigurationError: another run holds it.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"{folder}: another run works in it; wait for its end, or choose another folder"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say which file a library could not write, where it does not say so itself.

    Raises:
        DataError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that, whatever happens, it is there with all its content or unchanged.

    Raises:
        DataError: it cannot be written: a full disk, a folder that takes no changes, a name that is too long.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        _write_whole(path, data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def _write_whole(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; results are for everyone whom the user's own files are for.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def canonical(data: Any) -> str:
    """Plain data as JSON text that is the same for equal data."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def digest(data: str | bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    return digest(Path(path).read_bytes())


def differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Where two pieces of plain data differ, one line each: `seeds.count: 10 there, 20 asked`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (there, asked) in enumerate(zip(old, new, strict=True)):
            yield from differences(there, asked, f"{where}.{i}")
    elif old != new:
        there, asked = (text if len(text) <= 60 else f"{text[:57]}..." for text in (str(old), str(new)))
        if there == asked:
            yield f"{where}: not the same there as asked"
        else:
            yield f"{where}: {there} there, {asked} asked"


def listed(changes: Sequence[str], most: int = 3) -> str:
    """The first of some changes, and how many there are besides."""
    more = f" (and {len(changes) - most} more)" if len(changes) > most else ""
    return "; ".join(changes[:most]) + more


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that its numbers come from."""
    found = {"python": platform.python_version(), "papi_env": papi_env.__version__}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}


@lru_cache(maxsize=1)
def source_digest() -> str:
    """A hash of the source code of the simulator and the policies, and of the numbers that come with them."""
    files = {
        f"{folder.name}/{path.relative_to(folder).as_posix()}": file_digest(path)
        for folder in _SOURCES
        for path in sorted(folder.rglob("*"))
        if path.suffix in _SOURCE_SUFFIXES and path.is_file()
    }
    return digest(canonical(files))


def git_state() -> dict[str, Any]:
    """The checkout's commit, and whether files differ from it; both None outside a checkout."""
    commands = (["rev-parse", "--show-toplevel"], ["rev-parse", "HEAD"], ["status", "--porcelain"])
    try:
        top, commit, status = (
            subprocess.run(
                ["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=True, timeout=30
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        top = ""
    # A copy of the files inside somebody else's checkout has no commit of its own.
    if not top or Path(top).resolve() != ROOT:
        return {"commit": None, "modified": None}
    return {"commit": commit, "modified": bool(status)}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
