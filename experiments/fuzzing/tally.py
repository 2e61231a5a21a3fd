"""What came of inputs: how many were refused and accepted, the kinds of faults, the slowest, the memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

# What a process that reads writes: the number of the input that it reads, and what came of earlier ones.
AT, TALLY = "at", "tally.json"
# Faults of one kind that are kept with their numbers.
KEPT = 3


@dataclass
class Fault:
    """A kind of fault: what was raised and where; how often, and the first inputs that met it.

    Of inputs that cannot be made again from their numbers, `contents` has the file's name and its content in base 64.
    """

    error: str
    where: str
    count: int = 0
    numbers: list[int] = field(default_factory=list)
    message: str = ""
    contents: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Tally:
    """What came of the inputs up to `done`, which is the number of the next one."""

    done: int = 0
    refused: int = 0
    accepted: int = 0
    slowest_s: float = 0.0
    slowest: int = 0
    peak_bytes: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)

    @property
    def faulty(self) -> int:
        """Inputs that met a fault."""
        return sum(fault.count for fault in self.faults.values())

    def add(self, number: int, error: str, where: str, message: str = "") -> None:
        """Count a fault."""
        fault = self.faults.setdefault(f"{error} at {where}", Fault(error, where, message=message[:2000]))
        fault.count += 1
        if len(fault.numbers) < KEPT:
            fault.numbers.append(number)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def of(cls, data: dict[str, Any]) -> Tally:
        """From plain data."""
        faults = {key: Fault(**fault) for key, fault in data["faults"].items()}
        return cls(**{**data, "faults": faults})
