"""What one registered thing is, as lines of text."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from papi_env.commands import machine
from papi_env.commands.catalog import PLAYS, Kind, environment_class, policy_arguments, policy_class
from papi_env.commands.sources import field_sources
from papi_env.commands.wording import quantity, rows
from papi_env.definition import Definition, quantity_of
from papi_env.hardware.links import Link
from papi_env.hardware.system import System
from papi_env.hardware.units import ProcessingUnit
from papi_env.policies import policies
from papi_env.scenario import Scenario
from papi_env.workload.transformer import Transformer

WIDTH = 100


def describe(kind: Kind, name: str) -> list[str]:
    """Lines about the thing of a kind."""
    thing = kind.things()[name]
    lines = [f"{name}  ({kind.singular})"]
    if isinstance(thing, System):
        return [*lines, thing.description, *_system(thing)]
    if isinstance(thing, ProcessingUnit):
        return [
            *lines,
            *rows(machine.processing_unit(thing)),
            *_sources({thing.name: machine.source(thing.name)}),
        ]
    if isinstance(thing, Link):
        return [*lines, *rows(machine.link(thing)), *_sources({thing.name: machine.source(thing.name)})]
    if isinstance(thing, Scenario):
        return [*lines, *_scenario(thing)]
    if isinstance(thing, Definition):
        extra = _model(thing) if isinstance(thing, Transformer) else []
        return [*lines, *extra, *_fields(thing), *_sources({name: machine.source(name)})]
    if kind.plural == "policies":
        made = policy_class(name)
        arguments = policy_arguments(name) if inspect.isclass(made) else ""
        return [
            *lines,
            f"plays {'; '.join(PLAYS[each] for each in policies()[name])}",
            *([f"with {arguments}"] if arguments else []),
            *_prose(made),
        ]
    return [*lines, *_prose(environment_class(name))]


def _prose(thing: object) -> list[str]:
    return ["", *(inspect.getdoc(thing) or "").splitlines()]


def _system(system: System) -> list[str]:
    lines = []
    for title, facts in machine.system(system):
        lines += ["", title, *rows(facts)]
    return [*lines, *_sources(dict(machine.sources(system)))]


def _sources(found: Mapping[str, str]) -> list[str]:
    """A paragraph for each part, or parts together, that says where its numbers come from."""
    said: dict[str, list[str]] = {}
    for name, words in found.items():
        if words:
            said.setdefault(words, []).append(name)
    lines = ["", "sources"] if said else []
    for words, names in said.items():
        text = f"{', '.join(names)}: {words}"
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return lines


def _model(model: Transformer) -> list[str]:
    return rows(
        [
            ("weights", quantity(model.weight_bytes, "bytes")),
            ("KV cache", f"{quantity(model.kv_bytes_per_token, 'bytes')} a token"),
        ]
    )


def _scenario(scenario: Scenario) -> list[str]:
    lines = [scenario.description]
    table = [("system", f"{scenario.system.name}: {scenario.system.description}")]
    if scenario.model is not None:
        table.append(("model", f"{scenario.model.name}, weights {quantity(scenario.weight_bytes, 'bytes')}"))
    lines += rows(table)
    parts: dict[str, Definition | None] = {
        "workload": scenario.workload,
        "images": scenario.images,
        "serving": scenario.serving,
    }
    for title, part in parts.items():
        if part is not None:
            lines += ["", title, *_fields(part)]
    return lines


def _fields(part: Definition, indent: str = "  ") -> list[str]:
    """The fields of a definition that are not at their defaults of nothing, with their units and comments."""
    said = field_sources(type(part))
    plain, nested = [], []
    for name in type(part).model_fields:
        value = getattr(part, name)
        if value is None or name == "name" or value == () or value == {}:
            continue
        if isinstance(value, BaseModel):
            nested.append((name, value))
            continue
        words = said.get(name, "")
        plain.append(
            (name, _shown(part, name, value), textwrap.shorten(words, WIDTH - 40, placeholder=" ..."))
        )
    lines = rows(plain, indent)
    for name, value in nested:
        if isinstance(value, Definition):
            lines += [f"{indent}{name}", *_fields(value, indent + "  ")]
    return lines


def _shown(part: Definition, name: str, value: Any) -> str:
    kind = quantity_of(type(part), name)
    if kind is not None and isinstance(value, (int, float)) and not isinstance(value, bool):
        return quantity(value, kind.unit)
    if isinstance(value, (int, float)):
        return quantity(value, "")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_plain(item)}" for key, item in value.items())
    return textwrap.shorten(str(value), 60, placeholder=" ...")


def _plain(item: Any) -> str:
    return textwrap.shorten(str(item), 40, placeholder=" ...")
