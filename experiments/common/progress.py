"""What a command shows while it works: on a terminal a view that changes, in a log a line now and then.

`--watch` adds to it how fast jobs are done and what is best so far. All of it goes to standard error, and nothing of it
to run folders.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, NamedTuple

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.status import Status
from rich.table import Table
from rich.text import Text

# chosen: a log says what takes longer than the first of these, and says so again after each of the second.
SILENT_S, AGAIN_S = 5.0, 60.0
# chosen: how many of the best are shown, and how often finished jobs are looked at.
_BEST, _LOOK_S = 5, 0.5


class Progressing(Console):
    """Standard error of a command; its `status` speaks in a log as well.

    Attributes:
        watch: whether what is best so far is asked for.
        standing: what that is.
    """

    def __init__(self, watch: bool = False) -> None:
        super().__init__(stderr=True)
        self.watch, self.standing = watch, Standing()

    def status(self, status: RenderableType, **options: Any) -> Status:
        """See `Console.status`: words with a spinner; in a log the words, once they have been true for a while."""
        return super().status(status, **options) if self.is_terminal else _Spoken(status, self)


class _Spoken(Status):
    """Words in a log, as lines with the seconds since they became true."""

    def __init__(self, status: RenderableType, console: Console) -> None:
        super().__init__(status, console=console)
        self._words, self._over, self._lines = status, threading.Event(), console

    def start(self) -> None:
        """Wait for the time to speak, beside what is done."""
        self._over.clear()
        threading.Thread(target=self._speak, args=(time.perf_counter(),), daemon=True).start()

    def stop(self) -> None:
        """Say no more."""
        self._over.set()

    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        """Have other words."""
        self._words = self._words if status is None else status

    def _speak(self, began: float) -> None:
        wait = SILENT_S
        while not self._over.wait(wait):
            spent = time.perf_counter() - began
            self._lines.print(
                f"{self._words}: {spent:.0f} s so far", markup=False, highlight=False, soft_wrap=True
            )
            wait = AGAIN_S


# A `Score` as plain data.
Plain = tuple[str, str, float, str]


class Score(NamedTuple):
    """How well something that a job played did, for people who watch.

    Attributes:
        setting: what it was played on; empty where all are compared with all.
        name: what did.
        value: more is better, within a setting.
        shown: the value, in words.
    """

    setting: str
    name: str
    value: float
    shown: str


class Standing:
    """What is best so far: by how many settings it leads, or by its value where there is one setting alone."""

    def __init__(self) -> None:
        # By setting: those that share the lead, by name.
        self._leaders: dict[str, dict[str, Score]] = {}
        self._best: dict[str, Score] = {}

    def take(self, scores: Iterable[Plain]) -> None:
        """Take note of scores that have come in; equal ones share the lead."""
        for score in (Score(*one) for one in scores):
            if score.name not in self._best or score.value > self._best[score.name].value:
                self._best[score.name] = score
            leaders = self._leaders.setdefault(score.setting, {})
            most = max((leader.value for leader in leaders.values()), default=score.value)
            if score.value > most:
                leaders.clear()
            if score.value >= most:
                leaders[score.name] = score

    def lines(self) -> list[str]:
        """The best ones, from the first on."""
        count = len(self._leaders)
        if count < 2:
            ranked = sorted(self._best.values(), key=lambda score: -score.value)
            return [f"{score.name} ({score.shown})" for score in ranked[:_BEST]]
        leads = Counter(name for leaders in self._leaders.values() for name in leaders).most_common(_BEST)
        return [f"{name} (best in {lead} of {count} settings)" for name, lead in leads]


class Bars(Progress):
    """A bar with the rate of jobs, and with --watch what is best so far below it."""

    below: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, and what stands below."""
        yield self.make_tasks_table(self.tasks)
        if self.below is not None:
            yield self.below


class JobsView:
    """Shows how far jobs have come: `with JobsView(...) as view`, and `view.ended(label)` after each.

    Args:
        console: where; a `Progressing` one may ask for what is best so far.
        total, done: jobs in all, and those that had a result before.
        scores: of jobs that have ended since it was last called.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        done: int,
        scores: Callable[[], Iterable[Plain]] = tuple,
    ) -> None:
        self._console, self._total, self._first, self._done = console, total, done, done
        self._watch = getattr(console, "watch", False)
        # A run that comes in several parts keeps what was best in the earlier ones.
        self._scores, self._standing = scores, getattr(console, "standing", None) or Standing()
        self._began = self._looked = time.perf_counter()
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            *([TextColumn("{task.fields[rate]}", markup=False)] if self._watch else []),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        ]
        self._bars = Bars(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bar = self._bars.add_task("starting", total=total, completed=done, rate="")

    def __enter__(self) -> JobsView:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._bars.stop()

    def ended(self, label: str, count: int = 1) -> None:
        """A job has ended, or `count` of them."""
        before, self._done = self._done, self._done + count
        rate = self._rate()
        self._bars.update(self._bar, completed=self._done, description=label, rate=f"{rate:.3g}/s")
        now = time.perf_counter()
        if (
            self._watch
            and self._console.is_terminal
            and (now - self._looked > _LOOK_S or self._done == self._total)
        ):
            self._looked = now
            self._standing.take(self._scores())
            self._bars.below = _best(self._standing.lines())
        # A log gets a line for every tenth of the work.
        if not self._console.is_terminal and 10 * self._done // self._total > 10 * before // self._total:
            self._console.print(self._line(rate), markup=False, highlight=False, soft_wrap=True)

    def _rate(self) -> float:
        """Jobs a second, of those that ran now."""
        return (self._done - self._first) / max(time.perf_counter() - self._began, 1e-9)

    def _line(self, rate: float) -> str:
        line = f"{self._done} of {self._total} jobs"
        if not self._watch:
            return line
        self._standing.take(self._scores())
        best = "".join(f"; best so far: {one}" for one in self._standing.lines()[:1])
        return f"{line}, {rate:.3g}/s, {(self._total - self._done) / rate:.0f} s left{best}"


def _best(lines: Iterable[str]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for number, line in enumerate(lines):
        table.add_row("best so far" if number == 0 else "", Text(line))
    return table
