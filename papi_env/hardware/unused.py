"""What a system's PIM units declare to run and never do, because nothing can choose it."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from papi_env.hardware.system import System
from papi_env.hardware.units import KernelKind, PimUnit, UnitName

_FIELDS: dict[UnitName, str] = {"pu": "pu", "fc-pim": "fc_pim", "attn-pim": "attn_pim"}


class NeverChosenWarning(UserWarning):
    """Of what `NeverChosen.describe` says."""


class NeverChosen(NamedTuple):
    """Kernels that a unit's `runs` name and that never run on it.

    `default` is where they run instead; `idle` says that the unit never runs anything at all.
    """

    unit: UnitName
    kernel: KernelKind
    default: UnitName
    idle: bool

    def describe(self, system: System, chooser: str) -> str:
        """One line about it; `chooser` is what makes the choices, such as an environment's name."""
        rest = ", and the unit never runs anything" if self.idle else ""
        return (
            f"System {system.name!r}: {_FIELDS[self.unit]}.runs names {self.kernel!r}, but {chooser} never chooses it "
            f"for that: no action dispatches {self.kernel} kernels, and their default is {self.default!r}{rest}"
        )


# What has been said in this process.
_said: set[str] = set()


def warn_once(message: str) -> None:
    """Warn of a unit that is never chosen: once in a process, however many environments have it."""
    if message not in _said:
        _said.add(message)
        warnings.warn(message, NeverChosenWarning, stacklevel=2)


@contextmanager
def kept_quiet() -> Iterator[list[str]]:
    """Collect what `warn_once` would say for the first time within, as if it had not been called."""
    before, found = set(_said), list[str]()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NeverChosenWarning)
            yield found
    finally:
        found += sorted(_said - before)
        _said.intersection_update(before)


def never_chosen(
    system: System, chosen: Collection[KernelKind], run: Collection[KernelKind] = ("fc", "attention")
) -> tuple[NeverChosen, ...]:
    """Kernels of PIM units that no action and no default can ever put there.

    Kernels that actions dispatch may run on every unit that can run them, others run on `System.unit_of`. GPUs
    run everything, which is no promise: they are left out.

    Args:
        chosen: the kernels that actions dispatch.
        run: the kernels that there are at all; of others nothing is said.
    """
    found = []
    for name in _FIELDS:
        unit = system.unit(name)
        if not isinstance(unit, PimUnit):
            continue
        used = {kind for kind in unit.runs if kind in chosen or system.unit_of(kind) == name}
        for kind in dict.fromkeys(unit.runs):
            default = system.unit_of(kind)
            if kind in run and kind not in used and default is not None:
                found.append(NeverChosen(name, kind, default, idle=not used))
    return tuple(found)
