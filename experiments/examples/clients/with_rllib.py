"""RLlib: PPO on single environments (`pip install 'ray[rllib]' torch`; tried with 2.60, which pins gymnasium 1.2.2).

Workers are processes of their own, which import what registers an id if it is named in front of it:
`papi_env:papi_env/Decode-v0`. `flatten=True` makes spaces Discrete; `papi_env.envs.masks.MaskedObservations` puts masks
into the observations, under the names of RLlib's examples.
"""

from __future__ import annotations

import time

import ray
from ray.rllib.algorithms.ppo import PPOConfig


def main(iterations: int = 2) -> float:
    """Train briefly; environment steps per CPU second."""
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    config = (
        PPOConfig()
        .environment("papi_env:papi_env/Decode-v0", env_config={"batch_requests": 4})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8)
        .training(train_batch_size_per_learner=2000, minibatch_size=500, num_epochs=2)
    )
    algorithm = config.build_algo()
    algorithm.train()
    start, steps = time.process_time(), 0
    for _ in range(iterations):
        steps += algorithm.train()["env_runners"]["num_env_steps_sampled"]
    rate = steps / (time.process_time() - start)
    algorithm.stop()
    ray.shutdown()
    return float(rate)


if __name__ == "__main__":
    print(f"RLlib: {main():,.0f} steps per CPU second")
