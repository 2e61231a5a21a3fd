"""The installed package, far from the checkout: all ids can be made and played, and its data files are there."""

import sys
from pathlib import Path

import gymnasium as gym

import papi_env
from papi_env.scenario import SCENARIOS

home = Path(papi_env.__file__).resolve().parent
assert home.parent.name == "site-packages", f"{home}: not an installed package"
assert (home / "py.typed").is_file()
assert not {"agents", "experiments"} & {path.name for path in home.parent.iterdir()}
for env_id in papi_env.ENV_IDS:
    env = gym.make(env_id).unwrapped
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(env.action_space.sample())
    assert env.observation_space.shape is not None
    env.close()
print(
    f"papi_env {papi_env.__version__}, Python {sys.version.split()[0]}: {len(SCENARIOS)} scenarios, ", end=""
)
print(f"{len(papi_env.ENV_IDS)} problems played from {home}")
