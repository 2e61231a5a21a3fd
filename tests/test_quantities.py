"""Numbers of users are honest: in the unit expected, of a plausible size, and numbers at all."""

import importlib
import json
import math
import pkgutil
import types
from decimal import Decimal
from fractions import Fraction
from typing import Union, get_args, get_origin

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

import papi_env
from papi_env.definition import Definition
from papi_env.errors import ConfigurationError
from papi_env.hardware.gpus import GPUS
from papi_env.hardware.links import LINKS, Link
from papi_env.hardware.system import SYSTEMS, System
from papi_env.hardware.units import ProcessingUnit
from papi_env.quantities import QUANTITIES, Quantity, TruthValue
from papi_env.scenario import SCENARIOS, Scenario, get_scenario
from papi_env.workload.arrivals import ARRIVALS
from papi_env.workload.heat import Heat
from papi_env.workload.serving import DRAFTS, Drift
from papi_env.workload.transformer import TRANSFORMERS
from papi_env.workload.vision.network import REPMLPNETS

BILLION = 10**9
# All that is registered, and what is registered nowhere with its defaults.
REGISTERED = [
    *(*SYSTEMS.values(), *GPUS.values(), *LINKS.values(), *TRANSFORMERS.values(), *REPMLPNETS.values()),
    *(*SCENARIOS.values(), *ARRIVALS.values(), *DRAFTS.values(), Drift(), Heat()),
]


def models():
    """Every pydantic model of papi_env, from every module that there is."""
    for module in pkgutil.walk_packages(papi_env.__path__, "papi_env."):
        if "sb3" not in module.name:
            importlib.import_module(module.name)

    def below(model):
        return {model}.union(*map(below, model.__subclasses__()))

    return sorted(
        (m for m in below(BaseModel) if m.__module__.startswith("papi_env.") and m is not Definition),
        key=lambda model: model.__qualname__,
    )


def leaves(annotation, metadata=()):
    """The (type, metadata) pairs at the ends of an annotation: of unions, tuples and dictionaries."""
    if hasattr(annotation, "__metadata__"):
        return leaves(annotation.__origin__, (*metadata, *annotation.__metadata__))
    if get_origin(annotation) in (Union, types.UnionType, tuple, list, dict):
        inner = [part for part in get_args(annotation) if part not in (type(None), Ellipsis)]
        return [leaf for part in inner for leaf in leaves(part, metadata)]
    return [(annotation, metadata)]


def number_fields(model):
    """(name, quantity) of the fields of a model that are numbers, or None at most."""
    for name, field in model.model_fields.items():
        found = leaves(field.annotation, tuple(field.metadata))
        many = any(kind in str(field.annotation) for kind in ("tuple", "dict"))
        if len(found) == 1 and found[0][0] in (int, float) and not many:
            yield name, next(extra for extra in found[0][1] if isinstance(extra, Quantity))


def parts(value):
    """A registered definition and all the definitions within it."""
    yield value
    for name in type(value).model_fields:
        if isinstance(getattr(value, name), Definition):
            yield from parts(getattr(value, name))


def examples():
    """One (model, field, quantity, data, value) for each number that some registered definition has."""
    found = {}
    for whole in REGISTERED:
        for part in parts(whole):
            for name, quantity in number_fields(type(part)):
                value = getattr(part, name)
                if value is not None:
                    found.setdefault((type(part), name, value), (quantity, part.model_dump()))
    return [(model, name, *rest, value) for (model, name, value), rest in found.items()]


EXAMPLES = examples()
ONE_EACH = list({(model, name): (model, name, *rest) for model, name, *rest in EXAMPLES}.values())
each = pytest.mark.parametrize(
    ("model", "name", "quantity", "data", "value"),
    ONE_EACH,
    ids=[f"{model.__name__}.{name}" for model, name, *_ in ONE_EACH],
)


def refusal(model, data):
    with pytest.raises(ValidationError) as caught:
        model.model_validate(data)
    return str(caught.value)


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_number_of_every_model_is_in_the_table(model):
    assert issubclass(model, Definition)
    for name, field in model.model_fields.items():
        for kind, metadata in leaves(field.annotation, tuple(field.metadata)):
            if kind is bool:
                assert any(isinstance(extra, TruthValue) for extra in metadata), name
            elif kind in (int, float):
                found = [extra for extra in metadata if isinstance(extra, Quantity)]
                assert len(found) == 1, f"{name} has no type of papi_env.quantities"
                assert found[0].whole == (kind is int), name
            else:
                assert kind is not complex, name


