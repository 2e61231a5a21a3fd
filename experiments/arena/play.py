"""Playing: one episode a seed of a policy, of the best of a kind, or of the bound, as columns; and the job for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from gymnasium.vector import AutoresetMode

from agents.evaluate import evaluate
from agents.learned.distilled import DistilledPolicy
from agents.learned.policy import LearnedPolicy
from agents.policy import Policy
from agents.registry import is_slow, make_policy
from agents.serving.bounds import serving_bounds
from agents.serving.inside.play import play_range
from agents.serving.network import SeesRequests
from agents.serving.rules import ServingFixed, fixed_name, fixed_policy
from agents.serving.service_bounds import service_bounds
from experiments.arena.choosing import picked
from experiments.arena.entries import (
    BEST_FIXED,
    BEST_THRESHOLD,
    BOUND,
    REFERENCE,
    Entry,
    check_policy,
    is_chosen,
    policy_digest,
)
from experiments.arena.measures import EXPERT_NAMES, REJECTED, measures
from experiments.arena.requests import Watch
from experiments.arena.settings import trace_digest
from experiments.common.problems import SERVED, vector_class
from experiments.common.progress import Score
from experiments.common.runner import Columns, Job
from experiments.splitting.definition import SERVING, Setting
from papi_env.envs.registration import SERVING_V1
from papi_env.envs.serving import JOINT_ACTIONS
from papi_env.envs.serving_v1 import with_classes
from papi_env.envs.vector import ProblemVectorEnv
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario
from papi_env.simulation.serving import state as at
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.rollout import roll
from papi_env.workload.serving import SPECULATION_LENGTHS

# What is best of its kind is chosen on seeds of its own. chosen: four; they rank 72 actions of which the best
# differ by per cents.
SELECTION_SEEDS = tuple(range(2**61, 2**61 + 4))
# With classes episodes are some times as long. chosen: two.
SERVICE_SELECTION = SELECTION_SEEDS[:2]


@dataclass(frozen=True)
class Cell:
    """A policy of an entry on a setting: what one job plays.

    Attributes:
        entry, run: whose, and which of its training runs.
        setting: with the entry's system.
        seeds: of its instances.
        reference: was not asked for: others are measured against it.
        refusal: why the scenario does not fit the system, empty where it does.
    """

    entry: Entry
    setting: Setting
    seeds: tuple[int, ...]
    run: int = 0
    reference: bool = False
    refusal: str = ""

    @property
    def policy(self) -> str | None:
        """What is played; None where training left nothing."""
        return self.entry.policies[self.run]

    @property
    def scenario(self) -> Scenario:
        """What it is played on."""
        return self.setting.scenario

    @property
    def label(self) -> str:
        """What is played, for people."""
        return f"{self.policy if self.entry.system is None else self.entry.label} · {self.where}"

    @property
    def where(self) -> str:
        """What it is played on, for people: no two settings of a study are called the same."""
        workload, name = self.scenario.workload, self.setting.name
        if workload is None or name != self.scenario.name:
            return name
        return f"{name} · batch {workload.batch_size} · speculation {workload.speculation}"


def job_of(problem: str, cell: Cell, function: Callable[..., Columns]) -> Job:
    """The job of a cell: `function` is `play`, or something like it with the same arguments."""
    assert cell.policy is not None
    found = job(problem, cell.scenario, cell.policy, cell.seeds, cell.label, function)
    if cell.reference or cell.entry.privileged:
        return found  # what no machine could run is never the best so far
    if problem in SERVED:
        return replace(found, scores=partial(_scores, cell.where, cell.entry.label))
    return replace(found, scores=partial(_costs, cell.where, cell.entry.label, cell.scenario.energy_weight))


def _scores(setting: str, name: str, text: bytes) -> Iterator[Score]:
    """How well an entry did on a setting: its mean return."""
    value = pl.read_csv(text, columns=["return"])["return"].cast(pl.Float64).mean()
    if isinstance(value, float):
        yield Score(setting, name, value, f"return {value:.6g}")


def _costs(setting: str, name: str, energy_weight: float, text: bytes) -> Iterator[Score]:
    """How well an entry did on a static batch or on image encodes: its mean cost, prefill included.

    Returns divide by what the entry's own system costs by default, so those of two systems cannot be compared.
    """
    found = pl.read_csv(
        text,
        columns=["total_s", "total_j"],
        schema_overrides=dict.fromkeys(("total_s", "total_j"), pl.Float64),
    )
    value = (found["total_s"] + energy_weight * found["total_j"]).mean()
    if isinstance(value, float):
        yield Score(setting, name, -value, f"{value:.4g} s" if energy_weight == 0 else f"cost {value:.4g} s")


def job(
    problem: str,
    scenario: Scenario,
    policy: str,
    seeds: Sequence[int],
    label: str,
    function: Callable[..., Columns],
) -> Job:
    """A job whose spec names all that `function(problem, scenario, policy, seeds)` depends on.

    Files from outside are named by their content.
    """
    spec = {
        "problem": problem,
        "scenario": scenario.model_dump(mode="json"),
        "trace": trace_digest(scenario),
        "policy": policy,
        "policy_source": policy_digest(policy),
        "seeds": list(seeds),
    }
    return Job(label, spec, function, (problem, scenario, policy, tuple(seeds)))


def play(
    problem: str, scenario: Scenario, policy: str, seeds: Sequence[int], watch: Watch | None = None
) -> dict[str, list[Any]]:
    """What a policy earns in one episode per seed.

    Args:
        problem: id of the environment.
        scenario: what is played.
        policy: as `agents.registry.make_policy` takes it; or the best of a kind, or the bound.
        seeds: of the episodes.
        watch: called with the environment after the reset and after every step.

    Returns:
        Columns [len(seeds)] by the names in `measures.schema`: `played` is the policy itself, chosen where it had to
        be; of the bound only what it bounds is known, and the rest is None.
    """
    if policy == BOUND:
        return _columns(problem, policy, seeds, _bound(problem, scenario, seeds))
    played, made = pick(problem, policy, scenario)
    # Of planners, whose copies would take the records along, quantiles of latencies are not known.
    options = {"records": not is_slow(policy)} if problem == SERVING_V1 else {}
    env = make_env(problem, scenario, len(seeds), **options)
    metrics = dict(evaluate(made, env, seeds, watch))
    if problem == SERVING:
        assert isinstance(env.engine, ServingEngine)
        metrics |= rejections(env.engine)
    elif problem not in SERVED:
        metrics["alpha"] = np.full(len(seeds), env.alpha)
    return _columns(problem, played, seeds, metrics)


def _columns(
    problem: str, played: str, seeds: Sequence[int], metrics: Mapping[str, npt.NDArray[Any]], note: Any = None
) -> dict[str, list[Any]]:
    unknown = [None] * len(seeds)
    return {
        "seed": list(seeds),
        "played": [played] * len(seeds),
        **{name: metrics[name].tolist() if name in metrics else unknown for name in measures(problem)},
        **{name: metrics[name].tolist() for name in EXPERT_NAMES if name in metrics},
        "note": [note] * len(seeds),
    }


def attempt(problem: str, scenario: Scenario, policy: str, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """`play`, but whatever keeps a policy from playing is its failure and stands in `note`: it earns nothing."""
    try:
        found = play(problem, scenario, policy, seeds)
    except Exception as error:  # a contestant's own code may raise anything
        return _columns(problem, policy, seeds, {}, f"{type(error).__name__}: {error}")
    if not np.isfinite(found["return"]).all():
        return _columns(problem, policy, seeds, {}, "returns that are not finite")
    return found


def timed_play(problem: str, scenario: Scenario, policy: str, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """`play` with `wall_s`, the seconds that it took, without those of compilation."""
    warm(problem, scenario)
    start = time.perf_counter()
    found = play(problem, scenario, policy, seeds)
    return {**found, "wall_s": [time.perf_counter() - start] * len(seeds)}


def make_env(problem: str, scenario: Scenario, num_envs: int, **options: Any) -> ProblemVectorEnv:
    """An environment in which finished episodes wait for the longest."""
    return vector_class(problem)(
        scenario, num_envs=num_envs, autoreset_mode=AutoresetMode.DISABLED, causes=True, **options
    )


def warm(problem: str, scenario: Scenario) -> None:
    """Have a step compiled, and a loop of steps, before a clock starts or processes that would all compile it."""
    env = make_env(problem, scenario, 1)
    env.reset(seed=0)
    env.step(np.zeros((1, *(env.single_action_space.shape or ())), dtype=np.int64))
    if problem in SERVED:
        evaluate(ServingFixed(), make_env(problem, scenario, 1, max_episode_steps=1), (0,))


def rejections(engine: ServingEngine) -> dict[str, npt.NDArray[Any]]:
    """Requests refused on arrival by reason, int64 [num_envs] by the names in `REJECTED`.

    One that is too long for both counts as beyond the context.
    """
    scenario = engine.scenario
    assert scenario.model is not None
    assert scenario.serving is not None
    limit = np.inf if scenario.serving.beyond_context == "extrapolate" else scenario.model.context_limit
    counts = np.zeros((len(REJECTED), engine.num_envs), dtype=np.int64)
    for e in range(engine.num_envs):
        records = engine.records(e)
        refused = records["status"] == at.REFUSED
        beyond = refused & (records["input"] + records["output"] > limit)
        counts[:, e] = beyond.sum(), (refused & ~beyond).sum()
    return dict(zip(REJECTED, counts, strict=True))


def _engine_of(scenario: Scenario, seeds: Sequence[int]) -> ServingEngine:
    """An engine at the start of one episode a seed."""
    engine = ServingEngine(scenario, len(seeds))
    engine.counters[:, at.SEED] = seeds
    engine.reset()
    return engine


def _bound(problem: str, scenario: Scenario, seeds: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
    """What no policy exceeds, [len(seeds)] by measure."""
    if problem == SERVING_V1:
        service = service_bounds(_engine_of(with_classes(scenario), seeds))
        return {**service, "g": service["figure"], "return": service["episode_return"]}
    found = serving_bounds(_engine_of(scenario, seeds))
    return {**found, "return": found["episode_return"]}


def pick(problem: str, policy: str, scenario: Scenario) -> tuple[str, Policy]:
    """What a name stands for on a scenario, and a fresh policy of it: itself, or the best of its kind."""
    if problem == SERVING_V1:
        return picked(policy, with_classes(scenario), SERVICE_SELECTION)
    name = chosen(policy, scenario)
    return name, make_policy(name)


def chosen(policy: str, scenario: Scenario) -> str:
    """The policy that a name stands for on a scenario: that name, or the best of its kind."""
    return _CHOOSE[policy](scenario) if policy in _CHOOSE else policy


def best_fixed(scenario: Scenario, seeds: Sequence[int] = SELECTION_SEEDS) -> str:
    """The name of the fixed joint action with the highest mean return on `seeds`, all tried at once."""
    count = len(JOINT_ACTIONS)
    engine = _engine_of(scenario, np.repeat(seeds, count).tolist())
    roll(engine, play_range, fixed_policy(np.tile(JOINT_ACTIONS, (len(seeds), 1)))[:])
    returns = engine.clocks[:, at.RETURN].reshape(len(seeds), count).mean(axis=0)
    scalars = engine.tables.scalars
    has = np.ones(count, dtype=np.bool_)
    # Where the machine lacks a unit or stacks for attention, an action that names them is another one's double.
    if scalars[at.ONLY_UNIT] >= 0:
        has &= JOINT_ACTIONS[:, at.FC] == scalars[at.ONLY_UNIT]
    if scalars[at.ATTENTION_UNIT] != 2:
        has &= JOINT_ACTIONS[:, at.OVERLAP] == 0
    return fixed_name(JOINT_ACTIONS[int(np.argmax(np.where(has, returns, -np.inf)))])


def best_threshold(scenario: Scenario, seeds: Sequence[int] = SELECTION_SEEDS) -> str:
    """The name of PAPI's threshold with the speculation length of the highest mean return on `seeds`."""
    names = (REFERENCE, *(f"{REFERENCE}-spec{length}" for length in SPECULATION_LENGTHS[1:]))
    returns = [np.mean(play(SERVING, scenario, name, seeds)["return"]) for name in names]
    return names[int(np.argmax(returns))]


