"""PPO from Stable-Baselines3 on a batch of environments: `python -m experiments.examples.train_sb3 --steps 100000`.

Needs the extra `learn`. The project's own trainer, with splits, validation and checkpoints that run in NumPy, is
`experiments.train`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO

import papi_env
from papi_env.policies import evaluate, make_policy
from papi_env.sb3 import make_vec

SCENARIO: dict[str, Any] = {"scenario": "creative-writing/llama-65b", "batch_size": 64, "speculation": 4}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, then play instances that training did not see beside PAPI's rule and the oracle."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps (default: 100000)")
    parser.add_argument("--envs", type=int, default=64, help="environments in the batch (default: 64)")
    parser.add_argument("--seeds", type=int, default=8, help="instances to judge by (default: 8)")
    asked = parser.parse_args(arguments)

    envs = make_vec(papi_env.DECODE, num_envs=asked.envs, seed=0, **SCENARIO)
    model = PPO("MlpPolicy", envs, n_steps=64, batch_size=1024, learning_rate=1e-3, seed=0, device="cpu")
    model.learn(asked.steps)

    judged = gym.make_vec(papi_env.DECODE, num_envs=asked.seeds, autoreset_mode="Disabled", **SCENARIO)
    seeds = range(10_000, 10_000 + asked.seeds)
    costs = {
        name: np.asarray(evaluate(policy, judged, seeds)["time_s"])
        for name, policy in {
            "PPO": model,
            "threshold": make_policy("threshold"),
            "static-pu": make_policy("static-pu"),
            "oracle*": make_policy("oracle"),
        }.items()
    }
    for name, seconds in costs.items():
        print(
            f"{name:<10} {seconds.mean():.3f} s, {100 * (seconds / costs['oracle*'] - 1).mean():.2f} % above the oracle"
        )


if __name__ == "__main__":
    main()