def test_the_models_are_found():
    names = {model.__name__ for model in models()}
    assert {"System", "Link", "PimUnit", "Stack", "Scenario", "Workload", "Drift", "Arrivals"} <= names
    assert len(ONE_EACH) > 50


@pytest.mark.parametrize("kind", QUANTITIES)
def test_a_quantity_with_mistaken_units_has_a_range_on_both_sides(kind):
    quantity = QUANTITIES[kind]
    assert quantity.low <= quantity.typical <= quantity.high
    if quantity.mistakes:
        assert quantity.unit
        assert 0 < quantity.low < quantity.high < math.inf


def test_a_billion_times_too_large_or_too_small_is_refused_with_the_unit():
    for model, name, quantity, data, value in EXAMPLES:
        if value == 0 or math.isinf(quantity.high):
            continue
        factors = (BILLION, 1 / BILLION) if quantity.low > 0 else (BILLION,)
        for factor in factors:
            message = refusal(model, {**data, name: value * factor})
            assert f"\n{name}\n  found " in message, (model, name, value * factor)
            assert quantity.unit in message


@each
@pytest.mark.parametrize("wrong", ["text", "plain text", True, np.True_, b"1"], ids=repr)
def test_text_and_truth_values_are_no_numbers(model, name, quantity, data, value, wrong):
    given = repr(value).strip("'") if wrong == "text" else wrong
    message = refusal(model, {**data, name: given})
    what = "text" if isinstance(given, (str, bytes)) else "truth value"
    assert f"\n{name}\n  found the {what} " in message
    unit = "a whole number" if quantity.whole else quantity.unit
    assert f"expected a number{': ' if unit else ' from'}{unit}" in message


@each
def test_numbers_of_all_kinds_are_numbers(model, name, quantity, data, value):
    kinds = [np.float64, np.array, Fraction, Decimal]
    kinds += [np.int64, int] if value == int(value) else []
    for kind in kinds:
        found = getattr(model.model_validate({**data, name: kind(value)}), name)
        assert found == value
        assert type(found) is (int if quantity.whole else float)


@each
@pytest.mark.parametrize("wrong", [math.nan, math.inf, [1], {}, 1j], ids=repr)
def test_what_is_no_number_is_refused_by_field_and_expectation(model, name, quantity, data, value, wrong):
    message = refusal(model, {**data, name: wrong})
    assert f"\n{name}\n  found " in message
    assert "expected a finite number" in message or "expected a number" in message


def test_text_and_numbers_are_no_truth_values():
    data = TRANSFORMERS["llama-65b"].model_dump()
    for wrong in ("yes", "true", 1, 0.0, None):
        assert "\ngated\n  found " in refusal(type(TRANSFORMERS["llama-65b"]), {**data, "gated": wrong})
    assert "found the text 'yes', expected a boolean, true or false" in refusal(
        type(TRANSFORMERS["llama-65b"]), {**data, "gated": "yes"}
    )
    assert type(TRANSFORMERS["llama-65b"]).model_validate({**data, "gated": np.True_}).gated is True


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("pu.memory_bandwidth", 1935, "found 1935, expected B/s from 1e9 to 1e15 (did you mean 1.935e12, that is "
         "1935 GB/s?)"),
        ("pu.memory_bandwidth", 3.35, "(did you mean 3.35e12, that is 3.35 TB/s?)"),
        ("pu.peak_flops", 312, "found 312, expected FLOP/s from 1e9 to 1e18 (did you mean 3.12e14, that is "
         "312 TFLOP/s?)"),
        ("pu.memory_bytes", 80, "(did you mean 8e10, that is 80 GB?)"),
        ("pu.mac_j", 0.32, "(did you mean 3.2e-13, that is 0.32 pJ?)"),
        ("pu.memory_j_per_byte", 31.1, "(did you mean 3.11e-11, that is 31.1 pJ/B?)"),
        ("pu.idle_power_w", 1_000_000, "(did you mean 1000, that is 1000000 mW?)"),
        ("attention_link.bandwidth", 64, "found 64, expected B/s from 1e6 to 1e15 (did you mean 6.4e10, that is "
         "64 GB/s?)"),
        ("attention_link.latency_s", 90, "found 90, expected seconds, 0 or from 1e-12 to 0.01 (did you mean 9e-8, "
         "that is 90 ns?)"),
        ("mode_switch_s", 30, "found 30, expected seconds, 0 or from 1e-12 to 1 (did you mean 3e-5, that is 30 us?)"),
        ("all_reduce_hop_s", 0.5, "found 0.5, expected seconds, 0 or from 1e-12 to 0.001 (did you mean 5e-7"),
        ("fc_pim.stacks", 70000, "found 70000, expected a whole number from 1 to 65536"),
    ],
)  # fmt: skip
def test_a_usual_mistake_is_answered_with_what_was_meant(path, value, message):
    system = {"base": "papi"}
    *tables, field = path.split(".")
    inner = system
    for table in tables:
        inner = inner.setdefault(table, {})
    inner[field] = value
    data = SCENARIOS["creative-writing/llama-65b"].model_dump() | {"system": system}
    with pytest.raises(ConfigurationError) as caught:
        get_scenario(data)
    assert str(caught.value).startswith(f"scenario: system.{path}: found {value}, expected ")
    assert message in str(caught.value)


