"""Minari: episodes with their infos as a dataset (`pip install 'minari[all]'`; tried with 0.5).

Minari wants the same keys in every info, so make the environment with `totals=False`: without it `info["metrics"]`
comes with the end of an episode.
"""

from __future__ import annotations

import time

import gymnasium as gym
import minari

import papi_env  # noqa: F401  registers the ids


def main(episodes: int = 3) -> float:
    """Collect episodes of random actions, and delete the dataset; environment steps per CPU second."""
    name = "papi/decode/random-v0"
    env = minari.DataCollector(
        gym.make("papi_env/Decode-v0", totals=False, batch_requests=4), record_infos=True
    )
    start = time.process_time()
    for episode in range(episodes):
        env.reset(seed=episode)
        done = False
        while not done:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
    seconds = time.process_time() - start
    if name in minari.list_local_datasets():
        minari.delete_dataset(name)
    dataset = env.create_dataset(name, algorithm_name="random", eval_env="papi_env/Decode-v0")
    assert dataset.total_episodes == episodes
    steps = dataset.total_steps
    minari.delete_dataset(name)
    return steps / seconds


if __name__ == "__main__":
    print(f"Minari: {main():,.0f} steps per CPU second")
