"""What a comparison plays: entries (a policy on a system) on settings (a scenario, batch and speculation).

A serving scenario is a setting by itself: it brings its arrivals, and speculation is the policy's choice.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.learned.checkpoint import DESCRIPTION, WEIGHTS
from agents.learned.distilled import TREE, DistilledPolicy
from agents.learned.policy import LearnedPolicy
from agents.policy import Policy
from agents.registry import make_policy, names_folder
from experiments.common.runner import digest, file_digest
from experiments.splitting.parts import trace_paths
from papi_env.envs.decode import DecodeVectorEnv
from papi_env.envs.kernels import KernelsVectorEnv
from papi_env.envs.serving import ServingVectorEnv
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError, DataError, lookup, unknown_name
from papi_env.hardware.system import SYSTEMS, System
from papi_env.scenario import SCENARIOS, Scenario, get_scenario, parse_scenario
from papi_env.simulation.batch.engine import METRIC_NAMES
from papi_env.simulation.serving.tables import build_serving_tables
from papi_env.workload.lengths import ContextPolicy
from papi_env.workload.requests import Lengths

PROBLEMS: Mapping[str, type[ProblemVectorEnv]] = {
    "papi_env/Decode-v0": DecodeVectorEnv,
    "papi_env/Kernels-v0": KernelsVectorEnv,
    "papi_env/Serving-v0": ServingVectorEnv,
}
# The grid of the paper's evaluation (PAPI, section 7.1).
PAPER_BATCH_SIZES = (4, 16, 64)
PAPER_SPECULATION = (1, 2, 4)


@dataclass(frozen=True)
class Entry:
    """A policy on a system, by name: `papi/threshold`; or a learned one, by its folder: `papi/runs/mine/best`."""

    system: str
    policy: str

    @classmethod
    def parse(cls, text: str) -> Entry:
        """An entry from SYSTEM/POLICY; whether the names are known shows when they are used."""
        system, slash, policy = text.partition("/")
        if not (system and slash and policy):
            raise ConfigurationError(f"Entry {text!r}: expected SYSTEM/POLICY, such as papi/threshold")
        return cls(system, policy)

    @property
    def oracle(self) -> Entry:
        """The entry that this one's regret is measured against."""
        return Entry(self.system, "oracle")

    def __str__(self) -> str:
        return f"{self.system}/{self.policy}"


@dataclass(frozen=True)
class Cell:
    """An entry on a setting: what one job plays, on all seeds.

    `scenario` has the entry's system and the setting's batch size and speculation length. `refusal` says
    why it does not fit the system, and is empty where it does. A `reference` was not asked for: speed-up
    or regret is measured against it.
    """

    entry: Entry
    scenario: Scenario
    reference: bool
    refusal: str

    @property
    def label(self) -> str:
        """What is played, for people."""
        workload = self.scenario.workload
        label = f"{self.entry} · {self.scenario.name}"
        if workload is None:
            return label
        return f"{label} · batch {workload.batch_size} · speculation {workload.speculation}"


def serving_preset_names(asked: Sequence[str]) -> list[str]:
    """Names of scenarios, each once, where a family such as `saturated` stands for all of its serving presets."""
    names: list[str] = []
    for name in asked:
        family = [
            preset
            for preset, scenario in SCENARIOS.items()
            if scenario.serving is not None and preset.startswith(f"{name}/")
        ]
        names += family or [name]
    return list(dict.fromkeys(names))


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


