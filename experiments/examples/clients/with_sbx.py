"""SBX, Stable-Baselines3 in JAX: a batch environment as a `VecEnv` (`pip install sbx-rl`).

Its policies know no masks: what a mask forbids runs on the default unit, and is counted in `invalid_actions`.
"""

from __future__ import annotations

import time

from sbx import PPO

from papi_env.sb3 import make_vec


def main(num_envs: int = 256, steps: int = 32, rollouts: int = 4) -> float:
    """Train briefly; environment steps per CPU second, learning included, once JAX has compiled."""
    envs = make_vec("papi_env/Decode-v0", num_envs=num_envs, seed=0)
    model = PPO("MlpPolicy", envs, n_steps=steps, batch_size=num_envs * steps // 2, n_epochs=2, seed=0)
    model.learn(num_envs * steps)
    start, done = time.process_time(), model.num_timesteps
    model.learn(rollouts * num_envs * steps, reset_num_timesteps=False)
    return (model.num_timesteps - done) / (time.process_time() - start)


if __name__ == "__main__":
    print(f"SBX: {main():,.0f} steps per CPU second")
