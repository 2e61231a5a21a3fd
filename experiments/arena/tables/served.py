"""What is printed of served requests: means over the seeds, a column for each policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
from rich.console import Console
from rich.table import Table

from experiments.arena.estimators.seeds import known_mean
from experiments.arena.measures import ENERGY_CAUSES, served_rows
from experiments.arena.summaries.energy import shares_of_energy
from experiments.arena.tables.text import scaled
from papi_env.scenario import Scenario
from papi_env.workload.objectives import Objectives


def heading(scenario: Scenario, seeds: Sequence[int], what: str | None = None) -> str:
    """What was served, on what, and which objectives count; `what` instead of the scenario's name."""
    assert scenario.serving is not None
    serving = scenario.serving
    count = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    model = scenario.model.name if scenario.model else ""
    if serving.service is None:
        said = _said(serving.objectives)
    else:
        classes = serving.service.classes.items()
        said = "; ".join(f"{name} {_said(one.objectives or serving.objectives)}" for name, one in classes)
    return f"{what or scenario.name} on {scenario.system.name}, {model}: {said}; {count}"


def _said(objectives: Objectives) -> str:
    return f"TTFT {objectives.ttft_s:g} s, TPOT {1e3 * objectives.tpot_s:g} ms"


def print_report(
    console: Console,
    head: str,
    frame: pl.DataFrame,
    wall_s: Mapping[str, float],
    classes: Sequence[str] = (),
) -> None:
    """The heading, the table, and what the star means; arguments as of `results_table`."""
    console.print(head, markup=False, highlight=False)
    console.print(results_table(frame, wall_s, classes))
    if any(policy.endswith("*") for policy in wall_s):
        console.print("* privileged: reads what no scheduler can see", markup=False)


def results_table(frame: pl.DataFrame, wall_s: Mapping[str, float], classes: Sequence[str] = ()) -> Table:
    """Means over the seeds of `summaries.served.as_written`, and seconds of the replay, a column per policy.

    Args:
        frame: a row for each policy and seed.
        wall_s: seconds of each policy's replay.
        classes: names of the classes of requests, in their order.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for policy in wall_s:
        table.add_column(policy, justify="right")
    for column, label, factor, digits in served_rows(frame.columns, classes):
        means = (known_mean(frame.filter(pl.col("policy") == p)[column].to_numpy()) for p in wall_s)
        table.add_row(label, *(scaled(mean, factor, f".{digits}f") for mean in means))
        if column == "j_per_token":
            _add_causes(table, [frame.filter(pl.col("policy") == p) for p in wall_s])
    table.add_row("wall time of the replay (s)", *(f"{seconds:.2f}" for seconds in wall_s.values()))
    return table


def _add_causes(table: Table, frames: Sequence[pl.DataFrame]) -> None:
    """A row for each cause of energy: its percentage of all joules, by policy."""

    def shares_of(rows: pl.DataFrame) -> dict[str, float | None]:
        return shares_of_energy(lambda name: rows[name].to_numpy())

    shares = [shares_of(rows) for rows in frames]
    for cause in ENERGY_CAUSES:
        table.add_row(f"  {cause} (% of joules)", *(scaled(share[cause], 100, ".1f") for share in shares))
