"""Stable-Baselines3 and sb3-contrib: a batch environment as a `VecEnv`, with masks (extra `learn`).

What takes SB3's `VecEnv` takes this too, such as SBX (`with_sbx.py`).
"""

from __future__ import annotations

import time

from sb3_contrib import MaskablePPO

from papi_env.sb3 import make_vec


def main(num_envs: int = 256, steps: int = 32) -> float:
    """Train briefly; environment steps per CPU second, learning included."""
    envs = make_vec("papi_env/Decode-v0", num_envs=num_envs, seed=0)
    model = MaskablePPO("MlpPolicy", envs, n_steps=steps, batch_size=4096, n_epochs=2, device="cpu", seed=0)
    start = time.process_time()
    model.learn(2 * num_envs * steps)
    return model.num_timesteps / (time.process_time() - start)


if __name__ == "__main__":
    print(f"Stable-Baselines3: {main():,.0f} steps per CPU second")
