"""From a design to its scenario: fields set by their paths, and proxies of what the machine takes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationError

from experiments.sweeping.definition import Axis, Design, Prices
from papi_env.definition import Definition
from papi_env.errors import ConfigurationError, describe_validation, unknown_field
from papi_env.hardware.system import System
from papi_env.hardware.units import PimUnit
from papi_env.scenario import Scenario, parse_scenario

# What is known of a machine before anything runs, and its unit.
PROXIES: Mapping[str, str] = {
    "dram_area_mm2": "mm2 of banks and FPUs on all dies of all PIM stacks",
    "fpu_area_mm2": "mm2 of FPUs on them",
    "rated_power_w": "W of all boards and stacks at their limits",
    "static_power_w": "W drawn whatever runs",
    "pim_capacity_bytes": "bytes of all PIM stacks",
    "cost": "what the file's prices add up to",
}


def check_path(path: str, where: str) -> None:
    """Raise ConfigurationError where a scenario has no such field, with the nearest name."""
    kinds: list[type[Definition]] = [Scenario]
    names = path.split(".")
    for k, name in enumerate(names):
        known = {field: info for kind in kinds for field, info in kind.model_fields.items()}
        if name not in known:
            above = ".".join(names[:k]) or "a scenario"
            raise ConfigurationError(f"{where}: {path}: {name}: {unknown_field(name, known)} (of {above})")
        kinds = [
            inner
            for kind in kinds
            if name in kind.model_fields
            for inner in _definitions(kind.model_fields[name].annotation)
        ]


def _definitions(annotation: Any) -> Iterator[type[Definition]]:
    """The definitions that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Definition):
        yield annotation
    for part in get_args(annotation):
        yield from _definitions(part)


def set_field(data: dict[str, Any], path: str, value: Any) -> None:
    """Set a field in a scenario's plain data; what stands there by name becomes a table that starts from it.

    Raises ConfigurationError: the scenario lacks the part that the field belongs to.
    """
    *above, last = path.split(".")
    for k, name in enumerate(above):
        inner = data.get(name)
        if isinstance(inner, str):
            inner = data[name] = {"base": inner}
        if not isinstance(inner, dict):
            part = ".".join(above[: k + 1])
            raise ConfigurationError(
                f"{path}: the scenario has no {part}, expected one whose fields are swept"
            )
        data = inner
    data[last] = copy.deepcopy(value)


def scenario_of(base: Mapping[str, Any], paths: tuple[str, ...], design: Design) -> Scenario:
    """The scenario of a design. Raises ConfigurationError: there is no such machine, as where banks exceed a die."""
    return parse_scenario(_changed(base, paths, design), f"scenario {base['name']!r}")


def _changed(base: Mapping[str, Any], paths: tuple[str, ...], design: Design) -> dict[str, Any]:
    data: dict[str, Any] = copy.deepcopy(dict(base))
    for path, value in zip(paths, design, strict=True):
        set_field(data, path, value)
    return data


def check_values(base: Mapping[str, Any], axis: Axis, where: str) -> None:
    """Raise ConfigurationError where a field can never hold a value: a mistake in the file, unlike a limit.

    What no machine can have together with the rest, such as more banks than a die holds, passes.
    """
    values = axis.listed() if axis.values is not None else [(axis.at(0.0),), (axis.at(1.0),)]
    for value in values:
        try:
            Scenario.model_validate(_changed(base, axis.paths, value))
        except ValidationError as error:
            for item in error.errors(include_url=False):
                found = ".".join(str(part) for part in item["loc"])
                for path, one in zip(axis.paths, value, strict=True):
                    if found.startswith(f"{path}.") or (found == path and not isinstance(one, Mapping)):
                        raise describe_validation(where, error) from None
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None


def proxies(system: System, prices: Prices | None) -> dict[str, float | None]:
    """`PROXIES` of a system; the cost is None where there are no prices, or none of its GPU.

    Area is that of memory dies: FPUs and banks as `Technology` has them (PAPI, section 5.2). GPUs' dies and a stack's
    base die are left out.
    """
    units = [unit for unit in (system.fc_pim, system.attn_pim) if unit is not None]
    fpus = sum(_fpu_area(unit) for unit in units)
    banks = sum(_banks(unit) * unit.stack.technology.bank_area_mm2 for unit in units)
    boards = 0.0 if system.pu is None else system.pu.count * system.pu.board_power_w
    cost = None
    if prices is not None and (system.pu is None or system.pu.name in prices.pu):
        cards = 0.0 if system.pu is None else system.pu.count * prices.pu[system.pu.name]
        cost = cards + prices.stack * sum(unit.stacks for unit in units) + prices.fpu_mm2 * fpus
    return {
        "dram_area_mm2": banks + fpus,
        "fpu_area_mm2": fpus,
        "rated_power_w": boards + sum(unit.stacks * unit.power_budget_w for unit in units),
        "static_power_w": system.static_power_w,
        "pim_capacity_bytes": float(sum(unit.capacity_bytes for unit in units)),
        "cost": cost,
    }


def _banks(unit: PimUnit) -> int:
    return unit.stacks * unit.stack.technology.dies * unit.stack.banks_per_die


def _fpu_area(unit: PimUnit) -> float:
    return _banks(unit) * unit.fpus_per_bank * unit.stack.technology.fpu_area_mm2
