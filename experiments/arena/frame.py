"""One frame of what was played: a row for each entry, training run, setting and seed, from the files of jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import polars as pl

from experiments.arena.entries import is_privileged
from experiments.arena.measures import schema
from experiments.arena.play import Cell, job_of, play
from experiments.arena.settings import has_experts
from experiments.common.runner import Columns, Job, RunFolder
from experiments.common.study import Study
from papi_env.scenario import Scenario


class Match(Study):
    """A study whose jobs are cells: entries on settings.

    Attributes:
        problem: id of the environment.
        cells: entry by entry, setting by setting; the rows of the frame come in this order.
    """

    function: ClassVar[Callable[..., Columns]] = staticmethod(play)
    problem: str
    cells: Sequence[Cell]

    @cached_property
    def played(self) -> dict[tuple[str, int, int], Job]:
        """What there is to play, each once though several entries may show it, by `_key` of a cell."""
        found: dict[tuple[str, int, int], Job] = {}
        for cell in self.cells:
            if _is_played(cell) and _key(cell) not in found:
                found[_key(cell)] = job_of(self.problem, cell, type(self).function)
        return found

    def jobs(self) -> list[Job]:
        """One for each policy and setting."""
        return list(self.played.values())

    def collect(self, folder: RunFolder) -> pl.DataFrame:
        """The frame, from finished jobs.

        Columns: entry, system, policy, privileged, reference, run, setting, shift, scenario, model, batch_size,
        speculation, static_w, and those of `measures.schema`. A cell that does not fit its system has a row for each
        seed, with the reason in `note` and no measures; a training run that left no policy one row without a seed.
        """
        return pl.concat(self._rows(folder))

    def _rows(self, folder: RunFolder) -> Iterator[pl.DataFrame]:
        columns = schema(self.problem, any(has_experts(cell.scenario) for cell in self.cells))
        for cell in self.cells:
            if _is_played(cell):
                path = folder.job_path(self.played[_key(cell)])
                found = schema(self.problem, has_experts(cell.scenario))
                rows = pl.read_csv(path, schema_overrides=found).select(*found)
                lacking = [
                    pl.lit(None, dtype=columns[name]).alias(name) for name in columns if name not in found
                ]
                rows = rows.with_columns(*lacking).select(*columns)
            else:
                seeds: Sequence[int | None] = cell.seeds if cell.refusal else (None,)
                run = cell.entry.runs[cell.run] if cell.entry.runs else None
                why = cell.refusal or f"training left no policy: {(run and run.status) or 'not begun'}"
                empty: dict[str, Any] = {name: [None] * len(seeds) for name in columns}
                rows = pl.DataFrame({**empty, "seed": seeds, "note": [why] * len(seeds)}, schema=columns)
            scenario, workload = cell.scenario, cell.scenario.workload
            yield rows.select(
                pl.lit(cell.entry.label).alias("entry"),
                pl.lit(cell.entry.system or scenario.system.name).alias("system"),
                pl.lit(cell.policy, dtype=pl.String).alias("policy"),
                pl.lit(cell.policy is not None and is_privileged(cell.policy)).alias("privileged"),
                pl.lit(cell.reference).alias("reference"),
                pl.lit(cell.run).alias("run"),
                pl.lit(cell.setting.name).alias("setting"),
                pl.lit(cell.setting.shift).alias("shift"),
                pl.lit(scenario.name).alias("scenario"),
                pl.lit(_model(scenario)).alias("model"),
                pl.lit(workload and workload.batch_size, dtype=pl.Int64).alias("batch_size"),
                pl.lit(workload and workload.speculation, dtype=pl.Int64).alias("speculation"),
                pl.lit(scenario.system.static_power_w).alias("static_w"),
                pl.all(),
            )


def _is_played(cell: Cell) -> bool:
    return cell.policy is not None and not cell.refusal


def _key(cell: Cell) -> tuple[str, int, int]:
    """What a job is told by: the policy, the setting's scenario (which the cells of a study share), how many seeds."""
    assert cell.policy is not None
    return cell.policy, id(cell.scenario), len(cell.seeds)


def _model(scenario: Scenario) -> str:
    """What decodes, or else encodes."""
    if scenario.model is not None:
        return scenario.model.name
    assert scenario.images is not None
    return scenario.images.network.name
