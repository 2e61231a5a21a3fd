"""A serving engine whose observations end with what the coming iteration would take by the offline profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from papi_env.simulation.engine import SAME_STEP, Handed
from papi_env.simulation.serving.engine import ServingEngine
from papi_env.simulation.serving.profiled import PROFILE_NAMES, PROFILED, write_profiles


class ProfiledEngine(ServingEngine):
    """A `ServingEngine` of a scenario with classes; `profiled.PROFILE_FEATURES` follow its descriptors.

    They are made of the other features and the profile alone, so a step, a run and a rollout write them once, at their
    end.
    """

    def _arrays(self, choices: int, features: int) -> None:
        super()._arrays(choices, features + len(PROFILE_NAMES))

    def reset(self, mask: npt.NDArray[np.bool_] | None = None) -> None:
        """Start the episode that the SEED and EPISODE counters name, where `mask` is true."""
        super().reset(mask)
        self._profile(self.observations)

    def share(self, advance: Callable[[int, int, tuple[Any, ...]], None]) -> None:
        """Call a compiled loop on shares of the environments, and write the profile of where they stand then."""
        super().share(advance)
        self._profile(self.observations)
        if self.autoreset == SAME_STEP and (self.terminated | self.truncated).any():
            self._profile(self.final_observations)

    def advance_into(self, given: Handed) -> None:
        """See `Engine`; the profile, written after the step, is copied after it."""
        super().advance_into(given)
        profile = slice(-len(PROFILE_NAMES), None)
        given.observations[:, profile] = self.observations[:, profile]

    def _profile(self, observations: npt.NDArray[np.float32]) -> None:
        look = self.frame("tables")
        super().share(
            lambda start, stop, scratch: write_profiles(start, stop, PROFILED, look, scratch[0], observations)
        )
