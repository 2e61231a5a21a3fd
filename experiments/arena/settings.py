"""What is played: scenarios by preset, family or file, their grid of batch and speculation, and requests of traces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeVar, get_args

from experiments.common.problems import default_scenario, problem_of
from experiments.common.runner import digest, file_digest
from experiments.splitting.definition import Setting
from experiments.splitting.parts import trace_paths
from papi_env.envs.registration import SERVING, SERVING_V1
from papi_env.envs.serving import build_serving_scenario
from papi_env.envs.serving_v1 import ServingV1VectorEnv
from papi_env.errors import ConfigurationError, DataError, lookup
from papi_env.hardware.system import get_system
from papi_env.scenario import SCENARIOS, Scenario, get_scenario, parse_scenario
from papi_env.simulation.serving.tables import build_serving_tables
from papi_env.workload.arrivals import file_window
from papi_env.workload.lengths import ContextPolicy
from papi_env.workload.presets import serving_presets as papi_presets
from papi_env.workload.requests import Lengths
from papi_env.workload.service_traces import without_lengths
from papi_env.workload.transformer import get_transformer

T = TypeVar("T")

# Of windows, in seconds: more than any trace lasts.
LONGEST_S = 1e9
# The grid of the paper's evaluation (PAPI, section 7.1).
PAPER_BATCH_SIZES = (4, 16, 64)
PAPER_SPECULATION = (1, 2, 4)


def resolve_scenarios(
    names: Sequence[str],
    requests: Lengths | None = None,
    beyond_context: str | None = None,
    acceptance_rate: float | None = None,
    energy_weight: float | None = None,
    switch_s: float | None = None,
) -> list[tuple[Scenario, bool]]:
    """Scenarios by preset name or .toml file, with what replaces their parts; true marks those from a file.

    Raises:
        ConfigurationError, DataError: a scenario or a file of lengths cannot be used, or two scenarios
            have one name.
    """
    if beyond_context is not None:
        lookup(
            "treatment of requests beyond the context", beyond_context, dict.fromkeys(get_args(ContextPolicy))
        )
    resolved: dict[str, tuple[Scenario, bool]] = {}
    for name in names:
        scenario, own = get_scenario(name), str(name).endswith(".toml")
        data = scenario.replace(
            lengths=requests,
            acceptance_rate=acceptance_rate,
            energy_weight=energy_weight,
            switch_s=switch_s,
        ).model_dump()
        if requests is not None:
            assert requests.trace is not None
            model, _ = scenario.decoding()
            # The first part of a preset's name is its lengths, which are others now.
            kept = own or scenario.images is not None
            data["name"] = f"{Path(requests.trace).stem}/{scenario.name if kept else model.name}"
            data["description"] = f"{model.name} decodes static batches with the lengths of {requests.trace}"
        if beyond_context is not None:
            scenario.decoding()
            data["workload"]["beyond_context"] = beyond_context
        scenario = parse_scenario(data, f"scenario {name!r}")
        if scenario.name in resolved:
            raise ConfigurationError(f"Two scenarios are called {scenario.name!r}; give each its own name")
        if scenario.workload is not None:
            scenario.population()  # reads the lengths: a mistake in them is not a matter of one system
        resolved[scenario.name] = (scenario, own)
    return list(resolved.values())


def grid(
    scenarios: Sequence[tuple[Scenario, bool]], batch_sizes: Sequence[int], speculation: Sequence[int]
) -> list[Scenario]:
    """Every scenario at every batch size and speculation length.

    Where none are given a preset is played on the paper's grid, and a scenario from a file as it stands; a
    scenario that decodes nothing has neither.
    """
    out: list[Scenario] = []
    for scenario, own in scenarios:
        if scenario.workload is None:
            out.append(scenario)
            continue
        batches: Sequence[int | None] = batch_sizes or ((None,) if own else PAPER_BATCH_SIZES)
        lengths: Sequence[int | None] = speculation or ((None,) if own else PAPER_SPECULATION)
        out += [scenario.replace(batch_size=b, speculation=t) for b in batches for t in lengths]
    return out


def serving_presets() -> list[str]:
    """Names of all serving presets on PAPI's machine."""
    return list(papi_presets())


def serving_families(env: str = SERVING) -> list[str]:
    """Names of all serving presets on any machine: without classes of requests, or for Serving-v1 those with."""
    served = ((name, scenario.serving) for name, scenario in SCENARIOS.items())
    return [
        name
        for name, serving in served
        if serving is not None and (serving.service is not None) == (env == SERVING_V1)
    ]


def problem_named(name: str) -> str:
    """The problem that a serving preset, family or .toml file is for: Serving-v1 where it says whom it serves."""
    if any(preset == name or preset.startswith(f"{name}/") for preset in serving_families(SERVING_V1)):
        return SERVING_V1
    return problem_of(get_scenario(name)) if name.endswith(".toml") else SERVING


