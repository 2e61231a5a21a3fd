"""Rules without learning: PAPI's threshold, static mappings, random choice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from agents.policy import Actions, Observations, RulePolicy, parallelism
from papi_env.envs.base import Problem
from papi_env.errors import ConfigurationError, lookup
from papi_env.hardware.system import System, get_system
from papi_env.hardware.table import CostTable
from papi_env.hardware.units import FC_PIM, PU, UNIT_NAMES, UnitName
from papi_env.workload.transformer import Transformer, get_transformer


def calibrate_alpha(system: str | System, model: str | Transformer) -> float:
    """PAPI's α for a system and a model, from the paper's offline sweep of the FC kernels.

    See `papi_env.hardware.table.CostTable.calibrate_alpha`.
    """
    system = get_system(system) if isinstance(system, str) else system
    model = get_transformer(model) if isinstance(model, str) else model
    return CostTable(system, model.fc_kernels()).calibrate_alpha()


class Threshold(RulePolicy):
    """PAPI's scheduler: FC kernels run on the PUs when RLP x TLP exceeds α, else on FC-PIM.

    Args:
        alpha: the threshold; by default the one calibrated for the bound system and model.
        runtime: reschedule before every iteration, from the requests still decoding and the TLP register
            (PAPI's runtime scheduling); otherwise only once per batch (its initial scheduling).
    """

    def __init__(self, alpha: float | None = None, runtime: bool = True) -> None:
        if alpha is not None and (math.isnan(alpha) or alpha < 0):
            raise ConfigurationError(f"alpha is {alpha!r}, expected a number >= 0")
        self.alpha, self.runtime = alpha, runtime

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Compare n with α."""
        alpha = self.env.alpha if self.alpha is None else self.alpha
        units = np.where(parallelism(observations) > alpha, PU, FC_PIM)
        if not self.runtime:
            units = np.where(episode_start, units, units if state is None else state)
        return self.with_fc_on(units), units


class Static(RulePolicy):
    """One unit for all FC kernels throughout; by default the system's own (the PUs if it has any)."""

    def __init__(self, unit: UnitName | None = None) -> None:
        if unit is not None:
            lookup("unit", unit, dict.fromkeys(UNIT_NAMES))
        self.unit = unit

    def supports(self, env: Problem) -> None:
        """The system has the unit."""
        if self.unit is not None and self.unit not in self.fc_units():
            raise ConfigurationError(
                f"System {env.scenario.system.name!r} cannot run FC kernels on {self.unit!r}; "
                f"it can on {', '.join(self.fc_units())}"
            )

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Always the same."""
        unit = int(self._defaults[0]) if self.unit is None else UNIT_NAMES.index(self.unit)
        return self.with_fc_on(np.full(len(observations), unit)), state


class Random(RulePolicy):
    """A uniformly random valid unit for every choice: the floor."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Draw each column among its valid units."""
        columns = [self._rng.choice(np.flatnonzero(row), size=len(observations)) for row in self._valid]
        return np.stack(columns, axis=1).astype(np.int64), state
