"""A scenario: a system, a model, a workload and an objective, validated where it enters.

Presets by name, files in TOML, or dictionaries; a system or model inside a scenario is a registered
name, or a table that starts from one (`base = "papi"`) and overrides fields, or a whole definition.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from papi_env.errors import ConfigurationError, DataError, describe_validation, lookup
from papi_env.hardware.dram import Stack
from papi_env.hardware.links import Link
from papi_env.hardware.system import SYSTEMS, System, get_system
from papi_env.hardware.table import DENSE_ROWS
from papi_env.hardware.units import PimUnit, ProcessingUnit
from papi_env.workload.lengths import (
    LENGTH_TABLES,
    RequestPopulation,
    fixed_lengths,
    sample_table,
    within_context,
)
from papi_env.workload.traces import read_trace
from papi_env.workload.transformer import TRANSFORMERS, Transformer, get_transformer

MAX_BATCH = 128
MAX_SPECULATION = 8
assert MAX_BATCH * MAX_SPECULATION == DENSE_ROWS

BeyondContext = Literal["refuse", "truncate", "extrapolate"]


class Lengths(BaseModel):
    """Where request lengths come from: exactly one of `table`, `trace`, or `input` with `output`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    table: str | None = None
    trace: str | None = Field(None, description="path of a CSV file")
    input_column: str | None = None
    output_column: str | None = None
    category_column: str | None = None
    categories: tuple[str, ...] | None = None
    input: int | None = Field(None, ge=1, le=1_000_000)
    output: int | None = Field(None, ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _one_source(self) -> Lengths:
        fixed = self.input is not None or self.output is not None
        if (self.table is not None) + (self.trace is not None) + fixed != 1:
            raise ValueError("expected exactly one of table, trace, or input with output")
        if fixed and (self.input is None or self.output is None):
            raise ValueError("fixed lengths need both input and output")
        if self.table is not None:
            lookup("length table", self.table, LENGTH_TABLES)
        columns = (self.input_column, self.output_column, self.category_column, self.categories)
        if self.trace is None and any(value is not None for value in columns):
            raise ValueError("columns and categories belong to a trace")
        return self


class Workload(BaseModel):
    """A static batch and how it is decoded.

    `speculation` is the number of tokens verified per request and iteration (TLP); 1 decodes one
    token at a time. `speculation_schedule` changes it while the batch runs, as (from iteration,
    length) pairs: PAPI's TLP register. `acceptance_rate` is the chance that a drafted token is
    accepted, given that all before it were; 1 counts every verified token, the default because the
    paper does not say what it assumes. `beyond_context` says what becomes of requests longer than the
    model's context: refused (left out of the population), their output truncated, or kept as an
    extrapolation; `population()` counts them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lengths: Lengths
    batch_size: int = Field(64, ge=1, le=MAX_BATCH)
    speculation: int = Field(2, ge=1, le=MAX_SPECULATION)
    speculation_schedule: tuple[tuple[int, int], ...] = ()
    acceptance_rate: float = Field(1.0, ge=0, le=1)
    beyond_context: BeyondContext = "refuse"

    @field_validator("batch_size", "speculation", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any) -> Any:
        if isinstance(value, (bool, str)):
            raise ValueError("expected a whole number")
        return value

    @field_validator("speculation_schedule")
    @classmethod
    def _ordered(cls, schedule: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        starts = [start for start, _ in schedule]
        if any(not 1 <= start < 2**31 for start in starts) or any(a >= b for a, b in pairwise(starts)):
            raise ValueError(f"iterations {starts} must be >= 1, below 2^31, and increase")
        for _, length in schedule:
            if not 1 <= length <= MAX_SPECULATION:
                raise ValueError(f"speculation length {length} is outside 1..{MAX_SPECULATION}")
        return schedule


def _resolve(value: Any, registry: Mapping[str, BaseModel], kind: str) -> Any:
    """A registered name, or a table that overrides a registered one named by its `base`."""
    if isinstance(value, str):
        return lookup(kind, value, registry)
    if isinstance(value, dict) and "base" in value:
        base = lookup(kind, value["base"], registry).model_dump()
        return _override(base, {key: item for key, item in value.items() if key != "base"})
    return value


def _override(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _override(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


class Scenario(BaseModel):
    """What an environment simulates; see the module docstring for how one is written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    description: str = ""
    system: System
    model: Transformer
    workload: Workload
    energy_weight: float = Field(0.0, ge=0, le=1e6, description="seconds per joule in the reward")
    # Seconds of a mode switch; 0 is free switching (nothing is charged, PAPI's assumption). Absent: the
    # problem's default, free in Decode-v0 and the system's `mode_switch_s` in Kernels-v0.
    switch_s: float | None = Field(None, ge=0, le=1)

    @field_validator("system", mode="before")
    @classmethod
    def _system(cls, value: Any) -> Any:
        return _resolve(value, SYSTEMS, "system")

    @field_validator("model", mode="before")
    @classmethod
    def _model(cls, value: Any) -> Any:
        return _resolve(value, TRANSFORMERS, "model")

    def replace(
        self,
        *,
        system: str | System | None = None,
        model: str | Transformer | None = None,
        lengths: Lengths | None = None,
        batch_size: int | None = None,
        speculation: int | None = None,
        acceptance_rate: float | None = None,
        beyond_context: BeyondContext | None = None,
        energy_weight: float | None = None,
        switch_s: float | None = None,
    ) -> Scenario:
        """The scenario with some parts replaced; what is None stays. Validated like any other."""
        for field, value, kinds in (
            ("system", system, (str, System)),
            ("model", model, (str, Transformer)),
            ("lengths", lengths, (Lengths,)),
        ):
            if value is not None and not isinstance(value, kinds):
                names = " or ".join(kind.__name__ for kind in kinds)
                raise ConfigurationError(f"{field} is {value!r}, expected {names}")
        data = self.model_dump()
        if system is not None:
            data["system"] = (get_system(system) if isinstance(system, str) else system).model_dump()
        if model is not None:
            data["model"] = (get_transformer(model) if isinstance(model, str) else model).model_dump()
        if speculation is not None:
            data["workload"]["speculation_schedule"] = ()
        workload = {
            "lengths": None if lengths is None else lengths.model_dump(),
            "batch_size": batch_size,
            "speculation": speculation,
            "acceptance_rate": acceptance_rate,
            "beyond_context": beyond_context,
        }
        data["workload"].update({key: value for key, value in workload.items() if value is not None})
        whole = {"energy_weight": energy_weight, "switch_s": switch_s}
        data.update({key: value for key, value in whole.items() if value is not None})
        return parse_scenario(data, f"scenario {self.name!r}")

    def population(self) -> RequestPopulation:
        """The requests that instances are drawn from, those beyond the model's context treated as asked."""
        lengths = self.workload.lengths
        version = (0, 0)
        if lengths.trace is not None:
            with suppress(OSError):  # the reader says what is wrong with the file
                stat = Path(lengths.trace).stat()
                version = (stat.st_mtime_ns, stat.st_size)
        return _population(lengths, self.model.context_limit, self.workload.beyond_context, version)

    def check(self) -> Scenario:
        """Refuse a scenario that the system cannot hold. Returns itself.

        Every batch that can be drawn fits: the KV caches are reserved for the longest request
        (input, all of its output, and the drafted tokens being verified) times the batch size.
        """
        tlp = max([self.workload.speculation, *(length for _, length in self.workload.speculation_schedule)])
        tokens = self.workload.batch_size * (self.population().max_total + tlp - 1)
        kv = tokens * self.model.kv_bytes_per_token
        self.system.check_capacity(self.model.weight_bytes, kv)
        return self


@lru_cache(maxsize=32)
def _population(
    lengths: Lengths, context_limit: int, beyond: BeyondContext, version: tuple[int, int]
) -> RequestPopulation:
    """Cached; `version` changes with the trace file."""
    if lengths.table is not None:
        population = sample_table(lookup("length table", lengths.table, LENGTH_TABLES))
    elif lengths.trace is not None:
        population = read_trace(
            lengths.trace,
            input_column=lengths.input_column,
            output_column=lengths.output_column,
            category_column=lengths.category_column,
            categories=lengths.categories,
        ).population()
    else:
        assert lengths.input is not None
        assert lengths.output is not None
        population = fixed_lengths(lengths.input, lengths.output)
    return within_context(population, context_limit, beyond)


_FIELDS = {
    name
    for model in (Scenario, Workload, Lengths, System, ProcessingUnit, PimUnit, Stack, Link, Transformer)
    for name in model.model_fields
}


def parse_scenario(data: Mapping[str, Any], where: str) -> Scenario:
    """A scenario from plain data; `where` names its origin in an error."""
    try:
        return Scenario.model_validate(dict(data))
    except ValidationError as error:
        raise describe_validation(where, error, _FIELDS) from None


def load_scenario(path: str | Path) -> Scenario:
    """A scenario from a TOML file. A relative trace path is taken from the file's folder."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a TOML file: {error}") from None
    data.setdefault("name", path.stem)
    lengths = data.get("workload", {}).get("lengths", {}) if isinstance(data.get("workload"), dict) else {}
    if isinstance(lengths, dict) and isinstance(lengths.get("trace"), str):
        lengths["trace"] = str(path.parent / lengths["trace"])
    return parse_scenario(data, str(path))


_DATASETS = {
    "creative-writing": "dolly-creative-writing",
    "general-qa": "dolly-general-qa",
    "azure-code": "azure-code",
    "azure-conversation": "azure-conversation",
}


def _presets() -> dict[str, Scenario]:
    presets = {}
    for dataset, table in _DATASETS.items():
        for model in TRANSFORMERS.values():
            name = f"{dataset}/{model.name}"
            presets[name] = Scenario(
                name=name,
                description=f"{model.name} decodes static batches with the lengths of {table}",
                system=get_system("papi"),
                model=model,
                workload=Workload(lengths=Lengths(table=table)),
            )
    return presets


SCENARIOS: Mapping[str, Scenario] = _presets()
DEFAULT_SCENARIO = "creative-writing/llama-65b"
# The paper's three models and two datasets (PAPI, section 7.1).
PAPER_SCENARIOS = tuple(
    f"{dataset}/{model}"
    for dataset in ("creative-writing", "general-qa")
    for model in ("llama-65b", "gpt3-66b", "gpt3-175b")
)


def get_scenario(scenario: str | Path | Mapping[str, Any] | Scenario) -> Scenario:
    """A scenario from a preset's name, a path that ends in .toml, plain data, or itself."""
    if isinstance(scenario, Scenario):
        return scenario
    if isinstance(scenario, Mapping):
        return parse_scenario(scenario, "scenario")
    if isinstance(scenario, Path) or str(scenario).endswith(".toml"):
        return load_scenario(scenario)
    if not isinstance(scenario, str):
        raise ConfigurationError(f"scenario is {scenario!r}, expected a name, a .toml path or a table")
    return lookup("scenario", scenario, SCENARIOS)
