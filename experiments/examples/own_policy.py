"""A scheduler of your own beside PAPI's: `python -m experiments.examples.own_policy --seeds 8`.

The rule here is PAPI's with a band: it changes units only where n = RLP x TLP has left the band around α, which saves
changes where they cost something. All it reads is the observation. The same class in the full comparison:

    python -m experiments.compare --entries default experiments.examples.own_policy:Band
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

import papi_env
from papi_env.policies import evaluate, make_policy

PU, FC_PIM = 0, 1
# Feature 3 is n / (n + α): 0.5 at α. Here from 0.8 to 1.25 α.
LOW, HIGH = 0.8 / 1.8, 1.25 / 2.25


class Band:
    """PAPI's rule, which keeps its unit while n is within a band around α. Needs no more than `predict`."""

    # Whether it reads what a scheduler cannot see.
    privileged = False

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, Any]:
        """Actions of one observation [features], or of a batch of them [num_envs, features]; and the state to keep."""
        n = np.asarray(observation)[..., 3]
        last = np.where(n > 0.5, PU, FC_PIM) if state is None else state
        actions = np.where(n > HIGH, PU, np.where(n < LOW, FC_PIM, last))
        return actions, actions


def main(arguments: Sequence[str] | None = None) -> None:
    """Play the same instances with four policies, and print what each cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=8, help="instances (default: 8)")
    parser.add_argument(
        "--switch-us", type=float, default=500.0, help="what a change of unit costs (default: 500)"
    )
    asked = parser.parse_args(arguments)
    envs = gym.make_vec(
        papi_env.DECODE,
        num_envs=asked.seeds,
        scenario="creative-writing/llama-65b",
        speculation=4,
        switch_s=1e-6 * asked.switch_us,
        autoreset_mode="Disabled",
    )
    rivals = {"static-pu": make_policy("static-pu"), "threshold": make_policy("threshold"), "band": Band()}
    print(f"{'policy':<10} {'seconds':>8} {'joules':>8} {'changes':>8}")
    for name, policy in {**rivals, "optimum*": make_policy("optimum")}.items():
        found = evaluate(policy, envs, range(asked.seeds))
        means = [found[metric].mean() for metric in ("time_s", "total_j", "switches")]
        print(f"{name:<10} {means[0]:8.3f} {means[1]:8.0f} {means[2]:8.1f}")


if __name__ == "__main__":
    main()
