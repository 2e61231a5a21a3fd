"""TorchRL: a batch environment in a GymWrapper (`pip install torchrl`; tried with 0.14 and gymnasium 1.4).

TorchRL wants `autoreset_mode="Disabled"`, or "SameStep", with which it also reads infos; it refuses the default of
gymnasium. `GymEnv(id, batch_size=...)` keeps that argument for itself: call it `batch_requests`.
`auto_register_info_dict()` reads infos of batches in either mode; of a single environment it takes no Python numbers,
so make a batch of one.
"""

from __future__ import annotations

import time

import gymnasium as gym
from torchrl.envs import GymEnv, GymWrapper

import papi_env  # noqa: F401  registers the ids


def main(num_envs: int = 256, steps: int = 200) -> float:
    """Roll out with random actions; environment steps per CPU second."""
    single = GymEnv("papi_env/Decode-v0", batch_requests=4)
    assert single.rollout(10)["observation"].shape[-1] == single.observation_spec["observation"].shape[-1]
    envs = GymWrapper(gym.make_vec("papi_env/Decode-v0", num_envs=num_envs, autoreset_mode="Disabled"))
    envs.rollout(2)  # compiles
    start = time.process_time()
    rollout = envs.rollout(steps, break_when_any_done=False)
    assert tuple(rollout.batch_size) == (num_envs, steps)
    return num_envs * steps / (time.process_time() - start)


if __name__ == "__main__":
    print(f"TorchRL: {main():,.0f} steps per CPU second")
