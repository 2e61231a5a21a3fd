"""What a training in phases plays when: all settings together, then those of each traffic by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from papi_env.scenario import Scenario
from papi_env.workload.service_presets import traffic_of


class Phase(NamedTuple):
    """A part of the training.

    Attributes:
        traffic: that is gone on with by itself; empty: all.
        settings: indices of what is played.
        begin, stop: steps at which it begins and is over.
    """

    traffic: str
    settings: tuple[int, ...]
    begin: int
    stop: int


def phases(settings: Sequence[Scenario], timesteps: int, apart: float) -> list[Phase]:
    """All together, and for the share `apart` of the steps each traffic by itself, where there are several.

    Settings of no known traffic are played with all others alone.
    """
    every = tuple(range(len(settings)))
    of: dict[str, list[int]] = {}
    for k, setting in enumerate(settings):
        traffic = traffic_of(setting.serving)
        if traffic is not None:
            of.setdefault(traffic, []).append(k)
    if apart == 0 or len(of) < 2:
        return [Phase("", every, 0, timesteps)]
    bounds = [int(bound) for bound in np.linspace((1 - apart) * timesteps, timesteps, len(of) + 1)]
    found = zip(of.items(), bounds[:-1], bounds[1:], strict=True)
    together = [Phase("", every, 0, bounds[0])] if apart < 1 else []
    return together + [Phase(name, tuple(some), begin, stop) for (name, some), begin, stop in found]
