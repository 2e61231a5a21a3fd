"""The processes of a command, found in /proc, and how they are killed: all at once, or one that runs jobs."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from papi_env.errors import ConfigurationError

PROC = Path("/proc")
# What processes that run jobs are called: those of joblib's loky, and Ray's.
_WORKERS = ("popen_loky_posix", "ray::")
# Of Ray's, those that run none: in stock, and its node's own agents, without which the node ends itself.
_WITHOUT_JOBS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


def check_system() -> None:
    """Raise ConfigurationError where processes cannot be found."""
    if not (PROC / "self" / "stat").exists():
        raise ConfigurationError(f"{PROC}: not there; killing processes needs a system that lists them so")


def _running() -> dict[int, tuple[int, int]]:
    """The parent and the session of every process that runs."""
    found = {}
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            # The name before it may hold anything, brackets too.
            state, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                found[int(folder.name)] = (int(parent), int(session))
    return found


def descendants(root: int) -> list[int]:
    """Processes that a process started, those that they started, and so on; of a session that it leads, all others."""
    running, found = _running(), [root]
    for pid in found:
        found += [child for child, (parent, _) in running.items() if parent == pid]
    return [
        *found[1:],
        *(pid for pid, (_, session) in running.items() if session == root and pid not in found),
    ]


def workers_of(root: int) -> list[int]:
    """Descendants of a process that run jobs."""
    found = []
    for pid in descendants(root):
        with suppress(OSError):
            called = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            idle = any(name in called for name in _WITHOUT_JOBS)
            if not idle and any(name in called for name in _WORKERS):
                found.append(pid)
    return sorted(found)


def kill(pid: int) -> None:
    """End a process at once, as a lack of memory does."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_all(root: int) -> None:
    """End a process and all its descendants at once, as a power cut does."""
    for pid in (root, *descendants(root)):
        kill(pid)