def test_one_message_from_toml_json_and_python(tmp_path):
    said = "bandwidth: found 64, expected B/s from 1e6 to 1e15 (did you mean 6.4e10, that is 64 GB/s?)"
    path = tmp_path / "mine.toml"
    path.write_text(
        'model = "opt-30b"\nsystem = { base = "papi", fabric = { bandwidth = 64 } }\n'
        "[workload]\nlengths = { input = 5, output = 5 }\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        get_scenario(path)
    assert str(caught.value) == f"{path}: system.fabric.{said}"
    scenario = json.loads(SCENARIOS["creative-writing/llama-65b"].model_dump_json())
    scenario["system"]["fabric"]["bandwidth"] = 64
    with pytest.raises(ConfigurationError) as caught:
        get_scenario(scenario)
    assert str(caught.value) == f"scenario: system.fabric.{said}"
    for validate in (Scenario.model_validate, lambda data: Scenario.model_validate_json(json.dumps(data))):
        with pytest.raises(ValidationError) as refused:
            validate(scenario)
        assert f"system.fabric.bandwidth\n  {said.removeprefix('bandwidth: ')}" in str(refused.value)
    with pytest.raises(ValidationError) as refused:
        Link(name="mine", bandwidth=64, latency_s=0, j_per_byte=0)
    assert said.replace(": ", "\n  ", 1) in str(refused.value)


def test_a_system_alone_is_answered_as_within_a_scenario():
    data = SYSTEMS["papi"].model_dump()
    assert System.define(data, "mine.json") == SYSTEMS["papi"]
    data["fabric"] |= {"bandwidth": 64, "latency": 1}
    data["prefill_unit"] = "gpu"
    with pytest.raises(ConfigurationError) as caught:
        System.define(data, "mine.json")
    assert str(caught.value) == (
        "mine.json: fabric.bandwidth: found 64, expected B/s from 1e6 to 1e15 (did you mean 6.4e10, that is 64 GB/s?); "
        "fabric.latency: not a known field; did you mean 'latency_s'?; "
        "prefill_unit: found 'gpu': Input should be 'pu' or 'fc-pim'"
    )


def test_a_misspelt_field_is_answered_with_the_nearest_of_its_own_model():
    with pytest.raises(ValidationError, match="not a known field; did you mean 'latency_s'"):
        Link(name="mine", bandwidth=1e9, latency_s=0, j_per_byte=0, latency=0)
    with pytest.raises(ValidationError, match="not a known field; did you mean 'mode_switch_s'"):
        System.model_validate({**SYSTEMS["papi"].model_dump(), "switch_s": 0})
    with pytest.raises(ValidationError, match="zzz\n  not a known field, expected one of name, bandwidth, "):
        Link(name="mine", bandwidth=1e9, latency_s=0, j_per_byte=0, zzz=0)


def test_a_missing_number_is_answered_with_its_unit():
    with pytest.raises(ValidationError, match=r"Field required, expected FLOP/s from 1e9 to 1e18"):
        ProcessingUnit(name="mine", count=1, memory_bandwidth=1e12, memory_bytes=10**10)


@pytest.mark.parametrize(
    "definition", REGISTERED, ids=lambda d: f"{type(d).__name__}-{getattr(d, 'name', '')}"
)
def test_what_is_registered_survives_being_written_down(definition):
    kind = type(definition)
    assert kind.model_validate(definition.model_dump()) == definition
    assert kind.model_validate(definition.model_dump()).model_dump() == definition.model_dump()
    assert kind.model_validate_json(definition.model_dump_json()) == definition
    assert kind.model_validate(json.loads(definition.model_dump_json())) == definition
    assert hash(kind.model_validate(definition.model_dump())) == hash(definition) if kind is Link else True
