"""Tianshou: single environments in its own vector, masks in dict observations (`pip install tianshou`; tried with 2.0).

Its policies look for the mask under `mask` and the observation under `obs`; `flatten=True` numbers joint actions, which
a mask for each number needs.
"""

from __future__ import annotations

import time

import gymnasium as gym
from tianshou.algorithm.random import MARLRandomDiscreteMaskedOffPolicyAlgorithm
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv

from papi_env.envs.masks import MaskedObservations


def make() -> gym.Env:
    """An environment whose observation is `{"obs": ..., "mask": ...}`."""
    env = gym.make("papi_env:papi_env/Serving-v0", flatten=True, serving={"horizon_s": 5.0})
    return MaskedObservations(env, "obs", "mask")


def main(num_envs: int = 8, steps: int = 2000) -> float:
    """Collect with random actions that the masks allow; environment steps per CPU second."""
    envs = DummyVectorEnv([make for _ in range(num_envs)])
    policy = MARLRandomDiscreteMaskedOffPolicyAlgorithm(action_space=envs.action_space[0])
    collector = Collector(policy, envs, VectorReplayBuffer(steps, num_envs))
    collector.reset()
    start = time.process_time()
    found = collector.collect(n_step=steps)
    return found.n_collected_steps / (time.process_time() - start)


if __name__ == "__main__":
    print(f"Tianshou: {main():,.0f} steps per CPU second")
