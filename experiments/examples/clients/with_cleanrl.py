"""PPO in the manner of CleanRL's `ppo.py`: one file and one batch environment (extra `learn`).

CleanRL's scripts are copied and changed rather than imported, so this is such a file, written anew. They hand
`--env-id` to gymnasium: say `papi_env:papi_env/Decode-v0`, which imports the package.
Episodes restart in the step after their end, gymnasium's default; that step's action is ignored, and not learned from.
"""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical


def main(num_envs: int = 64, steps: int = 32, updates: int = 6, seed: int = 0) -> float:
    """Train briefly; environment steps per CPU second, learning included."""
    torch.manual_seed(seed)
    envs = gym.make_vec("papi_env:papi_env/Decode-v0", num_envs=num_envs, batch_requests=16)
    inputs = gym.spaces.flatdim(envs.single_observation_space)
    actions_n = gym.spaces.flatdim(envs.single_action_space)
    actor = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, actions_n))
    critic = nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=2.5e-4, eps=1e-5)
    observation, done = torch.as_tensor(envs.reset(seed=seed)[0]), torch.zeros(num_envs)
    start = time.process_time()
    for _ in range(updates):
        rows = []
        for _ in range(steps):
            with torch.no_grad():
                chosen = Categorical(logits=actor(observation))
                action = chosen.sample()
                value, logprob = critic(observation).squeeze(-1), chosen.log_prob(action)
            found, reward, terminated, truncated, _ = envs.step(action.numpy())
            rows.append((observation, action, logprob, value, torch.as_tensor(reward).float(), done))
            observation, done = torch.as_tensor(found), torch.as_tensor(np.float32(terminated | truncated))
        observations, chosen_actions, logprobs, values, rewards, begun = map(
            torch.stack, zip(*rows, strict=True)
        )
        with torch.no_grad():
            advantages, later, after = torch.zeros_like(rewards), torch.zeros(num_envs), done
            following = critic(observation).squeeze(-1)
            for t in reversed(range(steps)):
                delta = rewards[t] + 0.99 * following * (1 - after) - values[t]
                later = delta + 0.99 * 0.95 * (1 - after) * later
                advantages[t], following, after = later, values[t], begun[t]
        kept = begun == 0  # a step after the end only resets
        advantage = advantages[kept]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        for _ in range(4):
            policy = Categorical(logits=actor(observations[kept]))
            ratio = (policy.log_prob(chosen_actions[kept]) - logprobs[kept]).exp()
            surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
            error = critic(observations[kept]).squeeze(-1) - (advantages + values)[kept]
            loss = -surrogate + 0.5 * error.square().mean() - 0.01 * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*actor.parameters(), *critic.parameters()], 0.5)
            optimizer.step()
    return num_envs * steps * updates / (time.process_time() - start)


if __name__ == "__main__":
    print(f"CleanRL's manner: {main():,.0f} steps per CPU second")
