"""A trace of your own, from a CSV file to latencies: `python -m experiments.examples.own_trace`.

Files of the known forms (Azure, BurstGPT, Mooncake, vLLM's benchmark and more) need no more than their path; any other
says what its columns are called and in which unit its times are. The file here is made up.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import papi_env
from papi_env.policies import evaluate, make_policy

SHOWN = ("ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "goodput")


def write_trace(path: Path, requests: int) -> None:
    """A file of requests that come in bursts: milliseconds, tokens of the prompt and of the answer."""
    draw = np.random.default_rng(0)
    times = np.cumsum(draw.gamma(0.3, 500.0, requests))
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["sent_ms", "prompt", "answer"])
        for time in times:
            rows.writerow([f"{time:.1f}", int(draw.integers(100, 1500)), int(draw.integers(20, 200))])


def scenario(path: Path, requests: int) -> dict[str, Any]:
    """LLaMA-65B on PAPI's machine serves the first requests of the file: arrivals and lengths both."""
    columns = {
        "trace": str(path),
        "input_column": "prompt",
        "output_column": "answer",
        "delimiter": ";",
    }
    return {
        "name": "own-trace",
        "system": "papi",
        "model": "llama-65b",
        "serving": {
            "arrivals": {"process": "trace", "time_column": "sent_ms", "time_unit": "ms", **columns},
            "lengths": columns,
            "objectives": {"ttft_s": 1.0, "tpot_s": 0.05},
            "requests": requests,
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the trace, serve it with three schedulers, and print latencies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200, help="requests of the trace (default: 200)")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.csv"
        write_trace(path, asked.requests)
        served = scenario(path, asked.requests)
        envs = gym.make_vec(papi_env.SERVING, num_envs=1, scenario=served, autoreset_mode="Disabled")
        print(f"{'policy':<22}" + "".join(f"{name:>13}" for name in SHOWN))
        for name in ("threshold", "heuristic", "profile-greedy"):
            found = evaluate(make_policy(name), envs, [0])
            print(f"{name:<22}" + "".join(f"{found[metric][0]:13.4g}" for metric in SHOWN))


if __name__ == "__main__":
    main()
