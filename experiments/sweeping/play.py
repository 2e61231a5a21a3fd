"""Playing designs: the job of a few of them, and the columns that it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from polars.datatypes import DataType

from experiments.arena.entries import policy_digest
from experiments.arena.measures import measures, schema
from experiments.arena.play import play
from experiments.arena.settings import refusal, trace_digest
from experiments.common.progress import Score
from experiments.common.runner import Columns, Job, canonical, file_digest
from experiments.splitting.definition import SERVING
from experiments.sweeping.definition import Design, Prices, Sweep
from experiments.sweeping.designs import PROXIES, proxies, scenario_of
from papi_env.envs.serving import build_serving_scenario
from papi_env.errors import ConfigurationError
from papi_env.scenario import Scenario

# Of static batches, as `experiments.compare` has them; serving measures its own.
RATES = ("tokens_per_s", "j_per_token")


@dataclass(frozen=True)
class Plan:
    """All that playing a design depends on; it pickles.

    Attributes:
        problem: id of the environment.
        bases: the scenarios whose fields are set, as plain data.
        paths: of those fields.
        policies, seeds: what plays each design on which instances.
        limits: the most of a proxy that a design may have.
        prices: of the cost proxy.
    """

    problem: str
    bases: tuple[Mapping[str, Any], ...]
    paths: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    limits: Mapping[str, float]
    prices: Prices | None

    @property
    def rows(self) -> int:
        """Rows of a design at most."""
        return len(self.bases) * len(self.policies) * len(self.seeds)


def plan_of(sweep: Sweep, scenarios: Sequence[Scenario]) -> Plan:
    """What a sweep plays on its scenarios."""
    seeds = tuple(range(sweep.seed, sweep.seed + sweep.seeds))
    bases = tuple(scenario.model_dump() for scenario in scenarios)
    return Plan(sweep.env, bases, sweep.paths, sweep.policies, seeds, dict(sweep.limits), sweep.prices)


def describe(plan: Plan, scenarios: Sequence[Scenario]) -> dict[str, Any]:
    """What rows depend on besides designs, as plain data: scenarios, files from outside by content, this code."""
    here = Path(__file__).parent
    return {
        "problem": plan.problem,
        "scenarios": [scenario.model_dump(mode="json") for scenario in scenarios],
        "traces": [trace_digest(scenario) for scenario in scenarios],
        "paths": list(plan.paths),
        "policies": {policy: policy_digest(policy) for policy in plan.policies},
        "seeds": list(plan.seeds),
        "limits": dict(plan.limits),
        "prices": None if plan.prices is None else plan.prices.model_dump(mode="json"),
        "code": [file_digest(here / name) for name in ("play.py", "designs.py")],
    }


def job(
    plan: Plan,
    known: str,
    first: int,
    designs: Sequence[Design],
    scores: Callable[[bytes], Iterable[Score]] | None = None,
) -> Job:
    """The job of designs `first` and following; `known` is a digest of `describe`, `scores` for --watch."""
    spec = {"plan": known, "first": first, "designs": [list(design) for design in designs]}
    label = f"designs {first} to {first + len(designs) - 1}"
    return Job(label, spec, play_designs, (plan, first, tuple(designs)), scores)


def columns(plan: Plan, texts: Sequence[bool]) -> dict[str, type[DataType]]:
    """The columns of rows by their types; `texts` says which paths hold texts or tables rather than numbers."""
    kinds: dict[str, type[DataType]] = {"design": pl.Int64}
    kinds |= {path: pl.String if text else pl.Float64 for path, text in zip(plan.paths, texts, strict=True)}
    kinds |= {"scenario": pl.String, "policy": pl.String}
    kinds |= dict.fromkeys(PROXIES, pl.Float64)
    kinds |= schema(plan.problem)
    kinds |= dict.fromkeys(RATES, pl.Float64)
    return {
        **{name: kind for name, kind in kinds.items() if name != "note"},
        "refused": pl.String,
        "note": pl.String,
    }


def known_measures(problem: str) -> tuple[str, ...]:
    """What an objective may be."""
    return tuple(dict.fromkeys((*RATES, *PROXIES, *measures(problem))))


def play_designs(plan: Plan, first: int, designs: Sequence[Design]) -> Columns:
    """A row for each design, scenario, policy and seed; one without measures for what is refused, with the reason."""
    rows: list[dict[str, Any]] = []
    for number, design in enumerate(designs, start=first):
        for base in plan.bases:
            head = {"design": number, **{p: _plain(v) for p, v in zip(plan.paths, design, strict=True)}}
            rows += _played(plan, base, design, {**head, "scenario": base["name"]})
    names = columns(plan, [False] * len(plan.paths))
    return {name: [row.get(name) for row in rows] for name in names}


def _plain(value: Any) -> Any:
    return canonical(value) if isinstance(value, (dict, list, bool)) else value


def _played(
    plan: Plan, base: Mapping[str, Any], design: Design, head: dict[str, Any]
) -> list[dict[str, Any]]:
    try:
        scenario = scenario_of(base, plan.paths, design)
        if plan.problem == SERVING:
            scenario = build_serving_scenario(scenario)
    except ConfigurationError as error:
        return [{**head, "refused": "machine", "note": str(error)}]
    found = proxies(scenario.system, plan.prices)
    head = {**head, **found}
    if plan.prices is not None and found["cost"] is None:
        assert scenario.system.pu is not None
        known = ", ".join(plan.prices.pu)
        note = f"prices.pu has no {scenario.system.pu.name!r}, expected it among {known}"
        return [{**head, "refused": "limit", "note": note}]
    for name, most in plan.limits.items():
        value = found[name]
        if value is None or value > most:
            shown = "unknown" if value is None else f"{value:.6g}"
            return [{**head, "refused": "limit", "note": f"{name} is {shown}, expected at most {most:.6g}"}]
    reason = refusal(scenario)
    if reason:
        return [{**head, "refused": "capacity", "note": reason}]
    rows: list[dict[str, Any]] = []
    for policy in plan.policies:
        try:
            played = play(plan.problem, scenario, policy, plan.seeds)
        except ConfigurationError as error:
            rows.append({**head, "policy": policy, "refused": "policy", "note": str(error)})
            continue
        for values in zip(*played.values(), strict=True):
            row = dict(zip(played, values, strict=True))
            rows.append({**head, "policy": policy, **row, **_rates(row)})
    return rows


def _rates(row: Mapping[str, Any]) -> dict[str, float]:
    """Tokens per second and joules per token, prompts included, where the problem does not measure them."""
    tokens = row.get("tokens")
    if not tokens:
        return {}
    if "total_s" not in row:
        return {"tokens_per_s": row["throughput"]}
    return {"tokens_per_s": tokens / row["total_s"], "j_per_token": row["total_j"] / tokens}
