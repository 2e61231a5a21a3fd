"""What a scenario is made of, as hashes: two scenarios share a part where its hash is the same.

Names and descriptions are left out: a model called otherwise is the same model. What a name stands for is put in: the
quantiles of a length table, the acceptance of request classes, the content of a trace (not its path). Constants
in the code are not covered; a run folder records the hash of the code beside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.common.runner import canonical, digest
from papi_env.errors import DataError
from papi_env.scenario import Scenario
from papi_env.workload.arrivals import Arrivals
from papi_env.workload.requests import Lengths
from papi_env.workload.serving import Serving
from papi_env.workload.traces import TraceForm, cached_trace
from papi_env.workload.turn_lengths import ALL_TABLES

# Words for people, not what is simulated.
_WORDS = frozenset(("name", "description", "source"))
# Digits of a part's hash: 64 bits, far more than the number of parts needs.
DIGITS = 16


class Part(NamedTuple):
    """A part of a scenario: what kind, the hash of its content, and what people call it."""

    kind: str
    sha256: str
    label: str


def trace_paths(scenario: Scenario) -> tuple[str, ...]:
    """The files that a scenario reads requests from, each once."""
    return tuple(_trace_sources(scenario))


def trace_contents(scenario: Scenario) -> dict[str, str]:
    """A hash of the requests of each file that a scenario reads, by path, read as the scenario says.

    Raises:
        DataError: a file cannot be read as a trace.
    """
    return {path: trace_content(path, how)[0] for path, how in _trace_sources(scenario).items()}


def trace_content(path: str | Path, how: Mapping[str, Any] | None = None) -> tuple[str, int]:
    """A hash of a trace's requests, and how many there are.

    It does not depend on the file's name, line ends, columns or notation of times: hashed are int64 rows of
    microseconds since the first request (0 where there are no times), input and output tokens.

    Args:
        path: of the file.
        how: it is read, as arguments of `read_trace`.

    Raises:
        DataError: the file cannot be read as a trace.
    """
    try:
        Path(path).stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    trace = cached_trace(str(path), **(how or {}))
    count = len(trace.input_lengths)
    times = np.zeros(count) if trace.timestamps_s is None else trace.timestamps_s
    columns = (np.rint(1e6 * times), trace.input_lengths, trace.output_lengths)
    rows = np.stack([np.asarray(column, dtype="<i8") for column in columns], axis=1)
    return digest(rows.tobytes()), count


def _trace_sources(scenario: Scenario) -> dict[str, dict[str, Any]]:
    """The files that a scenario reads requests from, and how: columns and how the file is written."""
    parts: list[Lengths | Arrivals] = []
    if scenario.workload is not None:
        parts.append(scenario.workload.lengths)
    if scenario.serving is not None:
        parts += [scenario.serving.lengths, scenario.serving.arrivals]
        if scenario.serving.service is not None:
            parts += scenario.serving.service.lengths().values()
    fields = ("input_column", "output_column", "time_column", *TraceForm.model_fields)
    # Of a file that both name, arrivals know the times.
    return {
        part.trace: {name: getattr(part, name) for name in fields} for part in parts if part.trace is not None
    }


def parts_of(scenario: Scenario, traces: Mapping[str, str]) -> tuple[Part, ...]:
    """The parts of a scenario.

    Args:
        scenario: any.
        traces: the content hash of every file that it reads, by path.

    Raises:
        DataError: `traces` lacks one of its files.
    """
    found = [_part("system", scenario.system.model_dump(mode="json"), scenario.system.name)]
    if scenario.model is not None:
        found.append(_part("model", scenario.model.model_dump(mode="json"), scenario.model.name))
    if scenario.images is not None:
        network = scenario.images.network
        found.append(_part("network", network.model_dump(mode="json"), network.name))
    if scenario.workload is not None:
        workload = scenario.workload
        sizes = [workload.batch_size, workload.speculation, list(workload.speculation_schedule)]
        label = f"batch {workload.batch_size} with speculation {workload.speculation}"
        found += [_lengths(workload.lengths, traces), _part("sizes", sizes, label)]
    if scenario.serving is not None:
        serving = scenario.serving
        found.append(_lengths(serving.lengths, traces))
        data = serving.model_dump(mode="json")
        data["lengths"] = found[-1].sha256
        data["rates"] = serving.speculation.rates()
        if serving.service is not None:
            data["class_lengths"] = {
                name: _lengths(own, traces).sha256 for name, own in serving.service.lengths().items()
            }
            data["service"] = _without(data["service"], "lengths")
        label = scenario.name
        if serving.arrivals.trace is not None:
            content = _content_of(serving.arrivals.trace, traces)
            data["arrivals"]["trace"] = content
            label = Path(serving.arrivals.trace).name
            found.append(_part("trace", [content], label))
            found += [_part("window", [content, part], f"{label}, {part} part") for part in _windows(serving)]
        found.append(_part("serving", data, label))
    return tuple(found)


def fingerprint(scenario: Scenario, traces: Mapping[str, str], parts: Sequence[Part] | None = None) -> str:
    """The hash of everything that a scenario says; see `parts_of` for arguments and errors.

    `parts` are its own where they are known already.
    """
    found = {part.kind: part.sha256 for part in (parts_of(scenario, traces) if parts is None else parts)}
    images = scenario.images
    workload = scenario.workload
    rest = {
        "energy_weight": scenario.energy_weight,
        "switch_s": scenario.switch_s,
        "images": None if images is None else images.model_dump(mode="json", exclude={"network"}),
        "workload": None
        if workload is None
        else workload.model_dump(
            mode="json", exclude={"lengths", "batch_size", "speculation", "speculation_schedule"}
        ),
    }
    return digest(canonical({"parts": found, "rest": rest}))[:DIGITS]


def _lengths(lengths: Lengths, traces: Mapping[str, str]) -> Part:
    data = lengths.model_dump(mode="json")
    if lengths.table is not None:
        return _tabulated(canonical(data), lengths.table)
    if lengths.trace is not None:
        data["trace"] = _content_of(lengths.trace, traces)
        return _part("lengths", data, Path(lengths.trace).name)
    return _part("lengths", data, f"{lengths.input} input and {lengths.output} output tokens")


@lru_cache(maxsize=1024)
def _tabulated(data: str, table: str) -> Part:
    """Lengths from a table, whose thousands of numbers are the same for every scenario that names it."""
    return _part("lengths", {**json.loads(data), "table": asdict(ALL_TABLES[table])}, table)


def _windows(serving: Serving) -> tuple[str, ...]:
    """The parts of a trace that episodes may come from: before the split of `Arrivals`, after it, or both."""
    arrivals = serving.arrivals
    own, usual = arrivals.split_at, Arrivals.model_fields["split_at"].default
    before = arrivals.split != "test" or own < usual
    after = arrivals.split != "train" or own > usual
    return ("train",) * before + ("test",) * after


def _content_of(path: str, traces: Mapping[str, str]) -> str:
    if path not in traces:
        raise DataError(f"{path}: a trace whose content is not known here")
    return traces[path]


def _without(data: Any, name: str) -> Any:
    """Plain data without the fields of that name, however deep."""
    if isinstance(data, Mapping):
        return {key: _without(value, name) for key, value in data.items() if key != name}
    return data


def _part(kind: str, data: Any, label: str) -> Part:
    return Part(kind, digest(canonical(_without_words(data)))[:DIGITS], label)


def _without_words(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _without_words(value) for key, value in data.items() if key not in _WORDS}
    if isinstance(data, (list, tuple)):
        return [_without_words(value) for value in data]
    return data
