"""Killing a command at random moments until it has come to its end, and comparing that with a run in peace."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import IO, Any, Literal

from experiments.common.runner import ROOT
from experiments.killing.processes import kill, kill_all, workers_of
from experiments.killing.victims import VICTIMS, command, left_behind, results_of
from papi_env.errors import DataError

Target = Literal["all", "worker"]
# In words.
TARGETS: Mapping[Target, str] = {"all": "all processes", "worker": "one worker"}
# chosen: what the victims' jobs are spread over.
JOBS = 2
# Kills in a run, at most. chosen: so that work remains for later ones; one that loses a worker alone goes on.
MOST: Mapping[Target, int] = {"all": 3, "worker": 6}
# chosen: a hundred times what a victim takes on a core of its own; a run that takes longer hangs.
LIMIT_S = 900.0
_STEP_S = 0.02
# How a command ends that says what it cannot do, and what it says where that is for want of processes.
REFUSED = 2
_SAID = ("the process that ran it died", "the Ray cluster broke down")


@dataclass(frozen=True)
class Case:
    """What is killed, where its jobs run, and which of its processes."""

    name: str
    backend: str
    target: Target

    @property
    def options(self) -> tuple[str, ...]:
        """Of the command."""
        if not VICTIMS[self.name].parallel:
            return ()
        return ("--jobs", str(JOBS), "--backend", self.backend)


@dataclass
class Tally:
    """What was counted for a case: kills, runs, how often one was started; what was wrong, in words.

    `given_up` counts sessions that lost processes more often than they try, said so and ended: the next one goes on.
    """

    kills: int = 0
    runs: int = 0
    sessions: int = 0
    given_up: int = 0
    wrong: list[str] = field(default_factory=list)

    def plain(self, case: Case) -> dict[str, Any]:
        """With what it was counted for."""
        return {**asdict(case), **asdict(self)}


@dataclass(frozen=True)
class Peace:
    """A run that nobody killed: digests of its results, and the seconds after which it began and ended."""

    results: Mapping[str, str]
    begun_s: float
    ended_s: float

    def in_seconds(self, ended_s: float) -> Peace:
        """The same run in other seconds, begun at the same share of them."""
        return replace(self, begun_s=self.begun_s / self.ended_s * ended_s, ended_s=ended_s)


class Trials:
    """Runs of victims below a folder, where their inputs are too."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.rng = place, Random(seed)
        self._peace: dict[tuple[str, str], Peace] = {}

    def peace(self, case: Case) -> Peace:
        """An uninterrupted run with the same processes, which others are killed in the course of.

        Raises:
            DataError: it failed, or two such runs differ.
        """
        key = (case.name, case.backend)
        if key not in self._peace:
            others = [peace for (name, _), peace in self._peace.items() if name == case.name]
            # A command's first run may compile, which the moments of kills are not to be spread over.
            first = others[0] if others else self._in_peace(case, "first")
            found = self._in_peace(case, "peace")
            if not found.results or found.results != first.results:
                raise DataError(
                    f"{self.place}: {case.name} gives other results with --backend {case.backend}"
                )
            self._peace[key] = found
        return self._peace[key]

    def _in_peace(self, case: Case, which: str) -> Peace:
        out = self.place / f"{case.name}-{case.backend}-{which}"
        begun = [0.0]

        def watched(process: subprocess.Popen[bytes], passed: float) -> bool:
            if not begun[0] and (out / VICTIMS[case.name].mark).exists():
                begun[0] = passed
            return False

        start = time.monotonic()
        status = self._session(case, out, watched)
        if status != 0:
            raise DataError(f"{out}.log: {case.name} failed without having been killed (status {status})")
        return Peace(results_of(case.name, out), begun[0], time.monotonic() - start)

    def torn(self, case: Case, kills: int, tell: Callable[[str], None]) -> Tally:
        """Kill runs of a case until so many kills are done; each run goes on to its end and is compared."""
        tally, peace = Tally(), self.peace(case)
        while tally.kills < kills:
            out = self.place / f"{case.name}-{case.backend}-{case.target}-{tally.runs}"
            most = min(MOST[case.target], kills - tally.kills)
            before, start = tally.kills, time.monotonic()
            status = self._to_the_end(case, out, peace, most, tally)
            tally.runs += 1
            if tally.kills == before:
                # It was over before its moment came: the machine has less to do than it had.
                peace = self._peace[case.name, case.backend] = peace.in_seconds(time.monotonic() - start)
            wrong = [] if status == 0 else [f"{out}: ended with status {status}; see {out}.log"]
            if status == 0:
                found = results_of(case.name, out)
                names = sorted({*found, *peace.results})
                wrong += [f"{out}/{n}: differs" for n in names if found.get(n) != peace.results.get(n)]
                wrong += [f"{out}/{n}: left behind" for n in left_behind(out)]
            tally.wrong += wrong
            tell(
                f"{case.name}, {case.backend}, {case.target}: run {tally.runs}, {tally.kills - before} kills, "
                + ("; ".join(wrong) or "the same")
            )
            if status != 0:
                break
        return tally

    def _to_the_end(self, case: Case, out: Path, peace: Peace, most: int, tally: Tally) -> int:
        """Start a run until it ends by itself; the status of that."""
        left = most
        while True:
            # Mostly while it works, sometimes while it starts.
            first = peace.begun_s if self.rng.random() < 0.8 else 0.3
            moments = [self.rng.uniform(first, peace.ended_s)]
            killed = [0]

            def strike(process: subprocess.Popen[bytes], passed: float) -> bool:
                if not left - killed[0] or passed < moments[-1]:  # noqa: B023
                    return False
                if case.target == "all":
                    kill_all(process.pid)
                    killed[0] += 1  # noqa: B023
                    return True
                workers = workers_of(process.pid)
                if workers:
                    kill(self.rng.choice(workers))
                    killed[0] += 1  # noqa: B023
                    moments.append(passed + self.rng.uniform(0.5, 0.5 + peace.ended_s / 4))  # noqa: B023
                return False

            status = self._session(case, out, strike)
            tally.sessions += 1
            tally.kills += killed[0]
            left -= killed[0]
            if case.target == "worker" and killed[0] and status == REFUSED and _lost(out):
                tally.given_up += 1
                continue
            if case.target == "worker" or not killed[0]:
                return status

    def _session(self, case: Case, out: Path, act: Callable[[subprocess.Popen[bytes], float], bool]) -> int:
        """Run a victim in a folder, calling `act` all the while with the seconds passed; whether it has killed all."""
        with open(f"{out}.log", "ab") as log:
            process = self._start(case, out, log)
            start = time.monotonic()
            try:
                while process.poll() is None:
                    passed = time.monotonic() - start
                    if passed > LIMIT_S:
                        log.write(f"still running after {LIMIT_S:g} s\n".encode())
                        break
                    if act(process, passed):
                        break
                    time.sleep(_STEP_S)
            finally:
                kill_all(process.pid)
            return process.wait()

    def _start(self, case: Case, out: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        return subprocess.Popen(
            [sys.executable, *command(case.name, self.place, out, case.options)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,
        )


def _lost(out: Path) -> bool:
    """Whether the last thing that a session said is that its processes are gone, and what it does about it."""
    lines = Path(f"{out}.log").read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return bool(errors) and any(words in errors[-1] for words in _SAID)
