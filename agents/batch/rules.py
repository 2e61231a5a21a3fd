"""Rules without learning: PAPI's threshold, static mappings, random choice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from agents.policy import (
    STAGE_CHOICES,
    Actions,
    BatchRule,
    Observations,
    coming_stage,
    image_count,
    parallelism,
)
from papi_env.envs.batch import BatchProblem
from papi_env.envs.decode import DecodeProblem
from papi_env.envs.kernels import KernelsProblem
from papi_env.errors import ConfigurationError, lookup
from papi_env.hardware.experts import ExpertPlacement
from papi_env.hardware.system import System, get_system
from papi_env.hardware.table import CostTable
from papi_env.hardware.units import FC_PIM, PU, UNIT_NAMES, UnitName
from papi_env.simulation.batch import state as at
from papi_env.simulation.batch.expert_tables import ExpertProfile, expert_profile
from papi_env.simulation.batch.stages import StageProfile
from papi_env.workload.routing import routing_of
from papi_env.workload.transformer import Transformer, get_transformer


def calibrate_alpha(system: str | System, model: str | Transformer) -> float:
    """PAPI's α for a system and a model, from the paper's offline sweep of the FC kernels.

    See `papi_env.hardware.table.CostTable.calibrate_alpha`. Experts of a model are among them, as they are spread over
    all banks.
    """
    system = get_system(system) if isinstance(system, str) else system
    model = get_transformer(model) if isinstance(model, str) else model
    table, routing = CostTable(system, model.decode_kernels()), routing_of(model)
    if routing is None:
        return table.calibrate_alpha()
    return table.calibrate_alpha(beside=expert_profile(system, routing, ExpertPlacement()).seconds)


class Threshold(BatchRule):
    """PAPI's scheduler: FC kernels run on the PUs when RLP x TLP exceeds α, else on FC-PIM.

    RLP x TLP is the paper's estimate of arithmetic intensity: rows per weight. Carried over to an image
    encode, each kernel class of a stage is compared with its own rows. What an encode runs is known when its
    images come, so initial and runtime scheduling do the same there.

    Args:
        alpha: the threshold; by default those calibrated for the bound system, one for the model that
            decodes and one for the network that encodes.
        runtime: reschedule before every iteration, from the requests still decoding and the TLP register
            (PAPI's runtime scheduling); otherwise only once per batch (its initial scheduling).
    """

    def __init__(self, alpha: float | None = None, runtime: bool = True) -> None:
        if alpha is not None and (math.isnan(alpha) or alpha < 0):
            raise ConfigurationError(f"alpha is {alpha!r}, expected a number >= 0")
        self.alpha, self.runtime = alpha, runtime

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Compare n, or the rows of each class of the coming stage, with α."""
        alpha = self._alpha() if self.alpha is None else self.alpha
        units = np.where(self._of_iteration(parallelism(observations)) > alpha, PU, FC_PIM)
        if not self.runtime:
            units = np.where(episode_start, units, units if state is None else state)
        actions = self.with_fc_on(units)
        if self.env.scenario.images is not None:
            actions[:, STAGE_CHOICES] = self._stage_units(observations)
        return actions, units

    def _stage_units(self, observations: Observations) -> Actions:
        """The units of the classes of the coming stage, [num_envs, 3]; where none comes they mean nothing."""
        profile = self.env.profile.stages
        assert profile is not None
        measure, alpha = self._of_stages(profile)
        alpha = alpha if self.alpha is None else self.alpha
        measured = measure[np.maximum(coming_stage(observations), 0), :, image_count(observations)]
        return np.where(measured > alpha, PU, FC_PIM).astype(np.int64)

    def _alpha(self) -> float:
        return self.env.alpha

    def _of_iteration(self, n: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """What is compared with α before an iteration, [num_envs]."""
        return n

    def _of_stages(self, profile: StageProfile) -> tuple[npt.NDArray[Any], float]:
        """What is compared in stages, [stages, classes, images], and the α for it."""
        return profile.rows, profile.alpha


class ThresholdIntensity(Threshold):
    """PAPI's rule with the arithmetic intensity itself, FLOP per byte, where the paper estimates it by rows.

    α is calibrated by the same sweep, with intensities in the place of rows. Over an iteration it is the
    intensity of all FC kernels together, which rises with n, so that the two rules agree there; in an image
    encode that of each class, which saturates where matrices are small, so that they need not.
    """

    def supports(self, env: BatchProblem) -> None:
        """The environment has a profile of intensities: those of static batches and image encodes."""
        if not isinstance(env, (DecodeProblem, KernelsProblem)):
            raise ConfigurationError("policy 'threshold-intensity' plays Decode-v0 and Kernels-v0")

    def _alpha(self) -> float:
        return self.env.profile.alpha_intensity

    def _of_iteration(self, n: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        intensity = self.env.profile.intensity
        return np.zeros(len(n)) if intensity is None else intensity[n]

    def _of_stages(self, profile: StageProfile) -> tuple[npt.NDArray[Any], float]:
        return profile.intensity, profile.alpha_intensity


def _experts(env: BatchProblem) -> ExpertProfile | None:
    """What a sweep says of experts whose unit an action names; None where there are none."""
    return env.profile.experts if isinstance(env, KernelsProblem) else None


def _check_split(env: BatchProblem) -> None:
    """Raise ConfigurationError where there are experts that the system cannot split."""
    if _experts(env) is not None and not env.valid_units()[at.EXPERTS, at.SPLIT]:
        raise ConfigurationError(
            f"System {env.scenario.system.name!r} cannot split experts between two units: it has one for FC kernels"
        )


class ThresholdExperts(Threshold):
    """PAPI's rule, with experts by tokens per active expert where other FC kernels go by n = RLP x TLP.

    A router divides n tokens, so an expert's weights serve fewer of them than other weights do: n k / A of the A
    experts that have any, with k experts a token. α of the experts and of the others come from the same sweep, of those
    kernels alone. Where no experts choose a unit of their own it is PAPI's rule.

    Args:
        split: where experts leave FC-PIM, split them between the PUs and FC-PIM; from as many tokens per active expert
            as pay for the mode switches in the sweep.
    """

    def __init__(self, split: bool = False) -> None:
        super().__init__()
        self.split = split

    def supports(self, env: BatchProblem) -> None:
        """Both units run experts, if they are to be split."""
        if self.split:
            _check_split(env)

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Compare n, and tokens per active expert, with their α."""
        actions, units = super().act(observations, state, episode_start)
        profile = _experts(self.env)
        if profile is None:
            return actions, units
        tokens = profile.tokens_per_active[parallelism(observations)]
        above, alpha = (at.SPLIT, profile.split_alpha) if self.split else (PU, profile.alpha)
        actions[:, at.EXPERTS] = np.where(tokens > alpha, above, FC_PIM)
        return actions, units

    def _alpha(self) -> float:
        profile = _experts(self.env)
        return self.env.alpha if profile is None else profile.others_alpha


class Static(BatchRule):
    """One unit for all FC kernels throughout; by default the system's own (the PUs if it has any).

    Args:
        unit: of all of them.
        split: split experts, where they choose, between the PUs and FC-PIM; the others go to `unit`, or FC-PIM if there
            is any.
    """

    def __init__(self, unit: UnitName | None = None, split: bool = False) -> None:
        if unit is not None:
            lookup("unit", unit, dict.fromkeys(UNIT_NAMES))
        self.unit, self.split = unit, split

    def supports(self, env: BatchProblem) -> None:
        """The system has the unit, and another to split experts with if asked for."""
        if self.split:
            _check_split(env)
        if self.unit is not None and self.unit not in self.fc_units():
            raise ConfigurationError(
                f"System {env.scenario.system.name!r} cannot run FC kernels on {self.unit!r}; "
                f"it can on {', '.join(self.fc_units())}"
            )

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Always the same."""
        unit = int(self._defaults[0]) if self.unit is None else UNIT_NAMES.index(self.unit)
        if self.split and self.unit is None and self._valid[at.QKV][FC_PIM]:
            unit = FC_PIM
        actions = self.with_fc_on(np.full(len(observations), unit))
        if self.split and _experts(self.env) is not None:
            actions[:, at.EXPERTS] = at.SPLIT
        return actions, state


class Random(BatchRule):
    """A uniformly random valid unit for every choice: the floor."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def act(self, observations: Observations, state: Any, episode_start: Any) -> tuple[Actions, Any]:
        """Draw each column among its valid units."""
        columns = [self._rng.choice(np.flatnonzero(row), size=len(observations)) for row in self._valid]
        return np.stack(columns, axis=1).astype(np.int64), state