_CHOOSE = {BEST_FIXED: best_fixed, BEST_THRESHOLD: best_threshold}
# How many each of them tries.
TRIED = {BEST_FIXED: len(JOINT_ACTIONS), BEST_THRESHOLD: len(SPECULATION_LENGTHS)}


def rehearse(problem: str, cells: Sequence[Cell]) -> None:
    """Play one iteration of every entry, so that what cannot work fails now; compiles the engine.

    Raises:
        ConfigurationError: a policy is unknown, cannot play the system, or was trained on another problem.
    """
    first: dict[Entry, Cell] = {}
    for cell in cells:
        if not cell.refusal:
            first.setdefault(cell.entry, cell)
    for entry, cell in first.items():
        check_policy(entry.policy, problem)
        if entry.policy == BOUND or is_chosen(entry.policy):
            warm(problem, cell.scenario)
            continue
        policy = make_policy(entry.policy)
        try:
            evaluate(policy, make_env(problem, cell.scenario, 2, max_episode_steps=1), (0, 1))
        except ConfigurationError as error:
            trained = _trained_on(policy)
            if trained not in (None, problem):
                raise ConfigurationError(
                    f"Entry {entry.label!r}: this policy was trained on {trained}, but {problem} is played, whose "
                    "observations and actions are others; --env chooses the problem"
                ) from error
            raise ConfigurationError(f"Entry {entry.label!r}: {error}") from error


def _trained_on(policy: Any) -> str | None:
    """The id of the problem that a learned policy was trained on, or None for others."""
    learned = isinstance(policy, (LearnedPolicy, DistilledPolicy, SeesRequests))
    return policy.description.env if learned else None
