"""Levels of a recording are what the records of the requests say."""

import numpy as np
import pytest

from experiments.arena.gantt import Recorder
from papi_env.envs.rendering import EXACT, SCHEMATIC
from papi_env.envs.serving import ServingVectorEnv
from papi_env.simulation.serving import state as at


@pytest.mark.parametrize("scenario", ["light/llama-65b", "saturated/llama-65b"])
def test_levels_are_those_of_the_requests(scenario):
    room = {"max_running": 4} if scenario.startswith("saturated") else {}
    serving = {"requests": 30, "horizon_s": None, **room}
    env = ServingVectorEnv(scenario, serving=serving, autoreset_mode="Disabled")
    env.reset(seed=0)
    recorder, done = Recorder("whole"), False
    recorder(env)
    while not done:
        _, _, terminated, truncated, _ = env.step(np.array([[at.FC_PIM, 0, at.ALL, 0]]))
        recorder(env)
        done = bool(terminated[0] | truncated[0])
    found = env.engine.records(0)
    assert env.metrics()["preemptions"][0] == 0
    levels = recorder.levels[1:]  # the first is from before anybody was admitted
    waits = 0
    for level in levels:
        here = (found["arrival_s"] <= level.time_s) & ~(found["finish_s"] <= level.time_s)
        admitted = here & (found["admitted_s"] <= level.time_s)
        assert level.queued == (here & ~admitted).sum()
        assert level.decoding + level.prefilling == admitted.sum()
        assert level.decoding == (admitted & (found["first_token_s"] <= level.time_s)).sum()
        waits += level.queued
    # Admitted at once, nobody waits while there is room: a request in its first prefill isn't queued.
    assert (waits == 0) == scenario.startswith("light")
    # Time in which nobody was there has levels of its own.
    idle = [level for level in levels[:-1] if level.queued + level.decoding + level.prefilling == 0]
    assert bool(idle) == scenario.startswith("light")


def test_every_renderer_says_what_is_exact_by_one_rule():
    from experiments.arena.gantt import trace_events

    assert set(trace_events([])["otherData"].values()) >= {EXACT, SCHEMATIC}
