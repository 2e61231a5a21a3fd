"""What `experiments.throughput` measures of processes: jobs in a second on one and two, of this machine and of Ray."""

from __future__ import annotations

import importlib.util
import time

import joblib
import numpy as np

from experiments.arena.play import attempt
from experiments.common.options import Workers
from experiments.common.pools import Call
from experiments.common.workers import BACKENDS, started
from experiments.speed.measure import DECODE
from experiments.speed.parts import Effort, Findings, Ratio, Say
from papi_env.kernel import FloatArray
from papi_env.scenario import get_scenario

# chosen: of a job that takes about a tenth of a second, as those of comparisons do.
SCENARIO, POLICY, EPISODES = "creative-writing/llama-65b", "oracle", 64
# In a round. chosen: some seconds on one core.
CALLS, QUICK_CALLS = 48, 4


def jobs(found: Findings, effort: Effort, say: Say) -> None:
    """Two processes over one, on each backend; not pinned, the time in which they start left out."""
    calls = CALLS if effort.cold else QUICK_CALLS
    for backend in BACKENDS:
        name = f"ratio_jobs_{backend}"
        missing = ""
        if joblib.cpu_count() < 2:
            missing = "this process may use one core only"
        elif backend == "ray" and not effort.cold:
            missing = "not tried in a hurry, since Ray takes seconds to start"
        elif backend == "ray" and importlib.util.find_spec("ray") is None:
            missing = "ray is not installed"
        if missing:
            found.ratios[name] = Ratio(None, note=missing)
            continue
        rates = {}
        for count in (1, 2):
            say(f"{calls} jobs on {count} processes, {backend}")
            rates[count] = _rates(Workers(jobs=count, backend=backend), calls, min(effort.rounds, 5))
            found.add_values("jobs", DECODE, "jobs/s", rates[count], variant=f"{backend}, {count} processes")
        found.ratios[name] = Ratio.of(
            rates[2] / rates[1], f"jobs of {EPISODES} episodes, two processes over one"
        )


def _rates(workers: Workers, calls: int, rounds: int) -> FloatArray:
    """Jobs in a second of wall time, by round."""
    scenario = get_scenario(SCENARIO)
    seeds = tuple(range(EPISODES))
    asked = [Call(f"job {k}", attempt, (DECODE, scenario, POLICY, seeds)) for k in range(calls)]
    rates = []
    with started(workers) as pool:
        pool.map(asked[: 2 * max(pool.size, 1)])
        for _ in range(rounds):
            start = time.perf_counter()
            pool.map(asked)
            rates.append(calls / (time.perf_counter() - start))
    return np.array(rates)