def settings(
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


def known_systems(scenarios: Sequence[Scenario]) -> dict[str, System]:
    """The registered systems, and those that scenarios bring along under names of their own.

    Raises:
        ConfigurationError: two scenarios mean different systems by a name that is not registered.
    """
    known = dict(SYSTEMS)
    for scenario in scenarios:
        system = scenario.system
        if system.name not in SYSTEMS and known.setdefault(system.name, system) != system:
            raise ConfigurationError(
                f"Scenarios describe system {system.name!r} in different ways; give each its own name"
            )
    return known


def _reproduction(system: System) -> System:
    # Here, because it takes the engine along, and few comparisons need it.
    from experiments.paper.calibration import REPRODUCTION
    from experiments.paper.readings import build_system

    if SYSTEMS.get(system.name) != system:
        raise ConfigurationError(
            f"System {system.name!r} is a scenario's own; fitted constants are those of registered systems: "
            f"{', '.join(sorted(SYSTEMS))}"
        )
    return build_system(REPRODUCTION, system.name)


def plan(
    entries: Sequence[Entry],
    references: Sequence[Entry],
    grid: Sequence[Scenario],
    gpu_bandwidth: str | None = None,
    bank_rate: str | None = None,
    constants: Literal["plain", "reproduction"] = "plain",
) -> list[Cell]:
    """Every entry, then every reference, on every setting.

    An entry's system is the scenario's own if that has the name, else the registered one; readings
    apply to all of them. With `reproduction` constants a registered system gets those that
    `experiments.reproduce` fitted, and a scenario's own is refused.
    """
    known = known_systems(grid)
    cells = []
    for entry in (*entries, *references):
        if entry.system not in known:
            raise unknown_name("system", entry.system, known)
        for setting in grid:
            own = setting.system.name == entry.system
            system = setting.system if own else known[entry.system]
            if constants == "reproduction":
                system = _reproduction(system)
            system = system.with_readings(gpu_bandwidth, bank_rate)
            scenario = setting.replace(system=system)
            cells.append(Cell(entry, scenario, entry not in entries, _refusal(scenario)))
    return cells


def _refusal(scenario: Scenario) -> str:
    """Why the scenario does not fit its system; empty where it does."""
    try:
        scenario.check()
        if scenario.serving is not None:
            build_serving_tables(scenario)
    except ConfigurationError as error:
        return str(error)
    return ""


def rehearse(problem: str, cells: Sequence[Cell]) -> None:
    """Play one iteration of every entry, so that what cannot work fails now; compiles the engine.

    Raises:
        ConfigurationError: a policy is unknown, cannot play the system, or was trained on another problem.
    """
    policies = {name: make_policy(name) for name in dict.fromkeys(cell.entry.policy for cell in cells)}
    first: dict[Entry, Cell] = {}
    for cell in cells:
        if not cell.refusal:
            first.setdefault(cell.entry, cell)
    for entry, cell in first.items():
        env = PROBLEMS[problem](
            cell.scenario, num_envs=2, max_episode_steps=1, autoreset_mode=AutoresetMode.DISABLED
        )
        try:
            evaluate(make_policy(entry.policy), env, (0, 1))
        except ConfigurationError as error:
            trained = _trained_on(policies[entry.policy])
            if trained not in (None, problem):
                raise ConfigurationError(
                    f"Entry {str(entry)!r}: this policy was trained on {trained}, but {problem} is played, whose "
                    "observations and actions are others; --env chooses the problem"
                ) from error
            raise ConfigurationError(f"Entry {str(entry)!r}: {error}") from error


def _trained_on(policy: Policy) -> str | None:
    """The id of the problem that a learned policy was trained on, or None for others."""
    if isinstance(policy, LearnedPolicy):
        return policy.checkpoint.description.env
    return policy.description.env if isinstance(policy, DistilledPolicy) else None


def play(problem: str, scenario: Scenario, policy: str, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """Metrics of one episode per seed: `seed`, `alpha` and the engine's METRIC_NAMES, [len(seeds)] each."""
    env = PROBLEMS[problem](scenario, num_envs=len(seeds), autoreset_mode=AutoresetMode.DISABLED)
    metrics = evaluate(make_policy(policy), env, seeds)
    columns: dict[str, list[Any]] = {"seed": list(seeds), "alpha": [env.alpha] * len(seeds)}
    return columns | {name: metrics[name].tolist() for name in METRIC_NAMES}


def job_spec(problem: str, cell: Cell, seeds: Sequence[int]) -> dict[str, Any]:
    """All that `play` depends on, apart from the project's code: files from outside by their content."""
    return {
        "problem": problem,
        "scenario": cell.scenario.model_dump(mode="json"),
        "policy": cell.entry.policy,
        "policy_source": policy_digest(cell.entry.policy),
        "trace": trace_digest(cell.scenario),
        "seeds": list(seeds),
    }


def trace_digest(scenario: Scenario) -> str | None:
    """A hash of the files that the scenario reads requests from, or None where there are none."""
    try:
        found = [file_digest(trace) for trace in trace_paths(scenario)]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return found[0] if len(found) == 1 else digest("".join(found)) if found else None


def policy_digest(policy: str) -> str | None:
    """A hash of what defines a learned policy or a user's own, or None for a registered one."""
    if names_folder(policy):
        files = [Path(policy) / name for name in (DESCRIPTION, WEIGHTS, TREE)]
        return digest("".join(file_digest(path) for path in files if path.is_file()))
    if ":" not in policy:
        return None
    try:
        found = importlib.util.find_spec(policy.partition(":")[0])
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None or not Path(found.origin).is_file():
        return None
    return file_digest(found.origin)
