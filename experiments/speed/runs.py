"""What `experiments.throughput` measures of whole runs: the way to a first step, and a grid point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import gymnasium as gym
import numpy as np

from experiments.common.runner import ROOT
from experiments.speed.measure import DECODE, SERVING
from experiments.speed.parts import Effort, Findings, Say
from papi_env.scenario import DEFAULT_SCENARIO, get_scenario
from papi_env.workload.requests import Lengths

# The unit in which simulators of this kind report: all decode iterations of 128 output tokens but the first token,
# which prefill gives (AttAcc's grids, ASPLOS 2024).
GRID_ITERATIONS = 127


def startup(found: Findings, effort: Effort, say: Say) -> None:
    """Seconds to import, and to a first step, with an empty and a filled cache of compiled code."""
    for env_id in (DECODE, SERVING):
        with tempfile.TemporaryDirectory() as folder:
            cache = folder if effort.cold else None
            runs = []
            for attempt in range(4 if effort.cold else 1):
                say(f"{env_id}, a new process" + (", compiling" if effort.cold and attempt == 0 else ""))
                runs.append(first_step(env_id, cache))
            if effort.cold:
                found.add_values(
                    "startup", env_id, "s", [runs[0]["first_step_s"]], variant="first step, cold"
                )
                runs = runs[1:]
        cached = [run["first_step_s"] for run in runs]
        found.add_values("startup", env_id, "s", cached, variant="first step, cached")
        if env_id == DECODE:
            for package in ("gymnasium", "papi_env"):
                seconds = [run[f"{package}_s"] for run in runs]
                found.add_values("startup", package, "s", seconds, variant="import")


# Processor time, as everywhere. `papi_env` counts without gymnasium, which it needs; a first step counts making,
# resetting and stepping.
_FIRST_STEP = """
import json, sys, time
start = time.process_time()
import gymnasium
gymnasium_s = time.process_time() - start
import papi_env
papi_env_s = time.process_time() - start - gymnasium_s
start = time.process_time()
env = gymnasium.make(sys.argv[1])
env.reset(seed=0)
env.step(env.action_space.sample())
first_step_s = time.process_time() - start
print(json.dumps({"gymnasium_s": gymnasium_s, "papi_env_s": papi_env_s, "first_step_s": first_step_s}))
"""


def first_step(env_id: str, cache: str | None) -> dict[str, float]:
    """Seconds of imports, and to the first step of an environment, in a new process.

    Args:
        env_id: the environment.
        cache: folder of compiled code; None for the one in use.
    """
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = cache
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_STEP, env_id],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def grid(found: Findings, effort: Effort, say: Say) -> None:
    """Seconds per grid point: a batch of fixed lengths, 127 iterations, the way that peers report them."""
    say("grid points")
    base = get_scenario(DEFAULT_SCENARIO)
    whole, played, batched = [], [], []
    for r in range(effort.rounds):
        # Another point every time: nothing of it was computed before.
        lengths = Lengths(input=256 + 64 * r, output=GRID_ITERATIONS)
        scenario = base.replace(lengths=lengths, batch_size=16, speculation=1)
        start = time.process_time()
        env = gym.make(DECODE, scenario=scenario)
        made = time.process_time()
        env.reset(seed=0)
        iterations, terminated = 0, False
        while not terminated:
            terminated = env.step(0)[2]
            iterations += 1
        end = time.process_time()
        whole.append(end - start)
        played.append(end - made)
        vector = gym.make_vec(DECODE, num_envs=effort.large, scenario=scenario)
        actions = np.zeros(effort.large, dtype=np.int64)
        start = time.process_time()
        vector.reset(seed=0)
        for _ in range(GRID_ITERATIONS):
            ended = vector.step(actions)[2]
        batched.append((time.process_time() - start) / effort.large)
        if iterations != GRID_ITERATIONS or not ended.all():
            raise RuntimeError(f"a grid point took {iterations} iterations, expected {GRID_ITERATIONS}")
    unit = "s/point"
    about = {"requests": 16, "tlp": 1}
    found.add_values("grid", DECODE, unit, whole, envs=1, variant="made and played", **about)
    found.add_values("grid", DECODE, unit, played, envs=1, variant="played", **about)
    each = np.array(played) / GRID_ITERATIONS
    found.add_values("grid", DECODE, "s/iteration", each, envs=1, variant="a decode iteration", **about)
    found.add_values("grid", DECODE, unit, batched, envs=effort.large, variant="played in a batch", **about)
