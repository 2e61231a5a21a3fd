"""What runs calls: this process, or others; how they are had is said in `experiments.common.workers`.

Results come as they are done, with the number of their call; what they are depends on the calls alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from papi_env.errors import DataError

# chosen: a call that ended three processes would end a fourth; range 2-10.
TRIES = 3


class ProcessesLostError(DataError):
    """Processes that ran calls are gone, though what was asked can be done: the same command goes on."""


@dataclass(frozen=True)
class Call:
    """A function of a module, and its arguments, which must pickle; `label` is what people call it."""

    label: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()

    def run(self) -> Any:
        """The result."""
        return self.function(*self.arguments)


class Pool(ABC):
    """Processes that run calls, until it is closed."""

    # How many.
    size: int

    @abstractmethod
    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        """The number and the result of every call, in the order in which they are done.

        A call whose process dies is run again in another one, `TRIES` times in all.

        Raises:
            ProcessesLostError: the processes that ran a call died each time, or there are no more.
        """

    def map(self, calls: Sequence[Call]) -> list[Any]:
        """The results in the order of the calls; raises as `run` does."""
        found = dict(self.run(calls))
        return [found[number] for number in range(len(calls))]

    def close(self) -> None:  # noqa: B027  (some have nothing to end)
        """End the processes, whatever they are doing."""


class OwnProcess(Pool):
    """One call after the other, here."""

    size = 1

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        """See `Pool`."""
        for number, call in enumerate(calls):
            yield number, call.run()


def died(call: Call) -> ProcessesLostError:
    """What is said of a call that ended its processes."""
    return ProcessesLostError(
        f"{call.label}: the process that ran it died {TRIES} times (killed, out of memory, or a fault); everything "
        "else that was done is kept"
    )