def serving_scenarios(
    asked: Sequence[str],
    energy_weight: float | None = None,
    switch_s: float | None = None,
    env: str = SERVING,
) -> list[Scenario]:
    """Serving scenarios by preset, family (`saturated` stands for all of its presets) or .toml file, each once.

    Args:
        asked: names.
        energy_weight, switch_s: in place of the scenarios' own.
        env: which problem plays them; Serving-v1 makes one class of a scenario without classes.

    Raises:
        ConfigurationError, DataError: a scenario cannot be used, or is none of serving.
    """
    names: dict[str, None] = {}
    for name in asked:
        family = [preset for preset in serving_families(env) if preset.startswith(f"{name}/")]
        names |= dict.fromkeys(family or [name])
    found = resolve_scenarios(list(names), energy_weight=energy_weight, switch_s=switch_s)
    if env == SERVING_V1:
        return [ServingV1VectorEnv.build_scenario(scenario) for scenario, _ in found]
    return [build_serving_scenario(scenario) for scenario, _ in found]


def as_settings(scenarios: Iterable[Scenario]) -> tuple[Setting, ...]:
    """Scenarios as settings that bear their names."""
    return tuple(Setting(scenario.name, scenario) for scenario in scenarios)


def has_experts(scenario: Scenario) -> bool:
    """Whether a mixture of experts decodes static batches."""
    return scenario.workload is not None and scenario.model is not None and scenario.model.experts is not None


def refusal(scenario: Scenario) -> str:
    """Why the scenario does not fit its system; empty where it does."""
    try:
        scenario.check()
        if scenario.serving is not None:
            build_serving_tables(scenario)
    except ConfigurationError as error:
        return str(error)
    return ""


def trace_digest(scenario: Scenario) -> str | None:
    """A hash of the files that the scenario reads requests from, or None where there are none.

    Raises:
        DataError: one cannot be read.
    """
    try:
        found = [file_digest(trace) for trace in trace_paths(scenario)]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return found[0] if len(found) == 1 else digest("".join(found)) if found else None


def replay_scenario(
    scenario: Scenario,
    trace: Path,
    time_scale: float = 1.0,
    start_s: float | None = None,
    window_s: float | None = None,
    reading: Mapping[str, Any] | None = None,
    conversations: bool = False,
) -> Scenario:
    """`scenario` with the requests of a trace, until all of them are served.

    Classes of requests stay, but for the lengths of their own: lone requests and first turns are the trace's. Of a
    window at a given start no more than the window is read, and lengths are drawn from it alone.

    Args:
        scenario: with a serving part.
        trace: a file of requests (see `papi_env.workload.traces.read_trace`).
        time_scale: how many times as fast the requests arrive.
        start_s, window_s: which of them, in seconds after scaling; a window without a start is drawn by episode.
        reading: columns, delimiter and units of the file, where its content does not say them.
        conversations: rows whose hashes show that they go on from earlier ones are turns of conversations.

    Raises:
        DataError: the trace cannot be read. ConfigurationError: it has no such window, or no hashes for conversations.
    """
    part: dict[str, float] = {}
    if start_s is not None:
        # Longer than any trace: a window at a given start may outlast it.
        window_s = LONGEST_S if window_s is None else window_s
        part = file_window(start_s, window_s, time_scale)
        part["window_s"] = min(part["window_s"], LONGEST_S)
    said = dict(reading or {})
    service = None if scenario.serving is None else scenario.serving.service
    replaced = scenario.replace(
        serving={
            "arrivals": {
                **said,
                "process": "trace",
                "trace": str(trace),
                "time_scale": time_scale,
                "start_s": start_s,
                "window_s": window_s,
                "conversations": conversations or None,
            },
            "lengths": {**said, **part, "trace": str(trace)},
            "service": None if service is None else without_lengths(service).model_dump(),
            "requests": 1,
        }
    )
    assert replaced.serving is not None
    arrivals = replaced.serving.arrivals
    turns = arrivals.turns()
    return replaced.replace(serving={"requests": len(arrivals.read()) if turns is None else turns.sessions})


def scenario_settings(
    env_id: str,
    scenarios: Sequence[str] = (),
    systems: Sequence[str] = (),
    models: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    speculation: Sequence[int] = (),
) -> list[Scenario]:
    """Every scenario with every system, model, batch size and speculation length named; its own where none is.

    Raises:
        ConfigurationError, DataError: something is unknown, does not fit the scenario, or does not fit its system.
    """
    for name in (*systems,):
        get_system(name)
    for name in (*models,):
        get_transformer(name)
    found: dict[str, Scenario] = {}
    for scenario, _ in resolve_scenarios(scenarios or (default_scenario(env_id),)):
        for system, model, batch_size, tlp in product(
            _or_own(systems), _or_own(models), _or_own(batch_sizes), _or_own(speculation)
        ):
            setting = scenario.replace(system=system, model=model, batch_size=batch_size, speculation=tlp)
            found.setdefault(setting.model_dump_json(), setting.check())
    return list(found.values())


def _or_own(values: Iterable[T]) -> tuple[T | None, ...]:
    return tuple(dict.fromkeys(values)) or (None,)
