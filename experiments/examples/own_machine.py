"""A machine and a model of your own: `python -m experiments.examples.own_machine`.

The machine starts from a registered one in `files/machine.toml`; the model is a hub's `config.json`. A copy of the file
with a typing error shows how mistakes are answered.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym

import papi_env
from papi_env.errors import ConfigurationError
from papi_env.policies import evaluate, make_policy
from papi_env.scenario import load_scenario

FILE = Path(__file__).parent / "files" / "machine.toml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Say what the machine is, then play it with static mappings, PAPI's rule and the oracle."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scenario", type=Path, default=FILE, help=f"default: {FILE.name}")
    parser.add_argument("--seeds", type=int, default=4, help="instances (default: 4)")
    asked = parser.parse_args(arguments)

    scenario = load_scenario(asked.scenario)
    system = scenario.system
    print(f"{scenario.name}: {scenario.description}")
    print(f"weights {scenario.weight_bytes / 1e9:.1f} of {system.weight_capacity_bytes / 1e9:.1f} GB")

    envs = gym.make_vec(papi_env.DECODE, num_envs=asked.seeds, scenario=scenario, autoreset_mode="Disabled")
    print(f"α = {envs.unwrapped.alpha:.0f}")  # type: ignore[attr-defined]
    for name in ("static-pu", "static-fc-pim", "threshold", "oracle"):
        found = evaluate(make_policy(name), envs, range(asked.seeds))
        rate = (found["tokens"] / found["time_s"]).mean()
        print(f"{name:<14} {rate:7.0f} tokens/s {(found['total_j'] / found['tokens']).mean():.4f} J/token")

    try:
        scenario.replace(system="papi-1gpuu")
    except ConfigurationError as error:
        print(f"a mistake is answered: {error}".partition(" Known:")[0])


if __name__ == "__main__":
    main()
